"""Classification of images by a network: every worker draws its own minibatches from its own share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.data.base import Batches, shares
from coopsgd.registry import register
from coopsgd.streams import seed_of, stream
from coopsgd.tasks.base import Task

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from coopsgd.config import Config
    from coopsgd.tasks.engines.base import Engine

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
        make(config, "model")
        data.check()

    def steps_per_epoch(self, config: Config) -> int | None:
        from coopsgd.config import make

        return make(config, "data").TRAIN // config.workers // config.batch_size

    def dimension(self, config: Config) -> int:
        from coopsgd.config import make

        data = make(config, "data")
        return make(config, "model").parameters(data.SHAPE, data.CLASSES)

    def module(self, config: Config, answer: Tensor) -> Module:
        from coopsgd.tasks.gradients import Bound

        return Bound(network(config).to(answer.dtype)).elsewhere(answer).eval()

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


def eval_samples(wanted: Any, n: int, workers: int) -> int:
    """Of n test samples, how many each worker is measured on; auto: all up to 32 workers, else 320,000 looks in all."""
    return min(n, max(1000, 320_000 // workers) if wanted == "auto" else wanted)


class ClassificationProblem:
    """The data in memory, and the module that visits the rows."""

    def __init__(self, config: Config, rows: range, device: Any) -> None:
        import torch

        from coopsgd.config import make
        from coopsgd.tasks.engines.choice import choose
        from coopsgd.tasks.engines.crew import Crew
        from coopsgd.tasks.gradients import Bound

        images = make(config, "data").load()
        self._dtype, self._float32, self._device = getattr(torch, config.dtype), torch.float32, device
        module = network(config).to(device=device, dtype=self._dtype)
        self._bound = Bound(module)
        self._start = self._bound.flat()
        self._scale, self._shift = images.scale, images.shift
        self._train = self._tensor(images.train_x), self._tensor(images.train_y)
        self._test = self._tensor(images.test_x), self._tensor(images.test_y)
        self._rows, self._seed = rows, config.seed
        self._batches = Batches(shares(len(images.train_y), config.workers, config.seed), rows, config.batch_size, config.seed)
        self.samples = config.batch_size
        self.steps_per_epoch: int | None = self._batches.per_epoch
        choice = choose(config.engine, self._bound)
        threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
        self._crew = Crew(choice, self._bound, len(rows), threads)
        looked_at = eval_samples(config.eval_samples, len(images.test_y), config.workers)
        self._looked_at = torch.from_numpy(stream(config.seed, "eval").permutation(len(images.test_y))[:looked_at]).to(device)
        self.about = {"engine": choice.name, "eval_samples": looked_at}
        self.notes = () if choice.note is None else (choice.note,)

    def start(self) -> Tensor:
        return self._start.clone()

    def bind(self, x: Tensor, grad: Tensor) -> None:
        w = len(self._rows)
        self._r, self._x, self._grad = len(x), x[:w], grad[:w]
        self._crew.bind(self._x, self._grad)

    def gradients(self, k: int, active: np.ndarray | None) -> Tensor:
        chosen, losses = self._batches.at(k), self._x.new_zeros(self._r, 1)

        def job(engine: Engine, a: int, b: int) -> None:
            losses[a:b, 0] = engine.gradients(a, b, *self._batch(chosen[a:b]), self._seeds(a, b, k))

        self._crew.each(job, active)
        for i in () if active is None else (~active).nonzero()[0]:
            self._grad[i].zero_()
        return losses

    def descend(self, k: int, rates: Sequence[float], active: np.ndarray | None) -> Tensor:
        chosen, losses = [self._batches.at(k + j) for j in range(len(rates))], self._x.new_zeros(len(rates), self._r, 1)

        def job(engine: Engine, a: int, b: int) -> None:
            for j, lr in enumerate(rates):
                losses[j, a:b, 0] = engine.descend(a, b, *self._batch(chosen[j][a:b]), lr, self._seeds(a, b, k + j))

        self._crew.each(job, active)
        return losses

    def _batch(self, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs (c, batch, ...) and targets (c, batch) of the samples chosen for c rows, fetched at once."""
        import torch

        x, y = self._train
        which = torch.from_numpy(chosen).to(self._device)
        flat = which.flatten()
        return self._input(x.index_select(0, flat)).unflatten(0, which.shape), y.index_select(0, flat).view(which.shape)

    def _seeds(self, a: int, b: int, k: int) -> list[int]:
        """What the dropout of rows [a, b) is drawn from at step k; nothing where there is none."""
        return [seed_of(self._seed, "dropout", self._rows[i], k) for i in range(a, b)] if self._bound.random else []

    def evaluate(self, answer: Tensor) -> dict[str, float | None]:
        loss, right = self._measure(self._bound.elsewhere(answer))
        return {"eval/loss": loss, "eval/accuracy": right}

    def accuracies(self, x: Tensor) -> list[float] | None:
        import torch

        inputs, labels = (part.index_select(0, self._looked_at) for part in self._test)
        right = torch.zeros(len(self._rows), dtype=torch.int64, device=self._device)
        for at in range(0, len(labels), EVALUATE // 4):  # several rows look at once
            images, wanted = self._input(inputs[at : at + EVALUATE // 4]), labels[at : at + EVALUATE // 4]

            def job(engine: Engine, a: int, b: int, images: Tensor = images, wanted: Tensor = wanted) -> None:
                right[a:b] += (engine.logits(x[a:b], images).argmax(2) == wanted).sum(1)

            self._crew.each(job)
        return (right.double() / len(labels)).tolist()

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
