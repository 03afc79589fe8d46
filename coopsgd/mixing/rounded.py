"""Weights of a mixing matrix as float32 has them, without a direction in which all models would move."""

from __future__ import annotations

import numpy as np

from coopsgd.mixing.matrix import Edges, Matrix, Sum

GRID = 2.0**-21  # its multiples and their sums are numbers of float32; of a finer one what is rounded off has a pattern
LEAST = 2.0**-6  # of weights that may be rounded to it: by less than 2e-5 of themselves


def in_sum_one(W: Matrix) -> Matrix:
    """W with weights that are numbers of float32 and whose rows are in sum 1 exactly; as symmetric as it was.

    Rounded one by one 1/3 thrice is 1 + 3e-8. That moves the mean of the models at every communication in the same direction,
    and a correction that holds what mixing took from each (d2, led) adds it up. Of gossip on graphs of up to some 60
    neighbours: all else, means among it, whose rows stay alike, is left as it is.
    """
    if not isinstance(W, Edges | Sum) or W.outers or not len(W.edges.rows):
        return W
    (rows, columns, weights), n = W.edges.entries, len(W)
    if np.array_equal(weights, weights.astype(np.float32)):
        return W
    own, size = rows == columns, np.abs(weights)
    sums = np.bincount(rows, weights, n)
    if own.sum() != n or size.min() < LEAST or size.max() > 1 or np.abs(sums - 1).max() > 1e-9:
        return W
    drawn = np.random.default_rng(0).random(n)
    if len(np.unique(np.bincount(rows, weights * drawn[columns], n))) < n:  # two members take alike
        return W
    found = np.where(own, 0, np.round(weights / GRID) * GRID)
    found[own] = 1 - np.bincount(rows, found, n)
    return Edges(n, rows, columns, found)
