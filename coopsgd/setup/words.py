"""The words of a command line, before Hydra's parser sees them: flags sorted from overrides, overrides mended or refused.

Hydra's grammar is for its own syntax (`tau=1,4`, `range(3)`, `'quoted text'`) and complains in its own terms. Here each word is
looked at by itself: what can only be meant as text is quoted, a whole number may be written 1e3, and what is left over is
refused in a line that names the key and the way out.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import grammar_parser
from omegaconf.errors import OmegaConfBaseException

from coopsgd.errors import ConfigError
from coopsgd.registry import did_you_mean, like
from coopsgd.setup import catalogue
from coopsgd.setup.schema import GROUPS, Config

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
}
INFOS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
VALUES = {"--cfg": ("job", "hydra", "all"), "--info": INFOS}
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"  # what editors and web pages make of a hyphen
LOOKALIKES = str.maketrans(
    {"，": ",", "、": ",", "＝": "=", "：": ":", "［": "[", "］": "]", "．": ".", "＋": "+"} | dict.fromkeys(DASHES, "-")
)
KEYS = [f.name for f in fields(Config)]
NULLABLE = {f.name for f in fields(Config) if f.default is None}
WHOLE = {f.name for f in fields(Config) if str(f.type) == "int"}
# keys whose value is text, whatever is in it
TEXT = ("name", "data.file", "data.path", "model.path", "model.arch", "cluster.file", "hydra.run.dir", "hydra.sweep.dir")
# what other programs call it
ALIASES = {
    "learning_rate": ("optim.lr",),
    "eta": ("optim.lr",),
    "optimizer": ("optim",),
    "optimiser": ("optim",),
    "algorithm": ("algo",),
    "strategy": ("algo",),
    "method": ("algo",),
    "dataset": ("data",),
    "network": ("model", "cluster"),
    "arch": ("model",),
    "graph": ("topology",),
    "scheduler": ("schedule",),
    "m": ("workers",),
    "n": ("workers",),
    "nodes": ("workers",),
    "clients": ("workers",),
    "num_workers": ("workers",),
    "bs": ("batch_size",),
    "iterations": ("steps",),
    "iters": ("steps",),
    "max_steps": ("steps",),
    "local_steps": ("tau",),
    "output": ("hydra.run.dir",),
    "output_dir": ("hydra.run.dir",),
    "out": ("hydra.run.dir",),
    "gpus": ("device",),
    "precision": ("dtype", "amp"),
}


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
        flag = _flag(given)
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


def _flag(given: str) -> str | None:
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
        if _flag(given) in ("--multirun", "--config-path", "--config-name", "--cfg", "--info", "--resolve", "--package"):
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


def brief(text: str, most: int = 80) -> str:
    """Text as a message can hold it: on one line, printable, cut when long."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def nested(config_dir: str | None = None) -> dict[str, list[str]]:
    """Every key below a group, GROUP.KEY, by the name of the key: what its choices have."""
    found: dict[str, list[str]] = {}
    for group in GROUPS:
        choices = catalogue.choices(group, config_dir)
        names = {option.key for choice in choices for option in catalogue.options(group, choice.name, config_dir)}
        for name in names - set(KEYS):
            found.setdefault(name, []).append(f"{group}.{name}")
    return found


def nearest(name: str) -> list[str]:
    """Keys that may be meant by one that is none, whatever its case: of the same name below a group, else the most alike."""
    plain = like(name.rpartition(".")[2])
    below = nested()
    for key in (*KEYS, "experiment"):
        if like(key) == plain:
            return [key]
    for alias, keys in ALIASES.items():
        if like(alias) == plain:
            return list(keys)
    for key, where in below.items():
        if like(key) == plain:
            return where
    from difflib import get_close_matches

    by_plain = {like(key): where for key, where in below.items()} | {like(key): [key] for key in KEYS}
    close = get_close_matches(plain, list(by_plain), n=1, cutoff=0.78)
    return by_plain[close[0]] if close else []


