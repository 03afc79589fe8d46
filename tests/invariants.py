"""Laws that hold for every (tau, W, v), tried on configs drawn at random.

`LAWS` are functions of a drawn config that measure how far a law is from being kept, None where it does not apply.
tests/test_invariants.py tries a few configs, scripts/trust.py hundreds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import oracle
import torch
from playing import MLP, QUADRATIC, mixed, play_settled, settle, written

from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing.written import Written
from coopsgd.setup import build, schema
from coopsgd.setup.parts import Parts

DIM = 10


@dataclass
class Drawn:
    """One config of the framework, by its number."""

    number: int
    m: int
    v: int
    tau: Any
    Ws: list[np.ndarray]  # the cycle
    doubly: bool
    order: str
    delay: Any
    optim: dict[str, Any]
    buffers: str
    processes: int
    steps: int
    seed: int

    def __str__(self) -> str:
        kind = "doubly stochastic" if self.doubly else "row-stochastic"
        return (
            f"number {self.number}: m={self.m} v={self.v} tau={self.tau} {len(self.Ws)} {kind} W, {self.order}, "
            f"delay={self.delay}, {self.optim}, buffers={self.buffers}, {self.steps} steps, seed={self.seed}, "
            f"{self.processes} processes"
        )

    def settings(self, base: tuple[str, ...] = (*QUADRATIC, "task.heterogeneity=1.0")) -> schema.Config:
        """What `coopsgd train` would read; a checked config of the same kind with the drawn values in it."""
        settings = settle((*base, "algo=cooperative", written(np.eye(8)), "algo.allow_disconnected=true"))
        settings.workers, settings.tau, settings.steps, settings.seed = self.m, self.tau, self.steps, self.seed
        settings.optim = {**settings.optim, **self.optim} if self.optim["name"] == "sgd" else dict(self.optim)
        W = written(np.stack(self.Ws) if len(self.Ws) > 1 else self.Ws[0]).removeprefix("algo.W=")
        settings.algo |= {"W": W, "v": self.v}
        settings.order, settings.delay, settings.buffers = self.order, self.delay, self.buffers
        Parts(settings).strategy.schedule.check(self.m)
        return settings

    def linear(self) -> bool:
        """Is it SGD whose momentum stays with its worker, as oracle.py writes it?"""
        return self.optim["name"] == "sgd" and self.buffers == "keep"


def draw(number: int) -> Drawn:
    """Config `number`: always the same one."""
    rng = np.random.default_rng([2018, number])
    processes = int(rng.choice([2, 4]))
    m = processes * int(rng.integers(1, 4 if processes == 2 else 3))
    v = int(rng.choice([0, 0, 1, 2]))
    doubly, order = bool(rng.random() < 0.6), str(rng.choice(["atc", "atc", "cta", "late"]))
    delay: Any = [1, 2, "tau"][number % 3] if order == "late" else 0
    Ws = [(_doubly if doubly else _stochastic)(rng, m + v) for _ in range(int(rng.choice([1, 1, 2, 3])))]
    tau: Any = int(rng.integers(1, 7))
    if rng.random() < 0.3:
        tau = [[0, tau], [int(rng.integers(1, 9)), int(rng.integers(1, 7))]]
    optim: dict[str, Any] = {
        "name": "sgd",
        "lr": float(rng.uniform(0.02, 0.2)),
        "momentum": float(rng.choice([0, 0, 0.5, 0.9])),
    }
    if rng.random() < 0.15:
        optim = {"name": "adam", "lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    buffers = str(rng.choice(["keep", "keep", "reset"] if v else ["keep", "keep", "reset", "average"]))
    steps, seed = int(rng.integers(10, 31)), int(rng.integers(1000))
    return Drawn(number, m, v, tau, Ws, doubly, order.replace("late", "atc"), delay, optim, buffers, processes, steps, seed)


def _doubly(rng: np.random.Generator, n: int) -> np.ndarray:
    """Permutations of n mixed with random weights, the identity among them: doubly stochastic, any sparsity, not symmetric."""
    weights = rng.dirichlet(np.ones(int(rng.integers(1, 4)) + 1))
    kept = [np.eye(n), *(np.eye(n)[rng.permutation(n)] for _ in weights[1:])]
    return sum((w * P for w, P in zip(weights, kept, strict=True)), np.zeros((n, n)))


def _stochastic(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows that sum to one, some entries zero."""
    W = rng.random((n, n)) * (rng.random((n, n)) < rng.uniform(0.3, 1)) + np.eye(n) * 0.1
    return W / W.sum(1, keepdims=True)


