"""What can be chosen and set: groups with their choices, the keys of a choice, the keys of the run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, asdict
from typing import Any

from coopsgd.errors import ConfigError
from coopsgd.registry import did_you_mean
from coopsgd.setup import catalogue
from coopsgd.setup.catalogue import ABOUT, EXPERIMENTS, RUN, Choice, Option
from coopsgd.setup.schema import AXES
from coopsgd.setup.suggestions import brief, choices_named, nearest, nested

WIDTH, NAMES = 79, 12  # of the lines of `coopsgd list`, and of their first column


def show(wanted: str | None, as_json: bool, config_dir: str | None = None, verbose: bool = False) -> None:
    """Print what `wanted` stands for: a group, GROUP=NAME, `run`, or a key; without it every choice of every group.

    verbose: without GROUP=NAME, a line on each choice and its paper. ConfigError when it is none of these.
    """
    group, equal, name = (wanted or "").partition("=")
    if equal:
        _show_choice(group, name, as_json, config_dir)
    elif wanted is None or wanted in ABOUT:
        _show_groups([one for one in ABOUT if wanted in (None, one)], wanted is not None, as_json, config_dir, verbose)
    elif wanted == RUN:
        _show_keys({RUN: catalogue.run_options()}, as_json, "keys of the run itself, set as in workers=8:")
    else:
        _show_keys(_having(wanted, config_dir), as_json)


def one_of(words: Sequence[str]) -> str | None:
    """The word that is asked for. ConfigError for several."""
    if len(words) > 1:
        way = f"{words[0]}={words[1]}" if words[0] in ABOUT and "=" not in words[1] else words[0]
        raise ConfigError(f"{brief(' '.join(words))}: one at a time, as in coopsgd list {brief(way)}")
    return words[0] if words else None


def known_words(config_dir: str | None = None) -> list[str]:
    """All that can be asked for: for completion."""
    chosen = [f"{group}={choice.name}" for group in ABOUT for choice in catalogue.choices(group, config_dir)]
    below = [key for keys in nested(config_dir).values() for key in keys]
    return [*ABOUT, RUN, *chosen, *(option.key for option in catalogue.run_options()), *below]


def _choices(group: str, config_dir: str | None) -> list[Choice]:
    """Those with a yaml, then those that packages register and no yaml names yet."""
    found = catalogue.choices(group, config_dir)
    return found + [one for one in catalogue.registered(group) if one.name not in {choice.name for choice in found}]


def _facts(option: Option) -> dict[str, Any]:
    """A key for a program; one that must be given has no default."""
    found = {"key": option.full_key, "type": option.type, "unit": option.unit, "help": option.help}
    return found if option.value is MISSING else {**found, "default": option.value}


def _described(choice: Choice, with_keys: bool, config_dir: str | None) -> dict[str, Any]:
    """A choice for a program. Nothing of a user's own is imported."""
    if not with_keys or choice.group == EXPERIMENTS:
        return asdict(choice)
    return {
        **asdict(choice),
        "keys": [_facts(one) for one in catalogue.options(choice.group, choice.name, config_dir)],
    }


def _print_json(found: Any) -> None:
    print(json.dumps(found, indent=2, default=str))


def _show_groups(groups: list[str], alone: bool, as_json: bool, config_dir: str | None, verbose: bool) -> None:
    found = {group: _choices(group, config_dir) for group in groups}
    if as_json:
        return _print_json({group: [_described(choice, alone, config_dir) for choice in some] for group, some in found.items()})
    if not (alone or verbose):
        return _show_names(found)
    for group, some in found.items():
        width = max(len(choice.name) for choice in some)
        print(f"{group}: {ABOUT[group]}")
        for choice in some:
            print(f"  {choice.name:{width}}  {choice.about}".rstrip())
            if verbose and choice.paper:
                print(f"  {'':{width}}  paper: {choice.paper}")
        if alone:
            print(f"  keys of one: coopsgd list {group}={some[0].name}" + (", or MODULE:CLASS" if group != EXPERIMENTS else ""))
        else:
            print()
    if not alone:
        print("keys of a choice: coopsgd list GROUP=NAME; of the run itself: coopsgd list run; one: coopsgd list KEY")


