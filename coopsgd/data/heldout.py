"""What each worker holds out of its own share to be tested on, `partition.test=local`: never trained on, by anybody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coopsgd.streams import stream

TESTS = ("shared", "local")


def wanted(test: str, portion: float, moves: bool) -> bool:
    """Is this `partition.test=local`? moves: are samples dealt anew every epoch? ValueError for what cannot be."""
    if test not in TESTS:
        raise ValueError(f"partition.test: must be one of {', '.join(TESTS)}, got {test!r}")
    if not 0 < portion < 1:
        raise ValueError(f"partition.test_share: must lie in (0, 1), got {portion}")
    if test == "local" and moves:
        raise ValueError("partition.test: local needs samples that stay with their worker; leave out partition.reshuffle")
    return test == "local"


def count(samples: int, portion: float) -> int:
    """How many of so many samples are held out: that portion, rounded, one at least; of a single sample none."""
    return min(samples - 1, max(1, int(samples * portion + 0.5)))


def enough(batch_size: int, portion: float) -> int:
    """The fewest samples of which a batch is left to train on."""
    found = batch_size
    while found - count(found, portion) < batch_size:
        found += 1
    return found


def split(shares: Sequence[np.ndarray], portion: float, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The samples of each worker to train on, and those that it is tested on: drawn at random, whatever the placement."""
    trained, held = [], []
    for worker, share in enumerate(shares):
        order = stream(seed, "held out", worker).permutation(len(share))
        few = np.zeros(len(share), dtype=bool)
        few[order[: count(len(share), portion)]] = True
        trained.append(share[~few])
        held.append(share[few])
    return trained, held