def unknown_key(key: str) -> str:
    """What to say of a key that is none."""
    group, _, rest = key.partition(".")
    keys = [f"{close}.{rest}" for close in nearest(group) if close in GROUPS] if rest else []
    keys = keys or nearest(key)
    meant = f"; did you mean {' or '.join(keys)}?" if keys else ""
    return f"no key named {brief(key)!r}{meant}; `coopsgd train --help` lists them"


def choices_named(name: str) -> list[str]:
    """GROUP=NAME of every choice of that name, whatever its case; else of the one most alike."""
    from difflib import get_close_matches

    table: dict[str, list[str]] = {}
    for group in catalogue.ABOUT:
        for choice in catalogue.choices(group):
            table.setdefault(like(choice.name), []).append(f"{group}={choice.name}")
    if like(name) in table:
        return table[like(name)]
    close = get_close_matches(like(name), list(table), n=1, cutoff=0.75)
    return table[close[0]] if close else []


def mended(words: Sequence[str], verb: str = "train", sweeping: bool = False) -> tuple[list[str], list[str]]:
    """Overrides that Hydra reads as they are meant, and notes on them. ConfigError for a word that means nothing.

    verb: for messages; sweeping: may a word have several values? Words that are mended already stay as they are.
    """
    found: dict[str, str] = {}
    notes = []
    for at, word in enumerate(words):
        key, told = _mended(words, at, verb, sweeping)
        if key in found and found[key] != told:
            notes.append(f"{key}: given twice; the last one, {brief(word)}, is used")
        found.pop(key, None)
        found[key] = told
    return [word for word in found.values() if word], notes


def _mended(words: Sequence[str], at: int, verb: str, sweeping: bool) -> tuple[str, str]:
    """One word's key, and the word as Hydra reads it."""
    word, after = words[at], words[at + 1] if at + 1 < len(words) else ""
    if not word.strip():
        raise ConfigError(
            "an empty word stands among the words; leave it out, or quote the variable it comes from as part of a word"
        )
    if word[0] in DASHES:
        rest = word.lstrip(DASHES + "-")
        meant = next((dash + rest for dash in ("-", "--") if _flag((dash + rest).partition("=")[0])), rest)
        raise ConfigError(f"{brief(word)}: begins with {word[0]!r}, which is no hyphen; write {brief(meant)}")
    sign, plain = re.fullmatch(r"(\+\+|\+|~)?(.*)", word.lstrip(), re.DOTALL).groups()  # type: ignore[union-attr]
    if "=" not in plain:
        if sign == "~" and re.fullmatch(r"[A-Za-z_][\w.@/]*", plain):
            _refuse_unknown(plain)
            return plain, word
        raise ConfigError(_no_equal(words, at, verb))
    key, _, value = plain.partition("=")
    key, value = key.strip(), value.strip(" ")
    if not key:
        before = words[at - 1] if at else ""
        if before and "=" not in before:
            raise ConfigError(_spaced(before, value or after))
        raise ConfigError(f"{brief(word)}: there is no key before =; write KEY=VALUE, as in tau={brief(value) or 4}")
    where = _refuse_unknown(key)
    if where.startswith("hydra") and where not in TEXT:
        return key, word
    if any("\ud800" <= c <= "\udfff" for c in word):
        raise ConfigError(
            f"{where}: {brief(value)!r} has bytes that are no UTF-8; write it in the terminal's own encoding, UTF-8"
        )
    text = where in TEXT
    if not value and not text:
        if after and "=" not in after and not after.startswith("-"):
            raise ConfigError(_spaced(key, after))
        raise ConfigError(f"{where}: has no value; write {where}=VALUE, or leave the word out")
    if value.startswith("=") and not text:
        raise ConfigError(f"{brief(word)}: one = is enough; write {where}={brief(value.lstrip('= '))}")
    if value.endswith(",") and not text:
        raise ConfigError(_comma(words, at, sweeping))
    _refuse_group_name(where, value)
    if where in catalogue.ABOUT and value.lower() == "null":
        if where not in ("cluster", catalogue.EXPERIMENTS) or any("experiment=" in other for other in words if other != word):
            raise ConfigError(f"{where}: null is no choice; name one, as in {where}={_usual(where)}, or leave the word out")
        return key, ""  # there is none unless one is named
    if value == "???" or (value.lower() == "null" and where in KEYS and where not in (*NULLABLE, *GROUPS, *TEXT)):
        default = Config.__dataclass_fields__[where].default if where in KEYS and where not in GROUPS else None
        usual = "" if default is None else f", {default}"
        raise ConfigError(f"{where}: {value} is no value; leave the word out for what is usual{usual}")
    value = _readable(where, key, value, words, at, sweeping, verb)
    if sign == "+":
        sign = "+" if where.startswith("hydra") else ""  # what is there already cannot be appended, and all keys are
    return key, f"{sign or ''}{key}={value}"


