"""What a run of so many steps will not reach, noted before it starts: nothing here is wrong, but few would have meant it.

A communication that never comes, an answer that misses the last steps, a milestone beyond the end: each is one note, naming
key, value and what happens instead. What only the run can tell (a period that goes by the loss) `hindsight` tells, after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from coopsgd.setup.parts import Parts
from coopsgd.setup.values import length_of
from coopsgd.strategies.base import overrides
from coopsgd.strategies.period import ends

FOLLOWED = 5000  # rounds that are counted one by one; who has more tells what is left when it is over


@dataclass(frozen=True)
class _Rounds:
    """The rounds of a run: after which steps they end, as many as do so within it, and the first that does not."""

    ends: list[int]
    beyond: int

    @property
    def last(self) -> int:
        return self.ends[-1] if self.ends else 0


def notes(parts: Parts, given: Sequence[str] = ()) -> list[str]:
    """A line for each thing beyond the end of a run of config.steps. given: keys the user wrote; a default is no news."""
    config = parts.config
    if not config.steps:
        return []
    rounds = _followed(parts)
    found = [*_about_communications(parts, rounds), *_about_period(parts, rounds), *_about_rates(parts)]
    for name, what in (("eval_every", "evaluated"), ("log_every", "logged")):
        every, most = getattr(config, name), config.steps
        if (length := length_of(every)) is not None:
            every, most = length[0], config.steps if rounds is None else len(rounds.ends)
        if name in given and every > most:
            found.append(
                f"{name}={getattr(config, name)}: beyond the run of {config.steps} steps, {what} at its two ends alone"
            )
    return found


def hindsight(parts: Parts, rounds: int, missed: int, lags: bool) -> list[str]:
    """What only the run could tell, after so many rounds: the local steps since the last are missed where the answer lags."""
    config = parts.config
    if not config.steps or not missed or not _talks(parts):
        return []
    known = _followed(parts) is not None
    if not rounds:
        return [] if known else [_never(parts, lags)]
    return [_misses(config.steps, config.steps - missed)] if lags and not (known and answer_lags(parts)) else []


def _followed(parts: Parts) -> _Rounds | None:
    """None where they are not known beforehand, or are too many."""
    config, period, found = parts.config, parts.period, list[int]()
    most = config.steps - (config.order == "cta")  # what is due with the last step would come with the next
    for end in ends(period, parts.strategy.schedule, config.workers) if period.foreseen else ():
        if end > most:
            return _Rounds(found, end)
        found.append(end)
        if len(found) > FOLLOWED:
            break
    return None


def _talks(parts: Parts) -> bool:
    """Is there anybody to talk to, and anything to say?"""
    m, schedule = parts.config.workers, parts.strategy.schedule
    if schedule is None:
        return m > 1
    if m + schedule.num_aux == 1:
        return False
    return schedule.cycle(m) != 1 or not all(W.is_identity for W in schedule.at(m, 0).factors)


def answer_lags(parts: Parts) -> bool:
    """Is the answer without the local steps since the latest communication, as far as it is known without a run?

    Its strategy is asked for it on a fleet that notes which rows the answer is made of: auxiliary ones alone?
    """
    strategy, m = parts.strategy, parts.config.workers
    if not overrides(strategy, "answer"):
        return False
    asked = _Asked(m)
    try:
        strategy.answer(cast(Any, asked), cast(Any, None), ())
    except Exception:  # it does more than ask for rows: the run will tell
        return False
    return bool(asked.rows) and min(asked.rows) >= m


class _Asked:
    """A fleet that has nothing, and remembers which rows it was asked for."""

    def __init__(self, m: int) -> None:
        self.m, self.rows = m, list[int]()

    def mean(self, *_: Any) -> None:
        self.rows.append(0)

    def pick(self, _: Any, i: int) -> None:
        self.rows.append(i)


def _never(parts: Parts, lags: bool, more: str = "") -> str:
    means = "the answer stays the model that all began with" if lags else "every worker trains alone"
    return f"steps={parts.config.steps}: the run ends inside its first round{more}; nothing is communicated, and {means}"


def _misses(steps: int, last: int) -> str:
    return (
        f"steps={steps}: the run ends inside a round; the answer is what the communication after step {last} left, "
        f"and the {steps - last} steps since are not in it"
    )


def _about_communications(parts: Parts, rounds: _Rounds | None) -> Iterator[str]:
    config, schedule = parts.config, parts.strategy.schedule
    if rounds is None or not _talks(parts):
        return
    lags = answer_lags(parts)
    if not rounds.ends:
        yield _never(parts, lags, f", whose communication would follow step {rounds.beyond}")
        return
    if lags and rounds.last < config.steps:
        yield _misses(config.steps, rounds.last)
    cycle, come = schedule.cycle(config.workers) if schedule else 1, len(rounds.ends)
    if cycle is not None and come < cycle:
        key = next((f"algo.{name}={config.algo[name]}: " for name in ("tau_2", "every") if name in config.algo), "")
        yield (
            f"{key}{config.algo['name']} repeats after {cycle} communications, and {config.steps} steps have {come}: "
            "those behind them never come"
        )


def _about_period(parts: Parts, rounds: _Rounds | None) -> Iterator[str]:
    config, period, steps = parts.config, parts.period, parts.config.steps
    if isinstance(config.tau, list) and rounds is not None:
        begun = [0, *rounds.ends]
        for (start, tau), (until, _) in pairwise([*config.tau, (steps, None)]):
            if start >= steps:
                yield f"tau: from step {start} on it is {tau}, which lies beyond the run of {steps} steps"
            elif not any(start <= k < until for k in begun if k < steps):
                yield f"tau: from step {start} on it is {tau}, but no round begins there, so it is passed over"
    switch, interval = getattr(period, "switch", None), getattr(period, "interval", None)
    if switch == "auto":
        drop = _drops(parts)
        if drop is not None and not any(k < steps for k in drop):
            yield f"period.switch=auto: waits for the rate to drop, which it does not in a run of {steps} steps; tau stays 1"
    elif isinstance(switch, int) and switch >= steps:
        yield f"period.switch={switch}: lies beyond the run of {steps} steps; tau stays 1"
    if isinstance(interval, int) and interval + getattr(period, "warmup", 0) >= steps:
        yield f"period.interval={interval}: the first decision lies beyond the run of {steps} steps; tau stays {config.tau}"


def _drops(parts: Parts) -> list[int] | None:
    """The steps at which the rate drops, as far as its schedule tells; None when it does not."""
    schedule = parts.schedule
    return schedule.drops(parts.config.steps) if hasattr(schedule, "drops") else None  # a user's class need not say


def _about_rates(parts: Parts) -> Iterator[str]:
    steps, name = parts.config.steps, (parts.config.schedule or {}).get("name")
    late = [k for k in _drops(parts) or () if k >= steps]
    if late:
        unit = "" if (parts.config.schedule or {}).get("unit", "step") in ("step", 1) else " (steps)"
        which = f"schedule.milestones={late}{unit}" if name == "multistep" else f"schedule={name}: a drop after step {late[0]}"
        verb = "lie" if name == "multistep" and len(late) > 1 else "lies"
        yield f"{which}: {verb} beyond the run of {steps} steps; the rate does not drop there"
