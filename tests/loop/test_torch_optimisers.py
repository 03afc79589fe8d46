"""optim=torch: every class steps stacked rows as one optimiser a worker would, and is saved, averaged and reset by row."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest
import torch
from playing import play, settle
from refusals import refused

from coopsgd.loop.inner import Inner
from coopsgd.loop.saved import flatten, inflate
from coopsgd.optim.torch import CLASSES
from coopsgd.schedules import Cosine
from coopsgd.setup.build import written_out
from coopsgd.setup.identity import identity
from coopsgd.setup.parts import Parts

GIVEN = [
    *((name, {}) for name in CLASSES),
    ("RMSprop", {"alpha": 0.9, "momentum": 0.8, "centered": True, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "betas": [0.8, 0.9]}),
    ("Adagrad", {"initial_accumulator_value": 0.5, "lr_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("ASGD", {"t0": 2.0, "lambd": 0.1}),
]
TOOK = [(1, 1, 1), (1, 0, 1), (0, 0, 1), (1, 1, 0), (1, 1, 1)]
WORDS = ("task=quadratic", "workers=4", "tau=2", "steps=8", "dtype=float64", "eval_every=0", "optim=torch")


def test_keys_and_defaults_are_those_of_torch():
    ours = {"params", "foreach", "maximize", "capturable", "differentiable", "fused"}
    for name, cls in CLASSES.items():
        theirs = inspect.signature(getattr(torch.optim, name)).parameters
        assert {f.name for f in fields(cls)} == set(theirs) - ours, name
        for key, value in ((f.name, getattr(cls(), f.name)) for f in fields(cls)):
            default = theirs[key].default
            assert (tuple(value) if isinstance(value, list) else value) == default, (name, key)


def of_torch(name, keys, x):
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
    return getattr(torch.optim, name)([x], **options)


@pytest.mark.parametrize(("name", "keys"), GIVEN, ids=lambda value: str(value))
def test_workers_step_as_they_would_alone(name, keys):
    """Some are idle, the rate moves, and half way another takes over from what was saved."""
    torch.manual_seed(0)
    x = torch.randn(3, 7, dtype=torch.float64)
    alone = [torch.nn.Parameter(row[None].clone()) for row in x]
    optimizers = [of_torch(name, keys, p) for p in alone]
    settings = CLASSES[name](**keys)
    inner = Inner(settings, Cosine(), x, 3, len(TOOK))
    for k, active in enumerate(TOOK):
        grad = torch.randn_like(x)
        for i in range(3):
            optimizers[i].param_groups[0]["lr"] = inner.lr
            alone[i].grad = grad[i : i + 1].clone() if active[i] else None
            optimizers[i].step()
        before = x.clone()
        inner.step(x, grad, None if all(active) else np.array(active, dtype=bool))
        inner.advance()
        assert all(active[i] or torch.equal(x[i], before[i]) for i in range(3))
        if k in (0, 2):  # rows together, then apart
            skeleton, leaves = flatten(inner.saved())
            tensors = {at: torch.cat([*leaf.parts]) for at, leaf in leaves.items()}
            again = Inner(settings, Cosine(), x, 3, len(TOOK))
            again.restore(inflate(skeleton, lambda at, kind, t=tensors: t[at].clone()), k + 1)
            inner = again
    torch.testing.assert_close(x, torch.cat([p.detach() for p in alone]), rtol=0, atol=1e-12)
    kept = dict(zip(settings.buffers, inner.stacked(), strict=True))
    for i, (p, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
        state = optimizer.state[p]
        rows = {key for key, value in state.items() if torch.is_tensor(value) and value.dim() == 2}
        assert rows == set(kept)
        for key in rows:
            torch.testing.assert_close(kept[key][i : i + 1], state[key], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_reset_is_a_new_optimiser(name):
    torch.manual_seed(0)
    x, grads = torch.randn(2, 5, dtype=torch.float64), torch.randn(4, 2, 5, dtype=torch.float64)
    inner = Inner(CLASSES[name](), Cosine(), x, 2, 9)
    for g in grads[:2]:
        inner.step(x, g)
    inner.reset()
    other = x.clone()
    fresh = Inner(CLASSES[name](), Cosine(), other, 2, 9)
    if name == "Adagrad":
        fresh.put(fresh.stacked())  # what it starts from can be told before it has stepped
    for g in grads[2:]:
        inner.step(x, g)
        fresh.step(other, g)
    assert torch.equal(x, other)


@pytest.mark.parametrize(
    "more",
    [
        ("optim.cls=RMSprop", "optim.centered=true", "optim.momentum=0.5", "buffers=average", "algo=pasgd"),
        ("optim.cls=NAdam", "algo=fedavg", "algo.fraction=0.5", "buffers=reset"),
    ],
)
def test_on_every_placement_the_same(process_groups, more):
    one, two = (play(process_groups, n, *WORDS, *more) for n in (1, 2))
    np.testing.assert_allclose(one.x, two.x, rtol=0, atol=1e-12)


def test_a_config_holds_the_class_and_all_its_keys():
    config = settle((*WORDS, "optim.cls=torch.optim.RMSprop", "optim.alpha=0.9"))
    other = settle((*WORDS, "optim.cls=RMSprop", "optim.alpha=0.8"))
    assert Parts(config).optim == CLASSES["RMSprop"](alpha=0.9)
    assert identity(config) != identity(other)
    assert written_out(config).optim == {
        **{f.name: getattr(CLASSES["RMSprop"](), f.name) for f in fields(CLASSES["RMSprop"])},
        "alpha": 0.9,
        "cls": "torch.optim.RMSprop",
        "name": "torch",
    }


REFUSED = [
    (("optim.cls=RMSProp",), ["optim.cls", "did you mean RMSprop"]),
    (("optim.cls=LBFGS",), ["LBFGS", "not elementwise"]),
    (("optim.cls=Adafactor",), ["Adafactor", "not elementwise"]),
    (("optim.cls=Muon",), ["optim=muon"]),
    (("optim.cls=''",), ["optim.cls", "Adadelta"]),
    (("optim.cls=RMSprop", "optim.alfa=0.9"), ["optim.alfa", "alpha"]),
    (("optim.cls=RMSprop", "optim.alpha=1.5"), ["optim.alpha", "[0, 1)", "1.5"]),
    (("optim.cls=RMSprop", "optim.foreach=true"), ["optim.foreach"]),
    (("optim.cls=Adam", "optim.betas=[0.9]"), ["optim.betas", "two numbers", "[0.9]"]),
    (("optim.cls=Adam", "optim.betas=[0.9,1.0]"), ["optim.betas", "[0, 1)"]),
    (("optim.cls=Rprop", "optim.etas=[1.2,0.5]"), ["optim.etas"]),
    (("optim.cls=Rprop", "algo=pasgd", "buffers=average"), ["buffers=average", "Rprop", "buffers=keep"]),
    (("optim.cls=Adagrad", "optim.lr=0"), ["optim.lr", "positive"]),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: " ".join(case[0]))
def test_refused_in_one_line(case):
    words, message = case
    refused(("task=quadratic", "optim=torch", *words), message)


def test_a_class_in_the_place_of_a_choice_is_told_how():
    refused(("task=quadratic", "optim=rmsprop"), ["optim=torch optim.cls=RMSprop"])
