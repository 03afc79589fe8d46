"""A mixture of Gaussians, drawn from the seed: the best accuracy that anyone can reach is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from coopsgd.data.base import DataSet, Images
from coopsgd.host import sizes
from coopsgd.registry import option, register
from coopsgd.setup.values import HUGE
from coopsgd.streams import stream


@register("gaussian", "data")
@dataclass(frozen=True)
class Gaussian(DataSet):
    """Equally likely classes N(mean_c, I) in `dim` dimensions, every two means `separation` apart.

    The means are orthogonal, of length separation / sqrt(2), in directions drawn from the seed. `samples` are for training,
    `test_samples` are drawn besides.
    """

    classes: int = option(10, "one normal distribution each", unit="classes")
    dim: int = option(20, "numbers of a sample", unit="numbers")
    separation: float = option(4.0, "distance of every two means; the noise has variance 1", unit="standard deviations")
    samples: int = option(10000, "for training", unit="samples")
    test_samples: int = option(2000, "for testing", unit="samples")

    TEST = "drawn besides"

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("dim", 1), ("samples", 1), ("test_samples", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}: must be at least {least}, got {getattr(self, name)}")
        if self.classes > self.dim:
            raise ValueError(
                f"data.dim: {self.classes} means of equal distance need {self.classes} dimensions, got {self.dim}; "
                "raise data.dim or lower data.classes"
            )
        if not 0 <= self.separation <= HUGE:  # samples are float32
            raise ValueError(f"data.separation: must be a number from 0 to {HUGE:g}, got {self.separation}")

    def check(self) -> None:
        drawn, kept = 8.0, 4.0  # bytes of a number
        means = 3 * drawn * self.classes * self.dim  # directions, their orthogonal ones and the means themselves
        sizes.refuse("data.dim", means, f"means of {self.classes} classes in {self.dim} dimensions", "lower it or data.classes")
        largest = max(self.samples, self.test_samples)
        needed = kept * self.dim * (self.samples + self.test_samples) + 2 * drawn * self.dim * largest
        key = "data.samples" if self.samples >= self.test_samples else "data.test_samples"
        sizes.refuse(key, needed, f"{self.samples} + {self.test_samples} samples of {self.dim} numbers", "lower it or data.dim")

    @property
    def SHAPE(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def CLASSES(self) -> int:
        return self.classes

    def means(self, seed: int) -> np.ndarray:
        """(classes, dim)."""
        directions, _ = np.linalg.qr(stream(seed, "mixture means").standard_normal((self.dim, self.classes)))
        return directions.T * self.separation / math.sqrt(2)

    def load(self, seed: int = 0) -> Images:
        return _drawn(self, seed)

    def about(self, seed: int = 0) -> dict[str, Any]:
        return {"bayes_accuracy": self.bayes_accuracy()}

    def bayes_accuracy(self) -> float:
        """Probability that the nearest mean is the right one: E Phi(z + a)^(classes - 1), z normal, a a mean's length.

        The score of class c is <x, mean_c> / a: a + z for the right one, an independent normal for each other, since means
        are orthogonal. For two classes it is Phi(separation / 2).
        """
        z = np.linspace(-10, 10, 4001)
        a = self.separation / math.sqrt(2)
        below = np.array([0.5 * math.erfc(-(t + a) / math.sqrt(2)) for t in z])
        density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return float((below ** (self.classes - 1) * density).sum() * (z[1] - z[0]))


@lru_cache(maxsize=1)
def _drawn(data: Gaussian, seed: int) -> Images:
    """Labels in turn, shuffled: every class has as many samples as any other, or one fewer."""
    means, found = data.means(seed), []
    for number, n in enumerate((data.samples, data.test_samples)):
        draw = stream(seed, "mixture", number)
        labels = draw.permutation(np.arange(n) % data.classes)
        found += [(means[labels] + draw.standard_normal((n, data.dim))).astype(np.float32), labels.astype(np.int64)]
    train_x, train_y, test_x, test_y = found
    return Images(train_x, train_y, test_x, test_y, mean=(0.0,), std=(1.0,))
