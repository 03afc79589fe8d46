"""Learning from a data set by a network: every worker draws its own minibatches from its own share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.data.augment import crop_and_flip
from coopsgd.data.base import Batches
from coopsgd.registry import register
from coopsgd.streams import seed_of
from coopsgd.tasks.supervised import Supervised

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from coopsgd.config import Config

EVALUATE = 250  # test images in one forward pass


@register("classification", "task")
@dataclass(frozen=True)
class Classification(Supervised):
    """Cross entropy of a `model` on `data`, dealt to the workers by `partition`."""

    def build(self, config: Config, rows: range, device: Any) -> ClassificationProblem:
        return ClassificationProblem(self, config, rows, device)


def network(config: Config) -> Module:
    """The untrained module of this config, a function of the seed alone."""
    import torch

    from coopsgd.config import make

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "model"))
        data = make(config, "data")
        return make(config, "model").build(data.SHAPE, data.CLASSES)


class SupervisedProblem:
    """The data in memory, and the module that visits the rows. A subclass says what a batch is."""

    def __init__(self, task: Supervised, config: Config, rows: range, device: Any) -> None:
        import torch

        from coopsgd.config import make
        from coopsgd.tasks.gradients import Bound

        self._dtype, self._device = getattr(torch, config.dtype), device
        self._bound = Bound(network(config).to(device=device, dtype=self._dtype))
        self._start = self._bound.flat()
        self._rows, self._seed = rows, config.seed
        self._load(task, config)
        partition, labels, shares = make(config, "partition"), task.labels(config), task.shares(config)
        again = (lambda epoch: partition.deal(labels, config.workers, config.seed, epoch)) if partition.moves else None
        self._batches = Batches(shares, rows, config.batch_size, config.seed, again)
        self.samples = config.batch_size
        self.steps_per_epoch = task.steps_per_epoch(config)

    def _load(self, task: Supervised, config: Config) -> None:
        """Bring the data into tensors."""
        raise NotImplementedError

    def _batch(self, which: Tensor, row: int, step: int) -> tuple[Tensor, Tensor]:
        """What the model reads and should answer, of these training samples in a row's own step."""
        raise NotImplementedError

    def _tests(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same of the test set, in parts."""
        raise NotImplementedError

    def start(self) -> Tensor:
        return self._start.clone()

    def bind(self, x: Tensor, grad: Tensor) -> None:
        w = len(self._rows)
        self._r, self._grad, self._nothing = len(x), grad[:w], x.new_zeros(())
        self._bound.bind(x[:w], grad[:w])
        self._bound.module.train()

    def gradients(self, k: int, active: np.ndarray | None, own: np.ndarray) -> Tensor:
        import torch

        self._grad.zero_()
        chosen = torch.from_numpy(self._batches.at(own)).to(self._device)
        losses = [self._nothing] * self._r
        for i, row in enumerate(self._rows):
            if active is not None and not active[i]:
                continue
            if self._bound.random:
                torch.manual_seed(seed_of(self._seed, "dropout", row, k))
            x, y = self._batch(chosen[i], row, int(own[i]))
            loss = _cross_entropy(self._bound.row(i)(x), y)
            loss.backward()
            losses[i] = loss.detach()
        return losses[0].view(1, 1) if self._r == 1 else torch.stack(losses)[:, None]

    def evaluate(self, answer: Tensor) -> dict[str, float | None]:
        loss, right = self._measure(self._bound.elsewhere(answer))
        return {"eval/loss": loss, "eval/accuracy": right}

    def accuracies(self, x: Tensor) -> list[float] | None:
        return [self._measure(self._bound.elsewhere(x[i : i + 1]))[1] for i in range(len(self._rows))]

    def _measure(self, module: Module) -> tuple[float, float]:
        """Mean cross entropy in nats and accuracy on the test set."""
        import torch

        loss, right, n = 0.0, 0, 0
        module.eval()
        with torch.no_grad():
            for x, y in self._tests():
                logits = module(x)
                loss += float(_cross_entropy(logits, y, reduction="sum"))
                right += int((logits.argmax(-1) == y).sum())
                n += y.numel()
        module.train()
        return loss / n, right / n

    def _tensor(self, array: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(array).to(self._device)


class ClassificationProblem(SupervisedProblem):
    """Images or vectors, one label each; bytes stay bytes until a batch is made of them."""

    def _load(self, task: Supervised, config: Config) -> None:
        import torch

        from coopsgd.config import make

        images = make(config, "data").load(config.seed)
        self._train = self._tensor(images.train_x), self._tensor(images.train_y)
        self._test = self._tensor(images.test_x), self._tensor(images.test_y)
        self._pad = images.pad
        per_channel = (-1, *[1] * (images.train_x.ndim - 2))
        mean, std = (torch.tensor(v, dtype=self._dtype, device=self._device) for v in (images.mean, images.std))
        self._mean, self._by_std = mean.view(per_channel), (1 / std).view(per_channel)

    def _batch(self, which: Tensor, row: int, step: int) -> tuple[Tensor, Tensor]:
        x, y = (part.index_select(0, which) for part in self._train)
        if self._pad:
            x = crop_and_flip(x, self._pad, self._seed, row, step)
        return self._input(x), y

    def _tests(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self._test
        for at in range(0, len(y), EVALUATE):
            yield self._input(x[at : at + EVALUATE]), y[at : at + EVALUATE]

    def _input(self, x: Tensor) -> Tensor:
        return x.to(self._dtype, copy=True).sub_(self._mean).mul_(self._by_std)


def _cross_entropy(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Of (..., classes) logits and (...) labels, in nats."""
    import torch

    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction=reduction)
