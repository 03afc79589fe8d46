"""An algorithm together with its axes: what of its models is sent, and what is made of the answer.

`with_axes` puts them around the strategy that an algo names. An axis that is absent is not there: the strategy is what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from coopsgd.mixing.base import Mixing
from coopsgd.mixing.static import takes_mean
from coopsgd.strategies.base import Around, Strategy, Tick, layers, overrides
from coopsgd.strategies.outer import Outer

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from coopsgd.fleet.base import Common, Fleet, Pending, Rows
    from coopsgd.strategies.codec import Codec
    from coopsgd.strategies.correction import Correction
    from coopsgd.strategies.fragments import Fragments


def with_axes(
    strategy: Strategy,
    outer: Outer | None = None,
    codec: Codec | None = None,
    fragments: Fragments | None = None,
    correction: Correction | None = None,
) -> Strategy:
    """The strategy with these axes around it; itself where there is none."""
    around = None
    if codec is not None and (not packs(strategy) or (correction is not None and "codec" not in correction.BESIDE)):
        around, codec = codec, None
    if any(axis is not None for axis in (outer, codec, fragments)):
        keeps = correction is not None or around is not None or overrides(strategy, "receive")
        strategy = Slow(strategy, outer, codec, fragments, keeps)
    if correction is not None:
        strategy = correction.around(strategy)
    if around is None:
        return strategy
    from coopsgd.strategies.rounding import Rounded, RoundedSteps

    return RoundedSteps(strategy, around) if layers(strategy)[-1].send is None else Rounded(strategy, around)


def packs(strategy: Strategy) -> bool:
    """Is what an algorithm sends its models, and what it makes of the answers no more than W does? A codec can be inside it."""
    return strategy.schedule is not None and not any(overrides(strategy, name) for name in ("send", "receive"))


class RowsHeld(NamedTuple):
    """What `Slow` remembers where the slow models differ."""

    own: Any  # the state of the algorithm
    z: Rows | None
    memory: tuple[Rows, ...]
    kept: tuple[Rows, ...]  # the codec's: what messages left out, or public copies and what W makes of them


class CommonHeld(NamedTuple):
    """The same where every communication leaves one model to all."""

    own: Any
    z: Common | None
    memory: tuple[Common, ...]
    kept: tuple[Rows, ...]


@dataclass(frozen=True)
class Slow(Around):
    """An algorithm whose models take an outer step: from z, what they were after the last communication, towards what it mixes.

    Each row has its z; where W = J they are one. Of an algorithm with a server that hands its model out, the server's row alone
    takes the step, between what it hears and what it says.

    fragments: some columns at a time are sent and step. codec: what is sent is packed (strategies/codec.py). Where W = J it is
    the difference to z, D = z - x: q = C(D + e), e <- D + e - q, y = z - mean q. What a codec begins its next message with is
    the last of `kept`, or of `memory` where it is the same for all.
    """

    outer: Outer | None = None
    codec: Codec | None = None
    fragments: Fragments | None = None
    keeps: bool = True  # does somebody ask for the models as they were sent, after they were mixed?

    CHANGES = ("send", "receive")

    @property
    def _one(self) -> bool:
        """Is there one slow model for all, because every communication is an average?"""
        return takes_mean(self.schedule) and not overrides(self.algorithm, "send")

    @property
    def _serves(self) -> bool:
        """Does a server take its step between what it hears and what it says? Not where the algorithm sends by itself."""
        return serves(self.schedule) and not overrides(self.algorithm, "send")

    def _rule(self, fleet: Fleet) -> str:
        """What the codec packs; empty where there is none."""
        if self.codec is None:
            return ""
        assert self.schedule is not None
        return self.codec.rule_for(self.schedule, fleet.m)

    @property
    def _sums(self) -> bool:
        """Is what the messages come to found by averages?"""
        codec, schedule = self.codec, self.schedule
        return codec is not None and schedule is not None and codec.SUMS and self._one and codec.rule_for(schedule, 1) == "slow"

    def _feeds(self, s: Any) -> bool:
        """Does the codec keep more than what its next message begins with?"""
        assert self.codec is not None
        return len(s.kept) > (self.codec.REMEMBERS and not self._sums)

    def init(self, fleet: Fleet, x: Rows) -> RowsHeld | CommonHeld:
        own, rule = self.algorithm.init(fleet, x), self._rule(fleet)
        needed = self.outer is not None or rule == "slow"
        kept: tuple[Rows, ...] = ()
        if rule == "choco":
            kept = _wide(x), _wide(x)  # all rows are equal, and known to be: so are their copies, and W makes the same of them
        elif rule == "deepsqueeze" or (rule == "slow" and self.codec is not None and self.codec.keeps):
            kept = (_wide(x).zero_(),)
        begun = self.codec.begin(fleet.blocks, _wide(x[:0])) if self.codec is not None and self.codec.REMEMBERS else None
        if begun is not None and not self._sums:
            kept = (*kept, begun.expand(len(x), -1).clone())
        if self._one and rule not in ("choco", "deepsqueeze"):
            z = _wide(x[:1]) if needed else None  # all rows are equal, to the bit
            memory = self.outer.begin(z) if self.outer and z is not None else ()
            return CommonHeld(own, z, memory if begun is None else (*memory, begun), kept)
        served = len(fleet.workers) if self._serves else 0
        z = _wide(x[served:]) if needed else None
        memory = self.outer.begin(z) if self.outer and z is not None else ()
        return RowsHeld(own, None if z is None else _below(served, z), tuple(_below(served, one) for one in memory), kept)

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        if overrides(self.algorithm, "send"):
            return self.algorithm.send(fleet, t, x, s.own)
        columns = self._columns(fleet, x, t)
        part = _some(x, columns)
        if self.codec is not None:
            v = self._message(self._rule(fleet), part, s, columns)
            coder = self._coder(fleet, t, x, v)
            if self._sums:
                return _begun(fleet, t, fleet.mean, coder.first(v, s.memory[-1]))
            packed = coder.pack(v, _rows(fleet), self._feeds(s), s.kept[-1] if self.codec.REMEMBERS else None)
            return _begun(fleet, t, fleet.spread, self._sent_by(fleet, t), packed)
        return self._begun_with(fleet, t, x, part)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        (y,), s = self._received(fleet, t, x, heard, (), s)
        return y, s

    def send_with(self, fleet: Fleet, t: Tick, x: Rows, more: Rows, s: Any) -> Pending:
        """`send`, and `more` in the same message, which takes no outer step. Without codec and fragments."""
        return self._begun_with(fleet, t, x, x, more)

    def receive_with(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[tuple[Any, Any], Any]:
        """The models and `more` after the communication, and the state."""
        (y, more), s = self._received(fleet, t, x, heard[0], heard[1:], s)
        return (y, more), s

    def _begun_with(self, fleet: Fleet, t: Tick, x: Rows, part: Rows, *more: Rows) -> Pending:
        """A message of what travels of the models x, and of more."""
        W = self._sent_by(fleet, t)
        if W is None:
            return _begun(fleet, t, fleet.mean, part, *more)
        return _begun(fleet, t, fleet.mix, W, part.clone() if self.keeps and part is x and not t.late else part, *more)

    def _received(
        self, fleet: Fleet, t: Tick, x: Rows, heard: Any, more: tuple[Any, ...], s: Any
    ) -> tuple[tuple[Any, ...], Any]:
        """What the models are after the communication, and what else was mixed with them; the state."""
        columns, own, away = self._columns(fleet, x, t), s.own, None
        if self.codec is None:
            y, own = self.algorithm.receive(fleet, t, x, heard, s.own)
        else:
            y, away = self._unpacked(fleet, t, x, heard, s, columns)
        if self._serves:
            w = len(fleet.workers)
            y[w:] = self._stepped(s, y[w:], columns, t, slice(w, None))
            y, *others = self._handed_out(fleet, t, x, y, *more)
            more = tuple(others)
        else:
            y = self._stepped(s, y, columns, t, slice(None), away)
        if columns is not None:
            found = x.clone()
            found[:, columns] = y.to(x.dtype).expand(len(x), -1)
            y = found
        return (y, *more), s._replace(own=own)

    def _columns(self, fleet: Fleet, x: Rows, t: Tick) -> Tensor | None:
        """What travels; None: all."""
        if self.fragments is None:
            return None
        return self.fragments.columns_on(x.device, lambda: fleet.blocks, x.shape[1], t.round)

    def _W(self, fleet: Fleet, t: Tick) -> Any:
        assert self.schedule is not None  # an algorithm without one sends by itself
        return self.schedule.at(fleet.m, t.round // (self.fragments.count if self.fragments else 1))

    def _sent_by(self, fleet: Fleet, t: Tick) -> Any:
        """The matrix that a message is sent by; None: it is an average."""
        rule = self._rule(fleet)
        if self._one and rule not in ("choco", "deepsqueeze"):
            return None
        W = self._W(fleet, t)
        first = self._serves or (rule == "rounded" and len(W.factors) > 1)
        return W.factors[0] if first else W

    def _stepped(
        self, s: Any, y: Rows | Common, columns: Tensor | None, t: Tick, rows: slice, away: Common | None = None
    ) -> Rows | Common:
        """These rows of the slow model after its step towards y, which is all where there is none. away: z - y, if known."""
        if s.z is None:
            return y
        z = _some(s.z[rows], columns)
        if self.outer is None:
            z.copy_(y)
        else:
            remembered = s.memory[:-1] if self._sums else s.memory
            memory = tuple(_some(one[rows], columns) for one in remembered)
            self.outer.step_away(z, y, away, memory, t.lr)
            if columns is not None:
                for one, part in zip(remembered, memory, strict=True):
                    one[rows, columns] = part
        if columns is not None:
            s.z[rows, columns] = z
        return z

    def _handed_out(self, fleet: Fleet, t: Tick, x: Rows, y: Rows, *more: Rows) -> tuple[Rows, ...]:
        """What a server that has its new model makes of everyone's, and of what else it has."""
        down = self._W(fleet, t).factors[1]
        if self.codec is None:
            fleet.mix(down, y, *more)
            return y, *more
        return (self._rounded(fleet, t, x, y, down),)

    # with a codec

    def _coder(self, fleet: Fleet, t: Tick, x: Rows, v: Rows) -> Any:
        assert self.codec is not None
        columns = None if self.fragments is None else self.fragments.columns(lambda: fleet.blocks, x.shape[1], t.round)
        return self.codec.coder(fleet.blocks, columns, v.shape[1], v.dtype, t.k)

    def _message(self, rule: str, part: Rows, s: Any, columns: Tensor | None) -> Rows:
        """What is packed."""
        assert self.codec is not None
        if rule == "choco":
            return part - _some(s.kept[0], columns)
        v = _some(s.z, columns) - part if rule == "slow" else part
        return v + self.codec.decay * _some(s.kept[0], columns) if self._feeds(s) else v

    def _unpacked(
        self, fleet: Fleet, t: Tick, x: Rows, heard: Tensor, s: Any, columns: Tensor | None
    ) -> tuple[Rows | Common, Common | None]:
        """What the models are mixed to, of the messages that came, and how far z is from it, if that is what was sent.

        What the codec keeps moves on.
        """
        from coopsgd.strategies.coder import mean, taken, weighted

        assert self.codec is not None
        rule, rows, part = self._rule(fleet), _rows(fleet), _some(x, columns)
        v = self._message(rule, part, s, columns)
        coder = self._coder(fleet, t, x, v)
        if rule == "rounded":
            if self._one:
                return mean(coder, heard, fleet.m, self.codec.over, self._shares(fleet)), None
            W = self._W(fleet, t)
            y = weighted(coder, heard, self._sent_by(fleet, t), rows)
            for factor in () if self._serves else W.factors[1:]:
                y = self._rounded(fleet, t, x, y, factor)
            return y, None
        if self._sums:
            return self._summed(fleet, coder, v, heard, s, columns)
        own, _ = coder.unpack(taken(heard, rows), rows)
        if rule == "slow":
            if self._feeds(s):
                _put(s.kept[0], columns, v - own)
            q = mean(coder, heard, fleet.m, self.codec.over, self._shares(fleet))
            return _some(s.z, columns) - q, q
        if self.codec.REMEMBERS:
            s.kept[-1].copy_(coder.recalled(taken(heard, rows), s.kept[-1]))
        moved = weighted(coder, heard, self._W(fleet, t), rows)
        if rule == "choco":
            copies, mixed = (_some(one, columns) for one in s.kept[:2])
            copies, mixed = copies + own, mixed + moved
            _put(s.kept[0], columns, copies)
            _put(s.kept[1], columns, mixed)
            return part + self.codec.gamma * (mixed - copies), None
        _put(s.kept[0], columns, v - own)
        return part + self.codec.gamma * (moved - own), None

    def _summed(
        self, fleet: Fleet, coder: Any, v: Rows, heard: Common, s: Any, columns: Tensor | None
    ) -> tuple[Common, Common]:
        """The same by averages: the first has come, the second begins now, of what is known by the first."""
        P, rest = coder.of_first(heard)
        mine = coder.rights(v, P)
        Q = fleet.mean(mine) if mine.shape[1] else mine[:1]
        q = coder.product(P, Q, rest)
        if self._feeds(s):
            _put(s.kept[0], columns, coder.left_out(v, q))
        s.memory[-1].copy_(coder.remembered(s.memory[-1], Q))
        return _some(s.z, columns) - q, q

    def _shares(self, fleet: Fleet) -> np.ndarray | None:
        """(m,) what each worker weighs; None: alike."""
        assert self.schedule is not None
        return None if self.schedule.sample_shares is None else self.schedule.worker_shares(fleet.m)

    def _rounded(self, fleet: Fleet, t: Tick, x: Rows, y: Rows, W: Any) -> Rows:
        """W C(y), at once."""
        from coopsgd.strategies.coder import weighted

        coder, rows = self._coder(fleet, t, x, y), _rows(fleet)
        return weighted(coder, fleet.spread(W, coder.pack(y, rows, False)), W, rows)


