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

from coopsgd.data import cache, tokens
from coopsgd.data.base import DataSet
from coopsgd.host import reading, sizes
from coopsgd.registry import option, register


@dataclass(frozen=True)
class Characters:
    """A text as numbers: positions in the vocabulary, or the tokens of a file."""

    train: np.ndarray
    test: np.ndarray
    vocabulary: str | range  # the characters that occur, by code point; of tokens their numbers
    sha256: str  # of the text in UTF-8, of the bytes of tokens


@register("text", "data")
@dataclass(frozen=True)
class Text(DataSet):
    """The characters of a text `file` in UTF-8, or the tokens of a .bin file; `valid`, or the last tenth, is for testing.

    A .bin file holds tokens of 16 bits, little-endian (uint16), whose numbers are below `vocabulary`, by default the largest
    of both files and one.
    Without a file: the documentation strings of the top-level modules of Python's standard library, by name, parsed and not
    imported. It differs from one Python to the next, so `show` and the summary give its SHA-256.
    """

    file: Any = option(
        None, "of the text, UTF-8, or of tokens, .bin of uint16; null: Python's documentation strings", type="path or null"
    )
    valid: Any = option(None, "another of the same kind, to test on; null: the last tenth of file", type="path or null")
    vocabulary: Any = option(
        "auto", "how many tokens there are, of .bin files; auto: the largest and one", unit="tokens", type="int or auto"
    )

    FILES = ("file", "valid")
    INPUT = "tokens"
    SHAPE = ()

    def __post_init__(self) -> None:
        if self.file is not None and not (isinstance(self.file, str) and self.file):
            raise ValueError(f"data.file: must be the path of a text file, got {self.file!r}")
        if self.valid is not None and not (isinstance(self.valid, str) and self.valid):
            raise ValueError(f"data.valid: must be the path of a text file, got {self.valid!r}")
        if self.valid is not None and (self.file is None or tokens.are(self.file) != tokens.are(self.valid)):
            other = "Python's documentation" if self.file is None else self.file
            raise ValueError(f"data.valid: {self.valid} and {other} are not of one kind; name two texts, or two files .bin")
        given = self.vocabulary
        if given != "auto" and (isinstance(given, bool) or not isinstance(given, int) or not 2 <= given <= 1 << 16):
            raise ValueError(f"data.vocabulary: must be auto or a whole number from 2 to 65536, got {given!r}")
        if given != "auto" and not tokens.are(self.file):
            raise ValueError(f"data.vocabulary: is for tokens (.bin); the characters of a text are counted, got {given}")

    @property
    def TEST(self) -> str:  # type: ignore[override]
        return "the last tenth, held out" if self.valid is None else str(self.valid)

    @property
    def CLASSES(self) -> int:
        return len(self.load().vocabulary)

    @property
    def source(self) -> str:
        """What the text is called in messages."""
        return self.file or "the standard library's documentation"

    def check(self) -> None:
        for key, named in (("data.file", self.file), ("data.valid", self.valid)):
            if named is not None:
                with reading.opened(key, named, "name a text file, or leave it out") as file:
                    size = os.fstat(file.fileno()).st_size
                sizes.refuse(key, 10.0 * size, f"the {size} bytes of {named}, as numbers,", "name a smaller one")
        self.load()

    def load(self, seed: int = 0) -> Characters:
        if tokens.are(self.file):
            return self._tokens()
        sources = [Path(named) for named in (self.file, self.valid) if named] or modules()
        if not sources:
            raise ValueError("data: this Python came without the sources of its standard library; name a text by data.file")
        try:
            if self.valid:
                arrays = cache.shared("texts", sources, lambda: _encoded(*self._texts(sources)), _is_encoded)
            else:
                arrays = cache.shared("text", sources, lambda: _encoded(self._read(sources)), _is_encoded)
        except OSError as error:
            raise ValueError(f"data.file: {self.source} cannot be read ({error.strerror})") from None
        numbers, vocabulary = arrays["tokens"], "".join(map(chr, arrays["vocabulary"]))
        if len(vocabulary) < 2:
            raise ValueError(f"data.file: {self.source} holds one character alone, {vocabulary!r}; there is nothing to learn")
        end = int(arrays["cut"][0]) if self.valid else len(numbers) - len(numbers) // 10
        return Characters(numbers[:end], numbers[end:], vocabulary, bytes(arrays["sha256"]).hex())

    def _tokens(self) -> Characters:
        key, named = "data.file", self.file
        try:
            train = test = tokens.read(key, named)
            if self.valid is not None:
                key, named = "data.valid", self.valid
                test = tokens.read(key, named)
            else:
                end = len(train) - len(train) // 10
                train, test = train[:end], train[end:]
        except OSError as error:
            raise ValueError(f"{key}: {named} cannot be read ({error.strerror})") from None
        both = [train, test]
        known = zip(both, (self.source, named), strict=True)
        largest, source = max((int(part.max()), name) for part, name in known if len(part))
        given = largest + 1 if self.vocabulary == "auto" else self.vocabulary
        if largest >= given:
            raise ValueError(
                f"data.vocabulary: {given} are too few for token {largest} of {source}; give {largest + 1} or more"
            )
        if given < 2:
            raise ValueError(f"data.file: {self.source} holds token 0 alone; there is nothing to learn")
        return Characters(train, test, range(given), tokens.digest(both))

    def _texts(self, sources: Sequence[Path]) -> tuple[str, int]:
        """Both texts, one after the other, and how long the first is."""
        first, second = (self._text(key, path) for key, path in zip(("data.file", "data.valid"), sources, strict=True))
        return first + second, len(first)

    def _read(self, sources: Sequence[Path]) -> str:
        if not self.file:
            return "\n\n".join(doc for path in sources for doc in docstrings(path))
        return self._text("data.file", sources[0])

    def _text(self, key: str, path: Path) -> str:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{key}: {path} is not UTF-8 (byte {error.start}); convert it, for instance with iconv") from None
        if not text:
            raise ValueError(f"{key}: {path} is empty")
        return text

    def about(self, seed: int = 0) -> dict[str, Any]:
        text = self.load()
        characters = len(text.train) + len(text.test)
        return {
            "text": self.source,
            ("tokens" if tokens.are(self.file) else "characters"): characters,
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


def _encoded(text: str, cut: int | None = None) -> Mapping[str, np.ndarray]:
    raw = text.encode("utf-8", "surrogatepass")
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    vocabulary, numbers = np.unique(points, return_inverse=True)
    small = np.uint8 if len(vocabulary) <= 256 else np.int32
    digest = np.frombuffer(hashlib.sha256(raw).digest(), dtype=np.uint8)
    found: dict[str, np.ndarray] = {
        "tokens": numbers.astype(small),
        "vocabulary": vocabulary.astype(np.int64),
        "sha256": digest,
    }
    return found if cut is None else found | {"cut": np.array([cut])}


def _is_encoded(arrays: Mapping[str, np.ndarray]) -> bool:
    """Are these arrays such as `_encoded` may answer with?"""
    numbers, vocabulary, digest = arrays["tokens"], arrays["vocabulary"], arrays["sha256"]
    return bool(
        numbers.dtype in (np.uint8, np.int32)
        and vocabulary.dtype == np.int64
        and digest.dtype == np.uint8
        and numbers.ndim == vocabulary.ndim == 1
        and 0 <= int(arrays.get("cut", np.zeros(1, int))[0]) <= len(numbers)
        and digest.shape == (32,)
        and 0 <= numbers.min() <= numbers.max() < len(vocabulary)
        and 0 <= vocabulary.min() <= vocabulary.max() < 0x110000
    )
