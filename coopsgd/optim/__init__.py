"""Inner optimisers, as a config chooses them: `optim=sgd`. How their rate moves: schedules.py.

They import no torch; loop/inner.py puts them to work on the rows of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from coopsgd.fleet.block import Block
from coopsgd.registry import did_you_mean, option, register

if TYPE_CHECKING:
    from torch import Tensor

NOT_ELEMENTWISE = ("lbfgs", "adafactor", "sparseadam", "shampoo", "lamb", "lars", "adagc")
FUSED = ("lr", "momentum", "nesterov", "weight_decay")  # keys of sgd that a fused step knows
# buffers that are means or sums of squares, or sizes: none may become negative
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf")


def positive(name: str, value: float) -> None:
    """ValueError, naming the key, unless it is."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: must be a positive number, got {value}")


def not_negative(name: str, value: float) -> None:
    """ValueError, naming the key, unless it is a finite number of at least 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: must be a number, not negative, got {value}")


def below_one(name: str, value: float) -> None:
    """ValueError, naming the key, unless it lies in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}: must lie in [0, 1), got {value}")


class SGDStep(NamedTuple):
    """What a step of SGD does beside x -= lr * gradient, as torch.optim.SGD does it, without dampening.

    velocity: (w, d) the momentum buffers of the worker rows, zero where there were none; None without momentum.
    """

    momentum: float
    nesterov: bool
    weight_decay: float
    velocity: Tensor | None


@register("sgd", "optim")
@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum and L2 weight decay when asked (torch.optim.SGD)."""

    lr: float = option(0.1, "the learning rate", unit="")
    momentum: float = option(0.0, "share of the velocity that stays from step to step (torch.optim.SGD)", unit="share")
    nesterov: bool = option(False, "Nesterov's momentum, looking ahead")
    weight_decay: float = option(
        0.0, "share of the parameter that is added to its gradient; adamw: that is taken off it, times lr", unit=""
    )
    dampening: float = option(0.0, "share of the gradient that momentum leaves out", unit="share")

    KIND: ClassVar[str | None] = "SGD"
    COUNTS: ClassVar[bool] = False  # does its state count steps?

    @property
    def plain(self) -> bool:
        """Is a step x - lr * gradient and nothing more? Then the task may fuse the two."""
        return self._unchanged_but(("lr",))

    @property
    def fusable(self) -> bool:
        """Is a step what SGDStep can say? Then a task that knows how may fuse it with the gradient."""
        return self._unchanged_but(FUSED)

    def _unchanged_but(self, names: Collection[str]) -> bool:
        """Are all keys but these as they are here? Of a class that is made of this one nothing is known."""
        return type(self) is SGD and all(getattr(self, f.name) == f.default for f in fields(self) if f.name not in names)

    @property
    def buffers(self) -> tuple[str, ...]:
        """What torch calls the vectors it keeps."""
        return ("momentum_buffer",) if self.momentum else ()

    def __post_init__(self) -> None:
        positive("optim.lr", self.lr)
        below_one("optim.momentum", self.momentum)
        below_one("optim.dampening", self.dampening)
        not_negative("optim.weight_decay", self.weight_decay)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("optim.nesterov: needs optim.momentum above 0 and no dampening, as in optim.momentum=0.9")


@register("adam", "optim")
@dataclass(frozen=True)
class Adam:
    """Adam (torch.optim.Adam)."""

    lr: float = option(0.001, "the learning rate", unit="")
    beta1: float = option(0.9, "share of the mean gradient that stays from step to step", unit="share")
    beta2: float = option(0.999, "share of the mean squared gradient that stays from step to step", unit="share")
    eps: float = option(1e-8, "added to the root of the mean squared gradient", unit="")
    weight_decay: float = option(
        0.0, "share of the parameter that is added to its gradient; adamw: that is taken off it, times lr", unit=""
    )

    KIND: ClassVar[str | None] = "Adam"
    COUNTS: ClassVar[bool] = True
    buffers: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def __post_init__(self) -> None:
        positive("optim.lr", self.lr)
        below_one("optim.beta1", self.beta1)
        below_one("optim.beta2", self.beta2)
        positive("optim.eps", self.eps)
        not_negative("optim.weight_decay", self.weight_decay)


@register("adamw", "optim")
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay, none unless asked (torch.optim.AdamW)."""

    KIND: ClassVar[str | None] = "AdamW"


ADJUSTMENTS = ("original", "match_rms_adamw")


