"""Fashion-MNIST: 70,000 images of clothes, 28 x 28. Zalando Research, arXiv:1708.07747."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coopsgd.data.mnist import IDX
from coopsgd.registry import register

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist


@register("fashion_mnist", "data")
@dataclass(frozen=True)
class FashionMNIST(IDX):
    """Clothes, 28 x 28 grey, 10 classes, 60,000 for training. arXiv:1708.07747."""

    NAME = "fashion_mnist"
    BELOW = ("fashion-mnist", "FashionMNIST/raw")
    SOURCE = "FashionMNIST"
    HOW = ", or apt-get install dataset-fashion-mnist"

    def places(self) -> list[Path]:
        return [*super().places(), DEBIAN]

    def scaling(self) -> dict[str, Any]:
        return {"mean": (0.286 * 255,), "std": (0.353 * 255,)}
