"""Walk a short SGD path and measure on the way, in all processes of a run at once.

The path is plain SGD at the rate `optim.lr` by the mean of all workers' gradients: where every synchronous algorithm goes as
long as its workers agree. At points of it: minibatch gradients exactly as a run would take them (augmented, with dropout, not
clipped), from passes over the data that no run gets to; and the curvature of F on one fixed sample, the first batches of such
a pass (augmented once, without dropout, BatchNorm by the batch, never in bfloat16). Where F is curved most, each worker's own
f_i is measured the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.commands.probe import curvature
from coopsgd.loop.loop import Loop
from coopsgd.loop.observer import Observer
from coopsgd.loop.stepping import AHEAD
from coopsgd.mixing.static import Identity
from coopsgd.optim import SGD
from coopsgd.predict import estimates
from coopsgd.predict.estimates import Estimate, Moments
from coopsgd.run.progress import duration
from coopsgd.schedules import Constant
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy, overrides
from coopsgd.strategies.fullsync import FullSync
from coopsgd.strategies.period import Period
from coopsgd.streams import stream
from coopsgd.tasks.base import Problem

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet

POINTS = 4  # of the path, first and last included
BATCHES = 16  # of each worker, at each point
PRODUCTS = 8  # with the Hessian, at each point; on a cnn 8 left 0.1 %, 10 nothing
CURVED = 8  # batches the curvature of F is of, if each worker has at least two; of no more workers than these
OWN = 4  # batches the curvature of one worker's f_i is of; two, where more than 16 workers are looked at
CHOSEN = 64  # workers whose f_i are looked at, at most
MEMORY = 1 << 28  # bytes of gradients or directions kept at a time
FAR = 1 << 20  # passes over the data that no run gets to
SECONDS, LEAST, MOST = 2.0, 5, 200  # spent on timing local steps; blocks of them


class Unmeasurable(Exception):
    """Nothing can be measured, and why; every process says so."""


class Diverged(Unmeasurable):
    """The path has left the numbers."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the path of plain SGD diverged before step {step}: its loss is not finite; lower optim.lr")


def measure(parts: Parts, fleet: Fleet, problem: Problem, tell: Callable[[str], Any]) -> tuple[dict[str, Any], Stepper]:
    """What probe.json says of curvature, noise and step time, and what takes more steps. Every process calls it.

    config.steps is how long the path is. Unmeasurable when the task tells no curvature, or the path diverges.
    """
    config = parts.config
    if getattr(type(problem), "curved", Problem.curved) is Problem.curved:
        raise Unmeasurable(
            f"task {config.task['name']} cannot be probed: its problem has no `curved`, the product of a Hessian and a vector"
        )
    walk = Walk(parts, fleet, problem)
    points: list[Moments] = []
    tops: list[tuple[int, curvature.Top, np.ndarray]] = []
    steepest = walk.x[:1].clone()  # the model where F was curved most
    marks = np.unique(np.linspace(0, config.steps, POINTS).round().astype(int)).tolist()
    began = time.perf_counter()
    for k in range(config.steps + 1):
        if k in marks:
            points.append(walk.moments(len(points)))
            if not np.isfinite(points[-1].losses).all() or not np.isfinite(points[-1].each).all():
                raise Diverged(k)
            tops.append((k, *walk.curvature()))
            if abs(tops[-1][1].value) >= max(abs(top.value) for _, top, _ in tops):
                steepest.copy_(walk.x[:1])
            left = (time.perf_counter() - began) / len(points) * (len(marks) - len(points))
            tell(_line(k, points[-1], tops[-1][1]) + (f", about {duration(left)} left of the path" if left else ""))
        if k < config.steps:
            walk.step()
    draw = stream(config.seed, "probe bootstrap")
    L = [estimates.curvature(abs(top.value), top.slack, np.sign(top.value) * parts, draw) for _, top, parts in tops]
    path = [
        {"step": k, "L": found.value, "other_end": top.other, "loss": float(at.losses.mean())}
        | {name: float(getattr(at, name)(np.ones((1, len(at.losses))))[0]) for name in ("sigma2", "kappa2", "grad2")}
        for (k, top, _), found, at in zip(tops, L, points, strict=True)
    ]
    tell(f"the curvature of {min(fleet.m, CHOSEN)} workers by themselves")
    own = _own(*walk.curvatures(steepest), stream(config.seed, "probe own curvature"))
    infimum = parts.task.infimum(config)
    tell("the seconds of a local step")
    step = Stepper(parts, fleet, problem, walk.x)
    found = {
        "L": max(L)._asdict(),
        "L_workers": own,
        "sigma2": estimates.along(points, "sigma2", draw)._asdict(),
        "kappa2": estimates.along(points, "kappa2", draw)._asdict(),
        "gap": estimates.gap(points, infimum, draw)._asdict(),
        "grad2": estimates.slope(points[0], draw)._asdict(),
        "path": path,
        "step_s": _steps(config, fleet, step, draw),
    }
    return found, step


