"""`coopsgd analyze --over RUN...`: what theory predicted over what runs measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from yaml import YAMLError

from coopsgd.commands.runs import expanded
from coopsgd.errors import ConfigError
from coopsgd.host import files
from coopsgd.predict import cost
from coopsgd.predict.constants import constants
from coopsgd.predict.setting import Setting
from coopsgd.registry import TRUST
from coopsgd.run import source, styles
from coopsgd.run.console import printer
from coopsgd.run.progress import Progress
from coopsgd.run.reader import Run
from coopsgd.run.schema import by_step
from coopsgd.setup.identity import identity

THEORY = {"consensus": "predicted", "gradient": "bound"}  # what is measured -> what it is held against


def facts(folders: Sequence[str], probe: str | None, figure: str | None, trust: bool = False) -> dict[str, Any]:
    """runs: one dict a folder, as `_compared` says; means: one for all runs that differ by their seed alone, as `_mean` says;
    figure: the picture's file, of the means and of runs by themselves, null when there was nothing to draw; notes. Of copies,
    runs of one identity and one seed, the longest counts.
    """
    runs, notes = expanded(folders, "--over", "coopsgd analyze --over outputs/DATE/TIME")
    alike: dict[str, list[dict[str, Any]]] = {}
    progress = Progress("reading runs", len(runs))
    for number, folder in enumerate(runs):
        progress.at(number, folder)
        try:
            run = Run(folder, trust)
            if not (lines := run.metrics()):
                raise ValueError("metrics.jsonl has no log points")
            with source.noted(notes):
                known_by = identity(run.config, seed=False) + json.dumps(source.then(run.folder), sort_keys=True)
                alike.setdefault(known_by, []).append(_compared(run, lines, probe))
        except (OSError, ValueError, YAMLError, TypeError, KeyError, AttributeError) as error:  # of whatever a file may hold
            if isinstance(error, ConfigError) and str(error).startswith("--"):  # an option's fault, not the run's
                raise
            why = " ".join((str(error) or type(error).__name__).split())
            if TRUST in why:
                raise ConfigError(f"{folder}: {why}") from error
            raise ConfigError(f"--over: {folder} holds no run to read ({why}); name a run folder") from error
    progress.close()
    counted = {key: _by_seed(some) for key, some in alike.items()}
    means = {key: _mean(some, alike[key]) for key, some in counted.items() if len(some) > 1}
    found = {"runs": [run for some in alike.values() for run in some], "means": list(means.values())}
    notes += [
        f"{run['folder']}: left out, a copy of {run['copy_of']} (the same config and seed {run['seed']})"
        for run in found["runs"]
        if run["copy_of"]
    ]
    curves = [means.get(key, some[0]) for key, some in counted.items()]
    first = folders[0] if Path(folders[0]).is_dir() else runs[0]
    picture = _draw(curves, Path(figure) if figure else Path(first) / "theory.png", named=figure is not None)
    return found | {"figure": picture, "notes": notes}


def _by_seed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The longest run of each seed; the others say of which they are copies."""
    longest: dict[int, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: -run["last"]):  # stable: of two as long the first
        first = longest.setdefault(run["seed"], run)
        run["copy_of"] = None if first is run else first["folder"]
    return [run for run in runs if longest[run["seed"]] is run]


def _compared(run: Run, lines: list[dict[str, Any]], probe: str | None) -> dict[str, Any]:
    """One run, measured against predicted.

    consensus: {step, measured, predicted, ratio}: predicted is the exact expectation under noise alone at the same moments,
    ratio measured / predicted over the later half of them. gradient: {step, measured, bound, ratio}: ||grad F(u)||^2, the mean
    over the steps so far, beside its bound, ratio at the last. Either is null when it was not measured or cannot be predicted;
    why: [reasons]. last: the step of its last line; last_consensus: what was measured last, predicted or not; copy_of: the
    folder that counts in its place, null when it counts itself.
    """
    parts = run.parts
    known, source, more = constants(parts, probe)
    setting = Setting(parts, known)
    why = [*more] if known else [source]
    why += [f"{a.name}: {a.why}" for a in setting.assumptions if not a.holds]
    consensus = gradient = None
    if known:
        measured, predicted = by_step(lines, "consensus"), by_step(lines, "theory/consensus")
        if probe or not predicted:
            predicted = _predicted(setting, known.sigma2, sorted(measured), why)
        consensus = _curve("predicted", measured, predicted)
        gradient = _gradient(setting, lines, why)
    return {
        "folder": str(run.folder),
        "algo": run.config.algo["name"],
        "tau": None if cost.times_itself(parts) else run.config.tau,
        "workers": run.config.workers,
        "seed": run.config.seed,
        "last": lines[-1]["step"],
        "last_consensus": next(reversed(by_step(lines, "consensus").values()), None),
        "constants": source if known else None,
        "consensus": consensus,
        "gradient": gradient,
        "why": why,
    }


