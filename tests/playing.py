"""Play a config without a run folder: `play(words, processes)` trains it here or on a process group and returns all of it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from coopsgd.commands import compose
from coopsgd.fleet import plan as plans
from coopsgd.fleet.base import Fleet
from coopsgd.fleet.hosts import Hosts, shared_memory
from coopsgd.fleet.memory import Memory
from coopsgd.fleet.plan import choose_layout, layout_of
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.shared import Shared
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.evaluation import train
from coopsgd.mixing.matrix import frozen
from coopsgd.predict.monitor import Monitor
from coopsgd.predict.rehearsal import clock_of
from coopsgd.setup import schema
from coopsgd.setup.compose import composed
from coopsgd.setup.parts import Parts

QUADRATIC = ("task=quadratic", "dtype=float64", "workers=8", "steps=24", "log_every=1000", "eval_every=0", "device=cpu")
CNN = ("data=digits", "model=cnn", "model.width=8", "dtype=float64", "log_every=1000", "eval_every=0", "device=cpu")
MLP = ("data=digits", "model=mlp", "model.hidden=[16]", "dtype=float64", "log_every=1000", "eval_every=0", "device=cpu")

OF_ADAM = ("local_adam", "des_loc")  # algorithms that bring Adam
TIES = ("topk_ef", "sparseloco", "demo")  # algorithms that send the largest numbers: of two alike either
OF_MATRICES = ("powersgd",)  # algorithms that take no vector
ONE_STEP = ("d2", "gradient_tracking")  # algorithms whose rounds are of one step


def of_tau(algo: str, word: str) -> bool:
    """Does an algorithm take this word? One whose rounds are of one step takes no other tau."""
    return not (algo in ONE_STEP and word.startswith("tau=") and word not in ("tau=auto", "tau=1"))


def fitting(algo: str, words: Sequence[str]) -> tuple[str, ...]:
    """Those that an algorithm takes; of one with fragments, of which a small model has two, a tau is made even."""
    found = [word for word in words if of_tau(algo, word)]
    if algo == "muloco":  # Muon is for models with matrices: tests/loop/test_muon.py
        found.append("optim=sgd")
    if algo in ("streaming_diloco", "sparta"):
        odd = {"tau=1": "tau=2", "tau=3": "tau=4", "tau=[[0,1],[5,3]]": "tau=[[0,2],[6,4]]"}
        found = [odd.get(word, word) for word in found]
    if algo == "sparta":
        found.append("fragments.count=2")
    return tuple(found)


def with_tau(algo: str, tau: int) -> tuple[str, ...]:
    """The word for rounds of so many steps; none where they are of one."""
    return () if algo in ("fullsync", *ONE_STEP) else fitting(algo, (f"tau={tau}",))


class Lines:
    """A report that remembers."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


class Played(NamedTuple):
    """What a run came to."""

    x: np.ndarray  # (m + v, d)
    answer: np.ndarray  # (d,)
    logical: tuple[int, int, int]  # rounds, messages, bytes
    wire_bytes: int
    lines: list[dict[str, Any]]
    held: list[np.ndarray]  # each process's own rows
    layout: Any
    lags: bool  # is the answer without what came after the last communication?
    stats: np.ndarray | None  # (m + v, b) running statistics
    ledger: dict[str, Any]  # as in summary.json


def settle(words: Any) -> schema.Config:
    """The checked config of these words, on the network unless they say so; Hydra composes each choice of groups once, which
    takes a tenth of a second.
    """
    chosen = any(word.startswith("fleet=") for word in words)
    found = copy.deepcopy(_settled(tuple(words)))
    return found if chosen else replace(found, fleet="processes")


@cache
def _settled(words: tuple[str, ...]) -> schema.Config:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "composed", quickly_composed)
        return compose.compose_config(words).config


def quickly_composed(words: Sequence[str], config_dir: str | None = None) -> Any:
    """What Hydra composes of these words: of those that choose from a group, then each value in its place, as Hydra does.

    Whatever is neither is left to Hydra, as is what it refuses.
    """
    parsed = [OverridesParser.create().parse_override(word) for word in words]
    choices = [word for word, one in zip(words, parsed, strict=True) if one.key_or_group in schema.GROUPS]
    values = [one for one in parsed if one.key_or_group not in schema.GROUPS]
    plain = [one.type is OverrideType.CHANGE and not one.is_sweep_override() and one.package is None for one in parsed]
    known = [one.key_or_group.partition(".")[0] in schema.KEYS for one in values]
    if config_dir or not all(plain) or not all(known):
        return composed(words, config_dir)
    cfg = copy.deepcopy(_chosen(tuple(choices)))
    try:
        for one in values:
            OmegaConf.update(cfg, one.key_or_group, one.value(), merge=True)
    except OmegaConfBaseException:
        return composed(words)
    with read_write(cfg):
        cfg.hydra.overrides.task = list(words)
    return cfg


@cache
def _chosen(words: tuple[str, ...]) -> Any:
    cfg = composed(words)
    hydra = OmegaConf.masked_copy(cfg.hydra, ["overrides", "runtime"])
    with open_dict(cfg), read_write(cfg):
        cfg.hydra = hydra
    return cfg


