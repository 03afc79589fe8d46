"""The algorithms that are more than a choice of (tau, W, v), from their papers: loops over workers, one vector at a time.

As oracle.py: each takes a Problem and returns the models after its steps, and imports nothing of strategies or fleet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def gasloc(p: Problem, eta: float = 0.7, gamma: float = 0.6, before: bool = False, mix: Callable = thirds) -> np.ndarray:
    """g = x - z; z <- (z + eta g) - alpha L (z + eta g) + gamma ((z + eta g) - that of the round before), W = I - alpha L."""
    x, z = [p.x0.copy() for _ in range(p.m)], [p.x0.copy() for _ in range(p.m)]
    last = list(z)
    for k, r in enumerate(p.rounds()):
        x = local(p, x, k)
        if r >= 0:
            theta, sent = [z[i] + p_i * eta for i, p_i in enumerate(x[i] - z[i] for i in range(p.m))], x
            push = [gamma * (theta[i] - last[i]) for i in range(p.m)]
            if before:
                z = mix([theta[i] + push[i] for i in range(p.m)])
            else:
                z = [mixed + push[i] for i, mixed in enumerate(mix(theta))]
            last, x = theta, list(z)
            p.communicates(k, sent, x)
    return np.array(x)


def local_adam(p: Problem, first: int = 1, second: int = 1, rate: float = 0.001, betas: tuple = (0.9, 0.999)) -> np.ndarray:
    """Adam by every worker; at communication r (from 1) models are averaged, u where first divides r, v where second does."""
    x = [p.x0.copy() for _ in range(p.m)]
    u, v = ([np.zeros_like(p.x0) for _ in range(p.m)] for _ in range(2))
    b1, b2 = betas
    for k, r in enumerate(p.rounds()):
        for i in range(p.m):
            g = p.gradient(i, x[i], k)
            u[i], v[i] = b1 * u[i] + (1 - b1) * g, b2 * v[i] + (1 - b2) * g * g
            x[i] = x[i] - rate * (u[i] / (1 - b1 ** (k + 1))) / (np.sqrt(v[i] / (1 - b2 ** (k + 1))) + 1e-8)
        if r >= 0:
            sent, mean = x, [sum(x) / p.m] * p.m
            u = [sum(u) / p.m] * p.m if (r + 1) % first == 0 else u
            v = [sum(v) / p.m] * p.m if (r + 1) % second == 0 else v
            x = list(mean)
            p.communicates(k, sent, x)
            u, v = list(u), list(v)
    return np.array(x)


def push_sum(p: Problem, to: Callable[[int, int], list[int]]) -> np.ndarray:
    """Each j shares mass and weight out equally among itself and to(j, r); mass gains u, a round's steps from mass / weight."""
    mass, w = [p.x0.copy() for _ in range(p.m)], [1.0] * p.m
    start = list(mass)
    x = list(mass)
    for k, r in enumerate(p.rounds()):
        x = local(p, x, k)
        if r >= 0:
            mass = [mass[i] + (x[i] - start[i]) for i in range(p.m)]
            total = sum(mass)
            new, weights = [np.zeros_like(p.x0) for _ in range(p.m)], [0.0] * p.m
            for j in range(p.m):
                peers = {j, *to(j, r)}
                for i in peers:
                    new[i] = new[i] + mass[j] / len(peers)
                    weights[i] += w[j] / len(peers)
            mass, w, sent = new, weights, x
            assert abs(sum(w) - p.m) < 1e-12 and np.abs(sum(mass) - total).max() < 1e-12
            x = start = [mass[i] / w[i] for i in range(p.m)]
            p.communicates(k, sent, x)
    return np.array(x)


def book(p: Problem) -> Callable[[int, int], list[int]]:
    """1, -1, 2, -2, 4, -4, ... places on, each place once, one a communication in turn."""
    places: list[int] = []
    for i in range(1 + int(np.log2(p.m - 1))):
        for at in (2**i, p.m - 2**i):
            if at not in places:
                places.append(at)
    return lambda j, r: [(j + places[r % len(places)]) % p.m]


