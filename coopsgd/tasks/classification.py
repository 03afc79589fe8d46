"""Learning from images or vectors with one label each, by a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coopsgd.data.augment import crop_and_flip
from coopsgd.registry import register
from coopsgd.tasks.supervised import Supervised, SupervisedProblem

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.config import Config


@register("classification", "task")
@dataclass(frozen=True)
class Classification(Supervised):
    """Cross entropy of a `model` on `data`, dealt to the workers by `partition`."""

    def build(self, config: Config, rows: range, device: Any) -> ClassificationProblem:
        return ClassificationProblem(self, config, rows, device)


class ClassificationProblem(SupervisedProblem):
    """Images or vectors, one label each; bytes stay bytes until a batch is made of them."""

    def _load(self, task: Supervised, config: Config) -> int:
        import torch

        from coopsgd.build import make

        images = make(config, "data").load(config.seed)
        self._train = self._tensor(images.train_x), self._tensor(images.train_y)
        self._held_out = self._tensor(images.test_x), self._tensor(images.test_y)
        self._pad = images.pad
        per_channel = (-1, *[1] * (images.train_x.ndim - 2))
        mean, std = (torch.tensor(v, dtype=self._dtype, device=self._device) for v in (images.mean, images.std))
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

    def _input(self, x: Tensor) -> Tensor:
        return x.to(self._dtype, copy=True).sub_(self._mean).mul_(self._by_std)
