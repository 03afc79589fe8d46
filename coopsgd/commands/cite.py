"""`coopsgd cite`: the papers of what runs used, as BibTeX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coopsgd.commands.runs import below
from coopsgd.errors import ConfigError
from coopsgd.setup import papers, schema

EXAMPLE = "coopsgd cite outputs/DATE/TIME, or coopsgd cite algo=easgd"


def facts(words: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """parts: {of, papers, own}, each once; bibtex: entry by key. ConfigError for words that are neither runs nor a config."""
    configs = _configs(words, config_dir)
    parts = list(dict.fromkeys(part for config in configs for part in papers.of_config(config)))
    known = papers.entries()
    keys = list(dict.fromkeys(key for part in parts for key in part.papers))
    return {"parts": [part._asdict() for part in parts], "bibtex": {key: known[key] for key in keys}}


def _configs(words: Sequence[str], config_dir: str | None) -> list[schema.Config]:
    named = [Path(word) for word in words if "=" not in word or Path(word).is_dir()]
    if not words:
        raise ConfigError(f"cite: names neither runs nor a config; as in {EXAMPLE}")
    if not named:
        from coopsgd.commands import compose

        return [compose.compose_config(words, config_dir, "cite", look=True).config]
    if len(named) < len(words):
        raise ConfigError(f"cite: takes run folders or words of a config, not both at once; as in {EXAMPLE}")
    if config_dir is not None:
        raise ConfigError(f"--config-dir {config_dir}: is for words of a config; run folders bring their own")
    runs = [run for path in named for run in ([path] if (path / "config.yaml").is_file() else below(path))]
    for path in named:
        if not any(run == path or path in run.parents for run in runs):
            raise ConfigError(
                f"{path}: holds no run: there is no config.yaml in it or below it; name a run folder or a sweep's"
            )
    return [schema.load(run / "config.yaml", trust=True) for run in runs]


def show(found: dict[str, Any]) -> None:
    """Print the entries, each below the parts that it is of."""
    of: dict[str, list[str]] = {}
    for part in found["parts"]:
        for key in part["papers"]:
            of.setdefault(key, []).append(part["of"])
    for key, entry in found["bibtex"].items():
        print(f"% {', '.join(of[key])}\n{entry}\n")
    if own := [part["of"] for part in found["parts"] if part["own"]]:
        print(f"% yours, or of another package; cite what they are from: {', '.join(own)}")
