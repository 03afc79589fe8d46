"""`coopsgd verify`: the same bits are called the same, any other is named, and the folder stays what it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import tempfile

import pytest
import torch
from running import LONG, endless_step, linux, started, unsaved_end, until  # noqa: F401  a fixture
from safetensors.torch import load_file, save_file

from coopsgd.commands import verify as verb
from coopsgd.errors import ConfigError

PLAIN = ("task=quadratic", "workers=4", "device=cpu", "algo=easgd", "tau=3", "optim.momentum=0.9")
DIGITS = ("data=digits", "batch_size=8", "device=cpu", "algo=dpsgd", "tau=2", "eval_samples=50")
CNN = (*DIGITS, "model=cnn", "model.width=8", "model.norm=batch")
MLP = (*DIGITS, "model=mlp", "model.hidden=[16]")
SAVED = ("steps=23", "log_every=4", "eval_every=8", "checkpoint_every=15", "save=rows")


def content(folder):
    """Everything in it, with times."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def temporary():
    """Temporary folders are made in the one of this test: the server has looked for the system's already."""
    tempfile.tempdir = "temporary"


def verified(cli, tmp_path, *words):
    """How `verify` ends; it leaves nothing, neither in the folder nor elsewhere."""
    before = content(tmp_path / "r")
    (tmp_path / "temporary").mkdir(exist_ok=True)
    ended = cli("verify", "r", *words, first=temporary)
    assert content(tmp_path / "r") == before and not list((tmp_path / "temporary").iterdir())
    return ended


