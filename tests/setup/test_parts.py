"""Parts are made once and handed down; a part is given what it asks for, and nothing by the name of a field."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from playing import run, settle

from coopsgd.commands import analyze, compose, show
from coopsgd.errors import ConfigError
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.graphs import Graph, Torus
from coopsgd.mixing.static import Average
from coopsgd.registry import lookup, of_run
from coopsgd.setup import build
from coopsgd.setup.parts import Parts
from coopsgd.setup.resolve import Checked
from coopsgd.strategies.base import Strategy
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.strategies.period import Period


@pytest.fixture
def made(monkeypatch):
    """How many parts of each kind this process has made."""
    counts, construct = Counter[str](), build._construct

    def counted(kind: str, *arguments: Any) -> Any:
        counts[kind] += 1
        return construct(kind, *arguments)

    monkeypatch.setattr(build, "_construct", counted)
    return counts


WORDS = {
    "images": ("data=digits", "model=mlp", "model.hidden=[8]", "algo=dpsgd", "topology=ring", "cluster=ethernet_1g", "steps=4"),
    "samples": ("data=digits", "model=mlp", "model.hidden=[8]", "algo=fedavg", "steps=4", "period=constant"),
    "quadratic": ("task=quadratic", "algo=easgd", "steps=8", "cluster=ethernet_1g"),
}
KINDS = {"strategy", "mixing", "period", "task", "optim", "schedule"}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_checking_and_showing_a_config_makes_each_part_once(made, words):
    checked = compose.compose_config((*words, "workers=4", "device=cpu"))
    show.facts(checked.parts, checked.notes)
    analyze.facts(checked.parts)
    assert set(made.values()) == {1} and made.keys() >= KINDS, made


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_a_worker_makes_each_part_once(made, words):
    settings = settle((*words, "workers=4", "device=cpu"))
    made.clear()
    run(0, settings, 1)
    assert set(made.values()) == {1} and made.keys() >= KINDS, made


def test_a_check_changes_no_config():
    """What a part or a check is handed is what it was; only resolving makes another config."""
    config = settle(("data=digits", "model=mlp", "workers=4", "steps=4", "device=cpu"))
    before = repr(config)
    parts = Parts(config)
    parts.task.check(config)
    parts.period.check(config)
    parts.schedule.check(parts.optim.lr, config.steps)
    assert repr(config) == before


NAMES = ("warmup", "seed", "sizes", "batch_size", "topology", "tau")


@dataclass(frozen=True)
class Own(Strategy):
    """Fields that are called like what the run has."""

    warmup: int = 1
    seed: int = 1
    sizes: int = 1
    batch_size: int = 1
    topology: int = 1
    tau: int = 1
    schedule: Mixing = Average()  # by its type


@dataclass(frozen=True)
class OwnMixing(Average):
    """The same of a mixing."""

    warmup: int = 1
    seed: int = 1
    sizes: int = 1
    batch_size: int = 1
    topology: int = 1
    tau: int = 1


@dataclass(frozen=True)
class OwnPeriod(Period):
    """The same of a period; the run's tau under another name."""

    warmup: int = 1
    seed: int = 1
    sizes: int = 1
    batch_size: int = 1
    topology: int = 1
    steps: Any = of_run("tau", 1)


@dataclass(frozen=True)
class Asks(Average):
    """What the run has, under names of its own."""

    links: Graph | None = None
    lot: int = of_run("seed", 0)
    local: Any = of_run("tau", 1)
    batch: int = of_run("batch_size", 1)
    ramp: int = of_run("warmup", 0)
    many: Any = of_run("sizes", None)


RUN = ("task=quadratic", "workers=4", "steps=8", "device=cpu", "tau=3", "seed=5")


