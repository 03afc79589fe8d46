"""task.loss=module:function: what would be trained on something else than meant is refused before the run, in a line."""

from __future__ import annotations

import numpy as np
import pytest
from playing import MLP, play, settle

from coopsgd.errors import ConfigError
from coopsgd.tasks.engines import losses

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F

def summed(outputs, labels):
    return F.cross_entropy(outputs, labels, reduction="sum")

def drawn(outputs, labels):
    return F.cross_entropy(F.dropout(outputs), labels)

def endless(outputs, labels):
    return F.cross_entropy(outputs, labels) / 0

def undefined(outputs, labels):
    return F.cross_entropy(outputs, labels) * float("nan")

def moved(outputs, labels):
    labels[0] = 0
    return F.cross_entropy(outputs, labels)

class Counting(nn.Module):
    n = 0
    def forward(self, outputs, labels):
        self.n += 1
        return F.cross_entropy(outputs, labels) / self.n

class Weighing(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(10))
    def forward(self, outputs, labels):
        return F.cross_entropy(outputs * self.w, labels)

def shaped(outputs, labels):
    return F.cross_entropy(outputs, labels).reshape(1)

def of_shares(outputs, labels):
    return F.binary_cross_entropy(outputs, F.one_hot(labels, outputs.shape[-1]).to(outputs.dtype))

def spread(outputs, labels):
    return F.cross_entropy(outputs, labels) + outputs.std(0).mean()

def weighted(outputs, labels):
    return F.cross_entropy(outputs, labels, weight=torch.arange(1.0, 11.0, dtype=outputs.dtype))

def branching(outputs, labels):
    found = F.cross_entropy(outputs, labels)
    return found if found.item() > 0 else 2 * found
"""

BAD = {
    "summed": "the sum over the batch",
    "drawn": "another number for the same outputs",
    "Counting": "another number for the same outputs",
    "endless": "returned inf",
    "undefined": "returned nan",
    "moved": "changed the targets it was given",
    "Weighing": "parameters of its own",
    "absent": "module 'own' has no attribute 'absent'",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    __import__("sys").modules.pop("own", None)


@pytest.mark.parametrize("name", BAD)
def test_a_loss_that_trains_something_else_is_refused(own, name):
    why = losses.fault(f"own:{name}", 10)
    assert why is not None and BAD[name] in why and "\n" not in why and not why.startswith("loss ")


@pytest.mark.parametrize("name", ["shaped", "of_shares", "spread", "weighted"])
def test_a_mean_is_taken_as_it_is(own, name):
    assert losses.fault(f"own:{name}", 10) is None


@pytest.mark.parametrize("engine", ["loop", "bmm", "vmap"])
def test_a_tensor_of_one_number_is_one(own, engine):
    words = (*MLP, "workers=2", "processes=1", "algo=pasgd", "tau=1", "steps=2", f"engine={engine}")
    mine, known = play(None, 1, *words, "task.loss=own:shaped"), play(None, 1, *words)
    np.testing.assert_allclose(mine.x, known.x, rtol=0, atol=1e-12)


def test_what_vmap_cannot_map_is_refused_before_a_run(own):
    words = (*MLP, "workers=2", "processes=1", "algo=pasgd", "task.loss=own:branching", "steps=2")
    with pytest.raises(ConfigError, match=r"^task.loss: own:branching: torch cannot map it over models .*; use engine=loop$"):
        settle((*words, "engine=vmap"))
    assert losses.fault("own:branching", 10) is None and losses.fault("own:weighted", 10, mapped=True) is None
