"""EASGD's alpha: final loss against zeta, m = 8, Fashion-MNIST.

Remake: coopsgd train -m experiment=alpha, then python scripts/figure_alpha.py FOLDER [-o FILE]    (needs matplotlib)
"""

from __future__ import annotations

from results import by, mean_text, picture, spread, sweep, table, tail

from coopsgd.run import styles


def main() -> None:
    read = sweep("alpha")
    groups = by(read.runs, lambda run: float(run.config.algo["alpha"]))
    rows, curve = [], []
    for alpha, runs in groups.items():
        zeta = runs[0].summary["zeta"]
        own, mean_model = ([tail(run, key, 0.25) for run in runs] for key in ("train/loss", "eval/loss"))
        consensus = [tail(run, "consensus", 0.25) for run in runs]
        rows.append((alpha, f"{zeta:.3f}", mean_text(mean_model), mean_text(own), mean_text(consensus, 3)))
        curve.append((zeta, alpha, *spread(mean_model)))
    print(table(("α", "ζ", "test loss of the mean model", "training loss of the workers", "consensus"), rows))
    axes, save = picture(read.picture)
    for zeta, alpha, mean, deviation in sorted(curve):
        past = alpha > 2 / 10  # beyond 2 / (m + 2) zeta grows again
        axes.errorbar(
            zeta,
            mean,
            deviation,
            fmt="s" if past else "o",
            color=styles.BLACK if past else styles.look("easgd").colour,
            capsize=3,
        )
        axes.annotate(f"{alpha:g}", (zeta, mean), textcoords="offset points", xytext=(6, -10 if past else 4), fontsize=8)
    axes.set(xlabel="ζ (labels: α; squares: α above 2/(m+2))", ylabel="test loss of the mean model, last quarter")
    axes.set_title("EASGD, m = 8, τ = 10, Fashion-MNIST, mlp, 5 seeds")
    save()


if __name__ == "__main__":
    main()
