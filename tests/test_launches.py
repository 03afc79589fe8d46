"""No launch hangs: many in a row on a machine that is busy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANG

SCRIPT = Path(__file__).parents[1] / "scripts" / "stress_launch.py"


@pytest.mark.slow
def test_launches_in_a_row_under_load():
    launches = 300
    done = subprocess.run(
        [sys.executable, SCRIPT, f"--launches={launches}", f"--limit={HANG}"],
        capture_output=True,
        text=True,
        timeout=launches * HANG,
    )
    assert done.returncode == 0, done
    assert f"{launches} launches of 4 processes under load: 0 hung" in done.stdout
