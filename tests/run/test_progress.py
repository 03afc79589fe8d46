"""What takes long says what it does and how far it is; a sweep ends with a table, a signal is answered by step and folder."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest
from screen import Screen

from coopsgd.commands import compose
from coopsgd.commands.train import command, session
from coopsgd.errors import Interrupted
from coopsgd.run import folders, progress
from coopsgd.run import sweep as sweeps

QUICK = ("task=quadratic", "steps=2", "processes=1", "log_every=2", "eval_every=0")


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def moments(monkeypatch):
    """The clock says these, one after the other."""

    def say(*some):
        clock = iter(some)
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))

    return say


def test_progress_is_told_after_a_second_and_then_now_and_then(moments, capsys):
    moments(0.0, 0.5, 1.2, 5.0, 12.0)
    bar = progress.Progress("reading runs", 40)
    for done in (0, 3, 4, 30):
        bar.at(done, f"run {done}")
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "reading runs: 3 of 40 done, about 15 s left, now run 3",  # 0.4 s each, and 37 to come
        "reading runs: 30 of 40 done, about 4 s left, now run 30",
    ]


def test_on_a_terminal_one_line_lives(monkeypatch, moments, capsys):
    """Nothing in the first second; a line that somebody else prints stays; nothing of ours is left at the end."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    moments(0.0, 0.2, 1.5, 1.6, 3.0)
    bar, screen = progress.Progress("reading runs", 4), Screen()
    bar.at(0, "a long name")
    assert capsys.readouterr().err == ""
    for done in (1, 2):
        bar.at(done, "a name")
        screen.feed(capsys.readouterr().err)
    assert screen.lines == ["reading runs: 2 of 4 done, about 2 s left, now a name"]
    progress.say("somebody else")
    bar.at(3)
    screen.feed(capsys.readouterr().err.replace("\n", "\r\n"))
    assert screen.lines == ["somebody else", "reading runs: 3 of 4 done, about 1 s left"]
    bar.close()
    screen.feed(capsys.readouterr().err)
    assert screen.lines == ["somebody else"]


def test_the_first_of_many_says_nothing_of_the_rest(moments, capsys):
    """It imports and compiles: one of 251 that took 4 s foretold 17 minutes of what was over in 3 s."""
    moments(0.0, 4.0, 15.0)
    bar = progress.Progress("on the clock", 251)
    bar.at(1)
    bar.at(125)
    assert capsys.readouterr().err.splitlines() == [
        "on the clock: 1 of 251 done",
        "on the clock: 125 of 251 done, about 15 s left",
    ]


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_terminal_that_knows_no_sequences_gets_lines(monkeypatch, moments, capsys, name):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", name)
    moments(0.0, 2.0)
    bar = progress.Progress("reading runs", 4)
    bar.at(2)
    bar.close()
    assert capsys.readouterr().err == "reading runs: 2 of 4 done, about 2 s left\n"


def test_quiet_says_only_what_went_wrong(monkeypatch, moments, capsys):
    monkeypatch.setattr(progress, "quiet", False)
    progress.silence()
    moments(0.0, 2.0)
    bar = progress.Progress("reading runs", 4)
    bar.at(2)
    bar.close()
    progress.say("by the way")
    assert progress.listener(1) is None
    progress.warn("it burns")
    assert capsys.readouterr().err == "it burns\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (100_000, "1 d 3 h")],
)
def test_times_that_somebody_waits(seconds, text):
    assert progress.duration(seconds) == text


