"""The presets that are an algorithm with axes, from their papers' own form: loops over workers, one vector at a time.

As oracle.py: each takes a Problem and returns the models after its steps, and imports nothing of strategies or fleet. What
these axes do with other algorithms, momentum and moving rates is in corrected.py and in tests/strategies.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from oracle import Models, Problem, clients_of, thirds
from oracle_rules import local


def zeros(p: Problem) -> Models:
    return [np.zeros_like(p.x0) for _ in range(p.m)]


def halved(x: Models) -> Models:
    """(I + W) / 2, W thirds on a ring."""
    return [(x[i] + y) / 2 for i, y in enumerate(thirds(x))]


def lengths(p: Problem) -> list[int]:
    """Of each step, how many its round has."""
    found: list[int] = []
    while len(found) < p.K:
        tau = p.tau if isinstance(p.tau, int) else [t for step, t in p.tau if step <= len(found)][-1]
        found += [tau] * tau
    return found


def fedprox(p: Problem, mu: float = 0.01) -> np.ndarray:
    """Algorithm 2: a client drawn steps along the gradient of f_i(x) + mu / 2 |x - z|^2; z is the mean of those drawn."""
    x, z, current = [p.x0.copy() for _ in range(p.m)], p.x0.copy(), 0
    for k, r in enumerate(p.rounds()):
        for i in clients_of(p, current):
            x[i] = x[i] - p.eta * (p.gradient(i, x[i], k) + mu * (x[i] - z))
        if r >= 0:
            sent, drawn, current = list(x), clients_of(p, r), r + 1
            z = sum(x[i] for i in drawn) / len(drawn)
            for i in clients_of(p, current):
                x[i] = z
            p.communicates(k, sent, x)
    return np.array([*x, z])


def fednova(p: Problem) -> np.ndarray:
    """d_i = (z - x_i) / (eta a_i), a_i the steps of client i; z <- z - tau_eff mean of eta d_i, tau_eff the mean of a_i."""
    x, z, current, taus = [p.x0.copy() for _ in range(p.m)], p.x0.copy(), 0, lengths(p)
    for k, r in enumerate(p.rounds()):
        for i in clients_of(p, current):
            x[i] = x[i] - p.eta * p.gradient(i, x[i], k)
        if r >= 0:
            sent, drawn, current = list(x), clients_of(p, r), r + 1
            d = [(z - x[i]) / (p.eta * taus[k]) for i in drawn]
            z = z - taus[k] * p.eta * sum(d) / len(drawn)
            for i in clients_of(p, current):
                x[i] = z
            p.communicates(k, sent, x)
    return np.array([*x, z])


def scaffold(p: Problem) -> np.ndarray:
    """Algorithm 1, option II, eta_g = 1: y_i <- y_i - eta (g_i - c_i + c); c_i+ = c_i - c + (x - y_i) / (K eta);

    x <- x + mean of those drawn of (y_i - x), c <- c + |S| / N mean of those drawn of (c_i+ - c_i).
    """
    y, x, current = [p.x0.copy() for _ in range(p.m)], p.x0.copy(), 0
    own, c = zeros(p), np.zeros_like(p.x0)
    taus = lengths(p)
    for k, r in enumerate(p.rounds()):
        for i in clients_of(p, current):
            y[i] = y[i] - p.eta * (p.gradient(i, y[i], k) - own[i] + c)
        if r >= 0:
            sent, drawn, current = list(y), clients_of(p, r), r + 1
            new = {i: own[i] - c + (x - y[i]) / (taus[k] * p.eta) for i in drawn}
            c = c + len(drawn) / p.m * sum(new[i] - own[i] for i in drawn) / len(drawn)
            x = x + sum(y[i] - x for i in drawn) / len(drawn)
            for i in drawn:
                own[i] = new[i]
            for i in clients_of(p, current):
                y[i] = x
            p.communicates(k, sent, y)
    return np.array([*y, x])


def d2(p: Problem) -> np.ndarray:
    """x_1 = W (x_0 - eta g_0); x_(k+1) = W (2 x_k - x_(k-1) - eta (g_k - g_(k-1))). W: half of thirds on a ring."""
    x, before, old = [p.x0.copy() for _ in range(p.m)], None, zeros(p)
    for k in range(p.K):
        g = [p.gradient(i, x[i], k) for i in range(p.m)]
        if before is None:
            half = [x[i] - p.eta * g[i] for i in range(p.m)]
        else:
            half = [2 * x[i] - before[i] - p.eta * (g[i] - old[i]) for i in range(p.m)]
        stepped = [x[i] - p.eta * g[i] for i in range(p.m)]
        before, old, x = x, g, halved(half)
        p.communicates(k, stepped, x)
    return np.array(x)


def gradient_tracking(p: Problem) -> np.ndarray:
    """x <- W (x - eta y); y <- W y + g new - g old, y a worker's estimate of the mean gradient. W: thirds on a ring."""
    x, y, old = [p.x0.copy() for _ in range(p.m)], zeros(p), zeros(p)
    for k in range(p.K):
        g = [p.gradient(i, x[i], k) for i in range(p.m)]
        y = [mixed + g[i] - old[i] for i, mixed in enumerate(thirds(y))]
        stepped = [x[i] - p.eta * g[i] for i in range(p.m)]
        x, old = thirds([x[i] - p.eta * y[i] for i in range(p.m)]), g
        assert np.abs(sum(y) - sum(g)).max() < 1e-12
        p.communicates(k, stepped, x)
    return np.array(x)


