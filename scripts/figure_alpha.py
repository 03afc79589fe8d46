"""EASGD's alpha: final loss against zeta, m = 8, Fashion-MNIST.

Remake: coopsgd train -m experiment=alpha, then python scripts/figure_alpha.py MULTIRUN_FOLDER    (needs matplotlib)
"""

from __future__ import annotations

from results import by, picture, spread, sweep, table, tail, told


def main() -> None:
    groups = by(sweep(), lambda run: float(run.config.algo["alpha"]))
    rows, curve = [], []
    for alpha, runs in groups.items():
        zeta = runs[0].summary["zeta"]
        losses, best = [tail(run, "train/loss", 0.25) for run in runs], [run.summary["eval"]["eval/loss"] for run in runs]
        consensus = [tail(run, "consensus", 0.25) for run in runs]
        rows.append((alpha, f"{zeta:.3f}", told(losses), told(best), told(consensus, 3)))
        curve.append((zeta, alpha, *spread(losses)))
    print(table(("α", "ζ", "train loss", "test loss", "consensus"), rows))
    axes, save = picture("alpha")
    for zeta, alpha, mean, deviation in sorted(curve):
        past = alpha > 2 / 10  # beyond 2 / (m + 2) zeta grows again
        axes.errorbar(zeta, mean, deviation, fmt="s" if past else "o", color="tab:red" if past else "tab:blue", capsize=3)
        axes.annotate(f"{alpha:g}", (zeta, mean), textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.set(xlabel="ζ (labels: α; squares: α above 2/(m+2))", ylabel="training loss, last quarter, 5 seeds")
    axes.set_title("EASGD, m = 8, τ = 10, Fashion-MNIST, mlp")
    save()


if __name__ == "__main__":
    main()
