"""A run that goes on from a checkpoint ends as one that was never stopped: the same bits, the same lines, the same ledger."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from playing import OF_MATRICES, with_tau
from running import in_turn, unsaved_end
from safetensors.torch import load_file
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import coopsgd
from coopsgd.setup import catalogue

ALGOS = [choice.name for choice in catalogue.choices("algo")]
RING = "algo.W=[[0.5,0.5,0,0],[0,0.5,0.5,0],[0,0,0.5,0.5],[0.5,0,0,0.5]]"
TIMES = ("wall_s", "train_s", "comm_s")  # differ from run to run
PLAIN = ("task=quadratic", "dtype=float64", "workers=4", "device=cpu")
NETWORK = ("data=digits", "model=cnn", "model.width=8", "model.norm=batch", "batch_size=8", "workers=4", "eval_samples=50")
# a checkpoint after step 15, between two lines, and no other
SAVED = ("steps=23", "log_every=4", "eval_every=8", "checkpoint_every=15", "save=rows")


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def same(one, other, times=TIMES):
    """Whether two finished runs are the same, to the bit."""
    for what in ("rows", "answer"):
        assert torch.equal(getattr(one, what)(), getattr(other, what)()), what
    assert lines(one.folder) == lines(other.folder)
    ledgers = [{k: v for k, v in run.summary["ledger"].items() if k not in times} for run in (one, other)]
    assert ledgers[0] == ledgers[1]


def interrupted(folder, to):
    """A copy of a finished run's folder as it would be had the run been killed after its last line but before its end."""
    shutil.copytree(folder, to)
    (to / "summary.json").unlink()
    (to / "checkpoints" / "final.safetensors").unlink()
    with (to / "metrics.jsonl").open("a") as file:
        file.write('{"step": 22, "tor')  # torn
    return to


def both(cli, tmp_path, *words, resumed=()):
    """A run, and one that goes on from its checkpoint."""
    ended = cli("train", *words, *SAVED, "hydra.run.dir=whole", first=unsaved_end)
    assert ended.code == 0, ended
    assert [path.name for path in (tmp_path / "whole" / "checkpoints").glob("step-*")] == ["step-15"]
    interrupted(tmp_path / "whole", tmp_path / "broken")
    ended = cli("resume", "broken", *resumed)
    assert ended.code == 0, ended
    assert "goes on from step 15; at least 8 steps are computed again" in ended.out
    one, other = (coopsgd.Run(tmp_path / name) for name in ("whole", "broken"))
    (last,) = other.summary["resumed"]
    assert (last["from"], last["again"]) == (15, 8) and "resumed" not in one.summary
    return one, other


@pytest.mark.parametrize("algo", ALGOS)
def test_every_algorithm(cli, tmp_path, algo):
    same(
        *both(
            cli,
            tmp_path,
            *(dict.fromkeys((*NETWORK, *PLAIN[1:])) if algo in OF_MATRICES else PLAIN),
            "processes=1",
            f"algo={algo}",
            *with_tau(algo, 4),
            *((RING,) if algo == "cooperative" else ()),
        )
    )


def counting():
    """Each gradient that is computed is told in a file, by its iteration."""
    from coopsgd.tasks.quadratic import QuadraticProblem

    gradients = QuadraticProblem.gradients

    def told(self, k, active, own):
        with open("gradients", "a") as file:
            file.write(f"{k} ")
        return gradients(self, k, active, own)

    QuadraticProblem.gradients = told


def test_no_gradient_is_computed_again_that_came_before_the_checkpoint(cli, tmp_path):
    words = (*PLAIN, "processes=1", "algo=easgd", "tau=4", *SAVED)
    assert cli("train", *words, "hydra.run.dir=whole", first=partial(in_turn, counting, unsaved_end)).code == 0
    assert (tmp_path / "gradients").read_text().split() == [str(k) for k in range(23)]
    (tmp_path / "gradients").unlink()
    interrupted(tmp_path / "whole", tmp_path / "broken")
    assert cli("resume", "broken", first=counting).code == 0
    assert (tmp_path / "gradients").read_text().split() == [str(k) for k in range(15, 23)]


