"""The promises of the contract, each checked on short runs of one strategy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.mixing.base import Mixing, first_negative
from coopsgd.setup import timing
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy
from coopsgd.testing.by_hand import by_hand
from coopsgd.testing.processes import in_processes
from coopsgd.testing.rows_apart import rows_stay_apart
from coopsgd.testing.runs import Recorder, make_loop, rows_ledger_answer, rows_of_steps
from coopsgd.testing.saved import saved_and_loaded

WORKERS = 4
QUADRATIC = ("task=quadratic", "task.dim=12")
CNN = ("data=digits", "model=cnn", "model.width=8", "model.norm=batch", "batch_size=4")
COMMON = ("optim=sgd", f"workers={WORKERS}", "dtype=float64", "device=cpu", "log_every=100000", "eval_every=0", "launch=false")
EXACT = 1e-12  # sums of float64 taken in another order: a few ulps


def check_strategy(
    cls: type[Strategy] | str,
    *words: str,
    process_groups: Any = None,
    processes: Sequence[int] = (1, 2, 4),
    problem: Sequence[str] = QUADRATIC,
) -> None:
    """AssertionError unless the strategy keeps every promise of its contract.

    cls: a frozen dataclass that can be imported by its module and name, or the name of an algorithm. words: as on the command
    line, `tau=4` or keys of the class as `algo.beta=0.5`. processes: on how many it must give the same rows, divisors of 4.
    process_groups: process_groups(p)(function, *arguments) calls function(rank, *arguments) in p processes of one group of
    torch.distributed and returns their answers; by default processes are started, and ended, here. problem: words of the small
    one on which most is tried, for a strategy that needs more than a vector.

    Promises: the same rows and ledger wherever rows are; running statistics ride along, mixed by W alone, and are charged; idle
    workers keep rows and buffers bit for bit; order and delay are what plain loops make of them; fused steps are the steps one
    by one; nothing is remembered outside the state, and a run that is saved and loaded after every step does not notice; no
    arithmetic across rows but by the verbs of the fleet.
    """
    name = cls if isinstance(cls, str) else cls.__name__
    algo = _words(cls)

    def config(*more: str) -> Config:
        return compose.compose_config([*COMMON, *algo, *words, *more]).config

    base = config(*problem, "steps=13")  # composing takes longer than running: what differs little is made of this one
    _nothing_remembered(name, base)
    saved_and_loaded(name, base)
    rows_stay_apart(name, base)
    everywhere = {p: (process_groups or in_processes)(p)(_on_processes, name, base, p) for p in processes if p > 1}
    if 1 in processes:
        everywhere = {1: [_on_processes(0, name, base, 1)], **everywhere}
    _placed_anywhere(name, everywhere)
    _fused_as_unfused(name, base)
    _as_plain_loops(name, base)
    _idle_workers(name, base, everywhere)
    _statistics_ride_along(name, config)


def _words(cls: type[Strategy] | str) -> tuple[str, ...]:
    if isinstance(cls, str):
        return (f"algo={cls}",)
    mixes = any(f.name == "mixing" for f in fields(cls))  # type: ignore[arg-type]
    return ("algo=pasgd", f"algo.strategy={cls.__module__}:{cls.__qualname__}", *(() if mixes else ("~algo.mixing",)))


def _on_processes(rank: int, name: str, config: Config, processes: int) -> Any:
    """One process's part: rows, ledger and answer of a run, and what is wrong with the idle workers of another."""
    return *rows_ledger_answer(rank, config, processes), _idle_workers_moved(rank, name, config, processes)


