"""A run that is saved and loaded after every step goes on as one that is not: nothing of its state is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from written import GradientTracking, PushSum, SlowMo, StreamingDiLoCo

from coopsgd import Common, Rows, Strategy
from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.loop.inner import Inner
from coopsgd.loop.loop import Loop
from coopsgd.loop.saved import ByRow, NotSaved, Shared, flatten, homes, inflate, marked
from coopsgd.testing.battery import CNN, COMMON, QUADRATIC, _words
from coopsgd.testing.runs import make_loop
from coopsgd.testing.saved import saved_and_loaded


def check(*words: str) -> None:
    saved_and_loaded("this run", compose_config([*COMMON, *words]).config)


AXES = [
    ["delay=1"],
    ["delay=tau", "optim.momentum=0.9"],
    ["order=cta"],
    ["delay=2", "cluster=ethernet_1g"],
    ["delay=1", "buffers=average", "optim.momentum=0.9"],
    ["delay=1", "buffers=reset", "optim=adamw"],
    ["optim=adam", "buffers=average"],
    ["period=adacomm", "period.interval=4"],
    ["period=post_local", "period.switch=auto", "schedule=step", "schedule.every=4"],
    ["period=qsr", "schedule=cosine", "schedule.warmup=3"],
    ["schedule=multistep", "schedule.milestones=[3,9]"],
    ["tau=[[0,1],[4,5]]", "delay=1", "optim.momentum=0.9"],
]


@pytest.mark.parametrize("words", AXES, ids=" ".join)
def test_every_axis(words):
    check(*QUADRATIC, "algo=dpsgd", "tau=3", "steps=13", *words)


@pytest.mark.parametrize(
    "words", [["cluster=ethernet_1g"], ["optim=adamw", "buffers=keep"], ["optim.momentum=0.9"]], ids=" ".join
)
@pytest.mark.parametrize("algo", ["fedavg", "easgd", "matcha", "fullsync"])
def test_idle_workers_auxiliary_models_and_random_matrices(algo, words):
    check(*QUADRATIC, f"algo={algo}", *([] if algo == "fullsync" else ["tau=3"]), "steps=10", *words)


@pytest.mark.parametrize("cls", [SlowMo, StreamingDiLoCo, PushSum, GradientTracking])
def test_algorithms_with_a_state_of_their_own_under_a_delay(cls):
    check(*QUADRATIC, *_words(cls), "tau=3", "delay=1", "steps=10")


@pytest.mark.parametrize(
    "words",
    [["algo=dpsgd"], ["algo=fedavg", "algo.fraction=0.5"], ["algo=dpsgd", "delay=1"], ["algo=easgd", "norm_stats=local"]],
    ids=" ".join,
)
def test_running_statistics_and_module_buffers(words):
    check(*CNN, "tau=3", "steps=7", "optim.momentum=0.9", *words)


# a state that somebody adds


@pytest.mark.parametrize("name", ["x", "s", "inner", "rounds", "losses", "ledger", "clock", "k", "flight", "postponed"])
def test_what_is_left_out_is_noticed(monkeypatch, name):
    """Every field of the state matters to one of these runs."""
    words = {
        "s": [*_words(SlowMo), "tau=2"],
        "losses": ["algo=pasgd", "period=adacomm", "tau=4", "period.interval=4"],
        "clock": ["algo=pasgd", "tau=2", "cluster=ethernet_1g"],
        "flight": ["algo=pasgd", "tau=3", "delay=2"],
        "postponed": ["algo=pasgd", "tau=2", "order=cta"],
    }.get(name, ["algo=pasgd", "tau=2", "optim.momentum=0.9"])
    config = compose_config([*COMMON, *QUADRATIC, "steps=9", *words]).config
    start, whole = make_loop(config), Loop._restore
    skeleton, tensors = flatten(start.saved())

    def without(self, tree):  # as a loop begins, instead
        fresh = inflate(skeleton, lambda at, kind: _whole(tensors[at]).clone(), homes(self.strategy, self.parts.period))
        whole(self, {**tree, name: fresh[name]})

    monkeypatch.setattr(Loop, "_restore", without)
    with pytest.raises((AssertionError, ValueError)):
        saved_and_loaded("this run", config)


def test_an_idle_row_is_saved_apart():
    """Rows that are one parameter are taken apart again where some have taken more steps than others."""
    config = compose_config([*COMMON, *QUADRATIC, "algo=fedavg", "buffers=keep", "tau=2", "optim=adamw", "steps=9"]).config
    loop = make_loop(config)
    for _ in range(6):
        loop.advance()
    steps = loop.state.inner.saved()["steps"].parts[0][:, 0].tolist()
    assert len(set(steps)) > 1 and steps == loop.state.rounds.own.tolist()


# a tree


class Pair(NamedTuple):
    anchor: Common
    tracker: Rows | None
    count: int


@dataclass(frozen=True)
class Deep:
    pairs: tuple[Pair, ...]
    by_name: dict[str, Rows]
    text: str = "a"


def _whole(leaf):
    return torch.cat(list(leaf.parts)) if isinstance(leaf, ByRow) else leaf.tensor


def test_a_tree_comes_back_as_it_was():
    one = torch.ones(1, 3)
    state = Deep((Pair(one, None, 3), Pair(one * 2, torch.zeros(4, 3), 4)), {"a": torch.ones(4, 1)}, "ü")
    skeleton, tensors = flatten(
        {"s": marked(state, "", "its state"), "t": np.arange(3.0), "nan": float("nan"), "n": np.int64(3)}
    )
    kinds = {at: type(leaf) for at, leaf in tensors.items()}
    assert kinds == {
        ".s.pairs.0.anchor": Shared,
        ".s.pairs.1.anchor": Shared,
        ".s.pairs.1.tracker": ByRow,
        ".s.by_name.a": ByRow,
        ".t": Shared,
    }

    def read(at, kind):
        assert kind == kinds[at].__name__
        return _whole(tensors[at])

    again = inflate(skeleton, read, [__import__(__name__)])
    assert isinstance(again["s"], Deep) and again["s"].text == "ü" and again["s"].pairs[1].count == 4
    assert torch.equal(again["s"].pairs[1].tracker, torch.zeros(4, 3)) and again["s"].pairs[0].tracker is None
    assert (again["t"] == np.arange(3.0)).all() and again["nan"] != again["nan"] and type(again["n"]) is int


@dataclass(frozen=True)
class Bare(Strategy):
    def init(self, fleet, x):
        return {"anchor": x.clone()}


@dataclass(frozen=True)
class Odd(Strategy):
    def init(self, fleet, x):
        return {"open": open}


@pytest.mark.parametrize(
    ("cls", "parts"),
    [(Bare, ["Bare: its state['anchor']", "annotate it as Rows"]), (Odd, ["open is a builtin_function_or_method"])],
)
def test_a_state_that_cannot_be_saved_is_refused_before_the_first_step(cls, parts):
    config = compose_config([*COMMON, *QUADRATIC, *_words("pasgd"), "steps=3"]).config
    with pytest.raises(ConfigError) as error:
        make_loop(config, cls())
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["a"]), {1: 2}, torch.ones(2)])
def test_what_no_checkpoint_can_hold_is_named(value):
    with pytest.raises(NotSaved, match=r"^state\.odd is a "):
        flatten({"state": {"odd": value}})


def test_a_schedule_of_another_length_is_played_anew():
    settings = compose_config([*COMMON, *QUADRATIC, "algo=pasgd", "tau=2", "schedule=cosine", "schedule.warmup=3", "steps=20"])
    parts, x = settings.parts, torch.zeros(4, 2)
    short, long = (Inner(parts.optim, parts.schedule, x, 4, steps) for steps in (10, 20))
    for inner in (short, long):
        for _ in range(6):
            inner.advance()
    skeleton, tensors = flatten(short.saved())
    again = Inner(parts.optim, parts.schedule, x, 4, 20)
    again.restore(inflate(skeleton, lambda at, kind: _whole(tensors[at])), 6)
    assert again.lr == long.lr != short.lr
