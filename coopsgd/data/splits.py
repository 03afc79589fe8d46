"""Splits in a user's files: who holds which samples (a list of sample numbers each), or whose each sample is (a user a sample).

.json: a list of lists of sample numbers; a mapping from user to such a list; or a list of as many users, words or whole
numbers, as there are samples. .npz: an array of sample numbers each, or `users` alone, (n,). .npy: users (n,), or sample
numbers (workers, each).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.host import arrays, reading

KEY = "partition.file"
SUFFIXES = (".json", ".npz", ".npy")
OUT = "give lists of sample numbers or a user for each sample, in .json, .npz or .npy"
LARGEST = 1 << 28  # bytes of a JSON file that are read


class Split(NamedTuple):
    """Groups of samples: `names` of who they belong to, and `shares`, the sample numbers of each.

    users: are these the people or devices that the samples are from, rather than the workers of somebody's run?
    """

    names: tuple[str, ...]
    shares: tuple[np.ndarray, ...]
    users: bool


def read(path: str, n: int) -> Split:
    """The split of n samples in a file. ConfigError or ValueError, in one line, when it is none of so many."""
    suffix = Path(path).suffix.lower()
    with reading.opened(KEY, path, OUT):  # a folder, or nothing, has no ending that matters
        pass
    if suffix not in SUFFIXES:
        raise ValueError(f"{KEY}: {path!r} ends in {suffix or 'nothing'}, not in {', '.join(SUFFIXES)}; {OUT}")
    found: Any
    if suffix == ".json":
        found = reading.parsed(KEY, path, OUT, partial(json.loads, object_pairs_hook=partial(_once, path)), "JSON", LARGEST)
    elif suffix == ".npz":
        found = dict(arrays.archive(KEY, path))
        if len(found) == 1 and next(iter(found.values())).ndim == 1 and ("users" in found or _per_sample(found, n)):
            found = next(iter(found.values()))
        elif "users" in found:
            raise ValueError(f"{KEY}: {path!r} holds users and {len(found) - 1} other arrays; keep one kind of them")
        else:
            found = list(found.values())
    else:
        found = arrays.read(KEY, path)
    split = _split(path, found, n)
    _refuse(path, split, n)
    return split._replace(shares=tuple(share.astype(np.int64) for share in split.shares))


def _once(path: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which a second value of one name would lose without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        again = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ConfigError(f"{KEY}: {path!r} names {again} twice; give each user once, with all of its samples")
    return found


def _per_sample(found: Mapping[str, np.ndarray], n: int) -> bool:
    return len(next(iter(found.values()))) == n


def _split(path: str, found: Any, n: int) -> Split:
    if isinstance(found, Mapping):
        names, lists = tuple(map(str, found)), list(found.values())
        return Split(names, tuple(_numbers(path, f"user {name}", one) for name, one in zip(names, lists, strict=True)), True)
    if isinstance(found, np.ndarray):
        if found.ndim == 1:
            return _by_user(path, found, n)
        if found.ndim != 2:
            raise ValueError(f"{KEY}: {path!r} holds an array of shape {found.shape}; {OUT}")
        found = list(found)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise ValueError(f"{KEY}: {path!r} holds {_told(found)}; {OUT}")
    if all(isinstance(one, list | np.ndarray) for one in found):
        names = tuple(f"list {i}" for i in range(len(found)))
        return Split(names, tuple(_numbers(path, name, one) for name, one in zip(names, found, strict=True)), False)
    if all(isinstance(one, str) for one in found) or all(isinstance(one, int) and not isinstance(one, bool) for one in found):
        return _by_user(path, np.array(found), n)
    odd = next(one for one in found if not isinstance(one, type(found[0]))) if len({*map(type, found)}) > 1 else found[0]
    raise ValueError(f"{KEY}: {path!r} holds {_told(odd)} where a list of sample numbers, or a user, stands; {OUT}")


def _by_user(path: str, of: np.ndarray, n: int) -> Split:
    if of.dtype.kind == "S":
        of = np.char.decode(of, "utf-8", "replace")
    if of.dtype.kind not in "iuU":
        raise ValueError(f"{KEY}: {path!r} holds {of.dtype}, not users: words or whole numbers; {OUT}")
    if len(of) != n:
        raise ValueError(f"{KEY}: {path!r} names the user of {len(of)} samples, but {n} are trained on; name one for each")
    users, which, counts = np.unique(of, return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")
    return Split(tuple(f"user {one}" for one in users.tolist()), tuple(np.split(order, counts.cumsum()[:-1])), True)


def _numbers(path: str, name: str, one: Any) -> np.ndarray:
    """Sample numbers (k,), of whole numbers."""
    try:
        share = np.asarray(one)
    except (ValueError, OverflowError):
        share = np.array(None)
    if isinstance(one, list) and any(isinstance(each, bool) for each in one):
        share = np.array(None)
    if share.ndim != 1 or (share.size and share.dtype.kind not in "iu"):
        raise ValueError(f"{KEY}: {path!r}, {name} holds {_told(one)}, not a list of sample numbers; {OUT}")
    return share if share.size else share.astype(np.int64)


def _refuse(path: str, split: Split, n: int) -> None:
    """ValueError unless every sample is one of n, and nobody's twice."""
    owner = np.full(n, -1)
    for i, (name, share) in enumerate(zip(split.names, split.shares, strict=True)):
        if not len(share):
            raise ValueError(f"{KEY}: {path!r}, {name} has no sample; leave it out or give it some")
        low, high = int(share.min()), int(share.max())
        if low < 0 or high >= n:
            odd = low if low < 0 else high
            raise ValueError(f"{KEY}: {path!r}, {name} has sample {odd}; the {n} training samples are 0 to {n - 1}")
        taken = share[owner[share] >= 0]
        if len(taken):
            other = split.names[owner[taken[0]]]
            raise ValueError(f"{KEY}: {path!r}, {name} and {other} both have sample {taken[0]}; give each sample to one")
        numbers, counts = np.unique(share, return_counts=True)
        if counts.max() > 1:
            raise ValueError(f"{KEY}: {path!r}, {name} has sample {numbers[counts.argmax()]} twice; name each once")
        owner[share] = i


def _told(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and {value.dtype}"
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:40]}..."
