"""What tasks share that learn from arrays in memory, images or vectors: their losses, their batches, their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopsgd.data.augment import crop_and_flip
from coopsgd.data.items import too_fine_for_float32
from coopsgd.host.child import ChildFailed, answer_of
from coopsgd.registry import did_you_mean, option
from coopsgd.tasks.supervised import Supervised
from coopsgd.tasks.supervised_problem import SupervisedProblem

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.setup.schema import Config

BINS = 10  # of a number, by which samples are dealt where classes are dealt
_tried: dict[
    tuple[str, int, str, bool], str | None
] = {}  # a user's loss, for so many outputs and such targets -> what is wrong


@dataclass(frozen=True)
class Arrays(Supervised):
    """A `loss` of a `model` on `data`, whose samples give what one of TARGETS says (data/base.py)."""

    loss: str = option("mse", "or module:function of (outputs, targets)")
    huber_delta: float = option(1.0, "of huber: the difference from which on it grows evenly", unit="")

    IMPORTS = ("loss",)
    LOSSES: ClassVar[tuple[str, ...]] = ()
    TARGETS: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.loss not in self.LOSSES and not all(self.loss.partition(":")):
            near = did_you_mean(self.loss, self.LOSSES)
            raise ValueError(f"task.loss: must be one of {', '.join(self.LOSSES)}, or module:function, got {self.loss!r}{near}")
        if not self.huber_delta > 0:
            raise ValueError(f"task.huber_delta: must be positive, got {self.huber_delta}")
        if self.huber_delta != 1 and self.loss != "huber":
            raise ValueError(f"task.huber_delta: is for task.loss=huber, not {self.loss}; leave it out")

    def made_loss(self) -> Any:
        from coopsgd.tasks.engines import losses

        return losses.made(self.loss, huber_delta=self.huber_delta)

    def targets(self, config: Config) -> str:
        """What a sample gives."""
        return str(self.data.load(config.seed).targets)

    def labels(self, config: Config) -> np.ndarray:
        images = self.data.load(config.seed)
        return images.train_y if images.targets == "label" else _binned(images.train_y, images.train_y, images.targets)

    def test_labels(self, config: Config) -> np.ndarray | None:
        images = self.data.load(config.seed)
        return images.test_y if images.targets == "label" else _binned(images.test_y, images.train_y, images.targets)

    def class_counts(self, config: Config) -> dict[str, Any] | None:
        found, images = super().class_counts(config), self.data.load(config.seed)
        if found is None or images.targets == "label":
            return found
        if images.targets == "numbers":
            return found | {"by": "tenth of the target" if images.train_y.shape[1] == 1 else "worker"}
        counts = [images.train_y[share].sum(0, dtype=np.int64).tolist() for share in self.shares(config)]
        return found | {"counts": counts, "test": images.test_y.sum(0, dtype=np.int64).tolist(), "by": "label, of several"}

    def _check_loss(self, targets: str, engine: str) -> None:
        """ValueError when a loss of the user's own cannot be trained with: tried once, in a process of its own."""
        key = self.loss, self.data.CLASSES, targets, engine == "vmap"
        if self.loss not in self.LOSSES and key not in _tried:

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
        if self.data.INPUT == self.INPUT:
            self.data.check()
            self._check_targets(config)
        super().check(config)
        images = self.data.load(config.seed)
        if config.dtype == "float32" and (lost := too_fine_for_float32(images.train_x, images.mean, images.std)):
            raise ValueError(f"data: {lost}; subtract its offset and scale it in the data set, or use dtype=float64")

    def _check_targets(self, config: Config) -> None:
        """ValueError when samples give what this task does not learn, or no class says how to deal them."""
        images = self.data.load(config.seed)
        self._check_loss(images.targets, config.engine)
        if images.targets not in self.TARGETS:
            name = config.data["name"]
            raise ValueError(f"data: {name} has {SAID[images.targets]}, {self.learns()}; {WAY_OUT[images.targets]}")
        if images.targets == "numbers" and self.partition.tests_locally:
            raise ValueError("partition.test: local measures accuracies, and task regression has none; leave it out")
        if getattr(self.partition, "BY_CLASS", False) and images.train_y.ndim > 1 and images.train_y.shape[1] > 1:
            raise ValueError(
                f"partition: {config.partition['name']} deals by class, and {images.train_y.shape[1]} {images.targets} a "
                "sample tell no class; use iid, quantity or file"
            )

    def learns(self) -> str:
        """What this task learns, for an error."""
        raise NotImplementedError

    def build(self, config: Config, rows: range, device: Any) -> ArraysProblem:
        return ArraysProblem(self, config, rows, device)


