"""On one GPU, all rows in one process: the same algorithms and ledgers as on a CPU, the same bits twice, nothing waited for.

In float64 a GPU and a CPU differ by the order in which sums are taken: a few units in the last place a step, of which the
runs here take 24 at most. CLOSE allows 1e-12 beside numbers of the order of one, as the tests of placement do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import elsewhere
from playing import OF_MATRICES, ONE_STEP, Lines, settle, with_tau, written
from running import unsaved_end

import coopsgd
from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.evaluation import train
from coopsgd.loop.loop import Loop
from coopsgd.predict.monitor import Monitor
from coopsgd.predict.rehearsal import clock_of
from coopsgd.run.device import ready
from coopsgd.setup import catalogue
from coopsgd.setup.parts import Parts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.device_count(), reason="no GPU, or no -m gpu")]

ALGOS = [choice.name for choice in catalogue.choices("algo")]
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
COMMON = ("dtype=float64", "log_every=6", "eval_every=12", "workers=8", "steps=24", "tau=3", "batch_size=8")
MLP = ("data=digits", "model=mlp", "model.hidden=[16]")
# pixels of digits are few whole numbers, so gradients hold equal ones, and rounding says which of them is the larger
UNTIED = ("data=gaussian", "model=mlp", "model.hidden=[16]")
LARGEST = ("sparseloco", "topk_ef")  # algorithms that send the largest numbers
DEEP = ("data=digits", "model=mlp", "model.hidden=[16,16]")
CNN = ("data=digits", "model=cnn", "model.width=8")
BATCHNORM = (*CNN, "model.norm=batch")
GPT = ("task=language", "model.layers=2", "model.width=16", "model.heads=2", "model.context=16")
QUADRATIC = ("task=quadratic",)
WRITTEN = np.array([[0.5, 0.25, 0, 0, 0, 0, 0, 0.25], *(np.eye(8) + np.roll(np.eye(8), 3, 1))[1:] / 2])


class Trained(NamedTuple):
    """What a run came to."""

    x: np.ndarray
    stats: np.ndarray | None
    answer: np.ndarray
    ledger: tuple[Any, ...]
    lines: list[dict[str, Any]]


@pytest.fixture
def trained(process_groups):
    """trained(device, *words) is what a run of these words comes to in a process of its own; one with a GPU cannot fork."""
    return lambda device, *words: process_groups(1)(run, device, (*COMMON, *words))[0]


def run(rank: int, device: str, words: tuple[str, ...], fleet_of: Any = Stacked) -> Trained:
    """Train the config of these words in this process."""
    settings = settle(words)
    parts = Parts(settings)
    fleet = fleet_of(layout_of(parts.strategy.schedule, settings.workers, 1))
    problem = parts.task.build(settings, fleet.workers, ready(device))
    fleet.clock = clock_of(parts)
    report = Lines()
    found = train(parts, fleet, problem, report, Monitor.of(parts, fleet, problem))
    assert found.status == "completed"
    assert found.x.device.type == device == found.answer.device.type
    stats = None if found.stats is None else found.stats.cpu().numpy()
    totals = tuple(value for name, value in fleet.ledger.totals().items() if name != "comm_s")
    return Trained(found.x.cpu().numpy(), stats, found.answer.cpu().numpy(), totals, report.lines)


def near(one: Trained, other: Trained, **tolerance: float) -> None:
    """The same rows, statistics and numbers of all lines up to rounding, the same ledger exactly."""
    for name in ("x", "answer", "stats"):
        if getattr(one, name) is not None:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), **(tolerance or CLOSE), err_msg=name)
    assert one.ledger == other.ledger
    for a, b in zip(one.lines, other.lines, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"wall_s", "train_s", "comm_s"}:
            exact = isinstance(a[name], int) or a[name] is None or "accuracy" in name
            assert a[name] == (b[name] if exact else pytest.approx(b[name], rel=1e-9, abs=1e-12)), name


def algo(name: str) -> tuple[str, ...]:
    return (
        f"algo={name}",
        *(("tau=1",) if name in ONE_STEP else with_tau(name, 3)),
        *((written(WRITTEN),) if name == "cooperative" else ()),
    )


@pytest.mark.parametrize("name", ALGOS)
@pytest.mark.parametrize("task", [MLP, QUADRATIC], ids=["mlp", "quadratic"])
def test_every_algorithm_does_on_a_gpu_what_it_does_on_a_cpu(trained, name, task):
    if task is QUADRATIC and name in OF_MATRICES:
        pytest.skip("it needs matrices")
    words = (*(UNTIED if task is MLP and name in LARGEST else task), *algo(name))
    near(trained("cuda", *words), trained("cpu", *words))


NETWORKS = {
    "batchnorm": (*BATCHNORM, "algo=easgd", "algo.alpha=0.1"),
    "batchnorm, recalibrated": (*BATCHNORM, "algo=pasgd", "norm_stats=recalibrate"),
    "batchnorm, idle clients": (*BATCHNORM, "algo=fedavg", "algo.fraction=0.5"),
    "cnn": (*CNN, "algo=dpsgd", "tau=2"),
    "gossip of many": (*MLP, "algo=dpsgd", "tau=1", "workers=24"),
    "gpt": (*GPT, "algo=pasgd", "batch_size=4"),
    "momentum": (*MLP, "algo=pasgd", "optim.momentum=0.9", "optim.lr=0.05", "buffers=average", "clip=1"),
    "idle workers with momentum": (*MLP, "algo=fedavg", "algo.fraction=0.5", "optim.momentum=0.9", "optim.lr=0.05"),
    "muon": (*DEEP, "algo=pasgd", "optim=muon", "buffers=average"),
    "muon, idle workers": (*DEEP, "algo=fedavg", "algo.fraction=0.5", "optim=muon"),
    "codec": (*UNTIED, "algo=dpsgd", "codec=topk"),
    "fragments": (*MLP, "algo=pasgd", "fragments=columns", "tau=4"),
    "drift": (*MLP, "algo=scaffold", "algo.fraction=0.5"),
    "schedule": (*MLP, "algo=easgd", "optim=adamw", "optim.lr=0.003", "schedule=cosine", "buffers=reset"),
    "delay": (*MLP, "algo=dpa", "delay=2", "tau=4"),
    "combine, then adapt": (*BATCHNORM, "algo=gea", "algo.alpha=0.1", "order=cta"),
    "a loss that is asked for": (*MLP, "algo=pasgd", "period=adacomm", "period.interval=6", "tau=4"),
    "on a clock": (*MLP, "algo=easgd", "cluster=wan_100m"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_optimisers_and_orders_do_too(trained, name):
    near(trained("cuda", *NETWORKS[name]), trained("cpu", *NETWORKS[name]), rtol=1e-10, atol=1e-10)


ENGINES = [(MLP, "bmm"), (MLP, "vmap"), (CNN, "vmap"), ((*GPT, "batch_size=4"), "vmap")]


@pytest.mark.parametrize(("task", "engine"), ENGINES, ids=["mlp-bmm", "mlp-vmap", "cnn-vmap", "gpt-vmap"])
def test_engines_agree(trained, task, engine):
    """Fused with the step and stored for an optimiser with momentum, rows that no chunk divides."""
    for more in ((), ("optim.momentum=0.5",)):
        words = (*task, "algo=pasgd", "workers=11", *more)
        near(trained("cuda", *words, f"engine={engine}"), trained("cuda", *words, "engine=loop"), rtol=1e-10, atol=1e-10)


WIDE = ("data=digits", "model=cnn", "model.width=64", "batch_size=64", "dtype=float32")
ATTENTION = ("task=language", "model.layers=2", "model.width=128", "model.heads=4", "model.context=128", "dtype=float32")
TWICE = {
    "mlp": ("data=digits", "model=mlp", "dtype=float32", "batch_size=64"),
    "mlp, momentum": ("data=digits", "model=mlp", "dtype=float32", "batch_size=64", "optim.momentum=0.9"),
    "cnn": (*WIDE, "engine=loop"),
    "cnn, vmap": (*WIDE, "engine=vmap"),
    "batchnorm": (*WIDE, "model.norm=batch", "algo.alpha=0.1"),
    "dropout": (*WIDE, "model.dropout=0.2"),
    "bfloat16": (*WIDE, "amp=bf16"),
    "resnet": ("data=digits", "model=resnet20", "batch_size=32", "dtype=float32", "steps=6"),
    "gpt": (*ATTENTION, "engine=loop"),
    "gpt, vmap": (*ATTENTION, "engine=vmap"),
    "gpt, bfloat16": (*ATTENTION, "amp=bf16"),
    "gossip": ("data=digits", "model=mlp", "dtype=float32", "algo=dpsgd", "tau=1", "workers=64", "batch_size=8"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_run_repeated_has_the_same_bits(trained, name):
    words = ("workers=4", "algo=easgd", "steps=12", "eval_every=0", *TWICE[name])
    one, other = trained("cuda", *words), trained("cuda", *words)
    for part in ("x", "answer", "stats"):
        assert np.array_equal(getattr(one, part), getattr(other, part)), part
    times = ("wall_s", "train_s", "comm_s")
    plain = [[{k: v for k, v in line.items() if k not in times} for line in run.lines] for run in (one, other)]
    assert json.dumps(plain[0]) == json.dumps(plain[1])


def test_float32_is_float32(trained):
    """A convolution in tf32, which is torch's default on a GPU, would keep 10 bits of 23 and be off by some 1e-3."""
    words = (*WIDE, "workers=2", "algo=pasgd", "steps=1", "eval_every=0")
    exact = trained("cpu", *words, "dtype=float64")
    for engine in ("loop", "vmap"):
        moved = trained("cuda", *words, f"engine={engine}")
        start = trained("cpu", *words, "optim.lr=1e-30", "dtype=float64").x
        step, true = moved.x - start, exact.x - start
        assert np.linalg.norm(step - true) < 1e-4 * np.linalg.norm(true)


