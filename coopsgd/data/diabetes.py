"""scikit-learn's diabetes: 442 patients, in its wheel, so that a regression needs no network."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from coopsgd.data import bundled
from coopsgd.data.base import DataSet, Images
from coopsgd.registry import register


@register("diabetes", "data")
@dataclass(frozen=True)
class Diabetes(DataSet):
    """Ten measurements of a patient, and how far the disease is a year later (Efron et al. 2004, from scikit-learn).

    Every fifth patient is in the test set. Measurements and target are standardised: less their mean over the training set,
    over their standard deviation there. A squared error of 1 is that of whoever answers with the mean.
    """

    SHAPE = (10,)
    CLASSES = 1
    TEST = "every fifth, held out"

    def check(self) -> None:
        _files()

    def load(self, seed: int = 0) -> Images:
        return _read(_files())[0]

    def about(self, seed: int = 0) -> dict[str, Any]:
        return {"target": "standardised", **_read(_files())[1]}


FILES = ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz")


def _files() -> tuple[Path, ...]:
    return tuple(bundled.file("diabetes", name) for name in FILES)


@lru_cache(maxsize=1)
def _read(files: tuple[Path, ...]) -> tuple[Images, dict[str, float]]:
    """What it holds, and mean and standard deviation of the training targets as they were measured."""
    x, y = (_table(file, shape) for file, shape in zip(files, ((442, 10), (442, 1)), strict=True))
    test = np.arange(len(y)) % 5 == 0
    mean, std = float(y[~test].mean()), float(y[~test].std())
    y = (y - mean) / std
    scale = [tuple(map(float, number(x[~test], axis=0))) for number in (np.mean, np.std)]
    images = Images(x[~test], y[~test], x[test], y[test], mean=scale[0], std=scale[1])
    return images, {"target_mean": mean, "target_std": std}


def _table(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        table = np.loadtxt(path, ndmin=2)
        whole = table.shape == shape and bool(np.isfinite(table).all())
    except (EOFError, OSError, ValueError, zlib.error):
        whole = False
    if not whole:
        raise ValueError(f"data: {path} is not the whole file of diabetes; reinstall scikit-learn")
    return table
