"""Which engine computes a run on a GPU: measured, frozen with the run, kept. A processor and a made-up clock stand in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from playing import CNN, MLP, play, settle

from coopsgd.run import engine, memory_format
from coopsgd.setup.identity import identity
from coopsgd.setup.parts import Parts

LONG = ("algo=pasgd", "workers=6", "processes=2", "steps=4000", "batch_size=5")
GPT = ("task=language", "model.layers=1", "model.width=16", "model.heads=2", "model.context=16", "device=cpu")


def on_gpu(*words):
    """The parts of a run as it would be placed on a machine with a GPU."""
    return Parts(replace(settle((*LONG, *words)), device="cuda"))


@pytest.fixture
def measured(monkeypatch):
    """What a step takes, by way, and which ways were asked for."""
    times, asked = {}, []
    monkeypatch.setattr(engine, "_found", {})
    monkeypatch.setattr(engine, "_on_gpu", lambda parts, ways: asked.append(list(ways)) or dict(times))
    monkeypatch.setattr(engine, "answer_of", lambda work: work())
    return times, asked


@pytest.mark.parametrize(
    ("times", "taken"),
    [
        ({"bmm": 2e-3, "loop": 9e-3, "vmap": 3e-3}, "bmm"),
        ({"bmm": 2e-3, "loop": 9e-3, "vmap": 1.9e-3}, "bmm"),  # not clearly faster than what is taken without measuring
        ({"bmm": 2e-3, "loop": 9e-3, "vmap": 1.7e-3}, "vmap"),
    ],
)
def test_the_fastest_is_frozen_and_told(measured, times, taken):
    measured[0].update(times)
    parts = on_gpu(*MLP)
    found, told = engine.settled(parts)
    assert found.config == replace(parts.config, engine=taken) and identity(found) == identity(parts)
    assert told == f"engine={taken}: a step of 3 workers takes " + ", ".join(f"{n} {1e3 * s:.3g} ms" for n, s in times.items())
    assert engine.settled(on_gpu(*MLP, "seed=3", "optim.lr=0.2"))[0].config.engine == taken
    assert measured[1] == [["loop", "vmap", "bmm"]], "jobs of a sweep that are alike choose alike"
    engine.settled(on_gpu(*MLP, "batch_size=7"))
    assert len(measured[1]) == 2


@pytest.mark.parametrize(("fast", "named"), [("loop contiguous", "contiguous"), ("loop channels_last", "channels_last")])
def test_the_loop_may_take_either_memory_format(measured, fast, named):
    measured[0].update({"vmap": 9e-3, "loop channels_last": 3e-3, "loop contiguous": 3e-3, fast: 1e-3})
    found, told = engine.settled(on_gpu(*CNN))
    assert measured[1] == [["loop channels_last", "loop contiguous", "vmap", "bmm"]]
    assert found.config.engine == "loop" and found.task.model.memory_format == named
    assert told.startswith(f"engine=loop model.memory_format={named}: a step of 3 workers takes vmap 9 ms, ")


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((*CNN, "engine=loop"), ["loop channels_last", "loop contiguous"]),
        ((*CNN, "model.memory_format=contiguous"), ["loop", "vmap", "bmm"]),
        ((*MLP, "engine=vmap"), None),
        ((*CNN, "engine=loop", "model.memory_format=contiguous"), None),
        ((*MLP, "steps=1000"), None),
        ((*MLP, "launch=false"), None),
        (("task=quadratic", "device=cpu"), None),
    ],
)
def test_what_was_said_is_not_measured(measured, words, asked):
    parts = on_gpu(*words)
    found, told = engine.settled(parts)
    assert measured[1] == ([] if asked is None else [asked])
    assert told is None and found is parts  # nothing could be computed
    assert engine.settled(Parts(settle((*LONG, *CNN))))[1] is None, "on a CPU"
    assert memory_format.settled(parts) == (parts, None)


class Ticks:
    """A clock that counts what it is asked to time, and says what was made up."""

    def __init__(self, seconds):
        self.seconds, self.turns = seconds, 0

    def __call__(self, work):
        work()
        self.turns += 1
        return next(self.seconds)


@pytest.mark.parametrize("words", [MLP, (*MLP, "optim=adam"), CNN, (*CNN, "model.norm=batch"), GPT])
def test_what_is_measured_are_steps_of_the_run(monkeypatch, words):
    """Of all rows of one process, from the run's own data, by the engine the run would take, on the clock that is given."""
    from coopsgd.tasks.supervised_problem import SupervisedProblem

    monkeypatch.setattr(engine, "WARM", 0.0)
    monkeypatch.setattr(engine, "AT_ONCE", 2)
    seen = []
    for name in ("gradients", "descend"):
        plain = getattr(SupervisedProblem, name)

        def noting(self, k, *more, name=name, plain=plain):
            seen.append((self.facts["engine"], name, k, tuple(self._x.shape[:1]), len(self._rows)))
            return plain(self, k, *more)

        monkeypatch.setattr(SupervisedProblem, name, noting)
    settings = settle((*LONG, *words))
    parts = Parts(settings)
    ways = {name: (name, None) for name in ("loop", "vmap", "bmm")}
    dense, stateful = words[:2] == MLP[:2], "model.norm=batch" in words
    can = ["loop"] if stateful else ["loop", "vmap", "bmm"] if dense else ["loop", "vmap"]
    clock = Ticks(iter([9.0, 9.0, *(0.1 * turn for turn in range(1, 1 + engine.TURNS))] * 3))
    times = engine.measured(parts, ways, "cpu", clock)
    assert times == dict.fromkeys(can, 0.1 / 2)
    assert next(iter(times)) == ("bmm" if dense else "loop"), "first what is taken without measuring"
    assert clock.turns == len(can) * (2 + engine.TURNS)
    step = "gradients" if "optim=adam" in words else "descend"
    assert seen == [(name, step, k, (3,), 3) for name in can for k in range(2 * (2 + engine.TURNS))]