def serves(schedule: Mixing | None) -> bool:
    """Does a communication take the models up to a server of its own, and then hand its model down?"""
    return schedule is not None and schedule.server_owns_aux


def _begun(fleet: Fleet, t: Tick, verb: Any, *args: Any) -> Pending:
    """The verb, started. If its answer is received before anything changes it is over, and nothing was copied."""
    if t.late:
        return fleet.later(verb, *args)
    from coopsgd.fleet.base import Pending

    found = verb(*args)
    return Pending(lambda: found)


def _rows(fleet: Fleet) -> list[int]:
    """The global rows held here."""
    return fleet.layout.rows(fleet.rank)


def _some(rows: Tensor, columns: Tensor | None) -> Tensor:
    """These columns, copied; the rows themselves where all are meant."""
    return rows if columns is None else rows[:, columns.to(rows.device)]


def _put(rows: Tensor, columns: Tensor | None, new: Tensor) -> None:
    """These columns become `new`."""
    if columns is None:
        rows.copy_(new)
    else:
        rows[:, columns] = new


def _wide(x: Rows) -> Rows:
    """A copy in at least 32 bits: an outer step is small beside the model."""
    return x.float() if x.element_size() < 4 else x.clone()


def _below(n: int, rows: Rows) -> Rows:
    """The rows below n empty ones, which take memory only if they are written to."""
    if not n:
        return rows
    found = rows.new_zeros(n + len(rows), rows.shape[1])
    found[n:] = rows
    return found
