"""Chunks of rows for several threads: a row is the work of one thread, so their number changes results by rounding alone."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from coopsgd.tasks.engines.base import Engine
from coopsgd.tasks.engines.choice import ENGINES, Choice
from coopsgd.tasks.engines.loop import Loop
from coopsgd.tasks.engines.losses import Loss, cross_entropy
from coopsgd.tasks.gradients import Bound

if TYPE_CHECKING:
    from torch import Tensor

Job = Callable[[Engine, int, int], None]


class RowPool:
    """One engine a thread. `each` calls a job for every chunk of rows; whichever thread is free takes the next one.

    Threads over rows, each computing with one torch thread, beat torch's own threads inside one small product; with
    fewer rows than threads, torch's own share what is left over. Rows of a chunk have batches of one size.

    batches: (rows,) samples in a step of each; None: as many in all.
    """

    def __init__(
        self,
        choice: Choice,
        bound: Bound,
        rows: int,
        threads: int,
        amp: str | None = None,
        batches: np.ndarray | None = None,
        loss: Loss = cross_entropy,
    ) -> None:
        pinned = bound.random or bound.stateful
        # dropout draws from torch's one generator, buffers belong to the one module: those rows keep to one thread
        count = 1 if pinned else max(1, min(threads, rows))
        self._rows, self._batches = rows, np.ones(rows) if batches is None else batches
        self._chunk = max(1, min(choice.chunk, -(-rows // count)))
        self._engines = [engine_of(choice.name, bound, amp, first=i == 0) for i in range(count)]
        for engine in self._engines:
            engine.loss = loss
        inner = max(1, threads // count) if self._engines[0].intra else 1
        self._pool = None
        if count > 1 or inner != threads:
            self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(inner,))

    def bind(
        self, x: Tensor, grad: Tensor, statistics: Tensor | None = None, module_buffers: Sequence[Tensor] | None = None
    ) -> None:
        """Take the (w, d) rows to work on, their gradient rows, and what they have of statistics (w, b) and module buffers."""
        for engine in self._engines:
            engine.bind(x, grad, statistics, module_buffers)

    @property
    def alone(self) -> Engine | None:
        """The engine that takes all rows, where there is one, and their batches are of one size."""
        return self._engines[0] if len(self._engines) == 1 and len(set(self._batches.tolist())) == 1 else None

    @property
    def answers_itself(self) -> bool:
        """Have its engines a forward pass of their own, quicker than the module's?"""
        return self._engines[0].answers_itself

    def answers(self, model: Tensor, inputs: Tensor) -> Tensor:
        """(n, classes) of one model (1, d) on n inputs, which the threads share; for looking only."""
        n, share = len(inputs), -(-len(inputs) // len(self._engines))
        found: dict[int, Tensor] = {}

        def job(engine: Engine, a: int, b: int) -> None:
            found[a] = engine.logits(model, inputs[a:b])[0]

        self._shared(job, [(a, min(a + share, n)) for a in range(0, n, share)])
        return torch.cat([found[a] for a in sorted(found)])

    def each(self, job: Job, active: np.ndarray | None = None) -> None:
        """job(engine, a, b) for rows [a, b), chunk by chunk, the active ones only; returns when all are done."""
        self._shared(job, self._chunks(active))

    def _shared(self, job: Job, ranges: Iterable[tuple[int, int]]) -> None:
        """job(engine, a, b) for each range [a, b), by whichever thread is free; returns when all are done."""
        chunks = deque(ranges)

        def work(engine: Engine) -> None:
            while chunks:
                try:
                    a, b = chunks.popleft()
                except IndexError:  # another thread was quicker
                    return
                job(engine, a, b)

        if self._pool is None:
            return work(self._engines[0])
        started = [self._pool.submit(work, engine) for engine in self._engines[: len(chunks)]]
        for one in started:
            one.exception()  # all have ended before any error is raised
        for one in started:
            one.result()

    def _chunks(self, active: np.ndarray | None) -> Iterator[tuple[int, int]]:
        """Neighbouring active rows of equal batches, at most a chunk of them at a time."""
        a = 0
        while a < self._rows:
            if active is not None and not active[a]:
                a += 1
                continue
            b = a + 1
            while b < min(self._rows, a + self._chunk) and self._batches[b] == self._batches[a]:
                if active is not None and not active[b]:
                    break
                b += 1
            yield a, b
            a = b


def engine_of(name: str, bound: Bound, amp: str | None, first: bool = True) -> Engine:
    """An engine for this module: for itself the first, for a copy the others."""
    if name == "loop":
        return Loop(bound if first else Bound(copy.deepcopy(bound.module), bound.channels_last), amp)
    engine = ENGINES[name](bound.module if first else copy.deepcopy(bound.module))
    engine.channels_last = bound.channels_last
    return engine
