"""PASGD against D-PSGD on a ring of 8: at which tau do consensus and loss cross?

Remake: coopsgd train -m experiment=crossing (or crossing_network), then python scripts/figure_crossing.py FOLDER [-o FILE]
(needs matplotlib)
"""

from __future__ import annotations

from itertools import pairwise

from results import by, mean_text, picture, spread, sweep, table, tail

from coopsgd.run import styles

MEASURES = (("consensus", "consensus distance"), ("eval/loss", "loss of the mean model"))


def crossing(curve: dict[int, float], level: float) -> str:
    """The tau, between two neighbours on a straight line, at which the curve passes the level."""
    taus = sorted(curve)
    for a, b in pairwise(taus):
        if (curve[a] - level) * (curve[b] - level) <= 0 and curve[a] != curve[b]:
            return f"{a + (b - a) * (level - curve[a]) / (curve[b] - curve[a]):.2f}"
    return "nowhere in 1 to 6"


def main() -> None:
    read = sweep("crossing", "crossing_network")
    groups = by(read.runs, lambda run: (run.summary["algo"], run.summary["tau"]))
    task = next(iter(groups.values()))[0].config.task["name"]
    rows = [
        (algo, tau, *(mean_text([tail(run, key) for run in runs]) for key, _ in MEASURES))
        for (algo, tau), runs in groups.items()
    ]
    print(table(("algorithm", "τ", *(name for _, name in MEASURES)), rows))
    m = next(iter(groups.values()))[0].summary["workers"]
    print()
    import numpy as np

    other = 1 / 3 + 2 / 3 * np.cos(2 * np.pi * np.arange(1, m) / m)  # the ring's eigenvalues but the first
    zeta = np.abs(other).max()
    print(f"bounds tie at τ = (1 + ζ²) / (1 - ζ²) = {(1 + zeta**2) / (1 - zeta**2):.2f}")
    left = (other**2 / (1 - other**2)).sum() / (m - 1)
    print(f"pure noise ties at τ = 1 + 1 / (m - 1) Σ λ² / (1 - λ²) = {1 + left:.2f} before a mixing, as runs log it,")
    print(f"and at τ = 1 + 2 / (m - 1) Σ λ² / (1 - λ²) = {1 + 2 * left:.2f} in the mean over a round")
    for key, name in MEASURES:
        curve = {tau: spread([tail(run, key) for run in runs])[0] for (algo, tau), runs in groups.items() if algo == "pasgd"}
        level = spread([tail(run, key) for run in groups["dpsgd", 1]])[0]
        print(f"{name}: PASGD has that of D-PSGD (τ = 1) at τ = {crossing(curve, level)}")
    axes, save = picture(read.picture)
    for algo in ("pasgd", "dpsgd"):
        colour, marker = styles.look(algo)
        taus = [tau for name, tau in groups if name == algo]
        found = [spread([tail(run, "consensus") for run in groups[algo, tau]]) for tau in taus]
        axes.errorbar(taus, [f[0] for f in found], [f[1] for f in found], marker=marker, color=colour, capsize=3, label=algo)
    axes.axhline(
        spread([tail(run, "consensus") for run in groups["dpsgd", 1]])[0], color=styles.look("dpsgd").colour, ls=":", lw=1
    )
    axes.set(xlabel="τ", ylabel="consensus distance", title=f"ring of {m} with thirds, {task}, 5 seeds")
    axes.legend()
    save()


if __name__ == "__main__":
    main()