def test_an_engine_without_room_is_left_out(monkeypatch):
    from coopsgd.tasks.engines.vmap import Vmap

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine, "WARM", 0.0)
    monkeypatch.setattr(Vmap, "descend", full)
    times = engine.measured(
        Parts(settle((*LONG, *MLP))), {n: (n, None) for n in ("vmap", "bmm", "loop")}, "cpu", engine.clock_of("cpu")
    )
    assert list(times) == ["bmm", "loop"] and min(times.values()) > 0


def test_a_gpus_clock_is_read_by_events_behind_a_synchronisation(monkeypatch):
    did = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.number = sum(1 for one in did if one.startswith("made"))
            did.append(f"made {self.number}")

        def record(self):
            did.append(f"record {self.number}")

        def synchronize(self):
            did.append(f"wait {self.number}")

        def elapsed_time(self, other):
            return 2500.0 * (other.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: did.append(f"synchronise {device}"))
    device = torch.device("cuda", 0)
    assert engine.clock_of(device)(lambda: did.append("work")) == 2.5
    assert did == ["made 0", "made 1", "synchronise cuda:0", "record 0", "work", "record 1", "wait 1"]


def test_the_choice_is_kept_by_a_run_its_resume_and_its_verification(cli, tmp_path):
    words = (
        "train",
        *MLP[:2],
        "model.hidden=[8]",
        "workers=2",
        "processes=1",
        "algo=pasgd",
        "tau=4",
        "steps=8",
        "batch_size=8",
    )
    words = (*words, "device=cpu", "checkpoint_every=4", "hydra.run.dir=r", "resume=auto")
    ended = cli(*words, first=choosing)
    assert ended.code == 0 and "engine=loop: a step of 2 workers takes bmm 2 ms, loop 1 ms" in ended.err + ended.out, ended
    longer = [word.replace("steps=8", "steps=12") for word in words]
    assert cli(*longer).code == 0  # who says nothing goes on with what there is
    for name in ("config.yaml", "summary.json"):
        assert yaml.safe_load((tmp_path / "r" / name).read_text())["engine"] == "loop", name
    assert cli("verify", "r").code == 0


SHORT = (*CNN, "workers=2", "algo=pasgd", "tau=4", "steps=8", "batch_size=8", "checkpoint_every=4")


def test_auto_is_what_was_measured(cli, tmp_path):
    """`engine=auto` and `model.memory_format=auto` know the run that froze what they found, and one that goes on keeps it."""
    words = ("train", "-m", *SHORT, "processes=1", "seed=0,1", "hydra.sweep.dir=s")
    auto = ("engine=auto", "model.memory_format=auto")
    assert cli(*words, *auto, first=choosing_format).code == 0
    runs = [file.parent for file in sorted((tmp_path / "s").rglob("config.yaml"))]

    def chosen():
        frozen = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
        return [(config["engine"], config["model"]["memory_format"], config["processes"]) for config in frozen]

    assert chosen() == [("loop", "contiguous", 1)] * 2
    for more in ((), auto, auto[:1], auto[1:], ("device=auto", "processes=auto", "threads=auto")):
        keys = tuple(f"{word.partition('=')[0]}=" for word in more)
        ended = cli(*(word for word in words if not word.startswith(keys)), *more, "skip_done=true")
        assert ended.code == 0 and ended.out.count("done already in s/") == 2, (more, ended)
    for other in ("engine=vmap", "model.memory_format=channels_last", "threads=3"):
        assert "done already" not in cli(*words, other, "skip_done=true").out, other
    longer = [word.replace("steps=8", "steps=12") for word in words]
    ended = cli(*longer, *auto, "resume=auto")
    assert ended.code == 0 and ended.out.count("goes on from step 8") == 2, ended
    ended = cli("resume", str(runs[0]), *auto, "steps=16")
    assert ended.code == 0 and "goes on from step 12" in ended.out, ended
    assert chosen() == [("loop", "contiguous", 1)] * 2
    ended = cli("resume", str(runs[0]), "engine=vmap", "steps=20")
    assert ended.code == 2 and "engine: would change what this run has done already" in ended.err, ended


def choosing_format():
    engine._ways = lambda parts: {"bmm": ("bmm", None), "loop contiguous": ("loop", "contiguous")}
    engine._on_gpu = lambda parts, ways: {"bmm": 2e-3, "loop contiguous": 1e-3}


def choosing():
    """In a command that does this first, a run on a processor is measured, by what a GPU is said to have taken."""
    engine._ways = lambda parts: {name: (name, None) for name in ("loop", "bmm")}
    engine._on_gpu = lambda parts, ways: {"bmm": 2e-3, "loop": 1e-3}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.device_count(), reason="no GPU, or no -m gpu")
@pytest.mark.parametrize("words", [MLP, CNN, GPT])
def test_on_a_gpu_something_is_measured(words):
    found, told = engine.settled(on_gpu(*words))
    assert found.config.engine in ("loop", "vmap", "bmm") and told is not None and "loop" in told


@pytest.mark.parametrize("words", [MLP, CNN])
def test_engines_differ_in_rounding_alone(words):
    names = ("loop", "vmap", "bmm") if words is MLP else ("loop", "vmap")
    runs = [play(None, 1, *words, "algo=pasgd", "workers=5", "steps=6", f"engine={name}").x for name in names]
    for run in runs[1:]:
        np.testing.assert_allclose(run, runs[0], rtol=0, atol=1e-12)
