"""coopsgd.train and coopsgd.show: the command line as a program or a notebook calls it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import WARM
from running import LONG, linux, until

import coopsgd
from coopsgd import from_python
from coopsgd.setup.spoken import words_of

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
EXAMPLE = PAGE.partition("```python\n# notebook.py")[2].partition("```")[0]


@pytest.mark.slow
def test_the_pages_example_runs_once_from_stdin_and_leaves_its_caller_alone(tmp_path):
    """No guard, torch's threads at work, no file that could be run again; what the caller had stays as it was."""
    before = """
import os, random, signal, sys, threading
import numpy, torch
print("begun", file=open("begun", "a"))
torch.ones(400, 400) @ torch.ones(400, 400)
def state():
    threads = [one.name for one in threading.enumerate()]
    modules = sorted(name for name in sys.modules if name.split(".")[0] == "hydra" or name == "torch.distributed.elastic")
    drawn = hash(random.getstate()), hash(str(numpy.random.get_state())), hash(str(torch.get_rng_state()))
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    return os.getcwd(), dict(os.environ), sys.path[:], sys.argv, torch.get_num_threads(), threads, handlers, drawn, modules
was = state()
"""
    example = EXAMPLE.replace('"tau=10"', '"tau=10", "task=quadratic steps=20 processes=2 hydra.run.dir=mine"')
    example = example.replace("workers=8", "workers=8 task=quadratic")
    after = """
assert state()[:-1] == was[:-1], (was, state())
print("FOUND", run, run.config.workers, run.config.optim["lr"], run.metrics()[-1]["step"], found["zeta"] < 1, found)
"""
    done = subprocess.run(
        [sys.executable, "-"],
        input=before + example + after,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error::RuntimeWarning"},
    )
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert (tmp_path / "begun").read_text() == "begun\n"
    assert "completed after 20 steps" in done.stdout and "zeta of one communication" in done.stdout  # as on a console
    assert f"FOUND Run('{tmp_path / 'mine'}') 8 0.05 20 True <Facts: algo, tau, " in done.stdout


def test_an_interrupt_leaves_a_run_that_can_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def interrupt() -> None:
        lines = tmp_path / "r" / "metrics.jsonl"
        until(lambda: lines.exists() and lines.read_bytes().count(b"\n") > 1, "a run under way")
        os.kill(os.getpid(), signal.SIGINT)

    hand = threading.Thread(target=interrupt)
    hand.start()
    with pytest.raises(KeyboardInterrupt, match=r"interrupted at step \d+ of \d+; coopsgd resume .*r goes on from step \d+"):
        coopsgd.train(*LONG, "processes=2", "hydra.run.dir=r", quiet=True)
    hand.join()
    assert coopsgd.Run("r").summary["status"] == "interrupted" and list(Path("r/checkpoints").glob("step-*"))
    assert capsys.readouterr() == ("", "")


@linux
def test_a_caller_that_is_killed_leaves_a_run_that_can_go_on(tmp_path):
    process = WARM.Process(target=partial(_call, str(tmp_path)))
    process.start()
    lines = tmp_path / "r" / "metrics.jsonl"
    until(lambda: lines.exists() and lines.read_bytes().count(b"\n") > 1, "a run under way")
    process.kill()
    until((tmp_path / "r" / "summary.json").exists, "its summary")
    assert coopsgd.Run(tmp_path / "r").summary["status"] == "interrupted" and list(tmp_path.glob("r/checkpoints/step-*"))


def _call(folder: str) -> None:
    os.chdir(folder)
    coopsgd.train(*LONG, "processes=1", "hydra.run.dir=r", quiet=True)


