"""The figures of docs/algorithms/: of each family its matrices, and how fast models agree for what is sent.

Remake: python scripts/figure_families.py [NAME ...]    (needs matplotlib; two minutes, all arithmetic and runs of a quadratic)

Left: W of the first communication, row i being what member i takes, of 8 workers, auxiliary models behind them. Right: all
start apart (worker i has the i-th unit vector, auxiliary models the mean), nothing is learned, and communications follow.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

import coopsgd
from coopsgd.commands import compose
from coopsgd.fleet.block import vector
from coopsgd.predict import cost
from coopsgd.strategies.coder import Coder

matplotlib.use("agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parents[1] / "docs" / "algorithms"
M, ROUNDS, DRAWS = 8, 60, 30
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RING = (1, M - 1)
LAZY = [[0.6 if i == j else 0.2 if (i - j) % M in RING else 0 for j in range(M)] for i in range(M)]
# file -> words by label; those marked * have their W drawn
FAMILIES = {
    "averaging": {"pasgd*": "algo=pasgd", "independent*": "algo=independent"},
    "easgd": {
        "easgd, α = 2/(m+2)*": "algo=easgd",
        "easgd, α = 0.05": "algo=easgd algo.alpha=0.05",
        "gea on a ring*": "algo=gea topology=ring",
        "gossip on a ring": "algo=dpsgd topology=ring",
    },
    "gossip": {
        "dpsgd, ring*": "algo=dpsgd topology=ring",
        "dpsgd, exponential": "algo=dpsgd topology=exponential",
        "one_peer*": "algo=one_peer",
        "matching": "algo=matching topology=complete",
        "matcha, half the budget*": "algo=matcha topology=ring algo.budget=0.5",
        "gossip_pga, every 8th": "algo=gossip_pga topology=ring algo.every=8",
    },
    "server": {
        "parameter_server*": "algo=parameter_server",
        "fedavg, half of the clients*": "algo=fedavg algo.fraction=0.5",
        "fedavg, a quarter": "algo=fedavg algo.fraction=0.25",
    },
    "hierarchical": {
        "hierarchical, 2 groups*": "algo=hierarchical algo.groups=2",
        "two_level, 2 groups*": "algo=two_level algo.groups=2 tau=5 algo.tau_2=20",
        "pasgd": "algo=pasgd",
    },
    "outer": {
        "dpsgd, ring*": "algo=dpsgd topology=ring",
        "Nesterov 0.7 / 0.6": "algo=dpsgd topology=ring outer=nesterov outer.momentum=0.6",
        "Nesterov 0.7 / 0.9": "algo=dpsgd topology=ring outer=nesterov",
        "heavy ball 1 / 0.5": "algo=dpsgd topology=ring outer=momentum outer.momentum=0.5",
        "heavy ball 1 / 0.9": "algo=dpsgd topology=ring outer=momentum",
    },
    "your_w": {"lazy ring*": f"algo=cooperative algo.W={LAZY}"},
}
# on f_i that differ, without noise, at one rate
RULES = {
    "dpsgd": "algo=dpsgd optim.lr=0.02",
    "dpsgd, optim.momentum=0.9": "algo=dpsgd optim.lr=0.02 optim.momentum=0.9",
    "qg_dsgdm": "algo=qg_dsgdm optim.lr=0.02",
    "decentlam": "algo=decentlam optim.lr=0.02",
    "sgp on a star": "algo=sgp topology=star optim.lr=0.02",
    "relay on a binary tree": "algo=relay optim.lr=0.02",
}
PERIODS = {
    "tau=[[0,1],[200,4],[500,16]]": "tau=[[0,1],[200,4],[500,16]]",
    "period=post_local, switch=400": "period=post_local period.switch=400 tau=16",
    "period=qsr": "period=qsr tau=2 period.alpha=0.15 schedule=cosine",
    "period=adacomm": "period=adacomm tau=16 period.interval=50",
}


def of_words(words: str, seed: int) -> tuple[list[np.ndarray], list[float], int, Any]:
    """Matrices of the communications, messages that each sends a worker, auxiliary models, the outer step if there is one."""
    common = ("task=quadratic", f"workers={M}", f"seed={seed}")
    parts = compose.compose_config([*words.replace(", ", ",").split(), *common], look=True).parts
    schedule = parts.strategy.schedule
    matrices = [schedule.at(M, r).dense() for r in range(ROUNDS)]
    return matrices, [cost.of_round(parts, r)["messages"] / M for r in range(ROUNDS)], schedule.num_aux, parts.outer


def distances(words: str) -> tuple[np.ndarray, np.ndarray]:
    """Messages a worker so far, and the workers' mean squared distance to their mean, 1 at the start; means over draws."""
    sent, apart = [], []
    for seed in range(DRAWS):
        matrices, messages, v, outer = of_words(words, seed)
        x = np.concatenate([np.eye(M), np.full((v, M), 1 / M)])
        found = [1.0]
        z = torch.from_numpy(x)
        memory = outer.begin(z) if outer else ()
        for W in matrices:
            if outer:
                outer.step(z, torch.from_numpy(W @ z.numpy()), memory, 1.0)
                x = z.numpy()
            else:
                x = W @ x
            found.append(float(((x[:M] - x[:M].mean(0)) ** 2).sum() / (M - 1)))
        sent.append(np.concatenate([[0], np.cumsum(messages)]))
        apart.append(found)
        if all(np.array_equal(one, other) for one, other in zip(matrices, of_words(words, 10**6)[0], strict=True)):
            break  # nothing is drawn
    return np.mean(sent, 0), np.mean(apart, 0)


