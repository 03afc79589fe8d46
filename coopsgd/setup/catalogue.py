"""What can be chosen, with one line each: read from the comments at the head of every yaml in conf/.

The first comment line says what it is; a second one, `# paper: ...`, where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from coopsgd import registry
from coopsgd.errors import ConfigError
from coopsgd.host import reading
from coopsgd.setup import again
from coopsgd.setup.schema import GROUPS, KEYS, Config


@dataclass(frozen=True)
class Choice:
    """One yaml of a group."""

    group: str
    name: str
    about: str
    paper: str


def choices(group: str, config_dir: str | None = None) -> list[Choice]:
    """Every yaml of a group, by name; those of a user's folder come before ours of the same name."""
    return [Choice(group, name, *_head(text)) for name, text in sorted(_texts(group, config_dir).items())]


def settings(group: str, name: str, config_dir: str | None = None) -> dict[str, Any]:
    """What the yaml of a choice says, Hydra's own lines left out."""
    said = OmegaConf.to_container(OmegaConf.create(_texts(group, config_dir)[name]))
    assert isinstance(said, dict)
    return {str(key): value for key, value in said.items() if key != "defaults"}


class Option(NamedTuple):
    """A key below a group."""

    key: str
    value: Any  # what it is when it is not given
    help: str


KINDS = {"topology": ("graph",), "algo": ("strategy", "mixing")}  # what a group's yaml names, where that is called otherwise


def options(group: str, name: str, config_dir: str | None = None) -> list[Option]:
    """The keys of a choice: the yaml's own, and fields of the built-in classes it names. A user's class is not imported."""
    from coopsgd.setup.build import default_of, own

    said = settings(group, name, config_dir)
    found = {key: Option(key, value, "") for key, value in said.items() if key not in ("name", "strategy", "mixing")}
    for kind in KINDS.get(group, (group,)):
        named = said.get(kind if group == "algo" else "name")
        if not isinstance(named, str) or ":" in named:
            continue
        for f in own(registry.lookup(kind, named)):
            found[f.name] = Option(f.name, said.get(f.name, default_of(f)), f.metadata.get("help", ""))
    return list(found.values())


def default(group: str) -> str | None:
    """The choice of a group when none is named."""
    said: Any = OmegaConf.create((files("coopsgd.conf") / "config.yaml").read_text()).defaults
    return next((entry[group] for entry in said if not isinstance(entry, str) and group in entry), None)


def _texts(group: str, config_dir: str | None) -> dict[str, str]:
    ours = [entry for entry in (files("coopsgd.conf") / group).iterdir() if entry.name.endswith(".yaml")]
    found = {entry.name.removesuffix(".yaml"): entry.read_text() for entry in ours}
    try:
        theirs = sorted((Path(config_dir) / group).glob("*.yaml")) if config_dir else []
        return found | {path.stem: reading.text("--config-dir", path, "give a yaml file") for path in theirs if path.is_file()}
    except OSError as error:
        raise ConfigError(f"--config-dir {config_dir}: cannot be read ({error.strerror}); name another") from None


def _head(text: str) -> tuple[str, str]:
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    comments = [line for line in comments if not line.startswith("@")]  # Hydra's own
    about = next((line for line in comments if not line.startswith("paper:")), "")
    paper = next((line.removeprefix("paper:").strip() for line in comments if line.startswith("paper:")), "")
    return about, paper


EXPERIMENTS = "experiment"
ABOUT = {f.name: f.metadata["help"] for f in fields(Config) if f.name in GROUPS}
ABOUT[EXPERIMENTS] = "ready-made sweeps: coopsgd train -m experiment=NAME"


def help_text() -> str:
    """The body of `coopsgd train --help`: groups with their choices, keys with a line on each."""
    return "\n".join(_help_lines())


def _help_lines() -> Iterator[str]:
    keys = {f.name: f for f in fields(Config)}
    yield "coopsgd train: run cooperative SGD with workers in processes of this machine."
    yield ""
    yield "== Groups (choose one: algo=easgd; set a key of it: algo.alpha=0.1) =="
    for group in ABOUT:
        yield f"{group}: {ABOUT[group]}"
        width = max(len(choice.name) for choice in choices(group))
        for choice in choices(group):
            yield f"    {choice.name:{width}}  {choice.about}"
    yield ""
    yield "== Keys (set one: workers=8; sweep: -m tau=1,4,16) =="
    width = max(map(len, keys))
    for name, f in keys.items():
        if name not in GROUPS:
            yield f"{name:{width}}  {f.metadata['help']} [{f.default if f.default is not None else 'not set'}]"
    for name, text in again.HELP.items():
        yield f"{name:{width}}  {text}"
    yield ""
    yield "Keys below a group, with a line on each: coopsgd list GROUP, as in coopsgd list algo."
    yield "The run folder is outputs/DATE/TIME (set hydra.run.dir), or multirun/DATE/TIME/SWEPT-KEYS (hydra.sweep.dir)."


def show(as_json: bool, config_dir: str | None = None, wanted: str | None = None) -> None:
    """Print every choice of every group; of one group with the keys of each."""
    import json
    from dataclasses import asdict

    groups = [group for group in ABOUT if wanted in (None, group)]
    if not groups:
        raise ConfigError(f"{wanted}: is no group{registry.did_you_mean(wanted or '', ABOUT)}; known: {', '.join(ABOUT)}")

    def keys(choice: Choice) -> list[Option]:
        return [] if not wanted or wanted == EXPERIMENTS else options(wanted, choice.name, config_dir)

    found = {group: [(choice, keys(choice)) for choice in choices(group, config_dir)] for group in groups}
    if as_json:
        listed = {
            group: [asdict(c) | ({"keys": [one._asdict() for one in own]} if wanted else {}) for c, own in some]
            for group, some in found.items()
        }
        print(json.dumps(listed, indent=2, default=str))
        return
    for group, some in found.items():
        width = max(len(choice.name) for choice, _ in some)
        print(f"{group}: {ABOUT[group]}")
        for choice, own in some:
            print(f"  {choice.name:{width}}  {choice.about}")
            if choice.paper:
                print(f"  {'':{width}}    {choice.paper}")
            for option in own:
                value = json.dumps(option.value, default=str).replace('"', "")
                key = option.key if option.key in KEYS else f"{group}.{option.key}"  # of the run: what auto means
                print(f"  {'':{width}}  {key}={value}{'  ' + option.help if option.help else ''}")
        if not wanted and group != EXPERIMENTS:
            print(f"  keys of each: coopsgd list {group}")
        print()
