"""What a run looks like while it trains: drawn over on a terminal of any width, plain lines with the time elsewhere."""

from __future__ import annotations

import io
import os
import re
import sys
import termios

import pytest
from running import SHORT
from screen import Screen, on_terminal

from coopsgd.commands.train import launching
from coopsgd.commands.train.session import Session
from coopsgd.host import stdio
from coopsgd.run import console, progress
from coopsgd.run.console import Live
from coopsgd.run.jobs import DONE, FAILED, Job, Jobs

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


def line(step, wall, **more):
    """A log point; without evaluation unless `more` has one."""
    known = {"train/loss": 0.25 if step else None, "consensus": None, "rounds": step // 10, "bytes": 36_000 * step}
    return {"step": step, "wall_s": wall, **known, **{name.replace("_", "/", 1): value for name, value in more.items()}}


EVAL = {"eval_loss": 0.5, "eval_accuracy": 0.875}


class Terminal:
    """A terminal in this process: `stream` to write to, `screen` that shows what was written."""

    def __init__(self, columns, rows=24):
        self._ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (rows, columns))
        self.stream, self._theirs, self._screen = stdio.stream(theirs), theirs, Screen(columns)

    @property
    def screen(self):
        self.stream.write("\a")  # to know where it ends
        self.stream.flush()
        data = b""
        while not data.endswith(b"\a"):
            data += os.read(self._ours, 1 << 16)
        self._screen.feed(data[:-1].decode())
        return self._screen

    def close(self):
        self.stream.close()
        os.close(self._theirs)
        os.close(self._ours)


@pytest.fixture
def terminal(monkeypatch):
    made = []
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(console, "FRAME", 0.0)

    def of(columns, rows=24):
        made.append(Terminal(columns, rows))
        return made[-1]

    yield of
    for one in made:
        one.close()


def test_what_was_last_known_stays_and_losses_are_told_apart(terminal):
    t = terminal(80)
    live = Live(t.stream, 2000)
    assert t.screen.lines[0].startswith("step 0/2000") and "left" not in t.screen.lines[0]
    live.log(line(0, 1.0, **EVAL))
    live.log(line(100, 2.0) | {"consensus": 0.0175})
    live.log(line(500, 6.0))
    head, learned, sent = t.screen.lines
    assert re.fullmatch(r"step 500/2000  ━{6}─{18}  25%  15 s left", head)  # 5 s for 500 steps
    assert learned == "training loss 0.2500  test loss 0.5000  test accuracy 0.8750"
    assert sent == "50 rounds  18 MB sent  consensus distance 0.0175"
    live.close()
    assert t.screen.lines == [] and not t.screen.wrapped and not t.screen.hidden


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 25, 12, 3])
@pytest.mark.parametrize("step", [0, 999_999])
def test_nothing_wraps(terminal, monkeypatch, columns, step):
    monkeypatch.setattr(progress, "sweep", progress.Sweep(3, 12, 1, (2, 4000.0)))
    t = terminal(columns)
    live = Live(t.stream, 1_000_000)
    live.log(line(0, 0.0, **EVAL))
    live.log(line(step, 3e5, **EVAL) | {"consensus": 1.25e-7, "sim_s": 123456.789})
    found = t.screen
    assert not found.wrapped and len(found.lines) == 4
    if columns == 80:
        assert found.lines[0].startswith("job 3 of 12  1 failed  about ") and found.lines[0].endswith(" left of the sweep")
        sent, clock = ("99999 rounds  36 GB", "sim") if step else ("0 rounds  0 B", "simulated time")
        assert found.lines[3] == f"{sent} sent  consensus distance 1.25e-07  {clock} 123456.79 s"
    if columns == 40:
        assert found.lines[2] == (
            "train 0.2500  test 0.5000  acc. 0.8750" if step else "test loss 0.5000  test accuracy 0.8750"
        )
        sent = "99999 rounds  36 GB" if step else "0 rounds  0 B"
        assert found.lines[3].startswith(f"{sent}  cons. 1.25e-07")
    if columns == 25:
        assert found.lines[1].startswith(f"step {step}/") or found.lines[1].startswith(f"{step}/")


