"""`coopsgd show`: what an algorithm is, for a person and for a program, from one dict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from coopsgd.fleet import plan as plans
from coopsgd.host.sizes import human_bytes
from coopsgd.mixing import spectra
from coopsgd.mixing.matrix import Matrix
from coopsgd.predict import cost
from coopsgd.predict.of_axes import codec_facts, correction_facts, gasloc_facts
from coopsgd.predict.setting import Setting
from coopsgd.run import pictures, provenance, source
from coopsgd.run.console import number, printer
from coopsgd.setup import catalogue, schema
from coopsgd.setup.parts import Parts
from coopsgd.strategies.period import ends

ROUNDS = 3, 12  # communications whose schedule is shown: at least, and at most when it takes as many to repeat
WITHIN = "the rows of each machine lie in one memory; machines send each other, as if each were one process:"
SHARED = "the rows lie in one memory, of which each process mixes a slice of the columns: nothing is sent"
WIDEST = 12  # rows of a matrix that fit a terminal
TRAITS = {  # what is said of a matrix that has it, and of one that has not
    "row_stochastic": ("rows sum to 1", "rows do not all sum to 1"),
    "doubly_stochastic": ("columns sum to 1", "columns do not all sum to 1"),
    "symmetric": ("symmetric", "not symmetric"),
    "nonnegative": ("no entry is negative", "some entries are negative"),
}


def facts(parts: Parts, notes: tuple[str, ...]) -> dict[str, Any]:
    """Everything `show` prints, under one key each. Costs are in vectors of one model, as the ledger charges them."""
    config, strategy, schedule, task = parts.config, parts.strategy, parts.strategy.schedule, parts.task
    m, processes = config.workers, int(config.processes)
    v, cycle, law = (schedule.num_aux, schedule.cycle(m), schedule.law(m)) if schedule else (0, 1, None)
    layout, shared = plans.layout_of(schedule, m, processes), processes > 1 and config.fleet == "shared"
    if within := shared and (machines := schema.machines_of(config)) > 1:  # what crosses is between machines
        layout, shared, processes = replace(layout, processes=machines, replicated=not v), False, machines
    factors = schedule.factors(m, 0) if schedule and strategy.send is not None else ()
    result: dict[str, Any] = {
        **cost.identity(parts),
        "stands_for": catalogue.stands_for(config.algo["name"]),
        "parameters": task.dimension(config),
        "statistics": task.statistics(config),
        "rows": [*(f"worker {i}" for i in range(m)), *(f"aux {a}" for a in range(v))],
        "zeta": schedule.zeta(m) if schedule else None,
        "zeta_error": None if law is None else law.zeta_error,
        "outer": outer_facts(parts),
        "correction": correction_facts(parts),
        "codec": codec_facts(parts),
        "gasloc": gasloc_facts(parts),
        "largest_delayed_lr_L": Setting(parts).largest_delayed_step if parts.config.delay else None,
        "factors": [_matrix(W, layout, shared, within) for W in factors],
        "cycle": cycle,
        "schedule": [
            {"round": r, "after_step": after, **cost.of_round(parts, r)} for r, after in enumerate(_ends(parts, cycle))
        ],
        "data": task.about(config),
        "partition": task.class_counts(config),
        "cluster": None if config.cluster is None else config.cluster | {"about": parts.cluster.describe()},
        "own_code": source.described(config),
        "notes": list(notes),
    }
    if strategy.send is None:
        many = f"all-reduce of the average over {processes} processes: {2 * (processes - 1)} vectors"
        result["plan"] = [WITHIN] * within + [
            SHARED if shared else many if processes > 1 else "one process holds every row, nothing is sent"
        ]
    return result


def outer_facts(parts: Parts) -> dict[str, Any] | None:
    """What an outer step does to one displacement and to a disagreement; None where there is none.

    gains: {own, total}: what a round's displacement counts in its own round, and in all together. zeta: what a cycle leaves of
    a disagreement between slow models; floor: what heavy ball leaves at least, whatever W. Null where it is not known.
    """
    outer = parts.outer
    if outer is None:
        return None
    setting = Setting(parts)
    gains, linear = outer.gains, setting.linear_outer
    return {
        "gains": None if gains is None else {"own": gains[0], "total": gains[1]},
        "zeta": setting.outer_zeta,
        "floor": None if linear is None or linear[2] or setting.outer_zeta is None else math.sqrt(linear[1]),
    }


def delay_allows(delay: Any, most: float) -> str:
    """What a delay allows: the largest lr times curvature."""
    return f"with delay={delay} workers on quadratics of curvature L agree below lr L = {most:.4g} (2 without a delay)"


def show_axes(console: Console, found: dict[str, Any]) -> None:
    """The axes around the algorithm, and what is known of them."""
    for name, node in found["axes"].items():
        keys = ", ".join(f"{key}={value}" for key, value in node.items() if key != "name")
        console.print(f"\n{name}={node['name']}" + f": {keys}" * bool(keys), markup=False)
    outer = found["outer"]
    if outer is not None and outer["gains"] is not None:
        own, total = outer["gains"].values()
        console.print(f"  a round's displacement counts {own:.4g} times in its own round, {total:.4g} times in all together")
    if outer is not None and outer["zeta"] is not None:
        of = "a communication" if found["cycle"] == 1 else f"a cycle of {found['cycle']} communications"
        console.print(f"  zeta of {of} with it: {outer['zeta']:.6g} (W alone: {found['zeta']:.6g})")
        if outer["floor"]:
            console.print(f"  heavy ball leaves at least sqrt(momentum) = {outer['floor']:.4g} a communication, whatever W")
    for line in (*_of_correction(found), *_of_codec(found), *_of_gasloc(found)):
        console.print(f"  {line}", markup=False)


def _of_correction(found: dict[str, Any]) -> Iterator[str]:
    """What it makes exact, and what it needs of W and the rate."""
    known = found["correction"]
    if known is None or known["exact"] is None:
        return
    yield f"{found['axes']['correction']['name']} is {known['exact']}"
    least = f"; the least here is {known['least']:.4g}" if known["least"] is not None and "eigenvalue" in known["needs"] else ""
    yield f"it needs {known['needs']}{least}"
    if known["largest_lr_L"] is not None:
        yield (
            f"without curvature a round leaves {known['left']:.4g} of a disagreement; on quadratics of one curvature h it "
            f"shrinks for lr h below {known['largest_lr_L']:.4g}"
        )
    else:
        yield f"largest rate: not known ({known['unknown']})"


def _of_codec(found: dict[str, Any]) -> Iterator[str]:
    """How much it keeps, and what that does to the mixing."""
    known = found["codec"]
    if known is None:
        return
    delta = known["delta"]
    if delta is None:
        yield "delta, the share of a vector's square that a message keeps at least: not known of this codec"
    else:
        whole = f"{delta:.4g}" if delta < 0.999 else f"1 - {1 - delta:.2g}"
        yield f"a message keeps at least delta = {whole} of a vector's square, whatever the vector"
    if known["omega"] is not None:
        yield f"it is right on average, off by at most omega = {known['omega']:.4g} times the square"
    if known["left_out"] is not None:
        yield f"with error feedback what is left out is, squared, at most {known['left_out']:.4g} times the largest message"
    if known["choco"] is not None:
        gamma, left = known["choco"]["gamma"], known["choco"]["left"]
        yield (
            f"CHOCO's proof takes gamma = {gamma:.3g}, with which a communication leaves at most {left:.6g} of the squared "
            f"disagreement; gamma is {known['choco']['now']:g} here, for which no rate is known"
        )
    elif known["rule"] in ("choco", "deepsqueeze") or (known["rule"] == "slow" and known["left_out"] is None and delta != 1):
        yield f"what rule={known['rule']} with it does to the mixing: no rate is known"


def _of_gasloc(found: dict[str, Any]) -> Iterator[str]:
    known = found["gasloc"]
    if known is not None:
        zeta = "not known of a W that moves" if known["zeta"] is None else f"{known['zeta']:.6g} (W alone: {found['zeta']:.6g})"
        yield f"zeta of a communication between slow models, momentum added {known['momentum']} mixing: {zeta}"


def _matrix(W: Matrix, layout: plans.Layout, shared: bool, within: bool) -> dict[str, Any]:
    """Of one factor; W and eigenvalues are null where they would be too many, or take too long."""
    values, small = spectra.eigenvalues(W), len(W) <= spectra.WHOLE
    plan = None if shared else plans.lower(W, layout)
    return {
        "W": W.dense().tolist() if small else None,
        "kind": type(W).__name__.lower(),
        "nonzeros": W.nonzeros,
        "row_stochastic": spectra.is_row_stochastic(W, 1e-6),
        "doubly_stochastic": spectra.is_doubly_stochastic(W, 1e-6),
        "symmetric": spectra.is_symmetric(W),
        "nonnegative": W.least[2] >= 0,
        "eigenvalues": [float(x.real) if abs(x.imag) < 1e-12 else [float(x.real), float(x.imag)] for x in values] or None,
        "zeta": spectra.zeta(W),
        "plan": [SHARED] if plan is None else [WITHIN] * within + plan.describe(),
        "wire_vectors": 0 if plan is None else plan.vectors,
    }


def _ends(parts: Parts, cycle: int | None) -> list[int | None]:
    """After which step each of the first rounds communicates; None where only the run can tell."""
    many, period = min(max(ROUNDS[0], cycle or 0), ROUNDS[1]), parts.period
    return list(islice(ends(period, parts.strategy.schedule, parts.config.workers), many)) if period.foreseen else [None] * many


def show(found: dict[str, Any]) -> None:
    """Print it for a person."""
    console = printer()
    for note in found["notes"]:
        console.print(note)
    console.print(
        f"{found['algo']}: A(tau = {_tau(found)}, W, v = {found['aux']}) with m = {found['workers']} workers",
        style="bold",
    )
    if found["stands_for"]:
        console.print(f"algo={found['algo']} stands for {' '.join(found['stands_for'])}", markup=False)
    for n, factor in enumerate(found["factors"]):
        name = "W" if found["cycle"] == 1 else "W of the first communication"
        if len(found["factors"]) > 1:
            name += f", factor {n + 1} of {len(found['factors'])}"
        _show_matrix(console, name, factor, found["rows"])
    if not found["factors"]:
        console.print("\nno matrix mixes the models: " + found["about"])
    if found["zeta"] is not None:
        cycle = found["cycle"]
        of = (
            "one communication" if cycle == 1 else f"a cycle of {cycle} communications" if cycle else "one random communication"
        )
        mean = "" if cycle else ", in the mean square"
        console.print(
            f"\nzeta of {of}{mean}: {number(found['zeta'], found['zeta_error'], 6)}  (0 averages exactly, 1 never agrees)"
        )
    show_axes(console, found)
    if (most := found["largest_delayed_lr_L"]) is not None and most < 2:
        console.print(delay_allows(found["delay"], most))
    _show_schedule(console, found)
    if found["cluster"]:
        console.print(f"\nthe clock runs on: {found['cluster']['about']}", markup=False)
    if found["partition"]:
        pictures.show(console, found["data"], found["partition"])
    if found["own_code"]:
        console.print("\nyour own code, which a run keeps in source/:")
    for place, file in found["own_code"].items():
        where = provenance.words(file["git"]) if file["git"] else "in no repository"
        console.print(f"  {place}: {file['path']} ({where})", markup=False)
    what = "it" if found["cycle"] == 1 else "the first communication"
    if lines := [line for factor in found["factors"] for line in factor["plan"]] + found.get("plan", []):
        console.print(f"\nhow {found['processes']} process{'es' * (found['processes'] > 1)} carry {what} out:")
        console.print("\n".join(f"  {line}" for line in lines))


def _tau(found: dict[str, Any]) -> str:
    tau = "its own" if found["tau"] is None else str(found["tau"])
    return tau if found["period"] == "constant" else f"{tau} by {found['period']}"


def _show_schedule(console: Console, found: dict[str, Any]) -> None:
    """The first rounds and what each costs."""
    columns = ("round", "after step", "messages", "bytes a worker, mean", "largest")
    schedule = Table(*columns, title=f"\nschedule and cost, {found['parameters']} parameters", title_justify="left")
    for entry in found["schedule"]:
        sent = [entry[key] for key in ("bytes_per_worker_mean", "bytes_per_worker_max")]
        known = entry["messages"] is not None
        cells = [str(entry["messages"]), *map(human_bytes, sent)] if known else ["its ledger tells"] * 3
        schedule.add_row(str(entry["round"]), str(entry["after_step"] or "the run tells"), *cells)
    console.print(schedule)


def _show_matrix(console: Console, name: str, factor: dict[str, Any], rows: list[str]) -> None:
    console.print(f"\n{name}: row = what a member takes")
    if len(rows) <= WIDEST:
        W, width = np.array(factor["W"]), max(map(len, rows))
        for label, row in zip(rows, W, strict=True):
            console.print(f"  {label:{width}}  " + " ".join(f"{x:8.4f}" if x else "       ." for x in row))
    else:
        more = "; --json has all of it" if factor["W"] is not None else ""
        console.print(f"  {len(rows)} x {len(rows)}, {factor['nonzeros']} nonzeros{more}")
    console.print("  " + ", ".join(words[not factor[key]] for key, words in TRAITS.items()))
    values = [f"{x:.4g}" if isinstance(x, float) else f"{x[0]:.4g}{x[1]:+.4g}i" for x in factor["eigenvalues"] or ()]
    if values:
        console.print("  eigenvalues: " + ", ".join(values[:WIDEST]) + (", ..." if len(values) > WIDEST else ""))
    console.print(f"  zeta: {factor['zeta']:.6g}")
