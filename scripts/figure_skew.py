"""Dirichlet(0.1) labels against an even deal: final test loss and accuracy of every algorithm, m = 8, Fashion-MNIST.

Remake: coopsgd train -m experiment=skew, then python scripts/figure_skew.py FOLDER [-o FILE]    (needs matplotlib)
"""

from __future__ import annotations

from results import by, mean_text, picture, spread, sweep, table

import coopsgd
from coopsgd.run import styles

DEALS = ("iid", "dirichlet")


def final(run: coopsgd.Run, key: str) -> float | None:
    return run.summary["eval"].get(f"eval/{key}") if run.summary["status"] == "completed" else None


def main() -> None:
    read = sweep("skew")
    groups = by(read.runs, lambda run: (run.summary["algo"], run.config.partition["name"]))
    rows = []
    for algo in sorted({algo for algo, _ in groups}):
        cells = [mean_text([final(run, key) for run in groups[algo, deal]]) for key in ("loss", "accuracy") for deal in DEALS]
        worst = mean_text([final(run, "accuracy_worst") for run in groups[algo, "dirichlet"]])
        rows.append((algo, groups[algo, "iid"][0].summary["tau"], *cells, worst))
    head = ("loss, iid", "loss, skewed", "accuracy, iid", "accuracy, skewed", "worst worker, skewed")
    print(table(("algorithm", "τ", *head), rows))
    axes, save = picture(read.picture)
    names = [row[0] for row in rows]
    for shift, deal, colour in ((-0.2, "iid", styles.BLUE), (0.2, "dirichlet", styles.ORANGE)):
        found = [spread([final(run, "accuracy") or 0.0 for run in groups[algo, deal]]) for algo in names]
        places = [i + shift for i in range(len(names))]
        axes.bar(places, [f[0] for f in found], 0.4, yerr=[f[1] for f in found], color=colour, label=deal, capsize=2)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set(ylabel="test accuracy of the answer, 5 seeds", ylim=(0.5, 0.9), title="Fashion-MNIST, mlp, m = 8, 1000 steps")
    axes.legend()
    save()


if __name__ == "__main__":
    main()
