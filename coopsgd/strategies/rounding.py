"""Messages in few bits of algorithms that make them by themselves: a codec between what they send and what is heard.

Only codecs that leave out next to nothing go here (bf16, fp16): what they round is not worth more than this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from coopsgd.strategies.base import Around, Tick

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.base import Common, Fleet, Pending, Rows
    from coopsgd.strategies.codec import Codec
    from coopsgd.strategies.coder import Coder


class Kept(NamedTuple):
    """What is remembered from one message to the next, of each that a round has, in their order."""

    copies: tuple[Rows, ...]  # public copies and what W makes of them, by turns; or what rounding left out
    means: tuple[Common, ...]  # of an average: what it came to last


class Held(NamedTuple):
    """What `Rounded` remembers: of messages that begin in `send`, and of those that `receive` exchanges at once."""

    own: Any  # the state of what is inside
    sent: Kept
    then: Kept


@dataclass(frozen=True)
class Rounded(Around):
    """An algorithm whose messages are rounded by a codec, whatever they are: all that its verbs are given, but `exact` rows.

    C is the codec. W x is found as x + W p - p, p what others may know of x, so that what W conserves stays conserved:
    where W is one fixed matrix among workers, p are public copies, p <- p + C(x - p) (CHOCO), which x - p leaves as x settles;
    where it moves, p = C(x). With auxiliary models, whose W need not conserve anything, it is W C(x + e), e <- x + e - C(x + e)
    of whoever sends. An average is z + mean C(x - z), z the last one, where every communication is an average; else mean C(x).
    """

    codec: Codec

    CHANGES = ("send", "receive")

    def init(self, fleet: Fleet, x: Rows) -> Held:
        own, rule = self.algorithm.init(fleet, x), self._rule(fleet)
        # all rows are equal, and known to be: so are copies of them, and W makes the same of those
        copies, means = ((x, x), ()) if rule == "choco" else ((x, x), (x[:1],)) if rule == "slow" else ((), ())
        sent, then = (Kept(tuple(one.clone() for one in copies), tuple(one.clone() for one in means)) for _ in range(2))
        return Held(own, sent, then)

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending:
        from coopsgd.fleet.base import Pending  # which imports torch

        verbs = self._verbs(fleet, t, s.sent)
        sent = self.algorithm.send(cast(Any, verbs), t, x, s.own)

        def wait() -> tuple[Any, Kept]:
            heard = tuple(one.wait() for one in sent) if isinstance(sent, tuple) else sent.wait()
            return heard, verbs.kept()

        return Pending(wait)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        verbs = self._verbs(fleet, t, s.then)
        y, own = self.algorithm.receive(cast(Any, verbs), t, x, heard[0], s.own)
        return y, Held(own, heard[1], verbs.kept())

    def _rule(self, fleet: Fleet) -> str:
        return self.codec.rule_of_messages(self.schedule, fleet.m)

    def _verbs(self, fleet: Fleet, t: Tick, kept: Kept) -> Verbs:
        rule = self._rule(fleet)
        fixed = None if rule == "rounded" or self.schedule is None else self.schedule.at(fleet.m, 0)
        return Verbs(fleet, self.codec, rule, fixed, t.k, kept)


class Within(NamedTuple):
    """What `RoundedSteps` remembers: nothing of its own."""

    own: Any


@dataclass(frozen=True)
class RoundedSteps(Around):
    """The same of one that communicates inside its steps: what `direction` gives to a verb is rounded, C(x)."""

    codec: Codec

    CHANGES = ("direction",)
    send = None  # type: ignore[assignment]

    def init(self, fleet: Fleet, x: Rows) -> Within:
        return Within(self.algorithm.init(fleet, x))

    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: Any) -> tuple[Rows | Common, Any]:
        return super().direction(cast(Any, Verbs(fleet, self.codec, "rounded", None, t.k, Kept((), ()))), t, grad, x, s)


class Verbs:
    """A fleet whose mix, mean and pick round what they are given; all else is the fleet's. One for one iteration."""

    def __init__(self, fleet: Fleet, codec: Codec, rule: str, fixed: Any, k: int, kept: Kept) -> None:
        self._fleet, self._codec, self._rule, self._fixed, self._k, self._kept = fleet, codec, rule, fixed, k, kept
        self._copies: dict[int, Tensor] = {}  # those that have become others
        self._means: dict[int, Tensor] = {}
        self._slots = self._averages = 0  # how many have been begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleet, name)

    def kept(self) -> Kept:
        """What is remembered after this iteration."""
        return Kept(_after(self._kept.copies, self._copies), _after(self._kept.means, self._means))

    def mix(self, W: Any, *xs: Rows, exact: Sequence[Rows] = ()) -> Any:
        found = self._mixing(W, xs, exact).wait()
        given = (*xs, *exact)
        for x, y in zip(given, (found,) if len(given) == 1 else found, strict=True):
            x.copy_(y)
        return given[0] if len(given) == 1 else given

    def mean(self, *xs: Rows) -> Any:
        return self._averaging(*xs).wait()

    def pick(self, x: Rows, i: int) -> Common:
        return self._picking(x, i).wait()

    def later(self, verb: Callable[..., Any], *args: Any, exact: Sequence[Rows] = ()) -> Pending:
        if verb == self.mix:
            W, *xs = args
            return self._mixing(W, tuple(x.clone() for x in xs), tuple(x.clone() for x in exact))
        if verb == self.mean:
            return self._averaging(*(x.clone() for x in args))
        return self._picking(*args) if verb == self.pick else self._fleet.later(verb, *args)

    def as_sent(self, x: Rows) -> Rows:
        return self.unpacked(self.packed(x), x)

    def packed(self, x: Rows) -> Tensor:
        return self._coder(x).pack(x, (), False)

    def unpacked(self, packed: Tensor, like: Rows) -> Rows:
        return self._coder(like).unpack(packed, ())[0]

    def _coder(self, x: Tensor, exactly: bool = False) -> Coder:
        """Of all numbers of a row, one as another."""
        from coopsgd.strategies.codecs import Identity
        from coopsgd.strategies.coder import Coder

        width = x.shape[1]
        return Coder(Identity() if exactly else self._codec, (((0,), width),) if width else (), width, x.dtype, self._k)

    def _mixing(self, W: Any, xs: Sequence[Rows], exact: Sequence[Rows]) -> Pending:
        from coopsgd.fleet.base import Pending
        from coopsgd.mixing.matrix import Matrix

        fixed = self._fixed is not None and W is self._fixed
        mixed = Mixed(self._fleet, [self._coder(x) for x in xs], [self._coder(x, True) for x in exact], self._codec.gamma)
        each = 2 if fixed else 1 if self._fleet.v else 0
        begin, self._slots = self._slots, self._slots + each * len(xs)
        before = [[_like(self._kept.copies, begin + each * i + j, x) for j in range(each)] for i, x in enumerate(xs)]
        factors = W.factors if isinstance(W, Matrix) and not fixed else (W,)
        values, beside = list(xs), list(exact)
        sent = [mixed.begun(factors[0], values, beside, before)] if factors else []

        def wait() -> Any:
            nonlocal values, beside, before
            for factor in factors:
                first = sent.pop() if sent else mixed.begun(factor, values, beside, before)
                values, beside, before = mixed.come(factor, values, beside, before, first.wait())
            self._copies |= {begin + each * i + j: one for i, some in enumerate(before) for j, one in enumerate(some)}
            found = (*values, *beside)
            return found[0] if len(found) == 1 else found

        return Pending(wait)

    def _averaging(self, *xs: Rows) -> Pending:
        import torch

        from coopsgd.fleet.base import Pending
        from coopsgd.strategies.coder import mean

        remembers = self._rule == "slow"
        begin, self._averages = self._averages, self._averages + len(xs)
        zs = [_like(self._kept.means, begin + i, x[:1]) if remembers else x.new_zeros(1, x.shape[1]) for i, x in enumerate(xs)]
        coders = [self._coder(x) for x in xs]
        packed = [coder.pack(x - z, (), False) for coder, x, z in zip(coders, xs, zs, strict=True)]
        sent = self._fleet.later(self._fleet.spread, None, torch.cat(packed, 1))

        def wait() -> Any:
            parts = sent.wait().split([part.shape[1] for part in packed], 1)
            found = []
            for i, (coder, z, part) in enumerate(zip(coders, zs, parts, strict=True)):
                found.append(z + mean(coder, part, self._fleet.m, "all", self._fleet.shares))
                if remembers:
                    self._means[begin + i] = found[-1].clone()
            return found[0] if len(found) == 1 else tuple(found)

        return Pending(wait)

    def _picking(self, x: Rows, i: int) -> Pending:
        import torch

        from coopsgd.fleet.base import Pending

        sent = self._fleet.later(
            self._fleet.pick, self.as_sent(x).to(getattr(torch, getattr(self._codec, "KIND", ""), x.dtype)), i
        )
        return Pending(lambda: sent.wait().to(x.dtype))


