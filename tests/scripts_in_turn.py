"""What torchrun runs for test_examples: scripts, one after another in the same workers; what each leaves is written to a file.

torchrun ... scripts_in_turn.py FOLDER 'SCRIPT WORD ...' ...
"""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from typing import Any

import torch


def left(script: str) -> dict[str, Any]:
    """What is to be seen of a script's workers when it has ended, each looking at itself."""
    names = runpy.run_path(script, run_name="__main__")
    found = {name: names[name] for name in ("accuracy", "held_out") if name in names}
    found["own"] = flat(names["model"])
    if coop := names.get("coop"):
        with coop.answer():
            found["answer"] = flat(names["model"])
        assert torch.equal(flat(names["model"]), found["own"])
        totals = coop.ledger.totals()
        found |= {name: totals[name] for name in ("rounds", "messages", "bytes")}
        found |= {"steps": coop.steps, "consensus": coop.consensus(), "state": coop.state_dict()}
    return found


def flat(model: torch.nn.Module) -> torch.Tensor:
    """All that is in a message: parameters and running statistics."""
    numbers = [b for b in model.buffers() if b.is_floating_point()]
    return torch.cat([x.detach().reshape(-1) for x in [*model.parameters(), *numbers]]).clone()


if __name__ == "__main__":
    folder, lines = sys.argv[1], sys.argv[2:]
    for n, line in enumerate(lines):
        sys.argv = shlex.split(line)
        torch.save(left(sys.argv[0]), f"{folder}/{n}.{os.environ['RANK']}.pt")
