"""The step from the slow model towards the mixed one: the outer optimiser, an axis that every algorithm has.

z is the slow model, y what the communication made of the models. The step is written around y, so that lr=1 without momentum
gives y to the bit. It acts on each row by itself: with W = J all rows are equal, and one of them is kept for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coopsgd.errors import RunFailed
from coopsgd.optim import below_one, not_negative, positive
from coopsgd.registry import option, register

if TYPE_CHECKING:
    from torch import Tensor

Memory = tuple["Tensor", ...]
SCALES = ("none", "lr")


def check_scale(scale: str) -> None:
    """ValueError unless it is one."""
    if scale not in SCALES:
        raise ValueError(f"outer.scale: must be one of {', '.join(SCALES)}, got {scale!r}")


@dataclass(frozen=True)
class Outer:
    """What a step from z towards y is. Vectors are all of one shape, (r, d) or (1, d)."""

    lr: float = option(1.0, "the outer learning rate: 1 goes all the way to the mixed model", unit="")

    VECTORS: ClassVar[int] = 0  # how many it remembers

    def __post_init__(self) -> None:
        positive("outer.lr", self.lr)

    @property
    def gains(self) -> tuple[float, float] | None:
        """What one round's displacement is multiplied by, in its own round and in all rounds together; None: it depends."""
        return None

    def begin(self, z: Tensor) -> Memory:
        """What it remembers before the first step."""
        return tuple(z.new_zeros(z.shape) for _ in range(self.VECTORS))

    def step(self, z: Tensor, y: Tensor, memory: Memory, lr: float) -> None:
        """z and the memory after it, in place. lr: the inner rate of the round's last step."""
        raise NotImplementedError

    def step_away(self, z: Tensor, y: Tensor, away: Tensor | None, memory: Memory, lr: float) -> None:
        """The same where z - y may be known (away): numbers so small beside z that y does not show them."""
        self.step(z, y, memory, lr)


@register("momentum", "outer")
@dataclass(frozen=True)
class Momentum(Outer):
    """Heavy-ball momentum over rounds: b <- mu b + (z - y), z <- z - lr b. SlowMo, BMUF, FedAvgM, NoLoCo.

    scale=lr: b in units of a gradient, z - y over the inner rate; it differs from none only where that rate moves.
    """

    momentum: float = option(0.9, "share of the outer velocity that stays from round to round", unit="share")
    scale: str = option(
        "none", "what a round's displacement is divided by before it is kept: none; lr, the inner rate", words=SCALES
    )

    VECTORS: ClassVar[int] = 1
    NESTEROV: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        below_one("outer.momentum", self.momentum)
        check_scale(self.scale)

    @property
    def gains(self) -> tuple[float, float] | None:
        return self.lr * (1 + self.momentum * self.NESTEROV), self.lr / (1 - self.momentum)

    def step(self, z: Tensor, y: Tensor, memory: Memory, lr: float) -> None:
        from coopsgd.fleet.compiled import outer_step  # which imports torch

        (b,), mu = memory, self.momentum
        rate = 1.0 if self.scale == "none" else lr
        if not rate:
            raise RunFailed(
                "outer.scale=lr: the learning rate of the round's last step is 0, by which its displacement would be divided; "
                "use outer.scale=none, or a schedule whose rate stays above 0"
            )
        if outer_step(z, y, b, self.lr, mu, rate, self.NESTEROV):
            return
        away = z - y
        z.copy_(y).add_(away, alpha=1 - self.lr)
        if not self.NESTEROV:
            z.add_(b, alpha=-self.lr * mu * rate)
        b.mul_(mu).add_(away, alpha=1 / rate)
        if self.NESTEROV:
            z.add_(b, alpha=-self.lr * mu * rate)