def test_what_is_left_of_a_sweep():
    """By hand: two jobs took 60 s; the third of five has run for 10 s and needs 20 more, so jobs take (60 + 30) / 3 = 30 s."""
    sweep = progress.Sweep(3, 5, 1, (2, 60.0))
    assert sweep.left() == 90  # this one and two more
    assert sweep.left(20.0, 10.0) == 20 + 2 * 30
    assert sweep.words() == " (1 failed, about 1 min 30 s left of the sweep)"
    assert progress.Sweep(1, 5, 0).left() is None and progress.Sweep(1, 5, 0).words() == ""
    assert progress.Sweep(3, None, 0, (2, 60.0)).left() is None  # a study decides as it goes
    whole, short = zip(*progress.Sweep(3, 5, 1).parts(90.0), strict=True)
    assert whole == ("job 3 of 5", "1 failed", "about 1 min 30 s left of the sweep")
    assert short == ("job 3/5", "1 failed", "1 min 30 s left")


def test_a_console_that_is_gone_is_no_reason_to_end(monkeypatch):
    with open("/dev/null", "w") as closed:
        pass
    for stderr in (closed, None):
        monkeypatch.setattr(sys, "stderr", stderr)
        progress.say("text")
        bar = progress.Progress("reading", 2)
        bar.at(1)
        bar.close()


def summary(folder, **values):
    found = {
        "status": "completed",
        "steps": 2,
        "train_s": 1.25,
        "eval": {"eval/loss": 0.5},
        "ledger": {"rounds": 3, "bytes": 2000},
    }
    (folder / "summary.json").write_text(json.dumps(found | values))


def test_a_sweep_counts_and_ends_with_a_table(monkeypatch, here, capsys):
    def run(session, cfg, job, hydra_config):
        settings, folder = compose.check(cfg, [], dict(hydra_config.runtime.choices)).config, Path(job.folder)
        folders.write_config(settings, folder, "test", True)
        session._note(job._replace(kept=True))
        summary(folder, **({"status": "diverged", "eval": {"eval/loss": None}} if settings.tau == 3 else {}))

    monkeypatch.setattr(session.Session, "_run", run)
    assert command.train(("-m", *QUICK, "tau=0,2,3", "hydra.sweep.dir=s")) == 2
    out = capsys.readouterr().out.splitlines()
    titles = [line for line in out if ": algo" in line or ": task" in line]
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line).partition(":")[0] for line in titles] == [
        "job 1 of 3",
        "job 2 of 3",
        "job 3 of 3",
    ]
    assert [" (1 failed" in line for line in titles] == [False, True, True]
    head = next(at for at, line in enumerate(out) if line.split() == " ".join(sweeps.COLUMNS).split())
    rows = [line.split() for line in out[head + 1 : head + 4]]
    assert rows[0] == ["tau=0", "refused", "-", "-", "-", "-", "-", "-"]
    assert rows[1] == ["tau=2", "completed", "0.5000", "-", "3", "2", "kB", "1.25", "s", "algo=easgd,tau=2"]
    assert rows[2] == ["tau=3", "diverged", "-", "-", "3", "2", "kB", "1.25", "s", "algo=easgd,tau=3"]
    assert out[-1] == str(here / "s")


def test_a_long_sweep_says_so_before_its_configs_are_read(monkeypatch, here, capsys):
    monkeypatch.setattr(session.Session, "_run", lambda *args: None)
    assert command.train(("-m", *QUICK, "seed=range(12)")) == 0
    message = capsys.readouterr()
    assert message.err.splitlines()[0] == "a sweep of 12 jobs: their configs are read first"
    assert "job 12 of 12: " in message.out


@pytest.mark.parametrize("sweep", [False, True])
def test_a_signal_is_answered_by_step_and_folder(monkeypatch, here, capsys, sweep):
    def start(folder, settings):
        summary(folder, status="interrupted", steps=120)
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(session, "start", start)
    words = ("-m", "tau=2,3", "hydra.sweep.dir=s") if sweep else ("tau=2", "hydra.run.dir=s")
    with pytest.raises(Interrupted) as stopped:
        command.train((*QUICK, "steps=1000", *words))
    where = ("job 1 of 2, ", here / "s" / "algo=easgd,tau=2") if sweep else ("", here / "s")
    assert stopped.value.note == f" at {where[0]}step 120 of 1000; what there is lies in {where[1]}"
