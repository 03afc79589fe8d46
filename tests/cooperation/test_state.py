"""In a user's loop: words, what there is to look at, and going on another time to the bit."""

from __future__ import annotations

import copy
import gc
import io
import time
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import yaml
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.version import VersionBase
from omegaconf import OmegaConf
from programs import Loop, network
from test_modules import gradients, normed, pair, values
from torch import nn
from written import SlowMo

from coopsgd import Cooperation
from coopsgd.errors import ConfigError

SLOWMO = ("algo=pasgd", f"algo.strategy={SlowMo.__module__}:SlowMo", "~algo.mixing")

# words


def test_the_words_may_be_a_line_a_dict_or_a_yaml(tmp_path, cli):
    words = ("algo=dpsgd", "topology=exponential", "tau=[[0,1],[6,2]]", "delay=1", "algo.weights=uniform", "seed=3")
    line = "coopsgd train algo=dpsgd topology=exponential 'tau=[[0,1],[6,2]]' delay=1 algo.weights=uniform seed=3 steps=1200"
    nested = {"topology": "exponential", "tau": [[0, 1], [6, 2]], "delay": 1, "seed": 3}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.dump({"algo": {"name": "dpsgd", "weights": "uniform"}, **nested}))
    assert cli("train", *words, "workers=2", "task=quadratic", "steps=2", "hydra.run.dir=run").code == 0
    makes: list[Any] = [
        words,
        (line,),
        (" ".join(words),),
        ({"algo": "dpsgd", "algo.weights": "uniform", **nested},),
        (path,),
        (str(path),),
    ]
    makes.append((str(tmp_path / "run" / "config.yaml"),))
    found = []
    for given in makes:
        models = [network() for _ in range(2)]
        with pytest.warns(UserWarning) if given[0] in (line, makes[-1][0]) else _nothing():
            coop = Cooperation(models, [torch.optim.SGD(m.parameters(), lr=0.1) for m in models], *given)
        config = coop.config
        found.append((config.algo, config.topology, config.tau, config.delay, config.seed, config.workers))
    assert all(one == found[0] for one in found)
    assert found[0][0]["weights"] == "uniform"


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_what_is_not_for_a_loop_of_ones_own_is_ignored_with_one_note():
    words = (
        "algo=pasgd",
        "tau=2",
        "data=mnist",
        "model=cnn",
        "model.width=8",
        "steps=10",
        "cluster=ethernet_1g",
        "clip=1",
        "amp=bf16",
    )
    with pytest.warns(
        UserWarning, match=r"^coopsgd: data, model, steps, cluster, clip, amp: ignored; your own loop decides that$"
    ):
        pair(network, *words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optim.lr=0.1",), "optim.lr=0.1: the optimiser is yours; set it there and leave the word out"),
        (("optim=adam",), "optim=adam: the optimiser is yours"),
        (("workers=3",), "workers=3: there are 2, one a process or model; leave it out"),
        (("algo=nope",), "algo: no choice named 'nope'"),
        (("algo=dpsgd", "topolgy=ring"), "no key named 'topolgy'; did you mean topology?"),
        (("norm_stats=recalibrate",), "norm_stats=recalibrate: needs data, which are yours; use average or local"),
        (("algo=dpsgd", "delay=4", "tau=2"), "delay=4: a message leaves within the round it belongs to"),
        (("algo=fullsync", "delay=1"), "delay=1: fullsync mixes no models"),
        ((7,), "words: each is a word as in 'tau=4', a dict or the path of a yaml, got int"),
        (({"algo": "pasgd", "optim": {"lr": 0.1}},), "++optim.lr=0.1: the optimiser is yours"),
        (("nowhere.yaml",), "config: cannot read 'nowhere.yaml'"),
    ],
)
def test_words_that_cannot_work(words, line):
    with pytest.raises(ConfigError) as caught:
        pair(normed, *words)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_who_is_idle_has_no_loss_and_counts_in_none():
    models, _, coop = pair(network, "algo=fedavg", "algo.fraction=0.5", "period=adacomm", "tau=2", samples=[1, 1])
    active = coop.active
    gradients(models)
    coop.step(loss=[1.0, 1.0])
    assert coop._loop.state.losses() == 1
    assert sorted(active) == [False, True]


