"""Factor what has to cross between processes: W[i, j] = (U @ V)[i, j] wherever i and j live apart, with few rows in V.

A block that a process keeps to itself is free, so W may have any entries there: what is of rank one but for these blocks
(averages, lazy averages, elastic pulls) is found, and what is of a low rank as it stands.

Every discrete choice (which pivot, which rank) is made with a margin, so that hosts whose last bits differ choose alike.
Pure numpy.
"""

from __future__ import annotations

import numpy as np

NOISE = 1e-14  # relative to the largest entry: below this an entry is rounding, not a wish to communicate
RANK = 100 * NOISE  # relative to the largest entry: pivots below this do not count for the rank
SMALL = 64  # rows; in a larger block only a rank of at most half its size is looked for, that much faster
GROWTH = 1e3  # a block kept at home may hold entries so many times larger than W's: float32 runs cancel them again

Pair = tuple[np.ndarray, np.ndarray]


def rank_one(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, home: np.ndarray) -> Pair | None:
    """u, v (n,) with W[i, j] = u_i v_j wherever i and j live on different hosts, given all nonzero entries there; or None.

    Blocks within a host are free. One entry far off the diagonal fixes u and v outside its own two hosts; a second one fixes
    the rest.
    """
    n = len(home)
    A, B = (np.flatnonzero(np.bincount(x, minlength=n)) for x in (rows, columns))
    per = (np.bincount(home[x], minlength=int(home.max()) + 1) for x in (A, B))
    if not len(rows) or len(rows) != len(A) * len(B) - int(np.dot(*per)):
        return None
    top = int(np.abs(weights).argmax())
    i, j = rows[top], columns[top]
    u, v = np.zeros(n), np.zeros(n)
    v[columns[rows == i]] = weights[rows == i]
    u[rows[columns == j]] = weights[columns == j] / weights[top]
    # rows that live with j are seen through another column, columns that live with i through another row
    far = np.abs(np.where((home != home[i]) & (home != home[j]), v, 0)).argmax()
    if v[far] and home[far] not in (home[i], home[j]):
        mine = (columns == far) & (home[rows] == home[j])
        u[rows[mine]] = weights[mine] / v[far]
        mine = (rows == far) & (home[columns] == home[i])
        if u[far]:
            v[columns[mine]] = weights[mine] / u[far]
    elif np.isin(home[np.append(A, B)], (home[i], home[j])).all():
        mine = (home[rows] == home[j]) & (home[columns] == home[i])
        if mine.any():  # two hosts: either block may be scaled alone, so let equal weights stay equal
            k = np.flatnonzero(mine)[np.abs(weights[mine]).argmax()]
            down, across = mine & (columns == columns[k]), mine & (rows == rows[k])
            back = np.zeros(n)
            back[columns[across]] = weights[across]
            mean, other = back[home == home[i]].mean(), v[home == home[j]].mean()
            scale = other / mean if mean and other else 1.0
            u[rows[down]] = weights[down] / weights[k] / scale
            v[columns[across]] = weights[across] * scale
    off = np.abs(weights - u[rows] * v[columns]).max()
    return even(u, v) if off <= NOISE * np.abs(weights).max() else None


def whole_rank_one(W: np.ndarray) -> Pair | None:
    """What `rank_one` finds of an array without a zero off its diagonal, which is free, by fewer steps. n >= 3."""
    n, size = len(W), np.abs(W)
    size.flat[:: n + 1] = 0
    i, j = divmod(int(size.argmax()), n)
    u, v = W[:, j] / W[i, j], W[i].copy()
    v[i] = u[j] = 0
    others = size[i].copy()
    others[j] = 0
    far, noise = int(others.argmax()), NOISE * size[i, j]
    u[j] = W[j, far] / v[far]
    v[i] = W[far, i] / u[far]
    k = max({0, 1, 2} - {i, j})
    one = np.abs(W[k] - u[k] * v)  # most that have no such form are known by a row
    one[k] = 0
    if one.max() > noise:
        return None
    off = np.multiply.outer(u, v)
    np.abs(np.subtract(W, off, out=off), out=off)
    off.flat[:: n + 1] = 0
    return even(u, v) if off.max() <= noise else None


def even(u: np.ndarray, v: np.ndarray) -> Pair:
    """u v' again, with equal weights kept exactly equal: an average is then 1 / n of everyone."""
    if np.ptp(v) <= NOISE * np.abs(v).max():
        u, v = u * (v[0] * len(v)), np.full(len(v), 1 / len(v))
        if np.ptp(u) <= NOISE * np.abs(u).max():
            u = np.full(len(u), 1.0 if abs(u.mean() - 1) <= NOISE else u.mean())
    return u, v


def outer(block: np.ndarray) -> Pair | None:
    """u, v with u_i v_j = block, or None; v is the block's own heaviest row, so no entry is rounded."""
    i, j = np.unravel_index(np.abs(block).argmax(), block.shape)
    if block[i, j] == 0:
        return np.zeros(len(block)), np.zeros(block.shape[1])
    u, v = block[:, j] / block[i, j], block[i]
    return (u, v) if np.abs(block - np.outer(u, v)).max() <= NOISE * np.abs(block).max() else None


