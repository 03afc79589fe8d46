"""Learning from images or vectors with one label each, or with several, by a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coopsgd.registry import option, register
from coopsgd.tasks.arrays import Arrays

if TYPE_CHECKING:
    from coopsgd.setup.schema import Config


@register("classification", "task")
@dataclass(frozen=True)
class Classification(Arrays):
    """A `loss` of a `model` on `data`, dealt to the workers by `partition`.

    loss: of the model's outputs and the labels, trained on and logged: one of LOSSES, or module:function, which is given
    (batch, classes) and (batch,) and returns their mean. mse, huber and bce compare each output with 1 at the label's class and
    0 elsewhere. Of data with several labels a sample the targets are (batch, classes) of 0 and 1, and cross_entropy is none.
    Then an output above 0 (of mse and huber above 1/2) says that a label is there, eval/accuracy is the share of samples whose
    labels are all right, and eval/f1 the F1 score over all labels together.
    """

    LOSSES = ("cross_entropy", "mse", "huber", "bce")
    loss: str = option("cross_entropy", "cross_entropy, mse, huber, bce, or module:function of (outputs, labels)", words=LOSSES)
    label_smoothing: float = option(0.0, "of cross_entropy: of a label's weight, that all classes share", unit="share")

    TARGETS = ("label", "labels")
    SCORES = ("accuracy", "f1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"task.label_smoothing: must lie in [0, 1), got {self.label_smoothing}")
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ValueError(f"task.label_smoothing: is for task.loss=cross_entropy, not {self.loss}; leave it out")

    def made_loss(self) -> Any:
        from coopsgd.tasks.engines import losses

        return losses.made(self.loss, self.label_smoothing, self.huber_delta)

    def _check_targets(self, config: Config) -> None:
        super()._check_targets(config)
        images = self.data.load(config.seed)
        if images.targets == "labels":
            if self.loss == "cross_entropy":
                raise ValueError(
                    f"task.loss: cross_entropy learns one label a sample, data={config.data['name']} has several; use "
                    "task.loss=bce"
                )
            return
        for part, y in (("training", images.train_y), ("test", images.test_y)):
            if not 0 <= y.min() <= y.max() < self.data.CLASSES:
                raise ValueError(f"data: {part} labels go from {y.min()} to {y.max()}, not from 0 to {self.data.CLASSES - 1}")

    def scores(self, config: Config) -> tuple[str, ...]:
        return self.SCORES if self.targets(config) == "labels" else ("accuracy",)

    def learns(self) -> str:
        return "task classification learns labels"
