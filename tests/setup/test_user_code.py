"""What a user's classes hand over is checked: one line that names class and method, before a run or while it is under way."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NamedTuple

import networkx
import numpy as np
import pytest
import torch
from playing import MLP, QUADRATIC, play, settle

from coopsgd import Common
from coopsgd.commands import compose
from coopsgd.data.base import DataSet, Images
from coopsgd.data.partitions import Partition
from coopsgd.errors import ConfigError
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.graphs import Graph
from coopsgd.mixing.static import Average
from coopsgd.models.base import Model
from coopsgd.predict.clock.clusters import Links
from coopsgd.setup import external, returned
from coopsgd.setup.parts import Parts
from coopsgd.strategies.base import Strategy
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.strategies.period import Period
from coopsgd.tasks.base import Task
from coopsgd.tasks.quadratic import Quadratic

HERE = "test_user_code"


def made(kind: str, found):
    """A class of a user's whose one method returns what `found` makes of its arguments."""
    base, name = {
        "receive": (Strategy, "receive"),
        "direction": (Strategy, "direction"),
        "send": (Strategy, "send"),
        "answer": (Strategy, "answer"),
        "work": (Mixing, "work"),
        "mixing": (Mixing, "matrices"),
        "period": (Period, "next"),
        "graph": (Graph, "adjacency"),
        "partition": (Partition, "deal"),
        "cluster": (Links, "step_times"),
        "data": (DataSet, "load"),
    }[kind]
    registered = "strategy" if base is Strategy else "mixing" if base is Mixing else kind
    cls = dataclass(frozen=True)(type("Mine", (base,), {name: lambda self, *a, **k: found(*a, **k), "__module__": "mine"}))
    return returned.guard(registered, cls()), name


def refused(kind: str, found, arguments, *parts: str) -> None:
    thing, name = made(kind, found)
    with pytest.raises(external.ExternalError) as error:
        getattr(thing, name)(*arguments)
    message = str(error.value)
    assert message.startswith(f"Mine.{name}: returned ") and "; return " in message and "\n" not in message
    assert all(part in message for part in parts), message