def kgt(p: Problem) -> np.ndarray:
    """Algorithm 1, eta_s = 1: x <- x - eta (g + c), K times; z = (x before - x) / (K eta); c <- c - z + W z;

    x <- W (x before - K eta z). W: thirds on a ring.
    """
    x, c, taus = [p.x0.copy() for _ in range(p.m)], zeros(p), lengths(p)
    begun = list(x)
    for k, r in enumerate(p.rounds()):
        x = [x[i] - p.eta * (p.gradient(i, x[i], k) + c[i]) for i in range(p.m)]
        if r >= 0:
            K, sent = taus[k], x
            z = [(begun[i] - x[i]) / (K * p.eta) for i in range(p.m)]
            c = [c[i] - z[i] + mixed for i, mixed in enumerate(thirds(z))]
            x = begun = thirds([begun[i] - K * p.eta * z[i] for i in range(p.m)])
            p.communicates(k, sent, x)
    return np.array(x)


def led(p: Problem) -> np.ndarray:
    """phi <- phi - eta g - y / tau, tau times from x; x <- W phi; y <- y + phi - x. W: half of thirds on a ring."""
    phi, y, taus = [p.x0.copy() for _ in range(p.m)], zeros(p), lengths(p)
    for k, r in enumerate(p.rounds()):
        stepped = local(p, phi, k)
        phi = [stepped[i] - y[i] / taus[k] for i in range(p.m)]
        if r >= 0:
            x = halved(phi)
            y = [y[i] + phi[i] - x[i] for i in range(p.m)]
            p.communicates(k, phi, x)
            phi = x
    return np.array(phi)


# what a message says of a vector v, one parameter after another


