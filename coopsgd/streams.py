"""Random numbers as a pure function of an address; there is no global generator.

`stream(seed, "batch", row, epoch)` is the same generator on every placement, in any order, after any resume. An address
is a purpose and whole numbers; two addresses that differ anywhere give independent Philox keys.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _digest(seed: int, purpose: str, address: tuple[int, ...]) -> bytes:
    words = "/".join([str(int(seed)), purpose, *(str(int(part)) for part in address)])
    return hashlib.blake2b(words.encode(), digest_size=16).digest()


def stream(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """A generator that belongs to this address alone."""
    key = int.from_bytes(_digest(seed, purpose, address), "little")
    return np.random.Generator(np.random.Philox(key=key))


def seed_of(seed: int, purpose: str, *address: int) -> int:
    """A 63-bit seed for libraries that keep a generator of their own (torch, networkx)."""
    return int.from_bytes(_digest(seed, purpose, address)[:8], "little") >> 1
