"""What a message holds: an axis. A codec makes of the numbers of a row a packed buffer of a length that all know, and back.

It acts on segments of a row, each with its own scale, norm or largest values: a parameter (per=tensor), runs of `chunk` numbers
of one (per=chunk), or the whole row. Segments of one length are worked on together, as (r, s, L).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from coopsgd.mixing.static import takes_mean
from coopsgd.registry import of_run, option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from coopsgd.fleet.block import Block
    from coopsgd.mixing.base import Mixing
    from coopsgd.strategies.coder import Coder

PER = ("tensor", "chunk", "row")
RULES = ("auto", "slow", "choco", "deepsqueeze", "rounded")
OVER = ("all", "senders")
Segments = tuple[tuple[tuple[int, ...], int], ...]  # (starts, L): segments of one length, L columns from each start on
Draws = Sequence["np.random.Generator"]
TABLE = 8  # bits of a table of means: at more it outweighs what it stands for


@dataclass(frozen=True)
class Codec:
    """What all have in common. Sizes are in bytes; v and what is unpacked are (r, s, L)."""

    rule: str = option(
        "auto",
        "what is compressed: slow, the difference to the slow model that all share; choco, that to public copies; deepsqueeze, "
        "the model itself; rounded, the model, nothing kept back; auto: slow where W = J, choco for another fixed W, else "
        "rounded",
        words=RULES,
        kw_only=True,
    )
    gamma: float = option(1.0, "of choco and deepsqueeze: how far to go towards the neighbours", unit="share", kw_only=True)
    feedback: Any = option(
        "auto",
        "of slow: add what a message left out to the next; auto: where the codec leaves out",
        type="bool or auto",
        words=("auto",),
        kw_only=True,
    )
    decay: float = option(
        1.0, "of feedback: share of what was left out that stays from round to round", unit="share", kw_only=True
    )
    over: str = option(
        "all",
        "of slow: the mean is over all workers, or at each coordinate over those that sent it (senders)",
        words=OVER,
        kw_only=True,
    )
    seed: int = of_run("seed", 0, kw_only=True)

    LOSES: ClassVar[bool] = True  # does it leave out so much that it must be kept?
    SPARSE: ClassVar[bool] = False  # are there coordinates that a message does not hold?
    DRAWS: ClassVar[bool] = False  # is it random?
    SUMS: ClassVar[bool] = False  # rule=slow: is what all say found by averages of what each makes of its own?
    REMEMBERS: ClassVar[bool] = False  # does it begin where its last message ended?

    def __post_init__(self) -> None:
        one_of("codec.rule", self.rule, RULES)
        one_of("codec.over", self.over, OVER)
        if self.feedback != "auto" and not isinstance(self.feedback, bool):
            raise ValueError(f"codec.feedback: must be true, false or auto, got {self.feedback!r}")
        for name in ("gamma", "decay"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ValueError(f"codec.{name}: must lie in (0, 1], got {value!r}")
        if self.over == "senders" and not self.SPARSE:
            raise ValueError("codec.over=senders: every worker sends every coordinate with this codec; use over=all")

    def rule_for(self, schedule: Mixing, m: int) -> str:
        """What is compressed where it mixes by this. ValueError when the rule asked for is none for it."""
        fixed = schedule.cycle(m) == 1 and not schedule.num_aux
        average = fixed and takes_mean(schedule)
        rule = self.rule if self.rule != "auto" else "slow" if average else "choco" if fixed else "rounded"
        if rule == "slow" and not average:
            raise ValueError(
                "codec.rule=slow: compresses differences to one model that all share, and W is not the average here; use choco"
            )
        if rule in ("choco", "deepsqueeze") and not fixed:
            raise ValueError(
                f"codec.rule={rule}: neighbours keep copies by one fixed W among workers, and this one moves or has auxiliary "
                "models; use codec=bf16 or fp16 with rule=auto, or a fixed topology, as algo=dpsgd"
            )
        if rule == "rounded" and self.LOSES:
            raise ValueError(
                "with a W that moves or auxiliary models there is nowhere to keep what a message leaves out; use codec=bf16 or "
                "fp16, or a fixed W among workers, as algo=pasgd or algo=dpsgd"
            )
        decays = rule == "deepsqueeze" or (rule == "slow" and self.keeps)
        self._refuse_unused(
            rule, gamma=rule in ("choco", "deepsqueeze"), feedback=rule == "slow", over=rule == "slow", decay=decays
        )
        return rule

    def rule_of_messages(self, schedule: Mixing | None, m: int) -> str:
        """The same for an algorithm that makes its messages by itself (rounding.Rounded): slow where all communications are one
        average, choco where they are by another fixed W among workers, else rounded. ValueError when it cannot be."""
        if self.LOSES:
            raise ValueError("what a message leaves out would be kept for models that W mixes and no more")
        if self.rule in ("slow", "deepsqueeze"):
            raise ValueError(f"codec.rule={self.rule}: is of models that W mixes and no more; use rule=auto")
        if schedule is None or self.rule == "rounded":
            rule = "rounded"
        else:
            fixed = schedule.cycle(m) == 1 and not schedule.num_aux
            rule = "rounded" if not fixed else "slow" if takes_mean(schedule) else "choco"
        if self.rule == "choco" and rule == "rounded":
            raise ValueError(
                "codec.rule=choco: neighbours keep copies by one fixed W among workers, and this one moves or has auxiliary "
                "models; use rule=auto"
            )
        self._refuse_unused(rule, gamma=rule != "rounded", feedback=False, over=False, decay=False)
        return rule

    def _refuse_unused(self, rule: str, **used: bool) -> None:
        for name, some in used.items():
            default = type(self).__dataclass_fields__[name].default
            if not some and getattr(self, name) != default:
                raise ValueError(f"codec.{name}={getattr(self, name)}: has no use with rule={rule}; use codec.{name}={default}")

    @property
    def keeps(self) -> bool:
        """Is there error feedback, under rule=slow?"""
        return self.LOSES if self.feedback == "auto" else bool(self.feedback)

    def segments(self, blocks: Sequence[Block], columns: Tensor | None) -> Segments:
        """The segments of what travels, of all columns of these blocks or of some of them."""
        return _grouped(runs(blocks, columns), 0)

    def check(self, blocks: Sequence[Block], by: str | None) -> None:
        """ValueError when it can do nothing with rows of these blocks. by: how fragments cut them, None where nothing does."""

    def coder(self, blocks: Sequence[Block], columns: Tensor | None, width: int, dtype: torch.dtype, k: int) -> Coder:
        """It on what travels in iteration k: `width` numbers a row, all columns of these blocks or some of them."""
        from coopsgd.strategies.coder import Coder

        return Coder(self, self.segments(blocks, columns), width, dtype, k)

    def begin(self, blocks: Sequence[Block], like: Tensor) -> Tensor:
        """(1, n) what one that REMEMBERS begins with, of the kind of `like`."""
        raise NotImplementedError

    # of segments of one length

    def size(self, s: int, L: int, itemsize: int) -> int:
        """Of the message."""
        raise NotImplementedError

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        """(r, size) bytes. draws: a generator a row; contract: what comes back must be nearer to v than 0 is."""
        raise NotImplementedError

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """What a message says, and which of the numbers it holds, bool; None: all."""
        raise NotImplementedError


def nbytes(count: int, bits: int) -> int:
    """Bytes that so many codes of so many bits fill."""
    return -(-count * bits // 8)


def one_of(name: str, value: Any, words: Sequence[str]) -> None:
    """ValueError unless it is."""
    if value not in words:
        raise ValueError(f"{name}: must be one of {', '.join(words)}, got {value!r}")


def runs(blocks: Sequence[Block], columns: Tensor | None) -> list[tuple[int, int]]:
    """(start, length) of each block in what travels."""
    return [(start, length) for _, start, length in whole(blocks, columns)]


def whole(blocks: Sequence[Block], columns: Tensor | None) -> list[tuple[Block | None, int, int]]:
    """(block, start, length) of each block in what travels; None for a block of which a part stays behind."""
    if columns is None:
        return [(block, block.start, block.size) for block in blocks if block.size]
    import torch

    at = torch.searchsorted(columns, torch.tensor([[block.start, block.stop] for block in blocks])).tolist()
    found = zip(blocks, at, strict=True)
    return [
        (block if stop - start == block.size else None, start, stop - start) for block, (start, stop) in found if stop > start
    ]


def _grouped(found: list[tuple[int, int]], chunk: int) -> Segments:
    """Segments by their length; cut in chunks first, if chunk is not 0."""
    if chunk:
        found = [(at, min(chunk, start + n - at)) for start, n in found for at in range(start, start + n, chunk)]
    ordered = sorted(found, key=lambda one: (one[1], one[0]))
    return tuple((tuple(start for start, _ in some), L) for L, some in groupby(ordered, lambda one: one[1]))


@dataclass(frozen=True)
class Segmented(Codec):
    """One that acts on parts of a row."""

    per: str = option(
        "tensor",
        "what has a scale of its own: tensor, a parameter; chunk, a run of numbers of one; row",
        words=PER,
        kw_only=True,
    )
    chunk: int = option(4096, "numbers of a chunk, where per=chunk", unit="numbers", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("codec.per", self.per, PER)
        if isinstance(self.chunk, bool) or not isinstance(self.chunk, int) or self.chunk < 1:
            raise ValueError(f"codec.chunk: must be a whole number of at least 1, got {self.chunk!r}")

    def segments(self, blocks: Sequence[Block], columns: Tensor | None) -> Segments:
        found = runs(blocks, columns)
        if self.per == "row" and columns is not None:
            found = [(0, len(columns))]
        elif self.per == "row" and found:
            found = [(0, blocks[-1].stop)]
        return _grouped(found, self.chunk if self.per == "chunk" else 0)


def check_bits(bits: Any, least: int = 1, most: int = 16) -> None:
    """ValueError unless it is a whole number of bits a codec can have."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"codec.bits: must be a whole number in 1 to 16, got {bits!r}")
    if not least <= bits <= most:
        raise ValueError(f"codec.bits: this codec takes {least} to {most}, got {bits}")


def tabled(s: int, L: int, bits: int, itemsize: int) -> int:
    """Bytes of a table of means a segment, and of the codes."""
    return s * 2**bits * itemsize + nbytes(s * L, bits)
