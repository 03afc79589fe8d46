"""What keeps workers from drifting towards their own optimum: corrections, an axis around an algorithm and its outer step.

A correction says what it is (`Correction`, the keys of its group), and puts a strategy around the algorithm that does it
(`around`). Those of an exact method hold a row c for each worker; the rows of c sum to zero. In units of x they are added to
the models, and no inner optimiser sees them (d2, led, gt); in units of a gradient they are added to it, and its momentum holds
them too (kgt, scaffold, proximal). Update form: u, the local steps of a round, is whatever the inner optimiser made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from coopsgd.mixing.base import Mixing
from coopsgd.mixing.static import takes_mean
from coopsgd.registry import of_run, option, register
from coopsgd.strategies import needs
from coopsgd.strategies.axes import Slow
from coopsgd.strategies.base import Around, Strategy, Tick
from coopsgd.strategies.normalised import Normalised, column

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Pending, Rows


@dataclass(frozen=True)
class Correction:
    """A correction, as a config names it."""

    BESIDE: ClassVar[tuple[str, ...]] = ()  # axes that may be inside it; none: W alone must be in between
    WEIGHED: ClassVar[bool] = False  # may workers weigh differently?
    ALONE: ClassVar[bool] = True  # must the algorithm do no more with its models than mix them?

    def around(self, algorithm: Strategy) -> Around:
        """The algorithm, corrected."""
        raise NotImplementedError

    def check(self, schedule: Mixing | None, m: int, tau: int | None, algo: str) -> None:
        """ValueError when it does not hold for what the algorithm mixes by. tau: of every round; None where it moves."""


@register("proximal", "correction")
@dataclass(frozen=True)
class Proximal(Correction):
    """FedProx: local steps along g + mu (x - z), z what the last communication left. arXiv:1812.06127."""

    BESIDE: ClassVar[tuple[str, ...]] = ("outer", "codec")
    WEIGHED: ClassVar[bool] = True
    ALONE: ClassVar[bool] = False

    mu: float = option(0.01, "pull towards the model that the last communication left; 0 is none", unit="")

    def __post_init__(self) -> None:
        if not self.mu >= 0:
            raise ValueError(f"correction.mu: must be a number of at least 0, got {self.mu}")

    def around(self, algorithm: Strategy) -> Around:
        return Held(algorithm, self.mu)


class HeldState(NamedTuple):
    """Where each row was after the last communication."""

    own: Any  # the state of what is inside
    z: Rows


@dataclass(frozen=True)
class Held(Around):
    """Local steps that are pulled back to where they began."""

    mu: float

    CHANGES = ("direction", "receive")

    def init(self, fleet: Fleet, x: Rows) -> HeldState:
        return HeldState(self.algorithm.init(fleet, x), x.clone())

    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: Any) -> tuple[Rows | Common, Any]:
        return super().direction(fleet, t, grad.add(x - s.z, alpha=self.mu), x, s)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, s = super().receive(fleet, t, x, heard, s)
        s.z.copy_(y)
        return y, s


class Corrected(NamedTuple):
    """What is kept where c is in units of x and one vector is sent."""

    own: Any  # the state of what is inside
    c: Rows


@register("d2", "correction")
@dataclass(frozen=True)
class D2(Correction):
    """D2, exact diffusion: x <- W (x + u + c), c <- x - what was sent. One step a round. arXiv:1803.07068."""

    def around(self, algorithm: Strategy) -> Around:
        return Diffused(algorithm)

    def check(self, schedule: Mixing | None, m: int, tau: int | None, algo: str) -> None:
        needs.one_step("d2", tau, "led, which is d2 for any tau")
        needs.fixed_and_symmetric("d2", schedule, m, algo)


@dataclass(frozen=True)
class Diffused(Around):
    """D2: what mixing took from a row in one round is given back in the next."""

    CHANGES, DELAYS = ("send", "receive"), False

    def init(self, fleet: Fleet, x: Rows) -> Corrected:
        return Corrected(self.algorithm.init(fleet, x), _zeros(x))

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        return super().send(fleet, t, x + s.c, s)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, s = super().receive(fleet, t, x + s.c, heard, s)
        s.c.copy_(y).sub_(x)
        return y, s


@register("led", "correction")
@dataclass(frozen=True)
class Led(Correction):
    """LED, local exact diffusion: tau times x <- local(x) + c / tau, then x <- W x, c <- c + W x - x. arXiv:2302.00620."""

    def around(self, algorithm: Strategy) -> Around:
        return LocallyDiffused(algorithm)

    def check(self, schedule: Mixing | None, m: int, tau: int | None, algo: str) -> None:
        needs.fixed_and_symmetric("led", schedule, m, algo)


@dataclass(frozen=True)
class LocallyDiffused(Around):
    """LED: D2 whose correction is dealt out over the local steps of the round."""

    CHANGES, DELAYS = ("shift", "receive"), False

    def init(self, fleet: Fleet, x: Rows) -> Corrected:
        return Corrected(self.algorithm.init(fleet, x), _zeros(x))

    def shift(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> tuple[Rows | Common | None, Any]:
        return s.c / t.tau, s

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, s = super().receive(fleet, t, x, heard, s)
        s.c.add_(y - x)
        return y, s


class Tracked(NamedTuple):
    """What is kept by gradient tracking."""

    own: Any  # the state of what is inside
    z: Rows  # each row after the last communication
    c: Rows  # in units of x


@register("gt", "correction")
@dataclass(frozen=True)
class GradientTracking(Correction):
    """Gradient tracking: x, s <- W (x + u + c), W (c + u), c <- s - u. One step a round. arXiv:1607.03218."""

    def around(self, algorithm: Strategy) -> Around:
        return Tracking(algorithm)

    def check(self, schedule: Mixing | None, m: int, tau: int | None, algo: str) -> None:
        needs.one_step("gt", tau, "kgt, which is gt for any tau")
        needs.doubly_stochastic("gt", schedule, m, algo)


@dataclass(frozen=True)
class Tracking(Around):
    """Gradient tracking: every row follows the mean of all updates."""

    CHANGES, DELAYS = ("send", "receive"), False

    def init(self, fleet: Fleet, x: Rows) -> Tracked:
        return Tracked(self.algorithm.init(fleet, x), x.clone(), _zeros(x))

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        return _sent_with(self.algorithm, fleet, t, x + s.c, s.c + x - s.z, s.own)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, more, own = _heard_with(self.algorithm, fleet, t, x + s.c, heard, s.own)
        s.c.copy_(more).sub_(x - s.z)
        s.z.copy_(y)
        return y, s._replace(own=own)


class Drawn(NamedTuple):
    """What is kept where c is in units of a gradient: it and the round's gradients, added up."""

    own: Any  # the state of what is inside
    c: Rows
    total: Rows


