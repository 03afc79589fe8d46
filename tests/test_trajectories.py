"""A tenth of the hashed runs of scripts/trajectories.json, by lot: the same rows, statistics, answer and ledger, to the bit.

The loop takes their steps here and in processes that stay; some go through the command line and a folder, as all did when they
were hashed. The hashes are of the code before its core was reshaped, and so say what has stayed as it was. Where something else
was meant since then, CHANGED says what.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import elsewhere
from playing import play_settled, settle, written

from coopsgd.errors import ConfigError
from coopsgd.host import native

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import trajectories  # noqa: E402

KNOWN: dict[str, str] = json.loads(trajectories.FILE.read_text())["cases"]
LOT = random.Random(12).sample(sorted(KNOWN), len(KNOWN) // 10)
AT_ONCE = 9  # cases a test
BY_COMMAND = LOT[:: 3 * AT_ONCE]
PARTS = ("rows", "stats", "answer", "ledger", "sim_s")


def changed(name: str) -> Sequence[str]:
    """What of a case is another on purpose."""
    words = name.split("/")
    if "overlap" in words and ("average" in words or ("plain" in words and "mlp" in words) or words[0] == "beside"):
        # steps under a delay are fused (1e-15 in float64); averaged buffers take the mixed value when it has come
        return "rows", "answer"
    if name == "graph/erdos_renyi/4":  # two vectors more a round: a sum over all, beside edges, is not looked for any more
        return "rows", "answer", "ledger"
    if words[0] == "norm_stats" and "average" not in words and {"easgd", "fedavg"} & {*words}:
        return ("stats",)  # of the auxiliary model: its workers', not those of the start
    return ("stats",) if "overlap" in words and "cnn" in words else ()  # statistics take the mixed value when it has come


def played(process_groups: Any, words: Sequence[str]) -> str:
    """What trajectories.hashes says of these words, without a folder."""
    given = written(np.array(trajectories.WRITTEN))
    try:
        settings = settle(tuple(given if word.startswith("algo.W=") else word for word in words))
    except ConfigError:
        return "exit 2"
    # by one process in one of its own: what other tests have asked of torch in this one (fused attention, say) counts not
    alone = settings.processes == 1
    run = elsewhere(play_settled, None, 1, settings) if alone else play_settled(process_groups, settings.processes, settings)
    parts = ["-" if rows is None else trajectories._hash(rows.tobytes()) for rows in (run.x, run.stats, run.answer)]
    ledger = ",".join(str(run.ledger[name]) for name in trajectories.LEDGER)
    return " ".join([*parts, ledger, *([repr(run.lines[-1]["sim_s"])] if settings.cluster else [])])


@pytest.fixture(scope="module")
def here() -> None:
    if why := trajectories.unlike():
        pytest.skip(f"the bits of another environment: {why}")
    if native.in_use():
        pytest.skip(f"the bits are of runs without compiled kernels: {native.OFF}=0 pytest, or scripts/trajectories.py check")


@pytest.mark.parametrize("at", range(0, len(LOT), AT_ONCE))
def test_a_run_is_what_it_was(cli, process_groups, tmp_path, here, at):
    cases, other = trajectories.cases(), {}
    for name in LOT[at : at + AT_ONCE]:
        words = trajectories.spelt(cases[name])
        if name in BY_COMMAND:
            ended = cli("train", *words, f"hydra.run.dir={tmp_path / 'r'}")
            found = trajectories.hashes(tmp_path / "r") if ended.code == 0 else f"exit {ended.code}"
        else:
            found = played(process_groups, words)
        leave_out = changed(name)
        before, now = (
            [what for part, what in zip(PARTS, line.split(" "), strict=False) if part not in leave_out]
            for line in (KNOWN[name], found)
        )
        if before != now:
            other[name] = KNOWN[name], found
    assert not other
