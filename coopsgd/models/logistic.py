"""Logistic regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coopsgd.models.base import Model, linear, size
from coopsgd.registry import register

if TYPE_CHECKING:
    from torch.nn import Module


@register("logistic", "model")
@dataclass(frozen=True)
class Logistic(Model):
    """Multinomial logistic regression: one linear layer, convex."""

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(size(shape), classes))

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        return linear([size(shape), classes])
