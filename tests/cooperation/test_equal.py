"""A user's loop has the rows of a run: the same algorithm on the same batches, after every step."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from playing import OF_ADAM, TIES, settle, with_tau
from torch.nn.functional import cross_entropy
from written import SlowMo

from coopsgd import Cooperation
from coopsgd.loop import norm_stats
from coopsgd.loop.consensus import distance
from coopsgd.setup import catalogue
from coopsgd.setup.parts import Parts
from coopsgd.tasks.networks import bound, network
from coopsgd.testing.runs import Recorder, make_loop

EXACT = 1e-12
STEPS = 11  # a message that leaves before step 12 has left here after step 11: the cases below have none
RUN = ("workers=4", "dtype=float64", "batch_size=4", "device=cpu", f"steps={STEPS}", "launch=false")
MLP = ("model.hidden=[6]",)
CNN = ("model=cnn", "model.width=8", "model.norm=batch")
SGD = ("optim.lr=0.05", "optim.momentum=0.9")
NEEDS = {  # what an algorithm needs here beside its rounds of two steps
    **dict.fromkeys(OF_ADAM, ("optim.lr=0.01",)),
    **dict.fromkeys(TIES, (*SGD, "data=gaussian")),  # pixels that are alike have gradients that are: any is the largest
    "muloco": ("optim=sgd", *SGD),  # muon is what the run would have; a user's loop has what he likes
    "streaming_diloco": (*SGD, "tau=6", "steps=10"),  # a round every third step, whose message leaves a step earlier
}
ALGOS = [choice.name for choice in catalogue.choices("algo") if choice.name != "cooperative"]


def optimizer(config: Any, model: Any) -> torch.optim.Optimizer:
    settings = {k: v for k, v in config.optim.items() if k != "name"}
    if "beta1" in settings:
        settings["betas"] = settings.pop("beta1"), settings.pop("beta2")
    return getattr(torch.optim, {"sgd": "SGD", "adam": "Adam"}[config.optim["name"]])(model.parameters(), **settings)


def users_loop(rank: int, processes: int, config: Any, words: tuple[str, ...]) -> Any:
    """A program of torch's parts on the batches of a run: models after each step, the answer, totals, the consensus."""
    parts = Parts(config)
    share = config.workers // processes
    rows = range(rank * share, (rank + 1) * share)
    batches = parts.task.build(config, rows, torch.device("cpu"))
    models = [network(parts.task, config.seed).to(torch.float64) for _ in rows]
    optimizers = [optimizer(config, model) for model in models]
    schedulers = []
    if config.schedule["name"] == "step":
        every, gamma = config.schedule["every"], config.schedule["gamma"]
        schedulers = [torch.optim.lr_scheduler.StepLR(one, every, gamma) for one in optimizers]
    sizes = parts.task.sizes(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        coop = Cooperation(models, optimizers, *words, samples=[sizes[i] for i in rows])
    own, found = torch.zeros(share, dtype=torch.int64).numpy(), []
    for _ in range(config.steps):
        x, y = batches._fetch(batches._batches.at(own), own, 0, share)
        losses = []
        for model, one, inputs, targets in zip(models, optimizers, x, y, strict=True):
            one.zero_grad()
            losses.append(cross_entropy(model(inputs), targets))
            losses[-1].backward()
        own = own + coop.active
        coop.step(loss=losses)
        for scheduler in schedulers:
            scheduler.step()
        found.append([flat(model) for model in models])
    with coop.answer():
        answer = flat(models[0])
    ledger = coop.ledger.totals()
    return found, answer, (ledger["rounds"], ledger["messages"], ledger["bytes"]), coop.consensus()


def flat(model: Any) -> Any:
    numbers = [b.detach() for b in model.buffers() if b.is_floating_point()]
    return torch.cat([x.detach().reshape(-1) for x in [*model.parameters(), *numbers]]).numpy().copy()


def check(process_groups: Any, processes: int, *words: str) -> None:
    """The user's loop of these words in so many processes, against the run."""
    config = settle((*RUN, *words))
    mine = tuple(word for word in words if not word.startswith("optim"))
    if processes == 1:
        answers = [users_loop(0, 1, config, mine)]
    else:
        answers = process_groups(processes)(users_loop, processes, config, mine)
    agree(config, answers)


def agree(config: Any, answers: list[Any]) -> None:
    """AssertionError unless what the users' loops told agrees with the run after every step."""
    loop = make_loop(config, observer=Recorder())
    module = bound(loop.parts.task, config.seed, torch.float64)

    def off(row: Any, statistics: Any, other: Any) -> float:
        """Between a row of the run and a user's module."""
        found = module.elsewhere(row[None].clone(), None if statistics is None else statistics[None])
        return float(np.abs(flat(found) - other).max())

    for k in range(config.steps):
        loop.advance()
        st = loop.state
        if st.postponed is not None:
            continue  # order=cta: in a user's loop models are mixed after his step, not before his next forward pass
        theirs = [model for steps, *_ in answers for model in steps[k]]
        for i, other in enumerate(theirs):
            assert off(st.x[i], None if st.stats is None else st.stats[i], other) < EXACT, f"worker {i}, step {k + 1}"
    with loop.fleet.measuring():
        answer, statistics = norm_stats.answer(loop, None, config.norm_stats)
        apart = distance(loop.fleet, loop.state.x)
    ledger = loop.fleet.ledger
    for _, shipped, totals, consensus in answers:
        assert totals == (ledger.rounds, ledger.messages, ledger.bytes)
        assert off(answer[0], None if statistics is None else statistics[0], shipped) < EXACT
        assert consensus == pytest.approx(apart, rel=1e-9, abs=EXACT)


@pytest.mark.parametrize("algo", ALGOS)
def test_every_algorithm(process_groups, algo):
    words = NEEDS.get(algo, SGD)
    tau = () if any(word.startswith("tau=") for word in words) else with_tau(algo, 2)
    check(process_groups, 4, *MLP, *words, f"algo={algo}", *tau)


@pytest.mark.parametrize(
    "words",
    [
        ("algo=dpsgd", "tau=5", "delay=1"),
        ("algo=easgd", "tau=3", "delay=tau"),
        ("algo=dpsgd", "tau=2", "order=cta"),
        ("algo=pasgd", "tau=2", "buffers=average"),
        ("algo=pasgd", "tau=2", "buffers=reset"),
        ("algo=pasgd", "tau=4", "period=adacomm", "period.interval=4"),
        ("algo=pasgd", "tau=2", "period=qsr", "period.alpha=0.1", "schedule=step", "schedule.every=3", "schedule.gamma=0.5"),
        ("algo=fedavg", "tau=2", "algo.fraction=0.5", "partition=dirichlet"),
        ("algo=pasgd", "tau=2", "weights_by=samples", "partition=dirichlet"),
        ("algo=dpsgd", "tau=5", "delay=1", "outer=nesterov"),
        ("algo=slowmo", "tau=2"),
        (
            *("algo=pasgd", "tau=6", "steps=10", "codec=randk", "codec.share=0.2", "fragments=columns", "fragments.count=2"),
            *("delay=1", "outer=nesterov", "merge=0.5"),
        ),
        ("algo=pasgd", "tau=4", "fragments=columns", "fragments.count=2", "fragments.by=layer", "outer=nesterov"),
        ("algo=pasgd", "tau=4", "codec=powersgd", "fragments=columns", "fragments.count=2", "fragments.by=layer"),
        ("algo=dpsgd", "tau=5", "codec=randk", "codec.share=0.2", "delay=2", "outer=momentum", "outer.momentum=0.4"),
        ("algo=fedavg", "tau=2", "algo.fraction=0.5", "correction=scaffold", "outer=adam", "codec=bf16"),
        ("algo=pasgd", f"algo.strategy={SlowMo.__module__}:SlowMo", "~algo.mixing", "tau=2"),
    ],
    ids=" ".join,
)
def test_other_axes(process_groups, words):
    check(process_groups, 2, *MLP, *SGD, *words)


@pytest.mark.parametrize("words", [("algo=dpsgd", "tau=2"), ("algo=pasgd", "tau=2", "norm_stats=local"), ("algo=fullsync",)])
def test_running_statistics(process_groups, words):
    check(process_groups, 4, *CNN, *SGD, *words)


@pytest.mark.parametrize(
    "words", [("algo=dpsgd", "tau=5", "delay=1"), ("algo=fullsync",), ("algo=pasgd", "buffers=average", "tau=2")]
)
def test_several_models_in_one_process(words):
    check(None, 1, *MLP, "optim=adam", *words)