X = torch.zeros(4, 5)
ROWS = {  # of x or grad, and the state
    "a scalar": (lambda x, s: (torch.tensor(1.0), s), "shape ()"),
    "one number": (lambda x, s: (torch.ones(1, 1), s), "shape (1, 1)", "(4, 5)"),
    "two rows": (lambda x, s: (x[:2], s), "(2, 5)"),
    "a row too many": (lambda x, s: (torch.zeros(5, 5), s), "(5, 5)"),
    "flat": (lambda x, s: (x.flatten(), s), "(20,)"),
    "complex": (lambda x, s: (x.to(torch.complex64), s), "complex64"),
    "another precision": (lambda x, s: (x.double(), s), "float64", "float32"),
    "whole numbers": (lambda x, s: (x.int(), s), "int32"),
    "an array": (lambda x, s: (x.numpy(), s), "an array"),
    "None for rows": (lambda x, s: (None, s), "None"),
    "nothing": (lambda x, s: None, "None", "({}, state)"),
    "rows alone": (lambda x, s: x, "a tensor of shape (4, 5)", "({}, state)"),
    "three": (lambda x, s: (x, s, s), "a tuple of 3", "({}, state)"),
    "a gradient": (lambda x, s: (x + torch.zeros(1, requires_grad=True), s), "gradient"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows(case):
    found, *parts = ROWS[case]
    refused("receive", lambda f, t, x, heard, s: found(x, s), (None, None, X, None, ()), *(p.format("rows") for p in parts))
    refused(
        "direction",
        lambda f, t, grad, x, s: found(grad, s),
        (None, None, X, 2 * X, ()),
        *(p.format("direction") for p in parts),
    )


def test_what_is_right_passes():
    for rows in (X.clone(), X[:1].expand_as(X), X[:1]):
        thing, _ = made("receive", lambda f, t, x, heard, s, rows=rows: (rows, s))
        assert thing.receive(None, None, X, None, 7) == (rows, 7)
        thing, _ = made("direction", lambda f, t, grad, x, s, rows=rows: (rows, s))
        assert thing.direction(None, None, X, X, 7)[0] is rows
    fleet = Stacked(Layout(4, 0, 1))
    for sent in (fleet.later(fleet.mean, X), (fleet.later(fleet.mean, X), fleet.later(fleet.pick, X, 1))):
        thing, _ = made("send", lambda f, t, x, s, sent=sent: sent)
        assert thing.send(fleet, None, X, ()) is sent
    thing, _ = made("answer", lambda f, x, s: x[:1])
    assert thing.answer(None, X, ()).shape == (1, 5)
    thing, _ = made("graph", lambda m, seed=0: networkx.to_numpy_array(networkx.cycle_graph(m)))
    assert thing.adjacency(4).dtype == bool
    thing, _ = made("partition", lambda *a, **k: [[0, 1], (2,), range(3, 5), np.array([5], dtype=np.int8)])
    assert [share.tolist() for share in thing.deal(np.zeros(9), 4, 0)] == [[0, 1], [2], [3, 4], [5]]
    thing, _ = made("period", lambda s, *_: (np.int64(3), s))
    assert thing.next(None, 0, 0.1, None, None) == (3, None)
    for kind in (Cooperative(), Period()):
        assert returned.guard("strategy", kind) is kind and not external.is_external(kind)


E = np.eye(4)
VALUES = {
    "an answer of all rows": ("answer", lambda f, x, s: x, (None, X, ()), "(4, 5)"),
    "a flat answer": ("answer", lambda f, x, s: x[0], (None, X, ()), "(5,)"),
    "no answer": ("answer", lambda f, x, s: None, (None, X, ()), "None"),
    "work of a list": ("work", lambda m, r, tau: [1] * m, (4, 0, 2), "list"),
    "work of floats": ("work", lambda m, r, tau: np.ones(m), (4, 0, 2), "float64"),
    "negative work": ("work", lambda m, r, tau: np.array([1, -1, 1, 1]), (4, 0, 2), "-1", "worker 1"),
    "work of others": ("work", lambda m, r, tau: np.ones(m + 1, dtype=int), (4, 0, 2), "(5,)"),
    "an answer at once": ("send", lambda f, t, x, s: x, (None, None, X, ()), "(4, 5)", "fleet.later"),
    "an answer among others": ("send", lambda f, t, x, s: (x[:1],), (None, None, X, ()), "(1, 5)", "a tuple of those"),
    "nothing sent": ("send", lambda f, t, x, s: None, (None, None, X, ()), "None", "fleet.later"),
    "one factor, no tuple": ("mixing", lambda m, r: E, (4, 0), "(4, 4)"),
    "factors of tensors": ("mixing", lambda m, r: (torch.eye(4),), (4, 0), "a tensor"),
    "a W too large": ("mixing", lambda m, r: (np.eye(5),), (4, 0), "(5, 5)"),
    "a complex W": ("mixing", lambda m, r: (E * 1j,), (4, 0), "complex"),
    "a W of nan": ("mixing", lambda m, r: (E * np.nan,), (4, 0), "finite"),
    "rows that do not sum to 1": ("mixing", lambda m, r: (E * 0.9,), (4, 3), "row 0", "0.9", "communication 3"),
    "no matrices": ("mixing", lambda m, r: None, (4, 0), "None"),
    "a tau of 0": ("period", lambda s, *_: (0, s), (None, 0, 0.1, None, None), "0"),
    "a tau of 1.5": ("period", lambda s, *_: (1.5, s), (None, 0, 0.1, None, None), "1.5"),
    "a tau of True": ("period", lambda s, *_: (True, s), (None, 0, 0.1, None, None), "True"),
    "a tau without a state": ("period", lambda s, *_: 3, (None, 0, 0.1, None, None), "3", "state"),
    "a networkx graph": ("graph", lambda m, seed=0: networkx.path_graph(m), (4,), "networkx graph", "to_numpy_array"),
    "a networkx multigraph": ("graph", lambda m, seed=0: networkx.MultiDiGraph([(0, 1)]), (4,), "MultiDiGraph"),
    "a node too many": ("graph", lambda m, seed=0: np.ones((m + 1, m + 1), dtype=bool), (4,), "(5, 5)"),
    "self-loops": ("graph", lambda m, seed=0: np.diag([False, True, False, False]), (4,), "worker 1", "self-loops"),
    "weights": ("graph", lambda m, seed=0: (np.ones((m, m)) - np.eye(m)) / 2, (4,), "0 and 1"),
    "weights of nan": ("graph", lambda m, seed=0: np.full((m, m), np.nan), (4,), "0 and 1"),
    "edges": ("graph", lambda m, seed=0: [(0, 1), (1, 2)], (4,), "list"),
    "seconds of one": ("cluster", lambda m, seed, k: 0.1, (4, 0, 0), "0.1"),
    "negative seconds": ("cluster", lambda m, seed, k: -np.ones(m), (4, 0, 0), "-1"),
    "seconds of nan": ("cluster", lambda m, seed, k: np.full(m, np.nan), (4, 0, 0), "nan"),
}


@pytest.mark.parametrize("case", VALUES)
def test_values(case):
    kind, found, arguments, *parts = VALUES[case]
    refused(kind, found, arguments, *parts)


SHARES = {
    "too large": ([[0], [1], [9]], "sample 9", "worker 2", "0 to 8"),
    "negative": ([[0], [-1], [2]], "sample -1", "worker 1"),
    "floats": ([[0], [1.0], [2]], "float64", "worker 1"),
    "bools": ([[0], [True, False], [2]], "bool", "worker 1"),
    "twice": ([[0], [1, 3, 1], [2]], "sample 1 twice", "worker 1"),
    "of two": ([[0], [1, 2], [2]], "sample 2", "workers 1 and 2"),
    "too few": ([[0], [1]], "2 shares for 3 workers"),
    "too many": ([[0], [1], [2], [3]], "4 shares"),
    "empty": ([[0], [], [2]], "no sample for worker 1"),
    "numbers": ([0, 1, 2], "worker 0"),
    "two axes": ([[0], [[1], [3]], [2]], "(2, 1)"),
    "a dict": ({0: [0], 1: [1], 2: [2]}, "dict"),
    "None": (None, "None"),
}


@pytest.mark.parametrize("case", SHARES)
def test_shares(case):
    found, *parts = SHARES[case]
    refused("partition", lambda *a, **k: found, (np.zeros(9), 3, 0), *parts)


def test_sizes_of_shares_stay():
    sizes = lambda labels, workers, seed, epoch=0: [[0, 1], [2]] if epoch == 0 else [[0], [1, 2]]  # noqa: E731
    refused("partition", sizes, (np.zeros(9), 2, 0, 1), "worker 0", "epoch 1")


def images(**more):
    x, y = np.zeros((6, 3), dtype=np.float32), np.arange(6) % 2
    return Images(**({"train_x": x, "train_y": y, "test_x": x, "test_y": y, "mean": (0.0,), "std": (1.0,)} | more))


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (dict.fromkeys(("train_x", "test_x"), np.zeros((6, 4), dtype=np.float32)), "(6, 4)"),
        ({"train_x": np.full((6, 3), np.inf, dtype=np.float32)}, "sample 0 of train_x"),
        ({"test_y": np.full(6, 2)}, "label 2 in test_y"),
        ({"test_y": np.full(6, -1)}, "label -1 in test_y"),
    ],
)
def test_data(more, part):
    cls = dataclass(frozen=True)(
        type(
            "Mine", (DataSet,), {"load": lambda self, seed=0: images(**more), "SHAPE": (3,), "CLASSES": 2, "__module__": "mine"}
        )
    )
    with pytest.raises(external.ExternalError, match=r"^Mine\.load: returned ") as error:
        returned.guard("data", cls()).load()
    assert part in str(error.value)


