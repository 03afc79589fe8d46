"""Which of somebody's data is for training and which for testing: what a class's arguments say, or what the user says.

Nothing is taken for anything without a line that says so. `train` (true, false) and `split` (train, test) are filled in where a
class takes them; every other part is named by the user, in data.train={...} and data.test={...}.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coopsgd.data import cache
from coopsgd.registry import imported, is_function

# folders named for a part: train, Training_Set, val2017, images-test
BESIDES = r"(?:data|images?|imgs?|sets?|splits?|folder|part)*"
TRAINING, TESTING = (
    re.compile(f"{BESIDES}(?:{words}){BESIDES}")
    for words in ("train(?:ing)?", "test(?:ing)?|val|valid|validation|eval|evaluation|dev")
)
# arguments that often choose a part, and which nobody but the user can fill in
OTHER = (
    *("train", "split", "is_train", "training", "mode", "subset", "phase", "stage"),
    *("part", "usage", "which", "image_set", "background", "version", "fold", "partition"),
    *("test", "is_test", "testing", "val", "valid", "validation", "eval", "evaluation", "evaluate"),
)
NAMED = "data.train={{{0}}} data.test={{{0}}}"


@dataclass(frozen=True)
class Part:
    """A data set that was made, and what with: `own` is what tells it from the other part."""

    data: Any
    own: str  # "train=true", "" when it was made with nothing of its own
    root: str | None


@dataclass(frozen=True)
class Found:
    """Training and test set, or one set for both; why there is but one, and what else a user should know."""

    parts: tuple[Part, ...]
    why: str = ""
    hint: str = ""


def find(path: str, arguments: Mapping[str, Any], train: Mapping[str, Any] | None, test: Mapping[str, Any] | None) -> Found:
    """Make the data set or sets that `path` names. ValueError that names what is wrong."""
    try:
        maker = imported("data.path", path)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    has_items = isinstance(maker, type) and all(hasattr(maker, name) for name in ("__len__", "__getitem__"))
    if not has_items and not is_function(maker):
        what = "a class without a length or items" if isinstance(maker, type) else f"a {type(maker).__name__}"
        raise ValueError(
            f"data.path: {path} is {what}; a data set needs len() and items (image, label): name a class of them, or "
            "a function that returns one"
        )
    takes = parameters(maker)
    given = dict(arguments)
    if "root" in takes and "root" not in given and (train is None or not ("root" in train or "root" in (test or {}))):
        folder = os.environ.get("COOPSGD_DATA")
        if folder or "download" in takes:
            given["root"] = folder or str(cache.root())  # where it downloads to, if it does
    if "download" in takes and "download" not in given:
        given["download"] = True
    apart = [dict(train or {}), dict(test or {})]
    convention = _convention(takes, given, apart)
    if convention:
        apart = [convention[0] | apart[0], convention[1] | apart[1]]
    if train is None and not convention:
        made = Part(_made(maker, path, given, {}, "", ()), "", _root(given))
        _refuse_folder_of_parts(made, path)
        return Found((made,), _why(takes, given), _hint(takes, given))
    if apart[0] == apart[1]:
        raise ValueError(f"data.test: is the same as data.train ({_words(apart[0])}), so training samples would be tested on")
    filled = tuple(convention[0]) if convention else ()
    parts = tuple(
        Part(_made(maker, path, given, own, name, filled), _words(own), _root(given | own))
        for own, name in zip(apart, ("training", "testing"), strict=True)
    )
    if train is None:
        for part in parts:
            _refuse_folder_of_parts(part, path)
    _refuse_other_classes(parts, path)
    return Found(parts)


def parameters(maker: Any) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a class or function by name; behind a class's **kwargs those of the class it is derived from."""
    found: dict[str, inspect.Parameter] = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for owner in maker.__mro__ if inspect.isclass(maker) else [None]:
        init = maker if owner is None else owner.__dict__.get("__init__")
        if init is None or owner is object:
            continue
        try:
            listed = list(inspect.signature(init).parameters.values())[0 if owner is None else 1 :]
        except (TypeError, ValueError):  # written in C
            break
        found = {p.name: p for p in listed if p.kind in named} | found
        if not any(p.kind is p.VAR_KEYWORD for p in listed):
            break
    return found