def _show_names(found: dict[str, list[Choice]]) -> None:
    """Groups and the names of their choices, on a screen: of 24 lines."""
    for group, some in found.items():
        if group == EXPERIMENTS:
            continue
        default, more = catalogue.default(group), 0
        if group == "algo":  # those that stand for another with axes are on a list of their own
            plain = [choice for choice in some if not _of_axes(choice)]
            some, more = plain, len(some) - len(plain)
        elif group in AXES:  # and presets of an axis
            some = [choice for choice in some if not _is_preset(choice)]
        names = " ".join(f"[{choice.name}]" if choice.name == default else choice.name for choice in some)
        names += f", and {more} with axes: coopsgd list algo" * bool(more)
        lines = textwrap.wrap(names, WIDTH - NAMES, break_long_words=False, break_on_hyphens=False)
        print("\n".join(f"{at:{NAMES}}{line}" for at, line in zip([group] + [""] * len(lines), lines, strict=False)))
    print(f"{EXPERIMENTS:{NAMES}}{len(found[EXPERIMENTS])} sweeps.  coopsgd list GROUP, GROUP=NAME, KEY, run; -v: papers")


def _is_preset(choice: Choice) -> bool:
    """Is a choice another one with some keys set?"""
    try:
        return catalogue.settings(choice.group, choice.name).get("name", choice.name) not in (choice.name, None)
    except KeyError:
        return False


def _of_axes(choice: Choice) -> bool:
    """Does an algorithm bring choices of other groups, axes or an optimiser? Of a user's own nothing is read."""
    try:
        return bool(catalogue.choices_of(choice.group, choice.name))
    except KeyError:
        return False


def _show_choice(group: str, name: str, as_json: bool, config_dir: str | None) -> None:
    if group not in ABOUT:
        raise ConfigError(f"{brief(group)}: is no group{did_you_mean(group, ABOUT)}; known: {', '.join(ABOUT)}")
    known = {choice.name: choice for choice in _choices(group, config_dir)}
    if name not in known and ":" not in name:
        raise ConfigError(f"{group}: no {brief(name)!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    choice = known.get(name, Choice(group, name, "", ""))
    found = [] if group == EXPERIMENTS else catalogue.options(group, name, config_dir, importing=True)
    sets: dict[str, Any] = {}
    if group == EXPERIMENTS:
        sets = {"chooses": catalogue.choices_of(group, name, config_dir), "sets": catalogue.settings(group, name, config_dir)}
    if as_json:
        return _print_json({**asdict(choice), "keys": [_facts(option) for option in found], **sets})
    print(f"{group}={name}: {choice.about}".rstrip(": "))
    if choice.paper:
        print(f"  paper: {choice.paper}")
    for what, values in sets.items():
        print(f"  {what}: {json.dumps(values)}")
    for line in catalogue.table(found) if found else () if group == EXPERIMENTS else ("  it has no keys",):
        print(line)


def _show_keys(found: dict[str, list[Option]], as_json: bool, head: str = "") -> None:
    """Of each GROUP=NAME, or of the run, these keys."""
    if as_json:
        return _print_json({of: [_facts(option) for option in some] for of, some in found.items()})
    for of, some in found.items():
        print(head or ("a key of the run:" if of == RUN else f"of {of}:"))
        for line in catalogue.table(some):
            print(line)


def _having(wanted: str, config_dir: str | None) -> dict[str, list[Option]]:
    """The choices that have this key, GROUP.KEY or KEY alone, each with it."""
    found: dict[str, list[Option]] = {}
    if here := [option for option in catalogue.run_options() if option.key == wanted]:
        found[RUN] = here
    for group in catalogue.GROUPS if not here else ():
        for choice in catalogue.choices(group, config_dir):
            some = [
                option
                for option in catalogue.options(group, choice.name, config_dir, importing=True)
                if option.group and wanted in (option.key, option.full_key)
            ]
            if some:
                found[f"{group}={choice.name}"] = some
    if not found:
        near = (nearest(wanted) or choices_named(wanted.rpartition(".")[2])) if wanted else []
        meant = f"; did you mean {' or '.join(near)}?" if near else did_you_mean(wanted, (*ABOUT, RUN))
        raise ConfigError(f"{brief(wanted)}: is no group and no key{meant}; groups: {', '.join(ABOUT)}, and run")
    return found
