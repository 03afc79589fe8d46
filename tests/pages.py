"""What README.md and the pages of docs/ tell to type: their lines, and how a test runs them.

A block without a language is for a shell; output and addresses are `text`. A block whose first line names a file (`# mine.py`)
is that file, beside the commands.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import HANG, command
from running import Command, until

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}

# Lines that no test runs, by how they begin, and why
NOT_RUN = {
    "pip install": "it reads the network",
    "python3 -m venv": "the tests run in one",
    ". .venv": "the tests run in one",
    "make train": "test_package runs it",
    "make test": "that is this",
    "torchx run": "it needs a cluster",
}
EXTRA = "its package is one of the extra export, and not here"  # tests/compare/test_export.py runs them where it is
# What makes a line short, by its verb: such words stand in place of those of the line, all others as they are
SHORT = {"train": {"steps": "20"}, "design": {"steps": "20", "task": "quadratic"}, "probe": {"--steps": "5"}}
WHERE_GIVEN = {  # the same, where the line has such a word
    "train": {"hydra.sweeper.n_trials": "4", "seed": "0"},  # jobs of a sweep
    "analyze": {"task.dim": "1340"},
}
SWEEP = {"processes": "1"}  # beside SHORT, of a line with many runs
EXPERIMENT = {"rounds": "2"}  # in place of SHORT where a line chooses an experiment, which has a length of its own
LATEST = re.compile(r"\b(outputs|multirun)/DATE/TIME\b")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def lines(page: str) -> list[list[str]]:
    """The words of what is typed in its blocks, comments left out. `a && b` are two lines."""
    found = []
    for language, block in blocks(page):
        for line in [] if language else block.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                at = words.index("&&")
                found.append(words[:at])
                words = words[at + 1 :]
            found += [words] if words else []
    return found


def not_run(words: list[str]) -> str | None:
    """Why a line is not run; None when it is."""
    text = " ".join(words)
    if words[:2] == ["coopsgd", "export"] and importlib.util.find_spec(words[words.index("--to") + 1]) is None:
        return EXTRA
    return next((why for begin, why in NOT_RUN.items() if text.startswith(begin)), None)


def named(page: str) -> dict[str, str]:
    """The files that a page shows, by the name in their first line."""
    found = {}
    for _, block in blocks(page):
        name = re.match(r"# ([\w/]+\.(?:py|yaml))\b.*\n", block)
        if name is not None:
            found[name[1]] = block
    return found


def shortened(words: list[str]) -> list[str]:
    """Of a line of coopsgd: what takes a moment, and does the same."""
    verb, given = words[1], {word.partition("=")[0] for word in words}
    short = EXPERIMENT if "experiment" in given else SHORT.get(verb, {})
    short = short | (SWEEP if "-m" in words and "hydra/launcher" not in given else {})
    short = short | {key: value for key, value in WHERE_GIVEN.get(verb, {}).items() if key in given}
    kept = [word for word in words[2:] if word.partition("=")[0] not in short]
    return [verb, *kept, *(f"{key}={value}" for key, value in short.items())]


class Reader:
    """Somebody who types the lines of one page, one after the other, in one folder."""

    def __init__(self, folder: Path, page: str) -> None:
        self.at = self._folder = folder
        for name, text in named(page).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        if re.search(r"^cd examples/", page, re.MULTILINE):
            shutil.copytree(ROOT / "examples", folder / "examples")

    def types(self, words: list[str]) -> None:
        """Run a line. AssertionError, with what it said, where it fails or says nothing."""
        words = [LATEST.sub(self._latest, word) for word in words]
        if words[0] == "cd":
            self.at = self.at / words[1]
        elif words[0] == "coopsgd" and "--watch" in words:
            self._until_it_speaks(words[1:])
        elif words[0] == "coopsgd" and any(word.startswith("hydra/launcher=") for word in words):
            self._run([sys.executable, "-m", "coopsgd.cli", *shortened(words)])  # its processes go at an interpreter's end
        elif words[0] == "coopsgd":
            done = command(self.at, *shortened(words))
            assert done.code == 0 and done.out, f"{shlex.join(words)}\n{done.out}\n{done.err}"
            assert "Traceback" not in done.err, done.err
        elif words[0] == "torchrun":
            self._run([sys.executable, "-m", "torch.distributed.run", *words[1:]])
        elif words[0] == "tensorboard":
            self._serves([sys.executable, "-m", "tensorboard.main", *words[1:], "--port", "0"])
        else:
            raise AssertionError(f"{shlex.join(words)}: nobody knows how to run it")

    def _latest(self, found: re.Match[str]) -> str:
        """The folder that the latest command made."""
        made = [path for path in (self.at / found[1]).glob("*/*") if path.is_dir()]
        assert made, f"{found[0]}: nothing before it in its page makes one"
        return str(max(made, key=lambda path: path.stat().st_mtime).relative_to(self.at))

    def _until_it_speaks(self, words: list[str]) -> None:
        """What goes on until Ctrl-C."""
        under_way = Command(self.at, self.at / ".watched", tuple(words), {}, None)
        until(under_way.output, shlex.join(words))
        under_way.send(signal.SIGINT)
        done = under_way.ended()
        assert done.code in (0, 128 + signal.SIGINT) and "Traceback" not in done.err, done.err

    def _run(self, argv: list[str]) -> None:
        done = subprocess.run(argv, cwd=self.at, capture_output=True, text=True, timeout=HANG)
        assert done.returncode == 0 and done.stdout, f"{shlex.join(argv)}\n{done.stdout}\n{done.stderr[-3000:]}"

    def _serves(self, argv: list[str]) -> None:
        """A server says where it is."""
        said = self.at / ".served"
        with said.open("w") as file, subprocess.Popen(argv, cwd=self.at, stdout=file, stderr=file) as server:
            try:
                until(lambda: server.poll() is not None or "http://" in said.read_text(), shlex.join(argv))
                assert server.poll() is None, said.read_text()
            finally:
                server.kill()


def exceptions() -> dict[str, Any]:
    """Of all pages the lines that are not run, by why."""
    found: dict[str, Any] = {}
    for name, page in {"README.md": README, **PAGES}.items():
        for words in lines(page):
            if (why := not_run(words)) is not None:
                found.setdefault(why, []).append((name, shlex.join(words)))
    return found
