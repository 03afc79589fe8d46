"""A class of one's own may derive from any built-in one, of every group, and override what that says."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import numpy as np
import pytest

from coopsgd.commands import compose
from coopsgd.mixing import graphs
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.varying import Matching
from coopsgd.registry import HOMES, lookup, names
from coopsgd.setup import build
from coopsgd.setup.external import conforms

# optim=torch stands for the class that its `cls` names, and is none to derive from
BUILT_IN = [(kind, name) for kind in HOMES for name in names(kind) if (kind, name) != ("optim", "torch")]


GRAPHS = [type(lookup("graph", name)()).__name__ for name in names("graph") if name != "file"]


def doing_nothing(method):
    """A method with the same arguments."""
    wanted = (p for p in inspect.signature(method).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)
    return eval(f"lambda {', '.join(p.name if p.default is p.empty else f'{p.name}=None' for p in wanted)}: None")


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_built_in_class_may_be_derived_from(kind, name):
    cls, base = lookup(kind, name), build.BASES.get(kind)
    conforms("key", kind, dataclass(frozen=True)(type("Mine", (cls,), {"__module__": "mine"})), base)
    for member, method in inspect.getmembers(base or cls, inspect.isfunction):
        if not member.startswith("_") and inspect.isfunction(inspect.getattr_static(cls, member, None)):
            own = {member: doing_nothing(method), "__module__": "mine"}
            conforms("key", kind, dataclass(frozen=True)(type("Mine", (cls,), own)), base)


CODE = """
from dataclasses import dataclass
import numpy as np
from coopsgd.mixing.graphs import {graph}
from coopsgd.mixing.static import Gossip

@dataclass(frozen=True)
class Same({graph}):
    "Nothing of its own."

@dataclass(frozen=True)
class Cut({graph}):
    "Without what it takes from worker 1, if that is not all."
    def adjacency(self, m, seed=0):
        found = super().adjacency(m, seed).copy()
        found[2, 1] = found[1, 2] = False
        return found

@dataclass(frozen=True)
class Listed({graph}):
    "The same as a list."
    def links(self, m, seed=0):
        return super().links(m, seed)
"""


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_of_ones_own_from_a_built_in_one_runs(tmp_path, monkeypatch, graph):
    monkeypatch.chdir(tmp_path)
    module = f"own_{graph.lower()}"
    (tmp_path / f"{module}.py").write_text(CODE.format(graph=graph))
    (tmp_path / "topology").mkdir()
    for name in ("Same", "Cut", "Listed"):
        (tmp_path / "topology" / f"{name.lower()}.yaml").write_text(f"name: {module}:{name}\n")
        words = ["algo=dpsgd", f"topology={name.lower()}", "workers=16", "task=quadratic", "algo.allow_disconnected=true"]
        parts = compose.compose_config(words, config_dir=str(tmp_path), look=True).parts
        W, plain = parts.strategy.schedule.at(16, 0).dense(), getattr(graphs, graph)().adjacency(16, 0)
        expected = plain.copy()
        if name == "Cut":
            expected[2, 1] = expected[1, 2] = False
        np.testing.assert_array_equal((W > 1e-12) & ~np.eye(16, dtype=bool), expected)


@dataclass(frozen=True)
class Pulled(Matching):
    """Other matrices than its base's: what the base knows of its own says nothing of them."""

    strength: float = field(default=0.5)

    def matrices(self, m: int, r: int):
        return tuple((1 + self.strength) * np.eye(m) - self.strength * np.asarray(W) for W in super().matrices(m, r))


def test_what_is_known_of_a_base_s_matrices_is_not_told_of_others():
    """It was: `negative` said None and zeta was the matching's, whatever the matrices were."""
    mine = Pulled()
    assert "negative weight" in (mine.negative(8) or "") and mine.expectation(8) is None and mine.zeta(8) is None
    assert not mine.structured and mine.cycle(8) is None
    mine.check(8)

    class Again(Pulled):
        def negative(self, m: int) -> str:
            return "said anew"

    assert Again().negative(8) == "said anew" and Matching().negative(8) is None


@pytest.mark.parametrize("name", [name for name in names("mixing") if name not in ("matrix",)])
def test_a_mixing_of_ones_own_from_a_built_in_one_is_known_as_well(name):
    cls = lookup("mixing", name)
    mine = dataclass(frozen=True)(type("Mine", (cls,), {"__module__": "mine"}))()
    plain = cls()
    assert mine.structured == plain.structured and mine.zeta(8) == plain.zeta(8) and mine.negative(8) == plain.negative(8)
    assert isinstance(mine, Mixing)
