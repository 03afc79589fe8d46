"""The step condition of a cycle of several matrices, from the matrices themselves.

The proof of the bound writes the distance between the rows after k steps as the sum, over the steps s before, of gradients
times Phi_{s,k} - J, where Phi_{s,k} is the product of what is mixed from step s on until k, a *window* of the schedule (I while
nothing is mixed). With w_sk = ||Phi_{s,k} - J||_2 and Cauchy-Schwarz over s, what the mean gradients make of it is absorbed if

    eta_eff L + c' (eta_eff L)^2 <= 1,    c' = 2 (1 + v/m)^2 max_s sum_{k > s} w_sk sum_{s' < k} w_s'k.

For one symmetric W and tau = 1 that is 2 zeta^2 / (1 - zeta)^2, for J it is tau (tau - 1): the conditions of D-PSGD and of
PASGD alone. A cycle is not one W of so many steps: a window may lie across its end and hold no whole cycle, even if that is J.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coopsgd.mixing import spectra
from coopsgd.mixing.matrix import Matrix

NEGLIGIBLE = 1e-12  # what windows of a whole number of cycles may leave, to be the longest that are looked at
WORK = 3e9  # multiplications spent on products and norms of windows; longer windows are then bounded by what these leave
COMMUTE = 1e-10  # what may be left off the diagonal in a basis that is said to be common


def window_constant(Ws: Sequence[Any], m: int, tau: int, zeta: float) -> float:
    """c', no unit, of a cycle of (m + v, m + v) doubly stochastic matrices, none of norm above 1, tau steps before each.

    zeta < 1: the norm of the cycle's product less J. To rounding where the work allows, else from above: windows are then
    bounded by shorter ones, at worst by zeta for each whole cycle they hold. Windows of one communication differ by local
    steps alone, so tau may be as large as it likes.
    """
    T, n = len(Ws), len(Ws[0])
    if n == 1:
        return 0.0
    norms = _norms(Ws)
    if norms is None:
        return 2 * (n / m * tau * T * (1 + 1 / (1 - zeta))) ** 2
    length = norms.shape[1]
    left = float(norms[:, -1].max()) if length % T == 0 else 0.0
    beyond = 1 / (1 - left)  # a window longer by `length` is at most `left` times as large: a geometric series
    at = (np.arange(T)[:, None] + 1 + np.arange(length)) % T  # [a, l]: the communication that comes after the window
    before = np.bincount(at.ravel(), norms.ravel(), T) * beyond  # windows that end where communication b comes next
    local = tau * (tau - 1) / 2
    # with t local steps since the mixing, the weights of the steps before come to t + tau before[b]
    after = (norms * (local + tau**2 * before)[at]).sum(1) * beyond
    own = local + tau * (tau - 1) * before  # of a round's first step, which meets tau - 1 points of its own round
    return float(2 * (n / m) ** 2 * (own + after).max())


def _norms(Ws: Sequence[Any]) -> np.ndarray | None:
    """(T, length) ||W_{a + l} ... W_a - J||_2 of the windows that begin with communication a and hold l + 1 of them.

    Until windows leave SETTLED of a disagreement, or, in whole cycles, until the work is done; None if that is too early.
    """
    T, n = len(Ws), len(Ws[0])
    known = spectra.common_modes(Ws)
    if known is None and isinstance(Ws[0], Matrix):
        return None  # too large to be written out
    modes = _modes(Ws) if known is None else np.unique(np.round(known[:, 1:], 13), axis=1)
    follow = _commuting(modes) if modes is not None else _dense(Ws)
    each = float(T * modes.shape[1]) if modes is not None else float(T) * 20 * n**3
    found: list[np.ndarray] = []
    while True:
        found.append(follow())
        if found[-1].max() <= NEGLIGIBLE:
            return np.stack(found, 1)
        if (len(found) + T) * each > WORK and len(found) % T == 0:
            return np.stack(found, 1) if spectra.below_one(found[-1].max()) else None
        if len(found) * each > 2 * WORK:  # not even one cycle
            return None


def _commuting(modes: np.ndarray) -> Callable[[], np.ndarray]:
    """The next column of `_norms`, from the (T, modes) eigenvalues of matrices with one basis of eigenvectors."""
    windows, after = np.ones_like(modes), 0

    def more() -> np.ndarray:
        nonlocal windows, after
        windows = windows * np.roll(modes, -after, axis=0)
        after += 1
        return np.asarray(np.abs(windows).max(1))

    return more


def _dense(Ws: Sequence[Any]) -> Callable[[], np.ndarray]:
    n = len(Ws[0])
    each = np.stack(Ws)
    windows, after = np.broadcast_to(np.eye(n) - 1 / n, each.shape), 0

    def more() -> np.ndarray:
        nonlocal windows, after
        windows = np.roll(each, -after, axis=0) @ windows
        after += 1
        return np.asarray(np.linalg.norm(windows, 2, axis=(1, 2)))

    return more


def _modes(Ws: Sequence[Any]) -> np.ndarray | None:
    """(T, number) eigenvalues beside that of the mean, mode by mode, if the matrices are normal and commute; else None.

    Circulants do, and gossip with an average now and then, pairs along the axes of a hypercube, groups and everybody: their
    windows are products of numbers. The common basis is that of one combination of their symmetric and skew parts.
    """
    n, weigh = len(Ws[0]), np.random.default_rng(0)
    alike: dict[int, int] = {}
    distinct = [W for i, W in enumerate(Ws) if alike.setdefault(id(W), i) == i]
    H = np.zeros((n, n), dtype=complex)
    for W in distinct:
        a, b = weigh.uniform(1, 2, 2)
        H += a * (W + W.T) + (0 if spectra.is_symmetric(W, 0) else b * 1j * (W - W.T))
    H = H.real if not H.imag.any() else H
    _, B = np.linalg.eigh(H + 10 * np.full((n, n), len(distinct) / n))  # the mean comes last
    found = {}
    for W in distinct:
        D = B.conj().T @ W @ B
        values = np.diag(D).copy()
        np.fill_diagonal(D, 0)
        if np.abs(D).max() > COMMUTE:
            return None
        found[id(W)] = values[:-1]
    table = np.stack([found[id(W)] for W in Ws])
    return np.unique(np.round(table, 13), axis=1)
