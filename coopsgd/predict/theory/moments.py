"""How far apart workers are, exactly: the second moment of their models under gradient noise alone.

Without curvature x <- W (x - eta xi), so S = E[x x'] obeys S <- W (S + eta^2 P) W' per coordinate, P the identity on the
workers, zero on auxiliary rows, which have no gradient. The distance, (1/m) sum ||x_i - workers' mean||^2, is tr(M S) with
M = (I - J) / m on the workers, blind to what all rows share. So S is kept seen from the workers' mean, where it stays bounded.
For v = 0 and a symmetric W with eigenvalues lambda_j its stationary value, averaged over the phases of a round, is

    (eta^2 sigma2 / m) [(m - 1)(tau - 1) / 2 + tau sum_{j >= 2} lambda_j^2 / (1 - lambda_j^2)].

The phases of a round, after each step and what it communicates: 0 .. tau - 1 steps of local noise since the last mixing for
order=atc; 1 .. tau for cta, whose mixing waits for the next step. With a delay of delta <= tau steps the noise of the last
delta is not mixed with the rest: a mode of W with eigenvalue lambda then has, just after a communication, the variance

    (eta^2 sigma2 / d) ((tau - delta) lambda^2 + delta) / (1 - lambda^2).

Stationary values are means over them, which is what the error bound is about. A run logs one moment of them, the last before a
mixing, and so does Forecast.

Coefficients here have no unit: times eta^2 sigma2 (sigma2 over all coordinates), or eta^2 kappa2, they are squared distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from coopsgd.mixing import spectra
from coopsgd.mixing.expectation import Expectation, Outcomes, stationary

DOUBLINGS = 60  # of the number of cycles summed; whoever has not converged then never will
CONVERGED = 1e-13
BATCHES = 16  # stretches of a schedule at random, whose means tell the error of their mean


def unread(Ws: Sequence[np.ndarray], m: int) -> bool:
    """Does nobody ever take from an auxiliary row what it held before? Then the workers' block tells everything."""
    return all(not W[:, m:].any() for W in Ws)


def spread(m: int, n: int, everyone: bool = False) -> np.ndarray:
    """M (n, n) with tr(M S) = (1/m) sum over workers of the squared distance to their mean, or to the mean of all n rows."""
    off = np.eye(n)[:m] - (np.full(n, 1 / n) if everyone else np.where(np.arange(n) < m, 1 / m, 0))
    return off.T @ off / m


def _seen(W: np.ndarray, m: int) -> np.ndarray:
    """Q W with Q = I - 1 e', e the mean of the workers: what W does to rows seen from there."""
    return W - W[:m].mean(0)


