"""`coopsgd train` as its users use it: runs, sweeps, several machines, and what they leave."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HANG
from running import LONG, QUICK, Terminal, linux, started, until  # noqa: F401  a fixture

import coopsgd
from coopsgd.errors import RunFailed
from coopsgd.host import files
from coopsgd.run import naming
from coopsgd.run.naming import folder_name

KEYS = {
    "step",
    "epoch",
    "samples",
    "wall_s",
    "rounds",
    "messages",
    "bytes",
    "wire_bytes",
    "train_s",
    "comm_s",
    "lr",
    "tau",
    "phase",
}


KEYS |= {"train/loss", "consensus", "consensus_after"}


EVALUATED = {"eval/loss", "eval/accuracy", "eval/accuracy_worst", "eval/accuracy_best"}
EVALUATED |= {"eval/aux_loss", "eval/aux_accuracy", "eval/aux_distance"}  # of EASGD's centre


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One small run on real data in four processes, looked at by many tests."""
    folder = tmp_path_factory.mktemp("run")
    words = ["algo=easgd", "tau=5", "steps=40", "log_every=10", "eval_every=20", "name=mine", "hydra.run.dir=here"]
    done = subprocess.run([sys.executable, "-m", "coopsgd.cli", "train", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return coopsgd.Run(folder / "here"), done


def test_what_a_run_leaves(run):
    run, _ = run
    assert sorted(os.listdir(run.folder))[:2] == ["checkpoints", "config.yaml"]
    assert {"metrics.jsonl", "summary.json", "logs"} <= set(os.listdir(run.folder))
    lines = run.metrics()
    assert [line["step"] for line in lines] == [0, 10, 20, 30, 40]
    for line in lines:
        assert set(line) == KEYS | (EVALUATED if line["step"] % 20 == 0 else set())
        assert line["train_s"] <= line["wall_s"]
    last = lines[-1]
    assert last["samples"] == 40 * 4 * 32 and last["epoch"] == pytest.approx(40 / (1433 // 4 // 32))
    d = 64 * 200 + 200 + 200 * 10 + 10
    assert (last["rounds"], last["messages"], last["bytes"]) == (8, 8 * 6, 8 * 6 * d * 4)  # 2 (m - 1) vectors a round
    assert last["eval/accuracy"] > 0.5
    summary = run.summary
    wanted = {"status", "steps", "workers", "processes", "algo", "tau", "zeta", "ledger", "eval", "consensus", "wall_s"}
    assert wanted | {"seed", "versions", "command"} <= set(summary)
    assert summary["status"] == "completed" and summary["name"] == "mine"
    assert summary["zeta"] == pytest.approx(4 / 6)
    assert summary["command"].startswith("coopsgd train algo=easgd tau=5")
    assert summary["eval"]["eval/loss"] == last["eval/loss"]
    assert summary["ledger"]["bytes_per_worker_mean"] * 4 == summary["ledger"]["bytes"]


def test_the_model_that_was_evaluated_is_the_model_that_is_saved(run):
    run, _ = run
    rows, model = run.rows(), run.model()
    assert rows.shape == (5, run.summary["parameters"])
    np.testing.assert_allclose(run.answer()[0], rows[:4].mean(0), rtol=0, atol=1e-6)
    from coopsgd.data.digits import Digits

    images = Digits().load()
    assert not model.training
    with torch.no_grad():
        right = model(torch.from_numpy(images.test_x).float() / 16 - 0.5).argmax(1).numpy() == images.test_y
    assert right.mean() == pytest.approx(run.summary["eval"]["eval/accuracy"])


def test_tensorboard_holds_the_same_numbers(run):
    run, _ = run
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "eval/loss",
        "eval/accuracy",
        "transfer/bytes",
        "transfer/rounds",
        "transfer/messages",
        "workers/consensus",
    } <= tags
    for tag, key in (("eval/loss", "eval/loss"), ("transfer/bytes", "bytes"), ("workers/consensus", "consensus")):
        shown = {event.step: event.value for event in events.Scalars(tag)}
        kept = {line["step"]: line[key] for line in run.metrics() if line.get(key) is not None}
        assert shown.keys() == kept.keys()
        assert all(shown[step] == pytest.approx(kept[step], rel=1e-6) for step in kept)


def test_the_console_ends_with_a_table_and_the_folder(run):
    run, done = run
    assert f"4 workers in {run.summary['processes']} process" in done.stdout
    assert "every model and their mean" in done.stdout  # what save=auto came to
    assert done.stdout.rstrip().endswith(str(run.folder))
    assert "accuracy" in done.stdout and done.stderr == ""


def test_a_run_is_repeated_from_its_own_config(run, tmp_path, cli):
    run, _ = run
    shutil.copytree(run.folder, tmp_path / "copy")
    ended = cli("train", "--config-path", "copy", "--config-name", "config", "hydra.run.dir=again")
    assert ended.code == 0, ended.err
    assert sorted(os.listdir(tmp_path / "again")) == sorted(
        name if "tfevents" not in name else next(n for n in os.listdir(tmp_path / "again") if "tfevents" in n)
        for name in os.listdir(run.folder)
    )
    again = coopsgd.Run(tmp_path / "again")
    assert torch.equal(again.rows(), run.rows())
    assert again.summary["algo"] == "easgd"


def test_a_folder_that_was_moved_is_whole(cli, tmp_path):
    W = np.full((70, 70), 1 / 70)  # more numbers than a config holds itself
    np.save(tmp_path / "w.npy", W)
    words = ("algo=cooperative", "algo.W=w.npy", "workers=70", "processes=1", "task=quadratic", "steps=3")
    assert cli("train", *words, "hydra.run.dir=there").code == 0
    (tmp_path / "w.npy").unlink()
    (tmp_path / "there").rename(tmp_path / "here")
    for form in (("--config-path", "here", "--config-name", "config"), ("--config-path=here", "--config-name=config")):
        ended = cli("train", *form, "hydra.run.dir=again" + str(len(form)))
        assert ended.code == 0, ended.err
    assert np.array_equal(np.load(coopsgd.Run(tmp_path / "here").config.algo["W"]), W)
    assert cli("analyze", "--over", "here", "again2", "again4").code == 0
    assert cli("show", "--config-path", "here").code == 2
    ended = cli("train", "--config-path", "there", "--config-name", "config")
    assert ended.code == 2 and ended.lines == ["coopsgd: --config-path there: is no folder; name one that holds config.yaml"]
    ended = cli("train", "--config-path", "here", "--config-name", "config", "algo=pasgd")
    assert ended.code == 2 and len(ended.lines) == 1 and "this config is a run's" in ended.err
    with (tmp_path / "here" / "config.yaml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write("oldkey: 3\n" + text)
    ended = cli("train", "--config-path", "here", "--config-name", "config", "hydra.run.dir=old")
    assert ended.code == 2 and len(ended.lines) == 1 and "no key named 'oldkey'" in ended.err


def test_a_half_written_line_does_not_hide_what_went_wrong(cli, tmp_path, monkeypatch):
    from coopsgd.commands import compose
    from coopsgd.run import folders, launch, start

    def torn(folder, *_, **__):
        (folder / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20, "ep')
        raise RunFailed("no such luck")

    monkeypatch.setattr(launch, "run", torn)
    parts = compose.compose_config(QUICK).parts
    folders.write_config(parts.config, tmp_path / "here", "coopsgd train")
    with pytest.raises(RunFailed, match="no such luck"), start.summed_up(tmp_path / "here", parts):
        start.start(tmp_path / "here", parts)
    assert coopsgd.Run(tmp_path / "here").summary["steps"] == 10


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path):
    def full(file):
        file.write(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.atomically(tmp_path / "big", full)
    assert not list(tmp_path.iterdir())


def test_a_function_of_the_round_is_trained_and_repeated(cli, tmp_path):
    (tmp_path / "mine.py").write_text("import numpy as np\n\ndef W(m, r):\n    return np.full((m, m), 1 / m)\n")
    for word, there in (("algo.W=mine:W", 0), ("algo.W=mine:w", 2), ("algo.W=mine:W", 0)):
        at = f"hydra.run.dir={tmp_path}/{there}" if there else f"hydra.run.dir={tmp_path}/{len(list(tmp_path.iterdir()))}"
        ended = cli("train", "algo=cooperative", word, *QUICK, "workers=2", "processes=2", at)
        assert ended.code == there, ended.err


def test_a_folder_that_was_not_frozen_is_free_again(cli, tmp_path, monkeypatch):
    np.save(tmp_path / "w.npy", np.full((2, 2), 0.5))

    def full(config, folder):
        (folder / "algo.W.npy").write_text("half of it")
        raise OSError("No space left on device")

    from coopsgd.commands import compose
    from coopsgd.run import folders

    monkeypatch.setattr(folders, "_with_files", full)
    with pytest.raises(OSError, match="No space"):
        folders.write_config(compose.compose_config(QUICK).config, tmp_path / "here", "coopsgd train")
    monkeypatch.undo()
    assert not list((tmp_path / "here").iterdir())
    folders.write_config(compose.compose_config(QUICK).config, tmp_path / "here", "coopsgd train")


def test_a_model_that_leaves_the_numbers_at_the_last_step_has_diverged(cli, tmp_path):
    ended = cli("train", "task=quadratic", "optim.lr=1e30", "steps=1", "hydra.run.dir=here")
    assert ended.code == 1 and "diverged" in ended.err and "step 1 " in ended.err
    assert coopsgd.Run(tmp_path / "here").summary["status"] == "diverged"


def test_samples_are_those_of_the_workers_that_computed(cli, tmp_path):
    words = ("algo=fedavg", "algo.fraction=0.25", "workers=8", "tau=5", "steps=20", "batch_size=10", "hydra.run.dir=here")
    assert cli("train", *words).code == 0
    last = coopsgd.Run(tmp_path / "here").metrics()[-1]
    assert last["samples"] == 20 * 2 * 10  # two clients a round
    assert last["epoch"] == pytest.approx(20 * 2 / 8 / (1433 // 8 // 10))  # passes of the mean worker


def test_keys_that_a_task_has_no_use_for_are_told(cli):
    ended = cli("train", *QUICK, "engine=bmm", "eval_samples=5", "norm_stats=local")
    assert ended.code == 0
    for word in ("engine", "eval_samples", "norm_stats"):
        assert f"{word}: task quadratic has none; ignored" in ended.err


@pytest.mark.parametrize(("save", "kept"), [("rows", {"rows", "answer"}), ("answer", {"answer"}), ("none", set())])
def test_save(cli, tmp_path, save, kept):
    assert cli("train", *QUICK, f"save={save}", "hydra.run.dir=here").code == 0
    run = coopsgd.Run(tmp_path / "here")
    for what in ("rows", "answer"):
        if what in kept:
            assert getattr(run, what)().shape[1] == 10
        else:
            with pytest.raises(LookupError, match=f"save={what}"):
                getattr(run, what)()


def test_save_auto_keeps_rows_up_to_200_megabytes():
    from coopsgd.run.final import resolve

    assert [resolve("auto", 5, d, 4) for d in (10**7, 10**7 + 1)] == ["rows", "answer"]
    assert resolve("none", 1, 1, 4) == "none"


def test_a_sweep_makes_a_folder_for_each_run(cli, tmp_path):
    words = ("algo=fullsync,pasgd,easgd,dpsgd", "tau=1,10", "steps=12", "processes=2")
    ended = cli("train", "-m", *words, "hydra.sweep.dir=s")
    assert ended.code == 0, ended.err
    folders = sorted(path.name for path in (tmp_path / "s").iterdir() if path.is_dir())
    wanted = {f"algo={a},tau={t}" for a in ("fullsync", "pasgd", "easgd", "dpsgd") for t in (1, 10)}
    assert folders == sorted(wanted - {"algo=fullsync,tau=10"})  # which would be tau=1 again
    for name in folders:
        summary = coopsgd.Run(tmp_path / "s" / name).summary
        assert summary["status"] == "completed" and summary["steps"] == 12
        assert summary["tau"] == (1 if "fullsync" in name else int(name.rpartition("=")[2]))
    assert ended.err.count("tau: fullsync communicates every step by itself") == 2


def test_what_hydra_refuses_starts_no_job(cli, tmp_path):
    (tmp_path / "file").touch()
    for words, message in (
        (("algo=easgd,nope",), "no choice named 'nope'"),
        (("workers=4,x",), "workers"),
        (("seed=0,1", "hydra.sweep.dir=file/x"), "file/x cannot be written (Not a directory); choose another hydra.sweep.dir"),
    ):
        ended = cli("train", "-m", *QUICK, *words)
        assert ended.code == 2 and len(ended.lines) == 1 and message in ended.err, ended.err
        assert ended.lines[0].endswith("no job of the sweep was started")
    ended = cli("train", *QUICK, "hydra.run.dir=file/x")
    assert ended.code == 2 and ended.lines == [
        "coopsgd: file/x cannot be written (Not a directory); choose another hydra.run.dir"
    ]


def test_one_failing_job_does_not_stop_the_others(cli, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "algo=easgd,tau=3").write_text("a file in the way of a folder")
    ended = cli("train", "-m", *QUICK, "tau=0,2,3,4", "hydra.sweep.dir=s")
    assert ended.code == 2
    for tau in (2, 4):
        assert coopsgd.Run(tmp_path / "s" / f"algo=easgd,tau={tau}").summary["status"] == "completed"
    assert "2 of the sweep's jobs failed" in ended.err
    assert "tau=0 (" in ended.err and "tau=3 (" in ended.err and "s/algo=easgd,tau=3" in ended.err
    assert "Traceback" not in ended.err


def test_a_sweep_in_any_order_of_words(cli, tmp_path):
    assert cli("train", *QUICK, "-m", "tau=1,2", "hydra.sweep.dir=s").code == 0
    assert {path.name for path in (tmp_path / "s").iterdir() if path.is_dir()} == {"algo=easgd,tau=1", "algo=easgd,tau=2"}


def test_folder_names_are_safe_short_and_different():
    assert folder_name(["algo=easgd", "tau=4"], 0) == "algo=easgd,tau=4"
    assert folder_name([], 3) == "3"
    for words in (
        ["task.start=/a/b.npy"],
        ["algo.W=[[1,0],[0,1]]"],
        ["name=" + "x" * 300],
        ["name=a b"],
        ["name=../up"],
    ):
        name = folder_name(words, 0)
        assert len(name) <= 100 and not set(name) & set("/[] \\'\"")
    assert folder_name(["name=a/b"], 0) != folder_name(["name=a_b"], 0)
    assert naming.of_job(["tau=4", "seed=0"], 0, "easgd") == "algo=easgd,tau=4,seed=0"
    assert naming.of_job(["tau=4", "algo=easgd"], 0, "easgd") == "tau=4,algo=easgd", "as it was where it holds it"
    assert naming.of_job([], 3, "easgd") == "algo=easgd" and naming.of_job([], 3, "") == "3"
    cut = [naming.of_job([f"data.path={'x' * 100}{n}", "algo=easgd"], 0, "easgd") for n in range(2)]
    assert all(name.startswith("algo=easgd,data.path=x") and len(name) <= 100 for name in cut) and cut[0] != cut[1]
    long = ["x" * 200, "x" * 201]
    assert folder_name(long[:1], 0) != folder_name(long[1:], 0)


def test_two_runs_in_one_second_have_two_folders(cli, tmp_path):
    from coopsgd.run.folders import fresh

    assert [Path(fresh(str(tmp_path / "day" / "a"))).name for _ in range(3)] == ["a", "a-2", "a-3"]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: cli("train", *QUICK), range(3)))
    assert [end.code for end in ended] == [0] * 3
    assert len(list(tmp_path.glob("outputs/*/*/summary.json"))) == 3


def test_unused_keys_are_told(cli, tmp_path):
    ended = cli("train", *QUICK, "algo=fullsync", "tau=10", "topology=star", "model=cnn", "hydra.run.dir=here")
    assert ended.code == 0
    assert len(ended.lines) == 3, ended.err
    assert all("ignored" in line for line in ended.lines)
    run = coopsgd.Run(tmp_path / "here")
    assert run.summary["tau"] == 1 and run.config.topology is None and run.config.model is None


def test_processes_and_threads_are_chosen_and_said(cli, tmp_path):
    ended = cli("train", *QUICK, "workers=6", "processes=2", "hydra.run.dir=here")
    assert "6 workers in 2 processes (3 each)" in ended.out
    assert coopsgd.Run(tmp_path / "here").summary["processes"] == 2


def test_processes_auto(monkeypatch):
    from coopsgd.host import processors
    from coopsgd.setup import schema

    monkeypatch.setattr(processors, "cores", lambda: 2)
    assert [schema.place(m, 0) for m in (1, 4, 5, 6, 64, 7)] == [1, 4, 1, 3, 4, 1]
    assert [schema.place(m, 8) for m in (4, 16, 1024, 7)] == [4, 8, 8, 7]


@pytest.mark.slow
def test_several_machines(cli, tmp_path):
    """launch=false freezes the folder and prints the line; two torchrun agents on this host carry it out."""
    ended = cli("train", *QUICK, "algo=easgd", "workers=4", "processes=4", "launch=false", "hydra.run.dir=here")
    assert ended.code == 0 and "torchrun" in ended.out and "-m coopsgd.worker" in ended.out
    assert not (tmp_path / "here" / "summary.json").exists()
    import socket

    with socket.socket() as probe:  # a port that is free now; real machines name their own
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=2",
        "--master-addr=127.0.0.1",
    ]
    line += [f"--master-port={port}"]
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    rest = ["-m", "coopsgd.worker", str(tmp_path / "here")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": env, "text": True}
    agents = [subprocess.Popen([*line, f"--node-rank={rank}", *rest], **pipes) for rank in (0, 1)]
    for agent in agents:
        out, _ = agent.communicate(timeout=HANG)
        assert agent.returncode == 0, out
    run = coopsgd.Run(tmp_path / "here")
    assert run.summary["status"] == "completed" and run.summary["processes"] == 4
    assert cli("train", *QUICK, "algo=easgd", "workers=4", "processes=1", "hydra.run.dir=one").code == 0
    np.testing.assert_allclose(run.rows(), coopsgd.Run(tmp_path / "one").rows(), rtol=0, atol=1e-5)


def test_a_folder_is_not_trained_twice(cli):
    assert cli("train", *QUICK, "workers=1", "hydra.run.dir=here").code == 0
    ended = cli("here", module="coopsgd.worker")
    assert ended.code != 0 and "already holds a run" in ended.err


def test_square_brackets_in_a_path(cli, tmp_path):
    assert cli("train", *QUICK, "hydra.run.dir='[red]/[x]'").out.rstrip().endswith("[red]/[x]")


@linux
def test_a_live_line_on_a_terminal(started):  # noqa: F811
    """A bar while it runs, and after Ctrl-C a cursor that is to be seen."""
    terminal = Terminal()
    command = started("train", *LONG, "processes=2", "hydra.run.dir=r", first=terminal.first, env=terminal.ENV)
    until(lambda: b"rounds" in terminal.output(), "the bar")
    command.send_all(signal.SIGINT)
    assert command.ended().code == 130
    message = terminal.output()
    assert b"/100000000" in message and message.rfind(b"\x1b[?25h") >= message.rfind(b"\x1b[?25l")


def test_a_world_of_another_size_is_refused(cli):
    cli("train", *QUICK, "processes=4", "launch=false", "hydra.run.dir=here")
    ended = cli("here", module="coopsgd.worker", env={"WORLD_SIZE": "3", "RANK": "0"})
    assert ended.code != 0 and "WORLD_SIZE is 3" in ended.err and "processes=4" in ended.err


@pytest.mark.parametrize("port", ["abc", "99999", "-1", "²"])
def test_a_port_that_is_none_is_refused(cli, port):
    cli("train", *QUICK, "processes=2", "launch=false", "hydra.run.dir=here")
    env = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ended = cli("here", module="coopsgd.worker", env=env)
    assert ended.code == 2 and len(ended.lines) == 1 and f"MASTER_PORT is {port!r}, which is no port" in ended.err, ended
