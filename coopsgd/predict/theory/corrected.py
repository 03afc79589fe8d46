"""What corrections, CHOCO and GASLoC make of one mode of W. The 2 x 2 blocks are derived, CHOCO's constants its paper's.

On quadratics of one curvature h, step eta, x = eta h, q = 1 - x, S = 1 + q + .. + q^(tau - 1), a mode of W with eigenvalue l
follows, in a round, in (model, correction in units of the model):

    d2, gt (tau = 1)   [[l q, l], [(l - 1) q, l]],   [[l q, l], [(1 - l) x, l]]
    led                [[l q^tau, l S / tau], [(l - 1) q^tau, 1 - (1 - l) S / tau]]
    kgt                [[l q^tau, -l S], [-(1 - l) (1 - q^tau) / tau, 1 - (1 - l) S / tau]],   scaffold: the same at l = 0

How the workers' optima differ adds a constant, which moves no radius. The mean follows q^tau. Without curvature, x = 0, d2 and
led leave sqrt(l) of a disagreement (l > 0), gt and kgt l.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coopsgd.predict.theory.delay import least_bad


def _d2(v: float, q: float, tau: int) -> list[list[float]]:
    return [[v * q, v], [(v - 1) * q, v]]


def _gt(v: float, q: float, tau: int) -> list[list[float]]:
    return [[v * q, v], [(1 - v) * (1 - q), v]]


def _led(v: float, q: float, tau: int) -> list[list[float]]:
    S = sum(q**k for k in range(tau)) / tau
    return [[v * q**tau, v * S], [(v - 1) * q**tau, 1 - (1 - v) * S]]


def _kgt(v: float, q: float, tau: int) -> list[list[float]]:
    S = sum(q**k for k in range(tau))
    return [[v * q**tau, -v * S], [(v - 1) * (1 - q**tau) / tau, 1 - (1 - v) * S / tau]]


BLOCKS: dict[str, Callable[[float, float, int], list[list[float]]]] = {
    "d2": _d2,
    "gt": _gt,
    "led": _led,
    "kgt": _kgt,
    "scaffold": _kgt,
}


def left(name: str, values: np.ndarray, x: float, tau: int) -> float:
    """What a round leaves of a disagreement at worst: the largest modulus over the modes with these eigenvalues.

    values: of W without that of the mean; x: step times curvature.
    """
    blocks = np.array([BLOCKS[name](v, 1 - x, tau) for v in values.tolist()])
    return float(np.abs(np.linalg.eigvals(blocks)).max(initial=0.0))


def largest_step(name: str, values: np.ndarray, tau: int) -> float:
    """The largest step times curvature below which every mode contracts; at most 2, where the mean does no longer."""
    if not len(values):
        return 2.0
    values = values[np.unique(values.round(12), return_index=True)[1]]
    return least_bad(lambda x: left(name, values, x, tau), 400)


def choco(values: np.ndarray, delta: float) -> tuple[float, float]:
    """gamma and what a round then leaves at most of ||X - mean||^2 + ||X - copies||^2, without gradients.

    arXiv:1902.00340, Theorem 2: rho the spectral gap of W, beta = ||I - W||, gamma = rho^2 delta / (16 rho + rho^2 + 4 beta^2 +
    2 rho beta^2 - 8 rho delta), and 1 - rho^2 delta / 82.
    """
    rho, beta = 1 - float(np.abs(values).max(initial=0.0)), float(np.abs(1 - values).max(initial=0.0))
    over = 16 * rho + rho**2 + 4 * beta**2 + 2 * rho * beta**2 - 8 * rho * delta
    return rho**2 * delta / over, 1 - rho**2 * delta / 82


def gasloc(values: np.ndarray, gamma: float, momentum: str) -> float:
    """What a round leaves of a disagreement between slow models at worst, without gradients.

    z <- W z + gamma (z - z before) where the momentum is added after mixing, W (z + gamma (z - z before)) before.
    """
    blocks = [[[v + gamma, -gamma] if momentum == "after" else [v * (1 + gamma), -v * gamma], [1, 0]] for v in values.tolist()]
    return float(np.abs(np.linalg.eigvals(np.array(blocks))).max(initial=0.0)) if blocks else 0.0