# classes as a config names them: what is wrong is told before anything starts


@dataclass(frozen=True)
class Silent(Strategy):
    """Says neither what it mixes by nor what it sends."""


@dataclass(frozen=True)
class ShortReceive(Cooperative):
    """Takes too little."""

    def receive(self, fleet, x, s):
        return x, s


@dataclass(frozen=True)
class Misspelt(Cooperative):
    """Would never be called."""

    def recieve(self, fleet, t, x, heard, s):
        return x, s


@dataclass(frozen=True)
class Old(Strategy):
    """As strategies once were."""

    def step(self, fleet, tick, x, s):
        return tick.local(x), s


@dataclass(frozen=True)
class Idles(Average):
    """Once said so."""

    def active(self, m, round):
        return np.arange(m) % 2 == 0


@dataclass(frozen=True)
class Foresees(Period):
    """Says something that nobody asks."""

    longest = 4


@dataclass(frozen=True)
class NoMatrices(Mixing):
    """Has none."""


@dataclass(frozen=True)
class HalfAux(Average):
    """Half a server."""

    num_aux = 0.5


@dataclass(frozen=True)
class Loops(Graph):
    """Every worker is its own neighbour."""

    def adjacency(self, m, seed=0):
        return np.ones((m, m), dtype=bool)


