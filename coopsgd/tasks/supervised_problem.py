"""What problems share whose workers learn from the samples they were dealt: images and text differ in their batches alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from coopsgd.data.base import Batches
from coopsgd.host.transfer import brought
from coopsgd.streams import seed_of, stream
from coopsgd.tasks.base import Place, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.block import Block
    from coopsgd.host import native
    from coopsgd.optim import SGDStep
    from coopsgd.setup.schema import Config
    from coopsgd.tasks.engines.base import Engine
    from coopsgd.tasks.engines.samples import Samples
    from coopsgd.tasks.supervised import Supervised

EVALUATE = 250  # test samples in one forward pass
TOGETHER = 1 << 18  # numbers of the batches that are made at once


class CompiledSteps(NamedTuple):
    """Steps that compiled code takes: `known`, as structs.h has them; (steps, r, 1) losses that it fills."""

    known: native.Learning
    losses: Tensor
    error: Callable[[int], Exception]  # of a sample that is none: 1 + its place


def eval_samples(wanted: Any, n: int, workers: int) -> int:
    """Of n test samples, how many each worker is measured on; auto: all up to 32 workers, else 320,000 looks in all."""
    return min(n, max(1000, 320_000 // workers) if wanted == "auto" else wanted)


class SupervisedProblem(Problem):
    """The data in memory, and the engines that compute rows. A subclass says what a batch is."""

    PART = EVALUATE  # test samples in one forward pass
    _source: Samples | None = None  # what an engine may take its batches from; None: they are always made first
    KEEPS_VELOCITY = True

    def __init__(self, task: Supervised, config: Config, rows: range, device: Any) -> None:
        import torch

        from coopsgd.tasks.engines.choice import choose, fitted
        from coopsgd.tasks.engines.row_pool import RowPool
        from coopsgd.tasks.networks import bound

        self._dtype, self._device = getattr(torch, config.dtype), device
        self._bound = bound(task, config.seed, self._dtype, device, config.start)
        self._start, self._loss = self._bound.flat(), task.made_loss()
        self._rows, self._seed, self._numbers = rows, config.seed, math.prod(task.data.SHAPE)
        self._tests = self._load(task, config)
        partition, labels, shares = task.partition, task.labels(config), task.shares(config)
        self._own_tests = task.held_out(config)
        again = (lambda epoch: partition.deal(labels, config.workers, config.seed, epoch)) if partition.moves else None
        self._batches = Batches(shares, rows, config.batch_size, config.seed, again)
        self.samples = np.minimum([len(share) for share in shares], config.batch_size)
        self._batch_size, self._samples = config.batch_size, len(labels)
        self.steps_per_epoch = task.steps_per_epoch(config)
        kind, size = torch.device(device).type, config.batch_size
        choice = choose(config.engine, self._bound, config.amp, kind, len(rows), self._loss, size)
        if choice.name == "vmap" and kind == "cuda":
            own = np.zeros(len(rows), dtype=np.int64)
            most = int(self._batches.sizes.argmax())
            choice = fitted(choice, self._bound, *self._fetch(self._batches.at(own), own, most, most + 1), self._loss)
        threads = torch.get_num_threads() if kind == "cpu" else 1
        self._crew = RowPool(choice, self._bound, len(rows), threads, config.amp, self._batches.sizes, self._loss)
        looked_at = eval_samples(config.eval_samples, self._tests, config.workers)
        self._looked_at = torch.from_numpy(stream(config.seed, "eval").permutation(self._tests)[:looked_at]).to(device)
        self.facts = {"engine": choice.name, "eval_samples": looked_at}
        self.notes = () if choice.note is None else (choice.note,)

    def _load(self, task: Supervised, config: Config) -> int:
        """Bring the data into tensors; how many test samples there are."""
        raise NotImplementedError

    def _batch(self, which: Tensor, rows: Sequence[int], own: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What models read and should answer, (c, batch, ...) each, of the training samples `which` (c, batch).

        rows, own: for whom, by global number, and in which of its own steps.
        """
        raise NotImplementedError

    def _test(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """The same of test samples, (n, ...) each."""
        raise NotImplementedError

    def _own(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """The same of training samples that are held out, as they are."""
        raise NotImplementedError

    def start(self) -> Tensor:
        return self._start.clone()

    def statistics(self) -> Tensor | None:
        return self._bound.statistics()

    def blocks(self) -> tuple[Block, ...]:
        return self._bound.blocks()

    def places(self) -> dict[str, list[Place]]:
        return self._bound.places()

    def afterwards(self) -> list[str]:
        return [
            f"model: {name} changed in training and is in no buffer, so the models of a process share it and no checkpoint "
            "holds it; register_buffer makes it part of a model"
            for name in self._bound.stray()
        ]

    def module_buffers(self) -> list[Tensor]:
        return self._bound.module_buffers()

    def bind(
        self, x: Tensor, grad: Tensor, statistics: Tensor | None = None, module_buffers: Sequence[Tensor] | None = None
    ) -> None:
        w = len(self._rows)
        self._r, self._x, self._grad, self._own_statistics = len(x), x[:w], grad[:w], statistics
        self._crew.bind(self._x, self._grad, None if statistics is None else statistics[:w], module_buffers)

    def gradients(self, k: int, active: np.ndarray | None, own: np.ndarray) -> Tensor:
        chosen, losses = self._batches.at(own), self._x.new_zeros(self._r, 1)
        by_step = losses.view(1, -1)

        def job(engine: Engine, a: int, b: int) -> None:
            if self._source is not None and engine.reads(self._source):
                return engine.learn(a, b, self._source, self._batches.of(chosen, a, b)[None], by_step[:, a:] if a else by_step)
            losses[a:b, 0] = engine.gradients(a, b, *self._fetch(chosen, own, a, b), self._seeds(a, b, k))

        self._crew.each(job, active)
        for i in () if active is None else (~active).nonzero()[0]:
            self._grad[i].zero_()
        return losses

    def descend(
        self, k: int, rates: Sequence[float], active: np.ndarray | None, own: np.ndarray, step: SGDStep | None = None
    ) -> Tensor:
        steps = [own, *(own + j if active is None else own + j * active for j in range(1, len(rates)))]
        chosen, losses = [self._batches.at(step) for step in steps], self._x.new_zeros(len(rates), self._r, 1)
        together, by_step = np.stack(chosen) if len(chosen) > 1 else chosen[0][None], losses.view(len(rates), -1)

        def job(engine: Engine, a: int, b: int) -> None:
            if self._source is not None and engine.reads(self._source):
                which = self._batches.of(together, a, b)
                return engine.learn(a, b, self._source, which, by_step[:, a:] if a else by_step, rates, step)
            for j, (lr, batch) in enumerate(zip(rates, self._fetched(chosen, steps, a, b), strict=True)):
                losses[j, a:b, 0] = engine.descend(a, b, *batch, lr, self._seeds(a, b, k + j), step)

        self._crew.each(job, active)
        return losses

    @property
    def learns_by_itself(self) -> bool:
        """Can compiled code take steps of all rows, one after the other, as `learning` tells it?"""
        engine = self._crew.alone
        return engine is not None and self._source is not None and engine.reads(self._source)

    def learning(
        self, rates: Sequence[float], own: np.ndarray, step: SGDStep | None = None, stored: bool = False
    ) -> CompiledSteps:
        """The coming steps of all rows, one of each of the rates; only where it `learns_by_itself`. stored: see Engine."""
        from coopsgd.tasks.engines.dense import wrong_label

        engine, source = self._crew.alone, self._source
        assert engine is not None and source is not None
        chosen = np.stack([self._batches.at(own + j) for j in range(len(rates))])
        which, losses = self._batches.of(chosen, 0, len(self._rows)), self._x.new_zeros(len(rates), self._r, 1)
        known = engine.learning(source, which, losses.view(len(rates), -1), rates, step, stored)
        return CompiledSteps(known, losses, lambda wrong: wrong_label(wrong, source, which))

    def _fetch(self, chosen: np.ndarray, own: np.ndarray, a: int, b: int) -> tuple[Tensor, Tensor]:
        """The batches of rows [a, b) held here, at once."""
        return next(self._fetched([chosen], [own], a, b))

    def _fetched(
        self, chosen: Sequence[np.ndarray], own: Sequence[np.ndarray], a: int, b: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The same of one step after another; small batches of several steps are made together."""
        n = max(1, TOGETHER // ((b - a) * int(self._batches.sizes[a]) * self._numbers))
        for j in range(0, len(chosen), n):
            some = [self._batches.of(step, a, b) for step in chosen[j : j + n]]
            which = brought(np.concatenate(some), self._device)
            rows = [*self._rows[a:b]] * len(some)
            inputs, targets = self._batch(which, rows, np.concatenate([step[a:b] for step in own[j : j + n]]).tolist())
            yield from zip(inputs.split(b - a), targets.split(b - a), strict=True)

    def _seeds(self, a: int, b: int, k: int) -> list[int]:
        """What the dropout of rows [a, b) is drawn from at step k; nothing where there is none."""
        return [seed_of(self._seed, "dropout", self._rows[i], k) for i in range(a, b)] if self._bound.random else []

    def evaluate(self, answer: Tensor, statistics: Tensor | None = None) -> dict[str, float | None]:
        import torch

        from coopsgd.tasks.engines.losses import total

        n = 0
        loss, right = (torch.zeros((), dtype=kind, device=self._device) for kind in (torch.float64, torch.int64))
        answers, every = 0, []
        with self._looking(answer, statistics) as look:
            for which in torch.arange(self._tests, device=self._device).split(self.PART):
                x, y = self._test(which)
                outputs = look(x)
                loss += total(self._loss, outputs, y)
                n += y.numel()
                if self._answers:
                    right += self._right(outputs, y).sum()
                    answers += self._many(y)
                if self._scores:
                    every.append((outputs, y))
        scores = self._score(*map(torch.cat, zip(*every, strict=True))) if every else {}
        return {"eval/loss": float(loss) / n, "eval/accuracy": int(right) / answers if answers else None, **scores}

    @contextmanager
    def _looking(self, answer: Tensor, statistics: Tensor | None) -> Iterator[Callable[[Tensor], Tensor]]:
        """What says the outputs of a model (1, d): its engine's own forward pass, or the module, in evaluation mode."""
        import torch

        if self._crew.answers_itself:
            yield lambda inputs: self._crew.answers(answer, inputs)
            return
        module = self._bound.elsewhere(answer, statistics).eval()
        with torch.no_grad():
            yield module
        module.train()

    _answers, _scores = True, False  # can an output be right? Is there more to say of the outputs for a test set?

    def _right(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Which of the answers that these outputs (..., classes) are is right."""
        return outputs.argmax(-1) == wanted

    def _many(self, wanted: Tensor) -> int:
        """How many answers that is, of one model."""
        return wanted.numel()

    def _score(self, outputs: Tensor, wanted: Tensor) -> dict[str, float | None]:
        """More of the outputs for the whole test set, by the name of the metric."""
        return {}

    def accuracies(self, x: Tensor) -> list[float] | None:
        import torch

        if not self._answers:
            return None
        right, n, own = torch.zeros(len(self._rows), dtype=torch.int64, device=self._device), 0, self._own_statistics
        for which in self._looked_at.split(self.PART):
            inputs, wanted = self._test(which)
            n += self._many(wanted)

            def job(engine: Engine, a: int, b: int, inputs: Tensor = inputs, wanted: Tensor = wanted) -> None:
                logits = engine.logits(x[a:b], inputs, None if own is None else own[a:b])
                right[a:b] += self._right(logits, wanted).flatten(1).sum(1)

            self._crew.each(job)
        return [count / n for count in right.tolist()]  # a GPU would multiply by 1 / n, which is another number

    def local_accuracies(self, x: Tensor) -> list[float] | None:
        import torch

        if self._own_tests is None:
            return None
        own, tests = self._own_statistics, [self._own_tests[row] for row in self._rows]
        found = torch.full((len(tests),), torch.nan, dtype=torch.float64)

        def job(engine: Engine, a: int, b: int) -> None:
            for i in range(a, b):
                statistics = None if own is None else own[i : i + 1]
                found[i] = self._share_right(
                    lambda inputs, i=i, s=statistics: engine.logits(x[i : i + 1], inputs, s)[0], tests[i]
                )

        self._crew.each(job)
        return [float(share) for share in found]

    def local_accuracies_of(self, answer: Tensor, statistics: Tensor | None = None) -> list[float] | None:
        if self._own_tests is None:
            return None
        with self._looking(answer, statistics) as look:
            return [self._share_right(look, mine) for mine in self._own_tests]

    def _share_right(self, model: Any, mine: np.ndarray) -> float:
        """The share of these training samples, of their tokens, that a model is right about; nan of none."""
        import torch

        right = n = 0
        for which in torch.from_numpy(mine).to(self._device).split(self.PART):
            if len(which):
                inputs, wanted = self._own(which)
                right += int(self._right(model(inputs), wanted).sum())
                n += self._many(wanted)
        return right / n if n else float("nan")

    def recalibrated(self, answer: Tensor, statistics: Tensor, batches: int) -> Tensor:
        import torch

        from coopsgd.tasks.gradients import recalibrated

        size = min(self._batch_size, self._samples)

        def batch(b: int) -> Tensor:
            which = stream(self._seed, "recalibrate", b).choice(self._samples, size, replace=False)
            return self._batch(torch.from_numpy(which[None]).to(self._device), [0], [b])[0][0]

        return recalibrated(self._bound, answer, statistics, map(batch, range(batches)))

    def curved(self, model: Tensor, direction: Tensor, i: int, own: int) -> Tensor:
        from coopsgd.tasks.gradients import hessian_product

        chosen = self._batches.at(np.full(len(self._rows), own))
        inputs, targets = self._fetch(chosen, np.full(len(self._rows), own), i, i + 1)
        return hessian_product(self._bound, model, direction, inputs[0], targets[0], self._loss)

    def _tensor(self, array: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(array).to(self._device)
