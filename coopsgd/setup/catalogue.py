"""What can be chosen, with one line each: read from the comments at the head of every yaml in conf/.

The first comment line says what it is; a second one, `# paper: ...`, where it comes from.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from coopsgd import registry
from coopsgd.errors import ConfigError
from coopsgd.host import reading
from coopsgd.setup import again
from coopsgd.setup.schema import ABSENT, GROUPS, Config


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


def choices_of(group: str, name: str, config_dir: str | None = None) -> dict[str, str]:
    """Of the groups for which the yaml of a choice takes another than the default, which: {"algo": "fedavg"}."""
    said = OmegaConf.to_container(OmegaConf.create(_texts(group, config_dir)[name]))
    assert isinstance(said, dict)
    defaults = [one for one in said.get("defaults", ()) if isinstance(one, dict)]
    return {str(key).removeprefix("override ").strip("/ "): str(value) for one in defaults for key, value in one.items()}


def stands_for(name: str) -> list[str]:
    """The words that an algorithm of ours is short for: algo=pasgd, tau=50, outer=nesterov. Empty of one that is its own."""
    if name not in _texts("algo", None):
        return []
    said, brought = settings("algo", name), choices_of("algo", name)
    of_run = {key for key in said if key in KEYS_OF_RUN}
    if not brought and not of_run - {"tau"}:
        return []
    alike = []
    for choice in choices("algo"):
        other = settings("algo", choice.name)
        same = all(other.get(key) == said.get(key) for key in ("strategy", "mixing"))
        own = [key for key in other if key not in ("strategy", "mixing", *KEYS_OF_RUN)]
        if choice.name != name and same and not own and not choices_of("algo", choice.name) and other.keys() <= said.keys():
            alike.append((sum(other[key] != said[key] for key in other), choice.name, other))
    if not alike:
        return []
    _, base, other = min(alike, key=lambda one: one[:2])
    keys = {key: value for key, value in said.items() if other.get(key) != value}
    written = {key if key in KEYS_OF_RUN else f"algo.{key}": _word(value) for key, value in keys.items()}
    first = {"algo": base} | ({"tau": written.pop("tau")} if "tau" in written else {})
    words = first | {key.partition("@")[0]: choice for key, choice in brought.items()} | written
    return [f"{key}={value}" for key, value in words.items()]


KEYS_OF_RUN = {f.name for f in fields(Config) if f.name not in GROUPS}


def _word(value: Any) -> str:
    """As it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


class Option(NamedTuple):
    """A key of the config, as its dataclass has it."""

    key: str  # without its group
    type: str  # as in "int or auto"
    unit: str  # of a number; empty for one without, and for what is no number
    value: Any  # what it is when it is not given; MISSING when it must be
    help: str
    group: str = ""  # whose it is; empty for a key of the run itself
    words: tuple[str, ...] = ()  # which it may be, or among others

    @property
    def full_key(self) -> str:
        """As it is written on the command line."""
        return f"{self.group}.{self.key}" if self.group else self.key


KINDS = {"topology": ("graph",), "algo": ("strategy", "mixing")}  # what a group's yaml names, where that is called otherwise
RUN = "run"  # what `coopsgd list` calls the keys that are in no group


def options(group: str, name: str, config_dir: str | None = None, importing: bool = False) -> list[Option]:
    """The keys of a choice: the yaml's own, and fields of the classes it names.

    importing: classes of a user's own are imported, too; name may then be module:Class. Else nothing of theirs runs.
    ConfigError when they cannot be.
    """
    from coopsgd.setup.build import default_of, own

    said = settings(group, name, config_dir) if name in _texts(group, config_dir) else {}
    of_run = {option.key: option for option in run_options()}
    found = {
        key: of_run[key]._replace(value=value) if key in of_run else Option(key, type(value).__name__, "", value, "", group)
        for key, value in said.items()
        if key not in ("name", "strategy", "mixing")
    }
    for cls in _classes(group, name, said, importing):
        for f in own(cls):
            found[f.name] = _option(f, said.get(f.name, default_of(f)))._replace(group=group)
    return list(found.values())


def _classes(group: str, name: str, said: dict[str, Any], importing: bool) -> Iterator[Any]:
    """What the yaml of a choice names; where there is none, `name` itself: module:Class, or what a package registers."""
    from coopsgd.mixing.base import Mixing
    from coopsgd.setup.build import class_of

    kinds = KINDS.get(group, (group,))
    if not said and group == "algo":
        found = registry.imported(group, name) if ":" in name else None
        mixing = isinstance(found, type) and issubclass(found, Mixing)
        mixing = mixing or (
            found is None and name not in {point.name for point in registry.entry_points(group="coopsgd.strategy")}
        )
        kinds = ("mixing",) if mixing else ("strategy",)
    for kind in kinds:
        named = said.get(kind if group == "algo" else "name") if said else name
        if isinstance(named, str) and named != ABSENT and (importing or ":" not in named):
            yield class_of(kind, group, named)


