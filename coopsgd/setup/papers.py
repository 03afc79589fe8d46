"""The papers of what a config chooses, as BibTeX: what its yamls say behind `# paper:`, and what some keys add.

The entries are in conf/papers.bib. A yaml names one by arXiv id, or by first author and year, as in `Boyd, Ghosh 2006`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

from coopsgd.setup import catalogue
from coopsgd.setup.schema import GROUPS, Config

FRAMEWORK = "arXiv:1808.07576"
# group, key, its value -> paper: what a choice is only with this key
OF_KEYS: tuple[tuple[str, str, Any, str], ...] = (
    ("algo", "weights", "metropolis", "Xiao, Boyd & Kim 2007"),
    ("algo", "weights", "best_constant", "Xiao & Boyd 2004"),
    ("algo", "weights", "fdla", "Xiao & Boyd 2004"),
    ("model", "norm", "group", "arXiv:1803.08494"),
    ("model", "norm", "batch", "arXiv:1502.03167"),
)
# what of a yaml's line holds only with a key, and else is not meant
ONLY_WITH: dict[tuple[str, str, Any], str] = {("partition", "equal", True): "arXiv:1909.06335"}
DELAYED = "arXiv:1906.12043"  # averaging whose message travels for a whole round


class Cited(NamedTuple):
    """A part of a config, and the papers it is from."""

    of: str  # as in algo=easgd
    papers: tuple[str, ...]  # keys of `entries`
    own: bool = False  # is it a class, module or data set from elsewhere?


def entries() -> dict[str, str]:
    """Every entry of conf/papers.bib, by its key."""
    text = (files("coopsgd.conf") / "papers.bib").read_text()
    found = (entry.strip() for entry in re.split(r"^(?=@)", text, flags=re.MULTILINE) if entry.startswith("@"))
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in found}


def keys_of(paper: str) -> list[str]:
    """The keys of the entries that such a line names, in its order. KeyError when one has no entry."""
    known = entries()
    by_id = {found[1]: key for key, entry in known.items() if (found := re.search(r"eprint = \{(.*?)\}", entry))}
    named = []
    for found in re.finditer(r"arXiv:(\d{4}\.\d{4,5})|\b([A-Z]\w+)(?:(?!arXiv)[^;:])*?\b((?:19|20)\d\d)\b", paper):
        arxiv, author, year = found.groups()
        key = by_id.get(arxiv) if arxiv else next((key for key in known if key.startswith(f"{author.lower()}{year}")), None)
        if key is None:
            raise KeyError(f"no entry in conf/papers.bib for {found[0]!r}")
        named.append(key)
    return list(dict.fromkeys(named))


def of_config(config: Config) -> Iterator[Cited]:
    """What this config is made of and from which papers, the framework first. A part that is a user's own has none."""
    yield Cited("coopsgd", tuple(keys_of(FRAMEWORK)))
    for group in GROUPS:
        node = getattr(config, group)
        if isinstance(node, dict) and isinstance(node.get("name"), str):
            yield _part(group, node)
    average = (config.algo or {}).get("mixing") == "average"
    if average and config.delay and config.delay == config.tau:
        yield Cited(f"delay={config.delay}", tuple(keys_of(DELAYED)))


def _part(group: str, node: dict[str, Any]) -> Cited:
    name = node["name"]
    choices = [choice for choice in catalogue.choices(group) if _is(choice, node)]
    text = "; ".join(dict.fromkeys(choice.paper for choice in choices))
    for (where, key, value), paper in ONLY_WITH.items():
        if where == group and node.get(key) != value:
            text = text.replace(paper, "")
    text += "".join(f"; {paper}" for where, key, value, paper in OF_KEYS if where == group and node.get(key) == value)
    elsewhere = node.get("path") or node.get("arch") or (None if choices else name)
    return Cited(f"{group}={elsewhere or name}", tuple(keys_of(text)), elsewhere is not None)


def _is(choice: catalogue.Choice, node: dict[str, Any]) -> bool:
    """Does the choice stand for this part? An algorithm goes by its yaml, else by its classes; any other part by its class."""
    if choice.group != "algo":
        return bool(catalogue.settings(choice.group, choice.name).get("name") == node["name"])
    if node["name"] in {one.name for one in catalogue.choices("algo")}:
        return choice.name == node["name"]
    said = catalogue.settings("algo", choice.name)
    of = (node.get("strategy"), node.get("mixing"))
    return of != ("cooperative", "matrix") and (said.get("strategy"), said.get("mixing")) == of
