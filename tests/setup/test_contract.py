"""What a class may say is what its contract knows: a misspelt override is refused, and what mixes is read from one place."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import numpy as np
import pytest

from coopsgd.commands import compose
from coopsgd.data.base import DataSet
from coopsgd.data.partitions import Partition
from coopsgd.errors import ConfigError
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.graphs import Graph
from coopsgd.mixing.static import Average
from coopsgd.models.base import Model
from coopsgd.predict.clock.clusters import Links
from coopsgd.registry import lookup, names
from coopsgd.schedules import Constant
from coopsgd.setup import build
from coopsgd.setup.external import FORMER, READ, conforms
from coopsgd.strategies.base import Strategy
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.strategies.period import Period
from coopsgd.tasks.base import Task

CLOSED = ("strategy", "mixing", "period", "graph", "partition", "schedule")  # built-in classes too have what their base has
MISSPELT = [
    ("strategy", Strategy, "recieve", "receive"),
    ("strategy", Cooperative, "answers", "answer"),
    ("strategy", Cooperative, "directions", "direction"),
    ("mixing", Average, "matrix", "matrices"),
    ("mixing", Average, "works", "work"),
    ("period", Period, "nxt", "next"),
    ("period", Period, "forseen", "foreseen"),
    ("graph", Graph, "adjacencies", "adjacency"),
    ("partition", Partition, "move", "moves"),
    ("schedule", Constant, "argument", "arguments"),
    ("data", DataSet, "Classes", "CLASSES"),
    ("model", Model, "parameter", "parameters"),
    ("task", Task, "steps_per_epochs", "steps_per_epoch"),
    ("cluster", Links, "step_time", "step_times"),
]


def mine(base: type, **members):
    return dataclass(frozen=True)(type("Mine", (base,), {**members, "__module__": "mine"}))


def refusal(kind: str, cls: type, where: str = "key") -> str:
    base = build.BASES.get(kind) or build._cluster(kind)
    with pytest.raises(ConfigError) as error:
        conforms(where, kind, cls, base)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{where}: ")
    return str(error.value)


@pytest.mark.parametrize(("kind", "base", "name", "meant"), MISSPELT)
@pytest.mark.parametrize("how", ["method", "property", "attribute"])
def test_a_misspelt_override_is_refused(kind, base, name, meant, how):
    value = {"method": lambda self, *_: None, "property": property(lambda self: None), "attribute": 3}[how]
    needed = {n: lambda self, *_: None for n in ("adjacency", "deal", "load", "build", "dimension") if hasattr(base, n)}
    for n in needed:  # what the kind asks for is there, with the arguments it has
        needed[n] = eval(f"lambda {', '.join(inspect.signature(getattr(base, n)).parameters)}: None")
    assert f"did you mean {meant}?" in refusal(kind, mine(base, **needed, **{name: value}))
    conforms("key", kind, mine(base, **needed, _helper=value), build.BASES.get(kind) or build._cluster(kind))  # one's own


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in FORMER.items() for name in table])
def test_a_member_of_the_old_contract_is_refused_and_says_what_it_is_now(kind, name):
    base = {"strategy": Strategy, "mixing": Average}[kind]
    assert FORMER[kind][name] in refusal(kind, mine(base, **{name: lambda self: None}))


# what other classes of their kind derive from, and have more of; those of push-sum and relays are read by their strategies
WIDER = {("schedule", "constant"), ("mixing", "push"), ("mixing", "push_by_book"), ("mixing", "relays")}


@pytest.mark.parametrize("kind", CLOSED)
def test_a_built_in_class_has_what_its_base_has(kind):
    base = build.BASES[kind]
    for name in names(kind):
        cls = lookup(kind, name)
        more = {n for n in dir(cls) if not n.startswith("_")} - set(dir(base)) - set(cls.__dataclass_fields__) - set(READ)
        assert not more or (kind, name) in WIDER, (name, more)


def test_an_override_inherited_from_a_class_of_ones_own_counts():
    class Helps:
        def recieve(self):
            return None

    assert "recieve" in refusal("strategy", dataclass(frozen=True)(type("Mine", (Helps, Cooperative), {"__module__": "mine"})))


@pytest.mark.parametrize("name", ["order", "delay", "merge", "buffers"])
def test_a_key_of_the_run_is_no_field(name):
    cls = dataclass(frozen=True)(
        type("Mine", (Cooperative,), {"__annotations__": {name: str}, name: "x", "__module__": "mine"})
    )
    assert "key of the run" in refusal("strategy", cls)


# what mixes is read from `schedule`, whatever the class


class Apart(Average):
    """Two halves that never hear of each other."""

    def matrices(self, m, r):
        return (np.kron(np.eye(2), np.full((m // 2, m // 2), 2 / m)),)


@dataclass(frozen=True)
class Fixed(Strategy):
    """Its W is its own."""

    schedule = Apart()


@dataclass(frozen=True)
class Named(Strategy):
    """Its W is named by the yaml."""

    mixing: Mixing = field(default_factory=Average)
    schedule = property(lambda self: self.mixing)

    def receive(self, fleet, t, x, heard, s):
        return heard, s


@dataclass(frozen=True)
class Disconnected(Apart):
    """The same by name."""


@dataclass(frozen=True)
class Unread(Strategy):
    """Has a mixing, and mixes by something else."""

    mixing: Mixing = field(default_factory=Average)

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mix, self.mixing.at(fleet.m, t.round), x)


@dataclass(frozen=True)
class Silent(Strategy):
    """Says nothing."""


@dataclass(frozen=True)
class Mute(Strategy):
    """Will not send, and does not talk elsewhere."""

    schedule = Average()
    send = None


@dataclass(frozen=True)
class Method(Strategy):
    """A schedule that has to be called."""

    def schedule(self):
        return Average()


HERE = "test_contract"
BEFORE = {
    "a disconnected W of its own": ("Fixed", "~algo.mixing", ["no consensus: zeta"]),
    "a disconnected W by name": ("Named", f"algo.mixing={HERE}:Disconnected", ["no consensus: zeta"]),
    "a mixing that is no schedule": ("Unread", "algo.mixing=average", ["Unread", "schedule is None", "Cooperative"]),
    "nothing to mix by": ("Silent", "~algo.mixing", ["Silent has no `schedule`", "no `send`"]),
    "nothing that communicates": ("Mute", "~algo.mixing", ["Mute", "send = None", "`direction`"]),
    "a method": ("Method", "~algo.mixing", ["Method.schedule", "not a property"]),
}


@pytest.mark.parametrize("case", BEFORE)
def test_before_the_run(case):
    name, mixing, parts = BEFORE[case]
    with pytest.raises(ConfigError) as error:
        compose.compose_config(["algo=pasgd", "task=quadratic", "workers=4", f"algo.strategy={HERE}:{name}", mixing])
    assert "\n" not in str(error.value) and all(part in str(error.value) for part in parts), error.value
