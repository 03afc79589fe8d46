"""Characters of a text file; by default what the installed Python's standard library says about itself."""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coopsgd.data import cache
from coopsgd.data.base import DataSet
from coopsgd.host import reading, sizes
from coopsgd.registry import option, register


@dataclass(frozen=True)
class Characters:
    """A text as numbers: positions in the vocabulary. The last tenth is for testing."""

    train: np.ndarray
    test: np.ndarray
    vocabulary: str  # the characters that occur, by code point
    sha256: str  # of the text in UTF-8


@register("text", "data")
@dataclass(frozen=True)
class Text(DataSet):
    """The characters of a text `file` in UTF-8; the last tenth is for testing.

    Without a file: the documentation strings of the top-level modules of Python's standard library, by name, parsed and not
    imported. It differs from one Python to the next, so `show` and the summary give its SHA-256.
    """

    file: Any = option(None, "of the text, UTF-8; null: Python's documentation strings", type="path or null")

    FILES = ("file",)
    INPUT = "tokens"
    TEST = "the last tenth, held out"
    SHAPE = ()

    def __post_init__(self) -> None:
        if self.file is not None and not (isinstance(self.file, str) and self.file):
            raise ValueError(f"data.file: must be the path of a text file, got {self.file!r}")

    @property
    def CLASSES(self) -> int:
        return len(self.load().vocabulary)

    @property
    def source(self) -> str:
        """What the text is called in messages."""
        return self.file or "the standard library's documentation"

    def check(self) -> None:
        if self.file is not None:
            with reading.opened("data.file", self.file, "name a text file, or leave it out") as file:
                size = os.fstat(file.fileno()).st_size
            sizes.refuse("data.file", 10.0 * size, f"the {size} bytes of {self.file}, as numbers,", "name a smaller one")
        self.load()

    def load(self, seed: int = 0) -> Characters:
        sources = [Path(self.file)] if self.file else modules()
        if not sources:
            raise ValueError("data: this Python came without the sources of its standard library; name a text by data.file")
        try:
            arrays = cache.shared("text", sources, lambda: _encoded(self._read(sources)), _is_encoded)
        except OSError as error:
            raise ValueError(f"data.file: {self.source} cannot be read ({error.strerror})") from None
        tokens, vocabulary = arrays["tokens"], "".join(map(chr, arrays["vocabulary"]))
        if len(vocabulary) < 2:
            raise ValueError(f"data.file: {self.source} holds one character alone, {vocabulary!r}; there is nothing to learn")
        end = len(tokens) - len(tokens) // 10
        return Characters(tokens[:end], tokens[end:], vocabulary, bytes(arrays["sha256"]).hex())

    def _read(self, sources: Sequence[Path]) -> str:
        if not self.file:
            return "\n\n".join(doc for path in sources for doc in docstrings(path))
        try:
            text = sources[0].read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data.file: {self.file} is not UTF-8 (byte {error.start}); convert it, for instance with iconv"
            ) from None
        if not text:
            raise ValueError(f"data.file: {self.file} is empty")
        return text

    def about(self, seed: int = 0) -> dict[str, Any]:
        text = self.load()
        characters = len(text.train) + len(text.test)
        return {
            "text": self.source,
            "characters": characters,
            "vocabulary": len(text.vocabulary),
            "sha256": text.sha256,
        }


def modules() -> list[Path]:
    """The top-level modules of the standard library, by name."""
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def docstrings(path: Path) -> list[str]:
    """All documentation strings of a Python file, the module's first; none when it does not parse."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [doc for node in ast.walk(tree) if isinstance(node, kinds) and (doc := ast.get_docstring(node))]


def _encoded(text: str) -> Mapping[str, np.ndarray]:
    raw = text.encode("utf-8", "surrogatepass")
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    vocabulary, tokens = np.unique(points, return_inverse=True)
    small = np.uint8 if len(vocabulary) <= 256 else np.int32
    digest = np.frombuffer(hashlib.sha256(raw).digest(), dtype=np.uint8)
    return {"tokens": tokens.astype(small), "vocabulary": vocabulary.astype(np.int64), "sha256": digest}


def _is_encoded(arrays: Mapping[str, np.ndarray]) -> bool:
    """Are these arrays such as `_encoded` may answer with?"""
    tokens, vocabulary, digest = arrays["tokens"], arrays["vocabulary"], arrays["sha256"]
    return bool(
        tokens.dtype in (np.uint8, np.int32)
        and vocabulary.dtype == np.int64
        and digest.dtype == np.uint8
        and tokens.ndim == vocabulary.ndim == 1
        and digest.shape == (32,)
        and 0 <= tokens.min() <= tokens.max() < len(vocabulary)
        and 0 <= vocabulary.min() <= vocabulary.max() < 0x110000
    )