def _placed_anywhere(name: str, everywhere: dict[int, list[Any]]) -> None:
    """The same rows, ledger and answer on every number of processes."""
    expected = None
    for p, answers in everywhere.items():
        rows, ledger, answer, _ = answers[0]
        assert all(other[1] == ledger for other in answers), f"{name}: on {p} processes they disagree about the ledger"
        assert all(_near(other[2], answer) for other in answers), f"{name}: on {p} processes they disagree about the answer"
        expected = expected or (rows, ledger, answer)
        for k, (here, there) in enumerate(zip(rows, expected[0], strict=True)):
            off = float(np.abs(here - there).max())
            assert _near(here, there), f"{name}: rows after step {k + 1} are another on {p} processes, by {off:.3g}"
        assert ledger == expected[1], f"{name}: rounds, messages, bytes are {ledger} on {p} processes, else {expected[1]}"
        assert _near(answer, expected[2]), f"{name}.answer: is another on {p} processes"


def _nothing_remembered(name: str, config: Config) -> None:
    """A run leaves no trace in the strategy; a second one takes the same way."""
    strategy, steps = Parts(config).strategy, config.steps or 0
    before = {key: copy.deepcopy(value) for key, value in vars(strategy).items() if not _is_cache(value)}
    first = rows_of_steps(make_loop(config, strategy, Recorder()), steps)
    for key, value in vars(strategy).items():
        known = key in before and _same(before[key], value)
        assert known or _is_cache(value), f"{name}: its attribute {key} changed in a run; what changes belongs into the state"
    second = rows_of_steps(make_loop(config, strategy, Recorder()), steps)
    differs = next((k for k, (a, b) in enumerate(zip(first, second, strict=True)) if not torch.equal(a, b)), None)
    assert differs is None, f"{name}: a second run differs from step {differs} on; something outside of the state is remembered"


def _fused_as_unfused(name: str, config: Config) -> None:
    """Steps taken several at a time are the steps one by one, with the same ledger."""
    loops = [make_loop(config, observer=Recorder(each)) for each in (False, False)]
    loops[1].steps.fused = False
    for loop in loops:
        rows_of_steps(loop, config.steps or 0)
    while loops[0].steps.ahead:  # its rows are those of a later step
        for loop in loops:
            loop.advance()
    fused, unfused = (loop.state.x for loop in loops)
    assert _near(fused, unfused), f"{name}: fused steps are not the steps one by one"
    totals = [(loop.fleet.ledger.messages, loop.fleet.ledger.bytes) for loop in loops]
    assert totals[0] == totals[1], f"{name}: fused steps are charged {totals[0]}, steps one by one {totals[1]}"


def _as_plain_loops(name: str, base: Config) -> None:
    """order and delay, where the run takes them, are what loops over steps and workers make of them."""
    settings: list[tuple[str, Any]] = [("order", "cta"), ("delay", 0), ("delay", 1), ("delay", 2), ("delay", "tau")]
    for key, value in settings:
        changed = replace(base, **{"order": "atc", "delay": 0, "merge": "kept", key: value})
        try:
            timing.check(changed, Parts(base).strategy, Parts(base).period)
        except ConfigError:
            assert value != 0, f"{name}: does not run with {key}={value}"
            continue  # what an algorithm cannot do is refused
        here = rows_of_steps(make_loop(changed, observer=Recorder()), changed.steps or 0)
        for k, (found, expected) in enumerate(zip(here, by_hand(changed), strict=True)):
            off = float((found - expected).abs().max())
            assert _near(found, expected), f"{name} {key}={value}: after step {k + 1} off by {off:.3g} from loops by hand"


def _idle_workers(name: str, base: Config, everywhere: dict[int, list[Any]]) -> None:
    """A worker that sits a step out keeps its row and its optimiser's buffers; fused steps of the others are theirs alone."""
    if not _has_idle(Parts(base).strategy):
        return
    for p, answers in (everywhere or {1: [(_idle_workers_moved(0, name, base, 1),)]}).items():
        for *_, wrong in answers:
            assert wrong is None, f"{wrong}, on {p} processes" if p > 1 else wrong
    loops = [make_loop(base, _half(Parts(base).strategy, base), Recorder(False)) for _ in range(2)]
    loops[1].steps.fused = False
    for loop in loops:
        rows_of_steps(loop, base.steps or 0)
    while loops[0].steps.ahead:
        for loop in loops:
            loop.advance()
    fused, unfused = (loop.state.x for loop in loops)
    assert _near(fused, unfused), f"{name}: fused steps of some workers are not their steps one by one"