class _Rounds:
    """Communications in a row: before W_r mixes, worker i takes counts[r][i] steps, each followed by a look."""

    def __init__(
        self, Ws: Sequence[np.ndarray], m: int, tau: int, order: str, delay: int, counts: Sequence[np.ndarray] | None
    ) -> None:
        self.m, self.n, self.order, self.delay = m, len(Ws[0]), order, delay
        self.As = [_seen(W, m) for W in Ws]
        self.counts = [np.full(m, tau) for _ in Ws] if counts is None else [np.asarray(c) for c in counts]
        self.taus = [max(1, int(c.max())) for c in self.counts]
        self.steps = sum(self.taus)
        self.parts: list[float] = []  # of each round of the last walk, what is summed over its looks

    @property
    def product(self) -> np.ndarray:
        """What a cycle does to rows at its start."""
        return reduce(lambda done, A: A @ done, self.As, np.eye(self.n))

    def noise(self, S: np.ndarray, M: np.ndarray) -> tuple[np.ndarray, float]:
        """From S at the start to S at the end, and tr(M S) summed over the looks."""
        weights, self.parts = np.diag(M)[: self.m], []
        P = np.zeros((self.n, self.n))
        for A, counts, tau in zip(self.As, self.counts, self.taus, strict=True):
            logged = np.arange(1, tau + (self.order == "cta"))  # local steps since the mixing, at the looks before the next
            total = len(logged) * float((M * S).sum()) + float(weights @ np.minimum(logged[:, None], counts).sum(0))
            late = min(self.delay, tau)  # steps whose noise is not mixed; every worker takes them
            S, P = S.copy(), np.zeros_like(S)
            S[np.arange(self.m), np.arange(self.m)] += counts - late
            P[np.arange(self.m), np.arange(self.m)] = late
            S = A @ S @ A.T + P
            self.parts.append(total + float((M * S).sum()) * (self.order != "cta"))
        return S, sum(self.parts)

    def contracted(self, kept: float) -> np.ndarray:
        """The same if a local step leaves of a worker's distance to the mean the share `kept`."""
        own = np.arange(self.n) < self.m
        done = np.eye(self.n)
        for A, tau in zip(self.As, self.taus, strict=True):
            late = min(self.delay, tau)
            done = np.where(own, kept ** (tau - late), 1)[:, None] * done
            done = A @ done - (1 - kept**late) * own[:, None] * done
        return done

    def drift(self, T: np.ndarray, kept: float) -> tuple[np.ndarray, float]:
        """The same for T (n, m), x = -eta T h; a local step leaves of a worker's distance the share `kept`."""
        m, self.parts = self.m, []
        E = np.eye(self.n)[:, :m] - 1 / m  # seen from the workers' mean
        E[m:] = 0  # an auxiliary row takes no step; that the mean does is nothing, for the h_i have sum zero

        def look(X: np.ndarray) -> np.ndarray:
            """M X C, C the covariance of the h_i; its product with Y, summed, is what a look adds for X and Y."""
            off = X[:m] - X[:m].mean(0)
            return (off - off.mean(1, keepdims=True)) / max(1, m - 1)

        def steps(T: np.ndarray, t: int) -> np.ndarray:
            return np.vstack([kept**t * T[:m] + summed(kept, t) * E[:m], T[m:]])

        seen, own = look(T), look(E)
        both = float((own * E[:m]).sum())
        for A, tau in zip(self.As, self.taus, strict=True):
            t = np.arange(1, tau + (self.order == "cta"))
            old, new = kept**t, summed(kept, t)
            across = float((seen * E[:m]).sum())
            total = float((old**2).sum()) * float((seen * T[:m]).sum())
            total += 2 * float((old * new).sum()) * across + float((new**2).sum()) * both
            late = min(self.delay, tau)  # the last gradients are of the rows before they are mixed
            T = steps(T, tau - late)
            T = A @ T + (steps(T, late) - T)
            seen = look(T)
            self.parts.append(total + float((seen * T[:m]).sum()) * (self.order != "cta"))
        return T, sum(self.parts)

    @property
    def error(self) -> float:
        """The standard error of the last walk's mean over looks, for rounds at random: from means of stretches of them."""
        sums = np.array([[sum(some.tolist()) for some in np.array_split(x, BATCHES)] for x in (self.parts, self.taus)])
        return float(np.std(sums[0] / sums[1], ddof=1) / BATCHES**0.5)


def summed(kept: float, t: Any) -> Any:
    """1 + kept + kept^2 + ..., t terms: what t equal steps come to."""
    return t if kept == 1 else (1 - kept**t) / (1 - kept)


def noise_consensus(
    Ws: Sequence[np.ndarray],
    m: int,
    tau: int = 1,
    order: str = "atc",
    delay: int = 0,
    counts: Sequence[np.ndarray] | None = None,
    everyone: bool = False,
) -> float | None:
    """C with stationary E (1/m) sum_i ||x_i - mean||^2 = eta^2 sigma2 C, averaged over the steps of a cycle.

    Ws: the (m + v, m + v) product of each communication of a cycle, workers first, or of a window of a random schedule, which
    is taken to repeat: it should leave little of a disagreement, or it stands for nothing but itself. counts: (m,) local steps
    of each worker towards each (None: tau). everyone: the distance to the mean of all m + v rows, which the bound is about.
    None: there is no stationary state, the distance grows without end.
    """
    M = spread(m, len(Ws[0]), everyone)
    if len(Ws) == 1 and counts is None and order == "atc" and not delay and spectra.is_symmetric(Ws[0]):
        if not spectra.reaches_consensus(Ws[0]):
            return None
        modes = _Modes(Ws[0], m, M)
        return tau * float(modes.weight @ (modes.q / (1 - modes.q))) + (tau - 1) / 2 * float(np.diag(M)[:m].sum())
    return _noise(_Rounds(Ws, m, tau, order, delay, counts), M)


