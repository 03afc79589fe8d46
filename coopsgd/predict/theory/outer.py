"""What a linear outer step, heavy ball or Nesterov, makes of the disagreement between slow models. Derived.

With z the slow models, b their velocities, s the models as they were sent, n what local steps added to z in s, a communication
does b <- mu b + (z - W s), z <- z - lr ((z - W s) + mu b) with Nesterov, z - lr b without, which is linear in (z, b, n):

    z <- (1 - g) z + g W z - h b + g W n,   b <- z - W z + mu b - W n,

g, h = lr (1 + mu), lr mu^2 with Nesterov, and lr, lr mu without.

A mode of W with eigenvalue lambda so follows the 2 x 2 block [[1 - g (1 - lambda), -h], [1 - lambda, mu]]. Of heavy ball its
determinant is mu whatever W and lr are, so that no W makes a disagreement shrink faster than by sqrt(mu) a round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coopsgd.predict.theory.moments import CONVERGED, DOUBLINGS, logged_steps, spread


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


def outer_noise(
    Ws: Sequence[np.ndarray], m: int, tau: int, order: str, delay: int, lr: float, momentum: float, nesterov: bool
) -> float | None:
    """moments.noise_consensus with an outer step: C with E (1/m) sum ||x_i - mean||^2 = eta^2 sigma2 C, mean over a cycle.

    A message holds tau local steps that the slow models do not, with a delay those of the last `delay` steps before the
    communication before it; at a look the models hold `delay` steps more than the slow ones, and those since.
    """
    n, late = len(Ws[0]), min(delay, tau)
    M, P = spread(m, n), np.diag((np.arange(n) < m).astype(float)) * tau
    g, _ = coefficients(lr, momentum, nesterov)
    seen = [W - W[:m].mean(0) for W in Ws]  # from the workers' mean
    blocks = [_block(A, lr, momentum, nesterov) for A in seen]
    enters = [np.vstack([g * A, -A]) for A in seen]
    own = (float(np.mean(logged_steps(tau, order))) + late) * float(np.diag(M)[:m].sum())

    def walk(S: np.ndarray) -> tuple[np.ndarray, float]:
        total = 0.0
        for block, B in zip(blocks, enters, strict=True):
            S = block @ S @ block.T + B @ P @ B.T
            total += float((M * S[:n, :n]).sum())
        return S, total / len(Ws) + own

    X, _ = walk(np.zeros((2 * n, 2 * n)))
    A = np.eye(2 * n)
    for block in blocks:
        A = block @ A
    for _ in range(DOUBLINGS):
        with np.errstate(over="ignore", invalid="ignore"):
            more = A @ X @ A.T
            X, A = X + more, A @ A
        if not np.isfinite(X).all():
            return None
        if np.abs(more).max() <= CONVERGED * max(1.0, np.abs(X).max()):
            return walk(X)[1]
    return None


def _block(A: np.ndarray, lr: float, momentum: float, nesterov: bool) -> np.ndarray:
    (g, h), one = coefficients(lr, momentum, nesterov), np.eye(len(A))
    return np.block([[(1 - g) * one + g * A, -h * one], [one - A, momentum * one]])
