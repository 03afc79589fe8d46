"""What rank 0 tells of a run as it goes: its files, and lines for the console."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from coopsgd.blame import described
from coopsgd.run import cockpit, progress
from coopsgd.run.checkpoints import Checkpoint
from coopsgd.run.console import Live
from coopsgd.run.metrics import Files
from coopsgd.run.provenance import differences, provenance
from coopsgd.run.reader import log_points
from coopsgd.setup.identity import placement
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config

# of a provenance: with others of these the same run may have other bits
BITS = ("torch", "numpy", "coopsgd", "cpu_capability", "native", "processor", "gpu", "data_sha256")


def settings_of(config: Config) -> dict[str, Any]:
    """The keys that may change when a run goes on, and do not make it another."""
    return {"steps": config.steps, **placement(config)}


def changes(found: Checkpoint, config: Config) -> dict[str, list[Any]]:
    """Of these keys, what the checkpoint was written with and what the config says now, where they differ."""
    then, now = found.manifest.get("settings", {}), settings_of(config)
    return {name: [value, now[name]] for name, value in then.items() if name in now and value != now[name]}


class Report:
    """Rank 0's: files and console."""

    def __init__(self, folder: Path, parts: Parts, console: int | None, found: Checkpoint | None = None) -> None:
        """found: what the run goes on from."""
        self._live = Live(progress.listener(console), parts.config.steps)
        saved = {} if found is None else found.manifest["report"]
        self._resumed: list[dict[str, Any]] = list(saved.get("resumed", []))
        self._about = {"settings": settings_of(parts.config), **provenance(parts)}
        if found is not None:
            last = max((line["step"] for line in log_points(folder / "metrics.jsonl")), default=0)
            changed = changes(found, parts.config)
            self._resumed.append(
                {"from": found.step, "again": max(0, last - found.step), **({"changed": changed} if changed else {})}
            )
        self._files = Files(folder, self.note, saved.get("files"))
        self._parts = parts
        events = self._files.events
        events.row(cockpit.row(folder, parts.config))
        for tag, about, text in cockpit.texts(folder, parts):
            events.text(tag, about, text)
        if found is not None:
            again = self._resumed[-1]["again"]
            self.note(f"goes on from step {found.step}" + (f"; at least {again} steps are computed again" if again else ""))
            own = self._about["environment"]["source"] or {}
            elsewhere = [words for name, words in differences(found.manifest, self._about).items() if name in (*BITS, *own)]
            if elsewhere:
                self.note(f"the bits may be others than without a stop: {'; '.join(elsewhere)}")

    def saved(self) -> dict[str, Any]:
        """For a checkpoint: where it was computed, how far the files are, what the run was resumed from.

        OSError where a line is not on disk.
        """
        return {"report": {"files": self._files.saved(), "resumed": self._resumed}, **self._about}

    @property
    def facts(self) -> dict[str, Any]:
        """For the summary."""
        return {"resumed": self._resumed} if self._resumed else {}

    def log(self, line: dict[str, Any]) -> None:
        """One log point."""
        self._files.log(line)
        self._live.log(line)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._live.note(text)

    def draw(self, accuracies: Any) -> None:
        """W, and who held what and came how far, for TensorBoard: at the end, for no step shall wait for it."""
        try:
            for tag, about, picture in cockpit.images(self._parts, accuracies):
                self._files.events.image(tag, about, *picture)
        except Exception as error:  # no run is lost for want of a picture
            self.note(f"not all pictures for TensorBoard could be drawn ({described(error)})")

    def end(self, status: str) -> None:
        """How the run ended, for TensorBoard."""
        self._files.events.end(status)
        self._files.flush()

    def flush(self) -> None:
        """Try to have everything on disk."""
        self._files.flush()

    def close(self) -> None:
        """Everything on disk, the terminal as it was."""
        self._files.close()
        self._live.close()


class Silent:
    """The other ranks'."""

    facts: ClassVar[dict[str, Any]] = {}

    def saved(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def log(self, line: dict[str, Any]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
