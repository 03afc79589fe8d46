"""Data with numbers or several labels, and losses of numbers, as users write them."""

from __future__ import annotations

import numpy as np
import torch


def items(y):
    x = np.random.default_rng(1).standard_normal((len(y), 6)).astype("f4")
    return [(x[i], y[i]) for i in range(len(y))]


def mixed(noise=0.1, outputs=2, n=120, scale=1.0):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 6))
    y = scale * (x @ rng.standard_normal((6, outputs)) + noise * rng.standard_normal((n, outputs)))
    return [(x[i], y[i]) for i in range(n)]


def tagged(n=120, classes=5):
    x = np.random.default_rng(0).standard_normal((n, classes))
    return [(x[i], (x[i] > 0.3).astype(int)) for i in range(n)]


def given(values):
    return items(list(values))


def alone(y=3):
    return items([float(i) for i in range(40)])


def dicts(n=60):
    return [{"x": x, "size": y[:1]} for x, y in mixed(n=n)]


def pair(batch):
    return torch.tensor(np.stack([one["x"] for one in batch])), torch.tensor(np.stack([one["size"] for one in batch]))


def quantile(outputs, targets):
    return torch.maximum(0.9 * (targets - outputs), 0.1 * (outputs - targets)).mean()


def wide(outputs, targets):
    assert outputs.shape == targets.shape and targets.dtype == outputs.dtype
    return (outputs - targets).abs().mean()
