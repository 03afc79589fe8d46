"""What a sweep that looks for the best is told of each run: `objective=`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from coopsgd.errors import ConfigError
from coopsgd.registry import did_you_mean
from coopsgd.run.schema import METRICS
from coopsgd.setup.stop import BUDGETS, MEASURED, refuse_absent

if TYPE_CHECKING:
    from coopsgd.setup.schema import Config

KNOWN = tuple(dict.fromkeys((*METRICS, *BUDGETS)))


def named(objective: Any) -> list[str]:
    """Its names: one, or those of a list. ConfigError for one that there is not."""
    names = objective if isinstance(objective, list) else [objective]
    if not names:
        raise ConfigError("objective: is an empty list; name what to look for, as in objective=eval/loss")
    for name in names:
        if not isinstance(name, str) or name not in KNOWN:
            raise ConfigError(f"objective: no metric named {name!r}{did_you_mean(str(name), KNOWN)}; known: {', '.join(KNOWN)}")
    return names


def refuse(objective: Any, target: bool) -> None:
    """ConfigError for a cost until a target that is not given. target: is there one?"""
    names = named(objective)
    for name in names:
        # among others bytes is the total at the end
        if name in BUDGETS and not target and (name not in METRICS or len(names) == 1):
            total = "" if BUDGETS[name] == name else f" (the total at the end is {BUDGETS[name]})"
            raise ConfigError(
                f"objective: {name} counts until stop.metric has come to stop.target; give both, as in "
                f"stop.metric=eval/loss stop.target=0.5{total}"
            )


def refuse_best(objective: Any) -> None:
    """ConfigError unless save=best can go by it: one metric, which tells better from worse."""
    names = named(objective) if objective is not None else []
    if len(names) != 1 or names[0] not in MEASURED or isinstance(objective, list):
        raise ConfigError(
            f"save=best: goes by objective, which must be one metric that is measured, got {objective!r}; give one, as in "
            "objective=eval/loss"
        )


def refuse_for(config: Config, target: bool, scores: Collection[str], known: bool, auxiliary: bool = True) -> None:
    """ConfigError where a run of this config has no such objective; the rest as in `refuse_absent`."""
    if config.save == "best":
        refuse_best(config.objective)
    refuse(config.objective, target)
    for name in named(config.objective):
        if name == "sim_seconds" and not config.cluster:
            raise ConfigError("objective: sim_seconds needs the clock of a cluster; name one, as in cluster=wan_100m")
        if name in METRICS:
            refuse_absent("objective", name, config, scores, known, auxiliary)


def directions(sweeper: Any) -> list[bool] | None:
    """Of each objective of a study: is the largest looked for? None of a sweeper that does not say."""
    said = sweeper.get("direction") if sweeper is not None else None
    if said is None:
        return None
    each = [said] if isinstance(said, str) or not isinstance(said, Sequence) else list(said)
    return [str(getattr(one, "name", one)).lower() == "maximize" for one in each]


def against(objective: Any, maximised: Sequence[bool] | None) -> list[str]:
    """Notes on what is looked for the wrong way round. ConfigError where there are not as many directions as objectives."""
    names = named(objective)
    if maximised is None:
        return []
    if len(names) != len(maximised):
        raise ConfigError(
            f"objective: has {len(names)} names for {len(maximised)} of hydra.sweeper.direction; give one of each, as in "
            "objective=[eval/loss,bytes] hydra.sweeper.direction=[minimize,minimize]"
        )
    notes = []
    for name, largest in zip(names, maximised, strict=True):
        unit = METRICS[name].unit if name in METRICS else "s"
        if largest != (unit == "share") and unit in ("share", "loss", "s", "bytes"):
            least, way = ("largest", "minimize") if largest else ("smallest", "maximize")
            notes.append(f"objective: the study looks for the {least} {name}; hydra.sweeper.direction={way} turns it round")
    return notes
