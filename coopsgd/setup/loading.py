"""What Hydra's loader makes of the same choices again, remembered: composing takes a tenth of a second, a copy 2 ms.

Of the words those that choose (`algo=easgd`) decide which yamls are read; the others (`tau=4`) are values that Hydra then
writes over. What the yamls come to is kept for as long as the process lives, of the last choices. Only of yamls of packages,
which stay as they are: whatever reads a user's folder, or writes into Hydra's own keys, is left to Hydra.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from hydra import version
from hydra._internal import defaults_list
from hydra._internal import hydra as main
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from coopsgd.setup.schema import GROUPS

PACKAGED = ("pkg://hydra.conf", "pkg://coopsgd.conf", "structured://")  # sources that stay as they are
VALUES = ("hydra.run.", "hydra.sweep.", "hydra.sweeper.", "hydra.launcher.", "hydra.mode")  # that no other key goes by
MOST = 512  # that are kept, 15 kB at most

_kept: OrderedDict[tuple[Any, ...], tuple[bytes, list[Any]]] = OrderedDict()  # config, and what its key holds by identity


class Loader(ConfigLoaderImpl):
    """Hydra's loader, which composes the same choices once."""

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        words = OverridesParser.create().parse_overrides(overrides=overrides)
        if not (config_name == "config" and self._stays() and all(map(_simple, words))):
            return super()._load_configuration_impl(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(words, run_mode, from_shell)
        values = [word for word in words if not word.is_sweep_override() and self._is_value(word)]
        apart = {id(word) for word in values}
        cfg = self._chosen([w for w in words if id(w) not in apart and not w.is_sweep_override()], run_mode)
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        app = [word for word in words if not word.is_hydra_override()]
        said = cfg.hydra.overrides
        for word in words:
            (said.hydra if word.is_hydra_override() else said.task).append(word.input_line)
        cfg.hydra.runtime.cwd = os.getcwd()
        how = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = get_overrides_dirname(app, how.exclude_keys, how.item_sep, how.kv_sep)
        return cfg

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """What a group has to choose from; Hydra's own copies all it has read before it looks, once a group."""
        if config_name or overrides:
            return super().get_group_options(group_name, results_filter, config_name, overrides)
        return self.repository.get_group_options(group_name, results_filter)

    def _stays(self) -> bool:
        return all(f"{source.scheme()}://{source.path}" in PACKAGED for source in self.repository.get_sources()[:-1])

    def _is_value(self, word: Override) -> bool:
        return isinstance(word.value(), dict) or not self.repository.group_exists(word.key_or_group)

    def _chosen(self, words: Sequence[Override], run_mode: RunMode) -> Any:
        """The config of words that choose, no other written over it; no word stands in it.

        A yaml that chooses no others fills the place of its group and no other one, so that each is read once, not each
        combination of them.
        """
        groups = {word.key_or_group: word for word in words if self._fills_its_group(word)}
        others = [word for word in words if word.key_or_group not in groups]
        if not all(word.key_or_group.startswith("hydra/") for word in others):
            groups, others = {}, list(words)
        lines = [str(word.input_line) for word in others]

        def base() -> Any:
            with _choices_when_asked():
                cfg = ConfigLoaderImpl._load_configuration_impl(self, "config", lines, run_mode, validate_sweep_overrides=False)
            cfg.hydra.overrides.task, cfg.hydra.overrides.hydra = [], []
            return cfg

        cfg = self._remembered((run_mode, *lines), base)
        for group, word in groups.items():
            choice = str(word.value())
            node = self._remembered((group, choice), functools.partial(self._group, group, choice))
            cfg._content[group] = node
            node._set_parent(cfg)
            cfg.hydra.runtime.choices[group] = choice
        return cfg

    def _fills_its_group(self, word: Override) -> bool:
        group, choice = word.key_or_group, word.value()
        plain = word.type == OverrideType.CHANGE and word.package is None and group in GROUPS and isinstance(choice, str)
        if not plain or not self.repository.config_exists(f"{group}/{choice}"):
            return False
        return self._remembered((group, choice, "alone"), lambda: self._is_alone(f"{group}/{choice}"))

    def _is_alone(self, path: str) -> bool:
        """Does a yaml choose no other, and say nothing of where it belongs?"""
        found = self.repository.load_config(path)
        return found is not None and not found.header["package"] and all(one.is_self() for one in found.defaults_list or ())

    def _group(self, group: str, choice: str) -> Any:
        """What the config has in the place of a group that so chooses, without what is around it."""
        both = [
            ResultDefault(config_path="schema", parent="config", package=""),
            ResultDefault(config_path=f"{group}/{choice}", parent="config", package=group),
        ]
        repository: Any = OfGroup(self.repository, group)
        node: Any = self._compose_config_from_defaults_list(both, repository)._get_node(group)
        node._set_parent(None)
        return node

    def _remembered(self, what: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """A copy of what `make` makes, of the sources as they are now."""
        stored = list(_nodes(ConfigStore.instance().repo))
        sources = tuple((s.provider, s.scheme(), s.path) for s in self.repository.get_sources())
        key = (version.getbase(), sources, tuple(map(id, stored)), *what)
        if key not in _kept:
            made = make()
            try:
                _kept[key] = pickle.dumps(made), stored
            except pickle.PicklingError:  # Hydra loads its plugins (hydra/launcher=joblib) as modules of their own
                return made
        _kept.move_to_end(key)
        while len(_kept) > MOST:
            _kept.popitem(last=False)
        return pickle.loads(_kept[key][0])


class OfGroup:
    """Hydra's repository of yamls, with a schema that has one group alone: copying and merging all keys takes 8 ms."""

    def __init__(self, repository: Any, group: str) -> None:
        self._repository, self._group = repository, group
        self.get_schema_source = repository.get_schema_source

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path != "schema":
            return cast(ConfigResult | None, self._repository.load_config(config_path))
        schema: Any = ConfigStore.instance().repo["schema.yaml"]
        node = OmegaConf.masked_copy(schema.node, self._group)
        return ConfigResult("schema", "structured://", node, {"package": ""}, is_schema_source=True)


@contextlib.contextmanager
def _choices_when_asked() -> Iterator[None]:
    """Inside, Hydra lists the choices so far where a yaml chooses by `${...}`, and not at every yaml: 25 ms of a command."""
    theirs = defaults_list._create_interpolation_map

    def when_asked(overrides: Any, chosen: Sequence[Any], self_added: bool) -> Any:
        return theirs(overrides, list(chosen), self_added) if any(one.is_interpolation() for one in chosen) else None

    defaults_list._create_interpolation_map = when_asked  # type: ignore[assignment]
    try:
        yield
    finally:
        defaults_list._create_interpolation_map = theirs


def _simple(word: Override) -> bool:
    """Does it write over nothing that Hydra's own keys go by?"""
    key = word.get_key_element().lstrip("+~")
    return not key.startswith("hydra.") or key.startswith(VALUES)


def _nodes(repo: dict[str, Any]) -> Iterator[Any]:
    for node in repo.values():
        if isinstance(node, dict):
            yield from _nodes(node)
        else:
            yield node


def quicken() -> None:
    """Let the Hydra that is under way remember."""
    engine: Any = GlobalHydra.instance().hydra
    engine.config_loader = Loader(engine.config_loader.config_search_path)


@contextlib.contextmanager
def quickened() -> Iterator[None]:
    """Let each Hydra that is made meanwhile remember, by `hydra.main` too."""
    before = main.ConfigLoaderImpl
    main.ConfigLoaderImpl = Loader  # type: ignore[misc]
    try:
        yield
    finally:
        main.ConfigLoaderImpl = before  # type: ignore[misc]