def keep_all():
    """A run that has come to its end keeps its checkpoints, as one does that is killed."""
    from coopsgd.run import checkpoints

    checkpoints.prune = lambda folder, keep: None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with a checkpoint at step 15, to be copied."""
    from conftest import command

    at = tmp_path_factory.mktemp("whole")
    ended = command(at, "train", *PLAIN, *SAVED, "processes=2", "hydra.run.dir=r", first=unsaved_end)
    assert ended.code == 0, ended
    return at / "r"


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "r")
    return tmp_path / "r"


def test_the_same(cli, tmp_path, run):
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and ended.err == "", ended
    assert "r: steps 1 to 23 are taken again, 4 workers in 2 processes, cpu" in ended.out
    said = "same: 7 lines of metrics.jsonl, the checkpoint of step 15, the final models, bit for bit"
    assert ended.out.splitlines()[-1] == said


def test_the_first_steps(cli, tmp_path, run):
    ended = verified(cli, tmp_path, "--steps", "10")
    assert ended.code == 0 and ended.out.splitlines()[-1] == "same: 3 lines of metrics.jsonl, bit for bit", ended


@pytest.mark.parametrize(
    "words", [(*MLP, "processes=1", "optim=adamw", "delay=1"), (*CNN, "processes=2", "order=cta", "dtype=float64")]
)
def test_a_network(cli, tmp_path, words):
    assert cli("train", *SAVED, *words, "hydra.run.dir=r", first=unsaved_end).code == 0
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and "the checkpoint of step 15, the final models" in ended.out, ended


def relined(run, change):
    """Rewrite metrics.jsonl: change(lines) in place."""
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


CHANGED = {
    "a digit": (lambda lines: lines[2].update({"train/loss": lines[2]["train/loss"] + 1e-15}), "step 8, train/loss: "),
    "a field": (lambda lines: lines[3].pop("bytes"), 'step 12, bytes: "missing" in metrics.jsonl, '),
    "one more": (lambda lines: lines[0].update(extra=1), 'step 0, extra: 1 in metrics.jsonl, "missing" now'),
    "no line": (lambda lines: lines.pop(4), "step 16, line: none in metrics.jsonl, one now"),
    "twice": (lambda lines: lines.insert(2, lines[1]), "step 4, line: one in metrics.jsonl, none now"),
    "the last": (lambda lines: lines[-1].update({"eval/loss": 1}), "step 23, eval/loss: 1 in metrics.jsonl"),
    "the first of two": (
        lambda lines: [line.update(rounds=0) for line in lines[2:]],
        "step 8, rounds: 0 in metrics.jsonl, 2 now",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_line_that_differs(cli, tmp_path, run, name):
    change, said = CHANGED[name]
    relined(run, change)
    ended = verified(cli, tmp_path)
    assert ended.code == 1 and ended.err == "", ended
    assert ended.out.splitlines()[-1].startswith(f"different: {said}"), ended


def test_times_may_differ(cli, tmp_path, run):
    relined(run, lambda lines: [line.update(wall_s=0.5, train_s=0.25, comm_s=0.125) for line in lines])
    assert verified(cli, tmp_path).code == 0


def overwritten(at, name, file, change):
    """Change a tensor of a checkpoint, and its checksum."""
    tensors = load_file(at / file)
    change(tensors[name])
    save_file(tensors, at / file)
    manifest = json.loads((at / "manifest.json").read_text())
    raw = (at / file).read_bytes()
    manifest["files"][file] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (at / "manifest.json").write_text(json.dumps(manifest))


def test_a_row_that_differs(cli, tmp_path, run):
    """Of the second process; a last bit is enough."""

    def last_bit(x):
        x.view(torch.int32)[1, 7] ^= 1

    overwritten(run / "checkpoints" / "step-15", ".state.loop.x", "rows-1.safetensors", last_bit)
    ended = verified(cli, tmp_path)
    assert ended.code == 1, ended
    assert ended.out.splitlines()[-1].startswith("different: step 15, row 3, coordinate 7: "), ended
    assert " in checkpoints/step-15, " in ended.out


def test_a_parameter_that_differs(cli, tmp_path):
    assert cli("train", *MLP, *SAVED, "processes=1", "optim.momentum=0.5", "hydra.run.dir=r", first=unsaved_end).code == 0
    at = tmp_path / "r" / "checkpoints" / "step-15"
    names = [name for name in load_file(at / "rows-0.safetensors") if "momentum" in name]
    overwritten(at, names[0], "rows-0.safetensors", lambda x: x[2, 3].add_(1))
    ended = verified(cli, tmp_path)
    assert ended.code == 1 and "momentum_buffer" in ended.out and "of row 2, " in ended.out and "weight[" in ended.out, ended
    overwritten(at, ".state.loop.x", "rows-0.safetensors", lambda x: x[1, -1].add_(1))
    ended = verified(cli, tmp_path)
    assert "different: step 15, row 1, " in ended.out and ".bias[9]: " in ended.out, ended
    assert verified(cli, tmp_path, "--steps", "14").code == 0


def test_from_a_checkpoint_to_the_next(cli, tmp_path):
    words = ("steps=27", "log_every=4", "checkpoint_every=10")
    assert cli("train", *PLAIN, *words, "processes=2", "hydra.run.dir=r", first=keep_all).code == 0
    relined(tmp_path / "r", lambda lines: lines[1].update(rounds=9))  # before
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and "steps 21 to 27 are taken again" in ended.out, ended
    assert (
        ended.out.splitlines()[-1] == "same: 2 lines of metrics.jsonl, the checkpoint of step 27, the final models, bit for bit"
    )
    assert verified(cli, tmp_path, "--steps", "20").code == 1


def test_a_damaged_checkpoint_is_passed_over(cli, tmp_path, run):
    (run / "checkpoints" / "step-15" / "rows-1.safetensors").write_bytes(b"x")
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and len(ended.lines) == 1 and "it is passed over" in ended.err, ended
    assert ended.out.splitlines()[-1] == "same: 7 lines of metrics.jsonl, the final models, bit for bit"


def test_a_killed_run(cli, tmp_path, run):
    """It has no summary and half of a line."""
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-15")
    raw = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(raw[:-20])
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and "the run did not record its environment" in ended.out, ended
    assert ended.out.splitlines()[-1] == "same: 6 lines of metrics.jsonl, bit for bit"


def test_a_run_that_diverged(cli, tmp_path):
    words = ("task=quadratic", "optim.lr=1e6", "steps=400", "log_every=20", "checkpoint_every=3", "processes=1")
    assert cli("train", *words, "hydra.run.dir=r").code == 1
    ended = verified(cli, tmp_path, "--steps", "20")
    assert ended.code == 0 and "same: 2 lines of metrics.jsonl, the checkpoint of step " in ended.out, ended


def test_a_run_that_stopped_at_its_budget(cli, tmp_path):
    words = (*PLAIN, "steps=400", "log_every=4", "eval_every=8", "save=rows", "stop.bytes=2e3", "processes=2")
    assert cli("train", *words, "hydra.run.dir=r").code == 0
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["steps"] < 400
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and f"steps 1 to {summary['steps']} are taken again" in ended.out, ended
    assert ended.out.splitlines()[-1].endswith("lines of metrics.jsonl, the final models, bit for bit")


# a run that went on


def test_a_run_that_went_on_as_it_was(cli, tmp_path, run):
    (run / "summary.json").unlink()
    assert cli("resume", "r").code == 0
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and "steps 1 to 23" in ended.out and "the final models" in ended.out, ended


def test_a_run_that_went_on_elsewhere(cli, tmp_path, run):
    """What was computed before is verified where it was computed, and nothing is mixed up."""
    (run / "summary.json").unlink()
    assert cli("resume", "r", "processes=1", "log_every=5", first=unsaved_end).code == 0
    resumed = json.loads((run / "summary.json").read_text())["resumed"]
    assert resumed == [{"from": 15, "again": 8, "changed": {"processes": [2, 1], "log_every": [4, 5]}}]
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and "steps 16 to 23 are taken again, 4 workers in 1 process, cpu" in ended.out, ended
    assert "the final models" in ended.out
    ended = verified(cli, tmp_path, "--steps", "15")
    assert ended.code == 0 and "steps 1 to 15 are taken again, 4 workers in 2 processes" in ended.out, ended
    ended = verified(cli, tmp_path, "--steps", "16")
    assert ended.code == 2 and len(ended.lines) == 1 and "--steps: at step 15 the run went on with processes=1" in ended.err


# where it was computed


def recorded(run, change):
    """Rewrite what the run says of its environment, wherever it says it."""
    for file in (run / "summary.json", run / "checkpoints" / "step-15" / "manifest.json"):
        found = json.loads(file.read_text())
        change(found)
        file.write_text(json.dumps(found))


def test_another_environment_is_told_before_the_verdict(cli, tmp_path, run):
    def other(found):
        found["versions"]["torch"] = "1.2.3"
        found["environment"] |= {"threads": 64, "data_sha256": "0" * 64, "packages_sha256": "1" * 64}

    recorded(run, other)
    ended = verified(cli, tmp_path)
    at = ended.out.index("same: ")
    assert ended.code == 0 and 0 < ended.out.index("not as it was: torch: 1.2.3 then, ") < at, ended
    assert 0 < ended.out.index("not as it was: threads: 64 then, ") < at
    assert "bit for bit, though torch and threads and packages_sha256 differ" in ended.out  # quadratics have no data


def test_another_processor(cli, tmp_path):
    """torch's kernels by the capability that this variable names: other bits, and it is said why that may be."""
    plain = {"COOPSGD_NATIVE": "0"}  # kernels of our own do not ask torch what the processor can do
    assert cli("train", *MLP, *SAVED, "processes=1", "hydra.run.dir=r", env=plain).code == 0
    told = json.loads((tmp_path / "r" / "summary.json").read_text())["environment"]["cpu_capability"]
    if told == "DEFAULT":
        pytest.skip("there is no other capability here")
    ended = cli("verify", "r", env={"ATEN_CPU_CAPABILITY": "default"} | plain)
    assert f"not as it was: cpu_capability: {told} then, DEFAULT now" in ended.out, ended
    assert ended.code == 1 and "different: step " in ended.out