REFUSED = [
    (("task=quadratic", "lrr=1"), r"'lrr'; did you mean outer\.lr or optim\.lr"),
    (("-m", "task=quadratic", "tau=1,2"), r"words: are those of a sweep; call train in a loop"),
    (("--version",), r"nothing trained here"),
    (({"model": {"name": "custom", "path": "__main__:Net"}},), r"__main__:Net: is of the program that calls.*in a file"),
    ((4,), r"words: each is a word as in 'tau=4', a dict or the path of a yaml, got int"),
    (("nowhere.yaml",), r"nowhere\.yaml"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "line"), REFUSED)
def test_words_that_cannot_work_raise_and_leave_nothing(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(coopsgd.ConfigError, match=line) as refused:
        coopsgd.train(*words)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())
    assert str(refused.value) not in capsys.readouterr().err  # said once


def test_the_config_of_a_run_is_no_yaml_of_words(tmp_path):
    (tmp_path / "config.yaml").write_text("format: 3\n")
    with pytest.raises(coopsgd.ConfigError, match="format"):
        words_of([tmp_path / "config.yaml"])


def test_words_of_all_kinds():
    W = np.array([[0.5, 0.5], [0.25, 0.75]])
    keys = {"algo": {"name": "cooperative", "W": W}, "tau": np.int64(4), "workers": 2, "name": "it's", "amp": None}
    found = ["algo=cooperative", "++algo.W=[[0.5,0.5],[0.25,0.75]]", "tau=4", "workers=2", r"name='it\'s'", "amp=null"]
    assert words_of([keys]) == found
    assert words_of(["coopsgd train -m tau=1,2", "a=1 b=2", "name='a b'"]) == ["-m", "tau=1,2", "a=1", "b=2", "name='a b'"]


ENDS = [
    ("sys.stderr.write('a note\\ncoopsgd: diverged: at\\nstep 3\\n'); sys.exit(1)", coopsgd.RunFailed, "diverged: at\nstep 3"),
    ("sys.stderr.write('coopsgd: one\\ncoopsgd: tau: two\\n'); sys.exit(2)", coopsgd.ConfigError, "tau: two"),
    ("sys.stderr.write('Traceback\\nOSError: odd\\n'); sys.exit(1)", coopsgd.RunFailed, "OSError: odd"),
    ("os.kill(os.getpid(), 9)", coopsgd.RunFailed, "its process ended by SIGKILL"),
    ("sys.exit(143)", coopsgd.RunFailed, "its process ended by SIGTERM"),
]


@pytest.mark.parametrize(("code", "kind", "message"), ENDS)
def test_how_a_command_ends_is_what_is_raised(code, kind, message, monkeypatch, capsys):
    monkeypatch.setattr(from_python, "CODE", f"import os, sys; {code}")
    with pytest.raises(kind) as raised:
        coopsgd.train("tau=4")
    assert str(raised.value) == message
    assert "coopsgd" not in capsys.readouterr().err


def test_what_a_command_leaves_behind_is_not_waited_for(monkeypatch, capsys):
    """A process of the user's own code may hold the streams open."""
    leave = "import os, sys, time\nprint('begun', flush=True)\nif os.fork() == 0:\n    time.sleep(20)\n    os._exit(0)\n"
    monkeypatch.setattr(from_python, "CODE", f"{leave}print(os.getpid())\nos.write(int(sys.argv[3]), b'/nowhere')\n")
    began = os.times().elapsed
    with pytest.raises(FileNotFoundError, match="/nowhere holds no run"):
        coopsgd.train("tau=4")
    group = int(capsys.readouterr().out.split()[1])
    os.killpg(group, signal.SIGKILL)
    assert os.times().elapsed - began < 20


def test_all_names_are_listed_and_nothing_heavy_is_imported_for_them():
    assert dir(coopsgd) == sorted(coopsgd.__all__) and {"train", "show", "Run", "Cooperation", "ConfigError"} <= set(
        dir(coopsgd)
    )
    assert all(hasattr(coopsgd, name) for name in dir(coopsgd))
    code = "import sys, coopsgd; dir(coopsgd), coopsgd.train, coopsgd.show, coopsgd.Run; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stdout + done.stderr
