"""A finished run, read back: `run = coopsgd.Run(folder)`."""

from __future__ import annotations

import contextlib
import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coopsgd.errors import DamagedFile
from coopsgd.run import final, source
from coopsgd.setup import schema
from coopsgd.setup.formats import format_of
from coopsgd.setup.parts import Parts

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def log_points(path: Path) -> list[dict[str, Any]]:
    """The log points of a metrics.jsonl. Lines that are none are left out: a crash or a full disk may tear one, or pad it with
    NULs.
    """
    found = []
    with final.opened(path) as lines:
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                point = json.loads(line.strip(b"\0\n"))
                if isinstance(point, dict) and isinstance(point.get("step"), int):
                    found.append(point)
    return found


def summary_of(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run; None while there is none. DamagedFile when it is no JSON object.

    ConfigError when a newer version wrote it.
    """
    path = folder / "summary.json"
    if not path.exists():
        return None
    with final.opened(path) as file:
        try:
            found = json.load(file)
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, dict):
        raise DamagedFile(f"{path} is damaged: it is no JSON object; run it anew")
    format_of(path, found)  # of an older format it lacks keys, but none has another meaning
    return found


class Run:
    """A run folder. FileNotFoundError when there is no run in it; DamagedFile when a file of it is not what the run wrote.

    trust: import what its config names, as module:Class; without it that is a ConfigError, for importing runs code.
    """

    def __init__(self, folder: str | Path, trust: bool = False) -> None:
        self.folder, self.trust = Path(folder), trust
        if not (self.folder / "config.yaml").is_file():
            raise FileNotFoundError(f"{self.folder} holds no run: it has no config.yaml")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def config(self) -> schema.Config:
        """The frozen config."""
        return schema.load(self.folder / "config.yaml", self.trust)

    @cached_property
    def parts(self) -> Parts:
        """What it names, made when first asked for; of a folder without trust nothing that takes code of its own.

        Code of the user's is that of today; a warning names what is not as it was when the run was made (`source`).
        """
        for line in source.told(self.folder) if self.trust else ():
            warnings.warn(line, stacklevel=3)  # beyond functools
        return Parts(self.config)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json: status, final numbers, ledger, timings. FileNotFoundError while the run is under way."""
        found = summary_of(self.folder)
        if found is None:
            raise FileNotFoundError(f"{self.folder} has no summary.json: the run is under way or was killed")
        return found

    @cached_property
    def source(self) -> dict[str, dict[str, Any]]:
        """The files of the user's own code that the run was made with, by their names in the folder's source/: path, bytes,
        sha256, kept, and git (commit, dirty) of the repository where it lay, if it was in one.
        """
        return source.read(self.folder)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one dict a log point; one that a crash left torn is left out."""
        return log_points(self.folder / "metrics.jsonl")

    def simulated(self, cluster: str) -> list[dict[str, Any]]:
        """Its log points on the clock of another cluster, {step, sim_s}, as `coopsgd time` left them in sim/CLUSTER.jsonl.

        LookupError when it did not.
        """
        from coopsgd.run import simulated

        return simulated.read(self.folder, cluster)

    def rows(self) -> Tensor:
        """(m + v, d) final models, workers first. LookupError when the run did not keep them."""
        return self._saved("rows")

    def stats(self) -> Tensor:
        """(m + v, b) final running statistics of those models. LookupError when there are none, or they were not kept."""
        if self.summary["norm_stats"] is None:
            raise LookupError(f"the model of {self.folder} keeps no running statistics")
        return self._saved("stats", "rows")

    def answer(self, which: str = "final") -> Tensor:
        """(1, d) the model that was evaluated and shipped; "best": the best so far, of save=best.

        LookupError when the run did not keep it. Step and value of the best are in `summary["best"]`.
        """
        if which not in ("final", "best"):
            raise LookupError(f"a run has the answers final and best, got {which!r}")
        return self._saved("answer") if which == "final" else self._best()["answer"]

    def _best(self) -> dict[str, Tensor]:
        found, _ = final.read(self.folder, summary_of(self.folder) or {}, ("answer", "answer_stats"), best=True)
        if "answer" not in found:
            raise LookupError(f"{self.folder} kept no best model; run with save=best")
        return found

    def model(self, row: int | str | None = None) -> Module:
        """The trained network, ready for eval; of one row of models when that is given (workers first), else the answer;
        "best": the best answer so far, of save=best.

        ConfigError when it takes code that the folder names, and there is no trust. LookupError when it was not kept.
        """
        if isinstance(row, str):
            best = self.answer(row)
            stats = (self._best() if row == "best" else self._content("answer_stats")[0]).get("answer_stats")
            return self.parts.task.module(self.config, best, stats)
        if row is None:
            return self.parts.task.module(self.config, self.answer(), self._content("answer_stats")[0].get("answer_stats"))
        rows, stats = self.rows(), self._content("stats")[0].get("stats")
        if not 0 <= row < len(rows):
            raise LookupError(f"{self.folder} has the models 0 to {len(rows) - 1}, got row={row}")
        return self.parts.task.module(self.config, rows[row, None], None if stats is None else stats[row, None])

    def _content(self, *wanted: str) -> tuple[dict[str, Tensor], list[str]]:
        return final.read(self.folder, summary_of(self.folder) or {}, wanted)

    def _saved(self, what: str, save: str = "") -> Tensor:
        found, names = self._content(what)
        if what not in found:
            kept = ", ".join(names) or "nothing"
            raise LookupError(f"{self.folder} did not keep its {what} (it kept {kept}); run with save={save or what}")
        return found[what]