@dataclass(frozen=True)
class Nx(Graph):
    """Not an array."""

    def adjacency(self, m, seed=0):
        return networkx.path_graph(m + 1)


@dataclass(frozen=True)
class Overlapping(Partition):
    """Everybody has everything."""

    reshuffle: bool = False

    def deal(self, labels, workers, seed, epoch=0):
        return [np.arange(len(labels))] * workers


@dataclass(frozen=True)
class Broken(Partition):
    """Has a mistake in it."""

    reshuffle: bool = False

    def deal(self, labels, workers, seed, epoch=0):
        return [len(labels[0]) for _ in range(workers)]


@dataclass(frozen=True)
class Duck:
    """Derives from nothing."""

    def deal(self, labels, workers, seed, epoch=0):
        return []


@dataclass(frozen=True)
class NoBuild(Model):
    """Builds nothing."""

    def build(self, shape, classes):
        return lambda x: x


@dataclass(frozen=True)
class NoTask(Task):
    """Has no problem."""

    def build(self, config, rows, device):
        return None

    def dimension(self, config):
        return 3


@dataclass(frozen=True)
class Halves(Period):
    """Half a step."""

    def next(self, s, k, lr, loss, now):
        return 2.5, s


BEFORE = {
    "nothing to say": (("algo.strategy=Silent", "~algo.mixing"), ["Silent has no `schedule`", "no `send`"]),
    "other arguments": (("algo.strategy=ShortReceive",), ["ShortReceive.receive", "def receive(self, fleet, t, x, heard, s)"]),
    "a misspelt method": (("algo.strategy=Misspelt",), ["Misspelt.recieve", "no member of a Strategy", "did you mean receive"]),
    "a step of its own": (("algo.strategy=Old", "~algo.mixing"), ["Old.step", "init, receive, schedule, send"]),
    "an unknown member of a mixing": (("algo.mixing=Idles",), ["Idles.active", "no member of a Mixing", "work"]),
    "an unknown constant": (("+period.name=Foresees",), ["Foresees.longest", "no member of a Period"]),
    "no matrices": (("algo.mixing=NoMatrices",), ["NoMatrices", "has no `matrices`"]),
    "half a server": (("algo.mixing=HalfAux",), ["HalfAux.num_aux", "0.5"]),
    "self-loops": (("algo=dpsgd", "+topology.name=Loops"), ["Loops.adjacency", "worker 0", "self-loops"]),
    "a networkx graph": (("algo=dpsgd", "+topology.name=Nx"), ["Nx.adjacency", "networkx graph"]),
    "shares that overlap": (("+partition.name=Overlapping",), ["Overlapping.deal", "workers 0 and 1"]),
    "an exception": (("+partition.name=Broken",), ["test_user_code.py:", "in ", "TypeError"]),
    "half an optimiser": (("+optim.name=Ours",), ["Ours has no KIND, buffers, COUNTS", "coopsgd.optim.SGD"]),
    "no partition": (("+partition.name=Duck",), ["Duck", "coopsgd.data.partitions.Partition"]),
}