def relay(p: Problem, neighbours: Callable[[int, int], list[list[int]]], trees: int = 1) -> np.ndarray:
    """m_(i -> j) = x_i + sum of what all neighbours but j told i last, with its count; x_i <- ((m - n_i) x_i + sum told) / m.

    Two trees: the first half of the numbers goes along the one, the second along the other.
    """
    half, halves = len(p.x0) // 2, []
    columns = [slice(None)] if trees == 1 else [slice(0, half), slice(half, None)]
    of = [neighbours(p.m, tree) for tree in range(trees)]
    told: list[dict[tuple[int, int], tuple[Any, int]]] = [
        {(i, j): (0 * p.x0, 0) for i in range(p.m) for j in of[tree][i]} for tree in range(trees)
    ]
    x, past = [p.x0.copy() for _ in range(p.m)], []
    for k, r in enumerate(p.rounds()):
        x = local(p, x, k)
        if r < 0:
            continue
        past.append(x)
        halves = []
        for tree in range(trees):
            new = {}
            for i in range(p.m):
                for j in of[tree][i]:
                    others = [told[tree][other, i] for other in of[tree][i] if other != j]
                    new[i, j] = (x[i] + sum(what for what, _ in others), 1 + sum(count for _, count in others))
            told[tree] = new
            mine = []
            for i in range(p.m):
                n = sum(new[j, i][1] for j in of[tree][i])
                mine.append(((p.m - n) * x[i] + sum(new[j, i][0] for j in of[tree][i])) / p.m)
                if n == p.m - 1:  # it has heard of all: their mean, each dist - 1 rounds ago, its own now
                    late = [past[len(past) - max(1, d)] for d in distances(of[tree], i)]
                    assert np.abs(sum(late[j][j] for j in range(p.m)) / p.m - mine[i]).max() < 1e-12
            halves.append(mine)
        sent, x = x, [np.concatenate([half[i][at] for half, at in zip(halves, columns, strict=True)]) for i in range(p.m)]
        p.communicates(k, sent, x)
    return np.array(x)


def distances(neighbours: list[list[int]], i: int) -> list[int]:
    """Edges between i and each."""
    found, at = {i: 0}, [i]
    for j in at:
        for other in neighbours[j]:
            if other not in found:
                found[other] = found[j] + 1
                at.append(other)
    return [found[j] for j in range(len(neighbours))]


def binary_tree(m: int, tree: int = 0) -> list[list[int]]:
    """Worker i below (i - 1) // 2; tree 1: with workers in the opposite order."""
    found: list[list[int]] = [[] for _ in range(m)]
    for i in range(1, m):
        for a, b in ((i, (i - 1) // 2), ((i - 1) // 2, i)):
            found[m - 1 - a if tree else a].append(m - 1 - b if tree else b)
    return found


def gpa(p: Problem, mu_x: float = 0.9, mu_y: float = 0.8) -> np.ndarray:
    """y = mu_y a + (1 - mu_y) z; z <- z - eta mean g(y); a <- mu_x a + (1 - mu_x) z. The models are the next y."""
    z, a, y = p.x0.copy(), p.x0.copy(), p.x0.copy()
    for k in range(p.K):
        z = z - p.eta * sum(p.gradient(i, y, k) for i in range(p.m)) / p.m
        a = mu_x * a + (1 - mu_x) * z
        y = mu_y * a + (1 - mu_y) * z
        p.communicates(k, [y] * p.m, [y] * p.m)
    return np.array([y] * p.m)


RULES = {
    "gpa": gpa,
    "qg_dsgdm": qg_dsgdm,
    "decentlam": decentlam,
    "gasloc": gasloc,
    "local_adam": local_adam,
    "des_loc": lambda p: local_adam(p, 3, 6),
    "relay": lambda p: relay(p, binary_tree),
    "sgp": lambda p: push_sum(p, lambda j, r: [0] if j else list(range(1, p.m))),  # on a star
    "sgp_one_peer": lambda p: push_sum(p, book(p)),
}
# what the oracle is of
WORDS = {"sgp": ("topology=star",)}