def test_a_summary_of_before(cli, tmp_path, run):
    recorded(run, lambda found: found.pop("environment"))
    ended = verified(cli, tmp_path)
    assert ended.code == 0 and "did not record its environment; only versions can be compared" in ended.out, ended


# what cannot be verified


def test_what_is_no_run(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text("hydra: {}\n")
    for at, part in (("nowhere", "does not exist"), ("empty", "holds no run"), ("sweep", "is a sweep; name one of its runs")):
        ended = cli("verify", at)
        assert ended.code == 2 and part in ended.err and len(ended.lines) == 1, ended


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--steps", "0"], "--steps: must be from 1 to 23"),
        (["--steps", "-3"], "--steps: must be from 1 to 23"),
        (["--steps", "24"], "got 24"),
        (["--steps", "many"], "--steps"),
        (["tau=3"], "tau=3"),
    ],
)
def test_words_that_mean_nothing(cli, tmp_path, run, words, part):
    ended = verified(cli, tmp_path, *words)
    assert ended.code == 2 and part in ended.err and len(ended.lines) == 1, ended


def test_a_run_without_a_line(tmp_path, run):
    (run / "metrics.jsonl").write_bytes(b"")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="there is nothing to verify"):
        verb.verify(run, None, False)


def test_final_models_that_are_damaged(cli, tmp_path, run):
    (found,) = (run / "checkpoints").glob("final.*")
    found.write_bytes(found.read_bytes()[:-9])
    ended = verified(cli, tmp_path)
    assert ended.code == 2 and "is damaged" in ended.err and len(ended.lines) == 1, ended


