"""The words of a command line, before Hydra's parser sees them: flags sorted from overrides, overrides mended or refused.

Hydra's grammar is for its own syntax (`tau=1,4`, `range(3)`, `'quoted text'`) and complains in its own terms. Here each word is
looked at by itself: what can only be meant as text is quoted, a whole number may be written 1e3, and what is left over is
refused in a line that names the key and the way out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import grammar_parser
from omegaconf.errors import OmegaConfBaseException

from coopsgd.errors import ConfigError
from coopsgd.registry import like
from coopsgd.setup import again, catalogue
from coopsgd.setup.flags import long_name
from coopsgd.setup.schema import GROUPS, KEYS, Config
from coopsgd.setup.suggestions import brief, choices_named, example, nearest, unknown_key

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"  # what editors and web pages make of a hyphen
LOOKALIKES = str.maketrans(
    {"，": ",", "、": ",", "＝": "=", "：": ":", "［": "[", "］": "]", "．": ".", "＋": "+"} | dict.fromkeys(DASHES, "-")
)
NULLABLE = {f.name for f in fields(Config) if f.default is None}
WHOLE = {f.name for f in fields(Config) if str(f.type) == "int"}
# keys whose value is text, whatever is in it
TEXT = ("name", "data.file", "data.path", "model.path", "model.arch", "cluster.file", "hydra.run.dir", "hydra.sweep.dir")


def mended(words: Sequence[str], verb: str = "train", sweeping: bool = False) -> tuple[list[str], list[str]]:
    """Overrides that Hydra reads as they are meant, and notes on them. ConfigError for a word that means nothing.

    verb: for messages; sweeping: may a word have several values? Words that are mended already stay as they are.
    """
    found: dict[str, str] = {}
    notes = []
    for at, word in enumerate(words):
        key, read = _mended(words, at, verb, sweeping)
        if key in found and found[key] != read:
            notes.append(f"{key}: given twice; the last one, {brief(word)}, is used")
        found.pop(key, None)
        found[key] = read
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
        meant = next((dash + rest for dash in ("-", "--") if long_name((dash + rest).partition("=")[0])), rest)
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
            raise ConfigError(f"{where}: null is no choice; name one, as in {where}={example(where)}, or leave the word out")
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
    if plain in again.HELP:
        raise ConfigError(f"{plain}: is a word of coopsgd train, for its folder; leave it out")
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
        names = [choice.name for choice in catalogue.choices(group)]
        written = f"{group}={value}" if value in names else f"{group}=NAME (coopsgd list {group} says which)"
        own = "" if group == "algo" else f", or {group}.name=MODULE:CLASS for a class of your own"
        raise ConfigError(f"{key}: is set by the choice of {group}; write {written}{own}; got {brief(value)}")


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
        ways = " or ".join(f"{key}={example(key)}" for key in keys)
        return f"{shown}: has no value; write KEY=VALUE, as in {ways}"
    if meant := choices_named(word):
        return f"{shown}: words are KEY=VALUE; did you mean {' or '.join(meant)}?"
    keys = nearest(word)
    return f"{shown}: words are KEY=VALUE, as in tau=4" + (f"; did you mean {keys[0]}={example(keys[0])}?" if keys else "")


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
    before = parts[0].rstrip(", ")
    return (
        f"{key}: {brief(parts[0])} ends in a comma; words are separated by spaces alone: {brief(f'{before} {follow}'.strip())}"
    )


def _parsed(word: str) -> Override | None:
    """As Hydra reads it; None when it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, OmegaConfBaseException, RecursionError, ValueError):
        return None


def quoted(text: str) -> str:
    """Text as one value of Hydra's grammar."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def as_written(word: str) -> str:
    """A word of `mended` as a person would write it: without the quotes that it puts around text."""
    key, _, value = word.partition("=")
    read = _parsed(word)
    text = read.value() if read is not None and value[:1] == "'" else None
    if isinstance(text, str | QuotedString):
        bare = f"{key}={text if isinstance(text, str) else text.text}"
        with contextlib.suppress(ConfigError):
            if mended([bare], "train")[0] == [word]:
                return bare
    return word


def _readable(where: str, key: str, value: str, words: Sequence[str], at: int, sweeping: bool, verb: str) -> str:
    """A value that Hydra's grammar reads as it is meant."""
    text = where in TEXT
    if where in WHOLE:
        value = _whole(value)
    read = _parsed(f"{key}={value}")
    if "${" in value:
        _refuse_interpolation(where, value)
        if where in catalogue.ABOUT:
            raise ConfigError(f"{where}: is chosen by one name, as in {where}={example(where)}, got {brief(value)!r}")
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
        raise ConfigError(f"{where}: is chosen by one name, as in {where}={example(where)}, got {brief(value)!r}")
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
    way = f"write it as in {key}={'[1,2]' if closing == ']' else '{a: 1}'}"
    quotes = "text within it in double quotes, all of it in single quotes for the shell"
    return f"{key}: the {kind} {brief(value)} cannot be read; {way}, {quotes}"


NUMBER = re.compile(r"(?<![\w.+-])[+]?(\d[\d_]*(?:\.\d*)?(?:[eE]\+?\d{1,2})?)(?![\w.])")


def _whole(value: str) -> str:
    """1e3, 1000.0 and 1_000 as 1000, in every place of a value where they are whole numbers."""

    def plain(found: re.Match[str]) -> str:
        number = float(found[1].replace("_", ""))
        return str(int(number)) if number.is_integer() and number < 2**53 and not found[1].isdigit() else found[0]

    return NUMBER.sub(plain, value)