def _has_idle(strategy: Strategy) -> bool:
    """Who works is a schedule's to say."""
    return strategy.schedule is not None and strategy.send is not None


def _idle_workers_moved(rank: int, name: str, base: Config, processes: int) -> str | None:
    """What is wrong with the workers held here: one moved though idle, or did not though at work."""
    settings = replace(base, optim={**base.optim, "momentum": 0.9})
    if not _has_idle(Parts(settings).strategy):
        return None
    observer = Recorder()
    loop = make_loop(settings, _half(Parts(settings).strategy, settings), observer, rank, processes)
    assert loop.strategy.schedule is not None
    idled, wrong = 0, []
    for k in range(settings.steps or 0):  # to the end, whatever is found: the other processes go on
        loop.begin()  # a communication that was put off
        x, buffers = loop.state.x.clone(), [b.clone() for b in loop.state.inner.stacked()]
        loop.finish()
        moved = observer.stepped_to[2]
        pieces = loop.parts.fragments.count if loop.parts.fragments else 1
        idle = _idle(loop.strategy.schedule, settings.tau // pieces, k)
        idled += len(idle)
        for row, i in enumerate(loop.fleet.workers):
            if torch.equal(moved[row], x[row]) != (i in idle):
                wrong.append(f"{name}: worker {i} {'moved' if i in idle else 'did not move'} in step {k}")
            for before, now in zip(buffers, loop.state.inner.stacked(), strict=True):
                if i in idle and not torch.equal(before[row], now[row]):
                    wrong.append(f"{name}: a buffer of worker {i}, who sits step {k} out, changed")
    return next(iter(wrong), None if idled else f"{name}: nobody was idle")


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
    observer = Recorder()
    loop = make_loop(average, observer=observer)
    strategy, m = loop.strategy, average.workers
    if strategy.schedule is not None and first_negative([strategy.schedule.factors(m, r) for r in range(4)]):
        return
    rows_of_steps(loop, average.steps or 0)
    local = make_loop(replace(average, norm_stats="local"), observer=Recorder())
    rows_of_steps(local, average.steps or 0)
    totals = loop.fleet.ledger.bytes - local.fleet.ledger.bytes
    messages, b = local.fleet.ledger.messages, observer.after[0][1].shape[1]
    assert totals % (8 * b) == 0 and (totals > 0) == (messages > 0), (
        f"{name}: running statistics of {b} numbers added {totals} bytes to {messages} messages"
    )
    if strategy.send is None:
        return
    pieces = loop.parts.fragments.count if loop.parts.fragments else 1
    for (r, before, _), (_, after, _), unmixed in zip(observer.before, observer.after, observer.unmixed, strict=True):
        if strategy.schedule is None:
            expected = before[:m].mean(0, keepdim=True).expand_as(before)
            if not _near(after, expected) and float(np.ptp(after.numpy(), axis=0).max()) > EXACT:
                continue  # it asks for no mean: statistics become what its own verb makes of them
        else:
            rides = r % pieces == pieces - 1  # with the last fragment of a model
            expected = before if rides else unmixed
            for W in strategy.schedule.factors(m, r // pieces) if rides else ():
                expected = torch.from_numpy(np.asarray(W).copy()) @ expected
        assert _near(after, expected), f"{name}: running statistics of communication {r} are not W times what they were"


def _near(a: Any, b: Any) -> bool:
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=EXACT, atol=EXACT))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor | np.ndarray):
        return type(a) is type(b) and bool(np.array_equal(np.asarray(a), np.asarray(b)))
    return bool(a == b)


def _is_cache(value: Any) -> bool:
    """Is it a part that remembers its matrices, or the guard in front of a method?"""
    return isinstance(value, Mixing) or callable(value)
