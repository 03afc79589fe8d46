"""Any key with any value: the config is checked, or refused in one line that names the key, within memory and time.

The keys are those of every class that a yaml of conf/ chooses, the values a pool of odd ones. Long runs: FUZZ=5000.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.host import sizes
from coopsgd.setup import build, catalogue
from coopsgd.setup.resolve import Checked
from coopsgd.setup.schema import ABSENT, GROUPS, Config

VALUES = [
    *("nan", "inf", "-inf", "1e-320", "1e308", "-1e308", "-0.0", "0.5", "1.0", "2.5", "0", "1", "-1", "7"),
    *(str(n) for n in (2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**30, -(10**9), 10**400)),
    *("true", "false", "yes", "null", "auto", "", "''", "'a b'", "???", "'???'", "word", "é", "'\u2028'", "'\0'", "'\udc80'"),
    *(
        "[]",
        "[[]]",
        "[0]",
        "[1]",
        "[-1]",
        "[nan]",
        "[1.5]",
        "[null]",
        "[a]",
        "[true]",
        "[[0,1]]",
        "[[0,1],[5,3]]",
        "[[1,0],[0,1]]",
    ),
    *(
        "[[[1]]]",
        "[2,2]",
        "[1,1,1,1]",
        "[9223372036854775808]",
        "[" * 25 + "1" + "]" * 25,
        "[0.25,0.25,0.25,0.25]",
        "[[0,1],[2,3]]",
    ),
    *("{}", "{a:1}", "{a:[{b:nan}]}", "{1:2}", "${tau}", "${nope}", "${workers}", "${oc.env:NO_SUCH_VARIABLE}", "${algo}"),
    *(
        "/",
        "/dev/zero",
        "/dev/null",
        "nowhere.npy",
        "os:getcwd",
        "nowhere:thing",
        ":",
        "a:b:c",
        "..",
        "9s",
        "1e400s",
        "'100 Mbit/s'",
    ),
]
# files to download, and networks that are tried in a process of their own
LEFT_OUT = {"data": ("fashion_mnist", "mnist", "cifar10", "cifar100"), "model": ("torchvision",)}


def classes(group: str, said: dict[str, object], name: str) -> list[type]:
    if group == "algo":
        return [build.class_of(kind, group, said[kind]) for kind in ("strategy", "mixing") if kind in said]
    if name == ABSENT:
        return []
    return [build.class_of(build.KINDS[group], group, said.get("name", name))]


def keys() -> list[tuple[tuple[str, ...], str]]:
    """(words that make it a key, the key), of every choice of every group and of the top."""
    found: list[tuple[tuple[str, ...], str]] = [((), f.name) for f in fields(Config)]
    for group in GROUPS:
        for choice in catalogue.choices(group):
            if choice.name in LEFT_OUT.get(group, ()):
                continue
            first = (f"{group}={choice.name}",)
            if group == "topology":
                first = ("algo=dpsgd", "workers=8", *first)
            if choice.name in ("text", "gpt"):
                first = ("task=language", *first)
            if group in ("algo", "period", "outer", "correction", "schedule", "optim", "topology", "cluster"):
                first = ("task=quadratic", *first)
            names = {
                f.name
                for cls in classes(group, catalogue.settings(group, choice.name), choice.name)
                for f in fields(cls)
                if f.init
            }
            found += [
                (first, f"{group}.{name}")
                for name in sorted(names | {"name", "nope"} | ({"strategy", "mixing", "tau"} if group == "algo" else set()))
            ]
    return found


@pytest.fixture
def little_memory(monkeypatch):
    """Half a gigabyte is to be had, as far as sizes are foreseen."""
    monkeypatch.setattr(sizes, "available", lambda: 5e8)


MANY = int(os.environ.get("FUZZ", "0"))


@settings(
    max_examples=MANY or 30,
    derandomize=not MANY,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.tuples(st.sampled_from(keys()), st.sampled_from(VALUES)), min_size=1, max_size=2))
def test_any_key_with_any_value(little_memory, drawn):
    words = [word for (first, _), _ in drawn for word in first]
    words += [f"{'++' if '.' in key else ''}{key}={value}" for (_, key), value in drawn]
    began, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        assert isinstance(compose.compose_config(words), Checked)
    except ConfigError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and len(message) < 2000, message
        assert "Error" not in message.split(":")[0] and "Traceback" not in message, message
        named = [part for (_, key), _ in drawn for part in (key.split(".")[-1], key.split(".")[0])]
        assert any(name in message for name in named), (words, message)
        assert "holds itself" not in message and "takes more memory than there is" not in message, (words, message)
    assert time.process_time() - began < 10, words
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2_000_000, words  # kB