def test_bfloat16_comes_near(trained):
    words = (*CNN, "workers=4", "algo=pasgd", "steps=24", "dtype=float32", "optim.lr=0.05")
    plain, amp = trained("cuda", *words), trained("cuda", *words, "amp=bf16")
    assert amp.ledger == plain.ledger
    moved = plain.x - trained("cpu", *words, "steps=1", "optim.lr=1e-30").x
    off = np.linalg.norm(amp.x - plain.x) / np.linalg.norm(moved)
    assert 1e-6 < off < 0.2  # it is another arithmetic, and close


BUSY = {
    "mlp": (*MLP, "algo=easgd", "algo.alpha=0.1"),
    "mlp, loop": (*MLP, "algo=easgd", "engine=loop"),
    "mlp, vmap": (*MLP, "algo=easgd", "engine=vmap"),
    "batchnorm": (*BATCHNORM, "algo=pasgd"),
    "dropout": (*CNN, "model.dropout=0.1", "algo=dpsgd", "tau=1"),
    "gpt": (*GPT, "algo=dpa", "batch_size=4"),
    "adam": (*MLP, "algo=gossip_pga", "optim=adam", "buffers=average", "clip=1", "schedule=cosine"),
    "idle": (*MLP, "algo=fedavg", "algo.fraction=0.5", "delay=0"),
    "delay": (*MLP, "algo=pasgd", "delay=1"),
    "muon": (*DEEP, "algo=pasgd", "optim=muon"),
    "codec": (*MLP, "algo=pasgd", "codec=qsgd"),
    "relay": (*MLP, "algo=relay", "tau=2"),
    "fullsync": (*MLP, "algo=fullsync"),
    "written": (*MLP, *algo("cooperative")),
    "one_peer": (*MLP, "algo=one_peer", "tau=1"),
}


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, torch refuses to let the processor wait for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def unwaited(rank: int, words: tuple[str, ...]) -> tuple[int, bool]:
    parts = Parts(settle(words))
    fleet = Stacked(layout_of(parts.strategy.schedule, parts.config.workers, 1))
    loop = Loop(parts, fleet, parts.task.build(parts.config, fleet.workers, ready("cuda")))
    for _ in range(7):  # what is made once: plans, handles
        loop.advance()
    with no_waiting():
        for _ in range(12):
            loop.advance()
    return loop.state.k, bool(torch.isfinite(loop.state.x).all())


