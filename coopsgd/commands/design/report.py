"""What `coopsgd design` prints: the ranking with its reasons, the Pareto front, how the ranking did, and the picture."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coopsgd.commands.design import advice
from coopsgd.commands.design.ranking import Entry, pareto
from coopsgd.commands.design.study import Study
from coopsgd.host.sizes import human_bytes
from coopsgd.predict.clock import cycles
from coopsgd.run.console import printer
from coopsgd.run.schema import label
from coopsgd.setup.words import as_written

WIDTH = 170  # columns that the tables take, where the terminal does not say it has more


def facts(study: Study, words: Sequence[str], top: int, config_dir: str | None = None) -> dict[str, Any]:
    """Everything `design` prints, under one key each."""
    pilots, taken = study.pilots, advice.taken(study)
    found: dict[str, Any] = {
        "budget_seconds": study.goal.budget,
        "ranked_by": advice.wanted(study, _seconds),
        "target_loss": study.goal.target,
        "predicts": "mean squared gradient, estimated by the terms of the bound" if pilots is None else label("eval/loss"),
        "searched": study.searched,
        "beyond_pilots": study.beyond,
        "pilots": None
        if pilots is None
        else {
            "tau": pilots.taus.tolist(),
            "loss": pilots.losses[:, -1].tolist(),
            "noise": pilots.noise,
            "drift": pilots.drift,
            "kept": pilots.kept,
            "outer": {name: {"tau": c.taus.tolist(), "loss": c.losses[:, -1].tolist()} for name, c in pilots.stepping.items()},
        },
        "untold": [{"outer": one.outer, "like": one.other, "tau": list(one.taus)} for one in study.untold],
        "advice": advice.sentence(study, _seconds),
        "ties": advice.ties(study),
        "taken": _entry(study, taken, study.entries.index(taken) + 1, words, config_dir),
        "ranking": [_entry(study, entry, rank, words, config_dir) for rank, entry in enumerate(study.entries[:top], 1)],
        "baselines": [
            _entry(study, study.entries[rank - 1], rank, words, config_dir) for rank in advice.baselines(study.entries).values()
        ],
        "pareto": [
            {"algo": e.candidate.label, "seconds": float(e.times[-1]), "error": float(e.errors[-1])}
            for e in pareto(study.entries)
        ],
    }
    if (verdict := study.verdict) is not None:
        found["check"] = {
            "runs": [{"rank": r.rank, "algo": r.entry.candidate.label, "value": r.value} for r in verdict.runs],
            "kendall_tau": verdict.tau,
            "best": verdict.best.entry.candidate.label,
            "regret_seconds": verdict.regret_s,
            "regret": verdict.regret,
        }
    return found


def _entry(study: Study, entry: Entry, rank: int, words: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    tau = int(entry.candidate.config.tau)
    return {
        "rank": rank,
        "algo": entry.candidate.label,
        "zeta": entry.drift.zeta,
        "noise_consensus": entry.drift.noise,
        "drift_consensus": entry.drift.drift,
        "tau_eq": entry.tau_eq,
        "bytes_per_step": entry.bytes_per_step,
        "seconds_per_step": float(entry.times[-1]) / len(entry.times),
        "cycle_mean_per_step": None if (price := cycles.price(entry.candidate.parts)[0]) is None else price.per_round / tau,
        "steps": entry.steps,
        "seconds": entry.seconds,
        "error": entry.error,
        "floor": entry.floor,
        "command": command(entry, words, config_dir),
        "on_machines": command(entry, _on_machines(words, entry.candidate.config.workers), config_dir),
    }


def _on_machines(words: Sequence[str], workers: int) -> list[str]:
    """These words without the simulated cluster; a process for each worker, where they do not say how many."""
    own = [word for word in words if not word.lstrip("+~").startswith("cluster")]
    placed = any(word.lstrip("+").startswith("processes=") for word in own)
    return own if placed else [*own, f"processes={workers}"]


def command(entry: Entry, words: Sequence[str], config_dir: str | None = None) -> str:
    """The `coopsgd train` line of an entry: the user's words, the candidate's, and as many steps as it needs."""
    without = {word.partition("=")[0] for word in entry.candidate.words} | {"steps", "epochs", "rounds", "hydra.run.dir"}
    names = [(word, word.partition("=")[0].lstrip("+")) for word in words]
    if entry.candidate.config.topology is None:
        without |= {name for _, name in names if name.partition(".")[0] == "topology"}
    kept = [as_written(word) for word, name in names if name not in without]
    where = [] if config_dir is None else ["--config-dir", config_dir]
    steps = f"steps={entry.steps or len(entry.times)}"
    return shlex.join(["coopsgd", "train", *where, *entry.candidate.words, *kept, steps])


def show(found: dict[str, Any]) -> None:
    """Print it for a person."""
    console = printer()
    console.width = max(console.width, WIDTH)
    console.print(found["advice"], style="bold")
    console.print(f"{found['searched']} algorithms ranked by {found['ranked_by']}; predicted is the {found['predicts']}")
    pilots = found["pilots"]
    if pilots is not None:
        for name, flown in ({"": pilots} | pilots["outer"]).items():
            losses = ", ".join(f"{loss:.4g} at tau {tau}" for tau, loss in zip(flown["tau"], flown["loss"], strict=True))
            what = f"those with {name}" if name else "pilots of periodic averaging"
            console.print(f"{what} ended at a loss of {losses}", markup=False)
        for one in found["untold"]:
            taus, other = ", ".join(map(str, one["tau"])), one["like"] if one["like"] != "none" else "no outer step"
            console.print(
                f"pilots cannot tell {one['outer']} from {other} at tau {taus}, so it is not ranked there", markup=False
            )
        if found["beyond_pilots"]:
            console.print(f"{found['beyond_pilots']} drift further apart than under tau = {pilots['tau'][-1]} and are left out")
    _ranking(console, found)
    console.print("\nNobody is both quicker and better than (at the end of all steps):")
    for point in found["pareto"]:
        console.print(f"  {_seconds(point['seconds']):>9}  {point['error']:.4g}  {point['algo']}")
    console.print("\nTo simulate them on that cluster's clock:")
    for entry in found["ranking"]:
        console.print(f"  {entry['rank']}. {entry['command']}", markup=False)
    console.print("\nThe one to take on real machines, one process a worker (launch=false prints the line for torchrun there):")
    console.print(f"  {found['taken']['on_machines']} launch=false", markup=False)
    if "check" in found:
        _check(console, found)
    print(f"\n{found['folder']}")


def _ranking(console: Console, found: dict[str, Any]) -> None:
    error = label("eval/loss") if found["pilots"] is not None else "gradient²"
    columns = ("rank", "algorithm", "zeta", "tau_eq", "sent a step", "time a step", "steps", "seconds", error, "floor")
    long_run = any(entry["cycle_mean_per_step"] is not None for entry in found["ranking"])
    table = Table(*columns, *["long run"] * long_run, box=None, pad_edge=False)
    table.columns[1].no_wrap = True
    shown = {entry["rank"]: entry for entry in [*found["ranking"], *found["baselines"], found["taken"]]}
    for rank, entry in sorted(shown.items()):
        baseline = any(one["rank"] == rank for one in found["baselines"])
        table.add_row(
            f"{rank}=" if 1 < found["ties"] >= rank else str(rank),
            entry["algo"].removeprefix("algo=") + " (baseline)" * baseline + " (take this)" * (rank == found["taken"]["rank"]),
            f"{entry['zeta']:.3f}",
            "" if entry["tau_eq"] is None else f"{entry['tau_eq']:.2f}",
            human_bytes(entry["bytes_per_step"]),
            _seconds(entry["seconds_per_step"]),
            str(entry["steps"]),
            _seconds(entry["seconds"]),
            f"{entry['error']:.4g}",
            f"{entry['floor']:.4g}",
            *["-" if (mean := entry["cycle_mean_per_step"]) is None else _seconds(mean)] * long_run,
        )
    console.print(table)
    if found["ties"] > 1:
        console.print(f"=: within {advice.TIE:.0%} of the first, which the prediction cannot tell apart", markup=False)
    for name, what in advice.COLUMNS.items():
        if name in [*columns, *["long run"] * long_run]:
            console.print(f"{name}: {what}")


def _check(console: Console, found: dict[str, Any]) -> None:
    check = found["check"]
    what = f"{label('eval/loss')} at the end of the budget" if found["target_loss"] is None else "seconds to the target"
    console.print("\nrun for real, on the clock:")
    table = Table("predicted rank", "algorithm", what, box=None, pad_edge=False)
    for run in check["runs"]:
        value = f"{run['value']:.4g}" if math.isfinite(run["value"]) else "not reached"
        table.add_row(str(run["rank"]), run["algo"], value)
    console.print(table)
    console.print(f"Kendall's tau of predicted and measured order: {check['kendall_tau']:.2f}")
    if math.isnan(check["regret_seconds"]):
        console.print("none of them came to the target")
    elif math.isfinite(check["regret_seconds"]):
        lost = f"{_seconds(check['regret_seconds'])} ({check['regret']:.1%})"
        console.print(f"regret of the first choice against the best that was run, {check['best']}: {lost}", markup=False)
    else:
        console.print(f"the first choice never got to where the best that was run did: {check['best']}", markup=False)


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return "never"
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.4g} s"


def picture(study: Study, path: Path) -> None:
    """Predicted error against seconds with the Pareto front; beside it what runs measured."""
    from matplotlib.figure import Figure

    from coopsgd.run import styles

    panels = 1 if study.verdict is None else 2
    figure = Figure(figsize=(7.5 * panels, 5), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    families: dict[str, list[Entry]] = {}
    for entry in study.entries:
        families.setdefault(entry.candidate.config.algo["name"], []).append(entry)
    for name, some in sorted(families.items()):
        look = styles.look(name)
        places = [e.times[-1] for e in some], [e.errors[-1] for e in some]
        axes[0].scatter(*places, s=14, color=look.colour, marker=look.marker, label=name)
    front = pareto(study.entries)
    axes[0].step(
        [e.times[-1] for e in front], [e.errors[-1] for e in front], where="post", color="black", lw=1, label="Pareto front"
    )
    first = advice.taken(study)
    axes[0].plot(first.times[-1:], first.errors[-1:], ls="", marker="o", ms=14, mfc="none", mec="black", label="take this")
    error = "predicted " + ("mean squared gradient" if study.pilots is None else label("eval/loss"))
    axes[0].set(xscale="log", xlabel="predicted seconds for all steps", ylabel=error)
    axes[0].legend(fontsize="small", ncols=2)
    if study.verdict is not None:
        algos = [run.entry.candidate.config.algo["name"] for run in study.verdict.runs]
        for run, style in zip(study.verdict.runs, styles.each(algos), strict=True):
            color = style.colour
            shown = run.entry.times <= run.times[-1]
            axes[1].plot(run.times, run.losses, color=color, lw=1.2, label=f"{run.rank}. {run.entry.candidate.label}")
            if study.pilots is not None:
                axes[1].plot(run.entry.times[shown], run.entry.errors[shown], color=color, lw=0.9, ls="--")
        axes[1].set(xlabel="seconds on the clock (measured; dashed: predicted)", ylabel=label("eval/loss"))
        axes[1].legend(fontsize="x-small")
    figure.savefig(path, dpi=120)
