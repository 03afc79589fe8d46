"""Arrays of numbers in a user's files: .npy, .npz, .mat, and text (.csv, .txt, .tsv, .dat), each by the end of its name.

What is no array of numbers is refused in one line, by line and word where it is text. A file of several arrays (.npz, .mat)
is asked for the only one that it holds, else for the one that is called like the key: `W` for algo.W.
"""

from __future__ import annotations

import csv
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.host import reading, sizes

TEXTS = (".csv", ".txt", ".tsv", ".dat")
SUFFIXES = (".npy", ".npz", ".mat", *TEXTS)
SPARSE = {"format", "shape", "data"}  # arrays of a .npz file of scipy.sparse
LARGEST = 1 << 28  # bytes of a text that are read
OUT = reading.ARRAY
Fits = Callable[[tuple[int, ...]], None]


def named(value: Any) -> bool:
    """Does this value of a key that takes an array name a file, and not a function (module:function)?"""
    return isinstance(value, str) and (":" not in value or Path(value).suffix.lower() in SUFFIXES)


def read(where: str, path: str, fits: Fits | None = None, called: str | None = None) -> np.ndarray:
    """The array in a file, of whatever numbers. `fits` is shown its shape, where it can be before it is read, and may raise.

    called: which of several arrays it is; None: the one that is called like the key.
    """
    suffix, called = Path(path).suffix.lower(), called or where.rpartition(".")[2]
    if suffix in TEXTS:
        found = _of_text(where, path)
    elif suffix == ".npz":
        many = archive(where, path)
        found = _of_scipy(where, path) if many.keys() >= SPARSE else _only(where, path, many, called)
    elif suffix == ".mat":
        found = _of_matlab(where, path, called)
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
        except Exception as error:  # whatever a damaged archive makes of zipfile, zlib and numpy
            if "Object arrays" in str(error):
                raise ConfigError(f"{where}: {path!r} {reading.OBJECTS}") from None
            raise ConfigError(f"{where}: {path!r} is no .npz file that numpy reads; write it anew by numpy.savez") from None


def _only(where: str, path: str, found: Mapping[str, np.ndarray], called: str) -> np.ndarray:
    if len(found) != 1 and called not in found:
        has = f"holds {', '.join(found)}" if found else "holds no array"
        raise ConfigError(f"{where}: {path!r} {has}; it must hold one array, or one that is called {called}")
    return found[called] if called in found else next(iter(found.values()))


def _of_scipy(where: str, path: str) -> np.ndarray:
    """What scipy.sparse.save_npz left."""
    from scipy.sparse import load_npz

    with reading.opened(where, path, OUT) as file:
        try:
            found = load_npz(file)
        except Exception:  # whatever a file makes of scipy that has some of its names
            raise ConfigError(f"{where}: {path!r} is no sparse matrix that scipy reads; {OUT}") from None
    return _dense(where, found)


def _dense(where: str, found: Any) -> np.ndarray:
    sizes.refuse(where, 8.0 * np.prod(found.shape), f"an array of shape {found.shape}", "give a smaller one")
    return np.asarray(found.toarray())


def _of_matlab(where: str, path: str, called: str) -> np.ndarray:
    from scipy.io import loadmat

    with reading.opened(where, path, OUT, LARGEST) as file:
        try:
            found = loadmat(file)
        except NotImplementedError:  # version 7.3, which is HDF5
            raise ConfigError(f"{where}: {path!r} is of MATLAB's version 7.3; save it by save(..., '-v7')") from None
        except Exception:  # whatever a damaged file makes of scipy
            raise ConfigError(f"{where}: {path!r} is no .mat file that scipy reads; {OUT}") from None
    whole = {name: value for name, value in found.items() if not name.startswith("__")}
    some = _only(where, path, whole, called)
    return _dense(where, some) if hasattr(some, "toarray") else np.asarray(some)  # MATLAB's sparse


def _of_text(where: str, path: str) -> np.ndarray:
    """A row a line, its numbers apart by commas, semicolons, tabs or blanks; # and % begin comments."""
    rows: list[list[float]] = []
    first = 0
    for number, words in words_of(reading.text(where, path, OUT, LARGEST)):
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            odd = next(word for word in words if not _is_number(word))
            comma = "; decimals take a point" if _is_number(odd.replace(",", ".", 1)) else ""
            raise ConfigError(
                f"{where}: {path!r}, line {number}: {odd[:40]!r} is no number; a line is a row of numbers{comma}"
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


def words_of(text: str) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that has any, and its number, from 1.

    Apart by semicolons, tabs or commas, by the first of these that the text has at all, else by blanks; a word in quotes may
    hold what else would part it. What begins with # or % is no word.
    """
    lines = [re.split(r"(?:^|\s)[#%]", line, maxsplit=1)[0].strip(" ") for line in text.splitlines()]
    bare = [re.sub('"[^"]*"', "", line) for line in lines]
    between = next((mark for mark in ";\t," if any(mark in line for line in bare)), " ")
    for number, line in enumerate(lines, 1):
        try:
            found = [word.strip() for words in csv.reader([line], delimiter=between, skipinitialspace=True) for word in words]
        except csv.Error:  # too long a word
            found = line.split(between)
        while found and not found[-1]:  # a comma at the end of the line
            found.pop()
        if found:
            yield number, found


def _is_number(word: str) -> bool:
    try:
        float(word)
        return True
    except ValueError:
        return False


def absolute(value: Any) -> Any:
    """A file's full name, wherever it is read from later; what names none (a list, module:function, nothing) as it is."""
    return os.path.abspath(value) if value and named(value) else value
