"""One battery for every strategy: what holds of a built-in algorithm must hold of yours.

    from coopsgd.testing import check_strategy

    def test_my_strategy():
        check_strategy(SlowMo, "tau=4", "algo.beta=0.5")

A failure is an AssertionError that names the class and the promise that it breaks; of arithmetic across rows, method and
argument.
"""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.fleet.base import Pending
from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.loop import Loop, Observer, waited
from coopsgd.mixing.base import Mixing, first_negative
from coopsgd.setup import timing
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy, Tick

WORKERS = 4
QUADRATIC = ("task=quadratic", "task.dim=12")
CNN = ("data=digits", "model=cnn", "model.width=8", "model.norm=batch", "batch_size=4")
COMMON = (f"workers={WORKERS}", "dtype=float64", "device=cpu", "log_every=100000", "eval_every=0", "launch=false")
EXACT = 1e-12  # sums of float64 taken in another order: a few ulps


def check_strategy(cls: type[Strategy] | str, *words: str, gangs: Any = None, processes: Sequence[int] = (1, 2, 4)) -> None:
    """AssertionError unless the strategy keeps every promise of its contract.

    cls: a frozen dataclass that can be imported by its module and name, or the name of an algorithm. words: as on the command
    line, `tau=4` or keys of the class as `algo.beta=0.5`. processes: on how many it must give the same rows, divisors of 4.
    gangs: gangs(p)(function, *arguments) calls function(rank, *arguments) in p processes of one torch.distributed group and
    returns their answers; by default processes are started, and ended, here.

    Promises: the same rows and ledger wherever rows are; running statistics ride along, mixed by W alone, and are charged; idle
    workers keep rows and buffers bit for bit; order and delay are what plain loops make of them; fused steps are the steps one
    by one; nothing is remembered outside the state; no arithmetic across rows but by the verbs of the fleet.
    """
    name = cls if isinstance(cls, str) else cls.__name__
    algo = _words(cls)

    def config(*more: str) -> Config:
        return compose.compose_config([*COMMON, *algo, *words, *more]).config

    base = config(*QUADRATIC, "steps=13")  # composing takes longer than running: what differs little is made of this one
    _nothing_remembered(name, base)
    _rows_stay_apart(name, base)
    _placed_anywhere(name, base, gangs, processes)
    _fused_as_unfused(name, base)
    _as_plain_loops(name, base)
    _idle_workers(name, base)
    _statistics_ride_along(name, config)


def _words(cls: type[Strategy] | str) -> tuple[str, ...]:
    if isinstance(cls, str):
        return (f"algo={cls}",)
    mixes = any(f.name == "mixing" for f in fields(cls))  # type: ignore[arg-type]
    return ("algo=pasgd", f"algo.strategy={cls.__module__}:{cls.__qualname__}", *(() if mixes else ("~algo.mixing",)))


# one run


class _Looking(Observer):
    """Wants the models after every step, and copies what is there around communications."""

    def __init__(self, each: bool = True) -> None:
        self.each = each
        self.before: list[Any] = []  # (round, statistics, rows) when a communication begins
        self.after: list[Any] = []  # and when it is over

    def due(self, step: int) -> bool:
        return self.each

    def _copies(self, loop: Loop) -> tuple[int, Any, Tensor]:
        st = loop.state
        return st.rounds.r, None if st.stats is None else st.stats.clone(), st.x.clone()

    def sends(self, loop: Loop, done: int) -> None:
        self.before.append(self._copies(loop))

    def received(self, loop: Loop, late: int) -> None:
        self.after.append(self._copies(loop))


def _loop(
    config: Config,
    strategy: Strategy | None = None,
    observer: Observer | None = None,
    rank: int = 0,
    processes: int = 1,
) -> Loop:
    parts = Parts(config)
    parts = parts.but(config, strategy=strategy or parts.strategy)
    layout = layout_of(parts.strategy.schedule, config.workers, processes)
    fleet = Processes(layout, rank) if processes > 1 else Stacked(layout)
    problem = parts.task.build(config, fleet.workers, torch.device("cpu"))
    return Loop(parts, fleet, problem, observer=observer)


