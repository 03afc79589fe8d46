"""Every algorithm at equal bytes: loss after the same megabytes sent by a worker, m = 8, Fashion-MNIST.

Remake: coopsgd train -m experiment=equal_bytes, then python scripts/figure_bytes.py MULTIRUN_FOLDER    (needs matplotlib)
"""

from __future__ import annotations

from results import by, picture, spread, sweep, table, told

import coopsgd

BUDGETS = (20, 100, 200)  # models sent a worker: 2 (m - 1) / m of them are one all-reduce


def at(run: coopsgd.Run, budget: float) -> tuple[float | None, int]:
    """Training loss, mean over the last five lines within a budget of models sent a worker, and the steps it took."""
    width = run.summary["parameters"] * (8 if run.config.dtype == "float64" else 4)
    within = [line for line in run.metrics() if line["bytes"] <= budget * width * run.summary["workers"] and line["step"]]
    losses = [line["train/loss"] for line in within[-5:]]
    return (sum(losses) / len(losses) if losses and None not in losses else None), within[-1]["step"] if within else 0


def main() -> None:
    groups = by(sweep(), lambda run: run.summary["algo"])
    rows = []
    for algo, runs in groups.items():
        found = [[at(run, budget) for run in runs] for budget in BUDGETS]
        cells = [f"{told([loss for loss, _ in column])} ({column[0][1]})" for column in found]
        rows.append((found[-1], (algo, runs[0].summary["tau"], *cells)))
    rows.sort(key=lambda row: spread([loss if loss is not None else 99.0 for loss, _ in row[0]])[0])
    print(table(("algorithm", "τ", *(f"{b} models a worker (steps)" for b in BUDGETS)), [row for _, row in rows]))
    axes, save = picture("equal_bytes")
    for number, (algo, runs) in enumerate(groups.items()):
        width, m = runs[0].summary["parameters"] * 4, runs[0].summary["workers"]
        lines = [[line for line in run.metrics() if line["step"] and line["step"] % 100 == 0] for run in runs]
        x = [line["bytes"] / (width * m) for line in lines[0]]
        y = [spread([line[k]["train/loss"] for line in lines])[0] for k in range(len(x))]
        if x[-1] > 0:
            axes.plot(x, y, label=algo, color=f"C{number % 10}", ls=("-", "--")[number // 10])
    axes.set(xscale="log", xlabel="models sent by a worker", ylabel="training loss, mean of 5 seeds", ylim=(0.15, 1.0))
    axes.set_title("Fashion-MNIST, mlp, m = 8, learning rate 0.1")
    axes.legend(fontsize=7, ncols=2)
    save()


if __name__ == "__main__":
    main()
