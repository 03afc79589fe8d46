"""`coopsgd analyze`: what theory predicts of an algorithm, for a person and for a program, from one dict."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from coopsgd.analysis import Setting
from coopsgd.config import Config
from coopsgd.report import cost
from coopsgd.report.console import human_bytes
from coopsgd.report.constants import constants
from coopsgd.strategies.base import Strategy
from coopsgd.theory import linear_speedup
from coopsgd.theory.bound import CONSTANTS

CONDITIONS = {
    **{name: f"{name}, c = {c:g}" for name, c in CONSTANTS.items()},
    "pasgd": "of PASGD alone (zeta = 0)",
    "dpsgd": "of D-PSGD alone (tau = 1)",
    "sgd": "of SGD (one worker)",
}


def facts(config: Config, strategy: Strategy, notes: tuple[str, ...] = (), probe: str | None = None) -> dict[str, Any]:
    """Everything `analyze` prints. What has no meaning here is null, and `assumptions` or `missing` say why.

    algo, tau, period, order, workers, aux, processes, about, zeta, cycle: as `show --json` has them.
    steps, lr, eta_eff: planned; eta_eff = lr m / (m + v), v the auxiliary rows that somebody reads.
    rate: {communication, step}: what one leaves of the disagreement at worst, zeta^(1 / cycle) and its tau-th root.
    alpha: {now, best, zeta_best} of a mixing with a pull: best is alpha*, which minimises zeta.
    constants: {L, sigma2, gap, kappa2}; source: where they are from; missing: how to get them.
    assumptions: [{name, holds, why}] of the bound.
    network_factor: A. largest_eta_eff_L, largest_eta_eff, largest_lr: {condition: number}; condition: published (c = 5),
    derived (c = 2), pasgd, dpsgd, or sgd. condition: the first of them that lr meets.
    bound: {optimisation, noise, network, total} on the mean of ||grad F(u)||^2 over the planned steps.
    linear_speedup: {condition: K} from which, with eta_eff = sqrt(m / K) / L, m workers need m times fewer steps.
    consensus: stationary E (1/m) sum ||x_i - mean||^2, mean over a cycle's steps: noise_coefficient C, drift_coefficient H,
    noise = lr^2 sigma2 C, drift = lr^2 kappa2 H. Without curvature; drift for gradients that differ every way alike.
    pasgd: {tau_bound, tau_consensus}: the period at which periodic averaging has the same bound at equal eta_eff, and the same
    stationary consensus at equal lr.
    cost: {messages, vectors, bytes_per_worker_mean, bytes_per_worker_max} a step, and seconds a step on the configured cluster.
    notes: what the user should be told.
    """
    known, source, told = constants(config, probe)
    setting = Setting(config, strategy, known)
    m, v, tau, A, largest = setting.m, setting.v, setting.tau, setting.A, setting.largest_steps
    rate = None
    if setting.zeta is not None:
        each = setting.zeta ** (1 / (setting.cycle or 1))
        rate = {"communication": each, "step": each ** (1 / tau)}
    bound = setting.bound(config.steps)
    C, H = setting.noise, setting.drift
    steady = known is not None and setting.steady
    per_L = {name: x / known.L for name, x in largest.items()} if largest and known and known.L > 0 else None
    speedup = None
    if A is not None and largest is not None and m > 1 and setting.holds("one f"):
        speedup = {name: linear_speedup(m, A, x) for name, x in largest.items()}
    return {
        **cost.identity(config, strategy),
        "zeta": setting.zeta,
        "cycle": setting.cycle,
        "steps": config.steps,
        "lr": setting.lr,
        "eta_eff": setting.eta_eff,
        "rate": rate,
        "alpha": _alpha(config, strategy),
        "constants": asdict(known) if known else None,
        "source": source if known else None,
        "missing": None if known else source,
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
            "tau_bound": None if A is None or m == 1 else A + 1,
            "tau_consensus": None if C is None or m == 1 or setting.order != "atc" else 1 + 2 * m * C / (m - 1),
        },
        "cost": cost.per_step(config, strategy) | {"seconds": cost.seconds(config, strategy)},
        "notes": [*dict.fromkeys((*notes, *told)), *([setting.few] if setting.few else [])],
    }


def _alpha(config: Config, strategy: Strategy) -> dict[str, float] | None:
    """alpha now, alpha* and its zeta; None when the mixing has no pull to choose."""
    mixing = getattr(strategy, "mixing", None)
    best = mixing.best_alpha(config.workers) if mixing is not None else None
    if mixing is None or best is None:
        return None
    now = best if mixing.alpha == "auto" else float(mixing.alpha)
    return {"now": now, "best": best, "zeta_best": replace(mixing, alpha=best).zeta(config.workers)}


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print it."""
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
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
        console.print("constants: " + ", ".join(f"{name} {_n(x)}" for name, x in known.items()) + f"  ({found['source']})")
    else:
        console.print(found["missing"])
    _mixing(console, found)
    failed = [a for a in found["assumptions"] if not a["holds"]]
    all_hold = "all hold" if known else "all hold that can be told without constants"
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


