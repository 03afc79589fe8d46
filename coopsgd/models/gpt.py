"""A small language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coopsgd.host import sizes
from coopsgd.models.base import Model, check_dropout, linear
from coopsgd.registry import option, register

if TYPE_CHECKING:
    from torch.nn import Module


@register("gpt", "model")
@dataclass(frozen=True)
class GPT(Model):
    """Decoder-only transformer on characters, pre-LayerNorm (1.0 M parameters on about 100 characters). Radford et al. 2019."""

    layers: int = option(5, "blocks of attention and a dense network, one after the other", unit="blocks")
    heads: int = option(4, "of attention in each block; they divide the width", unit="heads")
    width: int = option(128, "numbers that stand for a character between blocks", unit="numbers")
    context: int = option(128, "what it sees of the text before", unit="characters")
    dropout: float = option(0.0, "probability that a number is dropped in training", unit="share")

    INPUT = "tokens"

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        for name in ("layers", "heads", "width", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}: must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"model.width: must be a multiple of model.heads={self.heads}, got {self.width}")

    def check(self, shape: tuple[int, ...], classes: int, batch_size: int) -> None:
        each = 30e3  # bytes of the modules of a layer, whatever its width
        sizes.refuse("model.layers", each * self.layers, f"{self.layers} layers", "lower it")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from coopsgd.modules import transformer

        return transformer.GPT(classes, self.context, self.layers, self.heads, self.width, self.dropout)

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        w = self.width
        block = 2 * 2 * w + linear([w, 3 * w]) + linear([w, w]) + linear([w, 4 * w, w])
        return (2 * classes + self.context) * w + self.layers * block + 2 * w