def test_a_low_terminal_shows_what_it_can(terminal):
    t = terminal(80, rows=2)
    live = Live(t.stream, 100)
    live.log(line(50, 1.0, **EVAL))
    assert len(t.screen.lines) == 1 and t.screen.lines[0].startswith("step 50/100")


def test_a_note_stays_and_so_does_what_others_print(terminal):
    t = terminal(40)
    live = Live(t.stream, 100)
    live.log(line(0, 0.0, **EVAL))
    live.note("the disk is full")
    live.log(line(10, 1.0))
    t.stream.write("worker process 1 is stopped, and the others wait for it\n")  # another process, which knows of nothing
    t.stream.flush()
    live.log(line(20, 2.0))
    live.close()
    shown = t.screen.lines
    assert shown[0] == "the disk is full"
    assert "".join(shown[1:]).startswith("worker process 1 is stopped, and the others wait for it")


@pytest.mark.parametrize(
    ("name", "value", "styled"), [("TERM", "xterm", True), ("NO_COLOR", "1", False), ("NO_COLOR", "", True)]
)
def test_no_colour_where_nobody_wants_it(terminal, monkeypatch, name, value, styled):
    monkeypatch.setenv(name, value)
    t = terminal(80)
    live = Live(t.stream, 100)
    live.log(line(50, 1.0, **EVAL))
    out = console.printer(t.stream)
    out.print("bold", style="bold red")
    assert t.screen.styled == styled


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    t = terminal(200)
    live = Live(t.stream, 100)
    live.log(line(0, 1.0, **EVAL))
    live.close()
    (only,) = t.screen.lines
    assert re.fullmatch(STAMP + r"step 0/100  test loss 0.5000  test accuracy 0.8750  0 rounds  0 B sent", only)
    assert not t.screen.styled