class Stepping(oracle.Problem):
    """The papers' problem with momentum: asked for once a step."""

    def __init__(self, p: oracle.Problem, momentum: float) -> None:
        super().__init__(**vars(p))
        self._momentum, self._b = momentum, np.zeros_like(p.c)

    def gradient(self, i: int, x: np.ndarray, k: int) -> np.ndarray:
        self._b[i] = self._momentum * self._b[i] + super().gradient(i, x, k)
        return self._b[i].copy()


def _problem(settings: schema.Config) -> oracle.Problem:
    task = Parts(settings).task
    a, c, x0 = task.arrays(settings.workers, settings.seed)
    p = oracle.Problem(a, c, x0, task.sigma, settings.seed, settings.optim["lr"], settings.tau, settings.steps)
    return Stepping(p, settings.optim["momentum"])


def _off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def formulas(process_groups: Any, drawn: Drawn) -> float | None:
    if not drawn.linear() or (len(drawn.Ws) > 1 and (drawn.order != "atc" or drawn.delay)):
        return None
    settings = drawn.settings()
    p, W = _problem(settings), drawn.Ws[0].tolist()
    expected = {
        ("atc", 0): lambda: oracle.periodic(p, lambda x, r: oracle.product(drawn.Ws[r % len(drawn.Ws)].tolist(), x), drawn.v),
        ("cta", 0): lambda: oracle.combine_then_adapt(p, W, drawn.v),
    }.get((drawn.order, drawn.delay), lambda: oracle.delayed(p, W, drawn.delay, drawn.v))()
    return _off(play_settled(process_groups, 1, settings).x, expected)


def placement(process_groups: Any, drawn: Drawn) -> float:
    settings = drawn.settings()
    one, many = (play_settled(process_groups, p, settings) for p in (1, drawn.processes))
    assert one.logical == many.logical, f"{drawn}: the ledger says {one.logical} in one process, {many.logical} in many"
    return _off(one.x, many.x)


def mean(process_groups: Any, drawn: Drawn) -> float | None:
    """Without curvature gradients are the noise alone: the mean of all m + v models takes the steps of the mean noise.

    Momentum is linear in the gradients, so its mean is the momentum of the mean, mixed by W or not.
    """
    if not drawn.doubly or drawn.optim["name"] != "sgd" or drawn.buffers == "reset":
        return None
    settings = drawn.settings()
    settings.task |= {"heterogeneity": 0.0, "curvature": [[0.0] * DIM] * drawn.m, "centers": [[0.0] * DIM] * drawn.m}
    p = _problem(settings)
    x = p.x0
    for k in range(p.K):
        x = x - p.eta * sum(p.gradient(i, p.x0, k) for i in range(p.m)) / (drawn.m + drawn.v)
    return _off(play_settled(process_groups, drawn.processes, settings).x.mean(0), x)


def repeat(process_groups: Any, drawn: Drawn) -> float:
    settings = drawn.settings()
    one, two = (play_settled(process_groups, drawn.processes, settings) for _ in range(2))
    assert one.logical == two.logical and one.wire_bytes == two.wire_bytes
    return 0.0 if np.array_equal(one.x, two.x) else max(_off(one.x, two.x), 5e-324)


def ledger(process_groups: Any, drawn: Drawn) -> float:
    """What the plan says a process hands to the network, and the ledger charges, against what torch.distributed was given."""
    x = np.random.default_rng(drawn.number).standard_normal((drawn.m + drawn.v, 6))
    furthest = 0.0
    for found in zip(*process_groups(drawn.processes)(mixed, drawn.processes, drawn.v, drawn.Ws, x), strict=True):
        for planned, charged, handed in (message for _, message in found):
            furthest = max(furthest, abs(planned - handed), abs(charged - handed))
    return furthest


