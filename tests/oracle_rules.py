"""The algorithms that are more than a choice of (tau, W, v), from their papers: loops over workers, one vector at a time.

As oracle.py: each takes a Problem and returns the models after its steps, and imports nothing of strategies or fleet.
"""

from __future__ import annotations

import numpy as np
from oracle import Models, Problem, thirds


def local(p: Problem, x: Models, k: int) -> Models:
    """One step of SGD by every worker."""
    return [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(p.m)]


def qg_dsgdm(p: Problem, beta: float = 0.9, mu: float = 0.9, nesterov: bool = False) -> np.ndarray:
    """d = g + beta m; x <- W (x - eta d); m <- mu m + (1 - mu) of the mean of (x before - x after) / eta of a round's steps.

    nesterov: d = g + beta (beta m + g). W: thirds on a ring.
    """
    x, m = [p.x0.copy() for _ in range(p.m)], [np.zeros_like(p.x0) for _ in range(p.m)]
    moved, steps = [np.zeros_like(p.x0) for _ in range(p.m)], 0
    for k, r in enumerate(p.rounds()):
        before, x, steps = x, list(x), steps + 1
        for i in range(p.m):
            g = p.gradient(i, x[i], k)
            d = beta * m[i] + g
            if nesterov:
                d = g + beta * d
            x[i] = x[i] - p.eta * d
        if r >= 0:
            sent, x = x, thirds(x)
            p.communicates(k, sent, x)
        moved = [moved[i] + (before[i] - x[i]) / p.eta for i in range(p.m)]
        if r >= 0:
            m = [mu * m[i] + (1 - mu) * moved[i] / steps for i in range(p.m)]
            moved, steps = [np.zeros_like(p.x0) for _ in range(p.m)], 0
    return np.array(x)


def decentlam(p: Problem, beta: float = 0.9) -> np.ndarray:
    """h = W (x - eta g); b <- beta b + (x - h) / eta; x <- x - eta b. x: before a round's steps. W: thirds on a ring."""
    x, b = [p.x0.copy() for _ in range(p.m)], [np.zeros_like(p.x0) for _ in range(p.m)]
    start = list(x)
    for k, r in enumerate(p.rounds()):
        x = local(p, x, k)
        if r >= 0:
            h, sent = thirds(x), x
            b = [beta * b[i] + (start[i] - h[i]) / p.eta for i in range(p.m)]
            x = start = [start[i] - p.eta * b[i] for i in range(p.m)]
            p.communicates(k, sent, x)
    return np.array(x)


RULES = {"qg_dsgdm": qg_dsgdm, "decentlam": decentlam}
