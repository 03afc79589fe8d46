"""The loop. Everything that a strategy, a fleet and a task agree on happens here, once an iteration."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.errors import RunFailed
from coopsgd.fleet.block import vector
from coopsgd.host.transfer import brought
from coopsgd.loop.ahead import Ahead
from coopsgd.loop.blocks import Blocks, Blockwise, blocks_of, each, like, waited
from coopsgd.loop.inner import Inner
from coopsgd.loop.observer import Observer
from coopsgd.loop.rounds import Rounds
from coopsgd.loop.saved import NotSaved, flatten, homes, inflate, marked_state, placed
from coopsgd.loop.state import Flight, Losses, State
from coopsgd.loop.stepping import AHEAD, Steps
from coopsgd.mixing.base import Mixing, first_negative
from coopsgd.mixing.static import takes_mean
from coopsgd.setup.external import ExternalError
from coopsgd.strategies.base import Tick, overrides

if TYPE_CHECKING:
    from coopsgd.fleet.base import Carried, Fleet, Pending, Rows
    from coopsgd.setup.parts import Parts
    from coopsgd.tasks.base import Problem


class Loop:
    """One run, an iteration at a time: `state` after `advance()` is one iteration further.

    parts: the strategy and what goes with it; of their config it reads order, delay, merge, buffers, norm_stats, clip, steps.

    order: atc (adapt, then combine) mixes after the local steps of a round. cta (combine, then adapt) mixes before the next
    gradient: the same models half a step later.

    delay: how many local steps old the models are that are mixed. X <- W X_(k - delta) + (X_k - X_(k - delta)): the message
    leaves delta steps before it is due, and those steps are kept as they are. 1 is original D-PSGD (arXiv:1705.09056) and EASGD
    (arXiv:1412.6651), tau is CoCoD-SGD. A round shorter than the delay uses its own length.

    merge: what an answer y does to a local model. kept: y and the steps since the message left; a number a: (1 - a) y + a x.

    buffers: what a communication does to the inner optimiser's. keep leaves them, average mixes them by the same W in the same
    message, at every buffers_every-th communication, reset empties them when the message leaves.

    saved: what `saved()` has told of a loop of this config, inflated for the rows held here: the state to go on from.

    Running statistics (norm_stats=average) and averaged buffers ride along in the message that mixes by the schedule's matrix,
    or in one of their own where a strategy mixes by another; without a schedule with the first verb. Nothing else happens to
    them: with a delay they take the mixed value.
    """

    def __init__(
        self,
        parts: Parts,
        fleet: Fleet,
        problem: Problem,
        inner: type[Inner] = Inner,
        observer: Observer | None = None,
        saved: Any = None,
    ) -> None:
        config, strategy = parts.config, parts.strategy
        self.parts, self.fleet, self.strategy, self.observer = parts, fleet, strategy, observer or Observer()
        self._cta, self._buffers, often = config.order == "cta", config.buffers, config.buffers_every
        self._delay: float = math.inf if config.delay == "tau" else config.delay
        self._merge = None if config.merge == "kept" else float(config.merge)
        self._pieces = parts.fragments.count if parts.fragments else 1
        self._averages = config.norm_stats == "average"
        self._as_it_is = not overrides(strategy, "direction")  # steps go along the gradient
        self._plain_steps = not overrides(strategy, "shift")  # and that is all of them
        # W x and nothing more: in place
        self._mixes = strategy.schedule is not None and not any(overrides(strategy, name) for name in ("send", "receive"))
        fleet.weigh(parts.sample_shares)
        x, start = each(fleet.rows, problem.start()), problem.statistics()
        blocks: Any = getattr(problem, "blocks", lambda: vector(x.shape[1]))  # of a class of somebody's own
        self._blocks = blocks
        self.moves: Any = strategy
        if isinstance(x, Blocks):
            self.moves = Blockwise(strategy, blocks())
        else:
            fleet.describe(blocks)
        stats = None if start is None else fleet.rows(start)
        optimiser = inner(parts.optim, parts.schedule, x, len(fleet.workers), config.steps, blocks)
        averages = getattr(type(strategy).direction, "averages", False)
        self._lends = averages and getattr(optimiser, "plain", False)  # a plain step only reads it
        self._often = often if isinstance(often, list) else [often] * optimiser.count
        losses = Losses(fleet, parts.period.WATCHES)
        now = lambda: fleet.clock.now if fleet.clock else math.nan  # noqa: E731
        rounds = Rounds(parts.period, strategy.schedule, fleet.m, losses, now, fleet.one_rate)
        beside = [b.expand(len(fleet.workers), *b.shape[1:]).clone() for b in problem.module_buffers()]
        fusing = self._as_it_is and self._plain_steps
        self.steps = Steps(problem, optimiser, x, stats, beside, config.clip, fusing, self._unwatched, fleet.zeros_like)
        self.state = State(x, stats, beside, (), optimiser, rounds, losses, fleet.ledger, fleet.clock)
        if saved is not None:
            self._restore(saved)
            return
        with fleet.measuring():  # all rows are equal: nothing that an algorithm starts from needs a message
            self.state.s = self.moves.init(fleet, x)
        rounds.begin(0, optimiser.lr)
        self._check_savable()

    @cached_property
    def _ahead(self) -> Ahead | None:
        """What takes steps together with their communications, where these are all that an algorithm does."""
        config = self.parts.config
        alone = not self._delay and not self._cta and self._buffers == "keep" and self.parts.fragments is None
        # where `work` makes rounds longer than tau an observer cannot tell which communication is the last before an evaluation
        alone = alone and (self.strategy.schedule is None or type(self.strategy.schedule).work is Mixing.work)
        averages = self._lends and self._plain_steps and config.clip is None and self.fleet.shares is None
        averages = averages and self.strategy.send is None  # else models are sent, too
        mixes = self._mixes and self.steps.fused and not self._merge
        return Ahead.of(self, averages and alone, mixes and alone)

    def advance(self) -> None:
        """One iteration."""
        self.begin()
        self.finish()

    def begin(self) -> None:
        """What comes before this iteration's gradient, once: a communication that was put off, a message that leaves now."""
        st, clock = self.state, self.fleet.clock
        self.catch_up()
        rounds, lr = st.rounds, st.inner.lr
        rounds.begin(st.k, lr)
        if clock:
            clock.begin(st.k, rounds.active)
        if st.flight is None and rounds.left == self._late:
            self.observer.sends(self, st.k + rounds.left)
            t = Tick(st.k, rounds.r, lr, rounds.tau, self._late)
            st.flight = self._sent(t, st.x.clone(), self._frozen(st.s), [x.clone() for x in self._companions(t)])
            if self._buffers == "reset" and st.k:  # before the first step there are none of ours
                st.inner.reset()

    def catch_up(self) -> None:
        """The communication that waits for the next step to begin (order=cta), if there is one."""
        st = self.state
        self.fleet.step = st.k
        if st.postponed is not None:
            self._communicate(st.postponed, st.k)
            st.postponed = None

    def finish(self) -> None:
        """The rest of the iteration that was begun: gradient, step, and the communication that may be due."""
        st, fleet = self.state, self.fleet
        k, rounds, lr = st.k, st.rounds, st.inner.lr
        t, active, due = Tick(k, rounds.r, lr, rounds.tau), rounds.active, rounds.due
        here = None if active is None else active[fleet.workers.start : fleet.workers.stop]
        own = rounds.own[fleet.workers.start : fleet.workers.stop]
        if fleet.clock:
            fleet.clock.compute()
        if self._ahead is not None:
            self._ahead.take(k, own)
        if self.steps.fused or self.steps.ahead:
            loss = self.steps.descend(k, here, own)
        else:
            loss, grad = self.steps.gradients(k, here, own)
            self.steps.step(self._direction(t, grad), here)
            if not self._plain_steps:
                self._shift(t, here)
        self.observer.moved(self, t, active, due)
        done, plan = (False, None) if self._ahead is None else self._ahead.over()
        if done:
            self.observer.sends(self, k + 1)
            fleet.account(plan, st.x)
            self._received(0)
        elif due:
            self._end_round(t)
        st.inner.advance(due)
        rounds.end(active)
        st.losses.add(loss, active)
        st.k = fleet.step = st.k + 1
        self.observer.stepped(self, t, loss, active, due)

    def saved(self) -> dict[str, Any]:
        """The state as a tree (loop/saved.py); nothing is copied.

        Only where no fused step is ahead (`steps.ahead`), as after a step that the observer was `due` for.
        """
        if self.steps.ahead:
            raise RuntimeError(f"saved: the models are {self.steps.ahead} steps ahead of step {self.state.k}")
        return self.state.saved(partial(marked_state, self.strategy))

    def _restore(self, tree: dict[str, Any]) -> None:
        st, clock = self.state, self.fleet.clock
        tree = tree | {"s": like(tree["s"], st.x), "losses": placed(tree["losses"], blocks_of(st.x)[0].device)}
        st.x.copy_(tree["x"])
        if st.stats is not None:
            st.stats.copy_(tree["stats"])
        for mine, rows in zip(st.module_buffers, tree["module_buffers"], strict=True):
            mine.copy_(rows)
        st.s, st.k, st.postponed = tree["s"], tree["k"], tree["postponed"]
        st.inner.restore(tree["inner"], st.k)
        st.rounds.restore(tree["rounds"])
        st.losses.restore(tree["losses"])
        if tree["flight"] is not None:  # charged a second time, to what is replaced below
            flight = tree["flight"]
            if clock:
                clock.restore(flight["clock"])
            beside = [x.to(y) for x, y in zip(flight["companions"], self._companions(flight["t"]), strict=True)]
            sent = like(flight["sent"], st.x)
            sent = Blocks(sent) if isinstance(st.x, Blocks) else sent
            st.flight = self._sent(flight["t"], sent, like(flight["s"], st.x), beside)
        st.ledger.restore(tree["ledger"])
        if clock:
            clock.restore(tree["clock"])

    def _check_savable(self) -> None:
        """ExternalError unless a checkpoint can hold the states of strategy and period and give them back."""
        try:
            skeleton, _ = flatten({"s": marked_state(self.strategy, self.state.s), "rounds": self.state.rounds.saved()})
            inflate(skeleton, lambda at, kind: torch.zeros(1), homes(self.strategy, self.parts.period))
        except NotSaved as error:
            raise ExternalError(str(error)) from None

    def communicate(self, round: int) -> None:
        """Communication `round` alone, as of models in which nobody has taken a step: for what it costs."""
        t = Tick(0, round, self.state.inner.lr)
        if self.strategy.send is None:
            self._direction(t, self.state.x)
        else:
            self._communicate(t, 0)

    @property
    def _late(self) -> int:
        """How many local steps of this round its communication does not mix."""
        return int(min(self._delay, self.state.rounds.tau))

    def _unwatched(self, k: int) -> int:
        """How many steps, k the first, the same workers take before a message leaves or is due, or somebody looks."""
        st = self.state
        most = min(AHEAD, st.rounds.steady)
        if st.flight is None and self._late and st.rounds.left > self._late:
            most = min(most, st.rounds.left - self._late)
        return next(n for n in range(1, most + 1) if n == most or self.observer.due(k + n))

    def _direction(self, t: Tick, grad: Rows) -> Tensor:
        st = self.state
        if self._as_it_is:
            return grad
        if self.strategy.send is not None:
            direction, st.s = self.moves.direction(self.fleet, t, grad, st.x, st.s)
            return direction
        companions = self._companions(t)
        lent = self.fleet.lending(self._lends and not companions)
        with lent, self.fleet.carrying(*companions) as carried:  # it communicates here, in every step
            direction, st.s = self.moves.direction(self.fleet, t, grad, st.x, st.s)
        self._unload(t, carried, self._sent_apart(carried))
        return direction

    def _shift(self, t: Tick, active: np.ndarray | None) -> None:
        """What the strategy adds to the models of the workers that have stepped."""
        st = self.state
        by, st.s = self.moves.shift(self.fleet, t, st.x, st.s)
        for x, one in zip(blocks_of(st.x), by if isinstance(st.x, Blocks) else [by], strict=True):
            if one is not None:
                every = slice(len(self.fleet.workers))
                some: Any = every if active is None else brought(np.flatnonzero(active), x.device)
                x[some] += one.expand(len(x), -1)[some]

    def _end_round(self, t: Tick) -> None:
        """The communication that this step's round leads to."""
        st = self.state
        if self.strategy.send is None:
            self.observer.sends(self, t.k + 1)
            self._received(0)
        elif self._cta:
            st.postponed = t
        elif st.flight is None:
            self._communicate(t, t.k + 1)
        else:
            flight, st.flight = st.flight, None
            heard = waited(flight.pending)
            self._unload(flight.t, flight.carried, flight.apart)
            y, st.s = self.moves.receive(self.fleet, t, flight.sent, heard, st.s)
            if self._merge is None:
                st.x.sub_(flight.sent.sub_(y))  # x + (y - sent), to the bit
            else:
                self._merged(t, st.x, y)
            self._received(self._late)

    def _communicate(self, t: Tick, done: int) -> None:
        """Send and receive at once."""
        st, fleet = self.state, self.fleet
        self.observer.sends(self, done)
        W = self._matrix(t)
        with fleet.carrying(*self._companions(t), by=W) as carried:
            before = st.x.clone() if self._merge else st.x
            heard: Any = each(partial(fleet.mix, W), st.x) if self._mixes else self.moves.send(fleet, t, st.x, st.s)
        apart = self._sent_apart(carried)
        if not self._mixes:
            heard = waited(heard)
        self._unload(t, carried, apart)  # verbs are waited for in the order in which they were started
        y, st.s = self.moves.receive(fleet, t, st.x, heard, st.s)
        if self._merge:
            self._merged(t, before, y)
            st.x.copy_(before)
        elif y is not st.x:
            st.x.copy_(y)
        if self._buffers == "reset":
            st.inner.reset()
        self._received(0)

    def _merged(self, t: Tick, x: Rows, y: Any) -> None:
        """x becomes what lies between it and the answer y, in the columns that were mixed."""
        assert self._merge is not None
        several, fragments = isinstance(x, Blocks), self.parts.fragments
        for i, (part, new) in enumerate(zip(blocks_of(x), y if several else (y,), strict=True)):
            if fragments is None:
                part.lerp_(new.to(part.dtype), 1 - self._merge)
            else:
                parameters = partial(lambda i: self._blocks()[i] if several else self._blocks(), i)
                at = fragments.columns_on(part.device, parameters, part.shape[1], t.round)
                part[:, at] = part[:, at].lerp(new[:, at].to(part.dtype), 1 - self._merge)

    def _sent(self, t: Tick, x: Rows, s: Any, companions: Sequence[Rows]) -> Flight:
        """What leaves now and is due some steps later. Nothing that is given changes until then."""
        clock = self.fleet.clock.saved() if self.fleet.clock else None
        with self.fleet.carrying(*companions, by=self._matrix(t)) as carried:
            pending = self.moves.send(self.fleet, t, x, s)
        return Flight(t, x, s, companions, clock, pending, carried, self._sent_apart(carried))

    def _frozen(self, s: Any) -> Any:
        """The strategy's state, as it stays whatever `direction` makes of it."""
        return s if self._as_it_is and self._plain_steps else copy.deepcopy(s)

    def _received(self, late: int) -> None:
        self.state.ledger.rounds += 1
        self.observer.received(self, late)

    def _matrix(self, t: Tick) -> Any:
        """What must mix that which rides along; None: whatever verb comes first does, as an average is `mean` too."""
        schedule = self.strategy.schedule
        if takes_mean(schedule) and not self._mixes:
            return None
        return None if schedule is None else schedule.at(self.fleet.m, t.round // self._pieces)

    def _sent_apart(self, carried: Carried) -> Pending | None:
        """In a message of their own, what a strategy with a matrix did not mix by it, or what its message could not take."""
        if carried.taken or not carried.rows or (carried.by is None and not carried.unlike):
            return None
        if carried.by is None:
            return self.fleet.later(self.fleet.mean, *carried.rows)
        return self.fleet.later(self.fleet.mix, carried.by, *carried.rows)

    def _companions(self, t: Tick) -> Sequence[Rows]:
        """What rides along: running statistics, then buffers. Of the fragments of a model with the last."""
        st, schedule = self.state, self.strategy.schedule
        if t.round % self._pieces < self._pieces - 1:
            return []
        found = [st.stats] if st.stats is not None and self._averages else []
        found += st.inner.stacked(self._averaged(t)) if self._buffers == "average" else []
        if (
            found
            and schedule is not None
            and not st.x.is_meta
            and (weight := first_negative([schedule.factors(self.fleet.m, t.round // self._pieces)])) is not None
        ):
            raise RunFailed(
                f"communication {t.round}: {weight}, which can make a running variance or an optimiser's mean square "
                "negative; use norm_stats=recalibrate, buffers=keep, or weights that are not negative"
            )
        return found

    def _averaged(self, t: Tick) -> list[int]:
        """Which of the inner optimiser's buffers this communication averages."""
        return [at for at, often in enumerate(self._often) if not (t.round // self._pieces + 1) % often]

    def _unload(self, t: Tick, carried: Carried, apart: Pending | None = None) -> None:
        """What rode along is what the message made of it."""
        if apart is not None:
            made = apart.wait()
            carried.made = made if isinstance(made, tuple) else (made,)
        st, mixed = self.state, list(carried.made)
        if mixed and st.stats is not None and self._averages:
            new = mixed.pop(0)
            if new is not st.stats:
                st.stats.copy_(new)
        if mixed:
            st.inner.put([y.expand(len(self.fleet.workers), -1) if len(y) == 1 else y for y in mixed], self._averaged(t))