def nowhere():
    """Temporary folders cannot be made."""
    tempfile.tempdir = "/proc/nowhere"


def test_what_is_in_its_way(cli, tmp_path, run):
    ended = cli("verify", "r", first=nowhere)
    assert ended.code == 2 and len(ended.lines) == 1 and "r: cannot be verified: /proc/nowhere/" in ended.err, ended
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"resumed": [{"odd": 1}]}))
    ended = verified(cli, tmp_path)
    assert ended.code == 2 and len(ended.lines) == 1 and "its resumes" in ended.err, ended
    (run / "summary.json").write_text("{")
    ended = verified(cli, tmp_path)
    assert ended.code == 2 and len(ended.lines) == 1 and "summary.json is damaged" in ended.err, ended


def test_a_gpu_that_is_not_there(tmp_path, run, monkeypatch):
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("device: cpu", "device: cuda"))
    monkeypatch.setattr(verb, "gpu_count", lambda: 0)
    with pytest.raises(ConfigError, match="ran on a GPU, and torch sees none here"):
        verb.verify(run, None, False)


def test_code_that_the_folder_names_needs_trust(cli, tmp_path):
    words = (*PLAIN[:3], "algo=pasgd", "~algo.mixing", "algo.strategy=written:SlowMo", "tau=4", "processes=1")
    assert cli("train", *words, *SAVED, "hydra.run.dir=r", first=unsaved_end).code == 0
    ended = verified(cli, tmp_path)
    assert ended.code == 2 and len(ended.lines) == 1 and "--trust" in ended.err, ended
    ended = verified(cli, tmp_path, "--trust")
    assert ended.code == 0 and "the checkpoint of step 15" in ended.out, ended


def failing():
    """A worker that fails."""
    from coopsgd.run import rerun

    def train(*args):
        raise RuntimeError("no such luck")

    rerun.train = train


def test_a_worker_that_fails(cli, tmp_path, run):
    ended = cli("verify", "r", first=failing)
    assert ended.code == 2 and "cannot be verified: worker process " in ended.err and "no such luck" in ended.err, ended


def test_a_run_in_use(started, cli):  # noqa: F811
    command = started("train", *LONG, "processes=1", "hydra.run.dir=r")
    command.at_work(1)
    ended = cli("verify", "r")
    assert ended.code == 2 and "r is in use by another coopsgd" in ended.err, ended
    command.send(signal.SIGTERM)
    assert command.ended().code == 143


def sleepy():
    """A step that takes for ever, in a place for temporary files of its own."""
    temporary()
    endless_step()


@linux
@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_a_signal_ends_it(started, tmp_path, run, name):  # noqa: F811
    before = content(run)
    (tmp_path / "temporary").mkdir()
    command = started("verify", "r", first=sleepy)
    until((tmp_path / "slept").exists, "a long step")
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    (command.send_all if name == "INT" else command.send)(getattr(signal, f"SIG{name}"))
    assert command.ended().code == 128 + getattr(signal, f"SIG{name}")
    command.nothing_left()
    assert content(run) == before and not list((tmp_path / "temporary").iterdir())