def _refuse_unknown(key: str) -> str:
    """The key without its package. ConfigError when the config has no such key."""
    plain = key.partition("@")[0]
    top = re.split(r"[./]", plain)[0]
    if top not in (*KEYS, "hydra", catalogue.EXPERIMENTS) or not re.fullmatch(r"[\w./:-]+", plain, re.ASCII):
        raise ConfigError(unknown_key(plain))
    if "." in plain and top not in (*GROUPS, "hydra"):
        raise ConfigError(f"no key named {brief(plain)!r}: {top} has no keys below it; write {top}=VALUE")
    return plain


def _refuse_group_name(key: str, value: str) -> None:
    """A group is chosen by its name; its `name` key would leave the other keys of the choice before in place."""
    group, _, rest = key.partition(".")
    if group in GROUPS and rest == "name" and (group == "algo" or ":" not in value):
        if group == "optim":
            from coopsgd.setup.build import refuse_unstackable

            refuse_unstackable(value)
        own = "" if group == "algo" else f", or {group}.name=MODULE:CLASS for a class of your own"
        raise ConfigError(f"{key}: is set by the choice of {group}; write {group}={brief(value)}{own}")


def _no_equal(words: Sequence[str], at: int, verb: str) -> str:
    """What to say of a word that is no KEY=VALUE."""
    word, before, after = words[at], words[at - 1] if at else "", words[at + 1] if at + 1 < len(words) else ""
    shown = brief(word)
    if before.endswith((",", "[", "{")) and "=" in before:
        return _comma(words, at - 1, False)
    if after.startswith("="):
        return _spaced(word, after.lstrip("= ") or (words[at + 2] if at + 2 < len(words) else ""))
    straight = word.translate(LOOKALIKES)
    key, sign, value = straight.partition("=") if "=" in straight else straight.partition(":")
    if sign and (key in KEYS or key.partition(".")[0] in GROUPS):
        return f"{shown}: a key and its value are joined by '=' alone; write {brief(f'{key}={value}'.strip())}"
    if at == 0 and word == verb:
        return f"{shown}: the verb stands there twice; write coopsgd {verb} KEY=VALUE ..."
    if word.startswith("@"):
        return f"{shown}: words are not read from files; a yaml of your own goes into --config-dir FOLDER"
    if os.sep in word or os.path.exists(word):
        return _path(word, verb)
    if (
        word in KEYS
        or word in catalogue.ABOUT
        or (word.partition(".")[0] in GROUPS and re.fullmatch(r"[\w.]+", word))
        or (nearest(word) and like(nearest(word)[0].rpartition(".")[2]) == like(word))
    ):
        keys = [word] if word in KEYS or word.partition(".")[0] in GROUPS else nearest(word) or [word]
        if after and "=" not in after and not after.startswith("-"):
            return f"{shown} {brief(after)}: a key and its value are joined by '='; write {keys[0]}={brief(after)}"
        ways = " or ".join(f"{key}={_usual(key)}" for key in keys)
        return f"{shown}: has no value; write KEY=VALUE, as in {ways}"
    if meant := choices_named(word):
        return f"{shown}: words are KEY=VALUE; did you mean {' or '.join(meant)}?"
    keys = nearest(word)
    return f"{shown}: words are KEY=VALUE, as in tau=4" + (f"; did you mean {keys[0]}={_usual(keys[0])}?" if keys else "")