AXES = [
    ("optim.momentum=0.9",),
    ("optim=adamw",),
    ("order=cta",),
    ("delay=1",),
    ("delay=tau", "optim.momentum=0.9", "buffers=average"),
    ("tau=[[0,2],[9,5]]",),
    ("period=adacomm", "period.interval=6"),
    ("schedule=cosine", "schedule.warmup=4"),
    ("cluster=ethernet_1g", "delay=2"),
    ("clip=0.5",),
]


@pytest.mark.parametrize("words", AXES, ids=" ".join)
def test_every_axis(cli, tmp_path, words):
    same(*both(cli, tmp_path, *PLAIN, "processes=1", "algo=dpsgd", "tau=4", *words))


# what is under way, left out, drawn or in turns when the checkpoint is written
WIDER = [
    (
        *("algo=pasgd", "tau=4", "codec=topk", "codec.share=0.3", "fragments=columns", "fragments.count=2"),
        *("delay=1", "outer=nesterov", "merge=0.5", "optim=adam"),
    ),
    ("algo=dpsgd", "tau=4", "codec=topk", "codec.share=0.3", "delay=tau", "outer=momentum", "outer.momentum=0.4"),
    ("algo=one_peer", "tau=6", "codec=bf16", "fragments=columns", "fragments.count=3", "fragments.by=random", "delay=2"),
    ("algo=pasgd", "tau=7", "codec=qsgd", "delay=3", "outer=yogi", "correction=proximal", "buffers=average", "optim=adam"),
    ("algo=fedavg", "tau=4", "correction=scaffold", "outer=adam", "codec=fp16", "buffers=keep", "optim.momentum=0.9"),
    ("algo=relay", "topology=tree", "tau=4", "codec=bf16", "delay=2", "optim=adamw"),
    ("algo=gpa", "optim=adamw"),
]


@pytest.mark.parametrize("words", WIDER, ids=" ".join)
def test_axes_together_in_two_processes_and_on_one(cli, tmp_path, words):
    one, other = both(cli, tmp_path, *PLAIN, *words, "processes=2", resumed=("processes=1",))
    np.testing.assert_allclose(one.rows(), other.rows(), rtol=0, atol=1e-12)
    for name in ("rounds", "messages", "bytes"):
        assert one.summary["ledger"][name] == other.summary["ledger"][name]


@pytest.mark.parametrize("words", WIDER, ids=" ".join)
def test_axes_together(cli, tmp_path, words):
    same(*both(cli, tmp_path, *PLAIN, "processes=1", *words))


PROCESSES = [
    (*PLAIN, "algo=easgd", "tau=3", "optim.momentum=0.9"),
    (*PLAIN, "algo=hierarchical", "tau=4", "optim=adamw"),
    (*PLAIN, "algo=matcha", "tau=2", "delay=2"),
    (*PLAIN, "algo=fedavg", "tau=4", "cluster=ethernet_1g"),
    (*NETWORK, "algo=dpsgd", "tau=3", "order=cta", "optim.momentum=0.9"),
    (*NETWORK, "algo=gossip_pga", "tau=2", "delay=1"),
]


@pytest.mark.parametrize("words", PROCESSES, ids=lambda words: " ".join(words[-3:]))
def test_in_processes(cli, tmp_path, words):
    same(*both(cli, tmp_path, *words, "processes=2"))


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (2, 1)])
@pytest.mark.parametrize(
    "words",
    [
        ("algo=easgd", "tau=3", "optim.momentum=0.9"),
        ("algo=fedavg", "tau=4", "optim=adamw", "buffers=keep", "cluster=ethernet_1g"),
        ("algo=hierarchical", "tau=3", "delay=2"),
    ],
    ids=" ".join,
)
def test_on_another_number_of_processes(cli, tmp_path, words, before, after):
    one, other = both(cli, tmp_path, *PLAIN, *words, f"processes={before}", resumed=(f"processes={after}",))
    np.testing.assert_allclose(one.rows(), other.rows(), rtol=0, atol=1e-12)
    for name in ("rounds", "messages", "bytes"):
        assert one.summary["ledger"][name] == other.summary["ledger"][name]
    assert other.summary["processes"] == after
    for a, b in zip(lines(one.folder), lines(other.folder), strict=True):
        assert a.keys() == b.keys() and (a["step"], a["rounds"], a["bytes"]) == (b["step"], b["rounds"], b["bytes"])
        for name in ("train/loss", "consensus", "eval/loss", "sim_s"):
            if a.get(name) is None:
                assert b.get(name) is None
            else:
                assert a[name] == pytest.approx(b[name], rel=1e-9, abs=1e-12)


