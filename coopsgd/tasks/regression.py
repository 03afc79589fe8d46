"""Learning numbers from images or vectors, by a network."""

from __future__ import annotations

from dataclasses import dataclass

from coopsgd.registry import option, register
from coopsgd.tasks.arrays import Arrays


@register("regression", "task")
@dataclass(frozen=True)
class Regression(Arrays):
    """A `loss` of a `model` on `data`, whose samples give one number or several, dealt to the workers by `partition`.

    loss: of the model's outputs and the targets, (batch, numbers) both, trained on and logged: mse, huber, or module:function,
    which returns their mean. There is no accuracy; eval/r2 is the share of the variance of the test targets that the answer
    explains, of several numbers the mean. shards and dirichlet deal by the tenth of the training targets that a number lies in.
    """

    LOSSES = ("mse", "huber")
    loss: str = option("mse", "mse, huber, or module:function of (outputs, targets)", words=LOSSES)

    TARGETS = ("numbers",)
    SCORES = ("r2",)

    def learns(self) -> str:
        return "task regression learns numbers"