class Mixed:
    """What W makes of rows that are rounded on their way, and of exact ones beside them, in one message."""

    def __init__(self, fleet: Fleet, coders: list[Coder], exact: list[Coder], gamma: float) -> None:
        self._fleet, self._coders, self._exact, self._gamma = fleet, coders, exact, gamma
        self._rows = fleet.layout.rows(fleet.rank)

    def begun(self, W: Any, xs: list[Rows], beside: list[Rows], before: list[list[Rows]]) -> Pending:
        import torch

        parts = [coder.pack(_said(x, kept), (), False) for coder, x, kept in zip(self._coders, xs, before, strict=True)]
        parts += [coder.pack(x, (), False) for coder, x in zip(self._exact, beside, strict=True)]
        return self._fleet.later(self._fleet.spread, W, torch.cat(parts, 1))

    def come(
        self, W: Any, xs: list[Rows], beside: list[Rows], before: list[list[Rows]], heard: Tensor
    ) -> tuple[list[Rows], list[Rows], list[list[Rows]]]:
        """All of them mixed, and what is kept of each."""
        from coopsgd.mixing.recognise import recognise
        from coopsgd.strategies.coder import weighted

        W = recognise(W)
        parts = heard.split([sum(coder.sizes) for coder in (*self._coders, *self._exact)], 1)
        mixed, after = [], []
        for coder, x, kept, part in zip(self._coders, xs, before, parts, strict=False):
            own, moved = coder.unpack(part[self._rows], ())[0], weighted(coder, part, W, self._rows)
            if len(kept) == 2:
                copies, of_copies = kept[0] + own, kept[1] + moved
                mixed.append(x + self._gamma * (of_copies - copies))
                after.append([copies, of_copies])
            elif kept:
                y, e = self._with_left_out(W, x, kept[0], own, moved)
                mixed.append(y)
                after.append([e])
            else:
                mixed.append(x + (moved - own))
                after.append([])
        exact = parts[len(self._coders) :]
        return mixed, [weighted(coder, part, W, self._rows) for coder, part in zip(self._exact, exact, strict=True)], after

    def _with_left_out(self, W: Any, x: Rows, e: Rows, own: Rows, moved: Rows) -> tuple[Rows, Rows]:
        """W p and what is left out then: p = C(x + e) of whoever sends, x itself of others; who takes from nobody keeps x."""
        import numpy as np

        from coopsgd.host.transfer import brought

        rows, columns, weights = W.entries_by_row
        apart = rows != columns
        n = len(W)
        diagonal = np.bincount(rows[~apart], weights[~apart], n)
        sends, takes = (np.bincount(some[apart], minlength=n) > 0 for some in (columns, rows))

        def column(values: np.ndarray) -> Tensor:
            return brought(values[self._rows].astype(float), x.device, x.dtype)[:, None]

        says, here = column(sends) > 0, column(diagonal)
        y = (moved + (here * (x - own)).where(~says, 0)).where(column(takes) > 0, here * x)
        return y, (x + e - own).where(says, e)


def _said(x: Rows, kept: list[Rows]) -> Rows:
    """What is packed."""
    return x if not kept else x - kept[0] if len(kept) == 2 else x + kept[0]


def _after(old: tuple[Tensor, ...], new: dict[int, Tensor]) -> tuple[Tensor, ...]:
    """What is remembered: the new, and where there is none the old."""
    return tuple(new[i] if i in new else old[i] for i in range(max([len(old), *(i + 1 for i in new)])))


def _like(kept: tuple[Tensor, ...], i: int, x: Tensor) -> Tensor:
    """The i-th; of what was not sent before, zeros."""
    return kept[i] if i < len(kept) and kept[i].shape == x.shape else x.new_zeros(x.shape)