def _run(loop: Loop, steps: int) -> list[Tensor]:
    """The rows held here after every step."""
    found = []
    for _ in range(steps):
        loop.advance()
        found.append(loop.state.x.clone())
    return found


def _member(rank: int, config: Config, processes: int) -> Any:
    """One process's part: all rows after each step, the ledger, the model to ship."""
    loop = _loop(config, observer=_Looking(), rank=rank, processes=processes)
    fleet, rows = loop.fleet, []
    for _ in range(config.steps or 0):
        loop.advance()
        with fleet.measuring():
            everything = fleet.gather(loop.state.x)
        rows.append(None if everything is None else everything.numpy())
    with fleet.measuring():
        answer = loop.strategy.answer(fleet, loop.state.x, loop.state.s).numpy()
    ledger = fleet.ledger
    return rows, (ledger.rounds, ledger.messages, ledger.bytes), answer


# promises


def _placed_anywhere(name: str, config: Config, gangs: Any, processes: Sequence[int]) -> None:
    """The same rows, ledger and answer on every number of processes."""
    expected = None
    for p in processes:
        answers = [_member(0, config, 1)] if p == 1 else (gangs(p) if gangs else _started(p))(_member, config, p)
        rows, ledger, answer = answers[0]
        assert all(other[1] == ledger for other in answers), f"{name}: on {p} processes they disagree about the ledger"
        assert all(_near(other[2], answer) for other in answers), f"{name}: on {p} processes they disagree about the answer"
        expected = expected or (rows, ledger, answer)
        for k, (here, there) in enumerate(zip(rows, expected[0], strict=True)):
            off = float(np.abs(here - there).max())
            assert _near(here, there), f"{name}: rows after step {k + 1} are another on {p} processes, by {off:.3g}"
        assert ledger == expected[1], f"{name}: rounds, messages, bytes are {ledger} on {p} processes, else {expected[1]}"
        assert _near(answer, expected[2]), f"{name}.answer: is another on {p} processes"


def _nothing_remembered(name: str, config: Config) -> None:
    """A run leaves no trace in the strategy; one rebuilt after every step, handed a copy of the state, goes on as before."""
    strategy, steps = Parts(config).strategy, config.steps or 0
    held = {key: copy.deepcopy(value) for key, value in vars(strategy).items() if not _is_cache(value)}
    first = _run(_loop(config, strategy, _Looking()), steps)
    for key, value in vars(strategy).items():
        known = key in held and _same(held[key], value)
        assert known or _is_cache(value), f"{name}: its attribute {key} changed in a run; what changes belongs into the state"
    second = _run(_loop(config, strategy, _Looking()), steps)
    differs = next((k for k, (a, b) in enumerate(zip(first, second, strict=True)) if not torch.equal(a, b)), None)
    assert differs is None, f"{name}: a second run differs from step {differs} on; something outside of the state is remembered"
    loop = _loop(config, None, _Looking())
    for k in range(steps):
        loop.advance()
        assert torch.equal(loop.state.x, first[k]), f"{name}: forgets something in step {k} that its state does not hold"
        loop.state.s = copy.deepcopy(loop.state.s)
        loop.strategy = Parts(config).strategy


def _fused_as_unfused(name: str, config: Config) -> None:
    """Steps taken several at a time are the steps one by one, with the same ledger."""
    loops = [_loop(config, observer=_Looking(each)) for each in (False, False)]
    loops[1].steps.fused = False
    fused, unfused = (_run(loop, config.steps or 0)[-1] for loop in loops)
    assert _near(fused, unfused), f"{name}: fused steps are not the steps one by one"
    totals = [(loop.fleet.ledger.messages, loop.fleet.ledger.bytes) for loop in loops]
    assert totals[0] == totals[1], f"{name}: fused steps are charged {totals[0]}, steps one by one {totals[1]}"


