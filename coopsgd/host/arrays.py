"""Arrays of numbers in a user's files: .npy, .npz, .mat, and text (.csv, .txt, .tsv, .dat), each by the end of its name.

What is no array of numbers is refused in one line, by line and word where it is text. A file of several arrays (.npz, .mat)
is asked for the only one that it holds, else for the one that is called like the key: `W` for algo.W.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.host import reading, sizes

TEXTS = (".csv", ".txt", ".tsv", ".dat")
SUFFIXES = (".npy", ".npz", ".mat", *TEXTS)
LARGEST = 1 << 28  # bytes of a text that are read
OUT = "give a .npy, .npz, .mat, .csv or .txt file, or a list"
Fits = Callable[[tuple[int, ...]], None]


def named(value: Any) -> bool:
    """Does this value of a key that takes an array name a file, and not a function (module:function)?"""
    return isinstance(value, str) and (":" not in value or Path(value).suffix.lower() in SUFFIXES)


def read(where: str, path: str, fits: Fits | None = None) -> np.ndarray:
    """The array in a file, of whatever numbers. `fits` is shown its shape, where it can be before it is read, and may raise."""
    suffix = Path(path).suffix.lower()
    if suffix in TEXTS:
        found = _of_text(where, path)
    elif suffix == ".npz":
        found = _only(where, path, archive(where, path))
    elif suffix == ".mat":
        found = _of_matlab(where, path)
    else:
        return reading.array(where, path, fits)
    if fits is not None:
        fits(found.shape)
    return found


def archive(where: str, path: str) -> Mapping[str, np.ndarray]:
    """The arrays of a .npz file, by name, in its order."""
    with reading.opened(where, path, OUT) as file:
        try:
            needed = sum(one.file_size for one in zipfile.ZipFile(file).infolist())
            sizes.refuse(where, needed, f"the arrays of {path!r}", "give a smaller one")
            file.seek(0)
            found = np.load(file, allow_pickle=False)
            return {name: found[name] for name in found.files}
        except ConfigError:
            raise
        except Exception:  # whatever a damaged archive makes of zipfile, zlib and numpy
            raise ConfigError(f"{where}: {path!r} is no .npz file of arrays of numbers; {OUT}") from None


def _only(where: str, path: str, found: Mapping[str, np.ndarray]) -> np.ndarray:
    key = where.rpartition(".")[2]
    if len(found) != 1 and key not in found:
        has = f"holds {', '.join(found)}" if found else "holds no array"
        raise ConfigError(f"{where}: {path!r} {has}; it must hold one array, or one that is called {key}")
    return found[key] if key in found else next(iter(found.values()))


def _of_matlab(where: str, path: str) -> np.ndarray:
    with reading.opened(where, path, OUT, LARGEST) as file:
        try:
            from scipy.io import loadmat
        except ImportError:
            raise ConfigError(f"{where}: {path!r} takes scipy to be read; pip install scipy, or give a .npy file") from None
        try:
            found = loadmat(file)
        except NotImplementedError:  # version 7.3, which is HDF5
            raise ConfigError(f"{where}: {path!r} is of MATLAB's version 7.3; save it by save(..., '-v7')") from None
        except Exception:  # whatever a damaged file makes of scipy
            raise ConfigError(f"{where}: {path!r} is no .mat file that scipy reads; {OUT}") from None
    whole = {name: value for name, value in found.items() if not name.startswith("__")}
    some = _only(where, path, whole)
    if hasattr(some, "toarray"):  # MATLAB's sparse
        sizes.refuse(where, 8.0 * np.prod(some.shape), f"an array of shape {some.shape}", "give a smaller one")
        some = some.toarray()
    return np.asarray(some)


def _of_text(where: str, path: str) -> np.ndarray:
    """A row a line, its numbers apart by commas, semicolons or blanks; # and % begin comments."""
    rows: list[list[float]] = []
    first = 0
    for number, line in enumerate(reading.text(where, path, OUT, LARGEST).splitlines(), 1):
        words = words_of(line)
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            odd = next(word for word in words if not _is_number(word))
            raise ConfigError(
                f"{where}: {path!r}, line {number}: {odd[:40]!r} is no number; a line is a row of numbers"
            ) from None
        first = first or number
        if len(rows[-1]) != len(rows[0]):
            raise ConfigError(
                f"{where}: {path!r}, line {number} has {len(rows[-1])} numbers and line {first} has {len(rows[0])}; "
                "give every row as many"
            )
    if not rows:
        raise ConfigError(f"{where}: {path!r} holds no numbers; {OUT}")
    found = np.array(rows)
    return found[:, 0] if found.shape[1] == 1 < len(found) else found


def words_of(line: str) -> list[str]:
    """The words of a line of text: apart by commas, semicolons, tabs or, where there are none, blanks; no comments."""
    line = re.split("[#%]", line, maxsplit=1)[0].strip()
    words = re.split(r"\s*[,;\t]\s*", line) if re.search("[,;\t]", line) else line.split()
    while words and not words[-1]:  # a comma at the end of the line
        words.pop()
    return words


def _is_number(word: str) -> bool:
    try:
        float(word)
        return True
    except ValueError:
        return False


def absolute(value: Any) -> Any:
    """A file's full name, wherever it is read from later; what names none (a list, module:function, nothing) as it is."""
    return os.path.abspath(value) if value and named(value) else value
