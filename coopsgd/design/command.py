"""`coopsgd design` from words to a folder: design.json, pareto.png where matplotlib is, and the runs behind them."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coopsgd import checkpoint, checks, compose, folders
from coopsgd.config import Config
from coopsgd.design import study as studies
from coopsgd.report import design as report
from coopsgd.report.constants import constants


def based(words: Sequence[str]) -> list[str]:
    """Words of a config to start from: one with a topology, so that one that is given is kept, if no algo is."""
    if any(word.lstrip("+").startswith("algo=") for word in words):
        return list(words)
    return ["algo=dpsgd", *(word for word in words if not word.lstrip("+").startswith("algo."))]


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
    checks.only_copy()
    options = {"--probe": probe, "--config-dir": config_dir, "--budget-seconds": budget_seconds, "--target-loss": target_loss}
    asked = [str(word) for name, value in (options | {"--check": check}).items() if value for word in (name, value)]
    line = "coopsgd design " + shlex.join([*words, *asked, *(["--theory"] if theory else [])])
    if probe is not None and not any(word.startswith("cluster=") for word in words):
        plain = re.fullmatch(r"[\w./-]+", probe)  # others are one word of Hydra's only in quotes
        file = probe if plain else "'" + probe.replace("'", "\\'") + "'"
        words = [*words, "cluster=from_probe", f"cluster.file={file}"]
    checked = compose.shown(based(words), config_dir)
    base = checked.config
    known, _, notes = constants(base, probe)
    if probe is not None and not theory and (base.cluster or {}).get("name") != "from_probe":
        notes = (
            *notes,
            f"--probe {probe}: is not used: the cluster is one you name, and pilots are run; or add --theory",
        )
    folder = folders.claimed(checked.folder, "designs")

    def run(settings: Config, at: Path) -> list[dict[str, Any]]:
        say(f"running {settings.name or settings.algo['name']}")
        return compose.quietly(settings, at, line)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    for note in dict.fromkeys((*checked.notes, *notes)):
        say(note)
    try:
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
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing was run
        raise
    if check:
        found = studies.check(found, base, studies.places(len(found.entries), check), folder, run)
    facts = report.facts(found, words, top, config_dir) | {"command": line, "folder": str(folder)}
    checkpoint.write_json(folder / "design.json", facts)
    drawn = report.picture(found, folder / "pareto.png")
    report.show(facts, as_json)
    if not as_json:
        print(f"\n{folder}" + ("" if drawn else "  (pip install coopsgd[figures] for its picture)"))
