"""`coopsgd compare FOLDER...`: runs side by side, in a table, and with -o in figures and files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.table import Table

from coopsgd.compare import formats
from coopsgd.compare.comparison import Comparison
from coopsgd.errors import ConfigError
from coopsgd.host import files
from coopsgd.run.progress import Progress


def compare(folders: Sequence[str], form: str | None, output: str | None, **options: Any) -> None:
    """Print the table, as `form` says; with `output` leave it in every form in that folder, with figures."""
    if not folders:
        raise ConfigError("compare: names no run; give run folders, or folders that hold them, as in coopsgd compare multirun")
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise ConfigError(f"-o {output}: is no folder; name one that is, or is to be")
    if options["column"] and output is None and form in ("csv", "json"):
        raise ConfigError(f"--column: {form} always has all columns; leave it out, or take --format markdown or latex")
    progress = Progress("comparing", 1)
    found = Comparison.of(folders, along=output is not None, progress=lambda what: progress.at(0, what), **options)
    progress.close()
    formats.columns(found)  # refuses those that are not there
    if form is not None:
        sys.stdout.write(formats.WRITERS[form](found))
    else:
        show(found)
    if output is not None:
        paths = leave(found, Path(output))
        print(f"{len(paths)} files in {output}: tables, figures and report.html")


def leave(found: Comparison, folder: Path) -> list[Path]:
    """Write the table in every form, the figures and the page into a folder, which is made; the files. ConfigError where it
    cannot be written.
    """
    from coopsgd.compare import drawing, figures, page
    from coopsgd.run import styles

    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [_written(folder / f"table.{formats.ENDINGS[form]}", write(found)) for form, write in formats.WRITERS.items()]
        pictures = {}
        with styles.applied():
            drawings = list(figures.drawings(found))
            progress = Progress("drawing", len(drawings))
            for number, one in enumerate(drawings):
                progress.at(number, one.name)
                paths += drawing.save(one.draw(), folder, one.name)
                pictures[one.name] = (one.about, (folder / f"{one.name}.svg").read_text())
            progress.close()
        command = shlex.join(["coopsgd", *sys.argv[1:]])
        paths.append(_written(folder / "report.html", page.page(found, command, pictures, page.plotly_script())))
    except OSError as error:
        raise ConfigError(f"-o {folder}: cannot be written ({error.strerror or error}); name another folder") from None
    return paths


def _written(path: Path, text: str) -> Path:
    files.atomically(path, partial(_put, text.encode()))
    return path


def export(folders: Sequence[str], to: str, output: str | None) -> None:
    """Write runs into another tracker's store, and say where it is."""
    from coopsgd.compare.export import export as written

    if not folders:
        raise ConfigError(
            "export: names no run; give run folders, or folders that hold them, as in coopsgd export --to mlflow outputs"
        )
    progress: list[Progress] = []

    def at(number: int, total: int, name: str) -> None:
        if not progress:
            progress.append(Progress("exporting runs", total))
        progress[0].at(number, name)

    many, where = written(folders, to, output, at)
    for one in progress:
        one.close()
    print(f"{many} run{'s' * (many != 1)} in {where}")


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def show(found: Comparison) -> None:
    """The table for a terminal, and notes below it."""
    parts, rows = formats.columns(found), found.rows()
    cells = [[part.cell(row) for part in parts] for row in rows]
    grid = Table(*(part.head for part in parts), box=None, padding=(0, 2, 0, 0))
    for line in cells:
        grid.add_row(*line)
    width = sum(max(len(line[i]) for line in [*cells, [part.head for part in parts]]) + 2 for i in range(len(parts)))
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.width = max(width, console.width)  # no cell is cut
    console.print(grid)
    if any(row["final"]["half"] is not None for row in rows):
        console.print(f"{formats.PLUS_MINUS}: 95 % interval of the mean over seeds", style="dim")
    for note in found.notes:
        console.print(f"note: {note}")
