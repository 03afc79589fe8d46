"""Which engine for which model: measured, and overridable by `engine=`. Long runs on a GPU measure there (run/engine.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from coopsgd.tasks.engines import dense
from coopsgd.tasks.engines.bmm import Bmm
from coopsgd.tasks.engines.conv import Conv
from coopsgd.tasks.engines.losses import Loss, cross_entropy
from coopsgd.tasks.engines.vmap import Vmap

if TYPE_CHECKING:
    from coopsgd.tasks.gradients import Bound

ENGINES: dict[str, type[Vmap] | type[Bmm] | type[Conv]] = {"vmap": Vmap, "bmm": Bmm, "conv": Conv}

# rows an engine takes at a time, by the type of the device. bmm on a CPU: 4 models and their gradients stay in cache for all
# steps of a round; a step of one worker took 234, 187, 163, 234 and 212 us for 1, 2, 4, 8 and 16 at a time (mlp, one thread).
# Where a compiled kernel computes: as many as dense.py says. On a GPU all of them at once, but for the memory that their
# activations take (`fitted`).
CHUNK = {"cpu": {"loop": 1, "vmap": 8, "bmm": 4, "conv": 1}, "cuda": {"loop": 1, "vmap": 256, "bmm": 256, "conv": 1}}

# The engines auto prefers by kind of model, best first; after them the loop. From `scripts/bench_stacked.py`, batch 32, tau 10,
# worker-steps a second of processor time on 2 cores (AMD EPYC, AVX-512), m = 8, 32, 128, 512:
#
#           separate modules       loop                   vmap                   bmm
#   mlp     1214 1057 1146 997     770 767 854 807        887 1284 1402 1328     1708 1707 1881 2005
#   cnn     47 46 42 47            48 49 54 59            27 29 29 34
#
# One convolution of one worker's batch fills a core, so a loop is as good as it gets; vmap is never the best of what fits.
#
# From `scripts/bench_gpu.py` on a GPU (NVIDIA H200, torch 2.11, float32), when the processor still waited for every copy of a
# batch; ms a step of all m models, medians of 3 (modules: separate ones; torch.func: by hand):
#
#               modules          torch.func       loop             vmap of all      bmm of 4         bmm of all
#   mlp 4       4.46             2.98             5.51             3.98             0.99             0.99
#   mlp 16      15.9             2.95             21.7             3.61             2.96             0.96
#   mlp 64      67.2             2.42             83.4             4.16             10.7             0.89
#   cnn 4       9.89             8.55             10.4             8.49
#   cnn 16      36.9             8.03             39.0             8.11
#   gpt 4       34.3             23.0             37.6             28.1
#   gpt 16      143              27.9             167              37.3
#
# The kernels of one small model leave a GPU idle, and many models at once take about the time of one.
BEST: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {"dense": ("bmm",), "convolutional": ("conv",), "other": ()},
    "cuda": {"dense": ("bmm",), "convolutional": ("vmap",), "other": ("vmap",)},
}
FEW = 4  # rows from which on vmap repays that it loads torch's compiler first
SMALL = 1 << 21  # numbers of the largest network that auto gives to conv: it was not measured on larger ones
LEAST = 8  # samples of a batch from which on conv fills enough of its vectors
SHARE = 0.25  # of a GPU's memory, that vmap may take for the rows it has under way


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


def choose(
    wanted: str,
    bound: Bound,
    amp: str | None = None,
    device: str = "cpu",
    rows: int = FEW,
    loss: Loss = cross_entropy,
    batch: int = LEAST,
) -> Choice:
    """The engine for so many stacked rows of this module. `wanted`: a name, or auto for the table's; device: cpu or cuda."""
    module, chunk = bound.module, CHUNK[device]
    if device == "cpu" and (Bmm.compiled(module) or Conv.cannot(module) is None):
        many = dense.chunk(sum(p.numel() for p in module.parameters()))
        chunk = {**chunk, "bmm": many, "conv": many}
    if wanted == "loop":
        return Choice(wanted, chunk[wanted])
    if wanted == "auto":
        best = (name for name in BEST[device][kind(module)] if _cannot(name, bound, amp, loss) is None)
        small = batch >= LEAST and bound.d <= SMALL
        fit = (name for name in best if (name != "vmap" or rows >= FEW) and (name != "conv" or small))
        name = next(fit, "loop")
        return Choice(name, chunk[name])
    cannot = _cannot(wanted, bound, amp, loss)
    if cannot is not None:
        return Choice("loop", chunk["loop"], f"engine={wanted}: {cannot}; the rows are looped over instead")
    return Choice(wanted, chunk[wanted])


def fitted(choice: Choice, bound: Bound, inputs: Tensor, targets: Tensor, loss: Loss = cross_entropy) -> Choice:
    """vmap on a GPU, after a try on one row and its first batch, (1, batch, ...): as many rows at a time as its memory allows.

    Where torch cannot run this module so: the loop.
    """
    row, memory = bound.flat(), torch.cuda
    engine = Vmap(bound.module)
    engine.loss = loss
    engine.bind(row, torch.empty_like(row))
    try:
        for _ in range(2):  # the first time libraries take memory that they keep
            memory.reset_peak_memory_stats()
            before = memory.memory_allocated()
            engine.gradients(0, 1, inputs, targets)
            taken = memory.max_memory_allocated() - before
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        return Choice("loop", CHUNK["cuda"]["loop"], f"engine=vmap: {why[:200]}; the rows are looped over instead")
    most = int(SHARE * memory.get_device_properties(row.device).total_memory) // max(1, taken)
    return choice._replace(chunk=max(1, min(choice.chunk, most)))


def _cannot(name: str, bound: Bound, amp: str | None, loss: Loss) -> str | None:
    """Why this engine cannot serve; None when it can."""
    return _pinned(name, bound, amp) or ENGINES[name].cannot(bound.module) or _other_loss(name, loss)


def _other_loss(name: str, loss: Loss) -> str | None:
    return "it knows the mean cross entropy alone" if name == "conv" and loss is not cross_entropy else None


def _pinned(name: str, bound: Bound, amp: str | None) -> str | None:
    """What only the loop reproduces exactly, or can do at all."""
    if amp is not None:
        return f"amp={amp} is for the loop"
    if bound.random:
        return "dropout is drawn row by row"
    if bound.stateful:
        return "running statistics are kept row by row"
    if not all(p.requires_grad for p in bound.module.parameters()) or (name != "conv" and not bound.channels_last):
        return "some of its parameters are frozen, or do not lie channels last in a row"
    return None