def test_a_longer_run_is_one_that_was_that_long_from_the_start(cli, tmp_path):
    words = (*PLAIN, "processes=1", "algo=dpsgd", "tau=4", "delay=1", "optim.momentum=0.9")
    long = [word for word in SAVED if not word.startswith("steps=")]
    assert cli("train", *words, *long, "steps=41", "hydra.run.dir=long").code == 0
    assert cli("train", *words, *SAVED, "hydra.run.dir=r").code == 0
    ended = cli("resume", "r", "steps=41")
    assert ended.code == 0, ended
    same(coopsgd.Run(tmp_path / "long"), coopsgd.Run(tmp_path / "r"))


def test_a_rate_that_depends_on_the_length_is_told_of(cli, tmp_path):
    words = (*PLAIN, "processes=1", "algo=dpsgd", "tau=4", "schedule=cosine")
    assert cli("train", *words, *SAVED, "hydra.run.dir=r").code == 0
    ended = cli("resume", "r", "steps=40")
    assert ended.code == 0 and "schedule=cosine depends on how long the run is" in ended.err
    last = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 40 and 0 < last["lr"] < 1e-3


def test_tensorboard_shows_one_curve(cli, tmp_path):
    both(cli, tmp_path, *PLAIN, "processes=1", "algo=easgd", "tau=3")
    curves = []
    for name in ("whole", "broken"):
        read = EventAccumulator(str(tmp_path / name))
        read.Reload()
        curves.append([(event.step, event.value) for event in read.Scalars("train/loss")])
    assert len(list((tmp_path / "broken").glob("events.out.tfevents.*"))) == 2
    assert curves[0] == curves[1] and [step for step, _ in curves[1]] == [4, 8, 12, 16, 20, 23]


def test_a_tensorboard_that_is_open_meanwhile_shows_one_curve(cli, tmp_path):
    """What its server reads with: of the first session that it sees in a run it takes none for a restart."""
    assert (
        cli("train", *PLAIN, "processes=1", "algo=easgd", "tau=3", *SAVED, "hydra.run.dir=whole", first=unsaved_end).code == 0
    )
    read = plugin_event_accumulator.EventAccumulator(str(interrupted(tmp_path / "whole", tmp_path / "broken")))
    read.Reload()
    before = [(event.step, float(event.tensor_proto.float_val[0])) for event in read.Tensors("train/loss")]
    assert cli("resume", "broken").code == 0
    read.Reload()
    events = read.Tensors("train/loss")
    assert [(event.step, float(event.tensor_proto.float_val[0])) for event in events] == before
    assert [step for step, _ in before] == [4, 8, 12, 16, 20, 23]
    times = [event.wall_time for event in events]
    assert times == sorted(times)


# what it is asked in vain


def test_it_can_be_left_to_torchrun(cli, tmp_path):
    assert cli("train", *PLAIN, "processes=1", *SAVED, "hydra.run.dir=whole", first=unsaved_end).code == 0
    broken = interrupted(tmp_path / "whole", tmp_path / "broken")
    before = (broken / "metrics.jsonl").read_bytes()
    ended = cli("resume", "broken", "launch=false")
    assert ended.code == 0 and "torchrun --nnodes" in ended.out and (broken / "metrics.jsonl").read_bytes() == before
    assert cli("resume", "broken", "launch=true").code == 0
    same(*(coopsgd.Run(tmp_path / name) for name in ("whole", "broken")))


def test_a_longer_run_can_be_left_to_torchrun(cli, tmp_path):
    """Its folder says no more that it is over, and the line names it wherever it is typed."""
    assert cli("train", *PLAIN, "processes=1", *SAVED, "hydra.run.dir=r").code == 0
    ended = cli("resume", "r", "steps=30", "launch=false")
    assert ended.code == 0 and f"--trust {tmp_path / 'r'}\n" in ended.out, ended
    ended = cli("--trust", "r", module="coopsgd.worker")
    assert ended.code == 0 and coopsgd.Run(tmp_path / "r").summary["steps"] == 30, ended
    assert cli("--trust", "r", module="coopsgd.worker").code == 1, "now it is"


