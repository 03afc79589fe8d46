"""A strategy that goes wrong."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from coopsgd.strategies.base import Strategy


@dataclass(frozen=True)
class Faulty(Strategy):
    """Everyone takes the mean of everyone after every step; in the fourth, the last process `raises`, `leaves` or `stays`.

    A file named FAULT in the environment appears then.
    """

    how: str = "raises"

    def direction(self, fleet, t, grad, x, s):
        if t.k == 3 and fleet.rank == fleet.layout.processes - 1:
            Path(os.environ.get("FAULT", os.devnull)).touch()
            if self.how == "raises":
                raise RuntimeError("a bug of its author's")
            if self.how == "leaves":  # as if all were done
                os._exit(0)
            while True:  # never comes to the next communication
                time.sleep(0.01)
        return grad, s

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x)


def faulty(folder: Path, how: str) -> tuple[str, ...]:
    """Words for a run of nine steps with it."""
    (folder / "more" / "algo").mkdir(parents=True)
    (folder / "more" / "algo" / "faulty.yaml").write_text(f"strategy: faults:Faulty\nhow: {how}\ntau: 1\n")
    return "train", "--config-dir", "more", "algo=faulty", "task=quadratic", "steps=9", "hydra.run.dir=r"
