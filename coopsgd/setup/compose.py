"""From words to what Hydra composes of them: the yamls of conf/, a user's own, and the keys of the schema. No torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import OmegaConf

from coopsgd.errors import ConfigError
from coopsgd.setup import catalogue, loading, schema, sources
from coopsgd.setup.messages import BUGS, uncomposed
from coopsgd.setup.schema import Config
from coopsgd.setup.words import quoted

SCHEMA = "schema"


def composed(words: Sequence[str], config_dir: str | None = None) -> Any:
    """The config of these words, with Hydra's own section. ConfigError when they lead nowhere."""
    more = [search_in(config_dir)] if config_dir else []
    try:
        with hydra.initialize_config_module("coopsgd.conf", version_base="1.3"):
            loading.quicken()
            return hydra.compose("config", [*words, *more], return_hydra_config=True)
    except BUGS as error:
        raise ConfigError(uncomposed(words, error)) from None


def refuse_hidden(cfg: Any, choices: Mapping[str, str]) -> None:
    """ConfigError when a yaml is chosen that a user's folder has and we too: Hydra would take ours without a word."""
    found: Any = (OmegaConf.select(cfg, "hydra.searchpath", throw_on_missing=False) if OmegaConf.is_config(cfg) else None) or ()
    for folder in (Path(str(place).removeprefix("file://")) for place in found if str(place).startswith("file://")):
        for group, choice in choices.items():
            name = group.partition("@")[0]
            if (folder / name / f"{choice}.yaml").is_file() and choice in {one.name for one in catalogue.choices(name)}:
                raise ConfigError(
                    f"{name}={choice}: {folder / name / choice}.yaml has the name of a built-in one, which would be taken in "
                    f"its place; call yours otherwise, as in my_{choice}.yaml and {name}=my_{choice}"
                )


def task_words(hydra_config: Any) -> list[str]:
    """The overrides as they were given: an interpolation in one is not looked up."""
    found: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    return [str(word) for word in found]


def search_in(folder: str) -> str:
    """The override by which Hydra finds yamls in a user's folder, too."""
    return f"hydra.searchpath=[{quoted(f'file://{Path(folder).resolve()}')}]"


def register_schema() -> None:
    """Tell Hydra the keys of a config and their help, and have it read a user's yamls through `sources`."""
    sources.install()
    ConfigStore.instance().repo[f"{SCHEMA}.yaml"] = _schema()
    OmegaConf.register_new_resolver("coopsgd.help", catalogue.help_text, replace=True)


@functools.cache
def _schema() -> ConfigNode:
    """As Hydra keeps it; it hands out copies."""
    node = OmegaConf.structured(Config)
    for name in schema.GROUPS:  # open: a group's keys are checked against the class it chooses
        node[name] = OmegaConf.create({}, flags={"struct": False})
    return ConfigNode(name=f"{SCHEMA}.yaml", node=node, group=None, package=None, provider=None)


@contextmanager
def borrowed() -> Iterator[None]:
    """Inside, Hydra is ours, with our schema; afterwards it is again that of the program that we are called in."""
    store = ConfigStore.instance()
    theirs, running, version = store.repo, GlobalHydra.instance().hydra, VersionBase.instance().version_base
    store.repo = {name: node for name, node in theirs.items() if name == "hydra" or name.startswith("_")}  # Hydra's own
    GlobalHydra.instance().clear()
    try:
        with sources.borrowed():
            register_schema()
            yield
    finally:
        GlobalHydra.instance().hydra = running
        VersionBase.instance().version_base = version
        store.repo = theirs
