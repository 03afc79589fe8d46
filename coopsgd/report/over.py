"""`coopsgd analyze --over RUN...`: what theory predicted over what runs measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coopsgd.analysis import Setting
from coopsgd.config import make, make_strategy
from coopsgd.errors import ConfigError
from coopsgd.period import Rounds
from coopsgd.report.constants import constants
from coopsgd.run import Run

SKETCH = "matplotlib is not installed, so nothing is drawn: pip install 'coopsgd[figures]'"


def facts(folders: Sequence[str], probe: str | None, figure: str | None) -> dict[str, Any]:
    """runs: one dict a folder, as `_compared` says; figure: the picture's file, null when it could not be drawn; notes."""
    if not folders:
        raise ConfigError("--over: names no run; give run folders, as in coopsgd analyze --over outputs/DATE/TIME")
    runs = [_compared(folder, probe) for folder in folders]
    try:
        drawn = _draw(runs, Path(figure) if figure else Path(folders[0]) / "theory.png")
    except ImportError:
        return {"runs": runs, "figure": None, "notes": [SKETCH]}
    return {"runs": runs, "figure": drawn, "notes": []}


def _compared(folder: str, probe: str | None) -> dict[str, Any]:
    """One run, measured against predicted.

    consensus: {step, measured, predicted, ratio}: predicted is the exact expectation under noise alone at these very steps,
    ratio measured / predicted over the later half of them. gradient: {step, measured, bound, ratio}: ||grad F(u)||^2, the mean
    over the steps so far, beside its bound, ratio at the last. Either is null when it was not measured or cannot be predicted;
    why: [reasons].
    """
    try:
        run = Run(folder)
        lines = run.metrics()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"--over: {folder} holds no run to read ({error}); name a run folder") from None
    strategy, _ = make_strategy(run.config)
    known, source, told = constants(run.config, probe)
    setting = Setting(run.config, strategy, known)
    why = [*told] if known else [source]
    why += [f"{a.name}: {a.why}" for a in setting.assumptions if not a.holds]
    consensus = gradient = None
    if known:
        measured = {line["step"]: line["consensus"] for line in lines if line.get("consensus") is not None}
        predicted = {line["step"]: line["theory/consensus"] for line in lines if line.get("theory/consensus") is not None}
        if probe or not predicted:
            predicted = _predicted(setting, known.sigma2, sorted(measured), why)
        steps = [step for step in sorted(measured) if step in predicted]
        if steps:
            late = steps[len(steps) // 2 :]
            whole = sum(predicted[step] for step in late)
            consensus = {
                "step": steps,
                "measured": [measured[step] for step in steps],
                "predicted": [predicted[step] for step in steps],
                "ratio": sum(measured[step] for step in late) / whole if whole > 0 else None,
            }
        gradient = _gradient(setting, lines)
    return {
        "folder": folder,
        "algo": run.config.algo["name"],
        "tau": None if strategy.times_itself else run.config.tau,
        "workers": run.config.workers,
        "seed": run.config.seed,
        "constants": source if known else None,
        "consensus": consensus,
        "gradient": gradient,
        "why": why,
    }


def _predicted(setting: Setting, sigma2: float, steps: list[int], why: list[str]) -> dict[int, float]:
    """The exact expectation at these steps, by going through the run's rounds again; empty, and why, when they are unknown."""
    forecast, period = setting.forecast(), make(setting.config, "period")
    if forecast is None:
        return {}
    if not setting.steady or not period.foreseen:
        why.append("the run did not log theory/consensus, and its rate or its period cannot be told without running")
        return {}
    rounds, found = Rounds(period, setting.strategy, setting.m), {0: 0.0}
    for k in range(max(steps, default=0)):
        rounds.begin(k, setting.lr, lambda: math.nan)
        active = rounds.active
        forecast.step(setting.lr, active, rounds.r, rounds.due)
        rounds.end(active)
        found[k + 1] = sigma2 * forecast.consensus
    return found


def _gradient(setting: Setting, lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    measured = {line["step"]: line["eval/grad2_mean"] for line in lines if line.get("eval/grad2_mean") is not None}
    bounds = {step: bound.total for step in sorted(measured) if (bound := setting.bound(step)) is not None}
    if not bounds:
        return None
    steps = list(bounds)
    last = bounds[steps[-1]]
    return {
        "step": steps,
        "measured": [measured[step] for step in steps],
        "bound": list(bounds.values()),
        "ratio": measured[steps[-1]] / last if last > 0 else None,
    }


def _draw(runs: list[dict[str, Any]], path: Path) -> str | None:
    """Two panels: consensus, and the mean squared gradient below its bound. None when there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        ("consensus", "predicted", "distance of the workers to their mean, squared"),
        ("gradient", "bound", "mean of ||grad F(u)||² over the steps so far"),
    ]
    panels = [panel for panel in panels if any(run[panel[0]] for run in runs)]
    if not panels:
        return None
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4.2), squeeze=False, layout="constrained")
    for axis, (what, theory, title) in zip(axes[0], panels, strict=True):
        for number, run in enumerate(run for run in runs if run[what]):
            curve, colour = run[what], f"C{number % 10}"
            label = f"{run['algo']} tau {run['tau']} seed {run['seed']}"
            axis.plot(curve["step"], curve["measured"], ".", markersize=4, color=colour, label=label)
            axis.plot(curve["step"], curve[theory], "-", linewidth=1.2, color=colour, label=f"{theory}, {label}")
        if any(x > 0 for run in runs if run[what] for x in (*run[what]["measured"], *run[what][theory])):
            axis.set_yscale("log")
        axis.set(title=title, xlabel="step")
        axis.legend(fontsize="small", frameon=False)
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise ConfigError(f"--figure: {path} cannot be written ({error.strerror or error}); name another file") from None
    finally:
        pyplot.close(figure)
    return str(path)


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print it."""
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    table = Table("run", "consensus", "predicted", "ratio", "mean grad²", "bound", "ratio", box=None, padding=(0, 2, 0, 0))
    for run in found["runs"]:
        cells = []
        for what, theory in (("consensus", "predicted"), ("gradient", "bound")):
            curve = run[what]
            last = [None] * 3 if curve is None else [curve["measured"][-1], curve[theory][-1], curve["ratio"]]
            cells += ["-" if x is None else f"{x:.4g}" for x in last]
        table.add_row(f"{run['folder']}  {run['algo']} tau {run['tau']}", *cells)
    console.print(table)
    console.print("values at the last step; the ratio of consensus over the later half of the run")
    for run in found["runs"]:
        for reason in run["why"]:
            console.print(f"{run['folder']}: {reason}")
    for note in found["notes"]:
        console.print(note)
    if found["figure"]:
        console.print(found["figure"], style="bold")
