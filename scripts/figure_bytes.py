"""Every algorithm at equal bytes: test loss after the same megabytes sent by a worker, m = 8, Fashion-MNIST.

Remake: coopsgd train -m experiment=equal_bytes, then python scripts/figure_bytes.py FOLDER [-o FILE]    (needs matplotlib)
"""

from __future__ import annotations

from typing import Any

from results import by, mean_text, picture, spread, sweep, table

import coopsgd
from coopsgd.run import styles

BUDGETS = (20, 50, 100)  # models sent by a worker: 2 (m - 1) / m of them are one all-reduce


def sent(run: coopsgd.Run, line: dict[str, Any]) -> float:
    """Models that a worker has sent by this line, mean over workers (a server's are counted among them)."""
    width = run.summary["parameters"] * (8 if run.config.dtype == "float64" else 4)
    return float(line["bytes"]) / width / int(run.summary["workers"])


def at(run: coopsgd.Run, budget: float) -> tuple[float | None, int]:
    """Test loss of the answer at the last evaluation within a budget of models sent a worker, and the steps it took."""
    within = [line for line in run.metrics() if sent(run, line) <= budget and line["step"] and "eval/loss" in line]
    return (within[-1]["eval/loss"], within[-1]["step"]) if within else (None, 0)


def main() -> None:
    read = sweep("equal_bytes")
    groups = by(read.runs, lambda run: run.summary["algo"])
    rows = []
    for algo, runs in groups.items():
        found = [[at(run, budget) for run in runs] for budget in BUDGETS]
        cells = [f"{mean_text([loss for loss, _ in column])} ({column[0][1]})" if column[0][1] else "–" for column in found]
        final = [run.summary["eval"]["eval/loss"] for run in runs]
        total = sent(runs[0], runs[0].metrics()[-1])
        last = [loss for loss, _ in found[-1]]
        order = spread(last)[0] if None not in last else 10 + total
        rows.append((order, (algo, runs[0].summary["tau"], *cells, f"{mean_text(final)} ({total:.4g})")))
    rows.sort(key=lambda row: row[0])
    head = (*(f"{b} models a worker (steps)" for b in BUDGETS), "1000 steps (models)")
    print(table(("algorithm", "τ", *head), [row for _, row in rows]))
    axes, save = picture(read.picture)
    for algo, runs in groups.items():
        lines = [[line for line in run.metrics() if line["step"] and "eval/loss" in line] for run in runs]
        x = [sent(runs[0], line) for line in lines[0]]
        y = [spread([line[k]["eval/loss"] for line in lines])[0] for k in range(len(x))]
        if x[-1] > 0:
            look = styles.look(algo)
            axes.plot(x, y, label=algo, color=look.colour, marker=look.marker, markersize=3.5, markevery=0.15)
    axes.set(xscale="log", xlabel="models sent by a worker", ylabel="test loss of the answer, mean of 5 seeds")
    axes.set_title("Fashion-MNIST, mlp, m = 8, learning rate 0.1")
    axes.legend(fontsize=7, ncols=2)
    save()


if __name__ == "__main__":
    main()