def by_tensor(p: Problem, v: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([of(v[start:stop]) for start, stop in p.blocks])


def largest(v: np.ndarray, k: int) -> list[int]:
    """Where the k numbers of the largest size are."""
    return sorted(range(len(v)), key=lambda i: (-abs(v[i]), i))[:k]


def top(share: float) -> Callable[[np.ndarray], np.ndarray]:
    def of(v: np.ndarray) -> np.ndarray:
        q = np.zeros_like(v)
        for i in largest(v, max(1, round(share * len(v)))):
            q[i] = v[i]
        return q

    return of


def signs(v: np.ndarray) -> np.ndarray:
    """(|v|_1 / d) sign(v)."""
    return sum(abs(one) for one in v) / len(v) * np.array([1.0 if one >= 0 else -1.0 for one in v])


def two_bits_of_the_largest(v: np.ndarray, share: float = 1 / 64, chunk: int = 4096) -> np.ndarray:
    """Of every 4096 numbers the 64 largest, each the mean of its bin of four, which are 6 / 4 standard deviations wide."""
    q = np.zeros_like(v)
    for begin in range(0, len(v), chunk):
        part = v[begin : begin + chunk]
        at = largest(part, max(1, round(share * len(part))))
        shift = sum(part[i] for i in at) / len(at)
        step = 6 / 4 * (sum((part[i] - shift) ** 2 for i in at) / len(at)) ** 0.5
        code = {i: min(max(round((part[i] - shift) / step + 2), 0), 3) if step else 2 for i in at}
        for i in at:
            alike = [part[j] for j in at if code[j] == code[i]]
            q[begin + i] = sum(alike) / len(alike)
    return q


def with_memory(
    p: Problem, of: Callable[[np.ndarray], np.ndarray], decay: float = 1.0, w: np.ndarray | None = None
) -> np.ndarray:
    """One model; each worker's memory e gains the steps of a round, eta g each; q = C(e), e <- e - q, model - mean of q.

    w: (m,) weights in that mean, in sum 1; None: alike.
    """
    model, e = p.x0.copy(), zeros(p)
    moved = zeros(p)
    for k, r in enumerate(p.rounds()):
        moved = [moved[i] + p.eta * p.gradient(i, model - moved[i], k) for i in range(p.m)]
        if r >= 0:
            sent = [model - one for one in moved]
            e = [decay * e[i] + moved[i] for i in range(p.m)]
            q = [by_tensor(p, one, of) for one in e]
            e, moved = [e[i] - q[i] for i in range(p.m)], zeros(p)
            model = model - (sum(q) / p.m if w is None else sum(w[i] * q[i] for i in range(p.m)))
            p.communicates(k, sent, [model] * p.m)
    return np.array([model - one for one in moved])


def choco(p: Problem, gamma: float = 0.45) -> np.ndarray:
    """Worker i keeps a copy of itself and of each neighbour on the ring: q_j = sign (x_j - copy of j); copies += q;

    x_i <- x_i + gamma sum_j w_ij (copy of j - copy of i), w a third.
    """
    x = [p.x0.copy() for _ in range(p.m)]
    around = [[(i - 1) % p.m, i, (i + 1) % p.m] for i in range(p.m)]
    copies = [{j: p.x0.copy() for j in around[i]} for i in range(p.m)]
    for k, r in enumerate(p.rounds()):
        x = local(p, x, k)
        if r >= 0:
            q, sent = [by_tensor(p, x[i] - copies[i][i], signs) for i in range(p.m)], x
            copies = [{j: copies[i][j] + q[j] for j in around[i]} for i in range(p.m)]
            x = [x[i] + gamma * sum((copies[i][j] - copies[i][i]) / 3 for j in around[i]) for i in range(p.m)]
            p.communicates(k, sent, x)
    return np.array(x)


def deepsqueeze(p: Problem, gamma: float = 0.2, share: float = 0.1) -> np.ndarray:
    """v_i = x_i + e_i, q = C(v), e <- v - q; x_i <- x_i + gamma sum_j (W_ij - I_ij) q_j. W: thirds on a ring."""
    x, e = [p.x0.copy() for _ in range(p.m)], zeros(p)
    for k, r in enumerate(p.rounds()):
        x = local(p, x, k)
        if r >= 0:
            v, sent = [x[i] + e[i] for i in range(p.m)], x
            q = [by_tensor(p, one, top(share)) for one in v]
            e = [v[i] - q[i] for i in range(p.m)]
            x = [x[i] + gamma * (mixed - q[i]) for i, mixed in enumerate(thirds(q))]
            p.communicates(k, sent, x)
    return np.array(x)


def streaming_diloco(p: Problem, P: int = 2, lr: float = 0.7, mu: float = 0.9, alpha: float = 0.5) -> np.ndarray:
    """Fragment after fragment, one every tau / P steps: D = mean of (z - x), sent a step before; torch's Nesterov on it;

    x <- (1 - alpha) z + alpha x.
    """
    x, z, b = [p.x0.copy() for _ in range(p.m)], p.x0.copy(), np.zeros_like(p.x0)
    d, due, r = len(p.x0), 0, -1
    for k in range(p.K):
        if k == due:  # a round begins, of one fragment
            r, due = r + 1, k + lengths(p)[k] // P
        at = slice(r % P * d // P, (r % P + 1) * d // P)
        if k == due - 1:
            sent, delta = x, sum(z[at] - one[at] for one in x) / p.m
        x = local(p, x, k)
        if k == due - 1:
            b[at] = mu * b[at] + delta
            z[at] -= lr * (delta + mu * b[at])
            x = [one.copy() for one in x]
            for one in x:
                one[at] = (1 - alpha) * z[at] + alpha * one[at]
            p.communicates(k, sent, x)
    return np.array(x)


# so long that more than one number is sent
WORDS = dict.fromkeys(("sparseloco", "topk_ef"), ("task.dim=200",))
AXES = {
    "fedprox": fedprox,
    "fednova": fednova,
    "scaffold": scaffold,
    "d2": d2,
    "gradient_tracking": gradient_tracking,
    "kgt": kgt,
    "led": led,
    "topk_ef": lambda p: with_memory(p, top(0.01)),
    "efsign": lambda p: with_memory(p, signs),
    "sparseloco": lambda p: with_memory(p, two_bits_of_the_largest, 0.95),
    "choco": choco,
    "deepsqueeze": deepsqueeze,
    "streaming_diloco": streaming_diloco,
}