@register("kgt", "correction")
@dataclass(frozen=True)
class KGT(Correction):
    """K-GT, gradient tracking with tau local steps along g + c: s = mean g + c, c <- c - s + W s. arXiv:2301.01313."""

    def around(self, algorithm: Strategy) -> Around:
        return LocallyTracking(algorithm)

    def check(self, schedule: Mixing | None, m: int, tau: int | None, algo: str) -> None:
        needs.doubly_stochastic("kgt", schedule, m, algo)


@dataclass(frozen=True)
class LocallyTracking(Around):
    """K-GT: what a row's gradients lack of everybody's, as of the last round, is in each of its steps."""

    CHANGES, DELAYS = ("direction", "send", "receive"), False

    def init(self, fleet: Fleet, x: Rows) -> Drawn:
        return Drawn(self.algorithm.init(fleet, x), _zeros(x), _zeros(x))

    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: Any) -> tuple[Rows | Common, Any]:
        s.total.add_(grad)
        return super().direction(fleet, t, grad + s.c, x, s)

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        return _sent_with(self.algorithm, fleet, t, x, s.total / t.tau + s.c, s.own)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, more, own = _heard_with(self.algorithm, fleet, t, x, heard, s.own)
        s.c.copy_(more).sub_(s.total / t.tau)
        s.total.zero_()
        return y, s._replace(own=own)


def _needs_mean(schedule: Mixing | None, algo: str, why: str, way_out: str) -> None:
    """ValueError unless workers' models are averaged over all, by W or by a server."""
    if schedule is not None and (takes_mean(schedule) or schedule.server_owns_aux):
        return
    if schedule is not None and schedule.lazy and takes_mean(replace(schedule, lazy=False)):
        raise ValueError(f"{why}, which {algo} with algo.lazy=true does not take; use algo.lazy=false")
    raise ValueError(f"{why}, which no communication of {algo} takes; use {way_out}")


@register("fednova", "correction")
@dataclass(frozen=True)
class FedNova(Correction):
    """FedNova: what local steps moved is divided by how many steps it is worth, and averaged. arXiv:2007.07481."""

    BESIDE: ClassVar[tuple[str, ...]] = ("outer", "codec")
    WEIGHED: ClassVar[bool] = True

    momentum: Any = of_run("momentum", (0.0, False))

    def around(self, algorithm: Strategy) -> Around:
        return Normalised(algorithm, tuple(self.momentum))

    def check(self, schedule: Mixing | None, m: int, tau: int | None, algo: str) -> None:
        why = "correction=fednova: makes workers of different numbers of steps count alike in a mean over all"
        _needs_mean(schedule, algo, why, "algo=fedavg, pasgd or parameter_server")