def _curve(theory: str, measured: dict[int, float], predicted: dict[int, float]) -> dict[str, Any] | None:
    """Both at the steps they share, and their ratio; None when they share none."""
    steps = [step for step in sorted(measured) if step in predicted]
    late = steps[len(steps) // 2 :] if theory == "predicted" else steps[-1:]  # a bound is on all steps so far
    whole = sum(predicted[step] for step in late)
    if not steps:
        return None
    return {
        "step": steps,
        "measured": [measured[step] for step in steps],
        theory: [predicted[step] for step in steps],
        "ratio": sum(measured[step] for step in late) / whole if whole > 0 else None,
    }


def _mean(runs: list[dict[str, Any]], everyone: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs that differ by their seed, as one: theory is about expectations. folders, seeds; else as `_compared` says.

    everyone: those and their copies, whose folders are listed as copies.
    """
    found = {name: runs[0][name] for name in ("algo", "tau", "workers", "constants")}
    found |= {"folders": [run["folder"] for run in runs], "seeds": [run["seed"] for run in runs]}
    ends = [run["last_consensus"] for run in runs]
    found["last_consensus"] = None if None in ends else sum(ends) / len(ends)
    found["copies"] = [run["folder"] for run in everyone if run["copy_of"]]
    for what, theory in THEORY.items():
        curves = [run[what] for run in runs]
        found[what] = None
        if None not in curves:
            common = set.intersection(*(set(curve["step"]) for curve in curves))
            both = []
            for name in ("measured", theory):
                tables = [dict(zip(curve["step"], curve[name], strict=True)) for curve in curves]
                both.append({step: sum(table[step] for table in tables) / len(tables) for step in common})
            found[what] = _curve(theory, *both)
    return found


def _predicted(setting: Setting, sigma2: float, steps: list[int], why: list[str]) -> dict[int, float]:
    """The exact expectation as logged at these steps, by going through the run's rounds again; empty, and why, if unknown."""
    forecast = setting.forecast()
    if forecast is None:
        return {}
    if not setting.steady or not setting.parts.period.foreseen:
        why.append("the run did not log theory/consensus, and its rate or its period is not known without running")
        return {}
    from coopsgd.predict.rehearsal import following, stage

    found = {0: 0.0}
    loop = stage(setting.parts, observer=following(forecast))
    for k in range(max(steps, default=0)):
        loop.advance()
        found[k + 1] = sigma2 * forecast.consensus
    return found


def _gradient(setting: Setting, lines: list[dict[str, Any]], why: list[str]) -> dict[str, Any] | None:
    if setting.holds() and setting.condition is None:
        why.append(f"lr {setting.lr:g} is above what every condition allows: no bound")
    measured = by_step(lines, "eval/grad2_mean")
    if not measured:
        why.append("the run did not measure ||grad F(u)||^2, which only a task with known constants does: no bound")
    return _curve("bound", measured, {k: bound.total for k in measured if (bound := setting.bound(k)) is not None})


def _draw(runs: list[dict[str, Any]], path: Path, named: bool) -> str | None:
    """Two panels: consensus, and the mean squared gradient below its bound. None when there is nothing to draw.

    A file that the user has not named is put where a link may lie that somebody else made: it is replaced, not followed.
    """
    from matplotlib.figure import Figure

    titles = ("distance of the workers to their mean, squared", "mean of ||grad F(u)||² over the steps so far")
    panels = [(*both, title) for both, title in zip(THEORY.items(), titles, strict=True) if any(run[both[0]] for run in runs)]
    if not panels:
        return None
    figure = Figure(figsize=(6 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (what, theory, title) in zip(axes[0], panels, strict=True):
        shown = [run for run in runs if run[what]]
        for run, style in zip(shown, styles.each([run["algo"] for run in shown]), strict=True):
            curve, colour = run[what], style.colour
            seeds = f"seed {run['seed']}" if "seed" in run else f"mean of {len(run['seeds'])} seeds"
            label = f"{run['algo']} tau {run['tau']} {seeds}"
            axis.plot(curve["step"], curve["measured"], ".", markersize=4, color=colour, label=label)
            dashes = styles.DASHES[style.dash]
            axis.plot(curve["step"], curve[theory], ls=dashes, lw=1.2, color=colour, label=f"{theory}, {label}")
        if any(x > 0 for run in runs if run[what] for x in (*run[what]["measured"], *run[what][theory])):
            axis.set_yscale("log")
        axis.set(title=title, xlabel="step")
        axis.legend(fontsize="small", frameon=False)
    try:
        if named:
            figure.savefig(path, dpi=120, format="png")
        else:
            files.atomically(path, lambda file: figure.savefig(file, dpi=120, format="png"))
    except OSError as error:
        raise ConfigError(f"--figure: {path} cannot be written ({error.strerror or error}); name another file") from None
    return str(path)


def _left_out(copies: list[str]) -> str:
    return f" ({len(copies)} {'copy' if len(copies) == 1 else 'copies'} left out)" if copies else ""


def show(found: dict[str, Any]) -> None:
    """Print it for a person."""
    console = printer()
    table = Table("run", "consensus", "noise alone", "ratio", "mean grad²", "bound", "ratio", box=None, padding=(0, 2, 0, 0))
    for run in [*found["runs"], *found["means"]]:
        cells = []
        for what, theory in THEORY.items():
            curve = run[what]
            measured = run["last_consensus"] if what == "consensus" else None
            last = [measured, None, None] if curve is None else [curve["measured"][-1], curve[theory][-1], curve["ratio"]]
            cells += ["-" if x is None else f"{x:.4g}" for x in last]
        which = run["folder"] if "folder" in run else f"mean of the {len(run['seeds'])} seeds{_left_out(run['copies'])}"
        table.add_row(f"{which}  {run['algo']} tau {run['tau']}", *cells)
    wide = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.width = max(console.width, wide)  # a folder in one piece, in a pipe too
    console.print(table)
    console.print("values at the last step; the ratio of consensus over the later half of the run")
    console.print(
        "noise alone: what gradient noise does; differences between workers come on top of it, curvature takes from it"
    )
    reasons, runs = dict[str, list[str]](), found["runs"]
    for run in runs:
        for reason in run["why"]:
            reasons.setdefault(reason, []).append(run["folder"])
    for reason, of in reasons.items():
        console.print(f"{of[0] if len(of) == 1 else f'{len(of)} of {len(runs)} runs'}: {reason}")
    for note in found["notes"]:
        console.print(note)
    if found["figure"]:
        console.print(found["figure"], style="bold")
