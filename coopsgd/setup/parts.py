"""The parts that a config names, each made once and handed down to whoever needs one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from coopsgd.errors import ConfigError
from coopsgd.setup import build, lengths
from coopsgd.setup.schema import Config
from coopsgd.setup.stop import Stop
from coopsgd.strategies.axes import with_axes
from coopsgd.strategies.period import Period

if TYPE_CHECKING:
    from coopsgd.data.base import DataSet
    from coopsgd.data.partitions import Partition
    from coopsgd.mixing.graphs import Graph
    from coopsgd.models.base import Model
    from coopsgd.predict.clock.cluster import Cluster
    from coopsgd.schedules import Constant
    from coopsgd.strategies.base import Strategy
    from coopsgd.strategies.codec import Codec
    from coopsgd.strategies.correction import Correction
    from coopsgd.strategies.fragments import Fragments
    from coopsgd.strategies.outer import Outer
    from coopsgd.tasks.base import Task


def split(tau: Any, pieces: int) -> Any:
    """A tau, or a list of them, divided by the number of fragments. ConfigError where it is no multiple of it."""
    if isinstance(tau, list):
        return [[pair[0], split(pair[1], pieces)] if isinstance(pair, list) and len(pair) == 2 else pair for pair in tau]
    if isinstance(tau, int) and not isinstance(tau, bool) and tau % pieces and tau > 0:
        more = -(-tau // pieces) * pieces
        raise ConfigError(
            f"tau={tau}: {pieces} fragments take turns, one every tau / {pieces} steps, so tau must be a multiple of "
            f"fragments.count={pieces}; use tau={more}"
        )
    return tau // pieces if isinstance(tau, int) and tau > 0 else tau  # what is none is refused as it stands


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of one config, made when they are first asked for and then kept: none is made twice.

    A part is given others as its fields (registry.of_run): a task its data, model and partition, a mixing the topology.
    ConfigError, ValueError where the config names what cannot be made; a checked config's parts can.
    """

    config: Config

    @cached_property
    def strategy(self) -> Strategy:
        """With its mixing, which is `strategy.schedule` where there is one, and with its axes around it."""
        return with_axes(build.make_strategy(self.config, self.of_run), self.outer, self.codec, self.fragments, self.correction)

    @cached_property
    def outer(self) -> Outer | None:
        """The outer step; None where there is none."""
        return cast("Outer", self._make("outer")) if self.config.outer else None

    @cached_property
    def correction(self) -> Correction | None:
        """What keeps workers from drifting apart; None where nothing does."""
        return cast("Correction", self._make("correction")) if self.config.correction else None

    @cached_property
    def codec(self) -> Codec | None:
        """What a message holds; None: models as they are."""
        return cast("Codec", self._make("codec")) if self.config.codec else None

    @cached_property
    def fragments(self) -> Fragments | None:
        """Which columns travel at a communication; None: all."""
        return cast("Fragments", self._make("fragments")) if self.config.fragments else None

    @cached_property
    def period(self) -> Period:
        """How many local steps a round has."""
        return cast(
            "Period", build.make_part(self.config, "period", lambda name: self._tau if name == "tau" else self.of_run(name))
        )

    @property
    def _tau(self) -> Any:
        """Local steps between two communications: of a model in fragments each of them takes its part of tau."""
        tau, pieces = self.config.tau, self.fragments.count if self.fragments else 1
        if pieces == 1 or build.algo_classes(self.config)[0].send is None:
            return tau
        return split(tau, pieces)

    @property
    def only_training_tells(self) -> bool:
        """Does tau go by the loss, or by a rate that does?"""
        return self.period.WATCHES or (self.schedule.WATCHES and not self.period.foreseen)

    @cached_property
    def topology(self) -> Graph:
        """Who is linked with whom."""
        return cast("Graph", self._make("topology"))

    @cached_property
    def task(self) -> Task:
        """What is learned, with its data, model and partition."""
        return cast("Task", self._make("task"))

    @cached_property
    def model(self) -> Model:
        """The family of networks; the task's own."""
        return cast("Model", self._make("model"))

    @cached_property
    def data(self) -> DataSet:
        """The data set; the task's own."""
        return cast("DataSet", self._make("data"))

    @cached_property
    def partition(self) -> Partition:
        """Who holds what of it; the task's own."""
        return cast("Partition", self._make("partition"))

    @cached_property
    def optim(self) -> Any:
        """The settings of the inner optimiser."""
        return self._make("optim")

    @cached_property
    def schedule(self) -> Constant:
        """How the learning rate moves, its numbers in steps where they are not in rounds."""
        made = cast("Constant", self._make("schedule"))
        return made.in_steps(self._warmup()) if made.unit != "step" else made

    @cached_property
    def cluster(self) -> Cluster:
        """Whose seconds are simulated; ConfigError when the config names none."""
        return cast("Cluster", self._make("cluster"))

    @cached_property
    def stop(self) -> Stop:
        """When the run ends before its steps are done."""
        return cast("Stop", self._make("stop")) if self.config.stop else Stop()

    def _make(self, group: str) -> Any:
        return build.make_part(self.config, group, self.of_run)

    @cached_property
    def sample_shares(self) -> tuple[float, ...] | None:
        """What each worker weighs in a mean over all of them, in sum 1; None: alike, or there is nothing to count."""
        if self.config.weights_by != "samples":
            return None
        sizes = self.of_run("sizes")
        if sizes is None or len(set(sizes)) == 1:
            return None
        return tuple(size / sum(sizes) for size in sizes)

    @property
    def _momentum(self) -> tuple[float, bool]:
        """What a local step keeps of those before it in its round, and whether it is Nesterov's."""
        given = self.config.optim
        if given["name"] != "sgd" or self.config.buffers != "reset":
            return 0.0, False
        return self.optim.momentum, self.optim.nesterov

    def of_run(self, name: str) -> Any:
        """What a part is given that asks for `name`, one of registry.OF_RUN."""
        if name == "sizes":  # that there are samples is checked first: counting them reads the data
            self.task.check(self.config)
            return self.task.sizes(self.config)
        if name == "warmup":
            return self._warmup()
        if name == "momentum":
            return self._momentum
        return getattr(self.config if name in build.NUMBERS else self, name)

    def _warmup(self) -> int:
        """Steps in which the rate rises. A period that asks for them keeps tau as it is given until they are over."""
        node = self.config.schedule or {}
        warmup, unit = node.get("warmup", 0), node.get("unit", "step")
        if not warmup or unit == "step" or not isinstance(warmup, int):
            return warmup
        if unit != "round":
            return int(warmup * unit)
        cls = build.class_of("period", "period", (self.config.period or {}).get("name"))
        period = Period(self._tau) if "warmup" in build.filled_by_run(cls).values() else self.period
        if not period.foreseen and period.smallest is not None:  # until the rate falls
            period = Period(period.smallest)
        return lengths.step_of(f"schedule.warmup={warmup}", warmup, period, self.strategy.schedule, self.config.workers)

    def but(self, config: Config, without: Sequence[str] = (), **parts: Any) -> Parts:
        """The same parts for another config, which names no others, but those given; it makes those named by `without` anew."""
        new = Parts(config)
        vars(new).update({name: part for name, part in vars(self).items() if name not in without} | {"config": config} | parts)
        return new