@register("sign", "outer")
@dataclass(frozen=True)
class Sign(Outer):
    """A step of one size in each coordinate: z <- (1 - lr weight_decay) z - lr sign(z - y), lr times the inner rate (scale=lr).

    DeMo. An inner optimiser's decay would be part of z - y, whose size does not count here.
    """

    scale: str = option("lr", "what the step is multiplied by: none; lr, the inner rate", words=SCALES)
    weight_decay: float = option(0.0, "share of the model that is taken off it, times the rate of the step", unit="")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.scale)
        not_negative("outer.weight_decay", self.weight_decay)

    def step(self, z: Tensor, y: Tensor, memory: Memory, lr: float) -> None:
        self.step_away(z, y, None, memory, lr)

    def step_away(self, z: Tensor, y: Tensor, away: Tensor | None, memory: Memory, lr: float) -> None:
        sign, rate = (z - y if away is None else away).sign(), self.lr * (lr if self.scale == "lr" else 1.0)
        if self.weight_decay:
            z.mul_(1 - rate * self.weight_decay)
        z.sub_(sign, alpha=rate)


@register("nesterov", "outer")
@dataclass(frozen=True)
class Nesterov(Momentum):
    """Nesterov momentum over rounds, as torch.optim.SGD has it: b <- mu b + (z - y), z <- z - lr (z - y + mu b). DiLoCo."""

    lr: float = option(0.7, "the outer learning rate: 1 goes all the way to the mixed model", unit="")

    NESTEROV: ClassVar[bool] = True


@dataclass(frozen=True)
class Adaptive(Outer):
    """FedOpt: m <- beta1 m + (1 - beta1) D, z <- z + lr m / (sqrt(v) + eps), D = y - z, v a record of D^2 that begins at eps^2.

    Without bias correction, as in Algorithm 2 of arXiv:2003.00295.
    """

    lr: float = option(0.1, "the outer learning rate", unit="")
    beta1: float = option(0.9, "share of the mean displacement that stays from round to round", unit="share")
    eps: float = option(1e-3, "tau of the paper, how adaptive it is: v begins at its square", unit="")

    VECTORS: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        below_one("outer.beta1", self.beta1)
        positive("outer.eps", self.eps)

    def begin(self, z: Tensor) -> Memory:
        return z.new_zeros(z.shape), z.new_full(z.shape, self.eps**2)

    def step(self, z: Tensor, y: Tensor, memory: Memory, lr: float) -> None:
        (m, v), change = memory, y - z
        m.mul_(self.beta1).add_(change, alpha=1 - self.beta1)
        self._record(v, change.square_())
        z.addcdiv_(m, v.sqrt().add_(self.eps), value=self.lr)

    def _record(self, v: Tensor, square: Tensor) -> None:
        """v after a round whose displacement has this square, in place."""
        raise NotImplementedError


@register("adagrad", "outer")
@dataclass(frozen=True)
class Adagrad(Adaptive):
    """FedAdagrad: v <- v + D^2. arXiv:2003.00295."""

    beta1: float = option(0.0, "share of the mean displacement that stays from round to round", unit="share")

    def _record(self, v: Tensor, square: Tensor) -> None:
        v.add_(square)


@register("adam", "outer")
@dataclass(frozen=True)
class Adam(Adaptive):
    """FedAdam: v <- beta2 v + (1 - beta2) D^2. arXiv:2003.00295."""

    beta2: float = option(0.99, "share of the mean squared displacement that stays from round to round", unit="share")

    def __post_init__(self) -> None:
        super().__post_init__()
        below_one("outer.beta2", self.beta2)

    def _record(self, v: Tensor, square: Tensor) -> None:
        v.mul_(self.beta2).add_(square, alpha=1 - self.beta2)


@register("yogi", "outer")
@dataclass(frozen=True)
class Yogi(Adam):
    """FedYogi: v <- v - (1 - beta2) D^2 sign(v - D^2). arXiv:2003.00295."""

    def _record(self, v: Tensor, square: Tensor) -> None:
        v.addcmul_(square, (v - square).sign_(), value=self.beta2 - 1)
