"""Predictions that are logged beside what a run measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.predict.setting import Setting
from coopsgd.setup.parts import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.base import Fleet

FOLLOWED = 256  # rows whose matrices may be multiplied at every communication of a run, just to log predictions


class Monitor:
    """In a run on a task with known constants: what is predicted, beside what is measured.

    theory/consensus is the exact expectation under noise alone at the moment of `consensus`; theory/bound the
    bound over the steps so far, beside eval/grad2_mean, the mean of eval/grad2 = ||grad F(u)||^2 over them by the trapezoid
    rule between log points. u is the mean of all m + v rows.
    """

    @classmethod
    def of(cls, parts: Parts, fleet: Fleet, problem: Any) -> Monitor | None:
        """None when the task does not know its constants."""
        known = parts.task.known(parts.config)
        return None if known is None else cls(Setting(parts, known), fleet, problem)

    def __init__(self, setting: Setting, fleet: Fleet, problem: Any) -> None:
        self._setting, self._fleet, self._problem = setting, fleet, problem
        self._forecast = setting.forecast(FOLLOWED) if fleet.rank == 0 else None
        self._at, self._last, self._area = 0, 0.0, 0.0

    def moved(self, lr: float, active: np.ndarray | None, due: bool) -> None:
        """A local step was taken."""
        if self._forecast is not None:
            self._forecast.moved(lr, active, due)

    def sends(self) -> None:
        """A message leaves."""
        if self._forecast is not None:
            self._forecast.sends()

    def received(self, round: int) -> None:
        """Communication `round` is over."""
        if self._forecast is not None:
            self._forecast.received(round)

    def saved(self) -> dict[str, Any]:
        """What the lines to come depend on; the forecast is rank 0's."""
        forecast = None if self._forecast is None else self._forecast.saved()
        return {"at": self._at, "last": self._last, "area": self._area, "forecast": forecast}

    def restore(self, tree: dict[str, Any]) -> None:
        self._at, self._last, self._area = tree["at"], tree["last"], tree["area"]
        if self._forecast is not None:
            self._forecast.restore(tree["forecast"])

    def line(self, step: int, x: Tensor, evaluated: bool) -> dict[str, float | None]:
        """What to log after this many steps. Costs an exchange: call it while measuring."""
        setting, fleet = self._setting, self._fleet
        u = fleet.mean(x)
        if setting.v:
            u = (fleet.m * u + sum(fleet.pick(x, fleet.m + a) for a in range(setting.v))) / (fleet.m + setting.v)
        grad2 = self._problem.squared_gradient(u)
        self._area += (step - self._at) * (self._last + grad2) / 2
        self._at, self._last = step, grad2
        bound = setting.bound(step)
        found: dict[str, float | None] = {"eval/grad2": grad2, "eval/grad2_mean": self._area / step if step else grad2}
        if bound is not None:
            found["theory/bound"] = bound.total
        if evaluated and self._forecast is not None and setting.known is not None:
            found["theory/consensus"] = setting.known.sigma2 * self._forecast.consensus
        return found
