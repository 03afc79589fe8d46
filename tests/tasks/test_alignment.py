"""cuDNN's BatchNorm takes only what begins at 16 bytes: on a GPU it is given copies, and nothing else changes.

On a CPU every tensor of a norm is made a copy here, so that what is done with copies is what is done without them, to the bit.
"""

import pytest
import torch
from playing import settle

from coopsgd.tasks import gradients
from coopsgd.testing.runs import make_loop, rows_of_steps

CNN = ("data=digits", "model=cnn", "model.width=8", "model.norm=batch", "batch_size=4", "workers=3", "steps=7", "device=cpu")


@pytest.mark.parametrize("words", [("algo=pasgd", "tau=2"), ("algo=dpsgd", "optim=adam"), ("algo=pasgd", "optim.momentum=0.9")])
def test_copies_for_norms_change_nothing(monkeypatch, words):
    config = settle((*CNN, *words))

    def run() -> tuple[list[torch.Tensor], torch.Tensor, dict[str, float | None], list[float] | None]:
        loop = make_loop(config)
        rows = rows_of_steps(loop, config.steps)
        problem, answer = loop.steps.problem, loop.state.x.mean(0, keepdim=True)
        stats = loop.state.stats
        again = problem.recalibrated(answer, stats.mean(0, keepdim=True), 3)
        return [*rows, stats, again], problem.curved(answer, rows[0][:1], 0, 1), problem.evaluate(answer, again), None

    plain = run()
    copied = []

    def copy(value: torch.Tensor) -> torch.Tensor:
        copied.append(value)
        return value.clone()

    monkeypatch.setattr(gradients, "aligned", copy)
    other = run()
    assert len(copied) > 7 * 3 * 8  # four tensors of each of at least two norms, at every step of every worker
    assert all(torch.equal(a, b) for a, b in zip(plain[0], other[0], strict=True))
    assert torch.equal(plain[1], other[1]) and plain[2:] == other[2:]