def test_a_period_reads_the_rate_that_a_scheduler_has_set():
    lengths = {}
    for words in (("delay=0",), ("delay=1",), ("order=cta",)):
        models, optimizers, coop = pair(network, "algo=pasgd", "period=qsr", "period.alpha=0.1", "tau=4", *words)
        mixed = []
        for k in range(16):
            gradients(models, k)
            mixed.append(coop.step())
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = 0.1 if k < 3 else 0.03
        lengths[words] = [k for k, one in enumerate(mixed) if one]
    assert len({tuple(one) for one in lengths.values()}) == 1 and lengths[("delay=0",)] == [3, 14]


def test_post_local_waits_for_a_drop_of_the_users_rate():
    models, optimizers, coop = pair(network, "algo=pasgd", "period=post_local", "tau=3")
    mixed = []
    for k in range(8):
        gradients(models, k)
        mixed.append(coop.step())
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1 if k < 2 else 0.01
    assert mixed == [True, True, True, False, False, True, False, False]


def test_it_needs_the_loss_only_where_the_period_does():
    models, _, coop = pair(network, "algo=pasgd", "period=adacomm")
    gradients(models)
    with pytest.raises(ConfigError, match=r"step: period=adacomm looks at the loss; call coop.step\(loss=loss\)"):
        coop.step()
    with pytest.raises(ConfigError, match="step: one loss a model, got 1 for 2"):
        coop.step(loss=0.5)
    coop.step(loss=[torch.tensor(0.5), 0.5])


def counts_seconds(rank: int) -> Any:
    """The length of each round, of a rule that lowers it every half second by the clock on the wall; one process is slow."""
    loop = Loop(rank, "algo=pasgd", "tau=8", "period=adacomm", "period.interval=0.5s", "period.gamma=0.5")
    lengths: list[float] = []
    while not lengths or lengths[-1] > 2:
        assert len(lengths) < 10_000
        time.sleep(0.02 * rank)
        loop.take(1)
        lengths.append(loop.coop.scalars()["train/tau"])
    return lengths


def test_a_period_may_count_seconds(process_groups):
    here, other = process_groups(2)(counts_seconds)
    assert here == other
    assert here[0] == 8 > here[-1]


@pytest.mark.parametrize("samples", [0, [3], [3, -1], [3, 2.5]])
def test_samples_that_cannot_be(samples):
    with pytest.raises(ConfigError, match="samples: a whole number of at least 1 for each model and process, got"):
        pair(network, "algo=fedavg", samples=samples)


def test_samples_weigh_where_they_are_known():
    with pytest.warns(UserWarning, match="samples: nobody said how many each worker has, so all weigh the same"):
        pair(network, "algo=fedavg")
    models, _, coop = pair(network, "algo=fedavg", "algo.fraction=1", "tau=1", samples=[3, 1])
    alone = [network() for _ in range(2)]
    gradients(models)
    coop.step()
    gradients(alone)
    for model in alone:
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.allclose(values(models[0]), 0.75 * values(alone[0]) + 0.25 * values(alone[1]), atol=1e-15)


def test_it_lives_in_somebody_elses_hydra_application(tmp_path):
    (tmp_path / "config.yaml").write_text("defaults: [schema, _self_]\nlr: 0.5\n")
    ConfigStore.instance().store(name="schema", node=OmegaConf.create({"lr": 0.1, "mine": True}))
    Plugins.instance()
    before = SourcesRegistry.instance().resolve("file")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
        pair(network, "algo=easgd")
        found = hydra.compose("config")
        assert str(VersionBase.instance().getbase()) == "1.2"
        assert SourcesRegistry.instance().resolve("file") is before
    del ConfigStore.instance().repo["schema.yaml"]
    assert found == {"lr": 0.5, "mine": True}


# looking


