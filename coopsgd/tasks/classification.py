"""Classification of images by a network: every worker draws its own minibatches from its own share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.data.base import Batches, shares
from coopsgd.registry import register
from coopsgd.streams import seed_of, stream
from coopsgd.tasks.base import Problem, Task

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from coopsgd.config import Config
    from coopsgd.tasks.gradients import Bound

EVALUATE = 2000  # test images in one forward pass


@register("classification", "task")
@dataclass(frozen=True)
class Classification(Task):
    """Cross entropy of a `model` on `data`, dealt evenly to the workers."""

    USES = ("model", "data", "batch_size")

    def check(self, config: Config) -> None:
        from coopsgd.config import make

        data = make(config, "data")
        share = data.TRAIN // config.workers
        if share < config.batch_size:
            raise ValueError(
                f"batch_size: {config.batch_size} is more than a worker's share of {share} samples "
                f"({data.TRAIN} among {config.workers} workers); lower batch_size or workers"
            )
        make(config, "model").check(data.SHAPE, data.CLASSES, config.batch_size)
        data.check()

    def steps_per_epoch(self, config: Config) -> int | None:
        from coopsgd.config import make

        return make(config, "data").TRAIN // config.workers // config.batch_size

    def dimension(self, config: Config) -> int:
        from coopsgd.config import make

        data = make(config, "data")
        return make(config, "model").parameters(data.SHAPE, data.CLASSES)

    def statistics(self, config: Config) -> int:
        from coopsgd.config import make

        data = make(config, "data")
        return make(config, "model").statistics(data.SHAPE, data.CLASSES)

    def module(self, config: Config, answer: Tensor, statistics: Tensor | None = None) -> Module:
        return bound(config, answer.dtype).elsewhere(answer, statistics).eval()

    def build(self, config: Config, rows: range, device: Any) -> ClassificationProblem:
        return ClassificationProblem(config, rows, device)


def network(config: Config) -> Module:
    """The untrained module of this config, a function of the seed alone."""
    import torch

    from coopsgd.config import make

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "model"))
        data = make(config, "data")
        return make(config, "model").build(data.SHAPE, data.CLASSES)


def bound(config: Config, dtype: Any, device: Any = "cpu") -> Bound:
    """That module, ready to be pointed at rows."""
    from coopsgd.config import make
    from coopsgd.tasks.gradients import Bound

    data = make(config, "data")
    channels_last = make(config, "model").channels_last(data.SHAPE, data.CLASSES)
    return Bound(network(config).to(device=device, dtype=dtype), channels_last)


class ClassificationProblem(Problem):
    """The data in memory, and the module that visits the rows."""

    def __init__(self, config: Config, rows: range, device: Any) -> None:
        import torch

        from coopsgd.config import make

        images = make(config, "data").load()
        self._dtype, self._float32, self._device = getattr(torch, config.dtype), torch.float32, device
        self._bound = bound(config, self._dtype, device)
        self._amp, self._batch_size = config.amp, config.batch_size
        self._start = self._bound.flat()
        self._scale, self._shift = images.scale, images.shift
        self._train = self._tensor(images.train_x), self._tensor(images.train_y)
        self._test = self._tensor(images.test_x), self._tensor(images.test_y)
        self._rows, self._seed = rows, config.seed
        self._batches = Batches(shares(len(images.train_y), config.workers, config.seed), rows, config.batch_size, config.seed)
        self.samples = config.batch_size
        self.steps_per_epoch: int | None = self._batches.per_epoch

    def start(self) -> Tensor:
        return self._start.clone()

    def statistics(self) -> Tensor | None:
        return self._bound.statistics()

    def bind(self, x: Tensor, grad: Tensor, statistics: Tensor | None = None) -> None:
        w = len(self._rows)
        self._r, self._grad, self._nothing = len(x), grad[:w], x.new_zeros(())
        self._bound.bind(x[:w], grad[:w], None if statistics is None else statistics[:w])
        self._own_statistics = statistics
        self._bound.module.train()

    def gradients(self, k: int, active: np.ndarray | None) -> Tensor:
        import torch

        from coopsgd.tasks.gradients import autocast

        self._grad.zero_()
        chosen = torch.from_numpy(self._batches.at(k)).to(self._device)
        x, y = self._train
        losses = [self._nothing] * self._r
        for i, row in enumerate(self._rows):
            if active is not None and not active[i]:
                continue
            if self._bound.random:
                torch.manual_seed(seed_of(self._seed, "dropout", row, k))
            with autocast(self._amp, self._device):
                logits = self._bound.row(i)(self._input(x.index_select(0, chosen[i])))
                loss = torch.nn.functional.cross_entropy(logits, y.index_select(0, chosen[i]))
            loss.backward()
            losses[i] = loss.detach()
        return losses[0].view(1, 1) if self._r == 1 else torch.stack(losses)[:, None]

    def evaluate(self, answer: Tensor, statistics: Tensor | None = None) -> dict[str, float | None]:
        loss, right = self._measure(self._bound.elsewhere(answer, statistics))
        return {"eval/loss": loss, "eval/accuracy": right}

    def accuracies(self, x: Tensor) -> list[float] | None:
        own = self._own_statistics
        looks = (self._bound.elsewhere(x[i : i + 1], None if own is None else own[i : i + 1]) for i in range(len(self._rows)))
        return [self._measure(module)[1] for module in looks]

    def recalibrated(self, answer: Tensor, statistics: Tensor, batches: int) -> Tensor:
        import torch

        from coopsgd.tasks.gradients import recalibrated

        x, _ = self._train
        size = min(self._batch_size, len(x))
        draws = (stream(self._seed, "recalibrate", b).choice(len(x), size, replace=False) for b in range(batches))
        inputs = (self._input(x.index_select(0, torch.from_numpy(which).to(self._device))) for which in draws)
        return recalibrated(self._bound, answer, statistics, inputs)

    def _measure(self, module: Module) -> tuple[float, float]:
        """Mean cross entropy in nats and accuracy on the test set."""
        import torch

        x, y = self._test
        loss, right = 0.0, 0
        module.eval()
        with torch.no_grad():
            for at in range(0, len(y), EVALUATE):
                logits, labels = module(self._input(x[at : at + EVALUATE])), y[at : at + EVALUATE]
                loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
                right += int((logits.argmax(1) == labels).sum())
        module.train()
        return loss / len(y), right / len(y)

    def _input(self, pixels: Tensor) -> Tensor:
        # bytes minus a number are float32 at once; float64 has to be asked for
        pixels = pixels if self._dtype == self._float32 else pixels.to(self._dtype)
        return (pixels - self._shift * self._scale).mul_(1 / self._scale)

    def _tensor(self, array: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(np.array(array)).to(self._device)
