"""Networks that others wrote: torchvision's by name, yours by import path. Tried out before any process starts."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from coopsgd.host.child import ChildFailed, answer_of
from coopsgd.models.base import Convolutional, statistics_of
from coopsgd.models.blocks import Learned, laid, learned
from coopsgd.registry import did_you_mean, imported, is_function, option, register
from coopsgd.setup.schema import DTYPES

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from coopsgd.fleet.block import Block

MODULE = "torch.nn.modules.module.Module"  # known by its name: refusing a class must not import torch


@dataclass(frozen=True)
class Seen:
    """What trying a network on a batch of two has shown."""

    parameters: int
    statistics: int
    channels_last: bool  # it also works when its convolutions' weights lie channels last
    unfit: dict[str, str]  # dtypes in which it cannot be trained, and why
    learned: list[Learned]


_seen: dict[str, Seen] = {}
_had: set[str] = set()  # weights that are in torch's cache


@dataclass(frozen=True)
class External(Convolutional):
    """A network this package knows nothing of. Processes forked after the look inherit what was seen and imported."""

    def fetch(self) -> Any:
        """Import what the network needs. ValueError when it cannot be had."""
        raise NotImplementedError

    def check(self, shape: tuple[int, ...], classes: int, batch_size: int) -> None:
        if not self._look(shape, classes, batch_size).channels_last and self.memory_format == "channels_last":
            raise ValueError(
                f"model.memory_format: the code of {_name(self)} cannot take channels_last, for it views tensors as contiguous "
                "ones; use contiguous, or auto"
            )

    def unfit(self, shape: tuple[int, ...], classes: int, dtype: str) -> str | None:
        why = self._look(shape, classes).unfit.get(dtype)
        return why and f"{_name(self)}: cannot be trained with dtype={dtype}: {why}"

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        return self._look(shape, classes).parameters

    def statistics(self, shape: tuple[int, ...], classes: int) -> int:
        return self._look(shape, classes).statistics

    def channels_last(self, shape: tuple[int, ...], classes: int) -> bool:
        return super().channels_last(shape, classes) and self._look(shape, classes).channels_last

    def blocks(self, shape: tuple[int, ...], classes: int) -> tuple[Block, ...]:
        return laid(self._look(shape, classes).learned, self.channels_last(shape, classes))

    def _look(self, shape: tuple[int, ...], classes: int, batch_size: int = 2) -> Seen:
        batch = min(2, batch_size)
        key = repr((replace(self, memory_format="auto"), tuple(shape), classes, batch))
        if key not in _seen:
            self.fetch()
            _seen[key] = _seen_apart(self, tuple(shape), classes, batch)
        return _seen[key]


@register("torchvision", "model")
@dataclass(frozen=True)
class TorchVision(External):
    """Any of torchvision's classification networks by name; its BatchNorm stays BatchNorm. See `norm_stats`.

    arguments: more of its keyword arguments. Grey images are shown to it as three equal colours. weights: trained ones of
    torchvision's, downloaded once into torch's cache, for data of as many classes.
    """

    arch: str = option("resnet18", "its name in torchvision.models")
    arguments: Any = option({}, "of that class or function, as in {width: 2}", type="dict")
    weights: Any = option(
        None, "to begin with, by torchvision's name for them, as DEFAULT; null: untrained", type="text or null"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_arguments(self.arguments, "{width_per_group: 128}")

    def _look(self, shape: tuple[int, ...], classes: int, batch_size: int = 2) -> Seen:
        if self.weights is not None:
            self._have(classes)
        return super()._look(shape, classes, batch_size)

    def _have(self, classes: int) -> None:
        """Weights of that name are in torch's cache. ValueError when there are none for so many classes, or none to be had."""
        found, key = self._chosen(), repr((self.arch, self.weights))
        if (many := len(found.meta["categories"])) != classes:
            raise ValueError(
                f"model.weights: {self.weights} of {self.arch} tells {many} classes apart, the data has {classes}; leave "
                "model.weights out, or begin with a file of your own by start="
            )
        if key in _had:
            return
        try:
            answer_of(lambda: bool(found.get_state_dict(progress=False, check_hash=True)))
        except (ValueError, ChildFailed) as error:
            raise ValueError(
                f"model.weights: {self.weights} of {self.arch} cannot be had ({error}); where there is no network, put "
                f"{found.url} into torch's cache, or leave model.weights out"
            ) from None
        _had.add(key)

    def _chosen(self) -> Any:
        """The weights of that name. ValueError when torchvision has none."""
        known = self.fetch().get_model_weights(self.arch)
        names = [*known.__members__]
        if isinstance(self.weights, str) and self.weights in (*names, "DEFAULT"):
            return known[self.weights]
        hint = did_you_mean(str(self.weights), [*names, "DEFAULT"])
        raise ValueError(
            f"model.weights: torchvision has no {self.weights!r} of {self.arch}{hint}; it has {', '.join(names) or 'none'}"
        )

    def fetch(self) -> Any:
        import torchvision.models as models  # with torch's compiler in tow: 2 s, so nobody else imports it

        known = models.list_models(module=models)
        if self.arch not in known:
            raise ValueError(
                f"model.arch: torchvision has no {self.arch!r}{did_you_mean(self.arch, known)}; it has {_few(known)}"
            )
        return models

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        trained = {} if self.weights is None else {"progress": False}
        weights = None if self.weights is None else self._chosen()
        network = self.fetch().get_model(self.arch, weights=weights, num_classes=classes, **trained, **self.arguments)
        if shape[0] != 1:
            return network
        from coopsgd.modules.convolutional import Coloured

        return Coloured(network)


