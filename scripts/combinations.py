"""Which axes combine with which algorithms and with each other: docs/combinations.md, asked of the code itself.

Remake: python scripts/combinations.py    (a minute; a test holds the page's rows equal to what the code says)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import textwrap  # noqa: E402

import lots  # noqa: E402

from coopsgd.commands.compose import compose_config  # noqa: E402
from coopsgd.errors import ConfigError  # noqa: E402

PAGE = ROOT / "docs" / "combinations.md"
ALGOS = (
    *("pasgd", "dpsgd", "one_peer", "matching", "gossip_pga", "matcha", "two_level", "hierarchical", "easgd", "gea"),
    *("parameter_server", "fedavg", "qg_dsgdm", "decentlam", "gasloc", "sgp", "relay", "fullsync"),
)
CHOICES = {  # what a column is called, and its words: those that the choice itself needs
    "outer": ("outer=momentum",),
    "proximal": ("correction=proximal",),
    "scaffold": ("correction=scaffold",),
    "fednova": ("correction=fednova",),
    "kgt": ("correction=kgt",),
    "led": ("correction=led", "algo.lazy=true"),
    "gt": ("correction=gt", "tau=1"),
    "d2": ("correction=d2", "algo.lazy=true", "tau=1"),
    "topk": ("codec=topk",),
    "bf16": ("codec=bf16",),
    "fragments": ("fragments=columns", "fragments.count=2"),
    "delay=1": ("delay=1",),
    "delay=tau": ("delay=tau",),
    "merge": ("merge=0.5", "delay=1"),
    "cta": ("order=cta",),
    "average": ("buffers=average", "optim=adam"),
    "tau moves": ("period=post_local", "period.switch=8"),
}
OVER = {"J": "pasgd", "W": "dpsgd"}
LOTS = 1000


def taken(*words: str) -> bool:
    """Do these words make a run, and are they all heeded?"""
    said = [word for word in words if not word.startswith("tau=")]
    tau = "tau=1" if "tau=1" in words else "tau=4"
    try:
        checked = compose_config(["task=quadratic", "workers=8", "steps=32", tau, *dict.fromkeys(said)])
    except ConfigError:
        return False
    keys = {word.partition("=")[0] for word in words}
    return not any(note.partition(":")[0] in keys - {"tau"} and note.endswith("; ignored") for note in checked.notes)


def of_algorithm(algo: str) -> str:
    """The row of an algorithm."""
    cells = ["•" if taken(f"algo={algo}", *words) else "" for words in CHOICES.values()]
    return f"| `{algo}` | {' | '.join(cells)} |"


def together(one: str, other: str) -> str:
    """Over which W two choices combine: J, where all average, and W, a fixed graph."""
    groups = [{word.partition("=")[0] for word in CHOICES[name]} for name in (one, other)]
    if groups[0] & groups[1] - {"algo.lazy", "tau"}:
        return "–"  # one group, of which a run has one choice
    return " ".join(name for name, algo in OVER.items() if taken(f"algo={algo}", *CHOICES[one], *CHOICES[other]))


def of_choice(one: str) -> str:
    """The row of a choice: those before it have had their cell."""
    names = list(CHOICES)
    cells = ["" if names.index(other) <= names.index(one) else together(one, other) for other in names[1:]]
    return f"| {one} | {' | '.join(cells)} |"


def share() -> str:
    """How many of so many combinations drawn by lot are taken."""
    found = sum(taken(*lots.drawn(number, 0)) for number in range(LOTS))
    return f"Of {LOTS} combinations drawn so {found} are taken, {found / LOTS:.0%}; the others are refused in a line."


def head(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


INTRODUCTION = """Made by `python scripts/combinations.py`, which asks the code; a test holds the rows equal to what it says.
What is not taken is refused before a run, in a line that says why: try `coopsgd show` with the words. Else τ = 4, 8 workers on
a ring. The columns:"""
OTHERS = """An algorithm that is not here goes as that whose W and rule it has: presets of an outer step as `pasgd` or `fedavg`,
and so on."""
PAIRS = """J: with `pasgd`, where all average; W: with `dpsgd`, a fixed graph. –: two choices of one key."""
BY_LOT = """An algorithm of nine, a delay, an inner optimiser, and two or three axes with any of their choices
(`tests/lots.py`): many ask for what mathematics does not have, as a lossy codec where W moves."""
RUN = "A hundred that are taken are run on two placements by the tests, and agree."


def page() -> str:
    """All of it."""
    cells = [together(*pair) for pair in combinations(CHOICES, 2)]
    counts = {name: sum(name in cell.split() for cell in cells) for name in OVER}
    possible = sum(cell != "–" for cell in cells)
    meant = "; ".join(f"*{name}*, `{' '.join(words)}`" for name, words in CHOICES.items())
    counted = f"Of {possible} pairs {counts['J']} combine under J and {counts['W']} under W."
    return "\n".join(
        [
            *("# What combines with what", ""),
            *(*text(f"{INTRODUCTION} {meant}."), ""),
            *("## With an algorithm", ""),
            *(*head("`algo=`", *CHOICES), *map(of_algorithm, ALGOS), ""),
            *(*text(OTHERS), ""),
            *("## Two at a time", ""),
            *(*text(f"{PAIRS} {counted}"), ""),
            *(*head("", *list(CHOICES)[1:]), *map(of_choice, list(CHOICES)[:-1]), ""),
            *("## By lot", ""),
            *(*text(f"{BY_LOT} {share()} {RUN}"), ""),
        ]
    )


def text(said: str) -> Sequence[str]:
    return textwrap.wrap(" ".join(said.split()), 160, break_on_hyphens=False, break_long_words=False)


if __name__ == "__main__":
    PAGE.write_text(page())
