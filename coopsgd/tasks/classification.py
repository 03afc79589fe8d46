"""Learning from images or vectors with one label each, by a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.data.augment import crop_and_flip
from coopsgd.data.items import too_fine_for_float32
from coopsgd.host.child import ChildFailed, answer_of
from coopsgd.registry import did_you_mean, option, register
from coopsgd.tasks.supervised import Supervised, SupervisedProblem

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.setup.schema import Config


LOSSES = ("cross_entropy", "mse", "huber", "bce")
_tried: dict[tuple[str, int], str | None] = {}  # a user's loss, for so many classes -> what is wrong with it


@register("classification", "task")
@dataclass(frozen=True)
class Classification(Supervised):
    """A `loss` of a `model` on `data`, dealt to the workers by `partition`.

    loss: of the model's outputs and the labels, trained on and logged: one of LOSSES, or module:function, which is given
    (batch, classes) and (batch,) and returns their mean. mse, huber and bce compare each output with 1 at the label's class and
    0 elsewhere.
    """

    loss: str = option("cross_entropy", "cross_entropy, mse, huber, bce, or module:function of (outputs, labels)")
    label_smoothing: float = option(0.0, "of cross_entropy: of a label's weight, that all classes share", unit="share")
    huber_delta: float = option(1.0, "of huber: the difference from which on it grows evenly", unit="")

    IMPORTS = ("loss",)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES and not all(self.loss.partition(":")):
            near = did_you_mean(self.loss, LOSSES)
            raise ValueError(f"task.loss: must be one of {', '.join(LOSSES)}, or module:function, got {self.loss!r}{near}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"task.label_smoothing: must lie in [0, 1), got {self.label_smoothing}")
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ValueError(f"task.label_smoothing: is for task.loss=cross_entropy, not {self.loss}; leave it out")
        if not self.huber_delta > 0:
            raise ValueError(f"task.huber_delta: must be positive, got {self.huber_delta}")
        if self.huber_delta != 1 and self.loss != "huber":
            raise ValueError(f"task.huber_delta: is for task.loss=huber, not {self.loss}; leave it out")

    def made_loss(self) -> Any:
        from coopsgd.tasks.engines import losses

        return losses.made(self.loss, self.label_smoothing, self.huber_delta)

    def _check_loss(self) -> None:
        """ValueError when a loss of the user's own cannot be trained with: tried once, in a process of its own."""
        key = self.loss, self.data.CLASSES
        if self.loss not in LOSSES and key not in _tried:

            def tried() -> str | None:
                from coopsgd.tasks.engines import losses

                return losses.fault(*key)

            try:
                _tried[key] = answer_of(tried)
            except ChildFailed as error:
                _tried[key] = str(error)
        if why := _tried.get(key):
            raise ValueError(f"task.loss: {self.loss}: {why}")

    def check(self, config: Config) -> None:
        super().check(config)
        self._check_loss()
        images = self.data.load(config.seed)
        for part, y in (("training", images.train_y), ("test", images.test_y)):
            if not 0 <= y.min() <= y.max() < self.data.CLASSES:
                raise ValueError(f"data: {part} labels go from {y.min()} to {y.max()}, not from 0 to {self.data.CLASSES - 1}")
        if config.dtype == "float32" and (lost := too_fine_for_float32(images.train_x, images.mean, images.std)):
            raise ValueError(f"data: {lost}; subtract its offset and scale it in the data set, or use dtype=float64")

    def test_labels(self, config: Config) -> np.ndarray:
        return self.data.load(config.seed).test_y

    def build(self, config: Config, rows: range, device: Any) -> ClassificationProblem:
        return ClassificationProblem(self, config, rows, device)


class ClassificationProblem(SupervisedProblem):
    """Images or vectors, one label each; bytes stay bytes until a batch is made of them."""

    def _load(self, task: Supervised, config: Config) -> int:
        import torch

        images = task.data.load(config.seed)
        self._train = self._tensor(images.train_x), self._tensor(images.train_y)
        self._held_out = self._tensor(images.test_x), self._tensor(images.test_y)
        self._pad = images.pad
        per_channel = (-1, *[1] * (images.train_x.ndim - 2))
        # numbers that float32 does not hold are scaled as they are: an offset is gone before they are rounded
        self._exact = torch.float64 if images.train_x.dtype == np.float64 else self._dtype
        mean, std = (torch.tensor(v, dtype=self._exact, device=self._device) for v in (images.mean, images.std))
        self._mean, self._by_std = mean.view(per_channel), (1 / std).view(per_channel)
        return len(images.test_y)

    def _batch(self, which: Tensor, rows: Sequence[int], own: Sequence[int]) -> tuple[Tensor, Tensor]:
        import torch

        x, y = (part.index_select(0, which.flatten()) for part in self._train)
        if self._pad:
            parts = zip(x.split(which.shape[1]), rows, own, strict=True)
            x = torch.cat([crop_and_flip(part, self._pad, self._seed, row, step) for part, row, step in parts])
        return self._input(x).unflatten(0, which.shape), y.view(which.shape)

    def _test(self, which: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (part.index_select(0, which) for part in self._held_out)
        return self._input(x), y

    def _own(self, which: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (part.index_select(0, which) for part in self._train)
        return self._input(x), y

    def _input(self, x: Tensor) -> Tensor:
        return x.to(self._exact, copy=True).sub_(self._mean).mul_(self._by_std).to(self._dtype)