def _short(parts: Parts, strategy: Strategy, **others: Any) -> Parts:
    """The parts of a short run whose workers take local steps at one rate, and mix nothing but by this strategy."""
    config = replace(parts.config, order="atc", delay=0, buffers="keep", norm_stats="local", clip=others.pop("clip", None))
    return parts.but(config=config, strategy=strategy, schedule=Constant(), **others)


class Walk:
    """The rows of this process on the path: all equal, at the mean model."""

    def __init__(self, parts: Parts, fleet: Fleet, problem: Problem) -> None:
        self._fleet, self._problem, self._seed = fleet, problem, parts.config.seed
        looks, path = Looks(), _short(parts, FullSync(), optim=SGD(lr=parts.optim.lr), period=Period(1))
        looks.at = None
        self._loop = Loop(path, fleet, problem, observer=looks)
        self.x, self._gradients = self._loop.state.x, self._loop.steps.gradients
        self._here = len(fleet.workers)
        self._stride = problem.steps_per_epoch or 1
        self._top: Tensor | None = None

    def step(self) -> None:
        """x <- x - lr * the mean gradient of the next iteration."""
        self._loop.advance()

    def moments(self, point: int) -> Moments:
        """Of batches drawn independently, each from a pass of its own. Gradients of a few workers are kept at a time."""
        d, m = self.x.shape[1], self._fleet.m
        count = _affordable(BATCHES, 4, self.x)
        group = max(1, min(self._here, MEMORY // (count * d * self.x.element_size())))
        each = torch.zeros(count, count, dtype=torch.float64)
        losses, sums = torch.zeros(count, dtype=torch.float64), self.x.new_zeros(count, d)
        kept = self.x.new_empty(count, group, d)
        for a in range(0, self._here, group):
            b = min(a + group, self._here)
            active = None if b - a == self._here else (np.arange(self._here) >= a) & (np.arange(self._here) < b)
            for j in range(count):
                k = (FAR + point * count + j) * self._stride
                loss, grad = self._gradients(k, active, np.full(self._here, k))
                losses[j] += loss[a:b].double().sum().cpu()
                kept[j, : b - a] = grad[a:b]
            each += _gram(kept[:, : b - a].reshape(count, -1))
            sums += kept[:, : b - a].sum(1)
        mean = _gram(self._fleet.total(sums) / m)
        return Moments(*(part.numpy() for part in (self._fleet.total(each) / m, mean, self._fleet.total(losses) / m)))

    def curvature(self) -> tuple[curvature.Top, np.ndarray]:
        """The largest curvature of F here, and v' H v of its vector on each batch (workers looked at, batches each)."""
        chosen = np.unique(np.linspace(0, self._fleet.m - 1, min(self._fleet.m, CURVED)).round().astype(int))
        batches = max(2, CURVED // len(chosen))
        mine = [(n, int(i) - self._fleet.workers.start) for n, i in enumerate(chosen) if i in self._fleet.workers]
        model = self.x[:1].clone()

        def parts(v: Tensor) -> Any:
            for n, i in mine:
                for c in range(batches):
                    yield n, c, self._problem.curved(model, v, i, (FAR - 1) * self._stride + c)

        def product(v: Tensor) -> Tensor:
            summed = torch.zeros_like(v)
            for _, _, image in parts(v):
                summed += image
            return self._fleet.total(summed) / (len(chosen) * batches)

        start = torch.from_numpy(stream(self._seed, "probe curvature").standard_normal(model.shape)).to(model)
        if self._top is not None:  # the direction has not turned far since the last point
            start = self._top + start / torch.linalg.vector_norm(start)
        top = curvature.top(product, start, _affordable(_products(model), 6, model))
        self._top = top.vector
        quotients = torch.zeros(len(chosen), batches, dtype=torch.float64)
        for n, c, image in parts(top.vector):
            quotients[n, c] = (top.vector.double() * image.double()).sum()
        return top, self._fleet.total(quotients).numpy()

    def curvatures(self, model: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The largest curvature of f_i at `model` (1, d) for some workers, evenly over all: which they are (n,), the
        curvatures, what they may be more, and v' H v of each one's vector on each of its batches, (n, batches).

        Every process looks at its own workers: nothing is sent but the results.
        """
        fleet = self._fleet
        chosen = np.unique(np.linspace(0, fleet.m - 1, min(fleet.m, CHOSEN)).round().astype(int))
        batches = OWN if len(chosen) <= 16 else 2
        start = torch.from_numpy(stream(self._seed, "probe own curvature").standard_normal(model.shape)).to(model)
        if self._top is not None:
            start = self._top + start / torch.linalg.vector_norm(start)
        found = torch.zeros(len(chosen), 2 + batches, dtype=torch.float64)
        for n, i in enumerate(chosen):
            if i not in fleet.workers:
                continue

            def parts(v: Tensor, own: int = int(i) - fleet.workers.start) -> list[Tensor]:
                return [self._problem.curved(model, v, own, (FAR - 1) * self._stride + c) for c in range(batches)]

            def product(v: Tensor, parts: Callable[[Tensor], list[Tensor]] = parts) -> Tensor:
                return torch.stack(parts(v)).mean(0)

            top = curvature.top(product, start, _affordable(_products(model), 6, model))
            quotients = [float((top.vector.double() * image.double()).sum()) for image in parts(top.vector)]
            found[n] = torch.tensor([top.value, top.slack, *quotients], dtype=torch.float64)
        totals = fleet.total(found).numpy()
        return chosen, totals[:, 0], totals[:, 1], totals[:, 2:]


def _own(chosen: np.ndarray, values: np.ndarray, slacks: np.ndarray, parts: np.ndarray, draw: np.random.Generator) -> Any:
    """The largest of the workers' own curvatures, as the file has it."""
    n = int(np.abs(values).argmax())
    found = estimates.curvature(abs(float(values[n])), float(slacks[n]), np.sign(values[n]) * parts[n : n + 1], draw)
    return found._asdict() | {"worker": int(chosen[n]), "asked": len(chosen)}


def _products(model: Tensor) -> int:
    """Products with a Hessian: as many as it takes to know a small one exactly."""
    d = model.shape[1]
    return d if d <= 2 * PRODUCTS else PRODUCTS


def _gram(rows: Tensor) -> Tensor:
    """(n, n) inner products of rows (n, many), in float64: noise is a small difference of them."""
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for part in rows.split(1 << 20, dim=1):
        found += part.double() @ part.double().T
    return found.cpu()


def _affordable(wanted: int, least: int, like: Tensor) -> int:
    """How many vectors as long as a row may be kept."""
    return max(least, min(wanted, MEMORY // (like.shape[1] * like.element_size())))


class Stepper:
    """Local steps of all rows of this process, as a run of this config takes them, always from the same models."""

    def __init__(self, parts: Parts, fleet: Fleet, problem: Problem, start: Tensor) -> None:
        alone = Alone() if not overrides(parts.strategy, "direction") else Stored()
        never = Period(2**62)
        self._looks = Looks()
        self._loop = Loop(_short(parts, alone, period=never, clip=parts.config.clip), fleet, problem, observer=self._looks)
        self._start = start.clone()

    def __call__(self, many: int) -> float:
        """Seconds of so many steps, nobody looking in between."""
        state = self._loop.state
        state.x.copy_(self._start)
        self._looks.at = state.k + many
        began = time.perf_counter()
        for _ in range(many):
            self._loop.advance()
        if state.x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began


class Alone(Strategy):
    """Nobody talks to anybody."""

    schedule = Identity()


class Stored(Alone):
    """The same, for a strategy that wants to see its gradients: steps are not fused with them."""

    def direction(self, fleet: Any, t: Any, grad: Tensor, x: Tensor, s: Any) -> tuple[Tensor, Any]:
        return grad, s


class Looks(Observer):
    """Looks at the models after step `at`; None: after every step."""

    at: int | None = 0

    def due(self, step: int, ended: int | None = None) -> bool:
        return self.at is None or step == self.at


def _steps(config: Config, fleet: Fleet, step: Stepper, draw: np.random.Generator) -> dict[str, Any]:
    """Seconds of one worker's local step: all processes step at once, each all its rows, tau steps without being looked at."""
    rows = len(fleet.workers)
    many = min(config.tau, AHEAD) if isinstance(config.tau, int) else 10

    def blocks(count: int) -> np.ndarray:
        fleet.barrier()
        mine = torch.zeros(fleet.layout.processes, count, dtype=torch.float64)
        mine[fleet.rank] = torch.tensor([step(many) / many / rows for _ in range(count)])
        return fleet.total(mine).numpy()

    once = blocks(2)[:, 1].max() * many * rows
    times = blocks(int(np.clip(SECONDS / once, LEAST, MOST)))
    median: Estimate = estimates.median(times, draw)
    return {
        "median": median.value,
        "low": median.low,
        "high": median.high,
        "quartiles": np.quantile(times, (0.25, 0.75)).tolist(),
        "workers": np.repeat(np.median(times, axis=1), rows).tolist(),
        "rows": rows,
        "threads": config.threads,
        "tau": many,
    }


def _line(k: int, at: Moments, top: curvature.Top) -> str:
    w = np.ones((1, len(at.losses)))
    noise = ", ".join(f"{name} {float(getattr(at, name)(w)[0]):.3g}" for name in ("sigma2", "kappa2"))
    return f"step {k}: loss {at.losses.mean():.4g}, curvature {top.value:.4g}, {noise}"