@pytest.mark.parametrize("name", BUSY)
def test_between_two_looks_the_processor_does_not_wait_for_the_gpu(process_groups, name):
    words = (*COMMON, "log_every=1000", "eval_every=0", "steps=1000", *BUSY[name])
    assert process_groups(1)(unwaited, words) == [(19, True)]


def on_nccl(words: tuple[str, ...], store: str) -> Trained:
    """In a process group of one."""
    dist.init_process_group("nccl", store=dist.FileStore(store, 1), rank=0, world_size=1, device_id=ready("cuda"))
    return run(0, "cuda", words, lambda layout: Processes(layout, 0))


@pytest.mark.parametrize("name", ["pasgd", "dpsgd", "fullsync", "fedavg", "matching"])
def test_a_group_of_one_process_on_nccl(trained, tmp_path, name):
    words = (*BATCHNORM, f"algo={name}")
    near(elsewhere(on_nccl, (*COMMON, *words), str(tmp_path / "store")), trained("cuda", *words), rtol=0, atol=0)


# the command line


TIMES = ("wall_s", "train_s", "comm_s")
SAVED = ("steps=23", "log_every=4", "eval_every=8", "checkpoint_every=15", "save=rows", "workers=4", "batch_size=8")
RESUMED = {
    "easgd, momentum": (*MLP, "algo=easgd", "optim.momentum=0.9", "tau=4"),
    "adamw, delay": (*MLP, "algo=pasgd", "optim=adamw", "optim.lr=0.003", "tau=4", "delay=2", "buffers=average"),
    "idle clients": (*MLP, "algo=fedavg", "algo.fraction=0.5", "optim=adam", "optim.lr=0.003", "tau=4"),
    "adacomm": (*MLP, "algo=pasgd", "period=adacomm", "period.interval=6", "tau=4"),
    "muon": (*DEEP, "algo=pasgd", "optim=muon", "tau=4"),
    "batchnorm, dropout": (*BATCHNORM, "model.dropout=0.1", "algo=gea", "tau=4", "order=cta"),
    "gpt": (*GPT, "algo=dpsgd", "tau=4"),
}