@pytest.mark.parametrize("case", BEFORE)
def test_before_a_run(case):
    words, parts = BEFORE[case]
    words = [re.sub(r"=([A-Z]\w+)$", rf"={HERE}:\1", word) for word in words]
    algo = [] if any(word.startswith("algo=") for word in words) else ["algo=pasgd"]
    with pytest.raises(ConfigError) as error:
        compose.compose_config([*algo, "workers=4", "data=digits", *words])
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_a_task_without_a_problem():
    thing = returned.guard("task", NoTask())
    with pytest.raises(external.ExternalError, match=r"NoTask\.build: returned None without start"):
        thing.build(None, range(4), "cpu")
    with pytest.raises(external.ExternalError, match=r"NoBuild\.build: returned a function"):
        returned.guard("model", NoBuild()).build((3,), 2)


def test_a_task_of_ones_own_that_is_right_runs(process_groups):
    run = play(process_groups, 2, *QUADRATIC, f"+task.name={HERE}:Mine", "algo=pasgd", "steps=4")
    assert run.lines[-1]["step"] == 4


@dataclass(frozen=True)
class Mine(Quadratic):
    """The quadratic, by another name."""


# while a run is under way: through the loop


@dataclass(frozen=True)
class Late(Cooperative):
    """Is right at first."""

    def receive(self, fleet, t, x, heard, s):
        return (heard[:2] if t.round == 1 else heard), s


@dataclass(frozen=True)
class Crosses(Cooperative):
    """Gives a Common to a verb that takes Rows, which one process would not notice."""

    def receive(self, fleet, t, x, heard, s):
        return fleet.mean(fleet.mean(x)).expand_as(x), s


@dataclass(frozen=True)
class Loses(Cooperative):
    """Divides by nothing."""

    def receive(self, fleet, t, x, heard, s):
        return (heard / 0 if t.round == 1 else heard), s


@dataclass(frozen=True)
class Vague(Cooperative):
    """Has no answer to give."""

    def answer(self, fleet, x, s):
        return fleet.mean(x) * float("nan")


@dataclass(frozen=True)
class Ours:
    """An optimiser that says too little of itself."""

    lr: float = 0.1


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Vague", ["Vague.answer: returned numbers that are not finite"]),
        ("Late", ["Late.receive: returned a tensor of shape (2, 10)", "rows (8, 10)", "return Rows of the same shape"]),
        ("Crosses", ["fleet.mean: takes Rows", "(8, n)", "(1, 10)"]),
        ("Loses", ["Loses.receive", "after step 20", "not finite"]),
    ],
)
def test_in_the_loop(name, parts):
    with pytest.raises(ValueError) as error:
        play(None, 1, *QUADRATIC, "algo=pasgd", f"algo.strategy={HERE}:{name}", "eval_every=10", "log_every=10", "tau=10")
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize("W", [np.eye(4) * 1j, np.full((4, 4), np.nan), np.eye(4, dtype=bool)], ids=["complex", "nan", "bool"])
def test_a_W_given_to_the_fleet(W):
    with pytest.raises(ValueError, match="W must hold finite real numbers"):
        Stacked(Layout(4, 0, 1)).mix(W, torch.zeros(4, 3))


@pytest.mark.parametrize("i", [4, -1, 1.0, True])
def test_a_row_that_is_not_there(i):
    with pytest.raises(ValueError, match=r"fleet\.pick: there are rows 0 to 3"):
        Stacked(Layout(4, 0, 1)).pick(torch.zeros(4, 3), i)


class State(NamedTuple):
    anchor: Common
    velocity: Common


