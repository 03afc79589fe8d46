"""The state of a cooperation as a dict for torch.save: what one process has, or all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from coopsgd.cooperation import optimizers
from coopsgd.errors import ConfigError
from coopsgd.fleet.plan import Layout
from coopsgd.loop.loop import Loop
from coopsgd.loop.saved import ByRow, flatten, homes, inflate
from coopsgd.run.checkpoints import Reader
from coopsgd.setup.identity import trained
from coopsgd.setup.parts import Parts

FORMAT = 1


def state_dict(loop: Loop, structure: list[str], layout: Layout, rank: int) -> dict[str, Any]:
    """What this process has: the tree of the loop's state and, apart, its tensors, by their places in it; copies."""
    skeleton, leaves = flatten(loop.saved())
    kinds = {at: type(leaf).__name__ for at, leaf in leaves.items()}
    tensors = {at: torch.cat([*leaf.parts]) if isinstance(leaf, ByRow) else leaf.tensor.clone() for at, leaf in leaves.items()}
    about = {"format": FORMAT, "words": trained(loop.parts), "model": structure}
    return {**about, "rank": rank, "processes": layout.processes, "tree": skeleton, "kinds": kinds, "tensors": tensors}


def joined(every: Sequence[dict[str, Any]], layout: Layout) -> dict[str, Any]:
    """Of the dicts of all processes, one from which a process of any placement can go on: no row is in it twice."""

    def part(q: int, at: str, x: Tensor) -> Tensor:
        return x[: len(layout.owned(q))] if every[q]["kinds"][at] == ByRow.__name__ else x

    tensors = [{at: part(q, at, x) for at, x in one["tensors"].items()} for q, one in enumerate(every)]
    rows = [list(layout.owned(q)) for q in range(layout.processes)]
    return {**{k: v for k, v in every[0].items() if k not in ("rank", "tensors")}, "rows": rows, "ranks": tensors}


def loaded(
    state: Mapping[str, Any], make: Callable[[Any], Loop], parts: Parts, structure: list[str], layout: Layout, rank: int
) -> Loop:
    """The loop that goes on from it. ConfigError when it is of another run, or of another process."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise ConfigError("load_state_dict: this is no state of a Cooperation; give what coop.state_dict() told")
    for name in ("model", "words", "tree", *(("rows",) if "ranks" in state else ("rank", "processes", "tensors"))):
        if name not in state:
            raise _torn(KeyError(name))
    if state["model"] != structure:
        for mine, before in zip_longest(structure, state["model"], fillvalue="nothing"):
            if mine != before:
                raise ConfigError(f"load_state_dict: the model is {mine}, where the state is of {before}")
    now = trained(parts)
    for key, value in now.items():
        if (before := state["words"].get(key)) != value:
            raise ConfigError(f"load_state_dict: {key} is {value}, and the state is of a run where it was {before}")
    read: Callable[[str, str], Tensor]
    if "ranks" in state:
        memory = [_Memory(tensors) for tensors in state["ranks"]]
        read = Reader(memory, [set(one.tensors) for one in memory], state["rows"], layout, rank)
    elif (state["rank"], state["processes"]) == (rank, layout.processes):
        read = _Memory(state["tensors"]).read
    else:
        raise ConfigError(
            f"load_state_dict: this is the state of process {state['rank']} of {state['processes']}, and this process is "
            f"{rank} of {layout.processes}; give each its own, or all of them one of state_dict(gathered=True)"
        )
    modules = [*homes(parts.strategy, parts.period), optimizers]
    try:
        tree = inflate(state["tree"], lambda at, kind: read(at, kind).clone(), modules)
    except KeyError as error:
        raise _torn(error) from None
    return make(tree)


def _torn(error: KeyError) -> ConfigError:
    return ConfigError(f"load_state_dict: the state has no {error}, so parts of it are gone; give what coop.state_dict() told")


class _Memory:
    """Tensors by name, read as files of them are (safetensors)."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def read(self, at: str, kind: str) -> Tensor:
        return self.tensors[at]

    def get_tensor(self, at: str) -> Tensor:
        return self.tensors[at]

    def get_slice(self, at: str) -> _Slice:
        return _Slice(self.tensors[at])


class _Slice:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return [*self._tensor.shape]

    def __getitem__(self, rows: slice) -> Tensor:
        return self._tensor[rows]