def _usual(key: str) -> str:
    known = {
        "algo": "easgd",
        "experiment": "alpha",
        "cluster": "ethernet_1g",
        "tau": "10",
        "steps": "1000",
        "hydra.run.dir": "FOLDER",
    }
    return known.get(key, catalogue.choices(key)[0].name if key in GROUPS else "VALUE")


def _path(word: str, verb: str) -> str:
    shown = brief(word)
    if verb == "analyze":
        return f"{shown}: words are KEY=VALUE; run folders go behind --over: coopsgd analyze --over {brief(shlex.quote(word))}"
    if word.endswith((".yaml", ".yml")):
        return f"{shown}: words are KEY=VALUE; a yaml of your own goes into FOLDER/algo, as in --config-dir FOLDER algo=NAME"
    again = f"coopsgd train --config-path {brief(shlex.quote(word))} --config-name config"
    return f"{shown}: words are KEY=VALUE; `{again}` repeats the run in a folder, `coopsgd analyze --over` reads it"


def _spaced(key: str, value: str) -> str:
    key, value = brief(key.strip().rstrip("=")), brief(value.strip().rstrip(","))
    if value and not re.fullmatch(r"[\w./:,+-]+", value):
        return f"{key}: no space may stand around =; write {key}=VALUE, in quotes if the shell would take it apart"
    return f"{key} = {value}: no space may stand around =; write {key}={value or 'VALUE'}"


def _comma(words: Sequence[str], at: int, sweeping: bool) -> str:
    """Of a comma and a space, at which the shell has split."""
    parts = [words[at]]
    while parts[-1].endswith((",", "[", "{")) and at + len(parts) < len(words) and "=" not in words[at + len(parts)]:
        parts.append(words[at + len(parts)])
    key = words[at].partition("=")[0].lstrip("+~").strip()
    if len(parts) > 1:
        joined = "".join(parts).rstrip(",")
        plain = re.fullmatch(r"[a-zA-Z0-9_.=,+:-]+", joined)
        return f"{key}: a space ends a word; write {brief(joined if plain else shlex.quote(joined))}"
    follow = words[at + 1] if at + 1 < len(words) else ""
    told = parts[0].rstrip(", ")
    return f"{key}: {brief(parts[0])} ends in a comma; words are separated by spaces alone: {brief(f'{told} {follow}'.strip())}"


def _parsed(word: str) -> Override | None:
    """As Hydra reads it; None when it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, OmegaConfBaseException, RecursionError, ValueError):
        return None


def quoted(text: str) -> str:
    """Text as one value of Hydra's grammar."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _readable(where: str, key: str, value: str, words: Sequence[str], at: int, sweeping: bool, verb: str) -> str:
    """A value that Hydra's grammar reads as it is meant."""
    text = where in TEXT
    if where in WHOLE:
        value = _whole(value)
    read = _parsed(f"{key}={value}")
    if "${" in value:
        _refuse_interpolation(where, value)
        if where in catalogue.ABOUT:
            raise ConfigError(f"{where}: is chosen by one name, as in {where}={_usual(where)}, got {brief(value)!r}")
    quotes = len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]
    if read is not None and read.is_sweep_override():
        if sweeping:
            if where in catalogue.ABOUT and re.search(r"(^|[(,])\s*null\s*([,)]|$)", value, re.IGNORECASE):
                raise ConfigError(
                    f"{where}: null is no choice to sweep over, got {brief(value)}; run without {where} by itself"
                )
            endless = read.is_range_sweep() and not read.value().step  # type: ignore[union-attr]  # Python has no such range
            if endless or (read.is_discrete_sweep() and next(iter(read.sweep_string_iterator()), None) is None):
                raise ConfigError(f"{where}: {brief(value)} holds no value to sweep over")
            return value
        if not text:
            raise ConfigError(_several(where, value, verb))
        return quoted(value)
    if read is not None and (quotes or "${" in value):
        return value
    if text:
        return value if value.lower() == "null" and where not in KEYS else quoted(value)
    if where in catalogue.ABOUT and (read is None or not isinstance(read.value(), str | type(None))):
        raise ConfigError(f"{where}: is chosen by one name, as in {where}={_usual(where)}, got {brief(value)!r}")
    if read is not None:
        return value
    opened = {"[": "]", "{": "}", "'": "'", '"': '"'}.get(value[0])
    if opened is not None:
        raise ConfigError(_unread(where, value, words, at, opened))
    if re.match(r"\w+\(", value):
        known = "range(3) and choice(1,4), behind -m"
        raise ConfigError(
            f"{where}: {brief(value)!r} cannot be read; there are {known}, and text: {_for_the_shell(where, value)}"
        )
    straight = unicodedata.normalize("NFKC", value.translate(LOOKALIKES))
    if straight != value and straight.isascii() and re.fullmatch(r"[\w.,:=+\-\[\] ]+", straight):
        odd = next(c for c, d in zip(value, value.translate(LOOKALIKES), strict=True) if c != d or not c.isascii())
        raise ConfigError(f"{where}: {odd!r} in {brief(value)!r} is no plain character; write {where}={brief(straight)}")
    return quoted(value)