def drift_consensus(
    Ws: Sequence[np.ndarray], m: int, tau: int = 1, order: str = "atc", delay: int = 0, kept: float = 1.0
) -> float | None:
    """H with E (1/m) sum_i ||x_i - mean||^2 = eta^2 kappa2 H, over the steps, when gradients differ by constants h_i.

    The h_i differ at random, every way alike, with sum zero and (1/m) sum ||h_i||^2 = kappa2. Arguments as noise_consensus.
    x = -eta T h with T <- W (kept T + E), E the workers' columns: linear in h, so H is a trace over T. kept: the share of a
    worker's distance to the mean that a local step leaves, 1 - eta a where the curvature is a; 1 without curvature.
    """
    return _drift(_Rounds(Ws, m, tau, order, delay, None), kept)


def _noise(rounds: _Rounds, M: np.ndarray) -> float | None:
    S, _ = rounds.noise(np.zeros_like(M), M)
    return _mean_over(rounds, lambda S: rounds.noise(S, M), S, lambda A, S: A @ S @ A.T, rounds.product)


def _drift(rounds: _Rounds, kept: float) -> float | None:
    T, _ = rounds.drift(np.zeros((rounds.n, rounds.m)), kept)
    return _mean_over(rounds, lambda T: rounds.drift(T, kept), T, lambda A, T: A @ T, rounds.contracted(kept))


def sampled_consensus(
    Ws: Sequence[np.ndarray],
    m: int,
    tau: int,
    order: str,
    delay: int,
    counts: Sequence[np.ndarray] | None,
    kept: float | None = None,
) -> tuple[float | None, float | None]:
    """noise_consensus, or drift_consensus if `kept` is given, of communications at random, and the standard error of it."""
    rounds = _Rounds(Ws, m, tau, order, delay, counts)
    found = _noise(rounds, spread(m, rounds.n)) if kept is None else _drift(rounds, kept)
    return found, None if found is None or len(Ws) < 2 * BATCHES else rounds.error


def expected_noise(law: Expectation, m: int, tau: int, order: str = "atc", delay: int = 0) -> float | None:
    """noise_consensus when every communication is at random: its expectation. W is doubly stochastic, v = 0.

    S = E[W (S + (tau - delay) P) W'] + delay P: the noise of the last `delay` steps is not mixed; from the mean P is I - J.
    The looks come 0 .. tau - 1 steps after a mixing, 1 .. tau for cta.
    """
    if law.second is None:
        return None
    away, late = np.eye(m) - 1 / m, min(delay, tau)
    S = stationary(law.second, (tau - late) * law.second(away) + late * away)
    return None if S is None else float(np.trace(S)) / m + float(np.mean(logged_steps(tau, order))) * (m - 1) / m