def _option(f: Field[Any], value: Any) -> Option:
    said = f.metadata
    written = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))
    kind = said.get("type") or ("any" if written == "Any" else written.replace(" | None", " or null"))
    words = ("true", "false") if kind == "bool" else tuple(said.get("words") or ())
    return Option(f.name, kind, said.get("unit") or "", value, said.get("help", ""), words=words)


def run_options() -> list[Option]:
    """The keys at the top of the config, and the words of train that are about its folder."""
    found = [_option(f, f.default) for f in fields(Config) if f.name not in GROUPS]
    return found + [
        Option(name, "str", "", again.VALUES[name][0], text, words=again.VALUES[name]) for name, text in again.HELP.items()
    ]


def registered(group: str) -> list[Choice]:
    """What installed packages bring by an entry point; a yaml of a user's own names it, as a class of theirs."""
    found = []
    for kind in KINDS.get(group, (group,)):
        for point in registry.entry_points(group=f"coopsgd.{kind}"):
            package = point.dist.name if point.dist is not None else point.value
            key = kind if group == "algo" else "name"
            found.append(Choice(group, point.name, f"of {package}; for a yaml of your own: {key}: {point.name}", ""))
    return found


def default(group: str) -> str | None:
    """The choice of a group when none is named."""
    return _defaults().get(group)


@functools.cache
def _defaults() -> dict[str, str | None]:
    said: Any = OmegaConf.create((files("coopsgd.conf") / "config.yaml").read_text()).defaults
    return {str(key): entry[key] for entry in reversed(said) if not isinstance(entry, str) for key in entry}


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


TRAIN = """coopsgd train [FLAGS] WORDS: run cooperative SGD with workers in processes of this machine.

    coopsgd train algo=easgd tau=10                     one run
    coopsgd train -m algo=pasgd,easgd tau=1,4,16        a sweep: a run of each combination
    coopsgd train -q algo=dpsgd workers=8 steps=2000    -q, --quiet: the run's folder is printed alone, and what goes wrong

On the way it prints training loss, test loss and accuracy of the answer, rounds, what was sent and the consensus distance (how
far the workers are apart), at the end a table and the run folder; of a sweep a line a job. Exit code 0: it ran, 1: it failed,
2: a word was refused and nothing was started."""


def help_text() -> str:
    """The body of `coopsgd train --help`: groups with their choices, keys with a line on each."""
    return "\n".join(_help_lines())


def _help_lines() -> Iterator[str]:
    yield from TRAIN.splitlines()
    yield ""
    yield "== Groups (choose one: algo=easgd; set a key of it: algo.alpha=0.1) =="
    for group in ABOUT:
        yield f"{group}: {ABOUT[group]}"
        width = max(len(choice.name) for choice in choices(group))
        for choice in choices(group):
            yield f"    {choice.name:{width}}  {choice.about}"
    yield ""
    yield "== Keys (set one: workers=8; sweep: -m tau=1,4,16) =="
    run = run_options()
    width = max(len(option.key) for option in run)
    for option in run:
        yield f"{option.key:{width}}  {option.help} [{'not set' if option.value is None else option.value}]"
    yield ""
    yield "== Keys below a group: coopsgd list GROUP=NAME, with type, unit and default, as in coopsgd list optim=sgd =="
    yield from table(options("optim", "sgd"))
    yield ""
    yield "coopsgd list GROUP names the choices, coopsgd list run the keys above, coopsgd list KEY one of them."
    yield "The run folder is outputs/DATE/TIME-ALGO (set hydra.run.dir),"
    yield "or multirun/DATE/TIME/algo=ALGO,SWEPT-KEYS (hydra.sweep.dir)."


def table(found: Iterable[Option]) -> Iterator[str]:
    """Lines with key, type, unit, default and what it is."""
    rows = [("key", "type", "unit", "default", "")]
    for option in found:
        value = "(needed)" if option.value is MISSING else json.dumps(option.value, default=str).replace('"', "")
        rows.append((option.full_key, option.type, option.unit or "-", value or "-", option.help))
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    for row in rows:
        yield ("  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)) + f"  {row[4]}").rstrip()
