"""`coopsgd probe`: freeze a folder, let the processes of a run measure in it, keep the file, show it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from coopsgd.commands import compose
from coopsgd.errors import ConfigError, RunFailed
from coopsgd.host import files
from coopsgd.host.sizes import human_bytes
from coopsgd.run import folders, progress
from coopsgd.run.console import printer, tell
from coopsgd.run.progress import say
from coopsgd.run.start import placement_line
from coopsgd.setup import checks

FILE = "probe.json"
WHAT = {
    "L_workers": "largest curvature of a worker's own f_i, where that of F was largest",
    "L": "largest curvature of F on the path",
    "sigma2": "noise of one worker's minibatch gradient",
    "kappa2": "how far the workers' gradients lie apart",
    "gap": "F(start) - inf F",
    "grad2": "||grad F||^2 at the start",
}
NAMES = {"L": "L of F", "L_workers": "L of each f_i"}


def probe(words: Sequence[str], output: str | None, steps: int, as_json: bool, config_dir: str | None) -> None:
    """Measure, write the file and show it. ConfigError before anything starts, RunFailed after."""
    checked = compose.compose_config(words, config_dir, "probe")
    settings, target = replace(checked.config, steps=steps), Path(output or FILE).resolve()
    if settings.launch:
        checks.only_copy()
    for note in checked.notes:
        say(note)
    command = "coopsgd probe " + shlex.join([*words, "--steps", str(steps)])
    if not settings.launch:
        if output is not None:
            raise ConfigError(f"-o {output}: with launch=false the file is {FILE} in the folder that is printed; leave out -o")
        folder = folders.make_run_dir(checked.folder, "outputs").resolve()
        folders.write_config(settings, folder, command)
        print(folders.torchrun(settings, folder, "coopsgd.commands.probe"))
        return
    if target.is_dir() or not target.parent.is_dir():
        why = "it is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise ConfigError(f"-o {output or FILE}: {why}; name a file, as in -o probe.json")
    try:
        files.clear_halves(target.parent, f".{target.name}")
        folder = Path(tempfile.mkdtemp(f".{os.getpid()}.part", f".{target.name}.", target.parent))
    except OSError as error:
        raise ConfigError(f"-o {output or FILE}: {target.parent} cannot be written ({error.strerror}); name another") from None
    try:
        folders.write_config(settings, folder, command)
        found = _measured(folder, settings, as_json)
        files.write_json(target, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tell(found, as_json, lambda found: show(found, target, words))


def _measured(folder: Path, settings: Any, silent: bool) -> dict[str, Any]:
    silent = silent or progress.quiet
    begin = say if silent else print
    begin(f"probing {placement_line(settings)}: a path of {settings.steps} steps, the seconds of a step, the network")
    sys.stdout.flush()
    from coopsgd.commands.probe import worker
    from coopsgd.run import launch  # imports torch

    launch.run(folder, settings, worker.work, silent)
    found = json.loads((folder / worker.FILE).read_text())
    if "failed" in found:
        raise RunFailed(found["failed"])
    return found


def show(found: dict[str, Any], at: Path, words: Sequence[str]) -> None:
    """A table with error bars, and what to do next."""
    console = printer()
    table = Table("", "", "value", "95 % interval", title=f"\n{_title(found)}", title_justify="left")
    for name, what in WHAT.items():
        table.add_row(
            NAMES.get(name, name), what, *_cells([found[name][end] for end in ("value", "low", "high")], "{:.4g}".format)
        )
    step = found["step_s"]
    table.add_row("step", "a local step of one worker", *_cells([step[end] for end in ("median", "low", "high")], _seconds))
    for name, what in (("all_reduce", "all-reduce over the processes"), ("edge", "message to one process")):
        if (fit := (found["network"] or {}).get(name)) is not None:
            ends = {k: [fit[k], fit["low"][k], fit["high"][k]] for k in ("a", "b")}
            table.add_row(name, f"{what}, latency", *_cells(ends["a"], _seconds))
            value, low, high = ends["b"]
            table.add_row("", "bandwidth", *_cells([value, high, low], _rate))
    console.print(table)
    if found["network"] is None:
        console.print(f"no network: {found['no_network']}")
    curvatures = ", ".join(f"{point['L']:.3g} at step {point['step']}" for point in found["path"])
    console.print(f"curvature on the path: {curvatures}")
    same = " ".join(["coopsgd analyze --probe", shlex.quote(_near(at)), *map(shlex.quote, words)])
    console.print(f"next: {same}   (bounds and times of this run; `coopsgd design` looks for a better one)")


def _title(found: dict[str, Any]) -> str:
    parts = [found["task"], *(found[name] for name in ("model", "data") if found[name])]
    return f"{' '.join(parts)}, {found['parameters']} parameters, {found['workers']} workers, batch {found['batch_size']}"


def _cells(ends: list[float], written: Any) -> tuple[str, str]:
    value, low, high = map(written, ends)
    return value, f"{low} to {high}"


def _seconds(s: float) -> str:
    return f"{s:.3g} s" if s >= 1 else f"{1e3 * s:.3g} ms" if s >= 1e-3 else f"{1e6 * s:.3g} us"


def _rate(s: float) -> str:
    """Of seconds a byte."""
    return f"{human_bytes(1 / s)}/s" if s else "too high to tell"


def _near(path: Path) -> str:
    return path.name if path.parent == Path.cwd() else str(path)
