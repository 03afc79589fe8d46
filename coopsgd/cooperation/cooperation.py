"""An algorithm in somebody else's training loop: `coop.step()` where `optimizer.step()` was."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import coopsgd
from coopsgd.cooperation import saved
from coopsgd.cooperation.clock import WallClock
from coopsgd.cooperation.modules import Modules
from coopsgd.cooperation.optimizers import Optimizers
from coopsgd.cooperation.refusals import difference, refuse_inference, refuse_optimizers, seconds
from coopsgd.cooperation.samples import each, said
from coopsgd.cooperation.words import parts_of
from coopsgd.errors import ConfigError
from coopsgd.fleet import world
from coopsgd.fleet.ledger import Ledger
from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop import norm_stats
from coopsgd.loop.blocks import blocks_of
from coopsgd.loop.consensus import distance
from coopsgd.loop.loop import Loop
from coopsgd.loop.observer import Observer
from coopsgd.run.schema import METRICS
from coopsgd.setup import timing
from coopsgd.setup.identity import trained
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import overrides

TIMEOUT = 600.0  # seconds, as torch waits for nccl


class Cooperation(Observer):
    """Trains a model, with those of the other processes, by an algorithm A(tau, W, v) or one beyond it.

        coop = coopsgd.Cooperation(model, optimizer, "algo=dpsgd", "topology=exponential", "tau=4")
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            coop.step()                       # optimizer.step(), and the communication that may be due

    One worker a process, under torchrun or in any program that has made its default process group; or several workers in one
    process, where `model` and `optimizer` are lists of as many, for tests on a laptop.

    model: an nn.Module on any device. Its parameters that need a gradient become views of one flat row, in place; they start as
    those of rank 0. BatchNorm's running statistics are mixed with them (norm_stats=average), frozen parameters are not sent.
    optimizer: a torch.optim.Optimizer of its parameters. Its state, its parameter groups and their schedules stay the user's.
    words: as on the command line of `coopsgd train`, as a whole such line, a dict of them, or the path of a yaml. What concerns
    task, data, steps or a cluster is ignored with a note.
    samples: how many this worker (each of several) learns from, for an algorithm that weighs workers by it (fedavg).
    timeout: seconds that one process may keep the others waiting before they fail, naming it; the word timeout= where you give
    no argument, else 600.

    ConfigError for what cannot work, in every process, and where words or models of the processes differ.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *words: str | Mapping[str, Any],
        samples: int | Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> None:
        models: list[Any] = [*model] if isinstance(model, list | tuple) else [model]
        optimizers: list[Any] = [*optimizer] if isinstance(optimizer, list | tuple) else [optimizer]
        device = next((p.device for m in models if isinstance(m, nn.Module) for p in m.parameters()), torch.device("cpu"))
        refuse_inference("Cooperation")
        limit = seconds(TIMEOUT if timeout is None else timeout)
        self.rank, self.processes = world.join(device, limit)
        self._notices = world.Notices(self.rank, self.processes, limit) if self.processes > 1 else None
        if self._notices is not None:
            atexit.register(self._notices.leave)
        self._model, self._modules, self._parts, self.notes = self._made(model, models, optimizers, words, samples, device)
        strategy, config = self._parts.strategy, self._parts.config
        layout = layout_of(strategy.schedule, config.workers, self.processes)
        if self._notices is not None and timeout is None and config.timeout != "auto":
            self._notices.timeout = config.timeout
        self._fleet: Stacked = Stacked(layout) if self._notices is None else world.World(layout, self._notices, device)
        self._clock = WallClock(self._of_first)
        self._fleet.clock = self._clock  # type: ignore[assignment]
        self._modules.copy_unmixed(world.spread if self.processes > 1 else None)
        writes = overrides(strategy, "direction")
        self._inner = Optimizers(optimizers, self._modules, writes, config.buffers == "average", self.processes == 1)
        timing.one_for_each(config, self._inner.names, "your optimizer")
        self._loop = Loop(self._parts, self._fleet, self._modules, self._inner.at, observer=self)  # type: ignore[arg-type]
        self._modules.losses = torch.zeros(self._fleet.local_rows, 1, device=blocks_of(self._loop.state.x)[0].device)
        self._writers: list[tuple[Any, int]] = []
        self._within = ""  # the block under way in which no step is taken
        self._joining = self._communicated = False
        if self.rank == 0:
            for note in self.notes:
                warnings.warn(f"coopsgd: {note}", stacklevel=2)
        self._send_ahead()

    def _made(
        self, model: Any, models: list[Any], optimizers: list[Any], words: Sequence[Any], samples: Any, device: torch.device
    ) -> tuple[Any, Modules, Parts, tuple[str, ...]]:
        """The parts, the same in every process. ConfigError in all of them when one cannot be made in one, or differs."""
        mine: dict[str, Any] = {}
        found: Any = None
        shares, cards = zip(*self._everybody([said(samples), world.card_of(device)]), strict=True)
        try:
            world.refuse_one_for_two(cards)
            modules = Modules(models)
            refuse_optimizers(optimizers, models)
            parts, notes = parts_of(
                words, self.processes * len(models), modules.d, modules.b, each([*shares], len(models)), modules.blocks_by_kind
            )
            found = model, modules, parts, notes
            mine["version"] = [f"coopsgd {coopsgd.__version__}", f"torch {torch.__version__}"]
            mine["model"] = modules.structure()
            mine["optimizer"] = [f"{type(o).__name__} of {len(o.param_groups)} groups" for o in optimizers]
            mine["words"] = [f"{key}={value}" for key, value in sorted(trained(parts).items())]
        except ConfigError as error:
            mine["error"] = str(error)
        everyone = [mine]
        if len(set(self._everybody(hashlib.sha256(json.dumps(mine).encode()).hexdigest()))) > 1 or "error" in mine:
            everyone = self._everybody(mine)
        errors = {q: one["error"] for q, one in enumerate(everyone) if "error" in one}
        if errors:
            q, line = next(iter(errors.items()))
            raise ConfigError(line if len(errors) == self.processes else f"rank {q}: {line}")
        for what, first in everyone[0].items() if len(everyone) > 1 else ():
            if others := [q for q, one in enumerate(everyone) if one[what] != first]:
                ranks = f"rank{'s' * (len(others) > 1)} {', '.join(map(str, others))}"
                how = difference(everyone[others[0]][what], first)
                raise ConfigError(f"{what}: {ranks} and rank 0 differ: {how}; give every process the same")
        return found

    # training

    def step(self, *, loss: Any = None, scaler: Any = None, step: Callable[[], Any] | None = None) -> bool:
        """Call it where `optimizer.step()` was: a step along the gradients in the model, and the communication that is due.

        loss: this step's, for a period that looks at it (adacomm); of several models a list. scaler: a torch.amp.GradScaler,
        whose `step(optimizer)` is called; a step that it skips counts as one, so that the processes stay together. Gradients
        are not zeroed; `scaler.update()` and schedulers are yours. True when models were mixed at the end of it.

        step: called in place of `optimizer.step()` (or of `scaler.step(optimizer)`), where a framework has a way of its own to
        take it. One model only.

        RunFailed, naming the process, when another one does not come to a communication.
        """
        self._refuse_within("step")
        if not self.steps and self._fleet.layout.v and not self._fleet.layout.server_owns_aux:
            self._modules.refuse_new_values(self.config.algo["name"])
        if step is not None and len(self._fleet.workers) > 1:
            raise ConfigError("step: one function cannot take the steps of several models; leave step= out")
        self._inner.scaler, self._inner.take = scaler, step
        self._running()
        self._loop.begin()
        self._keep_losses(loss)
        self._inner.unscale()
        return self._finished()

    def _finished(self) -> bool:
        self._communicated = False
        self._loop.finish()
        if self._notices is not None:
            self._notices.step = self.steps
        self._send_ahead()
        for writer, every in self._writers:
            if self.rank == 0 and self.steps % every == 0:
                for tag, value in self.scalars().items():
                    writer.add_scalar(tag, value, self.steps)
        return self._communicated

    def _send_ahead(self) -> None:
        """A message that leaves before the next gradient leaves now, to travel meanwhile.

        A round begins with it only where it may leave at once: else at the next step, when schedulers have set the rate.
        """
        self._loop.catch_up()
        delay, smallest = self.config.delay, self._parts.period.smallest
        at_once = delay == "tau" or (delay and (smallest is None or smallest <= delay))
        if at_once or (delay and not self._at_boundary):
            self._loop.begin()

    def _keep_losses(self, loss: Any) -> None:
        """Keep the losses of this step, if the period looks at them."""
        if not self._parts.period.WATCHES:
            return
        if loss is None and not self._any_active:
            return
        if loss is None:
            raise ConfigError(f"step: period={self.config.period['name']} looks at the loss; call coop.step(loss=loss)")
        each = [*loss] if isinstance(loss, list | tuple) else [loss]
        if len(each) != len(self._fleet.workers):
            raise ConfigError(f"step: one loss a model, got {len(each)} for {len(self._fleet.workers)}")
        if any(torch.is_tensor(one) and one.numel() != 1 for one in each):
            raise ConfigError("step: the loss of a model is one number; give loss.mean()")
        for place, one in zip(self._modules.losses[:, 0], each, strict=False):  # nobody waits for a GPU here
            place.copy_(one.detach().reshape(())) if torch.is_tensor(one) else place.fill_(float(one))

    @property
    def _any_active(self) -> bool:
        active = self._loop.state.rounds.active
        return active is None or bool(active[self._fleet.workers.start : self._fleet.workers.stop].any())

    @property
    def active(self) -> Any:
        """Does the coming step of this worker count? Else (a client that was not drawn) its gradient is not looked at, and need
        not be computed: call `step` all the same. Of several models a list.
        """
        self._loop.begin()
        active = self._loop.state.rounds.active
        mine = [True if active is None else bool(active[i]) for i in self._fleet.workers]
        return mine if isinstance(self._model, list | tuple) else mine[0]

    @contextlib.contextmanager
    def join(self) -> Iterator[None]:
        """Around a loop over data of which some processes have more than others.

        A process that leaves it early waits here and takes part in every communication with the model that it has, until all
        have come; the round that is under way when the last of them comes ends for all, with its communication.
        """
        self._refuse_within("join")
        if not isinstance(self._fleet, world.World):
            yield
            return
        self._joining, fleet, notices = True, self._fleet, self._fleet.notices
        fleet.joining = True
        fleet.meet("join")
        notices.post("round", "-1")
        fleet.meet("join")
        try:
            yield
            notices.post("round", f"{self._round} ended")
            self._modules.resting = fleet.resting = True
            self._inner.scaler = self._inner.take = None
            while not self._at_boundary or notices.others_reach("round", self._round + 1):
                self._loop.begin()
                self._finished()
        finally:
            self._joining = self._modules.resting = fleet.resting = fleet.joining = False

    @property
    def _at_boundary(self) -> bool:
        """Is no step of the coming round taken?"""
        rounds = self._loop.state.rounds
        return rounds.left in (0, rounds.tau)

    @property
    def _round(self) -> int:
        """The round of the latest step."""
        rounds = self._loop.state.rounds
        return rounds.r - (0 < rounds.left == rounds.tau)

    def _running(self) -> None:
        """Tell those who have ended that this process takes a step of the round; before it begins, for they are asked then."""
        if self._joining and self._at_boundary and self._notices is not None:
            self._notices.post("round", f"{self._round + 1}")

    # looking

    @contextlib.contextmanager
    def answer(self) -> Iterator[Any]:
        """Inside, the model is the one to evaluate and to ship: the mean of the workers, or what the algorithm says.

        Every process must enter it, after the same step. Afterwards each has its own model again, bit for bit, statistics and
        other buffers too.
        """
        self._meet("answer")
        self._modules.in_place()
        with torch.no_grad(), self._fleet.measuring():
            model, statistics = norm_stats.answer(self._loop, self._modules, self.config.norm_stats)  # type: ignore[arg-type]
        self._within = "answer"
        try:
            with self._modules.holding(model, statistics):
                yield self._model
        finally:
            self._within = ""

    def consensus(self) -> float:
        """(1/m) sum over workers of the squared distance of their models to the mean, now. Every process must call it."""
        self._meet("consensus")
        self._modules.in_place()
        with torch.no_grad(), self._fleet.measuring():
            return sum(distance(self._fleet, block) for block in blocks_of(self._loop.state.x))

    @property
    def config(self) -> Config:
        """What the words have come to."""
        return self._parts.config

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self._loop.state.k

    @property
    def ledger(self) -> Ledger:
        """Rounds, messages and bytes so far, of all workers."""
        return self._fleet.ledger

    @property
    def zeta(self) -> float | None:
        """The second largest modulus of W's eigenvalues, that decides how fast workers agree; None where no W tells."""
        schedule = self._parts.strategy.schedule
        return None if schedule is None else schedule.zeta(self.config.workers)

    def scalars(self) -> dict[str, float]:
        """Numbers for a logger, by the tags that runs have in TensorBoard. No message is sent."""
        rounds, lr = self._loop.state.rounds, self._inner.lr
        found: dict[str, Any] = {**self.ledger.totals(), "comm_s": self.ledger.comm_s, "tau": rounds.tau}
        found |= {"wall_s": self._clock.saved()} | ({"lr": lr} if isinstance(lr, float) else {})
        return {METRICS[name].tag: value for name, value in found.items()}

    def log_to(self, writer: Any, every: int = 20) -> None:
        """From now on rank 0 writes `scalars()` to a torch.utils.tensorboard.SummaryWriter, every so many steps."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ConfigError(f"log_to: every must be a whole number of at least 1, got {every!r}")
        if self.rank == 0 and not hasattr(writer, "add_scalar"):
            raise ConfigError(f"log_to: writer must be a SummaryWriter at rank 0, got {type(writer).__name__}")
        self._writers.append((writer, every))

    # going on another time

    def state_dict(self, gathered: bool = False) -> dict[str, Any] | None:
        """What the coming steps depend on, the models of the workers of this process included; for torch.save.

        Save it in every process, each under a name of its own, beside the state of the optimiser, which is yours. gathered:
        that of all processes, at rank 0; None elsewhere. Every process must call it, after the same step.
        """
        self._meet("state_dict")
        self._modules.in_place()
        layout = self._fleet.layout
        mine = saved.state_dict(self._loop, self._modules.structure(), layout, self.rank)
        if not gathered:
            return mine
        if self.processes == 1:
            return saved.joined([mine], layout)
        every = world.everybody_at_first(mine)
        return None if every is None else saved.joined(every, layout)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` told, of this process or gathered, as if nothing had been in between.

        In every process, with the words and the model that it is of. ConfigError when they are others.
        """
        self._refuse_within("load_state_dict")
        refuse_inference("load_state_dict")
        structure, layout = self._modules.structure(), self._fleet.layout
        self._loop = saved.loaded(state, self._again, self._parts, structure, layout, self.rank)
        self._modules.known = None
        self._send_ahead()

    def _again(self, tree: Any) -> Loop:
        return Loop(self._parts, self._fleet, self._modules, self._inner.at, observer=self, saved=tree)  # type: ignore[arg-type]

    # what the loop tells

    def sends(self, loop: Loop, done: int) -> None:
        self._modules.in_place()
        self._inner.in_place()

    def received(self, loop: Loop, late: int) -> None:
        self._communicated = True

    # within

    def _meet(self, what: str) -> None:
        """Wait until every process is there."""
        self._refuse_within(what)
        if self._joining:
            raise RuntimeError(f"{what}: not within `with coop.join():`, where a process that has ended would not hear of it")
        self._fleet.step = self.steps
        if isinstance(self._fleet, world.World):
            self._fleet.meet(what)

    def __reduce__(self) -> Any:
        raise TypeError("a Cooperation is tied to its process and its model: it cannot be copied or pickled; save state_dict()")

    def _everybody(self, mine: Any) -> list[Any]:
        """What each process says, by rank; in JSON."""
        if self._notices is None:
            return [mine]
        return [json.loads(one) for one in self._notices.everybody(json.dumps(mine), "making a Cooperation")]

    def _of_first(self, seconds: float) -> float:
        """Rank 0's."""
        return float(self._fleet.total(torch.tensor([seconds * (self.rank == 0)], dtype=torch.float64)))

    def _refuse_within(self, what: str) -> None:
        if self._within:
            raise RuntimeError(f"{what}: not within `with coop.{self._within}():`, where the model is not this worker's own")