def test_a_run_that_is_over(cli, tmp_path):
    assert cli("train", *PLAIN, "processes=1", *SAVED, "hydra.run.dir=r").code == 0
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    ended = cli("resume", "r")
    assert ended.code == 0 and "completed at step 23; nothing is left to do" in ended.out
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == before


REFUSED = [
    (["tau=5"], ["tau: would change", "steps"]),
    (["optim.lr=0.2"], ["optim.lr: would change"]),
    (["seed=1"], ["seed: would change"]),
    (["algo=easgd"], ["algo: would change", "steps"]),
    (["steps=9"], ["steps: the run has done 23 of them", "got 9"]),
    (["stepz=9"], ["no key named 'stepz'"]),
    (["processes=3"], ["processes: workers must be divisible"]),
    (["--json"], ["--json"]),
]


def test_words_that_would_change_the_past(cli, tmp_path):
    assert cli("train", *PLAIN, "processes=1", *SAVED, "hydra.run.dir=r").code == 0
    config = (tmp_path / "r" / "config.yaml").read_bytes()
    for words, parts in REFUSED:
        ended = cli("resume", "r", *words)
        assert ended.code == 2 and len(ended.lines) == 1, ended
        assert all(part in ended.err for part in parts), ended.err
    assert (tmp_path / "r" / "config.yaml").read_bytes() == config
    assert coopsgd.Run(tmp_path / "r").summary["status"] == "completed"


@pytest.mark.parametrize(("at", "part"), [("nowhere", "does not exist"), ("empty", "holds no run")])
def test_no_run(cli, tmp_path, at, part):
    (tmp_path / "empty").mkdir()
    ended = cli("resume", at)
    assert ended.code == 2 and part in ended.err and len(ended.lines) == 1, ended


def test_code_that_the_folder_names_needs_trust(cli, tmp_path):
    words = (*PLAIN, "processes=1", "algo=pasgd", "~algo.mixing", "algo.strategy=written:SlowMo", "tau=4")
    assert cli("train", *words, *SAVED, "hydra.run.dir=whole", first=unsaved_end).code == 0
    interrupted(tmp_path / "whole", tmp_path / "broken")
    for more in ([], ["log_every=2"]):
        ended = cli("resume", "broken", *more)
        assert ended.code == 2 and len(ended.lines) == 1, ended
        assert "written:SlowMo is code that this run folder names" in ended.err and "--trust" in ended.err
    ended = cli("resume", "broken", "--trust")
    assert ended.code == 0, ended
    same(coopsgd.Run(tmp_path / "whole", trust=True), coopsgd.Run(tmp_path / "broken", trust=True))


def test_without_a_checkpoint_it_starts_over(cli, tmp_path):
    words = (*PLAIN, "processes=1", "algo=dpsgd", "tau=4", *SAVED, "checkpoint_every=0")
    assert cli("train", *words, "hydra.run.dir=whole").code == 0
    interrupted(tmp_path / "whole", tmp_path / "broken")
    ended = cli("resume", "broken")
    assert ended.code == 0 and "no checkpoint: it starts over" in ended.err, ended
    same(coopsgd.Run(tmp_path / "whole"), coopsgd.Run(tmp_path / "broken"))
    assert len(list((tmp_path / "broken").glob("events.out.tfevents.*"))) == 1


# damage


def keep_all():
    """A run that has come to its end keeps its checkpoints, as one does that is killed."""
    from coopsgd.run import checkpoints

    checkpoints.prune = lambda folder, keep: None


