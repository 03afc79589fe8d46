"""The arithmetic of dealing samples: orders, shares in whole numbers, shards."""

from __future__ import annotations

import heapq

import numpy as np

from coopsgd.streams import stream


def shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """The sample numbers 0 ... n - 1 in the order of this seed and epoch."""
    return stream(seed, "partition", *([epoch] if epoch else [])).permutation(n)


def by_class(order: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sample numbers `order`, sorted by label and otherwise as they were, and how many each occurring label has."""
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return order[np.argsort(which[order], kind="stable")], counts


def divided(shares: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Whole numbers nearest to rows of shares (each sums to one) of `counts`, that sum to the counts exactly."""
    cuts = np.rint(np.cumsum(shares, axis=1) * counts[:, None]).astype(np.int64)
    cuts[:, -1] = counts
    return np.diff(np.minimum(cuts, counts[:, None]), axis=1, prepend=0)


def shards_of(counts: np.ndarray, shards: int, most: int) -> np.ndarray:
    """How many shards each class is cut into: one at least, `most` at most, `shards` in all, so that they are about as long."""
    cut = np.ones(len(counts), dtype=np.int64)
    queue = [(-int(n), c) for c, n in enumerate(counts)]
    heapq.heapify(queue)
    for _ in range(shards - len(counts)):
        while True:  # the class whose shards are longest is cut once more
            _, c = heapq.heappop(queue)
            if cut[c] < min(most, counts[c]):
                break
        cut[c] += 1
        heapq.heappush(queue, (-(counts[c] / cut[c]), c))
    return cut


def enough(name: str, n: int, workers: int, each: int) -> None:
    """ValueError where n samples are too few for so many workers."""
    if n < workers * each:
        wanted = "one" if each == 1 else f"min_size={each}"
        out = "lower workers" if each == 1 else "lower partition.min_size or workers"
        raise ValueError(f"partition: {name} cannot give {workers} workers {wanted} of {n} training samples each; {out}")


def one_each(table: np.ndarray) -> np.ndarray:
    """(classes, workers) samples, where whoever had none has one: of the worker that has most, of its largest class."""
    table = table.copy()
    for worker in (table.sum(0) == 0).nonzero()[0]:
        rich = table.sum(0).argmax()
        c = table[:, rich].argmax()
        table[c, rich] -= 1
        table[c, worker] += 1
    return table