def _refuse_interpolation(key: str, value: str) -> None:
    try:
        grammar_parser.parse(value.strip("'\""))
    except Exception:
        way = "take another key's value by ${KEY}, in single quotes for the shell"
        raise ConfigError(f"{key}: {brief(value)!r} opens a ${{ that cannot be read; {way}") from None


def _several(key: str, value: str, verb: str) -> str:
    one = brief(value.split(",")[0])
    as_list = "" if key in GROUPS or not re.fullmatch(r"[^()]*", value) else f"; a list is {key}=[{brief(value)}]"
    if verb == "train":
        return f"{key}: {brief(value)} are several values, a sweep: put -m behind train{as_list}"
    return f"{key}: {brief(value)} are several values, and {verb} looks at one config; give one, as in {key}={one}{as_list}"


def _for_the_shell(key: str, value: str) -> str:
    inner = value.strip("'\"").replace('"', "").replace("'", "")
    return f"'{key}=\"{brief(inner)}\"'"


def _unread(key: str, value: str, words: Sequence[str], at: int, closing: str) -> str:
    kind = {"]": "list", "}": "dictionary"}.get(closing, "quoted text")
    if value[-1] != closing or len(value) == 1:
        rest = [*words[at + 1 :]]
        end = next((n for n, word in enumerate(rest) if word.rstrip().endswith(closing)), None)
        if end is not None and all("=" not in word for word in rest[: end + 1]):
            whole = " ".join([f"{key}={value}", *rest[: end + 1]])
            return f"{key}: a space ends a word; write '{brief(whole)}', in quotes for the shell"
        return f"{key}: the {kind} {brief(value)} is not closed; end it by {closing}, in quotes for the shell"
    if kind == "quoted text":
        return f"{key}: {brief(value)} cannot be read: quotes within it; write {_for_the_shell(key, value)}"
    told = f"write it as in {key}={'[1,2]' if closing == ']' else '{a: 1}'}"
    quotes = "text within it in double quotes, all of it in single quotes for the shell"
    return f"{key}: the {kind} {brief(value)} cannot be read; {told}, {quotes}"


NUMBER = re.compile(r"(?<![\w.+-])[+]?(\d[\d_]*(?:\.\d*)?(?:[eE]\+?\d{1,2})?)(?![\w.])")


def _whole(value: str) -> str:
    """1e3, 1000.0 and 1_000 as 1000, in every place of a value where they are whole numbers."""

    def plain(found: re.Match[str]) -> str:
        number = float(found[1].replace("_", ""))
        return str(int(number)) if number.is_integer() and number < 2**53 and not found[1].isdigit() else found[0]

    return NUMBER.sub(plain, value)