def _as_plain_loops(name: str, base: Config) -> None:
    """order and delay, where the run takes them, are what loops over steps and workers make of them."""
    settings: list[tuple[str, Any]] = [("order", "cta"), ("delay", 0), ("delay", 1), ("delay", 2), ("delay", "tau")]
    for key, value in settings:
        changed = replace(base, **{"order": "atc", "delay": 0, key: value})
        try:
            timing.check(changed, Parts(base).strategy, Parts(base).period)
        except ConfigError:
            assert value != 0, f"{name}: does not run with {key}={value}"
            continue  # what an algorithm cannot do is refused
        here = _run(_loop(changed, observer=_Looking()), changed.steps or 0)
        for k, (found, expected) in enumerate(zip(here, _by_hand(changed), strict=True)):
            off = float((found - expected).abs().max())
            assert _near(found, expected), f"{name} {key}={value}: after step {k + 1} off by {off:.3g} from loops by hand"


def _by_hand(config: Config) -> Iterator[Tensor]:
    """The rows after each step of plain SGD, from loops over steps and workers and all models of the round."""
    parts = Parts(config)
    strategy, schedule = parts.strategy, parts.strategy.schedule
    fleet = Stacked(layout_of(schedule, config.workers, 1))
    problem = parts.task.build(config, fleet.workers, torch.device("cpu"))
    x, lr, m = fleet.rows(problem.start()), parts.optim.lr, config.workers
    grad, s = torch.zeros_like(x), strategy.init(fleet, x.clone())
    mixes = type(strategy).send is Strategy.send and type(strategy).receive is Strategy.receive

    def sent(t: Tick, x: Tensor) -> Any:
        """What will be heard of rows that leave now."""
        if not mixes:
            return waited(strategy.send(fleet, t, x.clone(), s))
        assert schedule is not None
        for W in schedule.factors(m, t.round):
            dense = np.asarray(W)
            x = torch.stack([sum((dense[i, j] * x[j] for j in range(len(x))), torch.zeros_like(x[0])) for i in range(len(x))])
        return x

    def received(t: Tick, x: Tensor, heard: Any) -> tuple[Tensor, Any]:
        if mixes:
            return heard, s
        y, new = strategy.receive(fleet, t, x.clone(), heard, s)
        return y.expand_as(x).clone(), new

    at = x.clone()
    problem.bind(at, grad, None)
    own, state, waits, k, r = np.zeros(m, dtype=np.int64), None, None, 0, 0
    while k < (config.steps or 0):
        tau, state = parts.period.next(state, k, lr, lambda: 0.0, lambda: 0.0)
        work = None if schedule is None else schedule.work(m, r, tau)
        tau = tau if work is None else max(1, int(work.max()))
        delay = min(tau, tau if config.delay == "tau" else config.delay)
        old = heard = None
        for step in range(tau):
            if k == (config.steps or 0):
                return
            t = Tick(k, r, lr)
            if waits is not None:
                x, s = received(waits, x, sent(waits, x))
                waits = None
            if strategy.send is not None and delay and step == tau - delay:
                old, heard = x.clone(), sent(t, x)
            active = np.full(m, True) if work is None else work > step
            at.copy_(x)
            grad.zero_()
            problem.gradients(k, None if active.all() else active, own)
            direction, s = strategy.direction(fleet, t, grad, x.clone(), s)
            direction = direction.expand(m, -1) if len(direction) == 1 else direction
            x = torch.stack([x[i] - lr * direction[i] if i < m and active[i] else x[i] for i in range(len(x))])
            if step == tau - 1 and strategy.send is not None:
                if config.order == "cta":
                    waits = t
                else:
                    if not delay:
                        old, heard = x.clone(), sent(t, x)
                    assert old is not None
                    y, s = received(t, old, heard)
                    x = y + (x - old)
            own += active
            k += 1
            yield x
        r += 1


