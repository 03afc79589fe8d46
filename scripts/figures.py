"""The tables and figures of docs/results.md anew, each with the commit and the machine it was made on.

Remake: make figures, or python scripts/figures.py [NAME ...] [--keep FOLDER]    (all of them: a night on 2 cores)

An experiment's sweep goes into FOLDER/NAME, where one that is whole is used again; its script draws docs/NAME.png and prints
the table, which takes the place of the one below the line `*NAME: ...*` of docs/results.md. What is said there beside a table
is for a person to look over. docs/trust.md is `make trust`, docs/speed.md `make bench`; the table of the clock needs root and
emulated hosts (scripts/check_clock.py), and docs/dashboard.png is a screenshot (scripts/dashboard.py).
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from coopsgd.host import processors

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results.md"
EXPERIMENTS = {  # name of an experiment, and of its picture -> the script that draws it
    "alpha": "figure_alpha.py",
    "crossing": "figure_crossing.py",
    "crossing_network": "figure_crossing.py",
    "equal_bytes": "figure_bytes.py",
    "skew": "figure_skew.py",
}
DESIGN = "design"
PICTURE = ("cluster=wan_100m", "partition=shards", "workers=4", "steps=200", "--target-loss", "0.8", "--check", "2")
NAMES = (*EXPERIMENTS, DESIGN)


def stamp(name: str) -> str:
    """What a table was made with, in one line."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    commit, cores = asked.stdout.strip() or "no commit", processors.cores()
    return f"*{name}: {commit}, {time.strftime('%Y-%m-%d')}, {cores} cores of {_processor()}, torch {version('torch')}*"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    return found[1].strip() if found else platform.machine()


def replaced(text: str, name: str, line: str, table: str) -> str:
    """The text with this line and table in the place of those of that name. LookupError when it has none."""
    new, count = re.subn(rf"^\*{name}: [^\n]*\*\n\n(\|[^\n]*\n)+", lambda _: f"{line}\n\n{table}\n", text, flags=re.MULTILINE)
    if count != 1:
        raise LookupError(f"docs/results.md has {count} tables named {name}")
    return new


def table_of(output: str) -> str:
    """The first table in what a script printed."""
    found = re.search(r"(?:^\|[^\n]*\n)+", output, flags=re.MULTILINE)
    if found is None:
        raise LookupError("the script printed no table")
    return found[0].rstrip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--keep", type=Path, default=ROOT / "multirun" / "figures", metavar="FOLDER", help="where sweeps go")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: no table is called that; known: {', '.join(NAMES)}")
    for name in asked.names or NAMES:
        line, output = stamp(name), "".join(list(_made(name, asked.keep)))
        RESULTS.write_text(replaced(RESULTS.read_text(), name, line, table_of(output)))
        print(output, flush=True)


def _made(name: str, keep: Path) -> Iterator[str]:
    """Make it; what its script printed."""
    here, scripts = [sys.executable, "-m", "coopsgd.cli"], ROOT / "scripts"
    if name == DESIGN:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*here, "design", *PICTURE, f"hydra.run.dir={folder}/found"], check=True)
            shutil.copy(Path(folder) / "found" / "pareto.png", ROOT / "docs" / "design.png")
        yield _output([sys.executable, scripts / "check_design.py"])
        return
    folder = keep / name
    draw = [sys.executable, scripts / EXPERIMENTS[name], folder, "-o", ROOT / "docs" / f"{name}.png"]
    if folder.exists() and subprocess.run(draw, capture_output=True).returncode != 0:
        shutil.rmtree(folder)  # half of a sweep
    if not folder.exists():
        subprocess.run([*here, "train", "-m", f"experiment={name}", f"hydra.sweep.dir={folder}"], check=True)
    yield _output(draw)


def _output(command: list[object]) -> str:
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