def lines(folder) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def interrupted(folder, to) -> None:
    """A copy of a finished run as it would be had it been killed before its end."""
    shutil.copytree(folder, to)
    (to / "summary.json").unlink()
    (to / "checkpoints" / "final.safetensors").unlink()


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_from_a_checkpoint_to_the_bit(cli, tmp_path, name):
    ended = cli("train", *RESUMED[name], *SAVED, "device=auto", "hydra.run.dir=whole", first=unsaved_end)
    assert ended.code == 0, ended
    interrupted(tmp_path / "whole", tmp_path / "broken")
    ended = cli("resume", "broken")
    assert ended.code == 0 and "goes on from step 15" in ended.out, ended
    one, other = (coopsgd.Run(tmp_path / name) for name in ("whole", "broken"))
    assert one.summary["device"] == other.summary["device"] == "cuda:0"
    assert torch.equal(one.rows(), other.rows()) and torch.equal(one.answer(), other.answer())
    assert lines(one.folder) == lines(other.folder)
    ledgers = [{k: v for k, v in run.summary["ledger"].items() if k not in TIMES} for run in (one, other)]
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize(("begun", "ended_on"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_checkpoint_moves_between_a_gpu_and_a_processor(cli, tmp_path, begun, ended_on):
    words = (*MLP, *SAVED, "algo=easgd", "optim.momentum=0.9", "dtype=float64", "delay=1", "processes=1")
    assert cli("train", *words, f"device={begun}", "hydra.run.dir=whole", first=unsaved_end).code == 0
    interrupted(tmp_path / "whole", tmp_path / "broken")
    ended = cli("resume", "broken", f"device={ended_on}", env={"CUDA_VISIBLE_DEVICES": ""} if ended_on == "cpu" else None)
    assert ended.code == 0, ended
    one, other = (coopsgd.Run(tmp_path / name) for name in ("whole", "broken"))
    np.testing.assert_allclose(one.rows(), other.rows(), **CLOSE)


def looked_at(folder: str) -> tuple[bool, bool, int]:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    run = coopsgd.Run(folder)
    said = run.model()(torch.zeros(2, 1, 8, 8))
    return torch.cuda.is_available(), bool(torch.isfinite(said).all()), len(run.rows())


def test_a_run_is_read_verified_and_analysed(cli, tmp_path):
    """Auto takes the GPU; models are read where there is none; the same bits come out again; one who looks for it is told."""
    ended = cli("train", *BATCHNORM, *SAVED, "algo=easgd", "algo.alpha=0.1", "hydra.run.dir=run")
    assert ended.code == 0 and "cuda" in ended.out + ended.err, ended
    run = coopsgd.Run(tmp_path / "run")
    assert run.summary["device"] == "cuda:0" and run.summary["environment"]["gpu"] == torch.cuda.get_device_name()
    assert elsewhere(looked_at, str(tmp_path / "run")) == (False, True, 5)
    ended = cli("verify", "run")
    assert ended.code == 0 and ended.out.splitlines()[-1].startswith("same: "), ended
    ended = cli("verify", "run", env={"CUDA_VISIBLE_DEVICES": ""})
    assert ended.code == 2 and "torch sees none here" in ended.err, ended
    ended = cli("analyze", "--over", "run")
    assert ended.code == 0, ended


def test_a_run_of_known_constants_is_analysed(cli):
    words = ("task=quadratic", "algo=easgd", "tau=4", "workers=4", "steps=40", "log_every=4")
    assert cli("train", *words, "device=cuda", "hydra.run.dir=run").code == 0
    ended = cli("analyze", "--over", "run")
    assert ended.code == 0 and "theory" in ended.out, ended


def test_two_processes_on_one_gpu_are_refused(cli):
    ended = cli("train", *MLP, "workers=16", f"processes={8 if torch.cuda.device_count() < 8 else 16}", "device=cuda")
    assert ended.code == 2 and len(ended.lines) == 1 and "nccl takes one process a GPU" in ended.err, ended


def test_a_sweep(cli, tmp_path):
    ended = cli("train", "-m", *MLP, *SAVED, "algo=pasgd,dpsgd", "device=cuda", "hydra.sweep.dir=sweep")
    assert ended.code == 0, ended
    devices = [json.loads(path.read_text())["device"] for path in (tmp_path / "sweep").glob("*/summary.json")]
    assert devices == ["cuda:0"] * 2


@pytest.mark.parametrize("task", [MLP, BATCHNORM, (*GPT, "batch_size=4")], ids=["mlp", "batchnorm", "gpt"])
def test_a_probe_finds_what_it_finds_on_a_cpu(cli, tmp_path, task):
    words = (*task, "workers=2", "dtype=float64", "--steps", "6", "processes=1")
    for device in ("cuda", "cpu"):
        ended = cli("probe", *words, f"device={device}", "-o", f"{device}.json")
        assert ended.code == 0, ended
    on_gpu, on_cpu = (json.loads((tmp_path / f"{device}.json").read_text()) for device in ("cuda", "cpu"))
    assert on_gpu["device"] == "cuda:0" and on_gpu["step_s"]["median"] > 0
    for name in ("L", "sigma2", "kappa2", "gap", "grad2"):
        assert on_gpu[name]["value"] == pytest.approx(on_cpu[name]["value"], rel=1e-6, abs=1e-9), name


def test_design_runs_its_pilots(cli):
    words = ("cluster=wan_100m", "workers=2", "steps=20", *MLP, "--budget-seconds", "5", "--top", "2", "--check", "1")
    ended = cli("design", *words, "device=cuda")
    assert ended.code == 0 and "coopsgd train" in ended.out, ended


def test_a_full_gpu_is_one_line(cli, tmp_path):
    """Models of more numbers than the GPU holds: which key to lower, and no traceback."""
    words = (*MLP, "model.hidden=[100000]", "workers=32", "batch_size=8", "steps=2", "device=cuda", "hydra.run.dir=run")
    limit = {"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.01"}
    ended = cli("train", *words, env=limit)
    assert ended.code == 1 and "Traceback" not in ended.err and "memory" in ended.err and "workers" in ended.err, ended