@pytest.mark.parametrize("how", ["flipped", "short", "gone", "manifest", "no manifest"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(cli, tmp_path, how):
    words = (*PLAIN, "processes=2", "algo=easgd", "tau=3", "steps=23", "log_every=4", "eval_every=8", "save=rows")
    assert (
        cli("train", *words, "checkpoint_every=10", "hydra.run.dir=whole", first=partial(in_turn, keep_all, unsaved_end)).code
        == 0
    )
    broken = interrupted(tmp_path / "whole", tmp_path / "broken")
    newest = broken / "checkpoints" / "step-20"
    rows, manifest = newest / "rows-1.safetensors", newest / "manifest.json"
    content = bytearray(rows.read_bytes())
    if how == "flipped":
        content[-5] ^= 4
        rows.write_bytes(content)
    elif how == "short":
        rows.write_bytes(content[:-8])
    elif how == "gone":
        rows.unlink()
    elif how == "manifest":
        manifest.write_text(manifest.read_text()[:-9])
    else:
        manifest.unlink()
    ended = cli("resume", "broken")
    assert ended.code == 0, ended
    assert "step-20" in ended.out and "passed over" in ended.out and "goes on from step 10" in ended.out
    same(coopsgd.Run(tmp_path / "whole"), coopsgd.Run(broken))


def test_a_checkpoint_is_read_by_anybody(cli, tmp_path):
    assert cli("train", *PLAIN, "processes=2", "algo=easgd", "tau=3", *SAVED, "hydra.run.dir=r", first=unsaved_end).code == 0
    at = tmp_path / "r" / "checkpoints" / "step-15"
    first, second = (load_file(at / f"rows-{q}.safetensors") for q in (0, 1))
    assert first[".state.loop.x"].shape == (3, 10) and second[".state.loop.x"].shape == (2, 10)  # the centre once
    manifest = json.loads((at / "manifest.json").read_text())
    assert manifest["rows"] == [[0, 1, 4], [2, 3]] and manifest["step"] == 15
    assert not any(path.suffix in (".pt", ".pkl") for path in at.iterdir())


# sweeps


def test_a_sweep_goes_on(cli, tmp_path):
    """What has come to its end is left alone, what was interrupted goes on, what never started starts."""
    words = (*PLAIN, "processes=1", "algo=dpsgd", "tau=4", *SAVED)
    for name in ("whole", "broken"):
        ended = cli("train", "-m", *words, "seed=0,1,2,3", f"hydra.sweep.dir={name}", first=unsaved_end)
        assert ended.code == 0, ended
    jobs = [tmp_path / "broken" / f"algo=dpsgd,seed={seed}" for seed in range(4)]
    before = (jobs[0] / "metrics.jsonl").stat().st_mtime_ns
    (jobs[1] / "summary.json").unlink()
    summary = json.loads((jobs[2] / "summary.json").read_text())
    (jobs[2] / "summary.json").write_text(json.dumps({**summary, "status": "failed"}))
    shutil.rmtree(jobs[3])
    ended = cli("resume", "broken")
    assert ended.code == 0, ended
    assert "seed=0: completed at step 23; nothing is left to do" in ended.out
    assert ended.out.count("goes on from step 15") == 2 and "job 4 of 4: " in ended.out
    assert (jobs[0] / "metrics.jsonl").stat().st_mtime_ns == before
    for job in jobs:
        same(coopsgd.Run(tmp_path / "whole" / job.name), coopsgd.Run(job))
    assert (jobs[3] / "config.yaml").read_text().startswith("# coopsgd train -m ")
    rows = [line.split() for line in ended.out.splitlines() if line.startswith("seed=")]
    assert [row[:2] for row in rows[-4:]] == [[f"seed={seed}", "completed"] for seed in range(4)]


def test_a_sweep_takes_no_words_and_no_code_without_trust(cli, tmp_path):
    assert cli("train", "-m", *PLAIN, "processes=1", "steps=4", "seed=0,1", "hydra.sweep.dir=s").code == 0
    ended = cli("resume", "s", "steps=9")
    assert ended.code == 2 and "steps=9: a sweep goes on as it was" in ended.err
    file = tmp_path / "s" / "multirun.yaml"
    own = (
        "hydra/launcher=mine",
        "hydra.launcher.setup=[reboot]",
        "hydra.sweeper.custom_search_space=mine.f",
        "hydra.job.env_set.A=1",
    )
    for word in ("model.path=mine:Net", "tau=${oc.env:HOME}", *own):
        task, hydra = ([], [word]) if word in own else ([word], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
        file.write_text(json.dumps({"hydra": {"overrides": {"task": ["task=quadratic", *task], "hydra": hydra}}}))
        ended = cli("resume", "s")
        assert ended.code == 2 and len(ended.lines) == 1 and "--trust" in ended.err, ended
    file.write_text("hydra: {}\n")
    ended = cli("resume", "s")
    assert ended.code == 2 and "does not say what the sweep was" in ended.err