FOLDER = tempfile.TemporaryDirectory()


def written(W: np.ndarray) -> str:
    """W in a file: Hydra's grammar takes a second to read a hundred numbers. The name is the content's, so it can be kept."""
    path = f"{FOLDER.name}/{abs(hash(W.tobytes()))}.npy"
    np.save(path, W)
    return f"algo.W={path}"


def run(rank: int, settings: schema.Config, processes: int, each: int = 0) -> Any:
    """One process's part. each: see fleet_of."""
    parts = Parts(settings)
    layout = layout_of(parts.strategy.schedule, settings.workers, processes)
    fleet = fleet_of(layout, rank, settings.fleet == "shared", each)
    layout = fleet.layout
    problem = parts.task.build(settings, fleet.workers, torch.device("cpu"))
    report = Lines()
    fleet.clock = clock_of(parts)
    outcome = train(parts, fleet, problem, report, Monitor.of(parts, fleet, problem))
    everything = fleet.gather(outcome.x)
    stats = None if outcome.stats is None else fleet.gather(outcome.stats)
    ledger = fleet.ledger
    return (
        None if everything is None else everything.numpy(),
        outcome.answer[0].numpy(),
        (ledger.rounds, ledger.messages, ledger.bytes),
        round(ledger.wire_bytes),
        report.lines,
        outcome.x.numpy().copy(),
        layout,
        outcome.answer_lags,
        None if stats is None else stats.numpy(),
        ledger.summary(),
    )


def fleet_of(layout: Any, rank: int, shared: bool = False, each: int = 0) -> Fleet:
    """The fleet of this layout; shared: rows in one memory, which rank 0 makes and the others open.

    each: processes that are as one host, with a memory of its own.
    """
    if layout.processes == 1:
        return Stacked(layout)
    if each:
        memory = shared_memory(Processes(layout, rank), each)
        return Hosts(layout, rank, memory, here=range(rank - rank % each, rank - rank % each + each))
    if not shared:
        return Processes(layout, rank)
    first = Memory(layout.processes) if rank == 0 else None
    paths = [None if first is None else first.path]
    dist.broadcast_object_list(paths)
    fleet = Shared(layout, rank, first or Memory(layout.processes, paths[0]))
    fleet.barrier()  # all have opened it
    return fleet


def play(process_groups: Any, processes: int, *words: str) -> Played:
    """Train the config of `words` on so many processes."""
    return play_settled(process_groups, processes, settle(words))


def play_settled(process_groups: Any, processes: int, settings: schema.Config, each: int = 0) -> Played:
    """The same of a checked config. each: processes of a host, which share a memory."""
    answers = [run(0, settings, 1)] if processes == 1 else process_groups(processes)(run, settings, processes, each)
    x, answer, logical, wire, lines, _, layout, lags, stats, ledger = answers[0]
    assert all(other[2] == logical for other in answers), "processes disagree about the ledger"
    return Played(x, answer, logical, wire, lines, [other[5] for other in answers], layout, lags, stats, ledger)


def mixed(rank: int, processes: int, v: int, Ws: list[np.ndarray], x: np.ndarray) -> list[Any]:
    """Mix x (m + v, d) by each W on these processes: all rows after it, vectors told by the plan, vectors handed over here.

    The last is counted where torch.distributed is called, one number an isend or a ring all-reduce. What they say to agree on
    the pace of messages, some bytes, is left out.
    """
    m, found = len(x) - v, []
    for W in Ws:
        layout = choose_layout([W], m, v, processes)
        fleet = Processes(layout, rank)
        rows = torch.from_numpy(x[layout.rows(rank)])
        fleet._pace.due = lambda: False
        with counting() as (numbers, addressed):
            fleet.mix(frozen(W), rows)
        plan = plans.lower(W, layout)
        assert len(set(addressed)) == len(addressed), "two messages on one edge"
        everything = fleet.gather(rows)
        message = (float(plan.sent[rank]), float(fleet.ledger.wire[rank]) / (8 * x.shape[1]), sum(numbers) / x.shape[1])
        found.append((None if everything is None else everything.numpy(), message))
    return found


@contextmanager
def counting() -> Iterator[tuple[list[float], list[int]]]:
    """Numbers that this process hands to torch.distributed inside, and to whom the single messages went."""
    numbers: list[float] = []
    addressed: list[int] = []
    send, reduce = dist.isend, dist.all_reduce

    def isend(tensor: Any, dst: int, *args: Any, **kwargs: Any) -> Any:
        numbers.append(tensor.numel())
        addressed.append(dst)
        return send(tensor, dst, *args, **kwargs)

    def all_reduce(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        g = dist.get_world_size(kwargs.get("group"))
        numbers.append(tensor.numel() * 2 * (g - 1) / g)
        return reduce(tensor, *args, **kwargs)

    dist.isend, dist.all_reduce = isend, all_reduce
    try:
        yield numbers, addressed
    finally:
        dist.isend, dist.all_reduce = send, reduce
