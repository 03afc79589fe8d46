"""What a random communication does in expectation, when different communications are independent.

E[W] moves the mean of what rows hold, and S -> E[W S W'] their second moment: with both, stationary distances are exact and
depend on no seed. E[W (x) W] is that operator as an m^2 x m^2 matrix; here it acts on m x m matrices and is never built.

All schedules at random here have symmetric, doubly stochastic W and no auxiliary rows, so the operator is its own adjoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from coopsgd.mixing.lanczos import top
from coopsgd.mixing.matrices import of_weighted
from coopsgd.mixing.matrix import FOLLOWED, WHOLE, Edges, Matrix, Modes, identity
from coopsgd.mixing.recognise import recognise
from coopsgd.mixing.spectra import EXACT
from coopsgd.mixing.structured import Average

CASES = 2e5  # steps through the connected sets of free workers that the exact law of a random matching may take
SAMPLE = 2000  # matchings drawn where it would take more
WIDE = 2000  # edges of which pairs are counted in a sample
SPREAD = 64  # nonzeros a row, at most, of E[W'W] of several sparse communications in a row
PARTS = 10  # into which they are dealt, to tell the error


@dataclass(frozen=True)
class Expectation:
    """E[W], (m, m), and S -> E[W S W'] for symmetric (m, m) S; None where that would take too much room or time.

    square: E[W'W], which is E[W] where every W is an orthogonal projection; None: `second` of I is that. parts: estimates like
    this one, each from its own share of a sample; none where it is exact.
    """

    mean: Matrix
    second: Callable[[np.ndarray], np.ndarray] | None
    square: Matrix | None = None
    parts: Sequence[Expectation] = field(default=())

    @cached_property
    def zeta(self) -> float:
        """sqrt ||E[W'W] - J||: how much of the disagreement one communication leaves, in the mean square."""
        m, W = len(self.mean), self.square
        if m == 1:
            return 0.0
        if W is None or m <= WHOLE:
            left = W.dense() - 1 / m if W is not None else self.second(np.eye(m) - 1 / m)  # type: ignore[misc]
            most = np.linalg.eigvalsh(left)[-1]
        else:
            most = W.modes.values[1:].max() if W.modes is not None else top(W)[0]
        found = math.sqrt(max(0.0, float(most)))
        return found if found >= EXACT else 0.0

    @property
    def zeta_error(self) -> float | None:
        """The standard error of zeta where it comes of a sample; None where it is exact."""
        return self.measure(lambda law: law.zeta)[1] if self.parts else None

    def measure(self, what: Callable[[Expectation], float | None]) -> tuple[float | None, float | None]:
        """`what` of it, and the standard error that comes of a sample; None where it is exact."""
        value = what(self)
        found = [what(part) for part in self.parts] if value is not None else []
        if not found or None in found:
            return value, None
        return value, float(np.std(np.array(found, dtype=float), ddof=1) / math.sqrt(len(found)))


@dataclass(frozen=True)
class Outcomes:
    """All that a round at random can be, each independent of the rounds before: matrices, local steps, matrices.

    chance: (N,). before: (N, n, n) what is mixed before its steps. work: (N, m) local steps of each worker. after: (N, n, n).
    """

    chance: np.ndarray
    before: np.ndarray
    work: np.ndarray
    after: np.ndarray


def lazily(law: Expectation) -> Expectation:
    """The same of (I + W) / 2."""
    mean, second, square = law.mean, law.second, law.square
    quarter = 0.25 * identity(mean.n) + 0.5 * mean

    def moved(S: np.ndarray) -> np.ndarray:
        E = mean @ S
        return np.asarray((S + E + E.T + second(S)) / 4)  # type: ignore[misc]

    return Expectation(
        0.5 * identity(mean.n) + 0.5 * mean,
        None if second is None else moved,
        None if square is None else quarter + 0.25 * square,
        [lazily(part) for part in law.parts],
    )


def repeated(once: Expectation, times: int) -> Expectation | None:
    """So many pair averages in a row, as one communication; None where that would take too long to tell."""
    each = once.second
    if times == 1:
        return once
    if each is None:
        return _repeated_sparse(once.mean, times)

    def second(S: np.ndarray) -> np.ndarray:
        for _ in range(times):
            S = each(S)
        return S

    return Expectation(recognise(np.linalg.matrix_power(once.mean.dense(), times)), second)


def _repeated_sparse(mean: Matrix, times: int) -> Expectation | None:
    """The same for one pair a communication among many workers: E[W'W] alone, by S -> E[W S W'] of a sparse S.

    mean: E[W] = I - L / 2, so that the offdiagonal weights are half of how likely each pair is.
    """
    from scipy.sparse import csr_array, diags_array

    if mean.modes is not None and mean.modes.basis is None:  # all pairs alike: W = (1 - x) I + x J in expectation
        square = (kept := float(mean.modes.values[1]) ** times) * identity(mean.n) + (1 - kept) * Average(mean.n)
        return Expectation(square, None, square)
    A = mean.edges.csr
    S, pairs = A, A - diags_array(A.diagonal())
    a, b = pairs.nonzero()
    for _ in range(times - 1):
        moved = A @ S
        own = S.diagonal()
        w = pairs[a, b] * (own[a] + own[b] - 2 * S[a, b]) / 2
        both = csr_array((w, (a, b)), shape=A.shape)
        S = moved + moved.T - S + diags_array(both.sum(1)) - both
        if S.nnz > SPREAD * mean.n:
            return None
    return Expectation(mean, None, Edges.of_sparse(S))


def pair_averages(
    m: int, edges: np.ndarray, share: np.ndarray, joint: np.ndarray | None = None, alike: Modes | None = None
) -> Expectation:
    """Pairs of workers take their mean: W = I - 1/2 sum of b_e b_e' over the pairs e of a communication, b_e = e_i - e_j.

    edges: (E, 2). share: (E,) how likely each is in it. joint: (E, E) how likely both are; None: never two. alike: the spectrum
    of the graph's Laplacian, where it is known; it tells that of E[W] where each edge is as likely.
    """
    if m > FOLLOWED:
        mean: Matrix = of_weighted(m, edges, share / 2)
        if alike is not None and np.ptp(share) <= 1e-15:
            mean = replace(of_weighted(m, edges, share / 2), modes=Modes(alike.basis, 1 - share[0] / 2 * alike.values))
        return Expectation(mean, None, mean)
    a, b = edges.T
    L = np.zeros((m, m))
    L[a, b] = L[b, a] = -share
    np.fill_diagonal(L, -L.sum(1))
    times: Any = L
    if 20 * len(edges) < m * m:
        from scipy import sparse

        times = sparse.csr_array(L)
    if joint is not None:
        B = np.zeros((m, len(edges)))
        B[a, np.arange(len(edges))], B[b, np.arange(len(edges))] = 1, -1

    def second(S: np.ndarray) -> np.ndarray:
        LS = times @ S
        if joint is None:
            w = share * (S[a, a] + S[b, b] - S[a, b] - S[b, a])
            both = np.zeros((m, m))
            both[a, b] = both[b, a] = -w
            np.fill_diagonal(both, -both.sum(1))
        else:
            both = B @ (joint * (B.T @ S @ B)) @ B.T
        return np.asarray(S - (LS + LS.T) / 2 + both / 4)

    whole = recognise(np.eye(m) - L / 2)
    return Expectation(whole, second, whole)


def everybody_alike(m: int, share: float) -> Expectation:
    """Pair averages in which every pair of the m workers is with the same chance, `share`.

    With S known to be x I + y 11', which is all that stationary states are here, E[W S W'] needs E[W] alone, W a projection;
    of any other S the symmetric part is taken, for its trace is all that anybody asks.
    """
    whole = (1 - share * m / 2) * identity(m) + share * m / 2 * Average(m)
    if m > FOLLOWED:
        return Expectation(whole, None, whole)
    mean, away = whole.dense(), np.eye(m) - 1 / m

    def second(S: np.ndarray) -> np.ndarray:
        J = np.full((m, m), 1 / m)
        x, y = float((away * S).sum()) / max(1, m - 1), float(S.sum()) / m
        return x * (mean - J) + y * J

    return Expectation(whole, second, whole)


def random_matching(m: int, edges: np.ndarray, draw: Callable[[], np.ndarray], alike: Modes | None = None) -> Expectation:
    """Of edges tried in random order, each kept if both its ends are still free. draw: the kept ones of one such matching.

    Exact where `_law` is short; else from a sample. alike: the spectrum of the graph's Laplacian, where all its edges are, so
    that each is as likely.
    """
    E = len(edges)
    found = _law(edges, m)
    if found is not None:
        return pair_averages(m, edges, *found)
    drawn = [draw() for _ in range(SAMPLE if E <= WIDE else max(4 * PARTS, SAMPLE * WIDE // E))]

    def seen(some: Sequence[np.ndarray]) -> Expectation:
        if E > WIDE:
            share = np.bincount(np.concatenate(some), minlength=E) / len(some)
            share = share if alike is None else np.full(E, share.mean())
            return replace(pair_averages(m, edges, share, alike=alike), second=None)
        kept = np.zeros((len(some), E))
        for row, matching in zip(kept, some, strict=True):
            row[matching] = 1
        return pair_averages(m, edges, kept.mean(0), kept.T @ kept / len(some))

    return replace(seen(drawn), parts=[seen(drawn[i::PARTS]) for i in range(PARTS)])


def _law(edges: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(E,) how likely each edge is in such a matching, and (E, E) each two; None when there are too many cases to tell apart.

    Whatever was kept, the next edge kept is any of those whose ends are free, all as likely, and parts of the graph of free
    workers that no edge joins go on independently. So the law of a connected part is that of its first edge and of what is
    then left of it; a part that was met before is not worked out again.
    """
    E = len(edges)
    neighbours: list[list[tuple[int, int]]] = [[] for _ in range(m)]
    for e, (i, j) in enumerate(edges.tolist()):
        neighbours[i].append((j, e))
        neighbours[j].append((i, e))
    known: dict[frozenset[int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    spent = 0

    def parts(free: frozenset[int]) -> list[frozenset[int]]:
        left, found = set(free), []
        while left:
            reached, edge = [left.pop()], 0
            while edge < len(reached):
                for j, _ in neighbours[reached[edge]]:
                    if j in left:
                        left.discard(j)
                        reached.append(j)
                edge += 1
            if len(reached) > 1:
                found.append(frozenset(reached))
        return found

    def own(part: frozenset[int]) -> np.ndarray:
        return np.array(sorted({e for i in part for j, e in neighbours[i] if j in part}), dtype=int)

    # first what is met, from large to small; then the law, from small to large
    order, waiting = {}, parts(frozenset(range(m)))
    tops = list(waiting)
    while waiting:
        part = waiting.pop()
        if part in order:
            continue
        mine = own(part)
        spent += len(mine) * len(part)
        if spent > CASES:
            return None
        order[part] = (mine, [(e, parts(part - set(edges[e].tolist()))) for e in mine.tolist()])
        waiting += [rest for _, after in order[part][1] for rest in after]
    for part in sorted(order, key=len):
        mine, cases = order[part]
        at = {int(e): n for n, e in enumerate(mine)}
        share, joint = np.zeros(len(mine)), np.zeros((len(mine), len(mine)))
        for e, after in cases:
            p, pairs = _together(at, [known[rest] for rest in after])
            p[at[e]] = 1.0
            pairs[at[e]] = pairs[:, at[e]] = p
            share += p / len(cases)
            joint += pairs / len(cases)
        known[part] = mine, share, joint
    return _together({e: e for e in range(E)}, [known[top] for top in tops])


def _together(at: dict[int, int], parts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Independent parts as one: `at` tells where each edge goes."""
    p, places = np.zeros(len(at)), []
    for mine, share, _ in parts:
        place = np.array([at[int(e)] for e in mine])
        places.append(place)
        p[place] = share
    pairs = np.outer(p, p)
    for place, (_, _, joint) in zip(places, parts, strict=True):
        pairs[np.ix_(place, place)] = joint
    return p, pairs


def _away(S: np.ndarray) -> np.ndarray:
    """(I - J) S (I - J), and symmetric: what all rows share is kept for ever, rounding too, and nobody sees it."""
    S = (S + S.T) / 2
    rows = S.mean(1)
    return np.asarray(S - rows[:, None] - rows + rows.mean())


def stationary(act: Callable[[np.ndarray], np.ndarray], rest: np.ndarray, work: float = 4e9) -> np.ndarray | None:
    """The symmetric (m, m) S = act(S) + rest, act linear and its own adjoint, by conjugate gradients.

    None when there is none (act does not shrink), or when it takes more than `work` multiplications to find it.
    """
    S, r = np.zeros_like(rest), _away(rest)
    p, size = r, float((r * r).sum())
    whole = size
    for _ in range(int(min(20_000, 50 + work / len(rest) ** 3))):
        if size <= 1e-26 * whole:
            break
        image = p - act(p)
        curvature = float((p * image).sum())
        if not curvature > 0:  # act does not shrink, or only rounding is left
            break
        step = size / curvature
        S, r = S + step * p, _away(r - step * image)
        size, before = float((r * r).sum()), size
        p = r + size / before * p
    return S if size <= 1e-18 * whole else None
