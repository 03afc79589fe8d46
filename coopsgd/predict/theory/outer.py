"""What a linear outer step, heavy ball or Nesterov, makes of the disagreement between slow models. Derived.

With z the slow models, b their velocities, s the models as they were sent, n what local steps added to z in s, a communication
does b <- mu b + (z - W s), z <- z - lr ((z - W s) + mu b) with Nesterov, z - lr b without, which is linear in (z, b, n):

    z <- (1 - g) z + g W z - h b + g W n,   b <- z - W z + mu b - W n,

g, h = lr (1 + mu), lr mu^2 with Nesterov, and lr, lr mu without.

A mode of W with eigenvalue lambda so follows the 2 x 2 block [[1 - g (1 - lambda), -h], [1 - lambda, mu]]. Of heavy ball its
determinant is mu whatever W and lr are, so that no W makes a disagreement shrink faster than by sqrt(mu) a round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from coopsgd.mixing import spectra
from coopsgd.predict.theory.moments import CONVERGED, DOUBLINGS, logged_steps, spread, summed


def coefficients(lr: float, momentum: float, nesterov: bool) -> tuple[float, float]:
    """g and h."""
    return (lr * (1 + momentum), lr * momentum**2) if nesterov else (lr, lr * momentum)


def mode_radius(values: np.ndarray, lr: float, momentum: float, nesterov: bool) -> float:
    """The largest modulus over the modes of one W with these eigenvalues, that of the mean left out: the zeta of a round."""
    g, h = coefficients(lr, momentum, nesterov)
    blocks = np.array([[[1 - g * (1 - x), -h], [1 - x, momentum]] for x in values])
    return float(np.abs(np.linalg.eigvals(blocks)).max(initial=0.0))


def cycle_radius(Ws: Sequence[np.ndarray], lr: float, momentum: float, nesterov: bool) -> float:
    """The same of a cycle of communications, (n, n) each with rows that sum to 1: what it leaves of a disagreement."""
    n = len(Ws[0])
    if n == 1:
        return 0.0
    away = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, 1:]]))[0][:, 1:]  # a basis of what has no mean
    done = np.eye(2 * (n - 1))
    for W in Ws:
        done = _block(away.T @ W @ away, lr, momentum, nesterov) @ done
    return float(np.abs(np.linalg.eigvals(done)).max())


def outer_share(Ws: Sequence[np.ndarray], m: int, lr: float, momentum: float, nesterov: bool) -> float | None:
    """What `outer_noise` is made of: (1/m) sum ||z_i - mean||^2 of slow models, mean over a cycle, for one local step a round.

    Of tau steps it is tau times as much, whatever the delay: a message holds tau steps that the slow models do not. None: there
    is no stationary state.
    """
    n = len(Ws[0])
    M, P = spread(m, n), np.diag((np.arange(n) < m).astype(float))
    g, _ = coefficients(lr, momentum, nesterov)
    seen = [W - W[:m].mean(0) for W in Ws]  # from the workers' mean
    blocks = [_block(A, lr, momentum, nesterov) for A in seen]
    enters = [np.vstack([g * A, -A]) for A in seen]

    def walk(S: np.ndarray) -> tuple[np.ndarray, float]:
        total = 0.0
        for block, B in zip(blocks, enters, strict=True):
            S = block @ S @ block.T + B @ P @ B.T
            total += float((M * S[:n, :n]).sum())
        return S, total / len(Ws)

    X = _settled(walk(np.zeros((2 * n, 2 * n)))[0], _product(blocks), lambda A, X: A @ X @ A.T)
    return None if X is None else walk(X)[1]


def outer_noise(share: float | None, m: int, n: int, tau: int, order: str, delay: int) -> float | None:
    """moments.noise_consensus with an outer step: C with E (1/m) sum ||x_i - mean||^2 = eta^2 sigma2 C, mean over a cycle.

    share: `outer_share`, of n rows. At a look the models hold `delay` steps more than the slow ones, and those since.
    """
    own = (float(np.mean(logged_steps(tau, order))) + min(delay, tau)) * float(np.diag(spread(m, n))[:m].sum())
    return None if share is None else tau * share + own


def outer_drift(
    Ws: Sequence[np.ndarray],
    m: int,
    tau: int,
    order: str,
    delay: int,
    lr: float,
    momentum: float,
    nesterov: bool,
    kept: float = 1.0,
) -> float | None:
    """moments.drift_consensus with an outer step: H with E (1/m) sum ||x_i - mean||^2 = eta^2 kappa2 H, mean over the steps.

    z = -eta Z h, b = -eta B h and x = -eta X h, seen from the workers' mean, are moved by constant gradients h. After a
    communication x is z and the last `delay` steps.
    """
    seen, E = _from_the_mean(Ws, m)
    n, late = E.shape[-2], min(delay, tau)
    g, h = coefficients(lr, momentum, nesterov)
    own, one, none = np.arange(n) < m, np.eye(n), np.zeros((n, n))
    early, last = (np.where(own, kept**t, 1.0) for t in (tau - late, late))
    maps, adds = [], []
    for A in seen:
        sent = A * early  # W of what x was when the message left, of x after the communication before
        push = float(summed(kept, tau - late)) * E
        away = _across(-sent, one, none)  # z - W sent, of (x, z, b)
        z = _across(g * sent, (1 - g) * one, -h * one)
        b = away + _across(none, none, momentum * one)
        x = z + _across(np.diag((last - 1) * early), none, none)
        maps.append(np.concatenate([x, z, b], axis=-2))
        z_push = g * A @ push
        x_push = z_push + (last - 1)[:, None] * push + float(summed(kept, late)) * E
        adds.append(np.concatenate([x_push, z_push, -A @ push], axis=-2))
    t = np.arange(1, tau + (order == "cta"))
    old, new = kept**t, summed(kept, t)
    weights = float((old**2).sum()), 2 * float((old * new).sum()), float((new**2).sum())

    V0 = np.zeros_like(adds[0])

    def look(X: np.ndarray, Y: np.ndarray) -> float:
        """The trace of M X C Y', C the covariance of the h_i."""
        return float(np.broadcast_to(X * Y, V0.shape[:-2] + E.shape[-2:])[..., :m, :].sum()) / max(1, m - 1)

    def walk(V: np.ndarray) -> tuple[np.ndarray, float]:
        total = 0.0
        for F, G in zip(maps, adds, strict=True):
            X = V[..., :n, :]
            total += weights[0] * look(X, X) + weights[1] * look(X, E) + weights[2] * look(E, E)
            V = F @ V + G
            total += look(V[..., :n, :], V[..., :n, :]) * (order != "cta")
        return V, total / (tau * len(Ws))

    V = _settled(walk(V0)[0], _product(maps), lambda A, V: A @ V)
    return None if V is None else walk(V)[1]