SAID = {"label": "a label a sample", "labels": "several labels a sample", "numbers": "numbers to learn"}
WAY_OUT = {
    "label": "task=classification learns that; of your own data, data.targets=numbers takes numbers",
    "labels": "task=classification task.loss=bce learns that",
    "numbers": "task=regression learns that",
}


def _binned(y: np.ndarray, train: np.ndarray, targets: str) -> np.ndarray:
    """(n,) by what samples are dealt that have no class: the tenth of the training targets that a number lies in; else 0."""
    if targets != "numbers" or y.shape[1] > 1:
        return np.zeros(len(y), dtype=np.int64)
    edges = np.quantile(train[:, 0], np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, y[:, 0], side="right").astype(np.int64)


class ArraysProblem(SupervisedProblem):
    """Images or vectors; bytes stay bytes until a batch is made of them."""

    def _load(self, task: Supervised, config: Config) -> int:
        import torch

        from coopsgd.tasks.engines.samples import Samples, Scale

        images = task.data.load(config.seed)
        self._targets = images.targets
        self._answers, self._scores = self._targets != "numbers", self._targets != "label"
        # half of what stands for a label, or a logit of 0
        self._threshold = 0.5 if isinstance(task, Arrays) and task.loss in ("mse", "huber") else 0.0
        self._train = self._tensor(images.train_x), self._wanted(images.train_y)
        self._held_out = self._tensor(images.test_x), self._wanted(images.test_y)
        self._pad = images.pad
        # numbers that float32 does not hold are scaled as they are: an offset is gone before they are rounded
        self._exact = torch.float64 if images.train_x.dtype == np.float64 else self._dtype
        mean, std = (torch.tensor(v, dtype=self._exact, device=self._device) for v in (images.mean, images.std))
        self._scale = Scale(mean, std, self._exact, self._dtype)
        if self._targets == "label" and not self._pad:
            self._source = Samples.of(*self._train, self._scale)
        return len(images.test_y)

    def _wanted(self, y: np.ndarray) -> Tensor:
        found = self._tensor(y)
        return found.to(self._dtype) if self._targets == "numbers" else found

    def _right(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        if self._targets == "labels":
            return ((outputs > self._threshold) == wanted.bool()).all(-1)
        return super()._right(outputs, wanted)

    def _many(self, wanted: Tensor) -> int:
        return len(wanted)

    def _score(self, outputs: Tensor, wanted: Tensor) -> dict[str, float | None]:
        if self._targets == "numbers":
            return {"eval/r2": _r2(outputs.double(), wanted.double())}
        said, there = outputs > self._threshold, wanted.bool()
        either = int(said.sum()) + int(there.sum())
        return {"eval/f1": 2 * int((said & there).sum()) / either if either else None}

    def _batch(self, which: Tensor, rows: Sequence[int], own: Sequence[int]) -> tuple[Tensor, Tensor]:
        import torch

        (x, y), flat = self._train, which.flatten()
        if self._pad:
            parts = zip(x.index_select(0, flat).split(which.shape[1]), rows, own, strict=True)
            x = self._scale(torch.cat([crop_and_flip(part, self._pad, self._seed, row, step) for part, row, step in parts]))
        else:
            x = self._scale(x, flat)
        return x.unflatten(0, which.shape), y.index_select(0, flat).unflatten(0, which.shape)

    def _test(self, which: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self._held_out
        return self._scale(x, which), y.index_select(0, which)

    def _own(self, which: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self._train
        return self._scale(x, which), y.index_select(0, which)


def _r2(outputs: Tensor, wanted: Tensor) -> float | None:
    """1 - squared error / squared distance to the mean, of (n, k) numbers; the mean over those that vary, None of none."""
    error = (outputs - wanted).square().sum(0)
    spread = (wanted - wanted.mean(0)).square().sum(0)
    varies = spread > 0
    return float((1 - error[varies] / spread[varies]).mean()) if bool(varies.any()) else None