@pytest.fixture
def moment(monkeypatch):
    """Seconds on the console's clock."""
    now = [0.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    return now


def test_plain_lines_say_when_what_and_how_long_still(moment):
    out = io.StringIO()
    live = Live(out, 100)
    live.log(line(0, 1.0, **EVAL))
    moment[0] = 5.0
    live.log(line(25, 6.0))  # nothing was evaluated
    live.log(line(50, 11.0, eval_loss=0.25, eval_accuracy=None))
    moment[0] = 5.05
    live.log(line(60, 12.0, **EVAL))  # too soon
    live.log(line(100, 13.0, **EVAL))  # the last is always told
    first, second, last = out.getvalue().splitlines()
    assert re.fullmatch(STAMP + "step 0/100  test loss 0.5000  test accuracy 0.8750  0 rounds  0 B sent", first)
    assert (
        "step 50/100  training loss 0.2500  test loss 0.2500  test accuracy 0.8750  5 rounds  1.8 MB sent  10 s left" in second
    )
    assert re.match(STAMP + "step 100/100", last) and "left" not in last


def test_plain_lines_become_rarer_but_do_not_cease(moment):
    """A day of a step a second, evaluated each time: every 2 % of the time so far, every minute at last."""
    out = io.StringIO()
    live = Live(out, 90_000)
    for step in range(86_400):
        moment[0] = float(step)
        live.log(line(step, float(step), **EVAL))
    assert 1400 < len(out.getvalue().splitlines()) < 1800
    quiet = io.StringIO()
    live = Live(quiet, 90_000)
    for step in range(86_400, 86_700):  # without any evaluation
        moment[0] = float(step)
        live.log(line(step, float(step)))
    assert len(quiet.getvalue().splitlines()) in (9, 10)


def test_a_note_that_scrolled_off_is_repeated(moment):
    out = io.StringIO()
    live = Live(out, 100)
    live.note("early")
    for step in range(30):
        moment[0] += 1.0
        live.log(line(step, float(step), **EVAL))
    live.note("late")
    live.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "early" and lines[-2:] == ["late", "early"] and lines.count("late") == 1


def test_what_is_run_on_the_side_says_little(moment):
    out = io.StringIO()
    live = Live(out, 100, aside=True)
    for step in range(13):
        moment[0] = float(step)
        live.log(line(step, float(step), **EVAL))
    assert len(out.getvalue().splitlines()) == 1  # after ten seconds


def test_the_command_tells_of_jobs_elsewhere(terminal, monkeypatch, tmp_path):
    """As joblib runs them: three of four, of which one is refused; what ended stays, how far the sweep is is drawn over."""
    t = terminal(80)
    monkeypatch.setattr(sys, "stderr", t.stream)
    session = Session(["-m"])
    session.total, session.jobs = 4, Jobs(tmp_path)
    session.jobs.begin()
    watch = launching.Watch(session, range(4))
    watch.look()
    assert t.screen.lines == ["0 of 4 jobs over, 0 running"]
    for number in (0, 1):
        session.jobs.write(Job(number, f"tau={number}", "-"))
    watch.look()
    assert t.screen.lines == ["0 of 4 jobs over, 2 running"]
    session.jobs.write(Job(0, "tau=0", "-", FAILED, message="tau: must be positive"))
    session.jobs.write(Job(1, "tau=1", "-", DONE, kept=True))
    session.began -= 60.0
    watch.look()
    assert t.screen.lines == [
        "job 1 of 4: tau=0: tau: must be positive",
        "job 2 of 4: tau=1: done",
        "2 of 4 jobs over, 0 running, 1 failed, about 2 min 00 s left of the sweep",
    ]
    watch.close()
    assert len(t.screen.lines) == 2


@pytest.mark.slow
def test_a_sweep_on_a_real_terminal(tmp_path):
    """From the command line, in 40 columns: what lives is cut to fit, and nothing of it is left at the end."""
    words = ("-m", *SHORT, "processes=1", "workers=2", "steps=4000", "optim.lr=0.1,-1", "hydra.sweep.dir=s")
    argv = (sys.executable, "-m", "coopsgd.cli", "train", *words)
    screen, seen, code = on_terminal(argv, 40, tmp_path, {"NO_COLOR": "1"})
    assert code == 2 and not screen.styled
    drawn = [lines for lines in seen if lines and any(re.match(r"(step )?\d+/4000", one) for one in lines)]
    assert drawn, seen[-1]
    assert all(len(one) < 40 for lines in drawn for one in lines[-4:])
    assert not any(re.match(r"(step )?\d+/4000|job \d/2", one) for one in screen.lines)
    assert any(one.startswith("job 2 of 2: ") for one in screen.lines)
    assert screen.lines[-1].endswith("-1") or "must be" in "".join(screen.lines[-6:])  # a word may end in the next line


def test_quiet_prints_the_folder_alone(cli, tmp_path):
    words = (*SHORT, "processes=1", "steps=20")
    ended = cli("train", *words, "-q", "hydra.run.dir=r")
    assert (ended.code, ended.out, ended.err) == (0, f"{tmp_path}/r\n", "")
    ended = cli("-q", "train", "-m", *words, "optim.lr=0.1,-1", "hydra.sweep.dir=s")
    assert (ended.code, ended.out) == (2, f"{tmp_path}/s\n"), ended
    assert "optim.lr: must be" in ended.err and len(ended.lines) == 2
    assert cli("verify", "r", "-q")[:3] == (0, "", "")
    ended = cli("resume", "r", "steps=25", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, f"{tmp_path}/r\n", "")


def test_quiet_takes_no_value(cli):
    ended = cli("train", "-q=1")
    assert ended.code == 2 and ended.lines == ["coopsgd: -q=1: -q takes no value; write -q"]
