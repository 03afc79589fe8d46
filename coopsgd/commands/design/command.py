"""`coopsgd design` from words to a folder: design.json, pareto.png and the runs behind them."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coopsgd.commands import compose
from coopsgd.commands.design import report
from coopsgd.commands.design import study as studies
from coopsgd.errors import Interrupted
from coopsgd.host import files
from coopsgd.predict.constants import constants
from coopsgd.run import folders
from coopsgd.run.console import tell
from coopsgd.run.progress import say
from coopsgd.run.start import train_silently
from coopsgd.setup import checks
from coopsgd.setup.schema import Config
from coopsgd.setup.words import mended, quoted


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
    """Search, predict, rank, check, print. ConfigError when the goal makes no sense or cannot be met."""
    checks.only_copy()
    options = {"--probe": probe, "--config-dir": config_dir, "--budget-seconds": budget_seconds, "--target-loss": target_loss}
    given = [str(word) for name, value in (options | {"--check": check}).items() if value for word in (name, value)]
    line = "coopsgd design " + shlex.join([*words, *given, *(["--theory"] if theory else [])])
    words, _ = mended(words, "design")  # what they repeat is noted when the config is composed
    if probe is not None and not any(word.startswith("cluster=") for word in words):
        words = [*words, "cluster=from_probe", f"cluster.file={quoted(probe)}"]
    checked = compose.compose_config(based(words), config_dir, "design")
    base = checked.config
    known, _, notes = constants(checked.parts, probe)
    if probe is not None and not theory and (base.cluster or {}).get("name") != "from_probe":
        notes = (
            *notes,
            f"--probe {probe}: is not used: the cluster is one you name, and pilots are run; or add --theory",
        )
    made = folders.Made()
    folder = folders.make_run_dir(checked.folder, "designs", made)

    places: list[int] = []  # that are run to check the ranking
    runs = itertools.count(1)

    def run(settings: Config, at: Path) -> list[dict[str, Any]]:
        number, of = next(runs), f" of {len(places)}" if places else ""
        say(f"running {settings.name or settings.algo['name']} ({number}{of})")
        return train_silently(settings, at, line)

    for note in dict.fromkeys((*checked.notes, *notes)):
        say(note)
    try:
        found = studies.study(
            checked.parts,
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
    except BaseException as error:
        made.tidy()
        if isinstance(error, Interrupted) and folder.exists():
            error.note = error.note or f"; what was run lies in {folder}"
        raise
    if check:
        places, runs = studies.places(len(found.entries), check), itertools.count(1)
        say(f"{len(places)} of them are run to check the ranking")
        found = studies.check(found, base, places, folder, run)
    facts = report.facts(found, words, top, config_dir) | {"command": line, "folder": str(folder)}
    files.write_json(folder / "design.json", facts)
    report.picture(found, folder / "pareto.png")
    tell(facts, as_json, report.show)