def heat(axes, W: np.ndarray, v: int, title: str) -> None:
    n = len(W)
    axes.imshow(W, cmap="Blues", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(np.abs(W) > 1e-9), strict=True):
        axes.text(
            j,
            i,
            f"{W[i, j]:.2f}".removeprefix("0").rstrip("0").rstrip(".") or "0",
            ha="center",
            va="center",
            fontsize=6,
            color="white" if W[i, j] > 0.55 else "black",
        )
    names = [*map(str, range(n - v)), *(f"aux {a}" for a in range(v))]
    axes.set_xticks(range(n), names, fontsize=6, rotation=90)
    axes.set_yticks(range(n), names, fontsize=6)
    axes.set_title(title, fontsize=9)


def family(name: str) -> None:
    lines = FAMILIES[name]
    drawn = {label.removesuffix("*"): words for label, words in lines.items() if label.endswith("*")}
    figure, axes = plt.subplots(
        1, len(drawn) + 1, figsize=(3.0 * len(drawn) + 4.2, 3.4), width_ratios=[3] * len(drawn) + [4], layout="constrained"
    )
    for at, (label, words) in zip(axes, drawn.items(), strict=False):
        matrices, _, v, _ = of_words(words, 0)
        heat(at, matrices[0], v, f"W of {label}")
    for colour, (label, words) in zip(COLOURS, lines.items(), strict=False):
        sent, apart = distances(words)
        axes[-1].plot(sent, np.maximum(apart, 1e-9), label=label.removesuffix("*"), color=colour, marker=".", markersize=4)
    axes[-1].set(
        yscale="log",
        ylim=(1e-6, 1.5),
        xlim=(-0.3, 24),
        xlabel="messages sent by a worker, in the mean",
        ylabel="distance to the mean (1 at the start)",
    )
    axes[-1].legend(fontsize=7)
    axes[-1].grid(alpha=0.3)
    figure.savefig(FOLDER / f"{name}.png", dpi=110)
    plt.close(figure)


TICKS = [1, 4, 16, 64, 256, 1024]


def adaptive_tau() -> None:
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        for number, (colour, (label, words)) in enumerate(zip(COLOURS, PERIODS.items(), strict=False)):
            more = "algo=pasgd task=quadratic task.sigma=0.3 workers=4 processes=1 steps=1000 log_every=1 eval_every=1000"
            run = coopsgd.train(f"{words} {more}", {"hydra": {"run": {"dir": f"{folder}/{number}"}}}, quiet=True)
            steps, taus = zip(*((line["step"], line["tau"]) for line in run.metrics() if line["tau"] is not None), strict=True)
            axes.step(steps, taus, where="post", label=label, color=colour)
    axes.set(xlabel="step", ylabel="τ of the round", yscale="log", yticks=TICKS)
    axes.set_yticklabels(map(str, TICKS))
    axes.minorticks_off()
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.savefig(FOLDER / "adaptive_tau.png", dpi=110)


