"""From measurements to numbers with error bars: noise and heterogeneity from gradients, lines from times. Pure numpy.

Every interval is a bootstrap at 95 %: the measurements are drawn again, with repetition, and the middle 95 % of the estimates
kept. Few measurements make that too narrow; it is widened as Student's t is wider than a normal, and by sqrt(n / (n - 1)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 1000  # bootstrap samples
Z = 1.959964  # of a normal distribution, 2.5 % lie beyond


class Estimate(NamedTuple):
    """A number and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def widening(n: int) -> float:
    """How much too narrow a bootstrap interval of n measurements is. Student's quantile by its expansion in 1 / nu."""
    nu = max(n - 1, 1)
    t = Z + (Z**3 + Z) / (4 * nu) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * nu**2)
    return t / Z * math.sqrt((nu + 1) / nu)


def interval(value: float, draws: np.ndarray, n: int, least: float = -math.inf) -> Estimate:
    """The estimate `value` with the middle 95 % of its bootstrap `draws`, widened for n measurements; none below `least`."""
    low, high = np.quantile(draws, (0.025, 0.975))
    wide = widening(n)
    low, high = (value + wide * (end - value) for end in (min(low, value), max(high, value)))
    return Estimate(*(max(least, float(x)) for x in (value, low, high)))


def weights(draw: np.random.Generator, n: int, draws: int = DRAWS) -> np.ndarray:
    """(draws, n) how often each of n measurements is in each bootstrap sample."""
    return draw.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


def paired(M: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(draws,) mean of M[j, l] over pairs j != l, weighted by w (draws, n): no noise meets itself there."""
    pairs = np.einsum("dj,jl,dl->d", w, M, w) - (w**2) @ np.diag(M)
    count = w.sum(1) ** 2 - (w**2).sum(1)
    return np.divide(pairs, count, out=np.full(len(w), np.nan), where=count > 0)


class Moments(NamedTuple):
    """Inner products of B independent minibatch gradients g_ib of m workers at one model, and their losses.

    each[b, c] = (1/m) sum_i <g_ib, g_ic>, mean[b, c] = <g_b, g_c> with g_b = (1/m) sum_i g_ib: (B, B). losses: (B,) means
    over workers. Off the diagonal they estimate (1/m) sum_i ||grad f_i||^2 and ||grad F||^2 without bias, for the noise of
    two batches has mean zero and is independent; the diagonal of `each` holds the noise as well.
    """

    each: np.ndarray
    mean: np.ndarray
    losses: np.ndarray

    def sigma2(self, w: np.ndarray) -> np.ndarray:
        """(draws,) E||g_ib - grad f_i||^2, averaged over workers."""
        return w @ np.diag(self.each) / w.sum(1) - paired(self.each, w)

    def kappa2(self, w: np.ndarray) -> np.ndarray:
        """(draws,) (1/m) sum_i ||grad f_i - grad F||^2."""
        return paired(self.each - self.mean, w)

    def grad2(self, w: np.ndarray) -> np.ndarray:
        """(draws,) ||grad F||^2."""
        return paired(self.mean, w)

    def loss(self, w: np.ndarray) -> np.ndarray:
        """(draws,) F."""
        return w @ self.losses / w.sum(1)


def along(path: Sequence[Moments], what: str, draw: np.random.Generator) -> Estimate:
    """`sigma2` or `kappa2`, the mean over the points of a path: a bound sums the noise of all steps, so the mean counts."""
    everything = np.ones((1, len(path[0].losses)))
    value = float(np.mean([getattr(point, what)(everything) for point in path]))
    n = len(path[0].losses)
    draws = np.mean([getattr(point, what)(weights(draw, n)) for point in path], axis=0)
    return interval(value, draws[np.isfinite(draws)], n, least=0.0)


def slope(first: Moments, draw: np.random.Generator) -> Estimate:
    """||grad F||^2 at a point."""
    n = len(first.losses)
    draws = first.grad2(weights(draw, n))
    return interval(float(first.grad2(np.ones((1, n)))[0]), draws[np.isfinite(draws)], n, least=0.0)


def gap(path: Sequence[Moments], infimum: float | None, draw: np.random.Generator) -> Estimate:
    """F(start) - inf F. An unknown infimum is taken as 0, for no loss is negative; `low` then has the best loss seen."""
    n = len(path[0].losses)
    everything, w = np.ones((1, n)), weights(draw, n)
    value, draws = float(path[0].loss(everything)[0]), path[0].loss(w)
    found = interval(value - (infimum or 0.0), draws - (infimum or 0.0), n, least=0.0)
    if infimum is not None:
        return found
    best = min(path, key=lambda point: float(point.loss(everything)[0]))
    seen = interval(value - float(best.loss(everything)[0]), draws - best.loss(w), n, least=0.0)
    return found._replace(low=seen.low)


def curvature(value: float, slack: float, parts: np.ndarray, draw: np.random.Generator) -> Estimate:
    """The largest eigenvalue, which may be `slack` more, with v' H v of its vector on parts of the sample (workers, parts).

    Parts are drawn again within each worker: the workers are given, their samples are not.
    """
    workers, n = parts.shape
    widening = math.sqrt(n / (n - 1)) if n > 1 else 1.0
    offs = [weights(draw, n) @ (row - row.mean()) / n for row in parts]
    found = interval(value, value + widening * np.mean(offs, axis=0), workers * n, least=0.0)
    return found._replace(high=found.high + slack)


def median(times: np.ndarray, draw: np.random.Generator) -> Estimate:
    """Of all times (processes, n); columns are drawn again together, for what disturbs one process disturbs its neighbours."""
    n = times.shape[1]
    draws = np.median(times[:, draw.integers(n, size=(DRAWS, n))], axis=(0, 2))
    return interval(float(np.median(times)), draws, n, least=0.0)


class Line(NamedTuple):
    """a + b * bytes: seconds, seconds per byte."""

    a: Estimate
    b: Estimate


def line(sizes: np.ndarray, times: Sequence[np.ndarray], draw: np.random.Generator) -> Line:
    """Fit a + b * size, a and b not negative, to times, (rounds, several) a size: medians, least squares of relative errors.

    Rounds are drawn again, for all sizes together: what else the machines did in one of them is in all of its times.
    """
    a, b = _fitted(sizes, np.array([[np.median(part) for part in times]]))
    n = len(times[0])
    rounds = draw.integers(n, size=(DRAWS, n))
    drawn = np.stack([np.median(part[rounds].reshape(DRAWS, -1), axis=1) for part in times], axis=1)
    found = _fitted(sizes, drawn)
    return Line(*(interval(float(one[0]), many, n, least=0.0) for one, many in zip((a, b), found, strict=True)))


def _fitted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a, b (draws,) of y (draws, sizes)."""
    w = y**-2.0
    s0, s1, s2, t0, t1 = w.sum(1), w @ x, w @ x**2, (w * y).sum(1), (w * y) @ x
    a, b = (s2 * t0 - s1 * t1) / (s0 * s2 - s1**2), (s0 * t1 - s1 * t0) / (s0 * s2 - s1**2)
    a, b = np.where(b < 0, t0 / s0, a), np.maximum(b, 0)
    return np.maximum(a, 0), np.where(a < 0, t1 / s2, b)
