"""The parameters of a module as blocks of a row, and which of them are matrices of hidden layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from coopsgd.fleet.block import Block

if TYPE_CHECKING:
    from torch.nn import Module


Learned = tuple[str, Sequence[int], bool]  # name, shape, whether it is the weight of a hidden layer


def learned(module: Module) -> list[Learned]:
    """Every parameter of a module that is trained. One whose tensors are on the meta device will do."""
    inside = hidden(module)
    return [(name, [*p.shape], id(p) in inside) for name, p in module.named_parameters() if p.requires_grad]


def laid(parameters: Iterable[Learned], channels_last: bool) -> tuple[Block, ...]:
    """These, one behind the other in a row; weights of convolutions channels last if asked."""
    found: list[Block] = []
    for name, shape, inside in parameters:
        start = found[-1].stop if found else 0
        found.append(Block(name, tuple(shape), _strides(shape, channels_last), start, inside))
    return tuple(found)


def _strides(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    """Of a parameter that lies in a row."""
    order = (1, 3, 2, 0) if len(shape) == 4 and channels_last else range(len(shape))[::-1]
    found, step = [0] * len(shape), 1
    for i in order:
        found[i] = step
        step *= max(1, shape[i])
    return tuple(found)


def hidden(module: Module) -> set[int]:
    """The ids of the parameters that are weights of hidden layers.

    What has two dimensions or more, and is not: an embedding (or tied to one); a normalisation's; the last such weight in the
    order in which layers were made, which gives the outputs; the first, if it is a convolution, which reads the image. A first
    linear layer is hidden. Of parameters that are no known layer's, matrices are, unless their name says embedding.
    """
    from torch import nn

    layers: list[tuple[Any, Any]] = []  # owner, weight, in order; tied ones come twice
    not_hidden: set[int] = set()
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is None:
                continue
            if isinstance(part, nn.Embedding | nn.EmbeddingBag) or _is_norm(part) or p.dim() < 2:
                not_hidden.add(id(p))
            elif _is_weight(part, name, p):
                layers.append((part, p))
    if layers:
        not_hidden.add(id(layers[-1][1]))
        first, weight = next((layer for layer in layers if isinstance(layer[0], _known())), layers[0])
        if isinstance(first, nn.modules.conv._ConvNd):
            not_hidden.add(id(weight))
    return {id(p) for _, p in layers} - not_hidden


def _is_norm(part: Any) -> bool:
    return "norm" in type(part).__name__.lower()


def _is_weight(part: Any, name: str, p: Any) -> bool:
    """Is it what a layer multiplies its inputs by?"""
    if isinstance(part, _known()):
        return "bias" not in name
    return (
        p.dim() == 2 and min(p.shape) > 1 and not any(word in name.lower() for word in ("embed", "token", "position", "bias"))
    )


def _known() -> tuple[type, ...]:
    """Layers that have weights."""
    from torch import nn

    return nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention
