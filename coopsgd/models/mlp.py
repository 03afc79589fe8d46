"""A network of linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from coopsgd.models.base import Model, check_dropout, linear, size
from coopsgd.registry import option, register

if TYPE_CHECKING:
    from torch.nn import Module


@register("mlp", "model")
@dataclass(frozen=True)
class MLP(Model):
    """Fully connected, ReLU between the layers; `hidden` lists their widths."""

    hidden: list[int] = option([200], "width of each hidden layer", unit="units")
    dropout: float = option(0.0, "probability that a number is dropped in training", unit="share")

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in self.hidden):
            raise ValueError(f"model.hidden: must list whole numbers of at least 1, got {self.hidden}")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        layers: list[Any] = [nn.Flatten()]
        widths = [size(shape), *self.hidden]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        return linear([size(shape), *self.hidden, classes])