@register("muon", "optim")
@dataclass(frozen=True)
class Muon:
    """Momentum orthogonalised by Newton-Schulz for matrices of hidden layers, AdamW for all else (torch.optim.Muon)."""

    lr: float = option(0.02, "the learning rate of hidden matrices", unit="")
    momentum: float = option(0.95, "share of a matrix's mean gradient that stays from step to step", unit="share")
    nesterov: bool = option(True, "orthogonalise a step's gradient with the mean, not the mean alone")
    weight_decay: float = option(0.0, "share of a parameter that is taken off it, times its rate", unit="")
    ns_steps: int = option(5, "steps of Newton-Schulz", unit="steps")
    adjust: str = option(
        "original",
        "of a matrix's rate to its shape: original, sqrt(max(1, rows / columns)); match_rms_adamw, 0.2 sqrt(larger side), with "
        "which AdamW's lr and weight_decay fit",
        words=ADJUSTMENTS,
    )
    matrices: Any = option(
        "auto",
        "what it orthogonalises: auto, weights of hidden layers; all of two dimensions or more; or a list of names, with *",
        type="auto, all or list of names",
    )
    adam_lr: float = option(0.0003, "the learning rate of all else; lr's schedule moves it too", unit="")
    adam_beta1: float = option(0.9, "of all else: share of the mean gradient that stays from step to step", unit="share")
    adam_beta2: float = option(0.95, "of all else: share of the mean squared gradient that stays", unit="share")
    adam_eps: float = option(1e-10, "of all else: added to the root of the mean squared gradient", unit="")

    KIND: ClassVar[str | None] = None  # not torch's
    COUNTS: ClassVar[bool] = True
    buffers: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def __post_init__(self) -> None:
        positive("optim.lr", self.lr)
        positive("optim.adam_lr", self.adam_lr)
        positive("optim.adam_eps", self.adam_eps)
        not_negative("optim.weight_decay", self.weight_decay)
        for name in ("momentum", "adam_beta1", "adam_beta2"):
            below_one(f"optim.{name}", getattr(self, name))
        if not 1 <= self.ns_steps <= 100:
            raise ValueError(f"optim.ns_steps: must be 1 to 100, got {self.ns_steps}; 5 is usual")
        if self.adjust not in ADJUSTMENTS:
            near = did_you_mean(self.adjust, ADJUSTMENTS)
            raise ValueError(f"optim.adjust: must be one of {', '.join(ADJUSTMENTS)}, got {self.adjust!r}{near}")
        names = self.matrices
        if names not in ("auto", "all") and not (
            isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        ):
            raise ValueError(f"optim.matrices: must be auto, all or a list of names, as in [1.weight,blocks.*], got {names!r}")

    def scale(self, rows: int, columns: int) -> float:
        """What multiplies the rate of a matrix of this shape."""
        return math.sqrt(max(1, rows / columns)) if self.adjust == "original" else 0.2 * math.sqrt(max(rows, columns))

    def chosen(self, blocks: Sequence[Block]) -> tuple[Block, ...]:
        """Those of the blocks that it orthogonalises. ValueError where there are none, or a name fits none."""
        every = [block for block in blocks if block.matrix is not None and 0 not in block.shape]
        if not every:
            raise ValueError("optim=muon: needs matrices to orthogonalise, and what is learned here has none; use adamw or sgd")
        if self.matrices == "all":
            return tuple(every)
        if self.matrices == "auto":
            found = [block for block in every if block.hidden]
            if not found:
                raise ValueError(
                    f"optim=muon: orthogonalises the matrices of hidden layers, and this model has none; use adamw or sgd, "
                    f"a model with hidden layers, or say which by optim.matrices, as in optim.matrices=[{every[0].name}]"
                )
            return tuple(found)
        names = [block.name for block in every]
        for pattern in self.matrices:
            if not any(fnmatchcase(name, pattern) for name in names):
                shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
                raise ValueError(
                    f"optim.matrices: the model has no matrix {pattern!r}{did_you_mean(pattern, names)}; it has {shown}"
                )
        return tuple(block for block in every if any(fnmatchcase(block.name, pattern) for pattern in self.matrices))

    def widths(self, d: int, blocks: Callable[[], Sequence[Block]]) -> dict[str, int]:
        """How many numbers of a row each buffer has: no mean square where a matrix is."""
        return {"exp_avg": d, "exp_avg_sq": d - sum(block.size for block in self.chosen(blocks()))}
