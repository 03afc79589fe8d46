"""Noisy quadratics: everything about them is known in closed form, so theory can be held against measurement."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.host import sizes
from coopsgd.host.transfer import brought
from coopsgd.mixing.base import load_array
from coopsgd.registry import option, register
from coopsgd.streams import stream
from coopsgd.tasks.base import Problem, Task
from coopsgd.tasks.known import Known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from coopsgd.setup.schema import Config


@register("quadratic", "task")
@dataclass(frozen=True)
class Quadratic(Task):
    """f_i(x) = 1/2 sum_j a_ij (x_j - c_ij)^2, gradients with noise of E||noise||^2 = sigma^2 in all.

    a and c, (m, dim), are drawn from the seed (a within [0.1, 1], c normal; heterogeneity 0 gives every worker the
    same f) or read from files by `curvature` and `centers`. Starts at 0 or at `start`, (dim,).
    """

    dim: int = option(10, "d, numbers of a model", unit="numbers")
    sigma: float = option(1.0, "of the gradient noise: E||noise||^2 = sigma^2, in all", unit="")
    heterogeneity: float = option(1.0, "how far the workers' minima lie apart; 0: every worker has the same f", unit="")
    curvature: Any = option(
        None, "(m, dim), of each worker's f; null: drawn from the seed", unit="", type="path of numbers, list or null"
    )
    centers: Any = option(
        None,
        "(m, dim), the minimum of each worker's f; null: drawn from the seed",
        unit="",
        type="path of numbers, list or null",
    )
    start: Any = option(None, "(dim,), where the models begin; null: at 0", unit="", type="path of numbers, list or null")

    ARRAYS = ("curvature", "centers", "start")

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"task.dim: must be at least 1, got {self.dim}")
        if not self.sigma >= 0 or not self.heterogeneity >= 0:
            raise ValueError(
                f"task.sigma and task.heterogeneity must not be negative, got {self.sigma} and {self.heterogeneity}"
            )

    def arrays(self, m: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """a (m, d), c (m, d), x_0 (d,)."""
        files: dict[str, np.ndarray] = {}
        given: int | None = None  # d, by the first of them

        def fits(name: str, shape: tuple[int, ...]) -> None:
            nonlocal given
            given = shape[-1] if given is None and shape else given
            d = self.dim if given is None else given
            wanted: tuple[int, ...] = (d,) if name == "start" else (m, d)
            if shape != wanted:
                raise ValueError(f"task.{name}: must have shape {wanted} for {m} workers, got {shape}")

        for name in self.ARRAYS:
            if (value := getattr(self, name)) is not None:
                files[name] = load_array(f"task.{name}", value, partial(fits, name))
        d = self.dim if given is None else given
        key = "task.dim" if d >= m else "workers"
        sizes.refuse(key, 5 * 8.0 * m * d, f"{m} quadratics of {d} coordinates", "lower task.dim or workers")
        if "curvature" in files and not (files["curvature"] >= 0).all():
            raise ValueError("task.curvature: holds an entry that is negative or not a number")
        if d == 0:
            raise ValueError("task: the given arrays are empty; a quadratic needs at least one coordinate")
        h, draw = self.heterogeneity, stream(seed, "quadratic")
        # log-uniform in [0.1, 1]; own draws weigh h against 1 for the shared one, so the range is kept
        shared, own = draw.uniform(np.log(0.1), 0, d), draw.uniform(np.log(0.1), 0, (m, d))
        a = np.exp((shared + h * own) / (1 + h))
        c = draw.standard_normal(d) + h * draw.standard_normal((m, d))
        return files.get("curvature", a), files.get("centers", c), files.get("start", np.zeros(d))

    def check(self, config: Config) -> None:
        arrays = self.arrays(config.workers, config.seed)
        for name, array in zip(self.ARRAYS, arrays, strict=True) if config.dtype == "float32" else ():
            if len(at := np.argwhere(np.abs(array) > np.finfo(np.float32).max)):
                where = at[0].tolist()
                raise ValueError(f"task.{name}: holds {array[tuple(where)]:g} at {where}, beyond float32; use dtype=float64")

    def known(self, config: Config) -> Known:
        """L is the largest curvature of any f_i, L_F that of their mean. kappa2, unbounded in x, is the start's.

        With x* an optimum of F and a the mean of the a_i, grad f_i - grad F at x is a_i (x* - c_i) + (a_i - a) (x - x*), and
        grad F is a (x - x*): beta is the largest standard deviation of a_ij over i, in units of its mean.
        """
        a, c, start = self.arrays(config.workers, config.seed)
        mean = a.mean(0)
        best = np.divide((a * c).mean(0), mean, out=start.astype(float), where=mean > 0)  # flat coordinates: any value will do
        own = a * (start - c)
        off = ((own - own.mean(0)) ** 2).sum(1).mean()
        gap = 0.5 * float(mean @ (start - best) ** 2)
        apart = 0.0 if off < 1e-24 * (own**2).sum() else float(off)
        best_apart = beta = 0.0
        if (a != a[0]).any() or (a * c != (a * c)[0]).any():
            best_apart = float(((a * (best - c)) ** 2).sum(1).mean())
            beta = float(np.divide(a.std(0), mean, out=np.zeros_like(mean), where=mean > 0).max())
        return Known(float(a.max()), self.sigma**2, gap, apart, float(mean.max()), best_apart, beta)

    def dimension(self, config: Config) -> int:
        return self.arrays(config.workers, config.seed)[0].shape[1]

    def infimum(self, config: Config) -> float:
        a, c, _ = self.arrays(config.workers, config.seed)
        weight = a.sum(0)
        best = np.divide((a * c).sum(0), weight, out=np.zeros_like(weight), where=weight > 0)
        return float(0.5 * (a * (best - c) ** 2).sum(1).mean())

    def build(self, config: Config, rows: range, device: Any) -> QuadraticProblem:
        return QuadraticProblem(self, config, rows, device)


class QuadraticProblem(Problem):
    """Closed-form losses and gradients of all rows at once."""

    samples = 1
    steps_per_epoch: int | None = None

    def __init__(self, task: Quadratic, config: Config, rows: range, device: Any) -> None:
        import torch

        self._kind = {"dtype": getattr(torch, config.dtype), "device": device}
        self._a, self._c, self._start = (torch.from_numpy(x).to(**self._kind) for x in task.arrays(config.workers, config.seed))
        self._rows, self._seed = rows, config.seed
        self._scale = task.sigma / self._a.shape[1] ** 0.5  # a coordinate's share of sigma

    def start(self) -> Tensor:
        return self._start[None].clone()

    def bind(
        self, x: Tensor, grad: Tensor, statistics: Tensor | None = None, module_buffers: Sequence[Tensor] | None = None
    ) -> None:
        self._x, self._grad = x[: len(self._rows)], grad[: len(self._rows)]
        self._loss = x.new_zeros(len(x), 1)

    def gradients(self, k: int, active: np.ndarray | None, own: np.ndarray) -> Tensor:
        import torch

        here = slice(self._rows.start, self._rows.stop)
        off = self._x - self._c[here]
        torch.mul(self._a[here], off, out=self._grad)
        loss = self._loss.clone()
        loss[: len(self._rows)] = 0.5 * (self._grad * off).sum(1, keepdim=True)
        if self._scale:
            # the whole fleet's noise of a step is one draw, of which a process keeps its rows
            noise = stream(self._seed, "noise", k).standard_normal(self._a.shape)[here]
            self._grad.add_(brought(noise, **self._kind), alpha=self._scale)
        if active is not None:
            idle = brought((~active).nonzero()[0], loss.device)
            self._grad.index_fill_(0, idle, 0)
            loss.index_fill_(0, idle, 0)
        return loss

    def evaluate(self, answer: Tensor, statistics: Tensor | None = None) -> dict[str, float | None]:
        value = 0.5 * (self._a * (answer - self._c) ** 2).sum(1).mean()
        return {"eval/loss": float(value), "eval/accuracy": None}

    def squared_gradient(self, model: Tensor) -> float:
        """||grad F||^2 of one (1, d) model."""
        return float((self._a * (model - self._c)).mean(0).square().sum())

    def accuracies(self, x: Tensor) -> list[float] | None:
        return None

    def curved(self, model: Tensor, direction: Tensor, i: int, own: int) -> Tensor:
        return self._a[self._rows[i]] * direction
