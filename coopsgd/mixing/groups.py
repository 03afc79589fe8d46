"""Workers dealt into groups, as the config names them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

GROUPS_HELP = "how many groups of neighbours in number, as even as they go; their sizes; or lists of workers."


def split(groups: Any, m: int) -> list[range | list[int]]:
    """The workers of each group. groups: a number, a list of sizes, or a list of lists of worker numbers.

    ValueError unless every one of the m workers is in exactly one group and no group is empty.
    """
    what = f"a number from 1 to workers = {m}, a list of sizes that add up to it, or lists of all workers"
    if isinstance(groups, int) and not isinstance(groups, bool):
        if not 1 <= groups <= m:
            raise ValueError(f"algo.groups: must be {what}, got {groups}")
        edges = [g * m // groups for g in range(groups + 1)]
        return [range(a, b) for a, b in pairwise(edges)]
    if not isinstance(groups, list) or not groups:
        raise ValueError(f"algo.groups: must be {what}, got {groups!r}")
    if all(isinstance(size, int) and not isinstance(size, bool) for size in groups):
        if min(groups) < 1 or sum(groups) != m:
            raise ValueError(f"algo.groups: sizes must be at least 1 and add up to workers = {m}, got {groups}")
        starts = [sum(groups[:g]) for g in range(len(groups))]
        return [range(start, start + size) for start, size in zip(starts, groups, strict=True)]
    if not all(isinstance(members, list) and members for members in groups):
        raise ValueError(f"algo.groups: must be {what}, got {groups!r}")
    named = [worker for members in groups for worker in members]
    for worker in named:
        if isinstance(worker, bool) or not isinstance(worker, int) or not 0 <= worker < m:
            raise ValueError(f"algo.groups: workers are numbered 0 to {m - 1}, got {worker!r}")
        if named.count(worker) > 1:
            raise ValueError(f"algo.groups: do not partition the workers: worker {worker} is named {named.count(worker)} times")
    missing = sorted(set(range(m)) - set(named))
    if missing:
        raise ValueError(f"algo.groups: do not partition the workers: worker {missing[0]} is in no group")
    return list(groups)