def rules() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    more = f"task=quadratic task.sigma=0 dtype=float64 workers={M} processes=1 steps=300 log_every=1 eval_every=1"
    with tempfile.TemporaryDirectory() as folder:
        for number, (colour, (label, words)) in enumerate(zip(COLOURS, RULES.items(), strict=False)):
            run = coopsgd.train(f"{words} {more}", {"hydra": {"run": {"dir": f"{folder}/{number}"}}}, quiet=True)
            lines = [line for line in run.metrics() if line.get("eval/loss") is not None]
            for at, name in zip(axes, ("consensus", "eval/loss"), strict=True):
                at.plot([line["step"] for line in lines], [line[name] for line in lines], label=label, color=colour)
    axes[0].set(xlabel="step", ylabel="consensus distance", yscale="log")
    axes[1].set(xlabel="step", ylabel="loss of the model that is shipped", yscale="log")
    axes[0].legend(fontsize=7)
    for at in axes:
        at.grid(alpha=0.3)
    figure.savefig(FOLDER / "rules.png", dpi=110)


# of 8 workers on a ring, 8 local steps a round
CORRECTIONS = {
    "none": "",
    "proximal, mu 1": "correction=proximal correction.mu=1",
    "led": "correction=led algo.lazy=true",
    "kgt": "correction=kgt",
}


def corrections() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    more = (
        f"algo=dpa tau=8 task=quadratic task.sigma=0 dtype=float64 workers={M} processes=1 steps=800 log_every=8 eval_every=8"
    )
    with tempfile.TemporaryDirectory() as folder:
        for number, (colour, (label, words)) in enumerate(zip(COLOURS, CORRECTIONS.items(), strict=False)):
            run = coopsgd.train(f"{words} {more}", {"hydra": {"run": {"dir": f"{folder}/{number}"}}}, quiet=True)
            lines = [line for line in run.metrics() if line.get("eval/loss") is not None]
            for at, name in zip(axes, ("consensus", "eval/loss"), strict=True):
                at.plot([line["step"] for line in lines], [line[name] for line in lines], label=label, color=colour)
    axes[0].set(xlabel="step", ylabel="consensus distance", yscale="log")
    axes[1].set(xlabel="step", ylabel="loss of the model that is shipped", yscale="log")
    axes[0].legend(fontsize=7)
    for at in axes:
        at.grid(alpha=0.3)
    figure.savefig(FOLDER / "corrections.png", dpi=110)


CODECS = {
    "topk": ("codec.share", (0.001, 0.01, 0.1, 0.5)),
    "randk": ("codec.share", (0.01, 0.1, 0.5)),
    "qsgd": ("codec.bits", (2, 4, 8)),
    "minmax": ("codec.bits", (2, 4, 8)),
    "statistical": ("codec.bits", (2, 4, 8)),
    "sign": ("steps", (1,)),
    "bf16": ("steps", (1,)),
    "fp16": ("steps", (1,)),
}


def compression() -> None:
    figure, axes = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    numbers = torch.randn(1, 1 << 16, generator=torch.Generator().manual_seed(0))
    for number, (name, (key, values)) in enumerate(CODECS.items()):
        points = []
        for value in values:
            codec = compose.compose_config(["task=quadratic", "algo=pasgd", f"codec={name}", f"{key}={value}"]).parts.codec
            coder = Coder(codec, codec.segments(vector(numbers.shape[1]), None), numbers.shape[1], numbers.dtype, 0)
            packed = coder.pack(numbers, range(1), False)
            apart = (coder.unpack(packed, range(1))[0] - numbers).norm() / numbers.norm()
            points.append((8 * packed.shape[1] / numbers.shape[1], float(apart)))
        marker = "osD^"[number // 5]
        axes.plot(*zip(*points, strict=True), label=name, color=COLOURS[number % len(COLOURS)], marker=marker)
    axes.set(xscale="log", yscale="log", xlabel="bits a number", ylabel="relative error of one message")
    axes.legend(fontsize=7, ncols=2)
    axes.grid(alpha=0.3)
    figure.savefig(FOLDER / "compression.png", dpi=110)
    plt.close(figure)


OTHERS = {"compression": compression, "adaptive_tau": adaptive_tau, "rules": rules, "corrections": corrections}

if __name__ == "__main__":
    for name in sys.argv[1:] or [*FAMILIES, *OTHERS]:
        OTHERS[name]() if name in OTHERS else family(name)
