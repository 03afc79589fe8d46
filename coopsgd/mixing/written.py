"""The matrices you write: one, a list that repeats, or a function of the round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from coopsgd.host import arrays
from coopsgd.mixing.base import LOOKED_AT, Mixing, load_array
from coopsgd.registry import imported, option, register
from coopsgd.setup.exact import as_float64


@register("matrix", "mixing")
@dataclass(frozen=True)
class Written(Mixing):
    """Any W you write: an (m + v, m + v) array, row i = what member i takes, auxiliary rows last.

    W: a file (.npy, .npz, .mat, .csv, .txt) or a list of rows; an array of R of them, (R, m + v, m + v), is a schedule that
    repeats after R communications; or module:function of (m, r), the matrix of communication r. Rows must sum
    to one.
    """

    W: Any = option(
        None,
        "a file (.npy, .npz, .mat, .csv, .txt) or a list of rows, (m + v) x (m + v), row i = what member i takes; several of "
        "these; module:function",
        unit="",
        type="path, list or module:function",
    )
    v: int = option(0, "auxiliary models", unit="models")

    IMPORTS = ("W",)  # fields that may name what is imported: build.py asks before it makes one
    CYCLE = "algo.W"
    ARRAYS = ("W",)  # frozen into the run folder, so that a run can be repeated without the file

    def __post_init__(self) -> None:
        if self.v < 0:
            raise ValueError(f"matrix: v must be at least 0, got {self.v}")

    @property
    def num_aux(self) -> int:
        return self.v

    def refuse_size(self, m: int) -> None:
        if not is_function(self.W):
            self._written_for(m)  # whose shape tells better what is wrong with too large a v
        super().refuse_size(m)

    def cycle(self, m: int) -> int | None:
        return None if is_function(self.W) else len(self._written_for(m))

    def matrices(self, m: int, r: int) -> tuple[np.ndarray, ...]:
        if is_function(self.W):
            function = self.once("function", lambda: _function(self.W))
            try:
                W = np.asarray(function(m, r))
            except (Exception, SystemExit) as error:
                raise ValueError(f"algo.W: {self.W} fails at round {r}: {type(error).__name__}: {error}") from error
            return (self._checked(as_float64("algo.W", W, f" at round {r}"), m, f" at round {r}"),)
        written = self._written_for(m)
        return (self._checked(written[r], m, f" of round {r}" if len(written) > 1 else ""),)

    def check(self, m: int) -> None:
        super().check(m)
        if is_function(self.W):
            for r in range(LOOKED_AT):
                self.at(m, r)

    def _written_for(self, m: int) -> np.ndarray:
        """(R, n, n)"""
        return self.once("written", lambda: self._read(m))

    def _read(self, m: int) -> np.ndarray:
        def fits(shape: tuple[int, ...]) -> None:
            if len(shape) not in (2, 3) or 0 in shape:
                raise ValueError(f"algo.W: must be one square matrix or a list of them, got shape {shape}")
            self._fits(shape[-2:], m, "")

        W = load_array("algo.W", self.W, fits)
        return W if W.ndim == 3 else W[None]

    def _fits(self, shape: tuple[int, ...], m: int, when: str) -> None:
        n = m + self.v
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"algo.W: must be square, got shape {shape}{when}")
        if shape[0] != n:
            raise ValueError(
                f"algo.W: must be workers + v = {m} + {self.v} = {n} on a side, got {shape[0]}{when}; set workers or algo.v"
            )

    def _checked(self, W: np.ndarray, m: int, when: str) -> np.ndarray:
        self._fits(W.shape, m, when)
        if not np.isfinite(W).all():
            raise ValueError(f"algo.W: holds an entry that is not a finite number{when}")
        off = np.abs(W.sum(1) - 1)
        if off.max() > 1e-6:
            worst = int(off.argmax())
            hint = _instead(W)
            raise ValueError(f"algo.W: rows must sum to 1, row {worst} sums to {W[worst].sum():.6g}{when}{hint}")
        return W / W.sum(1, keepdims=True)  # 0.3333333 is a third: 10^4 communications by 0.9999999 would shrink the models


def is_function(W: Any) -> bool:
    """Is it the name of a function, module:function, and not of a file?"""
    return isinstance(W, str) and not arrays.named(W)


def _instead(W: np.ndarray) -> str:
    """What a matrix whose rows do not sum to 1 may have been meant to be."""
    if np.abs(W.sum(0) - 1).max() <= 1e-6:
        return (
            "; its columns do. Row i is what member i takes: where models are columns, as arXiv:1808.07576 writes them, give "
            "the transpose, W.T; a W of push-sum, by whose columns members share theirs out, is for another algorithm"
        )
    if np.isin(W, (0, 1)).all():
        return (
            "; it holds 0 and 1 alone, as an adjacency does: give that as topology=file topology.file=, weights are the algo's"
        )
    return ""


def _function(name: str) -> Callable[[int, int], Any]:
    try:
        found = imported("algo.W", name)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    if not callable(found):
        raise ValueError(f"algo.W: {name} is no function; it must answer (m, r) with a matrix")
    return found
