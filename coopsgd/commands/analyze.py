"""`coopsgd analyze`: what theory predicts of an algorithm, for a person and for a program, from one dict."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from coopsgd.commands.show import delay_allows, outer_facts, show_axes
from coopsgd.host.sizes import human_bytes
from coopsgd.predict import cost
from coopsgd.predict.clock import cycles
from coopsgd.predict.constants import constants
from coopsgd.predict.of_axes import codec_facts, correction_facts, gasloc_facts
from coopsgd.predict.setting import Setting
from coopsgd.predict.theory import linear_speedup
from coopsgd.predict.theory.bound import CONSTANTS
from coopsgd.run.console import number, printer
from coopsgd.setup.parts import Parts

CONDITIONS = {
    **{name: f"{name}, c = {c:g}" for name, c in CONSTANTS.items()},
    "pasgd": "of PASGD alone (zeta = 0)",
    "dpsgd": "of D-PSGD alone (tau = 1)",
    "sgd": "of SGD (one worker)",
    "computed": "computed from the matrices, c = {c:.4g}",
    "drift": "below, where the f_i differ (derived)",
}
CONSTANT_NAMES = ("L", "L_F", "sigma2", "gap", "kappa2")  # constants


def facts(parts: Parts, notes: tuple[str, ...] = (), probe: str | None = None) -> dict[str, Any]:
    """Everything `analyze` prints. What has no meaning here is null, and `assumptions` or `missing` say why.

    algo, tau, period, order, workers, aux, processes, about, zeta, cycle: as `show --json` has them.
    steps, lr, eta_eff: planned; eta_eff = lr m / (m + v), v the auxiliary rows that somebody reads.
    rate: {communication, step}: what one leaves of the disagreement at worst, zeta^(1 / cycle) and its tau-th root; 0 where a
    cycle averages exactly.
    alpha: {now, best, zeta_best} of a mixing with a pull: best is alpha*, which minimises zeta.
    constants: {L, sigma2, gap, kappa2}, L that of each worker's f_i, which the bound asks for; L_F: that of their mean F, where
    it is known; source: where they are from; missing: how to get them. dissimilarity: {kappa2_best, beta} where it is known
    that sqrt(kappa2) <= sqrt(kappa2_best) + beta ||grad F|| everywhere; else the bound takes kappa2 for its mean over the run.
    assumptions: [{name, holds, why}] of the bound.
    network_factor: A. largest_eta_eff_L, largest_eta_eff, largest_lr: {condition: number}; condition: published (c = 5),
    derived (c = 2), pasgd, dpsgd, computed (of a cycle, from its matrices), sgd, or, of f_i that differ, drift alone, which
    must stay below its number. condition: the first of them that lr meets.
    bound: {optimisation, noise, network, drift, total} on the mean of ||grad F(u)||^2 over the planned steps; drift is what
    f_i that differ add (derived, docs/drift.md), 0 for one f.
    linear_speedup: {condition: K} from which, with eta_eff = sqrt(m / K) / L, m workers need m times fewer steps; of one f.
    All of these are null where the bound says nothing.
    consensus: stationary E (1/m) sum ||x_i - mean||^2, mean over a cycle's steps: noise_coefficient C, drift_coefficient H,
    noise = lr^2 sigma2 C, drift = lr^2 kappa2 H. Without curvature; drift for gradients that differ every way alike.
    pasgd: {tau_bound, tau_consensus}: the period at which periodic averaging has the same bound at equal eta_eff, and the same
    stationary consensus at equal lr.
    largest_delayed_lr_L, largest_delayed_lr: below which a delay lets the workers agree, on quadratics of curvature L; null
    without delay, with an outer step, and where a step is not lr times the gradient.
    errors: {zeta, noise_coefficient, drift_coefficient, tau_consensus}: standard errors of expectations that are
    estimated from a sample; null where they are exact. Exact ones do not depend on the seed.
    axes: {name: keys} of those that are chosen; outer: {gains: {own, total}, zeta, floor}, of the outer step, null without one.
    correction, codec, gasloc: what is known of them (predict/of_axes.py), null without one; correction has largest_lr, too.
    cost: {messages, vectors, bytes_per_worker_mean, bytes_per_worker_max} a step, and seconds a step on the configured cluster.
    cycle_mean: {seconds_per_round, seconds_per_step, seconds_with_barriers, exact, cycle} on the configured cluster: what a
    round takes in the long run where workers wait for their neighbours alone, if all waited for the slowest, and a cycle of
    hosts that decides it; not exact: of mean steps, a lower bound. null, and `no_cycle_mean` says why, where there is none.
    notes: lines for the user.
    """
    config = parts.config
    known, source, more = constants(parts, probe)
    setting = Setting(parts, known)
    m, v, A, largest = setting.m, setting.v, setting.A, setting.largest_steps
    bound = setting.bound(config.steps)
    (C, C_error), (H, H_error) = setting.consensus
    tied = C is not None and m > 1 and setting.order == "atc"
    per_C = 2 * m / max(1, m - 1)  # PASGD has C = (m - 1) (tau - 1) / (2 m)
    steady = known is not None and setting.steady
    fixed = correction_facts(parts)
    if fixed is not None:
        most = fixed["largest_lr_L"]
        fixed["largest_lr"] = most / known.L if most is not None and known and known.L > 0 else None
    delayed = setting.largest_delayed_step
    per_L = {name: x / known.L for name, x in largest.items()} if largest and known and known.L > 0 else None
    speedup = None
    if A is not None and largest is not None and m > 1 and not setting.differ:
        speedup = {name: linear_speedup(m, A, x) for name, x in largest.items()}
    return {
        **cost.identity(parts),
        "zeta": setting.zeta,
        "cycle": setting.cycle,
        "steps": config.steps,
        "lr": setting.lr,
        "eta_eff": setting.eta_eff,
        "rate": setting.rate,
        "alpha": _alpha(parts.strategy.schedule, config.workers),
        "constants": {name: getattr(known, name) for name in CONSTANT_NAMES if name != "L_F"} if known else None,
        "L_F": known.L_F if known else None,
        "dissimilarity": {"kappa2_best": known.kappa2_best, "beta": known.beta}
        if known and known.kappa2_best is not None
        else None,
        "source": source if known else None,
        "missing": None if known else source,
        "outer": outer_facts(parts),
        "correction": fixed,
        "codec": codec_facts(parts),
        "gasloc": gasloc_facts(parts),
        "assumptions": [asdict(a) for a in setting.assumptions],
        "network_factor": A,
        "largest_eta_eff_L": largest,
        "largest_eta_eff": per_L,
        "largest_lr": {name: x * (m + v) / m for name, x in per_L.items()} if per_L else None,
        "condition": setting.condition,
        "bound": asdict(bound) | {"total": bound.total} if bound else None,
        "linear_speedup": speedup,
        "consensus": {
            "noise_coefficient": C,
            "drift_coefficient": H,
            "noise": setting.lr**2 * known.sigma2 * C if steady and known and C is not None else None,
            "drift": setting.lr**2 * known.kappa2 * H if steady and known and H is not None else None,
        },
        "pasgd": {
            "tau_bound": A + 1 if A is not None and m > 1 and not setting.differ else None,
            "tau_consensus": 1 + per_C * C if tied and C is not None else None,
        },
        "errors": {
            "zeta": setting.zeta_error,
            "noise_coefficient": C_error,
            "drift_coefficient": H_error,
            "tau_consensus": per_C * C_error if tied and C_error is not None else None,
        },
        "largest_delayed_lr_L": delayed,
        "largest_delayed_lr": delayed / known.L if delayed is not None and known and known.L > 0 else None,
        "cost": cost.per_step(parts) | {"seconds": cost.seconds(parts)},
        **_cycle_mean(parts),
        "notes": [*dict.fromkeys((*notes, *more)), *filter(None, (setting.few, setting.slow))],
    }


def _alpha(schedule: Any, m: int) -> dict[str, float] | None:
    """alpha now, alpha* and its zeta; None when the mixing has no pull to choose."""
    best = None if schedule is None else schedule.best_alpha(m)
    if best is None:
        return None
    if schedule.alpha == "auto":
        return {"now": best, "best": best, "zeta_best": schedule.zeta(m)}
    return {"now": float(schedule.alpha), "best": best, "zeta_best": replace(schedule, alpha=best).zeta(m)}


def _cycle_mean(parts: Parts) -> dict[str, Any]:
    if parts.config.cluster is None:
        return {"cycle_mean": None, "no_cycle_mean": None}
    price, why = cycles.price(parts)
    if price is None:
        return {"cycle_mean": None, "no_cycle_mean": why}
    found = {
        "seconds_per_round": price.per_round,
        "seconds_per_step": price.per_round / parts.config.tau,
        "seconds_with_barriers": price.barrier,
        "exact": price.exact,
        "cycle": list(price.cycle),
    }
    return {"cycle_mean": found, "no_cycle_mean": None}


def show(found: dict[str, Any]) -> None:
    """Print it for a person."""
    console = printer()
    for note in found["notes"]:
        console.print(note)
    tau = "its own" if found["tau"] is None else found["tau"]
    console.print(
        f"{found['algo']}: A(tau = {tau}, W, v = {found['aux']}) with m = {found['workers']} workers, "
        f"lr {found['lr']:g}, {found['steps']} steps",
        style="bold",
    )
    known = found["constants"]
    if known:
        words = {"L": "L of each f_i", "L_F": "L of F"}
        all_of = known | {"L_F": found["L_F"]}
        values = [f"{words.get(name, name)} {_n(all_of[name])}" for name in CONSTANT_NAMES if all_of[name] is not None]
        console.print(f"constants: {', '.join(values)}  ({found['source']})")
    else:
        console.print(found["missing"])
    _mixing(console, found)
    failed = [a for a in found["assumptions"] if not a["holds"]]
    all_hold = "all hold" if known else "all hold that can be checked without constants"
    console.print("\nassumptions of the bound: " + (f"{len(failed)} fail: no bound" if failed else all_hold))
    for a in found["assumptions"]:
        if a["why"]:
            console.print(f"  {'holds' if a['holds'] else 'FAILS'}  {a['name']}: {a['why']}")
    _steps(console, found)
    _bound(console, found, bool(failed))
    _consensus(console, found)
    spent = found["cost"]
    if spent["messages"] is not None:
        console.print(
            f"\ncost of a step: {_n(spent['messages'])} messages; a worker sends {human_bytes(spent['bytes_per_worker_mean'])} "
            f"in the mean, {human_bytes(spent['bytes_per_worker_max'])} at most"
        )
    if spent["seconds"] is not None:
        console.print(f"on this cluster a step takes {_n(spent['seconds'])} s")
    if (cycle := found["cycle_mean"]) is not None:
        least = "" if cycle["exact"] else "at least "
        console.print(
            f"in the long run a round takes {least}{_n(cycle['seconds_per_round'])} s, the maximum cycle mean "
            f"({_cycle(cycle['cycle'], found['workers'])}); {least}{_n(cycle['seconds_with_barriers'])} s if all waited for "
            "the slowest in each"
        )
    elif found["no_cycle_mean"]:
        console.print(f"no cycle mean of a round in the long run: {found['no_cycle_mean']}")


def _cycle(hosts: list[int], m: int) -> str:
    """A cycle of hosts that wait each for the next, told in the order in which messages go round it."""
    names = [str(host) if host < m else f"server {host - m}" for host in (hosts[0], *reversed(hosts))]
    return f"messages {' -> '.join(names)}" if len(hosts) > 1 else f"worker {names[0]} alone"


def _n(x: float | None, error: float | None = None) -> str:
    return "-" if x is None else number(x, error)


def _named(condition: str, x: float) -> str:
    """A condition as it is printed, x the largest eta_eff L by it."""
    return CONDITIONS[condition].format(c=(1 - x) / x**2)


def _mixing(console: Console, found: dict[str, Any]) -> None:
    if found["zeta"] is not None:
        rate, zeta = found["rate"], number(found["zeta"], found["errors"]["zeta"], 6)
        console.print(
            f"\nzeta {zeta}; of the disagreement a communication leaves {_n(rate['communication'])} at worst, "
            f"a step {_n(rate['step'])}"
        )
    else:
        console.print("\nzeta: no formula for this schedule")
    show_axes(console, found)
    alpha = found["alpha"]
    if alpha:
        console.print(
            f"alpha* {_n(alpha['best'])} has the smallest zeta, {_n(alpha['zeta_best'])}; here alpha is {_n(alpha['now'])}"
        )
    else:
        console.print("alpha*: not applicable, the mixing has no pull to choose")


def _steps(console: Console, found: dict[str, Any]) -> None:
    if (most := found["largest_delayed_lr_L"]) is not None:
        lr = found["largest_delayed_lr"]
        console.print(delay_allows(found["delay"], most) + (f", which is lr {_n(lr)}" if lr is not None else ""))
    if found["largest_eta_eff_L"] is None:
        return
    table = Table(
        Column("largest step", no_wrap=True),
        "eta_eff L",
        "eta_eff",
        "lr",
        "linear speed-up from K",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name, x in found["largest_eta_eff_L"].items():
        own = [(found[key] or {}).get(name) for key in ("largest_eta_eff", "largest_lr", "linear_speedup")]
        table.add_row(_named(name, x), _n(x), _n(own[0]), _n(own[1]), "-" if own[2] is None else str(own[2]))
    console.print()
    console.print(table)


def _bound(console: Console, found: dict[str, Any], failed: bool) -> None:
    bound = found["bound"]
    if bound:
        drift = found["condition"] == "drift"
        names = ("optimisation", "noise", "network", *(("drift",) if drift else ()))
        most = found["largest_eta_eff_L"][found["condition"]]
        asked = (
            f"derived for f_i that differ; eta_eff L is below {_n(most)}"
            if drift
            else f"lr meets the condition {_named(found['condition'], most)}"
        )
        console.print(
            f"\nmean of ||grad F(u)||^2 over {found['steps']} steps is at most {_n(bound['total'])} = "
            f"{' + '.join(f'{name} {_n(bound[name])}' for name in names)}  ({asked})"
        )
        if drift:
            console.print(f"  {_differ(found)}")
    elif found["constants"] and not failed:
        why = f"lr {found['lr']:g} is above what every condition allows"
        if "drift" in (found["largest_lr"] or {}):
            why = f"lr {found['lr']:g} is not below {_n(found['largest_lr']['drift'])}, which the f_i ask for that differ"
        why = "no steps are planned" if not found["steps"] else why
        console.print(f"\nno bound: {why}")


def _differ(found: dict[str, Any]) -> str:
    """How far the f_i may differ for this bound."""
    apart = found["dissimilarity"]
    if apart is None:
        return f"if kappa2 is {_n(found['constants']['kappa2'])} in the mean over the run"
    return f"for sqrt(kappa2) <= {_n(math.sqrt(apart['kappa2_best']))} + {_n(apart['beta'])} ||grad F||, which holds everywhere"


def _term(coefficient: float, error: float | None, unit: str, value: float | None) -> str:
    return f"{_n(coefficient, error)}{',' * bool(error)} {unit}" + (f" = {_n(value)}" if value is not None else "")


def _consensus(console: Console, found: dict[str, Any]) -> None:
    consensus, pasgd, errors = found["consensus"], found["pasgd"], found["errors"]
    C, H = consensus["noise_coefficient"], consensus["drift_coefficient"]
    if C is None:
        console.print("\nstationary consensus: none to tell, see the assumptions")
    else:
        what = "\nstationary E (1/m) sum ||x_i - mean||^2, without curvature, mean over a cycle:"
        console.print(f"{what} {_term(C, errors['noise_coefficient'], 'lr^2 sigma2', consensus['noise'])}")
        if H is not None:
            unit = "lr^2 kappa2 of gradients that differ"
            console.print(f"  and {_term(H, errors['drift_coefficient'], unit, consensus['drift'])}")
    ties = [
        (pasgd["tau_bound"], None, "bound at equal eta_eff"),
        (pasgd["tau_consensus"], errors["tau_consensus"], "stationary consensus at equal lr"),
    ]
    for tau, error, what in ties:
        if tau is not None and math.isfinite(tau):
            console.print(f"periodic averaging (PASGD) has the same {what} at tau = {_n(tau, error)}")
