"""Corrections from their papers, in slow loops: one worker, one vector at a time. Imports nothing of strategies or fleet.

Each is written in another form than the program has: D2 as exact diffusion, gradient tracking by what every worker tracks,
SCAFFOLD with a server that keeps c. The inner optimiser is torch's SGD with momentum and weight decay, written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from oracle import Models, Problem, mean, product


@dataclass
class Inner:
    """v <- momentum v + g + decay x, x <- x - rate_k v, for each worker."""

    p: Problem
    rates: Sequence[float]
    momentum: float = 0.0
    decay: float = 0.0
    resets: bool = False  # is the velocity forgotten at a communication?
    v: dict[int, np.ndarray] = field(default_factory=dict)

    def step(self, i: int, x: np.ndarray, g: np.ndarray, k: int) -> np.ndarray:
        """Worker i's step k from x along g."""
        self.v[i] = self.momentum * self.v.get(i, np.zeros_like(x)) + g + self.decay * x
        return x - self.rates[k] * self.v[i]

    def plain(self, i: int, x: np.ndarray, k: int) -> np.ndarray:
        """The same along its gradient."""
        return self.step(i, x, self.p.gradient(i, x, k), k)


def proximal(p: Problem, Ws: list, inner: Inner, mu: float, v: int = 0) -> np.ndarray:
    """Local steps along g + mu (x - z), z where the worker was after the last communication."""
    x = [p.x0.copy() for _ in range(p.m + v)]
    z = list(x)
    for k, r in enumerate(p.rounds()):
        for i in range(p.m):
            x[i] = inner.step(i, x[i], p.gradient(i, x[i], k) + mu * (x[i] - z[i]), k)
        if r >= 0:
            x = product(Ws[r % len(Ws)], x)
            z = list(x)
    return np.array(x)


def d2(p: Problem, Ws: list, inner: Inner) -> np.ndarray:
    """Exact diffusion: psi = the step from x, phi = psi + x - psi before, x = W phi."""
    x = [p.x0.copy() for _ in range(p.m)]
    before = list(x)
    for k, r in enumerate(p.rounds()):
        psi = [inner.plain(i, x[i], k) for i in range(p.m)]
        x = product(Ws[r % len(Ws)], [psi[i] + x[i] - before[i] for i in range(p.m)])
        before = psi
    return np.array(x)


def textbook_d2(p: Problem, W: list[list[float]]) -> np.ndarray:
    """x_(k+1) = W (2 x_k - x_(k-1) - eta (g_k - g_(k-1))), at a constant rate."""
    x, g = [[p.x0.copy()] * p.m], []
    for k in range(p.K):
        g.append([p.gradient(i, x[k][i], k) for i in range(p.m)])
        if k == 0:
            x.append(product(W, [x[0][i] - p.eta * g[0][i] for i in range(p.m)]))
        else:
            x.append(product(W, [2 * x[k][i] - x[k - 1][i] - p.eta * (g[k][i] - g[k - 1][i]) for i in range(p.m)]))
    return np.array(x[-1])


def led(p: Problem, Ws: list, inner: Inner) -> np.ndarray:
    """phi <- step(phi) - y / tau, tau times; x = W phi; y <- y + phi - x."""
    x, y = [p.x0.copy() for _ in range(p.m)], [np.zeros_like(p.x0) for _ in range(p.m)]
    taus, begun = {}, 0
    for k, r in enumerate(p.rounds()):
        if r >= 0:
            taus |= dict.fromkeys(range(begun, k + 1), k + 1 - begun)
            begun = k + 1
    for k, r in enumerate(p.rounds()):
        tau = taus.get(k, _tau(p, begun))
        x = [inner.plain(i, x[i], k) - y[i] / tau for i in range(p.m)]
        if r >= 0:
            mixed = product(Ws[r % len(Ws)], x)
            y = [y[i] + x[i] - mixed[i] for i in range(p.m)]
            x = mixed
    return np.array(x)


def _tau(p: Problem, k: int) -> int:
    """Of the round that begins with step k."""
    return [t for step, t in p.tau if step <= k][-1] if isinstance(p.tau, list) else p.tau


def gt(p: Problem, Ws: list, inner: Inner) -> np.ndarray:
    """Every worker tracks the mean update: x = W (x + e), e <- W e + u new - u old."""
    x = [p.x0.copy() for _ in range(p.m)]
    e = old = [np.zeros_like(p.x0) for _ in range(p.m)]
    for k, r in enumerate(p.rounds()):
        u = [inner.plain(i, x[i], k) - x[i] for i in range(p.m)]
        e = [e[i] + u[i] - old[i] for i in range(p.m)]
        x = product(Ws[r % len(Ws)], [x[i] + e[i] for i in range(p.m)])
        e, old = product(Ws[r % len(Ws)], e), u
    return np.array(x)


def kgt(p: Problem, Ws: list, inner: Inner) -> np.ndarray:
    """tau steps along g + c; s = the mean of the round's gradients + c; x, s-bar = W x, W s; c <- c - s + s-bar."""
    x, c = [p.x0.copy() for _ in range(p.m)], [np.zeros_like(p.x0) for _ in range(p.m)]
    seen: list[list[np.ndarray]] = [[] for _ in range(p.m)]

    for k, r in enumerate(p.rounds()):
        for i in range(p.m):
            seen[i].append(p.gradient(i, x[i], k))
            x[i] = inner.step(i, x[i], seen[i][-1] + c[i], k)
        if r >= 0:
            s = [mean(seen[i]) + c[i] for i in range(p.m)]
            mixed = product(Ws[r % len(Ws)], s)
            c = [c[i] - s[i] + mixed[i] for i in range(p.m)]
            x, seen = product(Ws[r % len(Ws)], x), [[] for _ in range(p.m)]
    return np.array(x)


def scaffold(
    p: Problem,
    inner: Inner,
    clients: Callable[[int], list[int]] | None = None,
    weights: np.ndarray | None = None,
    step: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """The server's model z and control c; clients(r) take part in round r (None: all), weights of all (None: alike).

    step(z, mean): z after a round, the mean if None.

    Returns the workers' models, and with clients z behind them.
    """
    everyone = list(range(p.m))
    w = np.full(p.m, 1 / p.m) if weights is None else weights
    x, z, c = [p.x0.copy() for _ in everyone], p.x0.copy(), np.zeros_like(p.x0)
    own = [np.zeros_like(p.x0) for _ in everyone]
    seen: list[list[np.ndarray]] = [[] for _ in everyone]
    current = 0

    for k, r in enumerate(p.rounds()):
        drawn = clients(current) if clients else everyone
        for i in drawn:
            seen[i].append(p.gradient(i, x[i], k))
            x[i] = inner.step(i, x[i], seen[i][-1] - own[i] + c, k)
        if r >= 0:
            new = {i: mean(seen[i]) for i in drawn}
            total = sum((w[i] * x[i] for i in drawn), np.zeros_like(z)) / sum(w[i] for i in drawn)
            z = step(z, total) if step else total
            c = c + sum((w[i] * (new[i] - own[i]) for i in drawn), np.zeros_like(z))
            for i in drawn:
                own[i] = new[i]
            seen, current = [[] for _ in everyone], r + 1
            if inner.resets:
                inner.v.clear()
            for i in clients(current) if clients else everyone:
                x[i] = z
    models: Models = [*x, z] if clients else x
    return np.array(models)