def _idle_workers(name: str, base: Config) -> None:
    """A worker that sits a step out keeps its row and its optimiser's buffers; fused steps of the others are theirs alone."""
    settings = replace(base, optim={**base.optim, "momentum": 0.9})
    if Parts(settings).strategy.schedule is None or Parts(settings).strategy.send is None:
        return  # who works is a schedule's to say
    observer = _Looking()
    loop = _loop(settings, _half(Parts(settings).strategy, settings), observer)
    assert loop.strategy.schedule is not None
    idled = 0
    for k in range(settings.steps or 0):
        x, buffers = loop.state.x.clone(), [b.clone() for b in loop.state.inner.stacked()]
        sent = len(observer.before)
        loop.advance()
        mixed = len(observer.before) > sent
        moved = observer.before[-1][2] if mixed else loop.state.x
        idle = _idle(loop.strategy.schedule, settings.tau, k)
        idled += len(idle)
        for i in range(WORKERS):
            kept = torch.equal(moved[i], x[i])
            assert kept == (i in idle), f"{name}: worker {i} {'moved' if i in idle else 'did not move'} in step {k}"
            for before, now in zip(buffers, loop.state.inner.stacked(), strict=True):
                same = torch.equal(before[i], now[i])
                assert same or i not in idle, f"{name}: a buffer of worker {i}, who sits step {k} out, changed"
    assert idled, f"{name}: nobody was idle"
    loops = [_loop(base, _half(Parts(base).strategy, base), _Looking(False)) for _ in range(2)]
    loops[1].steps.fused = False
    fused, unfused = (_run(loop, base.steps or 0)[-1] for loop in loops)
    assert _near(fused, unfused), f"{name}: fused steps of some workers are not their steps one by one"


def _idle(schedule: Mixing, tau: int, k: int) -> list[int]:
    """Who sits step k out, as the schedule says."""
    begun, r = 0, 0
    while (work := schedule.work(WORKERS, r, tau)) is not None and k >= begun + max(1, int(work.max())):
        begun, r = begun + max(1, int(work.max())), r + 1
    return [] if work is None else [i for i in range(WORKERS) if work[i] <= k - begun]


def _half(strategy: Strategy, config: Config) -> Strategy:
    """The same strategy on a schedule whose even and odd workers take turns, or as it says itself if it idles some."""
    schedule = strategy.schedule
    assert schedule is not None
    if schedule.work(config.workers, 0, 2) is not None:
        return strategy

    def work(self: Mixing, m: int, r: int, tau: int) -> np.ndarray:
        return np.where(np.arange(m) % 2 == r % 2, tau, 0)

    idle = _as(schedule, type(type(schedule).__name__, (type(schedule),), {"work": work}))
    return _as(strategy, type(type(strategy).__name__, (type(strategy),), {"schedule": idle}))


def _as(thing: Any, cls: type) -> Any:
    """A copy of a frozen object that has another class."""
    found: Any = object.__new__(cls)
    found.__dict__.update({key: value for key, value in vars(thing).items() if not callable(value) and key != "schedule"})
    return found


