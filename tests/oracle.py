"""The papers' formulas, literally: loops over workers, one vector at a time. Imports nothing of strategies or fleet.

Every function takes a Problem and returns the (m + v, d) models after its K steps, workers first. Equations:
arXiv:1808.07576 (the framework), and the paper named in the algorithm's yaml. Lots are drawn from the same addresses as the
program's, in the order the docstrings of mixing/ state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coopsgd.streams import stream

Models = list[np.ndarray]


@dataclass
class Problem:
    """Noisy quadratics f_i(x) = 1/2 sum_j a_ij (x_j - c_ij)^2 and a run of K steps on them."""

    a: np.ndarray
    c: np.ndarray
    x0: np.ndarray
    sigma: float
    seed: int
    eta: float
    tau: int | list[list[int]]
    K: int
    seen: list[list[Any]] = field(default_factory=list)  # of each communication: steps taken, the models before it and after

    def communicates(self, k: int, before: Models, after: Models | None) -> None:
        """A communication belongs to step k; after is None while it is still to come."""
        copies = [None if x is None else np.array(x[: self.m]) for x in (before, after)]
        self.seen.append([k + 1, *copies])

    @property
    def m(self) -> int:
        return len(self.a)

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Where each parameter begins in a model and where it ends."""
        return [(0, len(self.x0))]

    @property
    def parts(self) -> list[tuple[int, int, int, list[int] | None]]:
        """(start, n, p, which of the parameter's own columns each column is) of matrices; n = 1 and None of anything else."""
        return [(0, 1, len(self.x0), None)]

    def gradient(self, i: int, x: np.ndarray, k: int) -> np.ndarray:
        """Worker i's stochastic gradient at x in iteration k."""
        d = len(x)
        noise = stream(self.seed, "noise", k).standard_normal((self.m, d))[i]
        return self.a[i] * (x - self.c[i]) + self.sigma / np.sqrt(d) * noise

    def rounds(self) -> list[int]:
        """For each step k, the number of the communication that follows it, or -1."""
        due, r, start = [-1] * self.K, 0, 0
        while start < self.K:
            tau = self.tau
            if isinstance(tau, list):  # the last pair whose step has come when the round begins
                tau = [t for step, t in tau if step <= start][-1]
            if start + tau <= self.K:
                due[start + tau - 1] = r
            start, r = start + tau, r + 1
        return due


def periodic(p: Problem, mix: Callable[[Models, int], Models], v: int = 0) -> np.ndarray:
    """Local steps by every worker; after those that end round r, mix(x, r). Auxiliary models, last, have no gradient."""
    x = [p.x0.copy() for _ in range(p.m + v)]
    for k, r in enumerate(p.rounds()):
        for i in range(p.m):
            x[i] = x[i] - p.eta * p.gradient(i, x[i], k)
        if r >= 0:
            before, x = x, mix(x, r)
            p.communicates(k, before, x)
    return np.array(x)


def product(W: list[list[float]], x: Models) -> Models:
    """Row i takes W[i][j] of model j."""
    mixed = []
    for i in range(len(x)):
        total = np.zeros_like(x[0])
        for j in range(len(x)):
            total = total + W[i][j] * x[j]
        mixed.append(total)
    return mixed


def cooperative(p: Problem, W: list[list[float]], v: int = 0) -> np.ndarray:
    """X <- W (X - eta G) when a communication is due, else X - eta G."""
    return periodic(p, lambda x, r: product(W, x), v)


def combine_then_adapt(p: Problem, W: list[list[float]], v: int = 0) -> np.ndarray:
    """P = W X, X <- P - eta G(P), mixing where the gradient step before it ended a round."""
    x = [p.x0.copy() for _ in range(p.m + v)]
    waits = False
    for k, r in enumerate(p.rounds()):
        if waits:
            x = product(W, x)
            p.seen[-1][2] = np.array(x[: p.m])
        for i in range(p.m):
            x[i] = x[i] - p.eta * p.gradient(i, x[i], k)
        waits = r >= 0
        if waits:
            p.communicates(k, x, None)
    return np.array(x)


def delayed(p: Problem, W: list[list[float]], delay: int | str, v: int = 0) -> np.ndarray:
    """X <- W X_then + (X - X_then) when a communication is due, X_then what the models were `delay` steps before.

    "tau": when the round began, as it is where a round is shorter than the delay.
    """
    x = [p.x0.copy() for _ in range(p.m + v)]
    began: list[list[np.ndarray]] = []  # the models before each step of this round
    for k, r in enumerate(p.rounds()):
        began.append(x)
        g = [p.gradient(i, x[i], k) for i in range(p.m)] + [np.zeros_like(p.x0)] * v
        x = [x[i] - p.eta * g[i] for i in range(p.m + v)]
        if r >= 0:
            then = [*began, x][len(began) - (len(began) if delay == "tau" else min(int(delay), len(began)))]
            mixed = product(W, then)
            x = [mixed[i] + (x[i] - then[i]) for i in range(p.m + v)]
            p.communicates(k, then, x)
            began = []
    return np.array(x)