class Writer:
    """Takes down what a SummaryWriter would."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.rows.append((tag, value, step))


def test_what_there_is_to_look_at():
    models, _, coop = pair(network, "algo=dpsgd", "topology=ring", "tau=2")
    writer = Writer()
    coop.log_to(writer, every=2)
    assert coop.consensus() == 0
    mixed = []
    for k in range(5):
        gradients(models, k)
        mixed.append(coop.step())
    assert mixed == [False, True, False, True, False]
    assert coop.steps == 5
    rows = torch.stack([values(model) for model in models])
    assert coop.consensus() == pytest.approx(float((rows - rows.mean(0)).square().sum() / 2))
    assert coop.zeta == pytest.approx(0)
    d = rows.shape[1]
    assert coop.ledger.totals() == {"rounds": 2, "messages": 4, "bytes": 2 * 2 * d * 8, "wire_bytes": 0}
    told = coop.scalars()
    assert told["transfer/bytes"] == 4 * d * 8
    assert told["train/lr"] == 0.1
    assert {step for _, _, step in writer.rows} == {2, 4}
    assert ("transfer/bytes", 2 * d * 8, 2) in writer.rows
    with pytest.raises(ConfigError, match="log_to: every must be a whole number of at least 1, got 0"):
        coop.log_to(writer, every=0)


def test_who_is_not_drawn_is_idle():
    models, _, coop = pair(network, "algo=fedavg", "algo.fraction=0.5", "tau=2", samples=[1, 1])
    before = [values(model) for model in models]
    active = coop.active
    assert sorted(active) == [False, True]
    gradients(models)
    coop.step()
    assert torch.equal(values(models[active.index(False)]), before[active.index(False)])
    assert not torch.equal(values(models[active.index(True)]), before[active.index(True)])


# going on


FRAGMENTS = ("algo=pasgd", "tau=6", "codec=topk", "codec.share=0.3", "fragments=columns", "fragments.count=2", "delay=1")
CASES = [
    (*FRAGMENTS, "outer=nesterov", "merge=0.5"),
    ("algo=dpsgd", "topology=ring", "tau=4", "codec=topk", "codec.share=0.3", "delay=2", "outer=momentum"),
    ("algo=gpa",),
    ("algo=easgd", "tau=3", "norm_stats=local"),
    ("algo=dpsgd", "topology=ring", "tau=4", "delay=2"),
    ("algo=dpsgd", "topology=ring", "tau=4", "delay=tau"),
    ("algo=dpsgd", "topology=ring", "tau=2", "order=cta"),
    ("algo=matching", "tau=2"),
    ("algo=fedavg", "tau=2", "algo.fraction=0.5"),
    ("algo=pasgd", "period=adacomm", "period.interval=2", "tau=3"),
    ("algo=pasgd", "tau=2", "buffers=average"),
    (*SLOWMO, "tau=2"),
    ("algo=fullsync",),
]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
@pytest.mark.parametrize("gathered", [False, True])
def test_it_goes_on_to_the_bit(words, gathered):
    def program() -> tuple[list[Any], list[Any], Cooperation]:
        return pair(normed, *words, samples=[2, 1])

    models, _, coop = program()
    for k in range(14):
        gradients(models, k)
        coop.step(loss=[1.0 / (k + 1)] * 2)
    for stop in (0, 5, 6):
        first, optimizers, before = program()
        for k in range(stop):
            gradients(first, k)
            before.step(loss=[1.0 / (k + 1)] * 2)
        file = io.BytesIO()
        torch.save([before.state_dict(gathered), [one.state_dict() for one in optimizers]], file)
        file.seek(0)
        state, theirs = torch.load(file, weights_only=True)
        second, optimizers, after = program()
        for one, told in zip(optimizers, theirs, strict=True):
            one.load_state_dict(told)
        after.load_state_dict(state)
        for k in range(stop, 14):
            gradients(second, k)
            after.step(loss=[1.0 / (k + 1)] * 2)
        for model, other in zip(models, second, strict=True):
            same = {n: torch.equal(x, other.state_dict()[n]) for n, x in model.state_dict().items() if "num_batches" not in n}
            assert all(same.values()), f"gone on after {stop}: {same}"
        assert after.steps == 14
        assert after.ledger.totals() == coop.ledger.totals()


def on_processes(rank: int, words: tuple[str, ...]) -> Any:
    """Six steps; this process's state, all states together, and the models after four more."""
    loop = Loop(rank, *words)
    loop.take(6)
    mine, every, theirs = (
        loop.coop.state_dict(),
        loop.coop.state_dict(gathered=True),
        copy.deepcopy(loop.optimizer.state_dict()),
    )
    loop.take(4)
    return mine, every, theirs, loop.rows()