def _statistics_ride_along(name: str, config: Callable[..., Config]) -> None:
    """Running statistics are mixed by W, or by what the strategy asks the fleet for, alone; their width is charged."""
    words = (*CNN, "steps=4")
    try:
        average = config(*words, "norm_stats=average")
        average.tau = min(average.tau, 2) if isinstance(average.tau, int) else average.tau
    except ConfigError as error:
        assert "negative" in str(error), f"{name}: {error}"
        return  # negative weights can mix no variance
    observer = _Looking()
    loop = _loop(average, observer=observer)
    strategy, m = loop.strategy, average.workers
    if strategy.schedule is not None and first_negative([strategy.schedule.factors(m, r) for r in range(4)]):
        return
    _run(loop, average.steps or 0)
    local = _loop(replace(average, norm_stats="local"), observer=_Looking())
    _run(local, average.steps or 0)
    totals = loop.fleet.ledger.bytes - local.fleet.ledger.bytes
    messages, b = local.fleet.ledger.messages, observer.after[0][1].shape[1]
    assert totals % (8 * b) == 0 and (totals > 0) == (messages > 0), (
        f"{name}: running statistics of {b} numbers added {totals} bytes to {messages} messages"
    )
    if strategy.send is None:
        return
    for (r, before, _), (_, after, _) in zip(observer.before, observer.after, strict=True):
        if strategy.schedule is None:
            expected = before[:m].mean(0, keepdim=True).expand_as(before)
            if not _near(after, expected) and float(np.ptp(after.numpy(), axis=0).max()) > EXACT:
                continue  # it asks for no mean: statistics become what its own verb makes of them
        else:
            expected = before
            for W in strategy.schedule.factors(m, r):
                expected = torch.from_numpy(np.asarray(W).copy()) @ expected
        assert _near(after, expected), f"{name}: running statistics of communication {r} are not W times what they were"


# arithmetic across rows


def _rows_stay_apart(name: str, config: Config) -> None:
    """What a method makes of a row depends on that row, on common values and on the answers of verbs, on nothing else."""
    strategy = Parts(config).strategy
    written = [n for n in ("direction", "send", "receive", "answer") if getattr(type(strategy), n) is not getattr(Strategy, n)]
    written = [n for n in written if getattr(type(strategy), n) is not None]
    members = {n: _replayed(name, n, getattr(strategy, n)) for n in written}
    loop = _loop(config, observer=_Looking())
    for n, member in members.items():
        object.__setattr__(loop.strategy, n, member)
    _run(loop, config.steps or 0)
    if "answer" in members:
        with loop.fleet.measuring():
            loop.strategy.answer(loop.fleet, loop.state.x, loop.state.s)


def _replayed(name: str, method: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """The method; each call is repeated with rows that cannot be read, one argument at a time."""
    names = list(inspect.signature(getattr(Strategy, method)).parameters)[1:]

    def called(fleet: Any, *arguments: Any) -> Any:
        tape = _Tape(fleet)
        known = copy.deepcopy(arguments)
        found = real(tape, *arguments)
        rows = len(fleet.layout.rows(fleet.rank))
        outputs = [*_tensors(_unpending(found), ""), *tape.given]
        for at, _ in enumerate(known):
            for path, tensor in _tensors(known[at], names[at + 1]):
                if tensor.ndim == 0 or len(tensor) != rows or not tensor.is_floating_point():
                    continue
                for i in (0, rows - 1):
                    _replay(f"{name}.{method}", path, i, real, tape, known, at, outputs, rows)
        return found

    return called


def _replay(
    where: str, path: str, i: int, real: Any, tape: _Tape, known: tuple[Any, ...], at: int, outputs: Any, rows: int
) -> None:
    arguments = copy.deepcopy(known)
    hidden = dict(_tensors(arguments[at], path.split(".")[0]))[path]
    others = [j for j in range(rows) if j != i]
    hidden[others] = float("nan")
    again = tape.again()
    fault = f"{where}: what it makes of row {i} depends on other rows of `{path}`, which are in other processes; "
    fault += "whatever crosses rows goes through fleet.mix, mean or pick"
    try:
        found = real(again, *arguments)
    except Exception as error:
        raise AssertionError(f"{fault} ({type(error).__name__}: {error})") from error
    for (_, expected), (_, got) in zip(outputs, [*_tensors(_unpending(found), ""), *again.given], strict=True):
        mine = [i] if got.ndim and len(got) == rows else slice(None)
        same = got.shape == expected.shape and torch.equal(
            torch.nan_to_num(got[mine], 7e77), torch.nan_to_num(expected[mine], 7e77)
        )
        assert same, fault


class _Tape:
    """A fleet that remembers what its verbs were given and answered, or answers from memory."""

    def __init__(self, fleet: Any, answers: list[Any] | None = None) -> None:
        self._fleet, self._answers = fleet, answers
        self.given: list[tuple[str, Tensor]] = []
        self.answers: list[Any] = []

    def again(self) -> _Tape:
        return _Tape(self._fleet, copy.deepcopy(self.answers))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleet, name)

    def mix(self, W: Any, *xs: Tensor) -> Any:
        found = self._asked("mix", W, *xs).wait()
        for x, new in zip(xs, found if isinstance(found, tuple) else (found,), strict=True):
            if x is not new:
                x.copy_(new)
        return xs[0] if len(xs) == 1 else xs

    def mean(self, *xs: Tensor) -> Any:
        return self._asked("mean", *xs).wait()

    def pick(self, x: Tensor, i: int) -> Any:
        return self._asked("pick", x, i).wait()

    def later(self, verb: Any, *args: Any) -> Pending:
        return self._asked(verb.__name__, *(a.clone() if isinstance(a, Tensor) else a for a in args), later=True)

    def _asked(self, verb: str, *args: Any, later: bool = False) -> Pending:
        self.given += [(verb, a.clone()) for a in args if isinstance(a, Tensor)]
        if self._answers is not None:
            answers = self._answers
            return Pending(lambda: answers.pop(0))
        fleet, at = self._fleet, len(self.answers)
        self.answers.append(None)
        pending = fleet.later(getattr(fleet, verb), *args) if later else Pending(lambda: getattr(fleet, verb)(*args))

        def wait() -> Any:
            found = pending.wait()
            self.answers[at] = copy.deepcopy(found)
            return found

        return Pending(wait)