def _n(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"


def _mixing(console: Console, found: dict[str, Any]) -> None:
    if found["zeta"] is not None:
        rate = found["rate"]
        console.print(
            f"\nzeta {found['zeta']:.6g}; of the disagreement a communication leaves {_n(rate['communication'])} at worst, "
            f"a step {_n(rate['step'])}"
        )
    else:
        console.print("\nzeta: no formula for this schedule")
    alpha = found["alpha"]
    if alpha:
        console.print(
            f"alpha* {_n(alpha['best'])} has the smallest zeta, {_n(alpha['zeta_best'])}; here alpha is {_n(alpha['now'])}"
        )
    else:
        console.print("alpha*: not applicable, the mixing has no pull to choose")


def _steps(console: Console, found: dict[str, Any]) -> None:
    if found["largest_eta_eff_L"] is None:
        return
    table = Table("largest step", "eta_eff L", "eta_eff", "lr", "linear speed-up from K", box=None, padding=(0, 2, 0, 0))
    for name, x in found["largest_eta_eff_L"].items():
        own = [(found[key] or {}).get(name) for key in ("largest_eta_eff", "largest_lr", "linear_speedup")]
        table.add_row(CONDITIONS[name], _n(x), _n(own[0]), _n(own[1]), "-" if own[2] is None else str(own[2]))
    console.print()
    console.print(table)


def _bound(console: Console, found: dict[str, Any], failed: bool) -> None:
    bound = found["bound"]
    if bound:
        console.print(
            f"\nmean of ||grad F(u)||^2 over {found['steps']} steps is at most {_n(bound['total'])} = optimisation "
            f"{_n(bound['optimisation'])} + noise {_n(bound['noise'])} + network {_n(bound['network'])}  "
            f"(lr meets the condition {CONDITIONS[found['condition']]})"
        )
    elif found["constants"] and not failed:
        why = "no steps are planned" if not found["steps"] else f"lr {found['lr']:g} is above what every condition allows"
        console.print(f"\nno bound: {why}")


def _consensus(console: Console, found: dict[str, Any]) -> None:
    told, pasgd = found["consensus"], found["pasgd"]
    C, H = told["noise_coefficient"], told["drift_coefficient"]
    if C is None:
        console.print("\nstationary consensus: none to tell, see the assumptions")
    else:
        console.print(
            f"\nstationary E (1/m) sum ||x_i - mean||^2, without curvature, mean over a cycle: {_n(C)} lr^2 sigma2", end=""
        )
        console.print(f" = {_n(told['noise'])}" if told["noise"] is not None else "")
        if H is not None:
            console.print(f"  and {_n(H)} lr^2 kappa2 of gradients that differ", end="")
            console.print(f" = {_n(told['drift'])}" if told["drift"] is not None else "")
    ties = [(pasgd["tau_bound"], "bound at equal eta_eff"), (pasgd["tau_consensus"], "stationary consensus at equal lr")]
    for tau, what in ties:
        if tau is not None and math.isfinite(tau):
            console.print(f"periodic averaging (PASGD) has the same {what} at tau = {_n(tau)}")
