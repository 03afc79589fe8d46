"""What tasks share that learn from a data set dealt to the workers: images and text differ in their batches alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopsgd.data import heldout
from coopsgd.data.base import DataSet, refuse_short
from coopsgd.data.partitions import Partition, dealt, left_over
from coopsgd.models.base import Model
from coopsgd.registry import of_run
from coopsgd.setup.values import steps_of_pass
from coopsgd.tasks import start as starts
from coopsgd.tasks.base import Task

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from coopsgd.fleet.block import Block
    from coopsgd.setup.schema import Config

SMALL = ("train", "refuse")


@dataclass(frozen=True)
class Supervised(Task):
    """A `model` learns `data`, dealt to the workers by `partition`."""

    model: Model = of_run("model", kw_only=True)
    data: DataSet = of_run("data", kw_only=True)
    partition: Partition = of_run("partition", kw_only=True)

    USES = ("model", "data", "partition", "batch_size")
    SCORES: ClassVar[tuple[str, ...]] = ("accuracy",)
    INPUT: ClassVar[str] = "numbers"  # what data and model must be about

    def labels(self, config: Config) -> np.ndarray:
        """(n,) the class of every training sample, or what stands for it: what is dealt."""
        return self.data.load(config.seed).train_y

    def test_labels(self, config: Config) -> np.ndarray | None:
        """(n,) the class of every test sample; None where samples have none."""
        return None

    def shares(self, config: Config) -> list[np.ndarray]:
        """The samples that each worker trains on (in the first epoch, where they are dealt anew)."""
        return self._shares(config)[0]

    def held_out(self, config: Config) -> list[np.ndarray] | None:
        """The training samples that each worker is tested on instead of training on them; None where there are none."""
        return self._shares(config)[1]

    def _shares(self, config: Config) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        shares = dealt(self.partition, self.labels(config), config.workers, config.seed)
        if not self.partition.tests_locally:
            return shares, None
        return heldout.split(shares, self.partition.test_share, config.seed)

    def sizes(self, config: Config) -> list[int] | None:
        return [len(share) for share in self.shares(config)]

    def check(self, config: Config) -> None:
        data, model = self.data, self.model
        for group, part in (("data", data), ("model", model)):
            if (reads := getattr(part, "INPUT", "numbers")) != self.INPUT:
                named, choice = config.task["name"], getattr(config, group)["name"]
                raise ValueError(f"{group}: {choice} is for {reads}, task {named} learns {self.INPUT}; {self.way_out()}")
        data.check()
        model.check(data.SHAPE, data.CLASSES, config.batch_size)
        if why := model.unfit(data.SHAPE, data.CLASSES, config.dtype):
            raise ValueError(why)
        self._check_small(config)
        if config.start is not None:
            starts.check(self, config)

    def _check_small(self, config: Config) -> None:
        """TooFewSamples, ValueError when a worker that holds less than a batch may not train, or cannot."""
        partition, held = self.partition, [len(share) for share in self.shares(config)]
        if partition.small not in SMALL:
            raise ValueError(f"partition.small: must be one of {', '.join(SMALL)}, got {partition.small!r}")
        floor = hasattr(partition, "min_size")
        if partition.small == "refuse":
            return refuse_short(held, config.batch_size, config.partition["name"], floor)
        least = int(np.argmin(held))
        if held[least] < min(2, config.batch_size):
            try:
                self.model.check(self.data.SHAPE, self.data.CLASSES, held[least])
            except ValueError as error:
                more = "raise partition.min_size, " if floor else ""
                raise ValueError(
                    f"partition: worker {least} holds {held[least]} sample, and {error}; {more}lower workers, or choose "
                    "another partition or model"
                ) from None

    def way_out(self) -> str:
        """What to choose when data or model are of another kind."""
        return "choose other data and model, or task=language for a text"

    def steps_per_epoch(self, config: Config) -> int | None:
        return int(steps_of_pass(max(len(share) for share in self.shares(config)), config.batch_size))

    def class_counts(self, config: Config) -> dict[str, Any] | None:
        labels, shares, test = self.labels(config), self.shares(config), self.test_labels(config)
        classes, held = max(int(y.max()) for y in (labels, test) if y is not None) + 1, self.held_out(config)
        return {
            "partition": config.partition["name"],
            "counts": [np.bincount(labels[share], minlength=classes).tolist() for share in shares],
            "left_over": len(left_over(len(labels), [*shares, *(held or ())])),
            **({} if held is None else {"held_out": [len(share) for share in held]}),
            "test": None if test is None else np.bincount(test, minlength=classes).tolist(),
        }

    def about(self, config: Config) -> dict[str, Any]:
        test = self.test_labels(config)
        many = "" if test is None else f"{len(test)} samples, "
        facts = {"name": config.data["name"], "samples": len(self.labels(config)), "test": f"{many}{self.data.TEST}"}
        return {**facts, **self.data.about(config.seed)}

    def notes(self, config: Config) -> tuple[str, ...]:
        shares = self.shares(config)
        held, size = np.array([len(share) for share in shares]), config.batch_size
        few = int((held < size).sum())
        small = (
            f"partition.small=train: {few} of {len(held)} workers hold fewer samples than batch_size={size}, {held.min()} at "
            "least; they train on what they have"
        )
        told: tuple[str, ...] = (small,) if few and self.partition.small == "train" else ()
        dealt_all = (
            shares if (own := self.held_out(config)) is None else [np.append(*both) for both in zip(shares, own, strict=True)]
        )
        if own is not None and (alone := sum(len(share) == 0 for share in own)):
            told += (
                f"partition.test=local: {alone} of {len(own)} workers hold a single sample and are not tested on their own",
            )
        return (*self.data.notes(), *self.partition.notes(len(self.labels(config)), dealt_all), *told)

    def learns_from(self, config: Config) -> Any:
        return self.data.load(config.seed)

    def dimension(self, config: Config) -> int:
        return self.model.parameters(self.data.SHAPE, self.data.CLASSES)

    def blocks(self, config: Config) -> tuple[Block, ...]:
        return self.model.blocks(self.data.SHAPE, self.data.CLASSES)

    def statistics(self, config: Config) -> int:
        return self.model.statistics(self.data.SHAPE, self.data.CLASSES)

    def made_loss(self) -> Any:
        """What is minimised, and logged as the loss: a function of (outputs, targets)."""
        from coopsgd.tasks.engines.losses import cross_entropy

        return cross_entropy

    def module(self, config: Config, answer: Tensor, statistics: Tensor | None = None) -> Module:
        from coopsgd.tasks.networks import bound

        return bound(self, config.seed, answer.dtype, start=config.start).elsewhere(answer, statistics).eval()
