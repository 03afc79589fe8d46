"""What can be chosen, with one line each: read from the comments at the head of every yaml in conf/.

The first comment line says what it is; a second one, `# paper: ...`, where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from coopsgd.errors import ConfigError
from coopsgd.host import reading
from coopsgd.setup.schema import GROUPS, Config


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
    yield ""
    yield "The run folder is outputs/DATE/TIME (set hydra.run.dir), or multirun/DATE/TIME/SWEPT-KEYS (hydra.sweep.dir)."


def show(as_json: bool, config_dir: str | None = None) -> None:
    """Print every choice of every group."""
    import json
    from dataclasses import asdict

    if as_json:
        print(json.dumps({group: [asdict(choice) for choice in choices(group, config_dir)] for group in ABOUT}, indent=2))
        return
    for group in ABOUT:
        found = choices(group, config_dir)
        width = max(len(choice.name) for choice in found)
        print(f"{group}: {ABOUT[group]}")
        for choice in found:
            print(f"  {choice.name:{width}}  {choice.about}")
            if choice.paper:
                print(f"  {'':{width}}    {choice.paper}")
        print()