@dataclass(frozen=True)
class SlowMo(Strategy):
    """As in docs/new_algorithm.md."""

    beta: float = 0.7

    def init(self, fleet, x):
        anchor = fleet.mean(x)
        return State(anchor, torch.zeros_like(anchor))

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x)

    def receive(self, fleet, t, x, mean, s):
        velocity = self.beta * s.velocity + (s.anchor - mean) / t.lr
        anchor = s.anchor - t.lr * velocity
        return anchor, State(anchor, velocity)


def test_the_readme_s_strategy_runs(process_groups):
    words = (
        *MLP,
        "algo=pasgd",
        "~algo.mixing",
        f"algo.strategy={HERE}:SlowMo",
        "workers=4",
        "steps=8",
        "tau=4",
        "batch_size=8",
    )
    one, two = (play(process_groups, processes, *words) for processes in (1, 2))
    np.testing.assert_allclose(one.x, two.x, rtol=0, atol=1e-12)
    assert one.lines[-1]["consensus"] > 0 == one.lines[-1]["consensus_after"]


def test_checking_costs_no_copy():
    settings = settle((*QUADRATIC, "algo=pasgd", f"algo.strategy={HERE}:SlowMo", "~algo.mixing"))
    strategy = Parts(settings).strategy
    x = torch.zeros(8, 3)
    assert returned._stepped(None, (x, ()), None, None, x, None, ())[0] is x
    assert {"send", "receive"} == set(vars(strategy)) & set(returned.CHECKS["strategy"]) and "init" not in vars(strategy)


CODE = """
from dataclasses import dataclass

import torch

from coopsgd.strategies.base import Strategy


@dataclass(frozen=True)
class Mine(Strategy):
    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x)

    def receive(self, fleet, t, x, mean, s):
        {line}
        return x, s
"""


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("return torch.tensor(1.0), s", ["Mine.receive: returned a tensor of shape ()"]),
        ("1 / 0", ["mine.py:15, in receive: ZeroDivisionError: division by zero"]),
        ("fleet.mix(torch.ones(2, 2), x)", ["mine.py:15, in receive: ValueError", "W must be (4, 4)"]),
    ],
    ids=["scalar", "exception", "verb"],
)
def test_a_file_of_ones_own(cli, tmp_path, line, parts):
    """One line of a failure while running, exit code 1, and the traceback in logs/."""
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "own.yaml").write_text("strategy: mine:Mine\ntau: 2\n")
    (tmp_path / "mine.py").write_text(CODE.format(line=line))
    words = ("task=quadratic", "algo=own", "workers=4", "processes=2", "steps=4", "hydra.run.dir=run")
    ended = cli("train", "--config-dir", "mine", *words)
    assert ended.code == 1, ended.err
    (message,) = ended.lines
    assert all(part in message for part in parts), message
    assert (
        "Traceback" in (tmp_path / "run" / "logs" / "rank0.err").read_text()
        or "Traceback" in (tmp_path / "run" / "logs" / "rank1.err").read_text()
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(("name", "words"), [("algo/pasgd", ("algo=pasgd",)), ("optim/sgd", ())])
def test_a_yaml_of_the_name_of_a_built_in_one_is_refused(cli, tmp_path, name, words):
    """Also where it is what a group chooses unasked; one that is not chosen is nobody's question."""
    path = tmp_path / "mine" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    group, choice = name.split("/")
    path.write_text("name: sgd\nlr: 0.3\n" if group == "optim" else "strategy: cooperative\nmixing: average\ntau: 3\n")
    for verb in ("show", "train"):
        ended = cli(verb, "--config-dir", "mine", *words)
        assert (ended.code, len(ended.lines)) == (2, 1), ended.err
        assert f"{name}.yaml has the name of a built-in one" in ended.err and f"{group}=my_{choice}" in ended.err
    other = "algo=dpsgd" if group == "algo" else "optim=adam"
    assert cli("show", "--config-dir", "mine", other).code == 0
