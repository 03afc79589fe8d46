"""What the figures of the experiments share: reading a sweep, means and spread over seeds, a picture and a table."""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import hydra
import yaml
from omegaconf import OmegaConf

import coopsgd
from coopsgd.commands import compose
from coopsgd.setup import catalogue, schema

PLACEMENT = (
    "processes",
    "threads",
    "device",
    "save",
    "name",
    "timeout",
    "launch",
    "engine",
)  # change no number beyond rounding


class Sweep(NamedTuple):
    """The runs of one experiment, whole, and where its picture goes."""

    experiment: str
    runs: list[coopsgd.Run]
    picture: Path


def refuse(message: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        refuse(f"{message}; {self.format_usage().strip()}")


def sweep(*experiments: str) -> Sweep:
    """What the command line names: a folder that holds exactly one of these experiments, and `-o FILE`.

    A figure's axes, seeds and title are those of conf/experiment/NAME.yaml, so runs of anything else would be drawn as what
    they are not: they are refused, in one line, with exit code 2.
    """
    folders = ", ".join(f"`coopsgd train -m experiment={name}`" for name in experiments)
    parser = _Parser(usage="%(prog)s FOLDER [-o FILE]", description=f"FOLDER is what {folders} left in multirun/")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the picture; FOLDER.EXPERIMENT.png unless it is named"
    )
    asked = parser.parse_args()
    _check_picture(asked.output or Path("figure.png"))
    folder = asked.folder.resolve()
    if not folder.is_dir():
        refuse(f"{asked.folder} is no folder; name what {folders} left in multirun/")
    runs = [coopsgd.Run(path.parent) for path in sorted(folder.glob("*/summary.json"))]
    if not runs:
        refuse(f"{asked.folder} holds no finished runs; name what {folders} left in multirun/")
    for run in runs:
        try:
            run.config, run.summary  # noqa: B018  read now, kept
        except (OSError, ValueError, yaml.YAMLError) as error:
            refuse(f"{run.folder} is damaged ({' '.join(str(error).split())}); leave it out or repeat it")
    why = {name: _differs(runs, *_declared(name)) for name in experiments}
    experiment = next((name for name, reason in why.items() if reason is None), None)
    if experiment is None:
        reasons = "; nor of ".join(f"experiment={name}: {reason}" for name, reason in why.items())
        refuse(f"{asked.folder} holds no sweep of {reasons}; remake it with {folders}")
    return Sweep(experiment, runs, asked.output or folder.parent / f"{folder.name}.{experiment}.png")


def _check_picture(output: Path) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if output.suffix.removeprefix(".") not in known:
        refuse(f"-o {output}: no picture is called that; end it in .png, .svg or .pdf")
    if not output.parent.is_dir() or output.is_dir():
        refuse(f"-o {output}: {'is a folder' if output.is_dir() else f'{output.parent} is no folder'}; name a file")


def _declared(experiment: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What every run of an experiment has in common, key -> value, and what it sweeps over, key -> values."""
    compose.register_schema()
    with hydra.initialize_config_module("coopsgd.conf", version_base="1.3"):
        composed = hydra.compose("config", [f"experiment={experiment}"], return_hydra_config=True)
    swept = {
        str(key): [yaml.safe_load(word) for word in str(values).strip().split(",")]
        for key, values in composed.hydra.sweeper.params.items()
    }
    node: Any = OmegaConf.to_container(composed, resolve=False)
    common = dict(_leaves({f.name: node[f.name] for f in fields(schema.Config) if f.name not in PLACEMENT}))
    chosen = {group: choice for group, choice in composed.hydra.runtime.choices.items() if group in schema.GROUPS}
    settings = [_settings(group, choice) for group, choice in chosen.items() if choice is not None]
    common = dict(itertools.chain(*settings)) | common | chosen
    return {key: value for key, value in common.items() if not any(_within(key, other) for other in swept)}, swept


def _differs(runs: list[coopsgd.Run], common: dict[str, Any], swept: dict[str, list[Any]]) -> str | None:
    """Why these are not the runs of a sweep over all values of `swept` with `common` for the rest; None when they are."""
    seen: dict[tuple[Any, ...], coopsgd.Run] = {}
    for run in runs:
        where, found = run.folder.name, tuple(_value(run, key) for key in swept)
        for (key, values), value in zip(swept.items(), found, strict=True):
            if value not in values:
                return f"{where} has {key}={value}, which sweeps {', '.join(map(str, values))}"
        choices = {key: _value(run, key) for key in schema.GROUPS if key in swept}
        given = list(itertools.chain(*(_settings(group, name) for group, name in choices.items())))
        for key, wanted in (*common.items(), *given):
            value = _value(run, key)
            if key == "tau" and wanted == "auto":
                wanted = dict(_settings("algo", run.config.algo["name"])).get("algo.tau", value)
            unused = value is None and _value(run, key.split(".")[0]) is None  # a group that this run has no use for
            if wanted != "auto" and value != wanted and not unused and key != "algo.tau":
                return f"{where} has {key}={value}, not {wanted}"
        if found in seen:
            return f"{seen[found].folder.name} and {where} are the same run"
        seen[found] = run
    missing = [values for values in itertools.product(*swept.values()) if values not in seen]
    if missing:
        named = ", ".join(f"{key}={value}" for key, value in zip(swept, missing[0], strict=True))
        return f"{len(missing)} of its {len(missing) + len(seen)} runs are not there, the first {named}"
    return None


def _settings(group: str, name: str) -> list[tuple[str, Any]]:
    """GROUP.KEY of a choice, and what it is unless it is given."""
    keys = catalogue.settings(group, name) | {option.key: option.value for option in catalogue.options(group, name)}
    return list(_leaves(keys, f"{group}."))


def _within(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")


def _leaves(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def _value(run: coopsgd.Run, key: str) -> Any:
    """The value of a dotted key in a run's config; a group's is the name of its choice; None when the run has no use for it."""
    node: Any = vars(run.config)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node.get("name") if isinstance(node, dict) else node


def by(runs: Iterable[coopsgd.Run], key: Callable[[coopsgd.Run], Any]) -> dict[Any, list[coopsgd.Run]]:
    """Runs with the same key: those that differ by their seed."""
    groups: dict[Any, list[coopsgd.Run]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return dict(sorted(groups.items()))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; a run that diverged makes both infinite."""
    return (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def mean_text(values: Sequence[float | None], digits: int = 4) -> str:
    """'0.3123 ± 0.0012', or how many diverged."""
    lost = sum(value is None for value in values)
    if lost:
        return f"{lost} of {len(values)} diverged"
    mean, deviation = spread([value for value in values if value is not None])
    return f"{mean:.{digits}g} ± {deviation:.1g}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def tail(run: coopsgd.Run, key: str, share: float = 0.5) -> float:
    """Mean of a number of the log over the last `share` of the run: what is left when the start is forgotten."""
    lines = run.metrics()
    values = [line[key] for line in lines if line["step"] > (1 - share) * lines[-1]["step"] and line.get(key) is not None]
    return statistics.fmean(values)


def picture(output: Path) -> tuple[Any, Callable[[], None]]:
    """Axes to draw on, and a function that saves them as `output`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.grid(alpha=0.3)

    def save() -> None:
        try:
            figure.savefig(output, dpi=120)
        except OSError as error:
            refuse(f"{output} cannot be written ({error.strerror}); name another with -o")
        print(f"\nwrote {output}")

    return axes, save