def outer_step(kind: str, z: np.ndarray, y: np.ndarray, kept: list[np.ndarray], o: dict[str, float], rate: float) -> np.ndarray:
    """The slow model after a round that led from z to y; kept: what the outer optimiser remembers, changed in place.

    momentum, nesterov: as torch.optim.SGD steps along z - y; over the rate and times it where o has "scale".
    """
    if kind in ("momentum", "nesterov"):
        g = rate if o.get("scale") else 1.0
        old = kept[0] if kept else np.zeros_like(z)
        b = o["momentum"] * old + (z - y) / g
        kept[:] = [b]
        return z - o["lr"] * g * ((z - y) / g + o["momentum"] * b if kind == "nesterov" else b)
    m, v = kept or [np.zeros_like(z), np.full_like(z, o["eps"] ** 2)]
    change = y - z
    m = o["beta1"] * m + (1 - o["beta1"]) * change
    if kind == "adagrad":
        v = v + change**2
    elif kind == "adam":
        v = o["beta2"] * v + (1 - o["beta2"]) * change**2
    else:
        v = v - (1 - o["beta2"]) * change**2 * np.sign(v - change**2)
    kept[:] = [m, v]
    return z + o["lr"] * m / (np.sqrt(v) + o["eps"])


def with_outer(
    p: Problem,
    mix: Callable[[Models, int], Models],
    kind: str,
    o: dict[str, float],
    delay: int | str = 0,
    v: int = 0,
    merge: float | None = None,
) -> np.ndarray:
    """`delayed`, each row by a step from what it was after the last communication towards mix(X_then, r).

    merge: the weight of the local model beside the answer; None: what was stepped since then is added to the answer.
    """
    n = p.m + v
    x, z, kept = [p.x0.copy() for _ in range(n)], [p.x0.copy() for _ in range(n)], [[] for _ in range(n)]
    began: list[list[np.ndarray]] = []
    for k, r in enumerate(p.rounds()):
        began.append(x)
        x = [x[i] - p.eta * p.gradient(i, x[i], k) if i < p.m else x[i] for i in range(n)]
        if r >= 0:
            then = [*began, x][len(began) - (len(began) if delay == "tau" else min(int(delay), len(began)))]
            y = mix(then, r)
            z = [outer_step(kind, z[i], y[i], kept[i], o, p.eta) for i in range(n)]
            if merge is None:
                x = [z[i] + (x[i] - then[i]) for i in range(n)]
            else:
                x = [(1 - merge) * z[i] + merge * x[i] for i in range(n)]
            p.communicates(k, then, x)
            began = []
    return np.array(x)


def original_easgd(p: Problem, alpha: float) -> np.ndarray:
    """x_i <- x_i - eta g_i - alpha (x_i - z), z <- z + alpha sum (x_i - z), all of it at the models before the step."""
    x, z = [p.x0.copy() for _ in range(p.m)], p.x0.copy()
    for k in range(p.K):
        pull = [x[i] - z for i in range(p.m)]
        x = [x[i] - p.eta * p.gradient(i, x[i], k) - alpha * pull[i] for i in range(p.m)]
        z = z + alpha * sum(pull)
    return np.array([*x, z])


def fullsync(p: Problem) -> np.ndarray:
    """One model; its gradient is the mean of the workers' gradients."""
    x = p.x0.copy()
    for k in range(p.K):
        total = np.zeros_like(x)
        for i in range(p.m):
            total = total + p.gradient(i, x, k)
        x = x - p.eta * total / p.m
        p.communicates(k, [x] * p.m, [x] * p.m)
    return np.array([x] * p.m)


def mean(x: Models) -> np.ndarray:
    return sum(x[1:], x[0]) / len(x)


def thirds(x: Models) -> Models:
    """On a ring of at least three: a third from each side and a third of one's own."""
    return [(x[i - 1] + x[i] + x[(i + 1) % len(x)]) / 3 for i in range(len(x))]


def pasgd(p: Problem) -> np.ndarray:
    """Everyone takes the mean."""
    return periodic(p, lambda x, r: [mean(x)] * p.m)


def easgd(p: Problem, alpha: float | None = None) -> np.ndarray:
    """x_i <- y_i - alpha (y_i - z), z <- z + alpha sum_i (y_i - z), both from the old z; alpha = 2 / (m + 2)."""
    alpha = 2 / (p.m + 2) if alpha is None else alpha

    def pull(x: Models, r: int) -> Models:
        *y, z = x
        return [y_i - alpha * (y_i - z) for y_i in y] + [z + alpha * sum(y_i - z for y_i in y)]

    return periodic(p, pull, 1)


