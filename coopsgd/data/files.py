"""Data sets that are files: looked for in $COOPSGD_DATA, in the cache and where a package puts them, else downloaded."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from coopsgd.data import cache
from coopsgd.data.base import DataSet, Images
from coopsgd.host import news


def there(path: Path) -> bool:
    """Is it a file? ValueError when a folder on the way may not be searched, which is not the same as its absence."""
    try:
        return path.is_file()
    except OSError as error:
        raise ValueError(
            f"data: cannot read {str(path)!r} ({error.strerror}); set COOPSGD_DATA to a folder you may read"
        ) from None


def refuse_unreadable(path: Path, error: Exception) -> None:
    """ValueError when an error of reading says that the file may not be read, and nothing of what is in it."""
    if isinstance(error, OSError) and error.errno is not None:
        raise ValueError(
            f"data: cannot read {str(path)!r} ({error.strerror}); give yourself the right to, or another copy"
        ) from None


class Filed(DataSet):
    """A data set in fixed files. A subclass says which, and how to read them."""

    NAME: ClassVar[str]
    FILES: ClassVar[tuple[str, ...]]  # all must be there
    BELOW: ClassVar[tuple[str, ...]]  # folders below a data folder that are tried, before itself
    SOURCE: ClassVar[str]  # the class of torchvision.datasets that downloads it, with its checks
    HOW: ClassVar[str] = ""  # another way to get it

    def read(self, folder: Path) -> Mapping[str, np.ndarray]:
        """train_x, train_y, test_x, test_y. ValueError when a file is broken."""
        raise NotImplementedError

    def fits(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Are these arrays such as `read` may answer with?"""
        return all(
            (x := arrays[f"{part}_x"]).dtype == np.uint8
            and x.shape[1:] == self.SHAPE
            and (y := arrays[f"{part}_y"]).dtype == np.int64
            and y.shape == x.shape[:1]
            and 0 <= y.min() <= y.max() < self.CLASSES
            for part in ("train", "test")
        )

    def check_files(self, folder: Path) -> None:
        """ValueError when a file is visibly broken; quick."""

    def another(self, folder: Path) -> bool:
        """Are these visibly the files of another data set? Quick."""
        return False

    def scaling(self) -> dict[str, Any]:
        """mean, std and pad of `Images`."""
        raise NotImplementedError

    def file(self, folder: Path, name: str) -> Path | None:
        """Where `name` is, as it is or compressed."""
        return next((p for p in (folder / name, folder / f"{name}.gz") if there(p)), None)

    def places(self) -> list[Path]:
        """Folders that may hold the files, in the order they are tried."""
        own = os.environ.get("COOPSGD_DATA")
        roots = [*([Path(own)] if own else []), cache.root()]
        return [root / below for root in roots for below in (*self.BELOW, "")]

    def find(self) -> Path | None:
        """The first folder with all files, and not another's of the same names."""
        whole = (p for p in self.places() if all(self.file(p, name) for name in self.FILES))
        return next((p for p in whole if not self.another(p)), None)

    def check(self) -> None:
        folder = self.find()
        if folder is not None:
            self.check_files(folder)
            return
        try:
            import torchvision

            news.tell(f"data: {self.NAME} is not here; downloading it into {cache.root()}, which can take minutes")
            began = time.monotonic()
            # it tells of every mirror it tries, and draws bars
            quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
            with cache.locked(cache.root() / "download.lock"), quiet[0], quiet[1]:
                getattr(torchvision.datasets, self.SOURCE)(str(cache.root()), download=True)
            news.tell(f"data: {self.NAME} is there, after {time.monotonic() - began:.0f} s")
        except Exception as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            files = f"{', '.join(self.FILES[:-1])} and {self.FILES[-1]}"
            raise ValueError(
                f"data: {self.NAME} was not found and could not be downloaded ({why}); put {files} into FOLDER/"
                f"{self.BELOW[0]} and set COOPSGD_DATA=FOLDER{self.HOW}"
            ) from None

    def load(self, seed: int = 0) -> Images:
        folder = self.find()
        if folder is None:
            raise ValueError(f"data: {self.NAME} is gone since the run was checked; set COOPSGD_DATA to its folder")
        sources: Any = [self.file(folder, name) for name in self.FILES]
        arrays = cache.shared(self.NAME, sources, lambda: self.read(folder), self.fits)
        return Images(arrays["train_x"], arrays["train_y"], arrays["test_x"], arrays["test_y"], **self.scaling())
