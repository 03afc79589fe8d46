"""docs/notebook.ipynb has the cells of its script, with their output, and they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANG

ROOT = Path(__file__).parents[1]
KEPT = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import notebook

    yield notebook
    sys.modules.pop("notebook", None)


def kinds(page):
    """Of each cell, what its outputs are."""
    return [[one["output_type"] for one in cell.get("outputs", [])] for cell in page["cells"]]


def test_it_has_the_cells_of_its_script_and_their_output(script):
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in KEPT["cells"]]
    assert cells == script.CELLS, "remake it: python scripts/notebook.py"
    assert all(found for cell, found in zip(KEPT["cells"], kinds(KEPT), strict=True) if cell["cell_type"] == "code")
    flat = [kind for found in kinds(KEPT) for kind in found]
    assert flat.count("display_data") == 1 and "error" not in flat


@pytest.mark.slow
def test_its_cells_run(tmp_path):
    line = [sys.executable, str(ROOT / "scripts" / "notebook.py"), str(tmp_path / "again.ipynb")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=HANG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((tmp_path / "again.ipynb").read_text())
    assert kinds(again) == kinds(KEPT) and [path.name for path in tmp_path.iterdir()] == ["again.ipynb"]
