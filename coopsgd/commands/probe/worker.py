"""What each process of a probe does: read the frozen config, build the parts as for a run, measure, leave the file.

Started by `coopsgd probe` as a fork of a warm process, or on several machines by
`torchrun --nnodes N --nproc-per-node P -m coopsgd.commands.probe [--trust] FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from coopsgd.commands.probe import network
from coopsgd.commands.probe.measure import Unmeasurable, measure
from coopsgd.errors import RunFailed
from coopsgd.fleet.plan import Layout
from coopsgd.host import files, stdio
from coopsgd.predict.probe_file import FORMAT, identity
from coopsgd.run import elsewhere, final, provenance, worker
from coopsgd.run.meeting import Meeting
from coopsgd.setup import schema
from coopsgd.setup.parts import Parts
from coopsgd.streams import stream

FILE = "probe.json"


def work(
    folder: Path, rank: int, store: str | Path | Meeting | None = None, console: int | None = None, trust: bool = False
) -> str | None:
    """Take part as process `rank`. Rank 0 leaves FILE in the folder: what was found, or why nothing could be, which all return.

    console: file descriptor to tell the user how far it is; None: nobody wants to know. trust: import what the config names.
    """
    settings = schema.load((store.folder if isinstance(store, Meeting) else folder) / "config.yaml", trust)
    screen = None if rank or console is None else stdio.stream(console)
    parts = Parts(settings)
    layout = Layout(settings.workers, 0, settings.processes)  # a probe has no auxiliary models
    with worker.joined(parts, rank, store, network=layout) as (fleet, device):
        problem = parts.task.build(settings, fleet.workers, device)

        def tell(text: str) -> None:
            if screen is not None:
                print(text, file=screen, flush=True)

        try:
            found, step = measure(parts, fleet, problem, tell)
        except Unmeasurable as error:
            if rank == 0:
                files.write_json(folder / FILE, {"failed": str(error)})
            return str(error)
        what: dict[str, Any] = {"network": None, "no_network": "one process holds every worker: nothing is sent"}
        if settings.processes > 1:
            tell("the network")
            start = problem.start()
            row = start.numel() * start.element_size()
            what = {"network": network.measure(fleet, row, start, stream(settings.seed, "probe network"), step)}
        if rank == 0:
            content = {"format": FORMAT, **identity(settings, parts.task), **found, **what, "device": str(device)}
            content |= {"versions": provenance.versions(), "command": final.command(folder)}
            files.write_json(folder / FILE, content)
        fleet.barrier()
    return None


def main() -> None:
    """`python -m coopsgd.commands.probe [--trust] FOLDER`, one process of a torchrun."""
    folder, trust = elsewhere.called("coopsgd.commands.probe")
    stdio.guard()
    with elsewhere.one_line(folder, trust):

        def first(world: int) -> None:
            if (folder / FILE).exists():
                raise RunFailed(f"{folder} already holds a probe; freeze another folder with launch=false")

        with elsewhere.placed(folder, trust, fixed=True, first=first) as meeting:
            rank = meeting.rank
            wrong = work(folder, rank, meeting, console=1, trust=trust)
    if wrong:
        sys.exit(wrong)
    if rank == 0:
        print(f"{folder / FILE}: coopsgd analyze --probe {folder / FILE} WORDS")