def expected_drift(law: Expectation, m: int, tau: int, order: str = "atc", delay: int = 0, kept: float = 1.0) -> float | None:
    """drift_consensus when every communication is at random: its expectation.

    x = -eta Y g with g white and Y -> W (kept^tau Y + s B), B B' the covariance of the h_i: E[Y Y'] is driven by E[Y] too.
    """
    late, second = min(delay, tau), law.second
    if second is None:
        return None
    away = np.eye(m) - 1 / m
    B, mean = away * math.sqrt(m / max(1, m - 1)), law.mean.dense() - 1 / m  # both see from the mean, and so does their product
    share, s, last = kept ** (tau - late), float(summed(kept, tau - late)), float(summed(kept, late))
    pull = 1 - kept**late  # what the last steps take from rows as they were before they were mixed

    def act(S: np.ndarray) -> np.ndarray:
        """E[(W - pull) S (W - pull)']"""
        moved = mean @ S
        return np.asarray(second(S) - pull * (moved + moved.T) + pull**2 * S)

    first = mean - pull * away
    if m > 1 and np.abs(np.linalg.eigvalsh(share * first)).max() >= 1 - 1e-12:
        return None
    Y = np.linalg.solve(np.eye(m) - share * first, s * first @ B + last * B)
    across = Y @ B.T
    rest = act(share * s * (across + across.T) + s**2 * B @ B.T) + last**2 * B @ B.T
    if late:
        Z = last * first @ (share * Y + s * B) @ B.T
        rest = rest + Z + Z.T
    S = stationary(lambda S: share**2 * act(S), rest)
    if S is None:
        return None
    t = logged_steps(tau, order)
    old, new = kept**t, summed(kept, t)
    parts = ((old**2, np.trace(S)), (2 * old * new, np.trace(across)), (new**2, np.trace(B @ B.T)))
    return sum(float(np.mean(weight)) * float(trace) for weight, trace in parts) / m


def logged_steps(tau: int, order: str) -> np.ndarray:
    """Local steps since the mixing at the looks of a round."""
    return np.arange(tau) + (order == "cta")


def outcome_noise(some: Outcomes, m: int) -> float | None:
    """noise_consensus of order=atc when every round is one of `some`: its expectation. None: no stationary state.

    Between the mixing after the steps of one round and the one before the steps of the next, S = E[U (D S D' + P) U'], with D
    what is mixed before, U after, P the noise of the steps between.
    """
    n = some.before.shape[1]
    M, weights = spread(m, n), some.chance
    after = some.after - some.after[:, :m].mean(1, keepdims=True)  # seen from the workers' mean
    whole = (after @ some.before).reshape(len(weights), -1)
    both = (whole.T * weights) @ whole  # [i k, j l] = E[A_ik A_jl]
    act = both.reshape(n, n, n, n).transpose(0, 2, 1, 3).reshape(n * n, n * n)
    rest = np.einsum("r,rik,rk,rjk->ij", weights, after[:, :, :m], some.work, after[:, :, :m], optimize=True)
    if np.abs(np.linalg.eigvals(act)).max() >= 1 - 1e-12:
        return None
    S = np.linalg.solve(np.eye(n * n) - act, rest.ravel()).reshape(n, n)
    total = steps = 0.0
    for chance, D, work in zip(weights, some.before, some.work, strict=True):
        tau = max(1, int(work.max()))
        own = np.diag(M)[:m] @ (
            np.minimum(work, tau - 1) * (np.minimum(work, tau - 1) + 1) / 2 + (tau - 1 - work).clip(0) * work
        )
        total += chance * (tau * float((M * (D @ S @ D.T)).sum()) + float(own))
        steps += chance * tau
    return float(total / steps)


def _mean_over(rounds: _Rounds, walk: Any, X: np.ndarray, act: Any, A: np.ndarray) -> float | None:
    """The mean over the steps of a cycle, walked from the stationary state; X is what one cycle leaves.

    The stationary state is the sum over all cycles before of act(A^j, X), A what a cycle does, by doubling; None when it has
    no end.
    """
    for _ in range(DOUBLINGS):
        with np.errstate(over="ignore", invalid="ignore"):
            more = act(A, X)
            X, A = X + more, A @ A
        if not np.isfinite(X).all():
            return None
        if np.abs(more).max() <= CONVERGED * max(1.0, np.abs(X).max()):
            return walk(X)[1] / rounds.steps
    return None


