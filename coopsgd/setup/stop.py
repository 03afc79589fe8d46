"""When a run ends before its steps are done: a metric has come to a target, or a budget is spent."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coopsgd.errors import ConfigError
from coopsgd.registry import did_you_mean, option, register
from coopsgd.run.schema import AUXILIARY, KNOWN, KNOWN_EVALUATED, LOCAL, METRICS, SIMULATED, WORKERS

if TYPE_CHECKING:
    from coopsgd.setup.schema import Config

MEASURED = tuple(name for name, m in METRICS.items() if m.section in ("", WORKERS) and name != "step")
BUDGETS = {
    "steps": "step",
    "bytes": "bytes",
    "seconds": "train_s",
    "sim_seconds": "sim_s",
}  # a budget -> the total that spends it


@register("when", "stop")
@dataclass(frozen=True)
class Stop:
    """A run ends with the first of these that has come; what is not given does not end it.

    Of steps that is seen at once, of bytes and sim_seconds after every communication and at log lines, of the others at log
    lines. What reaches a budget is still done. ValueError for what can never come.
    """

    metric: str | None = option(
        None, "of a log line, as eval/loss: the run ends when it has come to stop.target", words=MEASURED
    )
    target: float | None = option(
        None, "of stop.metric: at least that of a share, as eval/accuracy, else at most that", unit="the metric's"
    )
    steps: int | None = option(None, "budget: the run ends after so many, its schedules as long as steps= says", unit="steps")
    bytes: float | None = option(None, "budget: the run ends when its messages have come to so many", unit="bytes")
    seconds: float | None = option(None, "budget: the run ends after so much training, measuring left out", unit="s")
    sim_seconds: float | None = option(None, "budget: the run ends after so much time on the clock of cluster=", unit="s")

    def __post_init__(self) -> None:
        for name in ("target", *BUDGETS):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"stop.{name}: must be a number, got {value!r}")
            if name == "steps" and isinstance(value, float):
                raise ValueError(f"stop.steps: must be a whole number, got {value!r}")
            if value is not None and name != "target" and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"stop.{name}: must be positive, got {value!r}")
        if (self.metric is None) != (self.target is None):
            missing, there = ("metric", "target") if self.metric is None else ("target", "metric")
            raise ValueError(
                f"stop.{missing}: is missing beside stop.{there}; give both, as in stop.metric=eval/loss stop.target=0.5"
            )
        if self.metric is not None and self.metric not in MEASURED:
            hint = f"; use stop.{self.metric}" if self.metric in BUDGETS else did_you_mean(str(self.metric), MEASURED)
            raise ValueError(f"stop.metric: {self.metric!r} is none that a run measures{hint}; known: {', '.join(MEASURED)}")

    @property
    def given(self) -> bool:
        """Can it end a run?"""
        return self != Stop()

    @property
    def looks(self) -> bool:
        """Does it depend on where log lines fall?"""
        return (self.metric, self.seconds, self.sim_seconds) != (None, None, None)

    def reached(self, line: Mapping[str, Any]) -> bool:
        """Has the metric come to its target on this log line?"""
        value = None if self.metric is None else line.get(self.metric)
        if value is None or self.target is None or not math.isfinite(value):
            return False
        return value >= self.target if METRICS[str(self.metric)].rises else value <= self.target

    def spent(self, totals: Mapping[str, Any]) -> str | None:
        """Which budget these totals, of a log line, have spent."""
        for name, total in BUDGETS.items():
            limit, value = getattr(self, name), totals.get(total)
            if limit is not None and value is not None and value >= limit:
                return name
        return None

    def check(self, config: Config, scores: Collection[str], known: bool, auxiliary: bool) -> None:
        """ConfigError where a run of this config does not have what it reads; the rest as in `refuse_absent`."""
        if self.sim_seconds is not None and not config.cluster:
            raise ConfigError("stop.sim_seconds: needs the clock of a cluster; name one, as in cluster=wan_100m")
        if self.metric is not None:
            refuse_absent("stop.metric", self.metric, config, scores, known, auxiliary)


def refuse_absent(where: str, name: str, config: Config, scores: Collection[str], known: bool, auxiliary: bool) -> None:
    """ConfigError where no line of a run of this config has a value of this metric.

    scores: those that its task says; known: are its constants? auxiliary: has its algorithm auxiliary models?
    """
    metric = METRICS[name]
    if metric.when == AUXILIARY and not auxiliary:
        raise ConfigError(f"{where}: algo={config.algo['name']} has no auxiliary model and so no {name}; use eval/loss")
    if metric.when == LOCAL and (config.partition or {}).get("test") != "local":
        raise ConfigError(f"{where}: {name} is there with partition.test=local; add it, or use eval/accuracy")
    if metric.when == SIMULATED and not config.cluster:
        raise ConfigError(f"{where}: {name} is there with a cluster; name one, as in cluster=wan_100m")
    task = config.task.get("name")
    if (metric.unit == "share" and metric.score not in scores) or (metric.when in (KNOWN, KNOWN_EVALUATED) and not known):
        raise ConfigError(f"{where}: task {task} has no {name}; use eval/loss")