class Controlled(NamedTuple):
    """What is kept by SCAFFOLD."""

    own: Any  # the state of what is inside
    mine: Rows  # each worker's control variate: the mean gradient of its last round
    common: Rows  # the server's, as each row last heard of it
    total: Rows  # the gradients of this round, added up


@register("scaffold", "correction")
@dataclass(frozen=True)
class Scaffold(Correction):
    """SCAFFOLD: steps along g - c_i + c, c_i the mean gradient of its last round, c the mean of all. arXiv:1910.06378."""

    BESIDE: ClassVar[tuple[str, ...]] = ("outer",)
    WEIGHED: ClassVar[bool] = True

    def around(self, algorithm: Strategy) -> Around:
        return Controlling(algorithm)

    def check(self, schedule: Mixing | None, m: int, tau: int | None, algo: str) -> None:
        way_out = "algo=fedavg, pasgd or parameter_server, or correction=kgt, which is the same where W = J"
        _needs_mean(schedule, algo, "correction=scaffold: its c is the mean over all workers", way_out)


@dataclass(frozen=True)
class Controlling(Around):
    """SCAFFOLD: what a client's gradients lack of everybody's is in each of its steps; c is moved by those who took part.

    What a client sends is c + k_i (c_i new - c_i old), k_i its weight among all over its weight in this mean: their mean is c
    and the weighted sum of all changes, so that c is the weighted mean of all c_i whoever takes part.
    """

    CHANGES, DELAYS = ("direction", "send", "receive"), False

    def init(self, fleet: Fleet, x: Rows) -> Controlled:
        zeros = (_zeros(x) for _ in range(3))
        return Controlled(self.algorithm.init(fleet, x), *zeros)

    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: Any) -> tuple[Rows | Common, Any]:
        s.total.add_(grad)
        return super().direction(fleet, t, grad - s.mine + s.common, x, s)

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        share = column(self._shares(fleet.m, t), fleet, x)
        return _sent_with(self.algorithm, fleet, t, x, s.common + share * (self._moved(fleet, t, s) - s.mine), s.own)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, more, own = _heard_with(self.algorithm, fleet, t, x, heard, s.own)
        s.mine.copy_(self._moved(fleet, t, s))
        s.common.copy_(more)
        s.total.zero_()
        return y, s._replace(own=own)

    def _moved(self, fleet: Fleet, t: Tick, s: Any) -> Rows:
        """(r, d) the control variates after this round: of whoever worked the mean of its gradients."""
        assert self.schedule is not None
        work = self.schedule.work(fleet.m, t.round, t.tau)
        steps = column(np.full(fleet.m, t.tau) if work is None else work, fleet, s.mine)
        return (s.total / steps.clamp(min=1)).where(steps > 0, s.mine)

    def _shares(self, m: int, t: Tick) -> np.ndarray:
        """(m,) k_i; 0 of whoever is not in the mean."""
        assert self.schedule is not None
        if takes_mean(self.schedule):
            return np.ones(m)
        weights, shares = self.schedule.factors(m, t.round)[0].row(m)[:m], self.schedule.worker_shares(m)
        return np.divide(shares, weights, out=np.zeros(m), where=weights > 0)


def _zeros(x: Rows) -> Rows:
    return x.new_zeros(x.shape)


def _sent_with(algorithm: Strategy, fleet: Fleet, t: Tick, x: Rows, more: Rows, own: Any) -> Pending:
    """A message of x and `more`, which the algorithm's matrix mixes."""
    if isinstance(algorithm, Slow):
        return algorithm.send_with(fleet, t, x, more, own)
    assert algorithm.schedule is not None
    return fleet.later(fleet.mix, algorithm.schedule.at(fleet.m, t.round), x, more)


def _heard_with(algorithm: Strategy, fleet: Fleet, t: Tick, x: Rows, heard: Any, own: Any) -> tuple[Any, Any, Any]:
    """The models after it, what `more` became, and the algorithm's state."""
    if isinstance(algorithm, Slow):
        (y, more), own = algorithm.receive_with(fleet, t, x, heard, own)
    else:
        more = heard[1]
        y, own = algorithm.receive(fleet, t, x, heard[0], own)
    return y, more, own