def own_of(part: Any, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    return {name: getattr(part, name) for name in names if hasattr(part, name)}


@pytest.mark.parametrize("name", NAMES)
def test_a_strategys_own_field_is_its_own(name):
    words = (*RUN, "~algo.tau", "algo.strategy=test_parts:Own", "algo.mixing=average", f"++algo.{name}=7")
    checked = compose.compose_config(words)
    assert own_of(checked.strategy) == dict.fromkeys(NAMES, 1) | {name: 7}, checked.notes
    assert (checked.config.tau, checked.config.seed, checked.config.order) == (3, 5, "atc")
    assert not [note for note in checked.notes if "ignored" in note]
    assert isinstance(checked.strategy.schedule, Average)


@pytest.mark.parametrize("name", NAMES)
def test_a_mixings_own_field_is_its_own(name):
    mixing = compose.compose_config(
        (*RUN, "~algo.tau", "algo.strategy=cooperative", "algo.mixing=test_parts:OwnMixing", f"++algo.{name}=7")
    ).strategy.schedule
    assert own_of(mixing) == dict.fromkeys(NAMES, 1) | {name: 7}


@pytest.mark.parametrize("name", NAMES[:5])
def test_a_periods_own_field_is_its_own(name):
    period = compose.compose_config((*RUN, "period.name=test_parts:OwnPeriod", f"++period.{name}=7")).parts.period
    assert own_of(period, NAMES[:5]) == dict.fromkeys(NAMES[:5], 1) | {name: 7}
    assert period.steps == 3


def test_what_is_asked_for_is_the_runs():
    words = ("data=digits", "model=mlp", "batch_size=16", "schedule.warmup=2", "topology=torus", *RUN[1:])
    mixing = compose.compose_config((*words, "algo.strategy=cooperative", "algo.mixing=test_parts:Asks")).strategy.schedule
    assert isinstance(mixing.links, Torus)
    assert (mixing.lot, mixing.local, mixing.batch, mixing.ramp) == (5, 3, 16, 2) and len(mixing.many) == 4
    with pytest.raises(ConfigError, match=r"algo\.lot: .* has no such key"):
        compose.compose_config((*RUN, "algo.strategy=cooperative", "algo.mixing=test_parts:Asks", "++algo.lot=7"))


def test_asking_for_what_there_is_not_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"of_run: the run has no 'seeds'; did you mean seed\?; it has seed, "):
        of_run("seeds")
    (tmp_path / "asks_wrong.py").write_text(
        "from dataclasses import dataclass\nfrom coopsgd.mixing.static import Average\nfrom coopsgd.registry import of_run\n\n"
        "@dataclass(frozen=True)\nclass Wrong(Average):\n    lot: int = of_run('sed', 0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"^algo\.mixing.*the run has no 'sed'; did you mean seed"):
        compose.compose_config((*RUN, "algo.strategy=cooperative", "algo.mixing=asks_wrong:Wrong"))


@dataclass(frozen=True)
class Circular(Graph):
    """A graph that wants to know the task, which may want the graph."""

    why: Any = of_run("task", None)

    def adjacency(self, m: int, seed: int = 0) -> Any:
        raise NotImplementedError


def test_what_is_made_later_cannot_be_asked_for():
    with pytest.raises(ConfigError, match=r"topology: Circular\.why asks the run for its task, which a graph cannot have"):
        compose.compose_config((*RUN, "algo=dpsgd", "topology.name=test_parts:Circular"))


def test_a_task_is_given_its_data_model_and_partition():
    parts = Parts(settle(("data=digits", "model=mlp", "workers=4", "steps=4", "device=cpu")))
    assert parts.task.model is parts.model and parts.task.data is parts.data and parts.task.partition is parts.partition
    assert isinstance(lookup("strategy", "cooperative"), type) and parts.but(parts.config).task is parts.task
    assert isinstance(parts.strategy, Cooperative) and Checked(parts, ()).config is parts.config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cluster=wan_100m cluster.file=a", "cluster.file: wan_100m has no such key; it is a key of cluster=from_probe, "),
        ("cluster=two_sites cluster.sep_s=1", "cluster.sep_s: two_sites has no such key; did you mean step_s?"),
        ("data=cifar10 model=resnet20 model.hidden=[3]", "model.hidden: resnet20 has no such key; it is a key of model="),
        ("cluster=custom cluster.file=a", "cluster.file: custom has no such key; "),
        ("algo=dpsgd algo.alpha=1", "algo.alpha: dpsgd has no such key; "),
    ],
)
def test_a_key_that_a_choice_does_not_have_is_told_by_the_name_of_the_choice(words, said):
    with pytest.raises(ConfigError) as refused:
        compose.compose_config(words.split())
    assert str(refused.value).startswith(said), refused.value