def dpsgd(p: Problem) -> np.ndarray:
    """Thirds on a ring."""
    return periodic(p, lambda x, r: thirds(x))


def gea(p: Problem) -> np.ndarray:
    """Thirds on a ring under an anchor: alpha = (1 + zeta) / (m + 1 + zeta), zeta = (1 + 2 cos(2 pi / m)) / 3 of the ring."""
    zeta = (1 + 2 * np.cos(2 * np.pi / p.m)) / 3
    alpha = (1 + zeta) / (p.m + 1 + zeta)

    def mix(x: Models, r: int) -> Models:
        *y, z = x
        return [(1 - alpha) * s + alpha * z for s in thirds(y)] + [(1 - p.m * alpha) * z + alpha * sum(y)]

    return periodic(p, mix, 1)


def hierarchical(p: Problem) -> np.ndarray:
    """Two groups of neighbours in number, their models, a root: everyone moves by w to each neighbour of the tree."""
    m, half = p.m, p.m // 2
    edges = [(i, m if i < half else m + 1) for i in range(m)] + [(m, m + 2), (m + 1, m + 2)]
    laplacian = np.zeros((m + 3, m + 3))
    for i, j in edges:
        laplacian[i, i] += 1
        laplacian[j, j] += 1
        laplacian[i, j] = laplacian[j, i] = -1
    values = np.sort(np.linalg.eigvalsh(laplacian))
    w = 2 / (values[1] + values[-1])

    def mix(x: Models, r: int) -> Models:
        new = list(x)
        for i, j in edges:
            new[i] = new[i] + w * (x[j] - x[i])
            new[j] = new[j] + w * (x[i] - x[j])
        return new

    return periodic(p, mix, 3)


def two_level(p: Problem) -> np.ndarray:
    """Every fourth communication the mean of all, else each half its own mean."""
    half = p.m // 2

    def mix(x: Models, r: int) -> Models:
        if r % 4 == 3:
            return [mean(x)] * p.m
        return [mean(x[:half])] * half + [mean(x[half:])] * half

    return periodic(p, mix)


def parameter_server(p: Problem) -> np.ndarray:
    """The server takes the mean, then everyone takes the server."""
    return periodic(p, lambda x, r: [mean(x[: p.m])] * (p.m + 1), 1)


def one_peer(p: Problem) -> np.ndarray:
    """Half of one's own, half of the worker 2^(r mod log2 m) places before."""
    T = int(np.log2(p.m))
    return periodic(p, lambda x, r: [(x[i] + x[(i - 2 ** (r % T)) % p.m]) / 2 for i in range(p.m)])


def ring_edges(m: int) -> list[tuple[int, int]]:
    """Each once, smaller end first, in order."""
    return sorted((min(i, (i + 1) % m), max(i, (i + 1) % m)) for i in range(m))


def matched(p: Problem, edges: list[tuple[int, int]]) -> Callable[[Models, int], Models]:
    """These edges in random order; whoever is still free at both ends pairs up."""

    def mix(x: Models, r: int) -> Models:
        new, busy = list(x), set()
        for e in stream(p.seed, "matching", r).permutation(len(edges)):
            i, j = edges[e]
            if i not in busy and j not in busy:
                busy |= {i, j}
                new[i] = new[j] = (x[i] + x[j]) / 2
        return new

    return mix


def matching(p: Problem) -> np.ndarray:
    """Random pairs along the ring."""
    return periodic(p, matched(p, ring_edges(p.m)))


def noloco(p: Problem) -> np.ndarray:
    """Random pairs of all; m_i <- 0.5 m_i + 0.7 mean_pair(z - x) + 0.7 (z_i - mean_pair z), z <- z - m."""
    mix = matched(p, [(i, j) for i in range(p.m) for j in range(i + 1, p.m)])
    x, z = [p.x0.copy() for _ in range(p.m)], [p.x0.copy() for _ in range(p.m)]
    velocity = [np.zeros_like(p.x0) for _ in range(p.m)]
    for k, r in enumerate(p.rounds()):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(p.m)]
        if r >= 0:
            before, moved, met = x, mix([z[i] - x[i] for i in range(p.m)], r), mix(z, r)
            velocity = [0.5 * velocity[i] + 0.7 * moved[i] + 0.7 * (z[i] - met[i]) for i in range(p.m)]
            z = [z[i] - velocity[i] for i in range(p.m)]
            x = list(z)
            p.communicates(k, before, x)
    return np.array(x)


def averaged(p: Problem, kind: str, **o: float) -> np.ndarray:
    """Periodic averaging and an outer step."""
    return with_outer(p, lambda x, r: [mean(x)] * p.m, kind, o)