def goes_on(rank: int, words: tuple[str, ...], states: list[Any], optimizers: list[Any]) -> Any:
    loop = Loop(rank, *words)
    loop.optimizer.load_state_dict(copy.deepcopy(optimizers[rank]))  # they came through shared memory
    loop.coop.load_state_dict(states[rank])
    loop.k = 6
    loop.take(4)
    return loop.rows()


@pytest.mark.parametrize(
    "words", [("algo=dpsgd", "topology=ring", "tau=4", "delay=2"), ("algo=easgd", "tau=3"), (*SLOWMO, "tau=4"), FRAGMENTS]
)
def test_processes_go_on_and_so_does_one_process_with_the_models_of_all(process_groups, words):
    group = process_groups(4)
    told = group(on_processes, words)
    mine, every, theirs, rows = zip(*told, strict=True)
    assert every[1:] == (None,) * 3
    for states in (mine, [every[0]] * 4):
        assert all(np.array_equal(a, b) for a, b in zip(group(goes_on, words, list(states), list(theirs)), rows, strict=True))
    models = [network() for _ in range(4)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    coop = Cooperation(models, optimizers, *words)
    for optimizer, told_of in zip(optimizers, theirs, strict=True):
        optimizer.load_state_dict(told_of)
    coop.load_state_dict(every[0])
    for k in range(6, 10):
        for rank, model in enumerate(models):
            draw = torch.Generator().manual_seed(1000 * rank + k)
            model.zero_grad()
            model(torch.randn(8, 4, generator=draw, dtype=torch.float64)).square().mean().backward()
        coop.step()
    assert all(np.allclose(values(model), row, atol=1e-12) for model, row in zip(models, rows, strict=True))


def test_a_state_of_something_else_is_refused():
    _, _, coop = pair(network, "algo=dpsgd", "topology=ring", "tau=4")
    state = coop.state_dict()
    _, _, other = pair(network, "algo=dpsgd", "topology=ring", "tau=3")
    with pytest.raises(ConfigError, match="load_state_dict: tau is 3, and the state is of a run where it was 4"):
        other.load_state_dict(state)
    _, _, larger = pair(lambda: nn.Linear(4, 2), "algo=dpsgd", "topology=ring", "tau=4")
    with pytest.raises(ConfigError, match=r"load_state_dict: the model is weight .* the state is of 0\.weight"):
        larger.load_state_dict(state)
    with pytest.raises(ConfigError, match="load_state_dict: this is no state of a Cooperation"):
        coop.load_state_dict({"model": {}})
    with pytest.raises(
        ConfigError, match="this is the state of process 3 of 4, and this process is 0 of 1; give each its own, or"
    ):
        coop.load_state_dict({**state, "rank": 3, "processes": 4})


def goes_back(rank: int) -> Any:
    """Rows after twelve steps at once; after a way back with a message under way; and with one that nobody waits for any more.

    The last process is late: what is sent to the others comes when they have thrown away what should receive it.
    """
    words, found = ("algo=dpsgd", "topology=ring", "tau=4", "delay=2"), []
    for way in ("straight", "back", "left over"):
        if way == "left over":
            other = Loop(rank, *words, model=network(seed=5))
            other.take(5)
            time.sleep(0.5 * (rank == 3))
            other.take(1)
            del other
            gc.collect()
        loop = Loop(rank, *words)
        if way == "back":
            loop.take(5)
            time.sleep(0.5 * (rank == 3))
            loop.take(1)
            mine, theirs = loop.coop.state_dict(), copy.deepcopy(loop.optimizer.state_dict())
            loop.take(1)
            loop.optimizer.load_state_dict(theirs)
            loop.coop.load_state_dict(mine)
            gc.collect()
            loop.k = 6
        loop.take(12 - loop.k)
        found.append(loop.rows())
    return found


def test_messages_under_way_are_nobody_elses(process_groups):
    for straight, *others in process_groups(4)(goes_back):
        assert all(np.array_equal(straight, other) for other in others)
