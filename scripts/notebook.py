"""docs/notebook.ipynb anew: its cells run here, one after another, and their output is kept with them.

Remake: python scripts/notebook.py [FILE]    (needs matplotlib, no jupyter; half a minute)
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
CELLS = [
    (
        "markdown",
        "# coopsgd from a notebook\n\nThe words are those of the command line. A call trains in processes of its own.",
    ),
    (
        "code",
        """import coopsgd

for algo in ("fullsync", "pasgd", "easgd"):
    words = ["steps=300", "eval_every=30", "log_every=30", f"hydra.run.dir=runs/{algo}"]
    run = coopsgd.train(f"algo={algo}", *words, *["tau=10"] * (algo != "fullsync"), quiet=True)
    print(algo, run.summary["status"], {name: round(value, 2) for name, value in run.summary["eval"].items() if value})""",
    ),
    ("markdown", "All runs below a folder, and one table with a row a log line (a `DataFrame` where pandas is installed):"),
    (
        "code",
        """runs, table = coopsgd.load("runs")
print([run.folder.name for run in runs], len(table), "rows")
rows = table if isinstance(table, list) else table.to_dict("records")
{name: rows[-1][name] for name in ("run", "status", "step", "rounds", "bytes")}""",
    ),
    ("markdown", "Test loss against what was sent. One communication in ten steps sends a tenth:"),
    (
        "code",
        """from matplotlib import pyplot as plt

for run in runs:
    lines = [line for line in run.metrics() if line.get("eval/loss") is not None]
    plt.plot([line["bytes"] / 1e6 for line in lines], [line["eval/loss"] for line in lines], marker=".", label=run.folder.name)
plt.xlabel("MB sent")
plt.ylabel("eval/loss")
plt.legend()
plt.show()""",
    ),
    ("markdown", "The trained module, and what an algorithm is without running it:"),
    (
        "code",
        """model = runs[0].model()
print(sum(p.numel() for p in model.parameters()), "parameters")
found = coopsgd.show("algo=dpsgd topology=ring workers=8", quiet=True)
round(found["zeta"], 4)""",
    ),
]


def played(cells: list[tuple[str, str]]) -> list[list[dict[str, Any]]]:
    """The outputs of each cell, as a notebook has them. They run in an empty folder."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for kind, source in cells:
                found.append(_outputs(source, names, plt) if kind == "code" else [])
        finally:
            os.chdir(before)
    return found


def _outputs(source: str, names: dict[str, Any], plt: Any) -> list[dict[str, Any]]:
    body = ast.parse(source)
    last = ast.Expression(body.body.pop().value) if isinstance(body.body[-1], ast.Expr) else None  # type: ignore[attr-defined]
    printed, outputs = io.StringIO(), []
    pictures: list[str] = []

    def show(*_: Any) -> None:
        image = io.BytesIO()
        plt.savefig(image, dpi=80, bbox_inches="tight")
        pictures.append(base64.b64encode(image.getvalue()).decode())
        plt.close("all")

    plt.show = show
    with contextlib.redirect_stdout(printed):
        exec(compile(body, "cell", "exec"), names)
        value = None if last is None else eval(compile(last, "cell", "eval"), names)
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    outputs += [{"output_type": "display_data", "data": {"image/png": picture}, "metadata": {}} for picture in pictures]
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"output_type": "execute_result", "execution_count": None, "data": data, "metadata": {}})
    return outputs


def notebook(cells: list[tuple[str, str]], outputs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    made, count = [], 0
    for number, ((kind, source), found) in enumerate(zip(cells, outputs, strict=True)):
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": source.splitlines(keepends=True),
        }
        if kind == "code":
            count += 1
            found = [one | {"execution_count": count} if "execution_count" in one else one for one in found]
            cell |= {"execution_count": count, "outputs": found}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    page = Path(sys.argv[1]) if sys.argv[1:] else PAGE
    page.write_text(json.dumps(notebook(CELLS, played(CELLS)), indent=1) + "\n")
