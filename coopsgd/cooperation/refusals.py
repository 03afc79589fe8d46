"""What cannot be cooperated with, refused in one line before anything of it is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from coopsgd.errors import ConfigError


def refuse_modules(modules: Sequence[Any]) -> None:
    """ConfigError unless these are modules whose parameters can be rows."""
    seen: dict[int, int] = {}
    for i, module in enumerate(modules):
        if not isinstance(module, nn.Module):
            raise ConfigError(f"model: must be a torch.nn.Module, or a list of them, got {type(module).__name__}")
        _refuse_wrapped(module)
        for name, p in module.named_parameters():
            _refuse_parameter(name, p)
            if id(p) in seen and seen[id(p)] != i:
                raise ConfigError(f"model: parameter {name} is in two of the {len(modules)} models; each worker needs its own")
            seen[id(p)] = i
        _refuse_overlap(module)
    if not any(p.requires_grad for p in modules[0].parameters()):
        raise ConfigError("model: no parameter requires a gradient, so there is nothing to train; set requires_grad")
    first = structure(modules[0])
    for i, module in enumerate(modules[1:], 1):
        if (other := structure(module)) != first:
            raise ConfigError(f"model: models 0 and {i} differ: {difference(first, other)}; all workers train the same network")


def structure(module: nn.Module) -> list[str]:
    """One line a tensor, which says all that decides where it lies in a row."""
    found = []
    for name, p in module.named_parameters():
        more = ("" if p.requires_grad else ", frozen") + (f", on {p.device.type}" if p.device.type != "cpu" else "")
        found.append(f"{name} {tuple(p.shape)} {_word(p.dtype)}, strides {p.stride()}{more}")
    return found + [f"{name} {tuple(b.shape)} {_word(b.dtype)}, a buffer" for name, b in module.named_buffers()]


def difference(a: Sequence[str], b: Sequence[str]) -> str:
    """The first line in which two lists differ."""
    for one, other in zip_longest(a, b, fillvalue="nothing"):
        if one != other:
            return f"{one} against {other}"
    return "nothing"


def _word(thing: Any) -> str:
    return str(thing).removeprefix("torch.")


def _refuse_wrapped(module: nn.Module) -> None:
    for part in module.modules():
        kind = type(part).__name__
        if kind in ("DistributedDataParallel", "DataParallel"):
            raise ConfigError(f"model: {kind} averages gradients by itself; give the module that it wraps, model.module")
        if "FullyShardedDataParallel" in kind or kind.startswith("FSDP"):
            raise ConfigError(
                f"model: {kind} shards parameters over processes, so no process holds a whole row to mix; not supported"
            )


def _refuse_parameter(name: str, p: Tensor) -> None:
    if isinstance(p, nn.UninitializedParameter):
        raise ConfigError(f"model: parameter {name} has no shape yet (a lazy module); call the model once before")
    if type(p.data).__name__ == "DTensor" or hasattr(p, "placements"):
        raise ConfigError(
            f"model: parameter {name} is a DTensor, sharded or replicated over a mesh, so it cannot be a view of one worker's "
            "row; not supported"
        )
    if p.is_meta:
        raise ConfigError(f"model: parameter {name} is on the meta device and has no values; materialise the model before")
    if p.requires_grad and (not p.is_floating_point() or p.layout is not torch.strided):
        what = _word(p.dtype if p.layout is torch.strided else p.layout)
        raise ConfigError(f"model: parameter {name} is {what}; only dense real numbers can be mixed")


def _refuse_overlap(module: nn.Module) -> None:
    """Two parameters that are one piece of memory, without being one parameter, would come apart."""
    spans = sorted(
        (p.untyped_storage().data_ptr(), p.storage_offset() * p.element_size(), p.numel() * p.element_size(), name)
        for name, p in module.named_parameters()
        if p.requires_grad and p.numel() and p.is_contiguous()
    )
    for (storage, at, size, name), (other, next_at, _, next_name) in pairwise(spans):
        if storage == other and next_at < at + size:
            raise ConfigError(
                f"model: parameters {name} and {next_name} share memory without being one parameter; tie them by assigning one "
                "to both places"
            )


def refuse_optimizers(optimizers: Sequence[Any], modules: Sequence[nn.Module]) -> None:
    """ConfigError unless optimiser i steps parameters of module i and of nothing else."""
    if len(optimizers) != len(modules):
        raise ConfigError(f"optimizer: one for each model, got {len(optimizers)} for {len(modules)}")
    for i, (optimizer, module) in enumerate(zip(optimizers, modules, strict=True)):
        which = f" {i}" if len(modules) > 1 else ""
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(f"optimizer{which}: must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ConfigError(
                "optimizer: LBFGS computes gradients of its own, between which nothing can be mixed; not supported"
            )
        if (kind := type(optimizer).__name__) in ("ZeroRedundancyOptimizer", "PostLocalSGDOptimizer"):
            raise ConfigError(f"optimizer: {kind} sends models or gradients by itself; give the optimiser that it wraps")
        mine = {id(p) for p in module.parameters()}
        for group in optimizer.param_groups:
            for p in group["params"]:
                if id(p) not in mine:
                    raise ConfigError(
                        f"optimizer{which}: steps a parameter of shape {tuple(p.shape)} that model{which} does not have, so it "
                        "would be trained and never mixed; give one module that holds all (nn.ModuleList)"
                    )


def refuse_inference(what: str) -> None:
    """ConfigError where tensors are made that can never be trained."""
    if torch.is_inference_mode_enabled():
        raise ConfigError(f"{what}: not within torch.inference_mode(), whose tensors cannot be trained; call it outside")


def seconds(timeout: Any) -> float:
    """A timeout. ConfigError unless it is a time."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise ConfigError(f"timeout: must be seconds, more than 0, got {timeout!r}")
    return float(timeout)
