"""task.loss: what is minimised, the same in every engine, and logged as the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing import MLP, play, settle
from torch.nn import functional

from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts
from coopsgd.tasks.networks import bound

BY_HAND = {
    "task.loss=mse": lambda x, y: functional.mse_loss(x, functional.one_hot(y, 10).double()),
    "task.loss=huber task.huber_delta=0.3": lambda x, y: functional.huber_loss(
        x, functional.one_hot(y, 10).double(), delta=0.3
    ),
    "task.loss=bce": lambda x, y: functional.binary_cross_entropy_with_logits(x, functional.one_hot(y, 10).double()),
    "task.label_smoothing=0.2": lambda x, y: functional.cross_entropy(x, y, label_smoothing=0.2),
    "task.loss=my_losses:margin": lambda x, y: functional.multi_margin_loss(x, y),
    "task.loss=my_losses:Margin": lambda x, y: functional.multi_margin_loss(x, y),
}
OWN = """from torch import nn

def margin(outputs, labels):
    return nn.functional.multi_margin_loss(outputs, labels)

class Margin(nn.MultiMarginLoss):
    pass

def each(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels, reduction="none")

def broken(outputs, labels):
    raise RuntimeError("no idea")

def cut(outputs, labels):
    return outputs.detach().mean()
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("loss", BY_HAND)
@pytest.mark.parametrize("engine", ["loop", "bmm"])
def test_a_step_is_that_of_torch(loss, engine):
    words = (*MLP, "algo=independent", "workers=2", "steps=2", "batch_size=8", "optim.lr=0.1", f"engine={engine}")
    words = (*words, *loss.split())
    played = play(None, 1, *words)
    config = settle(words)
    task = Parts(config).task
    images = task.data.load(0)
    problem = task.build(config, range(2), torch.device("cpu"))
    network = bound(task, 0, torch.float64)
    start = network.flat()
    for i in range(2):
        row, grad = start.clone(), torch.zeros(1, network.d, dtype=torch.float64)
        network.bind(row, grad)
        for k in range(2):
            which = problem._batches.at(np.full(2, k))[i]
            x = (torch.from_numpy(images.train_x[which]).double() - 8) / 16
            grad.zero_()
            BY_HAND[loss](network.row(0)(x), torch.from_numpy(images.train_y[which])).backward()
            row.sub_(0.1 * grad)
        np.testing.assert_allclose(played.x[i], row[0].numpy(), rtol=0, atol=1e-12)
    module = network.elsewhere(torch.from_numpy(played.answer)[None]).eval()
    said = module((torch.from_numpy(images.test_x).double() - 8) / 16)
    wanted = float(BY_HAND[loss](said.detach(), torch.from_numpy(images.test_y)))
    assert played.lines[-1]["eval/loss"] == pytest.approx(wanted, rel=1e-10)


def test_vmap_too():
    words = (*MLP, "algo=independent", "workers=2", "steps=2", "batch_size=8", "task.loss=huber")
    one, other = (play(None, 1, *words, f"engine={engine}").x for engine in ("vmap", "loop"))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("task.loss=mae",), ["task.loss", "'mae'", "huber", "module:function"]),
        (("task.label_smoothing=1",), ["task.label_smoothing", "[0, 1)", "1"]),
        (("task.label_smoothing=0.1", "task.loss=mse"), ["task.label_smoothing", "cross_entropy", "mse"]),
        (("task.huber_delta=0", "task.loss=huber"), ["task.huber_delta", "positive", "0"]),
        (("task.huber_delta=2",), ["task.huber_delta", "task.loss=huber"]),
        (("task.loss=my_losses:nothing",), ["task.loss", "nothing"]),
        (("task.loss=my_losses:each",), ["task.loss", "(3,)", "mean"]),
        (("task.loss=my_losses:broken",), ["task.loss", "no idea"]),
        (("task.loss=my_losses:cut",), ["task.loss", "does not depend"]),
    ],
)
def test_bad_values_are_told(words, parts):
    with pytest.raises(ConfigError) as refused:
        settle((*MLP, *words))
    assert all(part in str(refused.value) for part in parts) and "\n" not in str(refused.value)
