"""Optimisers of torch that step each number by itself, by class: `optim=torch optim.cls=RMSprop optim.alpha=0.9`.

Their keys and defaults stand here, so that a config is checked without torch; a test holds them against torch's signatures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any, ClassVar

from coopsgd.optim import NOT_ELEMENTWISE, below_one, not_negative, positive
from coopsgd.registry import did_you_mean, option, register

NAMES = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


@register("torch", "optim")
@dataclass(frozen=True)
class Torch:
    """A class of torch.optim that steps each number by itself; its own keys go beside `cls`, by torch's names and defaults."""

    cls: str = option("", "Adadelta, Adagrad, Adam, AdamW, Adamax, ASGD, NAdam, RAdam, RMSprop, Rprop or SGD", words=NAMES)

    def __post_init__(self) -> None:
        settings_of(self.cls)


@dataclass(frozen=True)
class Elementwise:
    """Settings of one of them: what they share."""

    KIND: ClassVar[str]
    COUNTS: ClassVar[bool] = True
    BUFFERS: ClassVar[Mapping[str, str]] = {}  # vectors of its state, and which key must be set for there to be one
    SCALARS: ClassVar[tuple[str, ...]] = ()  # numbers of its state beside `step`
    EAGER: ClassVar[bool] = False  # is its state there before the first step?
    NO_MEAN: ClassVar[str | None] = None  # why its buffers cannot be averaged

    @property
    def buffers(self) -> tuple[str, ...]:
        """What torch calls the vectors it keeps."""
        return tuple(name for name, key in self.BUFFERS.items() if not key or getattr(self, key))

    @property
    def first(self) -> dict[str, float]:
        """What of its state is not zero before the first step."""
        lr = self.lr  # type: ignore[attr-defined]
        return {
            "mu_product": 1.0,
            "mu": 1.0,
            "eta": lr,
            "step_size": lr,
            "sum": getattr(self, "initial_accumulator_value", 0.0),
        }

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            key = f"optim.{name}"
            if name in PAIRS:
                self._check_pair(name, value)
            elif name in ("lr", "eps", "t0") or (name == "alpha" and self.KIND == "ASGD"):
                positive(key, value)
            elif name in ("rho", "alpha", "momentum", "dampening"):
                below_one(key, value)
            elif not isinstance(value, bool):
                not_negative(key, value)
        if getattr(self, "nesterov", False) and (self.momentum == 0 or self.dampening != 0):  # type: ignore[attr-defined]
            raise ValueError("optim.nesterov: needs optim.momentum above 0 and no dampening, as in optim.momentum=0.9")

    def _check_pair(self, name: str, value: Any) -> None:
        numbers = isinstance(value, list | tuple) and len(value) == 2
        if not numbers or any(isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x) for x in value):
            raise ValueError(f"optim.{name}: must be two numbers, as in optim.{name}={PAIRS[name]}, got {value!r}")
        a, b = value
        fits = {"betas": 0 <= a < 1 and 0 <= b < 1, "etas": 0 < a < 1 < b, "step_sizes": 0 < a < b}[name]
        if not fits:
            where = {"betas": "both in [0, 1)", "etas": "below 1 and above it", "step_sizes": "positive, the smaller first"}
            raise ValueError(f"optim.{name}: must be {where[name]}, got {value!r}; as in optim.{name}={PAIRS[name]}")


PAIRS = {"betas": "[0.9,0.999]", "etas": "[0.5,1.2]", "step_sizes": "[1e-6,50]"}
BETAS = [0.9, 0.999]
# class -> keys with torch's defaults, its vectors
KEYS: dict[str, dict[str, Any]] = {
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0},
    "Adagrad": {"lr": 1e-2, "lr_decay": 0.0, "weight_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
    "Adam": {"lr": 1e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "decoupled_weight_decay": False},
    "AdamW": {"lr": 1e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False},
    "Adamax": {"lr": 2e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0.0},
    "ASGD": {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0},
    "NAdam": {
        "lr": 2e-3,
        "betas": BETAS,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
    },
    "RAdam": {"lr": 1e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0.0, "decoupled_weight_decay": False},
    "RMSprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0, "centered": False},
    "Rprop": {"lr": 1e-2, "etas": [0.5, 1.2], "step_sizes": [1e-6, 50.0]},
    "SGD": {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
}
MOMENTS = {"exp_avg": "", "exp_avg_sq": ""}
BUFFERS: dict[str, dict[str, str]] = {
    "Adadelta": {"square_avg": "", "acc_delta": ""},
    "Adagrad": {"sum": ""},
    "Adam": MOMENTS | {"max_exp_avg_sq": "amsgrad"},
    "AdamW": MOMENTS | {"max_exp_avg_sq": "amsgrad"},
    "Adamax": {"exp_avg": "", "exp_inf": ""},
    "ASGD": {"ax": ""},
    "NAdam": MOMENTS,
    "RAdam": MOMENTS,
    "RMSprop": {"square_avg": "", "momentum_buffer": "momentum", "grad_avg": "centered"},
    "Rprop": {"prev": "", "step_size": ""},
    "SGD": {"momentum_buffer": "momentum"},
}
SCALARS = {"ASGD": ("eta", "mu"), "NAdam": ("mu_product",)}
NO_MEAN = {"Rprop": "a sign and a step size that went up or down by it are no mean of others"}


def _settings(name: str) -> type[Elementwise]:
    """The dataclass of one of torch's classes."""
    keys = KEYS[name]
    kinds = {key: Any if key in PAIRS else type(value) for key, value in keys.items()}
    made = make_dataclass(
        name,
        [
            (key, kinds[key], field(default_factory=value.copy) if key in PAIRS else field(default=value))
            for key, value in keys.items()
        ],
        bases=(Elementwise,),
        frozen=True,
        namespace={
            "__doc__": f"torch.optim.{name}",
            "__module__": __name__,
            "KIND": name,
            "COUNTS": name != "SGD",
            "BUFFERS": BUFFERS[name],
            "SCALARS": SCALARS.get(name, ()),
            "EAGER": name == "Adagrad",
            "NO_MEAN": NO_MEAN.get(name),
        },
    )
    return made


CLASSES = {name: _settings(name) for name in KEYS}


def settings_of(cls: Any) -> type[Elementwise]:
    """The settings of a class of torch.optim. ValueError when there are none."""
    name = str(cls).removeprefix("torch.optim.")
    if name in CLASSES:
        return CLASSES[name]
    if name.lower() in NOT_ELEMENTWISE or name == "Muon":
        way = "use optim=muon" if name == "Muon" else f"use one of {', '.join(KEYS)}"
        raise ValueError(f"optim.cls: {name} is not elementwise, so it cannot step the workers' stacked rows; {way}")
    raise ValueError(
        f"optim.cls: must be one of {', '.join(KEYS)}, classes of torch.optim, got {cls!r}{did_you_mean(name, list(KEYS))}"
    )