def _from_the_mean(Ws: Sequence[np.ndarray], m: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(n, n) what each W does to rows seen from the workers' mean, and (n, m) the workers' gradients seen from there.

    Of one symmetric W without auxiliary rows its modes instead, (m - 1, 1, 1), of which none knows of another.
    """
    if len(Ws) == 1 and len(Ws[0]) == m > 1 and spectra.is_symmetric(Ws[0]):
        return [np.linalg.eigvalsh(Ws[0])[:-1, None, None]], np.ones((1, 1))
    E = np.eye(len(Ws[0]))[:, :m] - 1 / m
    E[m:] = 0
    return [W - W[:m].mean(0) for W in Ws], E


def _across(*parts: np.ndarray) -> np.ndarray:
    """Side by side; those that are alike for all modes for each of them."""
    shape = np.broadcast_shapes(*(part.shape[:-2] for part in parts))
    return np.concatenate([np.broadcast_to(part, shape + part.shape[-2:]) for part in parts], axis=-1)


def _product(maps: Sequence[np.ndarray]) -> np.ndarray:
    """What a cycle does to a state at its start."""
    return reduce(lambda done, F: F @ done, maps)


def _settled(X: np.ndarray, A: np.ndarray, act: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray | None:
    """The sum over all cycles of act(A^j, X), X what one cycle leaves; None where it has no end."""
    for _ in range(DOUBLINGS):
        with np.errstate(over="ignore", invalid="ignore"):
            more = act(A, X)
            X, A = X + more, A @ A
        if not np.isfinite(X).all():
            return None
        if np.abs(more).max() <= CONVERGED * max(1.0, np.abs(X).max()):
            return X
    return None


def _block(A: np.ndarray, lr: float, momentum: float, nesterov: bool) -> np.ndarray:
    (g, h), one = coefficients(lr, momentum, nesterov), np.eye(len(A))
    return np.block([[(1 - g) * one + g * A, -h * one], [one - A, momentum * one]])