def _unpending(found: Any) -> Any:
    """What a method returned, without what still waits for a message."""
    return (
        () if isinstance(found, Pending) or (isinstance(found, tuple) and any(isinstance(f, Pending) for f in found)) else found
    )


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor within, and what it is called."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _tensors(one, f"{path}.{key}")
    elif isinstance(value, tuple | list):
        for key, one in zip(getattr(value, "_fields", range(len(value))), value, strict=True):
            yield from _tensors(one, f"{path}.{key}")
    elif is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Tick):
        for f in fields(value):
            yield from _tensors(getattr(value, f.name), f"{path}.{f.name}")


def _near(a: Any, b: Any) -> bool:
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=EXACT, atol=EXACT))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor | np.ndarray):
        return type(a) is type(b) and bool(np.array_equal(np.asarray(a), np.asarray(b)))
    return bool(a == b)


def _is_cache(value: Any) -> bool:
    """Is it a part that remembers its matrices, or the guard in front of a method?"""
    return isinstance(value, Mixing) or callable(value)


# processes of one's own


def _started(processes: int) -> Callable[..., list[Any]]:
    """Call it as (function, *arguments): function(rank, *arguments) in as many processes, which end before it returns."""

    def call(function: Any, *arguments: Any) -> list[Any]:
        context, started, pipes = multiprocessing.get_context("spawn"), [], []
        with tempfile.TemporaryDirectory() as folder:
            try:
                for rank in range(processes):
                    ours, theirs = context.Pipe()
                    job = (theirs, rank, processes, f"{folder}/store", function, arguments)
                    started.append(context.Process(target=_serve, args=job, daemon=True))
                    started[-1].start()
                    theirs.close()
                    pipes.append(ours)
                answers = [pipe.recv() for pipe in pipes]
            finally:
                for process in started:
                    process.kill()
                    process.join()
        failed = [answer for fine, answer in answers if not fine]
        assert not failed, failed[0]
        return [answer for _, answer in answers]

    return call


def _serve(pipe: Any, rank: int, processes: int, store: str, function: Any, arguments: Any) -> None:
    import os
    import traceback

    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = dist.FileStore(store, processes)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=processes, timeout=timedelta(seconds=120))
    try:
        pipe.send((True, function(rank, *arguments)))
    except BaseException:
        pipe.send((False, f"process {rank}:\n{traceback.format_exc()}"))