def _convention(
    takes: Mapping[str, inspect.Parameter], given: Mapping[str, Any], apart: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What is filled in for training and for testing; None when the class takes nothing like that, or the user says it."""
    for name, values, fits in (("train", (True, False), _is_flag), ("split", ("train", "test"), _is_word)):
        if name not in takes or not fits(takes[name]) or (name == "train" and "test" in takes):
            continue
        said = [name in part for part in apart]
        if any(said) and not all(said):
            one, other = ("data.train", "data.test") if said[0] else ("data.test", "data.train")
            raise ValueError(f"{other}: says no {name}, though {one} does; say it in both")
        if name in given or any(said):
            return None
        return {name: values[0]}, {name: values[1]}
    return None


def _is_flag(parameter: inspect.Parameter) -> bool:
    """Is it a yes or no?"""
    default, annotation = parameter.default, str(parameter.annotation)
    if default is parameter.empty or default is None:
        return parameter.annotation is parameter.empty or "bool" in annotation
    return isinstance(default, bool)


def _is_word(parameter: inspect.Parameter) -> bool:
    """Is it a name?"""
    default, annotation = parameter.default, str(parameter.annotation)
    if default is parameter.empty or default is None:
        return parameter.annotation is parameter.empty or "str" in annotation or "Literal" in annotation
    return isinstance(default, str)


def _why(takes: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Why there is one set."""
    said = [name for name in ("train", "split") if name in given]
    return f"data.arguments says {_words({said[0]: given[said[0]]})}" if said else "it takes no train or split to tell parts by"


def _hint(takes: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    other = [name for name in OTHER if name in takes and name not in given]
    if not other:
        return ""
    return f"it takes {other[0]}: if that chooses a part, name both by {NAMED.format(other[0] + ': ...')}"


def _made(maker: Any, path: str, given: Mapping[str, Any], own: Mapping[str, Any], name: str, filled: tuple[str, ...]) -> Any:
    try:
        with cache.locked(cache.root() / "download.lock"):  # which it may do first, and many processes may come at once
            return maker(**{**given, **own})
    except Exception as error:
        why = (str(error).strip().splitlines() or [""])[0]
        group = {"": "data.arguments", "training": "data.train", "testing": "data.test"}[name if own and not filled else ""]
        out = ""
        if filled:
            pair = _words({key: own[key] for key in filled})
            out = f"; {pair} was filled in for {name}, other parts are named by {NAMED.format(filled[0] + ': NAME')}"
        words = _words({**given, **own})
        raise ValueError(f"{group}: {path} cannot be made with {words}: {type(error).__name__}: {why}{out}") from None


def _refuse_folder_of_parts(part: Part, path: str) -> None:
    """A folder of train/ and val/, each with folders of classes, is not two classes called train and val."""
    names = sorted(class_names(part.data).values())
    train, test = ([name for name in names if _named_for(kind, name)] for kind in (TRAINING, TESTING))
    known = [*train, *test]
    if not names or not ((train and test) or len(known) == len(names)):
        return
    root = part.root or "FOLDER"
    out = f"each part's folder: data.train={{root: {root}/{known[0]}}} data.test={{root: {root}/{known[-1]}}}"
    if len(known) == 1:
        out = f"the folder of its classes: data.arguments={{root: {root}/{known[0]}}}"
    raise ValueError(
        f"data.arguments: {path} takes {' and '.join(known)} of {root} for classes, but these name parts; name {out}"
    )


def _named_for(kind: re.Pattern[str], name: str) -> bool:
    return kind.fullmatch(re.sub("[^a-z]", "", name.lower())) is not None


def class_names(data: Any) -> dict[int, str]:
    """Label -> name, where a data set tells them as torchvision's do; else nothing."""
    numbered = getattr(data, "class_to_idx", None)
    if isinstance(numbered, Mapping) and numbered:
        return {n: name for name, n in numbered.items() if isinstance(n, int) and isinstance(name, str)}
    named = getattr(data, "classes", None)
    if not isinstance(named, list | tuple):
        return {}
    return {n: name for n, name in enumerate(named) if isinstance(name, str)}


def _refuse_other_classes(parts: tuple[Part, ...], path: str) -> None:
    train, test = (class_names(part.data) for part in parts)
    for n in sorted(train.keys() & test.keys()):
        if train[n] != test[n]:
            raise ValueError(
                f"data.test: label {n} of {path} is {train[n]} in training and {test[n]} in testing; both parts must number "
                "the same classes alike"
            )


def _root(arguments: Mapping[str, Any]) -> str | None:
    return str(arguments["root"]) if "root" in arguments else None


def _words(arguments: Mapping[str, Any]) -> str:
    """As they would be written on the command line."""
    spelt = {True: "true", False: "false", None: "null"}
    words = [f"{k}={spelt[v] if v is None or isinstance(v, bool) else v}" for k, v in arguments.items()]
    return ", ".join(word if len(word) <= 80 else f"{word[:77]}..." for word in words) or "no arguments"
