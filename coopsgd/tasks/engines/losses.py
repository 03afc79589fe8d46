"""What is minimised: a loss of (outputs, targets), the mean over a batch, by the name that `task.loss` gives it.

Outputs are (..., classes), targets labels (...) or numbers like the outputs. Where a loss compares numbers (mse, huber, bce),
a label stands for 1 at its class and 0 elsewhere. The mean is over samples, and over their numbers where there are several.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """In nats, of labels."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), label_smoothing=label_smoothing)


def total(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The sum over the samples of a batch, of tokens where each is one: `targets.numel()` times the mean."""
    if loss is cross_entropy:
        return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")
    return loss(outputs, targets) * targets.numel()


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared difference."""
    return nn.functional.mse_loss(outputs, numbers(outputs, targets))


def huber(outputs: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
    """Half the squared difference up to delta, beyond it delta times what it grows by."""
    return nn.functional.huber_loss(outputs, numbers(outputs, targets), delta=delta)


def bce(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of each output, as a logit, in nats."""
    return nn.functional.binary_cross_entropy_with_logits(outputs, numbers(outputs, targets))


def numbers(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the shape and dtype of the outputs: a label is 1 at its class and 0 elsewhere."""
    if targets.ndim < outputs.ndim:
        targets = targets[..., None] == torch.arange(outputs.shape[-1], device=outputs.device)
    return targets.to(outputs.dtype)


def made(name: str, label_smoothing: float = 0.0, huber_delta: float = 1.0) -> Loss:
    """The loss of this name, or module:function: a function of (outputs, targets), or a class made without arguments."""
    if name == "cross_entropy":
        return partial(cross_entropy, label_smoothing=label_smoothing) if label_smoothing else cross_entropy
    if name == "huber":
        return partial(huber, delta=huber_delta)
    if name in ("mse", "bce"):
        return {"mse": mse, "bce": bce}[name]
    own = _own(name)
    return lambda outputs, targets: own(outputs, targets).reshape(())


def _own(name: str) -> Loss:
    """A user's function, or what the class makes."""
    from coopsgd.registry import imported

    found: Any = imported("loss", name, "task.loss")
    loss: Loss = found() if isinstance(found, type) else found
    return loss


def fault(name: str, classes: int, kind: str = "label", mapped: bool = False) -> str | None:
    """Why a user's loss cannot be trained with; None when it can. Tried on three samples, whose targets are of this kind.

    kind: label, labels or numbers, as in data/base.py; classes: how many outputs there are; mapped: is it for engine=vmap?
    """
    outputs = torch.linspace(0.05, 0.95, 3 * classes, dtype=torch.float64).view(3, classes)  # as logits, and as shares
    targets = torch.arange(1, 4) % classes
    if kind != "label":
        targets = torch.arange(3 * classes, dtype=torch.uint8).view(3, classes) % 2
    if kind == "numbers":
        targets = targets.to(outputs.dtype)
    try:
        loss = _own(name)
        return _fault(loss, outputs, targets) or (_unmapped(loss, outputs, targets) if mapped else None)
    except KeyError as error:
        return str(error.args[0]).removeprefix(f"loss {name!r}: ")
    except Exception as error:
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text[:200]}"


def _unmapped(loss: Loss, outputs: Tensor, targets: Tensor) -> str | None:
    """Why torch.func cannot map it over models."""
    two = torch.stack([outputs, outputs.flip(0)]), torch.stack([targets, targets.flip(0)])
    try:
        torch.func.vmap(torch.func.grad_and_value(lambda leaf, given: loss(leaf, given).reshape(())))(*two)
    except Exception as error:
        return f"torch cannot map it over models ({' '.join(str(error).split())[:120]}); use engine=loop"
    return None


def _fault(loss: Loss, outputs: Tensor, targets: Tensor) -> str | None:
    if isinstance(loss, nn.Module) and next(loss.parameters(), None) is not None:
        return "has parameters of its own, which nobody would train; keep them in the model, or as buffers"
    given, leaf = targets.clone(), outputs.clone().requires_grad_()
    found: Any = loss(leaf, given)
    if not isinstance(found, Tensor) or found.numel() != 1:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        return (
            f"returned {what} for outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}; return their mean, a "
            "tensor of one number"
        )
    if not found.requires_grad:
        return "returned a number that does not depend on the outputs; return a tensor that can be differentiated"
    found.backward()
    if not torch.equal(given, targets):
        return "changed the targets it was given; work on a copy of them"
    once, again = found.item(), loss(outputs.clone(), targets.clone()).item()
    if not math.isfinite(once):
        return f"returned {once} for outputs between 0 and 1"
    if again != once:
        return "returned another number for the same outputs; it must not draw or count, else no run could be repeated"
    doubled = loss(outputs.repeat(2, 1), targets.repeat(2, *[1] * (targets.ndim - 1))).item()
    if math.isclose(doubled, 2 * once, rel_tol=1e-6) and once:
        return "returned the sum over the batch, for it doubles with the batch; return the mean"
    return None
