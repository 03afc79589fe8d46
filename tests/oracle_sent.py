"""PowerSGD, DeMo and SPARTA from their papers: loops over workers, one matrix or chunk at a time.

As oracle.py: each takes a Problem and returns the models after its steps, and imports nothing of strategies or fleet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from oracle import Models, Problem
from oracle_axes import lengths, zeros
from oracle_rules import local

from coopsgd.streams import stream


def average(some: Sequence[np.ndarray], w: Sequence[float] | None = None) -> np.ndarray:
    return sum(some) / len(some) if w is None else sum(weight * one for weight, one in zip(w, some, strict=True)) / sum(w)


class Matrices:
    """The matrices of a row that two factors make smaller, and the first right factor of each."""

    def __init__(self, p: Problem, rank: int) -> None:
        self.places, self.Qs, draw = [], [], stream(p.seed, "codec")
        for at, n, q, order in p.parts:
            if order is not None and rank * (n + q) < n * q:
                self.places.append((at, n, q))
                self.Qs.append(draw.standard_normal((q, rank))[order])
        self.numbers = len(p.x0) + sum(rank * (n + q) - n * q for _, n, q in self.places)  # of a message

    def approximated(self, vs: Models, Qs: Models, w: Sequence[float] | None = None) -> tuple[np.ndarray, Models]:
        """The mean of rows with each matrix as P Q^T, and the Qs after it: Algorithm 1 of the paper."""
        found, after = average(vs, w).copy(), []
        for (at, n, q), Q in zip(self.places, Qs, strict=True):
            Ms = [v[at : at + n * q].reshape(n, q) for v in vs]
            P = np.linalg.qr(average([M @ Q for M in Ms], w))[0]
            after.append(average([M.T @ P for M in Ms], w))
            found[at : at + n * q] = (P @ after[-1].T).ravel()
        return found, after


def powersgd(
    p: Problem,
    rank: int = 2,
    delay: int = 0,
    outer: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda z, y: y,
    w: Sequence[float] | None = None,
) -> np.ndarray:
    """Algorithms 1 and 2: q = P Q^T of the mean of (z - x_i) + e_i, e_i <- that less q; x <- z - q, or an outer step to it."""
    found, m = Matrices(p, rank), p.m
    x, z, e, Qs = [p.x0.copy()] * m, p.x0.copy(), zeros(p), found.Qs
    then, rounds, taus, left = x, p.rounds(), lengths(p), 0
    for k, r in enumerate(rounds):
        left = left or taus[k]
        then = x if left == delay else then
        x, left = local(p, x, k), left - 1
        if r >= 0:
            then = then if delay else x
            v = [z - then[i] + e[i] for i in range(m)]
            q, Qs = found.approximated(v, Qs, w)
            e = [v[i] - q for i in range(m)]  # of what is no matrix their sum is 0, so that they change nothing
            z = outer(z, z - q)
            x, sent = [z + (x[i] - then[i]) for i in range(m)], x
            p.communicates(k, sent, x)
    return np.array(x)


def cosine(n: int) -> np.ndarray:
    """The orthonormal DCT-II."""
    rows = [[math.cos(math.pi / n * (j + 0.5) * i) * math.sqrt((1 if i == 0 else 2) / n) for j in range(n)] for i in range(n)]
    return np.array(rows)


def chunks(p: Problem, most: int) -> list[np.ndarray]:
    """(h, w) the numbers of each chunk, as places in a row."""
    found = []
    for at, n, q, _ in p.parts:
        h, w = (max(s for s in range(1, most + 1) if length % s == 0) for length in (n, q))
        where = at + np.arange(n * q).reshape(n, q)
        found += [where[a : a + h, b : b + w] for a in range(0, n, h) for b in range(0, q, w)]
    return found


def demo(p: Problem, most: int = 64, keep: int = 32, decay: float = 0.999, wd: float = 0.0) -> np.ndarray:
    """delta <- decay delta + lr g; the largest coefficients of each chunk leave it; p <- (1 - lr wd) p, then

    p <- p - lr sign(mean over the senders).
    """
    z, delta, places = p.x0.copy(), zeros(p), chunks(p, most)
    x = [z] * p.m
    for k, r in enumerate(p.rounds()):
        x = local(p, x, k)
        if r < 0:
            continue
        delta = [decay * delta[i] + (z - x[i]) for i in range(p.m)]
        ahead, sent = np.zeros_like(z), x
        for where in places:
            rows, columns = cosine(where.shape[0]), cosine(where.shape[1])
            total, count = np.zeros(where.shape), np.zeros(where.shape)
            for one in delta:
                coefficients = rows @ one[where] @ columns.T
                flat = coefficients.ravel()
                held = np.zeros(len(flat))
                held[sorted(range(len(flat)), key=lambda i: (-abs(flat[i]), i))[:keep]] = 1
                held = held.reshape(where.shape)
                total, count = total + coefficients * held, count + held
                one[where] -= rows.T @ (coefficients * held) @ columns
            ahead[where] = rows.T @ (total / np.maximum(count, 1)) @ columns
        z = z * (1 - p.eta * wd) - p.eta * np.sign(ahead)
        x = [z] * p.m
        p.communicates(k, sent, x)
    return np.array(x)


def sparta(p: Problem, count: int = 2) -> np.ndarray:
    """Share after share of the numbers is averaged, every tau / count steps one, drawn anew when all have been."""
    x, due, r = [p.x0.copy() for _ in range(p.m)], 0, -1
    for k in range(p.K):
        if k == due:
            r, due = r + 1, k + lengths(p)[k] // count
        x = local(p, x, k)
        if k == due - 1:
            at = np.array_split(stream(p.seed, "fragments", r // count).permutation(len(p.x0)), count)[r % count]
            sent, x = x, [one.copy() for one in x]
            for one in x:
                one[at] = sum(other[at] for other in sent) / p.m
            p.communicates(k, sent, x)
    return np.array(x)


SENT = {"powersgd": powersgd, "demo": lambda p: demo(p, *DEMO.get(len(p.parts) > 1, ())), "sparta": sparta}
DEMO = {True: (8, 3)}  # of a network smaller chunks, as public.ORACLE_WORDS says
