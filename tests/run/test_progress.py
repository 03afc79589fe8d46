"""What takes long says what it does and how far it is; a sweep ends with a table, a signal is answered by step and folder."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

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


def test_progress_is_told_after_a_second_and_then_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 0.5, 1.5, 1.5, 5.0, 12.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = progress.Progress("reading runs", 40)
    for done in (0, 3, 4, 30):
        bar.at(done, f"run {done}")
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "reading runs: 3 of 40 done, now run 3",
        "reading runs: 30 of 40 done, now run 30",
    ]


def test_on_a_terminal_one_line_lives(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = progress.Progress("reading runs", 3)
    bar.at(0, "a long name")
    bar.at(1)
    bar.close()
    message = capsys.readouterr().err
    assert "\n" not in message and message.endswith("\r")
    assert "\rreading runs: 0 of 3 done, now a long name" in message and "\rreading runs: 1 of 3 done " in message


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
    assert [line.partition(":")[0] for line in out if line.startswith("job ") and ":" in line] == [
        "job 1 of 3",
        "job 2 of 3",
        "job 3 of 3",
    ]
    head = next(at for at, line in enumerate(out) if line.split() == list(sweeps.COLUMNS))
    rows = [line.split() for line in out[head + 1 : head + 4]]
    assert rows[0] == ["tau=0", "refused", "-", "-", "-", "-", "-", "-"]
    assert rows[1] == ["tau=2", "completed", "0.5000", "-", "3", "2", "kB", "1.25", "s", "tau=2"]
    assert rows[2] == ["tau=3", "diverged", "-", "-", "3", "2", "kB", "1.25", "s", "tau=3"]
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
    where = ("job 1 of 2, ", here / "s" / "tau=2") if sweep else ("", here / "s")
    assert stopped.value.note == f" at {where[0]}step 120 of 1000; what there is lies in {where[1]}"
