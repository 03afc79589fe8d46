"""Settings of the tasks that learn from a data set dealt to the workers: images and text differ in their batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopsgd.data.base import refuse_short
from coopsgd.data.partitions import dealt, left_over
from coopsgd.tasks.base import Task

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from coopsgd.config import Config


class Supervised(Task):
    """A `model` learns `data`, dealt to the workers by `partition`."""

    USES = ("model", "data", "partition", "batch_size")
    INPUT: ClassVar[str] = "numbers"  # what data and model must be about

    def labels(self, config: Config) -> np.ndarray:
        """(n,) the class of every training sample: what is dealt."""
        from coopsgd.config import make

        return make(config, "data").load(config.seed).train_y

    def shares(self, config: Config) -> list[np.ndarray]:
        """The samples of each worker (in the first epoch, where they are dealt anew)."""
        from coopsgd.config import make

        return dealt(make(config, "partition"), self.labels(config), config.workers, config.seed)

    def sizes(self, config: Config) -> list[int] | None:
        return [len(share) for share in self.shares(config)]

    def check(self, config: Config) -> None:
        from coopsgd.config import make

        data, model = make(config, "data"), make(config, "model")
        for group, part in (("data", data), ("model", model)):
            if (reads := getattr(part, "INPUT", "numbers")) != self.INPUT:
                named, choice = config.task["name"], getattr(config, group)["name"]
                raise ValueError(f"{group}: {choice} is for {reads}, task {named} learns {self.INPUT}; {self.way_out()}")
        make(config, "partition")
        data.check()
        model.parameters(data.SHAPE, data.CLASSES)
        refuse_short([len(share) for share in self.shares(config)], config.batch_size, config.partition["name"])

    def way_out(self) -> str:
        """What to choose when data or model are of another kind."""
        return "choose other data and model, or task=language for a text"

    def steps_per_epoch(self, config: Config) -> int | None:
        return max(len(share) for share in self.shares(config)) // config.batch_size

    def spread(self, config: Config) -> dict[str, Any] | None:
        labels, shares = self.labels(config), self.shares(config)
        classes = int(labels.max()) + 1
        return {
            "partition": config.partition["name"],
            "counts": [np.bincount(labels[share], minlength=classes).tolist() for share in shares],
            "left_over": len(left_over(len(labels), shares)),
        }

    def about(self, config: Config) -> dict[str, Any]:
        from coopsgd.config import make

        return {"name": config.data["name"], "samples": len(self.labels(config)), **make(config, "data").about(config.seed)}

    def dimension(self, config: Config) -> int:
        from coopsgd.config import make

        data = make(config, "data")
        return make(config, "model").parameters(data.SHAPE, data.CLASSES)

    def module(self, config: Config, answer: Tensor) -> Module:
        from coopsgd.tasks.classification import network
        from coopsgd.tasks.gradients import Bound

        return Bound(network(config).to(answer.dtype)).elsewhere(answer).eval()