def factor(block: np.ndarray) -> Pair:
    """u (a, k), v (k, b), k = rank of the block, u @ v = block. Rows as they are, or rows pre-added, before anything else."""
    rows, columns = np.flatnonzero(block.any(1)), np.flatnonzero(block.any(0))
    few = min(len(rows), len(columns))
    single = outer(block) if few > 1 else None
    if single is not None:
        return single[0][:, None], single[1][None]
    found = None if few <= 1 else spanning(block, few - 1 if few <= SMALL else few // 2)
    if found is not None:
        return through(block, *found)
    if len(columns) == few:  # send the rows themselves
        return block[:, columns], np.eye(block.shape[1])[columns]
    return np.eye(block.shape[0])[:, rows], block[rows]  # send what each receiving row wants, already summed


def through(W: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Pair:
    """U, V with U @ V = W for a W of the rank of its submatrix W[rows, columns]; V is W's own rows."""
    pivot = W[np.ix_(rows, columns)]
    U = np.linalg.solve(pivot.T, W[:, columns].T).T
    U[rows] = np.eye(len(rows))
    return U, W[rows]


def spanning(W: np.ndarray, most: int) -> Pair | None:
    """Rows and columns, k each, of a well-conditioned submatrix of the rank of W; None when the rank is above `most`.

    Elimination with full pivoting. Large matrices are looked at through samples first: one of a rank below its size mostly
    has the rank of W, and one of full rank bounds it.
    """
    rows, columns = np.flatnonzero(W.any(1)), np.flatnonzero(W.any(0))
    few = min(len(rows), len(columns))
    for size in (size for size in (16, SMALL) if size < few):
        some, others = rows[_spread(len(rows), size)], columns[_spread(len(columns), size)]
        found = None if full_rank(square := W[np.ix_(some, others)]) else _eliminate(square, size)
        if found is None or len(found[0]) == size:
            if size > most:
                return None
        elif len(found[0]):
            some, others = some[found[0]], others[found[1]]
            U, V = through(W, some, others)
            if np.abs(U @ V - W).max() <= NOISE * np.abs(W).max():
                return (some, others) if len(some) <= most else None
    some, others = rows[_spread(len(rows), few)], columns[_spread(len(columns), few)]
    if 0 < few <= max(2 * most, SMALL) and full_rank(W[np.ix_(some, others)]):
        return (some, others) if few <= most else None
    whole = W[np.ix_(rows, columns)]
    if few > SMALL and most < few and full_rank(_sketch(most + 1, len(rows)) @ whole @ _sketch(most + 1, len(columns)).T):
        return None
    found = _eliminate(whole, most)
    return None if found is None else (rows[found[0]], columns[found[1]])


def _sketch(size: int, n: int) -> np.ndarray:
    """(size, n) numbers without a pattern, the same everywhere: nothing depends on them but how soon a rank is known."""
    return np.random.default_rng(0).standard_normal((size, n))


def _spread(n: int, size: int) -> np.ndarray:
    """`size` of the numbers below n, evenly."""
    return np.arange(size) * n // size


def full_rank(square: np.ndarray) -> bool:
    """Surely of full rank, by the norm of the inverse: much cheaper than an elimination by hand. False says nothing."""
    if not (square.any(0).all() and square.any(1).all()):
        return False
    with np.errstate(all="ignore"):
        try:
            return bool(np.abs(square).max() * np.abs(np.linalg.inv(square)).sum() < 1e8)
        except np.linalg.LinAlgError:
            return False


def _eliminate(W: np.ndarray, most: int) -> Pair | None:
    rest = W.copy()
    rows: list[int] = []
    columns: list[int] = []
    floor = RANK * np.abs(W).max(initial=0)
    _take_lone(rest, rows, columns)
    while len(rows) <= most:
        i, j = _largest(rest)
        if i < 0 or np.abs(rest[i, j]) <= floor:
            return np.array(rows, dtype=int), np.array(columns, dtype=int)
        rows.append(i)
        columns.append(j)
        rest -= np.outer(rest[:, j] / rest[i, j], rest[i])
        rest[i], rest[:, j] = 0, 0
    return None


def _take_lone(rest: np.ndarray, rows: list[int], columns: list[int]) -> None:
    """Pivots without arithmetic: entries alone in their row or column. A sparse matrix often consists of little else."""
    large = 0.1 * np.abs(rest).max(initial=0)
    found = rest.size
    while found:
        found = 0
        for view, mine, other in ((rest, rows, columns), (rest.T, columns, rows)):
            lone = np.flatnonzero(np.count_nonzero(view, axis=1) == 1)
            at = (view[lone] != 0).argmax(1)
            fit = np.abs(view[lone, at]) >= large
            at, first = np.unique(at[fit], return_index=True)
            mine += lone[fit][first].tolist()
            other += at.tolist()
            view[:, at] = 0
            found += len(at)


def _largest(W: np.ndarray) -> tuple[int, int]:
    """The first of the largest entries; "equal" with a margin, so that rounding does not choose. -1 in an empty W."""
    if not W.size:
        return -1, -1
    size = np.abs(W)
    i, j = np.unravel_index((size >= size.max() * (1 - 1e-9)).argmax(), W.shape)
    return int(i), int(j)
