"""`coopsgd design` from words to a folder: design.json, pareto.png where matplotlib is, and the runs behind them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from coopsgd import checkpoint, compose
from coopsgd.config import Config
from coopsgd.design import study as studies
from coopsgd.report import design as report
from coopsgd.report.constants import constants


def design(
    words: Sequence[str],
    config_dir: str | None,
    as_json: bool,
    *,
    probe: str | None,
    budget_seconds: float | None,
    target_loss: float | None,
    top: int,
    check: int,
    theory: bool,
) -> None:
    """Search, predict, rank, check, tell. ConfigError when what is asked makes no sense or cannot be met."""
    if probe is not None and not any(word.startswith("cluster=") for word in words):
        words = [*words, "cluster=from_probe", f"cluster.file={probe}"]
    checked = compose.shown(words, config_dir)
    base = checked.config
    known, _, notes = constants(base, probe)
    folder = Path(compose.fresh(f"designs/{datetime.now():%Y-%m-%d/%H-%M-%S}"))
    line = "coopsgd design " + shlex.join(words)

    def run(settings: Config, at: Path) -> list[dict[str, Any]]:
        say(f"running {settings.name or settings.algo['name']}")
        return compose.quietly(settings, at, line)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    for note in (*checked.notes, *notes):
        say(note)
    found = studies.study(
        base,
        words,
        folder,
        run,
        budget=budget_seconds,
        target=target_loss,
        known=known,
        alone=theory,
        config_dir=config_dir,
        say=say,
    )
    if check:
        found = studies.check(found, base, studies.places(len(found.entries), check), folder, run)
    facts = report.facts(found, words, top) | {"command": line, "folder": str(folder)}
    checkpoint.write_json(folder / "design.json", facts)
    drawn = report.picture(found, folder / "pareto.png")
    report.show(facts, as_json)
    if not as_json:
        print(f"\n{folder}" + ("" if drawn else "  (pip install coopsgd[figures] for its picture)"))
