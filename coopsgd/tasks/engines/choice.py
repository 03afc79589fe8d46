"""Which engine for which model: measured, and overridable by `engine=`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from coopsgd.tasks.engines.bmm import Bmm
from coopsgd.tasks.engines.vmap import Vmap

if TYPE_CHECKING:
    from coopsgd.tasks.gradients import Bound

ENGINES: dict[str, type[Vmap] | type[Bmm]] = {"vmap": Vmap, "bmm": Bmm}

# rows an engine takes at a time. bmm: 4 models and their gradients stay in cache for all steps of a round; a step of one
# worker took 234, 187, 163, 234 and 212 us for 1, 2, 4, 8 and 16 at a time (mlp, one thread)
CHUNK = {"loop": 1, "vmap": 8, "bmm": 4}

# The engines auto prefers by kind of model, best first; after them the loop. From `scripts/bench_stacked.py`, batch 32, tau 10,
# worker-steps a second of processor time on 2 cores (AMD EPYC, AVX-512), m = 8, 32, 128, 512:
#
#           separate modules       loop                   vmap                   bmm
#   mlp     1214 1057 1146 997     770 767 854 807        887 1284 1402 1328     1708 1707 1881 2005
#   cnn     47 46 42 47            48 49 54 59            27 29 29 34
#
# One convolution of one worker's batch fills a core, so a loop is as good as it gets; vmap is never the best of what fits.
BEST: dict[str, tuple[str, ...]] = {"dense": ("bmm",), "convolutional": (), "other": ()}


class Choice(NamedTuple):
    """An engine and why it is another than asked for."""

    name: str
    chunk: int
    note: str | None = None


def kind(module: nn.Module) -> str:
    """dense, convolutional or other: what the table distinguishes."""
    if Bmm.cannot(module) is None:
        return "dense"
    return "convolutional" if any(isinstance(part, nn.Conv2d) for part in module.modules()) else "other"


def choose(wanted: str, bound: Bound, amp: str | None = None) -> Choice:
    """The engine for stacked rows of this module. `wanted`: a name, or auto for the table's."""
    module = bound.module
    cannot = _pinned(bound, amp)
    if wanted == "auto":
        fit = (name for name in BEST[kind(module)] if cannot is None and ENGINES[name].cannot(module) is None)
        name = next(fit, "loop")
        return Choice(name, CHUNK[name])
    if wanted != "loop":
        cannot = cannot or ENGINES[wanted].cannot(module)
        if cannot is not None:
            return Choice("loop", CHUNK["loop"], f"engine={wanted}: {cannot}; the rows are looped over instead")
    return Choice(wanted, CHUNK[wanted])


def _pinned(bound: Bound, amp: str | None) -> str | None:
    """What only the loop reproduces exactly, or can do at all."""
    if amp is not None:
        return f"amp={amp} is for the loop"
    if bound.random:
        return "dropout is drawn row by row"
    if bound.stateful:
        return "running statistics are kept row by row"
    if not bound.channels_last or not all(p.requires_grad for p in bound.module.parameters()):
        return "some of its parameters are frozen, or lie in a row as its own code wants them"
    return None
