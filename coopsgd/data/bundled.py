"""Data in the wheel of scikit-learn, which needs no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def file(data: str, name: str) -> Path:
    """The file of this name that `data` is read from. ValueError, telling how to get it, where it is not there."""
    spec = importlib.util.find_spec("sklearn")  # found, not imported: importing its data sets takes a second
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"data: {data} comes with scikit-learn, which is not installed; pip install scikit-learn")
    path = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data" / name
    if not path.is_file():
        raise ValueError(f"data: scikit-learn is installed without {name}; reinstall it")
    return path
