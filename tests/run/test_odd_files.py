"""A run folder with something odd in the place of a file is refused in a line: nothing is waited for, or read without end."""

from __future__ import annotations

import errno
import os
import shutil
import signal

import pytest

import coopsgd
from coopsgd.commands import compose, overlay
from coopsgd.commands.train import command
from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.run import final, folders

QUICK = ("task=quadratic", "workers=2", "processes=1", "steps=2", "eval_every=0")
BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 9))
CONFIGS = {  # what config.yaml may hold, and the words that name it
    "a pipe": (None, "a pipe"),
    "Latin-1": ("name: caf\xe9\n".encode("latin-1"), "not UTF-8"),
    "half a list": (b"tau: [1, 2\nname: a\n", "no yaml"),
    "a key twice": (b"tau: 1\ntau: 2\n", "no yaml"),
    "aliases of aliases": (BOMB.encode(), "values"),
    "itself": (b"algo: &x\n  y: *x\n", "holds itself"),
    "nothing": (b"", "no keys"),
    "a word": (b"- tau\n", "no keys"),
}


@pytest.fixture(autouse=True)
def in_time():
    """What waits for ever fails instead."""

    def late(number, frame):
        raise TimeoutError("read without end")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config(monkeypatch, capsys, tmp_path, case):
    content, message = CONFIGS[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    at = tmp_path / "theirs" / "config.yaml"
    os.mkfifo(at) if content is None else at.write_bytes(content)
    try:
        code = command.train(("--config-path", "theirs", "--config-name", "config", "hydra.run.dir=again"))
        line = capsys.readouterr().err
    except ConfigError as error:
        code, line = 2, f"{error}\n"
    assert code == 2 and message in line and "theirs" in line and line.count("\n") == 1 and not (tmp_path / "again").exists()
    with pytest.raises(ConfigError, match="theirs"):
        overlay.facts(["theirs"], None, None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, as its folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert command.train((*QUICK, f"hydra.run.dir={folder}")) == 0
    return folder


@pytest.mark.parametrize("what", ["summary.json", "metrics.jsonl", final.FILE.as_posix()])
@pytest.mark.parametrize("odd", ["a pipe", "a device", "a folder"])
def test_a_file_of_a_run(finished, tmp_path, what, odd):
    folder = shutil.copytree(finished, tmp_path / "sweep" / "run")
    (folder / what).unlink()
    {"a pipe": os.mkfifo, "a device": lambda at: at.symlink_to("/dev/zero"), "a folder": os.mkdir}[odd](folder / what)
    run = coopsgd.Run(folder)
    read = {"summary.json": lambda: run.summary, "metrics.jsonl": run.metrics}.get(what, run.rows)
    with pytest.raises(DamagedFile, match=rf"{what} is damaged: it is no file"):
        read()
    if what == "summary.json":
        with pytest.raises(ConfigError, match="no run that has ended"):
            overlay.facts([str(tmp_path / "sweep")], None, None)
    elif what == "metrics.jsonl":
        with pytest.raises(ConfigError, match=r"metrics\.jsonl is damaged"):
            overlay.facts([str(folder)], None, None)


BROKEN = """
from dataclasses import dataclass
from coopsgd.mixing.base import Mixing
@dataclass(frozen=True)
class Broken(Mixing):
    def matrices(self, m, r):
        return {}["no such key"]
"""


def test_a_mistake_in_a_users_class_is_a_line_for_each_job_of_a_sweep(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_mixing.py").write_text(BROKEN)
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    yaml = "strategy: cooperative\nmixing: broken_mixing:Broken\ntau: 1\n"
    (tmp_path / "mine" / "algo" / "broken.yaml").write_text(yaml)
    words = ("--config-dir", "mine", "algo=broken", *QUICK)
    assert command.train(("-m", *words, "tau=1,2")) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message and message.count("broken_mixing.py:7, in matrices: KeyError: 'no such key'") == 4, (
        message
    )
    assert command.train(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_run_is_lost_to_one_that_cannot_begin(monkeypatch, finished, tmp_path):
    """Opening a file may fail in other ways than that it is there: what is there stays."""
    settings = compose.compose_config(QUICK).config

    def full(path, *arguments, **more):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    for name, match in (("run", "already holds a run"), ("free", "Too many open files")):
        folder = shutil.copytree(finished, tmp_path / name)
        if name == "free":
            (folder / "config.yaml").unlink()
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with monkeypatch.context() as patch, pytest.raises(ConfigError, match=match):
            patch.setattr(os, "open", full)
            folders.write_config(settings, folder, "coopsgd train")
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_empty_name_is_no_run(monkeypatch, finished):
    monkeypatch.chdir(finished.parent)
    with pytest.raises(ConfigError, match="empty word"):
        overlay.facts([""], None, None)