class _Modes:
    """The recursion for one symmetric W and every worker at work, in W's eigenbasis: S_ij there is scaled by lambda_i lambda_j.

    Only pairs (i, j) that noise excites and the distance sees are kept, equal products together: m numbers, not m^2.
    """

    def __init__(self, W: np.ndarray, m: int, M: np.ndarray) -> None:
        n = len(W)
        values, B = np.linalg.eigh((W + W.T) / 2)
        P = B[:m].T @ B[:m]
        weight = (B.T @ M @ B) * P
        kept = np.abs(weight) > 1e-13 / n  # not the mode that all rows share
        q, at = np.unique(np.round(np.outer(values, values)[kept], 13), return_inverse=True)
        self.q = q
        self.weight = np.bincount(at.reshape(-1), weight[kept], len(q))
        self.S = np.zeros(len(q))

    def mix(self, W: np.ndarray, noise: np.ndarray) -> None:
        self.S = self.q * (self.S + noise[0])

    @property
    def distance(self) -> float:
        return float(self.weight @ self.S)


class _Whole:
    """The recursion for any matrices."""

    def __init__(self, m: int, n: int, M: np.ndarray) -> None:
        self.m, self.M, self.S = m, M, np.zeros((n, n))

    def mix(self, W: np.ndarray, noise: np.ndarray) -> None:
        A, S = _seen(W, self.m), self.S
        S[np.arange(self.m), np.arange(self.m)] += noise
        self.S = A @ S @ A.T

    @property
    def distance(self) -> float:
        return float((self.M * self.S).sum())


class Forecast:
    """Follows a run from equal models and says how far apart the workers are in expectation: now, and as a run logs it.

    schedule: anything that answers factors(m, r), cycle(m), work(m, r, tau) and num_aux. equal: the models are so after every
    step. Follows whatever happens: a rate or a period that moves, workers that sit out, matrices at random.
    """

    def __init__(self, schedule: Any, m: int, order: str = "atc", equal: bool = False) -> None:
        self._schedule, self._m, self._cta, self._equal = schedule, m, order == "cta", equal
        first = spectra.product(schedule.factors(m, 0), m + schedule.num_aux)
        M = spread(m, len(first))
        self._steady = schedule.cycle(m) == 1 and schedule.work(m, 0, 1) is None
        self.light = self._steady and spectra.is_symmetric(first)  # is a communication m numbers' work, not a product's?
        self._state: Any = _Modes(first, m, M) if self.light else _Whole(m, len(first), M)
        self._first, self._weights = first, np.diag(M)[:m]
        self._noise = np.zeros(m)  # variance of each worker's noise since the last message left, in units of sigma2
        self._sent = np.zeros(m)  # of what a message under way holds
        self._leaving = 0.0  # the distance when the message under way left
        self._before: float | None = None  # that of the latest one that has come

    def moved(self, lr: float, active: np.ndarray | None, due: bool) -> None:
        """A local step of the workers in `active` (None: all); is it the last of its round?"""
        self._noise += lr * lr if active is None else lr * lr * active
        if due and self._cta:  # the message leaves when the next step begins, and a run may end before
            self._before = self.now

    def sends(self) -> None:
        """A message leaves, of the models as they are."""
        self._leaving = self.now
        self._sent, self._noise = self._noise, np.zeros(self._m)

    def received(self, round: int) -> None:
        """Communication `round` is over: what was sent is mixed."""
        W = self._first if self._steady else spectra.product(self._schedule.factors(self._m, round), len(self._first))
        self._state.mix(W, self._sent)
        self._before = self._leaving
        self._sent = np.zeros(self._m)

    def saved(self) -> dict[str, Any]:
        """To go on from with `restore`."""
        return {"S": self._state.S, "noise": self._noise, "sent": self._sent, "leaving": self._leaving, "before": self._before}

    def restore(self, tree: dict[str, Any]) -> None:
        self._state.S = tree["S"]
        self._noise, self._sent, self._leaving, self._before = (tree[name] for name in ("noise", "sent", "leaving", "before"))

    @property
    def now(self) -> float:
        """E (1/m) sum_i ||x_i - mean||^2 after the last step, in units of sigma2."""
        return 0.0 if self._equal else self._state.distance + float(self._weights @ (self._sent + self._noise))

    @property
    def consensus(self) -> float:
        """The same before the latest mixing, be it done or due; as it is while there has been none."""
        return self.now if self._before is None else self._before