@register("custom", "model")
@dataclass(frozen=True)
class Custom(External):
    """Your network: `path` is module:Class (or module:function) and `arguments` its keyword arguments; any torch module.

    It takes (batch, channels, height, width) and gives (batch, classes) logits. A file beside you is importable.
    """

    path: Any = option(None, "of the network: a class of modules, or a function that gives one", type="module:Class")
    arguments: Any = option({}, "of that class or function, as in {width: 2}", type="dict")

    IMPORTS = ("path",)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_arguments(self.arguments, "{width: 64}")

    def fetch(self) -> Any:
        if not isinstance(self.path, str) or self.path.count(":") != 1:
            raise ValueError(f"model.path: must be module:Class, importable from here, got {self.path!r}")
        try:
            found = imported("model.path", self.path)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        modules = isinstance(found, type) and any(f"{c.__module__}.{c.__name__}" == MODULE for c in found.__mro__)
        if not modules and not is_function(found):
            what = "a class, but none of torch.nn.Module" if isinstance(found, type) else f"a {type(found).__name__}"
            raise ValueError(f"model.path: {self.path} is {what}; name a class of modules or a function that returns one")
        return found

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        return self.fetch()(**self.arguments)


def _check_arguments(arguments: Any, example: str) -> None:
    if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
        raise ValueError(f"model.arguments: must be names with values, as in 'model.arguments={example}', got {arguments!r}")


def _few(known: list[str]) -> str:
    return f"{', '.join(known[:8])} and {len(known) - 8} more"


def _seen_apart(model: External, shape: tuple[int, ...], classes: int, batch: int) -> Seen:
    """Look at it in a child: one that has computed anything should not fork workers, and this process will. ValueError."""
    try:
        return Seen(**answer_of(lambda: _told(model, shape, classes, batch)))
    except (ValueError, ChildFailed) as error:
        raise ValueError(f"{_name(model)}: {error}") from None


def _told(model: External, shape: tuple[int, ...], classes: int, batch: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        try:
            return asdict(_tried(model, shape, classes, batch, channels_last=True))
        except RuntimeError as error:  # .view() on what lies channels last, most likely
            if "view" not in str(error):
                raise
            return asdict(_tried(model, shape, classes, batch, channels_last=False))
    except _Unfit:
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


class _Unfit(ValueError):
    """It works, but cannot be trained here; said in our own words."""


def _tried(model: External, shape: tuple[int, ...], classes: int, batch: int, channels_last: bool) -> Seen:
    import torch

    torch.manual_seed(0)
    module = model.build(shape, classes)
    if not isinstance(module, torch.nn.Module):
        raise _Unfit(
            f"gives a {type(module).__name__}, not a torch.nn.Module; name a class of modules or a function returning one"
        )
    if any(torch.nn.parameter.is_lazy(p) for p in module.parameters()):
        raise _Unfit("has lazy layers, whose sizes are not known before training; give them their sizes")
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise _Unfit("has no parameters to train")
    for p in parameters:
        if p.dim() == 4 and channels_last:
            p.data = p.data.to(memory_format=torch.channels_last)
    statistics = sum(b.numel() for b in statistics_of(module).values())
    unfit: dict[str, RuntimeError] = {}
    for dtype in DTYPES:
        try:
            _step(module.to(getattr(torch, dtype)), torch.zeros(batch, *shape, dtype=getattr(torch, dtype)), classes)
        except RuntimeError as error:
            if channels_last and "view" in str(error):
                raise
            unfit[dtype] = error
    if len(unfit) == len(DTYPES):
        raise unfit[DTYPES[0]]
    why = {dtype: " ".join(str(error).split())[:500] for dtype, error in unfit.items()}
    return Seen(sum(p.numel() for p in parameters), statistics, channels_last, why, learned(module))


def _step(module: Module, inputs: Tensor, classes: int) -> None:
    """Forward and backward of a batch, without a loss."""
    import torch

    logits, wanted = module.train()(inputs), (len(inputs), classes)
    if not isinstance(logits, torch.Tensor):
        raise _Unfit(f"gives {type(logits).__name__} for a batch, not a tensor of logits")
    if tuple(logits.shape) != wanted:
        batch, shape = len(inputs), tuple(inputs.shape[1:])
        raise _Unfit(
            f"gives shape {tuple(logits.shape)} for a batch of {batch} samples {shape}, not {wanted} logits, one a class"
        )
    if not logits.requires_grad:
        raise _Unfit("gives logits without a gradient (detached, or made under no_grad), so nothing can be learned")
    logits.sum().backward()


def _name(model: External) -> str:
    return f"model {getattr(model, 'arch', None) or getattr(model, 'path', None)}"
