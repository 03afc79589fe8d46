"""RelaySGD: models travel along a tree unmixed, so that all take the exact mean, of models as old as they are far away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from coopsgd.host.transfer import brought
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.relays import Relays
from coopsgd.registry import register
from coopsgd.strategies.base import Tick
from coopsgd.strategies.cooperative import Cooperative

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Pending, Rows


ROOM = 1 << 20  # numbers of messages that are added up at a time


class Tree(NamedTuple):
    """What is remembered of one tree. Sums are of up to m models less the first, in float64: errors would never die out."""

    first: Common  # what all models were
    told: Rows  # what each told all its neighbours last: its model and all it had heard
    told_all: Rows  # the sum of what its neighbours told last
    heard: Rows  # what it heard last, all together: what its neighbours told, less what it had told them
    before: Rows  # and the time before
    counts: Any  # (3, m) of how many models are told, heard and before, in each row


@register("relay")
@dataclass(frozen=True)
class Relay(Cooperative):
    """RelaySum: x_i <- (own + what neighbours tell) / m, who tell their models and what others told them. arXiv:2110.04175.

    Row form: what j told i is y_j less what i told j the round before, so y goes alike to all neighbours, one vector an edge.
    Who has heard of n models counts itself for the other m - n. What is sent is by how much y has changed, in the models' own
    numbers; rounding it is felt by everybody alike and does not add up. Adding up what neighbours sent in the same numbers
    would: nothing ever takes back what their sum leaves out. So messages are passed on as they are and added in float64.
    """

    mixing: Mixing = field(default_factory=Relays)

    def __post_init__(self) -> None:
        if not isinstance(self.mixing, Relays):
            raise ValueError(
                f"algo.mixing: relay passes models on along a tree, which {type(self.mixing).__name__} is not; use relays"
            )

    def _columns(self, d: int) -> list[slice]:
        """Which columns each tree carries."""
        half = d // 2
        return [slice(0, d)] if cast(Relays, self.mixing).trees == 1 else [slice(0, half), slice(half, d)]

    def init(self, fleet: Fleet, x: Rows) -> tuple[Tree, ...]:
        def tree(x: Rows) -> Tree:
            none = x.new_zeros(x.shape).double()
            return Tree(fleet.mean(x).double(), none, none.clone(), none.clone(), none.clone(), np.zeros((3, fleet.m)))

        return tuple(tree(x[:, columns]) for columns in self._columns(x.shape[1]))

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: tuple[Tree, ...]) -> tuple[Pending, ...]:
        each = zip(self._columns(x.shape[1]), s, strict=True)
        return tuple(
            fleet.later(fleet.spread, self._neighbours(fleet, n), fleet.packed(_news(x[:, columns], tree)))
            for n, (columns, tree) in enumerate(each)
        )

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: tuple[Tree, ...]) -> tuple[Rows, tuple[Tree, ...]]:
        new, trees, m, workers = x.new_empty(x.shape), [], fleet.m, fleet.workers
        for n, (columns, tree, packed) in enumerate(zip(self._columns(x.shape[1]), s, heard, strict=True)):
            A, news = self._neighbours(fleet, n), _news(x[:, columns], tree)
            degree = np.bincount(A.rows, minlength=m).astype(float)
            told, last, before = tree.counts
            here = brought(degree[workers.start : workers.stop], x.device)[:, None]
            all_told = _added(fleet, A, packed, news, tree.told_all.clone())
            total = all_told - here * tree.told + tree.before
            count = A @ (1 + last) - degree * told + before
            left = brought(m - count[workers.start : workers.stop], x.device)[:, None]
            away = x[:, columns].double() - tree.first
            new[:, columns] = (tree.first + (left * away + total) / m).to(x.dtype)
            y = tree.told + fleet.as_sent(news).double()
            trees.append(Tree(tree.first, y, all_told, total, tree.heard, np.stack([1 + last, count, last])))
        return new, tuple(trees)

    def _neighbours(self, fleet: Fleet, tree: int) -> Any:
        return cast(Relays, self.mixing).neighbours(fleet.m, tree)


def _news(x: Rows, tree: Tree) -> Rows:
    """By how much what each tells has changed."""
    return (x.double() - tree.first + tree.heard - tree.told).to(x.dtype)


def _added(fleet: Fleet, A: Any, packed: Any, like: Rows, total: Rows) -> Rows:
    """What the neighbours of each worker here told, from the messages of all, on top of `total`, float64."""
    here = (A.rows >= fleet.workers.start) & (A.rows < fleet.workers.stop)
    rows, columns = A.rows[here] - fleet.workers.start, A.columns[here]
    if total.is_cpu:  # one after another, in this order
        parts = np.split(np.arange(len(rows)), range(0, len(rows), max(1, ROOM // max(1, like.shape[1])))[1:])
    else:  # each worker's first neighbour, then its second: no two on one row
        turn = np.arange(len(rows)) - np.searchsorted(rows, rows)
        parts = [np.flatnonzero(turn == n) for n in range(turn.max(initial=-1) + 1)]
    for some in parts:
        mine, theirs = (brought(part[some], total.device) for part in (rows, columns))
        total.index_add_(0, mine, fleet.unpacked(packed.index_select(0, theirs), like).double())
    return total