def served(p: Problem, kind: str, **o: float) -> np.ndarray:
    """Federated averaging whose server takes an outer step."""
    kept: list[np.ndarray] = []
    return fedavg(p, server=lambda z, y: outer_step(kind, z, y, kept, o, p.eta))


def pairwise(p: Problem) -> np.ndarray:
    """A worker at random and one of its two neighbours at random take their mean."""

    def mix(x: Models, r: int) -> Models:
        draw = stream(p.seed, "gossip", r)
        i = draw.integers(p.m)
        j = draw.choice(sorted([(i - 1) % p.m, (i + 1) % p.m]))
        new = list(x)
        new[i] = new[j] = (x[i] + x[j]) / 2
        return new

    return periodic(p, mix)


def gossip_pga(p: Problem) -> np.ndarray:
    """Thirds on a ring, but every sixth communication the mean."""
    return periodic(p, lambda x, r: [mean(x)] * p.m if r % 6 == 5 else thirds(x))


MATCHA_ALPHA = 0.3


def matcha(p: Problem) -> np.ndarray:
    """A ring of even m is two matchings, alike by symmetry: each is on with probability 1/2."""
    first = [(i, i + 1) for i in range(0, p.m, 2)]
    second = [(i, (i + 1) % p.m) for i in range(1, p.m, 2)]

    def mix(x: Models, r: int) -> Models:
        new = list(x)
        for on, pairs in zip(stream(p.seed, "matcha", r).random(2) < 0.5, (first, second), strict=True):
            for i, j in pairs if on else []:
                new[i] = new[i] + MATCHA_ALPHA * (x[j] - x[i])
                new[j] = new[j] + MATCHA_ALPHA * (x[i] - x[j])
        return new

    return periodic(p, mix)


def clients_of(p: Problem, r: int, fraction: float = 0.5) -> list[int]:
    """Who is drawn for round r, alike and without replacement."""
    return list(stream(p.seed, "clients", r).choice(p.m, int(np.ceil(fraction * p.m)), replace=False))


def fedavg(
    p: Problem, fraction: float = 0.5, server: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda z, y: y
) -> np.ndarray:
    """Clients drawn at random start from the server's model, train, and the server makes its own of the last and their mean."""
    x, z = [p.x0.copy() for _ in range(p.m)], p.x0.copy()

    def clients(r: int) -> list[int]:
        return clients_of(p, r, fraction)

    current = 0
    for k, r in enumerate(p.rounds()):
        for i in clients(current):
            x[i] = x[i] - p.eta * p.gradient(i, x[i], k)
        if r >= 0:
            before = list(x)
            z = server(z, mean([x[i] for i in clients(r)]))
            current = r + 1
            for i in clients(current):
                x[i] = z
            p.communicates(k, before, x)
    return np.array([*x, z])


# a W for the raw framework that is like none of the named ones: not symmetric, two auxiliary rows, rows sum to one
RAW_V = 2


def raw_matrix(m: int, v: int, seed: int = 0) -> np.ndarray:
    """(m + v, m + v), entries in [0, 1), rows scaled to sum to one."""
    W = np.random.default_rng(seed).random((m + v, m + v))
    return W / W.sum(1, keepdims=True)


ORACLES = {
    "cooperative": lambda p: cooperative(p, raw_matrix(p.m, RAW_V).tolist(), RAW_V),
    "fullsync": fullsync,
    "pasgd": pasgd,
    "easgd": easgd,
    "dpsgd": dpsgd,
    "dpa": dpsgd,
    "gea": gea,
    "hierarchical": hierarchical,
    "two_level": two_level,
    "parameter_server": parameter_server,
    "independent": lambda p: periodic(p, lambda x, r: x),
    "one_peer": one_peer,
    "matching": matching,
    "pairwise": pairwise,
    "gossip_pga": gossip_pga,
    "matcha": matcha,
    "fedavg": fedavg,
    "cocod": lambda p: delayed(p, [[1 / p.m] * p.m] * p.m, "tau"),
    "slowmo": lambda p: averaged(p, "momentum", lr=1, momentum=0.5, scale=1),
    "bmuf": lambda p: averaged(p, "momentum", lr=1, momentum=0.75),
    "diloco": lambda p: averaged(p, "nesterov", lr=0.7, momentum=0.9),
    "muloco": lambda p: averaged(p, "nesterov", lr=0.7, momentum=0.6),  # with SGD in place of Muon
    "noloco": noloco,
    "fedavgm": lambda p: served(p, "momentum", lr=1, momentum=0.9),
    "fedadam": lambda p: served(p, "adam", lr=0.1, beta1=0.9, beta2=0.99, eps=1e-3),
    "fedyogi": lambda p: served(p, "yogi", lr=0.01, beta1=0.9, beta2=0.99, eps=1e-3),
    "fedadagrad": lambda p: served(p, "adagrad", lr=0.1, beta1=0, eps=1e-3),
}