def messages(process_groups: Any, drawn: Drawn) -> float | None:
    """Messages and bytes of a whole run against a count by hand: an entry of W off the diagonal is one model."""
    settings = drawn.settings()
    if drawn.v or any(len(np.unique(W.round(12), axis=0)) < len(W) for W in drawn.Ws):
        return None  # an auxiliary model has a host among the workers; equal rows are a sum, charged as a ring all-reduce
    if drawn.delay and _problem_rounds(settings)[-1] < 0:
        return None  # a message may be under way when the run ends
    due = [r for r in _problem_rounds(settings) if r >= 0]
    if drawn.order == "cta" and _problem_rounds(settings)[-1] >= 0:
        due = due[:-1]  # the last one waits for a step that does not come
    entries = sum(int(np.count_nonzero(W - np.diag(np.diag(W)))) for W in (drawn.Ws[r % len(drawn.Ws)] for r in due))
    width = 8 * DIM * (1 + _buffers(drawn))
    rounds, sent, moved = play_settled(process_groups, drawn.processes, settings).logical
    return float(abs(rounds - len(due)) + abs(sent - entries) + abs(moved - entries * width))


def _buffers(drawn: Drawn) -> int:
    if drawn.buffers != "average":
        return 0
    return 2 if drawn.optim["name"] == "adam" else int(drawn.optim["momentum"] > 0)


def _problem_rounds(settings: schema.Config) -> list[int]:
    empty = np.zeros((settings.workers, 0))
    return oracle.Problem(empty, empty, empty, 0, 0, 0, settings.tau, settings.steps).rounds()


def contraction(process_groups: Any, drawn: Drawn) -> float | None:
    """How much a communication leaves of the disagreement, less zeta times what there was: never above 0."""
    if not drawn.doubly:
        return None
    n, W = drawn.m + drawn.v, drawn.Ws[0]
    zeta = Written(W=W.tolist(), v=drawn.v).zeta(drawn.m)
    rows = torch.from_numpy(np.random.default_rng(drawn.number).standard_normal((n, 50)))
    before = float(torch.linalg.vector_norm(rows - rows.mean(0)))
    Stacked(Layout(drawn.m, drawn.v, 1)).mix(W, rows)
    after = float(torch.linalg.vector_norm(rows - rows.mean(0)))
    return max(0.0, after - zeta * before)


def agreement(process_groups: Any, drawn: Drawn) -> float:
    """Rows of W sum to one: models that agree stay where they are."""
    x = np.tile(np.random.default_rng(drawn.number).standard_normal(6), (drawn.m + drawn.v, 1))
    return max(
        _off(after, x)
        for after, _ in process_groups(drawn.processes)(mixed, drawn.processes, drawn.v, drawn.Ws, x.copy())[0]
        if after is not None
    )


def fused(process_groups: Any, drawn: Drawn) -> float | None:
    """Plain SGD steps of an mlp, several at once and without a stored gradient, against one by one."""
    if drawn.optim != {**drawn.optim, "name": "sgd", "momentum": 0.0}:
        return None
    settings = drawn.settings((*MLP, "workers=8", "batch_size=8", "steps=10"))
    settings.steps = min(settings.steps, 20)
    slow = copy.deepcopy(settings)
    slow.algo["strategy"] = "invariants:Unfused"
    return _off(play_settled(process_groups, 1, settings).x, play_settled(process_groups, 1, slow).x)


class Law(NamedTuple):
    """What holds, how far it may be off, and what measures it."""

    says: str
    within: float
    measure: Callable[[Any, Drawn], float | None]


LAWS = (
    Law("the models are those of the papers' formulas (SGD, momentum; every order and delay)", 1e-12, formulas),
    Law("placement does not matter: one process or several, the same models and the same ledger", 1e-12, placement),
    Law("doubly stochastic W: the mean of all models takes the steps of the mean gradient, whatever is mixed", 1e-12, mean),
    Law("a run repeated is the same run, bit for bit", 0.0, repeat),
    Law("vectors handed to the network: as planned, as charged, as counted where torch.distributed is called", 1e-9, ledger),
    Law("rounds, messages and bytes of a run are those counted by hand from W and tau (v = 0)", 0.0, messages),
    Law("a communication leaves at most zeta of the disagreement", 1e-12, contraction),
    Law("models that agree stay where they are", 1e-14, agreement),
    Law("plain steps fused with their gradient, several at a time, are the steps one by one", 1e-12, fused),
)


class Unfused(build.class_of("strategy", "algo.strategy", "cooperative")):  # type: ignore
    """Every gradient stored and used one step at a time."""

    def direction(self, fleet: Any, t: Any, grad: Any, x: Any, s: Any) -> Any:
        return grad, s
