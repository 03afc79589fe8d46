"""Rows spread over torch.distributed: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from coopsgd.fleet import pieces
from coopsgd.fleet import plan as plans
from coopsgd.fleet.base import Common, Pending, Rows
from coopsgd.fleet.lookout import Lookout
from coopsgd.fleet.pieces import Exchange, Hidden, Pace, Part
from coopsgd.fleet.spans import Spans
from coopsgd.fleet.spread import Routes
from coopsgd.fleet.stacked import Lowered, Stacked, nothing, split_back
from coopsgd.fleet.waits import FIRST, Waits
from coopsgd.host.transfer import brought


def backend_of(device: torch.device) -> str:
    """What moves tensors of this device between the processes of the default group; nothing: ""."""
    pairs = (pair.partition(":") for pair in str(dist.get_backend_config()).split(","))
    return next((backend for kind, _, backend in pairs if kind == device.type), "")


class Processes(Stacked):
    """An equal share of the workers in each process of the default process group."""

    tag = 0  # of messages between two processes

    def __init__(
        self,
        layout: plans.Layout,
        rank: int,
        timeout: float = FIRST,
        waits: Waits | None = None,
        lookout: Lookout | None = None,
    ) -> None:
        """timeout: seconds after which torch stops waiting for a process; waits: is told of each wait.

        lookout: where no command watches the processes. Then a wait lasts as long as `waits` says, and who does not come is
        named (RunFailed).
        """
        super().__init__(layout, rank)
        self._lookout = lookout
        self._timeout, self._waits = timeout, waits or Waits(timeout)
        self._groups: dict[tuple[int, ...], Any] = {tuple(range(layout.processes)): None}
        self._pace, self._exchanges = Pace(), 0
        self._spans: Spans | None = None  # where rows are on a GPU: what its stream spends in communication
        self._hidden = False  # is what is started to go on while this process computes?
        self._on_gpu = lookout is not None and "nccl" in str(dist.get_backend_config())

    def rows(self, start: Tensor) -> Rows:
        start = start.clone()
        if start.is_cuda:
            self._spans = self._spans or Spans()
        with self._may_wait("broadcast"):
            # equal by the seed already; equal bit by bit now, on unlike hosts too
            self._done(dist.broadcast(start, 0, async_op=True))
        return super().rows(start)

    def total(self, values: Tensor) -> Tensor:
        summed = self._movable(values.clone())
        with self._may_wait("total"):
            self._done(dist.all_reduce(summed, async_op=True))
            return summed.to(values.device)  # of nccl it is here that this process waits

    def gather(self, x: Rows) -> Tensor | None:
        with self._may_wait("gather"):
            if self.rank:
                self._done(dist.isend(self._own(x, self.rank), 0, tag=self.tag))
                return None
            everything = x.new_empty(self.layout.n, x.shape[1])
            for q in range(self.layout.processes):
                rows = self.layout.owned(q)
                part = self._own(x, 0) if q == 0 else x.new_empty(len(rows), x.shape[1])
                if q:
                    self._done(dist.irecv(part, q, tag=self.tag))
                everything[rows] = part
            return everything

    def hand(self, piece: Any, to: int) -> None:
        """Bytes to another process, which takes them by `taken`; off the ledger."""
        mine = torch.frombuffer(piece, dtype=torch.uint8) if len(piece) else torch.zeros(0, dtype=torch.uint8)
        with self._may_wait("gather"):
            for part in (torch.tensor([len(mine)]), mine)[: 1 + bool(len(mine))]:
                self._done(dist.isend(self._movable(part), to, tag=self.tag))

    def taken(self, by: int) -> memoryview:
        """What process `by` hands to this one next."""
        with self._may_wait("gather"):
            size = self._movable(torch.zeros(1, dtype=torch.long))
            self._done(dist.irecv(size, by, tag=self.tag))
            piece = self._movable(torch.zeros(int(size), dtype=torch.uint8))
            if len(piece):
                self._done(dist.irecv(piece, by, tag=self.tag))
            return piece.cpu().numpy().data

    def _movable(self, x: Tensor) -> Tensor:
        """nccl moves nothing that is not on a GPU."""
        return x if backend_of(x.device) else x.to("cuda")

    def barrier(self) -> None:
        with self._may_wait("barrier"):
            mine = None if self._spans is None else [torch.cuda.current_device()]  # else nccl guesses it by the rank
            self._done(dist.barrier(async_op=True, device_ids=mine))

    def _done(self, work: Any) -> None:
        """Return when it is done; inside `_may_wait`."""
        wait = self._waits.now
        if self._lookout is None or wait is None or self._on_gpu:  # of nccl it is the stream that waits
            work.wait()
        else:
            work.wait(timedelta(seconds=min(wait.limit, self._timeout)))

    @contextmanager
    def _may_wait(self, verb: str) -> Iterator[None]:
        """Inside, this process may have to wait for another."""
        self._waits.begin(verb, self.activity, self.step)
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if self._lookout is None or isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise
            raise self._lookout.failure(began, error) from error
        finally:
            self._waits.end()

    @contextmanager
    def _waiting(self, verb: str) -> Iterator[None]:
        with self._may_wait(verb):
            if self._spans is None:
                with super()._waiting(verb):
                    yield
                return
            with self._spans.span(counted=not self.ledger.paused):  # the stream waits, this process goes on
                yield
            self.ledger.comm_s += self._spans.over()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        if self._spans is not None:
            self.ledger.comm_s += self._spans.over()
        with super().measuring():
            yield

    def _own(self, x: Rows, q: int) -> Tensor:
        return x[: len(self.layout.owned(q))].contiguous()

    def _lowered(self, plan: plans.Plan) -> Lowered:
        for item in plan.sums:  # every process makes every group, in the same order
            self._need_group(item.group)
        return super()._lowered(plan)

    def _need_group(self, processes: tuple[int, ...]) -> None:
        if processes not in self._groups:
            with self._may_wait("group"):
                self._groups[processes] = self._made_group(processes)

    def _made_group(self, ranks: tuple[int, ...]) -> Any:
        return dist.new_group(list(ranks), timeout=timedelta(seconds=self._timeout))

    def group(self, processes: tuple[int, ...]) -> Any:
        """torch's group of these, once there is one; None: all."""
        return self._groups[processes]

    def _rank_of(self, q: int) -> int:
        """What torch calls process q of this fleet."""
        return q

    def _reduce(self, part: Tensor, group: tuple[int, ...], verb: str = "mix") -> Callable[[], None]:
        if len(group) == 1:
            return nothing
        with self._waiting(verb):
            work = dist.all_reduce(part, group=self._groups[group], async_op=True)
        return partial(self._wait, [work], verb)

    def _wait(self, pending: list[Any], verb: str) -> None:
        with self._waiting(verb):
            for work in pending:
                self._done(work)

    def later(self, verb: Callable[..., Any], *args: Any, exact: Sequence[Rows] = ()) -> Pending:
        self._hidden = True
        try:
            return super().later(verb, *args, exact=exact)
        finally:
            self._hidden = False

    def _mix(self, lowered: Lowered, xs: tuple[Rows, ...]) -> Callable[[], None]:
        if not lowered.crossing or backend_of(xs[0].device) != "gloo":
            return super()._mix(lowered, xs)
        vectors = {*(k for _, k in lowered.receives), *(V.k for _, V in lowered.sends)}
        alone = not lowered.sums and lowered.aux_local is None and vectors == {1}
        finish = self._streamed(lowered, xs) if alone and not self._hidden else super()._mix(lowered, xs)

        def finished() -> None:
            finish()
            if self._pace.due():
                with self._waiting("mix"):
                    self._agree(lowered)

        return finished

    def _agree(self, lowered: Lowered) -> None:
        """On the pace of messages, all processes at the same exchange; inside `_may_wait`."""
        if self._pace.exchanges == 1:
            receives, sends = [src for src, _ in lowered.receives], [dst for dst, _ in lowered.sends]
            if self._largest(float(not receives or not sends)) == 0:  # else somebody would wait for one who cannot answer
                self._pace.trip = self._largest(pieces.trip(receives, sends, self._posting(), self._done))
        self._pace.agree(self._largest(self._pace.seen))

    def _largest(self, value: float) -> float:
        """Of all processes; inside `_may_wait`."""
        found = torch.tensor([value], dtype=torch.float64)
        everyone = self._groups[tuple(range(self.layout.processes))]
        self._done(dist.all_reduce(found, dist.ReduceOp.MAX, group=everyone, async_op=True))
        return float(found)

    def _streamed(self, lowered: Lowered, xs: tuple[Rows, ...]) -> Callable[[], None]:
        """Messages of one vector each: what has arrived is used up while the rest travels."""
        x = xs[0] if len(xs) == 1 else torch.cat(xs, dim=1)
        d, step, steps, under_way = self._cut(x)
        rooms = [x.new_empty(len(lowered.receives), step) for _ in range(min(steps, 2 * under_way))]

        def columns(i: int) -> slice:
            return slice(i * step, min(d, (i + 1) * step))

        def room(i: int) -> Tensor:
            return rooms[i % len(rooms)][:, : min(step, d - i * step)]

        def receives(i: int) -> list[Part]:
            return [(row, src) for row, (src, _) in zip(room(i), lowered.receives, strict=True)]

        def sends(i: int) -> list[Part]:
            return [(V.message(x[:, columns(i)]), dst) for dst, V in lowered.sends]

        def arrived(i: int) -> None:
            part = x[:, columns(i)]
            lowered.core_local(part, part[:0], room(i))

        with self._waiting("mix"):
            exchange = Exchange(steps, under_way, receives, sends, self._posting(), arrived)

        def finish() -> None:
            with self._waiting("mix"):
                exchange.run(self._done)
            self._took(exchange, step * x.element_size())
            split_back(x, xs)

        return finish

    def _exchange(self, lowered: Lowered, core: Tensor, arriving: Tensor) -> Callable[[], None]:
        """All receives are posted before any send: no order of ranks can hang, and it is faster (gloo)."""
        receives, at = [], 0
        for src, k in lowered.receives:
            receives.append((arriving[at : at + k], src))
            at += k
        sends = [(V.message(core), dst) for dst, V in lowered.sends]
        if backend_of(core.device) != "gloo":
            with self._waiting("mix"):
                pending = self._post(receives, sends, self.tag)

            def finish() -> None:
                self._wait(pending, "mix")
                sends.clear()  # kept alive until everything had left

            return finish

        _, step, steps, under_way = self._cut(core)
        coming = [(part.flatten().split(step * len(part)), src) for part, src in receives]
        leaving = [(part.flatten().split(step * len(part)), dst) for part, dst in sends]
        with self._waiting("mix"):
            exchange = Exchange(
                steps if coming or leaving else 0,
                under_way,
                lambda i: [(parts[i], src) for parts, src in coming],
                lambda i: [(parts[i], dst) for parts, dst in leaving],
                self._posting(),
            )
        hidden = Hidden(exchange, self._done_aside) if self._hidden and steps > under_way else None

        def finished() -> None:
            with self._waiting("mix"):
                if hidden is None:
                    exchange.run(self._done)
                else:
                    self._done(hidden)
            self._took(exchange, step * core.element_size())

        return finished

    def _cut(self, x: Tensor) -> tuple[int, int, int, int]:
        """d, columns of a piece, how many there are, and how many may be under way."""
        d, size = x.shape[1], x.element_size()
        piece = self._pace.piece(d * size)
        step = max(1, piece // size)
        return d, step, -(-d // step), self._pace.under_way(piece)

    def _posting(self) -> Callable[[list[Part], list[Part]], list[Any]]:
        """Of one exchange: its pieces are not taken for those of another that is under way."""
        self._exchanges = (self._exchanges + 1) % 1024
        return partial(self._post, tag=self.tag + (self._exchanges << 16))

    def _took(self, exchange: Exchange, nbytes: int) -> None:
        self._pace.took(exchange.seconds, exchange.steps, nbytes)

    def _done_aside(self, work: Any) -> None:
        """Return when it is done, in a thread that nobody watches: who waits for that says how long."""
        work.wait()

    def _post(self, receives: list[Part], sends: list[Part], tag: int) -> list[Any]:
        moved = [part.device for part, _ in (*receives, *sends)]
        if moved and backend_of(moved[0]) == "nccl":  # which wants the calls of one exchange in one group
            calls = [dist.P2POp(dist.irecv, part, src) for part, src in receives]
            calls += [dist.P2POp(dist.isend, part, dst) for part, dst in sends]
            return dist.batch_isend_irecv(calls)
        started: list[Any] = [dist.irecv(part, self._rank_of(src), tag=tag) for part, src in receives]
        return started + [dist.isend(part, self._rank_of(dst), tag=tag) for part, dst in sends]

    def _mean(self, x: Rows) -> Callable[[], Common]:
        share = len(self.workers)
        mine = x[:share].sum(0, keepdim=True) if share > 1 else x[:1].clone()
        reduced = self._reduce(mine, tuple(range(self.layout.processes)), "mean")

        def finish() -> Common:
            reduced()
            return mine.div_(self.m)

        return finish

    def _spread(self, routes: Routes, packed: Tensor) -> Callable[[], Tensor]:
        here = self.layout.rows(self.rank)
        everything = packed.new_zeros(self.layout.n, packed.shape[1])
        everything.index_copy_(0, _rows(here, packed), packed)
        place = {row: at for at, row in enumerate(here)}
        into = [(rows, packed.new_empty(len(rows), packed.shape[1]), src) for src, dst, rows in routes if dst == self.rank]
        out = [
            (packed.index_select(0, _rows([place[row] for row in rows], packed)), dst)
            for src, dst, rows in routes
            if src == self.rank
        ]
        with self._waiting("spread"):
            pending = self._posting()([(part, src) for _, part, src in into], out)

        def finish() -> Tensor:
            self._wait(pending, "spread")
            out.clear()  # kept alive until everything had left
            for rows, part, _ in into:
                everything.index_copy_(0, _rows(rows, part), part)
            return everything

        return finish

    def _pick(self, x: Rows, i: int) -> Callable[[], Common]:
        owner = self._owner(i)
        at = self.layout.rows(owner).index(i)
        row = x[at : at + 1].clone() if owner == self.rank else x.new_empty(1, x.shape[1])
        with self._waiting("pick"):
            work = dist.broadcast(row, owner, async_op=True)

        def finish() -> Common:
            self._wait([work], "pick")
            return row

        return finish


def _rows(rows: Sequence[int], like: Tensor) -> Tensor:
    """Their numbers where `like` is: a list between brackets would be waited for on a GPU."""
    return brought(np.array(rows, dtype=np.int64), like.device)
