"""A user's optimisers where the loop has its own (loop/inner.py): they take the steps, and their state stays theirs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coopsgd.cooperation.modules import Modules
from coopsgd.errors import ConfigError, RunFailed
from coopsgd.loop.blocks import blocks_of
from coopsgd.optim import SQUARES


class SeveralRates(NamedTuple):
    """In place of the learning rate, where there is not one: whoever computes with it is told so."""

    rates: tuple[float, ...]

    def refuse(self, *_: Any) -> Any:
        """RunFailed."""
        rates = ", ".join(f"{rate:g}" for rate in self.rates)
        raise RunFailed(
            f"this algorithm or period computes with the learning rate, and the optimiser has several ({rates}); give all its "
            "parameter groups one rate, or choose an algorithm that needs none"
        )


COMPUTE = "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv pow rpow neg lt le gt ge float"
for _name in COMPUTE.split():
    setattr(SeveralRates, f"__{_name}__", SeveralRates.refuse)


class Optimizers:
    """One optimiser a worker of this process, behind the methods of loop/inner.py's Inner.

    writes: is what they step along another gradient than the user's? buffers: are their buffers mixed (buffers=average)?
    alone: are all workers in this process?
    """

    plain = False
    fusable = False

    def __init__(
        self, optimizers: Sequence[torch.optim.Optimizer], modules: Modules, writes: bool, buffers: bool, alone: bool
    ) -> None:
        self._optimizers, self._modules, self._writes, self._alone = optimizers, modules, writes, alone
        if writes and any(isinstance(optimizer, torch.optim.SparseAdam) for optimizer in optimizers):
            raise ConfigError(
                "optimizer: SparseAdam takes sparse gradients, and this algorithm makes dense ones of them; use Adam"
            )
        self._x: Any = None
        self.names = (
            sorted(set().union(*(_kept(group, optimizers[0]) for group in optimizers[0].param_groups))) if buffers else []
        )
        self.scaler: Any = None
        self.take: Callable[[], Any] | None = None  # what takes the step in place of optimizer and scaler

    def at(self, settings: Any, schedule: Any, x: Any, workers: int, steps: int, blocks: Any = tuple) -> Optimizers:
        """As the loop makes its own, for the rows x."""
        self._x = x
        return self

    @property
    def lr(self) -> Any:
        """The learning rate of the coming step; where there are several, a SeveralRates."""
        rates = {float(group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups if "lr" in group}
        return rates.pop() if len(rates) == 1 else SeveralRates(tuple(sorted(rates)))

    def step(self, x: Any, direction: Any, active: Any = None) -> Any:
        """A step of each active worker along its gradient, or along what the strategy made of it."""
        for i, optimizer in enumerate(self._optimizers):
            if active is not None and not active[i]:
                self._nothing_found(i)
                continue
            if self._writes:
                self._put(optimizer, direction, i)
            elif self._modules.resting:
                continue
            if self.take is not None:
                self._taken(i, self.take)
            elif self.scaler is None:
                if not self._modules.resting or all(bool(block.isfinite().all()) for block in blocks_of(direction)):
                    optimizer.step()  # where others skip a step, who rests skips it too
            else:
                self.scaler.step(optimizer)
        return x

    def _taken(self, i: int, take: Callable[[], Any]) -> None:
        """A step by the user's function. RunFailed when it computes other gradients than those that the algorithm made."""
        hooks = [
            p.register_post_accumulate_grad_hook(_refuse_gradient)
            for p, _ in (self._modules.views(self._x, i) if self._writes else ())
        ]
        try:
            take()
        finally:
            for hook in hooks:
                hook.remove()

    def in_place(self) -> None:
        """RunFailed when an optimiser steps what is in no module."""
        for optimizer, module in zip(self._optimizers, self._modules.modules, strict=True):
            mine = {id(p) for p in module.parameters()}
            for p in (p for group in optimizer.param_groups for p in group["params"]):
                if id(p) not in mine:
                    raise RunFailed(
                        f"the optimiser steps a parameter of shape {tuple(p.shape)} that came to it after the Cooperation was "
                        "made and is not the model's, so it would be trained and never mixed; make the Cooperation afterwards, "
                        "of one module that holds all"
                    )

    def _put(self, optimizer: torch.optim.Optimizer, direction: Any, i: int) -> None:
        """Make a direction the gradients of module i; one that is not finite is what a scaler skips."""
        for name, p, value in self._modules.named(direction, i):
            if name in self._modules.unused and not value.any() and (self._alone or bool(torch.signbit(value).all())):
                p.grad = None  # nobody has used it: no momentum, no decay moves it
                continue
            if p.grad is None or p.grad.is_sparse:
                p.grad = torch.empty_like(p)
            p.grad.copy_(value)
        if self.scaler is not None and self.scaler.is_enabled():
            self._nothing_found(self._optimizers.index(optimizer))
            for found in self.scaler._found_inf_per_device(optimizer).values():  # asked and kept on the device
                found.zero_()
                for block in blocks_of(direction):
                    found.logical_or_(block.isfinite().all().logical_not().to(found.device, non_blocking=True))

    def _nothing_found(self, i: int) -> None:
        """A scaler's update asks what its step has found: nothing, where none was taken."""
        if self.scaler is not None and self.scaler.is_enabled():
            device = blocks_of(self._x)[0].device
            if self.scaler._scale is None:
                self.scaler._lazy_init_scale_growth_tracker(device)
            state = self.scaler._per_optimizer_states[id(self._optimizers[i])]
            if not state["found_inf_per_device"]:
                state["found_inf_per_device"] = {device: torch.zeros((), device=device)}

    def unscale(self) -> None:
        """Have the true gradients in the modules, for who reads them before the step."""
        if self.scaler is not None and self.scaler.is_enabled() and self._writes and not self._modules.resting:
            for optimizer in self._optimizers:
                if self.scaler._per_optimizer_states[id(optimizer)]["stage"] is torch.amp.grad_scaler.OptState.READY:
                    self.scaler.unscale_(optimizer)

    def advance(self, ended: bool = False) -> None:
        """Nothing: schedules are the user's."""

    @property
    def count(self) -> int:
        """How many kinds of buffers there are."""
        return len(self.names)

    def stacked(self, some: Sequence[int] | None = None) -> list[Tensor]:
        """What the optimisers keep beside each parameter, all or some of it, in rows like the models'; 0 for nothing."""
        found: list[Tensor] = []
        for name in [self.names[at] for at in (range(self.count) if some is None else some)]:
            rows = [torch.zeros_like(block) for block in blocks_of(self._x)]
            for i, optimizer in enumerate(self._optimizers):
                for p, place in self._modules.views(_like(self._x, rows), i):
                    value = optimizer.state.get(p, {}).get(name)
                    if value is not None:
                        place.copy_(value)
            found += rows
        return found

    def put(self, stacked: Sequence[Tensor], some: Sequence[int] | None = None) -> None:
        """Make these rows the buffers, all or those at these places, in the order of `stacked`."""
        n = len(blocks_of(self._x))
        for at, name in enumerate([self.names[at] for at in (range(self.count) if some is None else some)]):
            rows = stacked[at * n : (at + 1) * n]
            for i, optimizer in enumerate(self._optimizers):
                for p, value in self._modules.views(_like(self._x, rows), i):
                    mine = optimizer.state.get(p, {}).get(name)
                    if mine is not None:
                        mine.copy_(value.clamp(min=0) if name in SQUARES else value)

    def reset(self) -> None:
        """Forget all buffers and step counts."""
        for optimizer in self._optimizers:
            optimizer.state.clear()

    def saved(self) -> dict[str, Any]:
        """Nothing: their state is the user's to save."""
        return {}

    def restore(self, tree: dict[str, Any], k: int) -> None:
        """Nothing."""


def _refuse_gradient(_: Tensor) -> None:
    raise RunFailed(
        "step: the function that takes the step computes gradients of its own, and this algorithm steps along another one, so "
        "workers would come apart; use an algorithm that mixes models (algo=pasgd tau=1)"
    )


def _like(x: Any, rows: Sequence[Tensor]) -> Any:
    """Rows, in blocks where x is."""
    return type(x)(rows) if isinstance(x, tuple) else rows[0]


def _kept(group: dict[str, Any], optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of the vectors that an optimiser keeps of a parameter, found by a step of another of its class."""
    trial = torch.nn.Parameter(torch.zeros(2, 3))
    trial.grad = torch.ones(2, 3)
    taken = inspect.signature(type(optimizer)).parameters
    anything = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    options = {name: value for name, value in group.items() if name in optimizer.defaults and (anything or name in taken)}
    try:
        other = type(optimizer)([trial], **options)
        other.step()
    except Exception as error:
        kind = type(optimizer).__name__
        raise ConfigError(
            f"buffers=average: what {kind} keeps could not be found out ({error}); use buffers=keep or reset"
        ) from None
    return {name for name, value in other.state[trial].items() if torch.is_tensor(value) and value.shape == trial.shape}
