"""Verb and flags of a command line: sorted from the overrides wherever they stand, or refused with what may have been meant."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coopsgd.errors import ConfigError
from coopsgd.registry import did_you_mean, like
from coopsgd.setup.suggestions import brief, choices_named, nearest

# The flags of train by their long name: short name, and how many values follow (None: one of INFOS, or none)
FLAGS: dict[str, tuple[str, int | None]] = {
    "--help": ("-h", 0),
    "--hydra-help": ("", 0),
    "--version": ("", 0),
    "--cfg": ("-c", 1),
    "--resolve": ("", 0),
    "--package": ("-p", 1),
    "--run": ("-r", 0),
    "--multirun": ("-m", 0),
    "--shell-completion": ("-sc", 0),
    "--config-path": ("-cp", 1),
    "--config-name": ("-cn", 1),
    "--config-dir": ("-cd", 1),
    "--info": ("-i", None),
    "--trust": ("", 0),  # ours: the config of --config-path is one's own
    "--changed-source": ("", 0),  # ours: a run may go on by resume=auto with other code of the user's
    "--quiet": ("-q", 0),  # ours: print nothing but the folder and what went wrong
}
INFOS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
VALUES = {"--cfg": ("job", "hydra", "all"), "--info": INFOS}


@dataclass
class Line:
    """A command line, sorted."""

    flags: dict[str, str] = field(default_factory=dict)  # by long name; '' for one that takes no value
    words: list[str] = field(default_factory=list)

    @property
    def argv(self) -> list[str]:
        """For argparse, which loses words on the far side of a flag: flags first."""
        return [part for flag, value in self.flags.items() for part in ([flag, value] if value else [flag])] + self.words


def sort(words: Sequence[str]) -> Line:
    """Hydra's flags, wherever they stand, and the words between them. ConfigError for one that Hydra does not have."""
    line, rest = Line(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            continue
        if not word.startswith("-"):
            line.words.append(word)
            continue
        given, joined, value = word.partition("=")
        flag = long_name(given)
        if flag is None:
            raise ConfigError(_no_flag(word, rest))
        takes = FLAGS[flag][1]
        if takes == 0 and joined:
            raise ConfigError(f"{brief(word)}: {given} takes no value; write {given}")
        follows = bool(rest) and not rest[0].startswith("-") and (takes == 1 or (takes is None and "=" not in rest[0]))
        if follows and not joined:
            value = rest.pop(0)
        if takes == 1 and not value:
            raise ConfigError(f"{given}: needs a value behind it, as in {given} {VALUES.get(flag, (_example(flag),))[0]}")
        if value and flag in VALUES and value not in VALUES[flag]:
            raise ConfigError(f"{given}: must be one of {', '.join(VALUES[flag])}, got {brief(value)!r}")
        if value != line.flags.setdefault(flag, value):
            raise ConfigError(f"{given}: given twice, as {brief(line.flags[flag])!r} and {brief(value)!r}; give one")
    return line


def _example(flag: str) -> str:
    return {"--config-dir": "FOLDER", "--config-path": "FOLDER", "--config-name": "config"}.get(flag, "NAME")


def long_name(given: str) -> str | None:
    """The long name of a flag that is written long, short, or long and cut short."""
    for flag, (short, _) in FLAGS.items():
        if given and given in (flag, short):
            return flag
    found = [flag for flag in FLAGS if len(given) > 3 and flag.startswith(given)]
    return found[0] if len(found) == 1 else None


def _no_flag(word: str, rest: Sequence[str], known: Sequence[str] = tuple(FLAGS)) -> str:
    """Of a flag that is none: keys have no dashes."""
    given, joined, value = word.partition("=")
    name = given.lstrip("-").replace("-", "_")
    if not joined and rest and "=" not in rest[0] and not rest[0].startswith("-"):
        word, value = f"{word} {rest[0]}", rest[0]
    if keys := nearest(name):
        ways = " or ".join(f"{key}={value or 'VALUE'}" for key in keys)
        return f"{brief(word)}: keys are written without dashes; write {brief(ways)}"
    close = did_you_mean(given, list(known))
    return f"{brief(word)}: is no option here{close or '; words are KEY=VALUE, as in tau=4, `coopsgd train --help` lists them'}"


def refuse_flags(words: Sequence[str], verb: str, options: Sequence[str] = ()) -> None:
    """ConfigError when words of a verb that has `options` and not Hydra's flags begin with a dash."""
    for at, word in enumerate(words):
        if not word.startswith("-"):
            continue
        given = word.partition("=")[0]
        if long_name(given) in ("--multirun", "--config-path", "--config-name", "--cfg", "--info", "--resolve", "--package"):
            raise ConfigError(f"{given}: is no option here, `coopsgd {verb}` has none of train's; leave it out")
        raise ConfigError(_no_flag(word, words[at + 1 :], options))


# what other programs call our verbs
VERBS = {
    **dict.fromkeys(("run", "start", "fit", "sweep", "launch", "go", "resume"), "train"),
    **dict.fromkeys(("theory", "predict", "bound", "plot", "overlay"), "analyze"),
    **dict.fromkeys(("info", "describe", "print", "spectrum"), "show"),
    **dict.fromkeys(("measure", "benchmark"), "probe"),
    **dict.fromkeys(("choose", "recommend", "search"), "design"),
    **dict.fromkeys(("ls", "choices", "algorithms"), "list"),
    "help": "--help",
    "version": "--version",
}


def verb_at(args: Sequence[str], verbs: Iterable[str]) -> int | None:
    """Where the verb stands behind flags and their values; None when there is none."""
    takes = {name for flag, (short, many) in FLAGS.items() if many == 1 for name in (flag, short)}
    at = 0
    while at < len(args):
        if args[at] in verbs:
            return at
        at += 2 if args[at] in takes else 1
    return None


def no_verb(args: Sequence[str], verbs: Sequence[str]) -> str:
    """What to say of a command line that does not begin with a verb."""
    word = args[0]
    shown = brief(word)
    if word.startswith("-") or "=" in word:
        return f"{shown}: the verb comes first, as in coopsgd train {brief(shlex.join(args))}"
    verb = VERBS.get(word.lower()) or next((verb for verb in verbs if like(verb) == like(word)), None)
    if verb is None and not (close := did_you_mean(word, list(verbs))):
        if meant := choices_named(word):
            return f"{shown}: is no verb; did you mean coopsgd train {meant[0]}?"
        return f"{shown}: is no verb; there are {', '.join(verbs)}, `coopsgd --help` says what they do"
    return f"{shown}: is no verb" + (f"; did you mean coopsgd {verb}?" if verb else close.replace("mean ", "mean coopsgd "))
