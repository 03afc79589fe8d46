"""The contract of a task: settings that a config chooses, and the problem they build in every process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from coopsgd.fleet.block import Block, vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from coopsgd.setup.schema import Config
    from coopsgd.tasks.known import Known


Place = tuple[str, tuple[int, ...], tuple[int, ...], int]  # name, shape, stride, first number


class Problem(Protocol):
    """One process's share of a task: the workers in `rows`."""

    samples: Any  # in one step of a worker: a number, or (m,) of each worker of the run
    steps_per_epoch: int | None

    def start(self) -> Tensor:
        """(1, d) the model every worker starts from."""

    def statistics(self) -> Tensor | None:
        """(1, b) running statistics every worker starts from; None when the model keeps none, as here."""
        return None

    def module_buffers(self) -> Sequence[Tensor]:
        """Each (1, ...): what else a forward pass may change (counters, masks), as every worker starts. Never mixed."""
        return ()

    def blocks(self) -> tuple[Block, ...]:
        """The parameters that a row is made of, in order; here one vector. The same as `Task.blocks` tells before the run."""
        return vector(self.start().shape[1])

    def places(self) -> dict[str, list[Place]]:
        """Where in a row each of the "parameters" lies, and of the "statistics"; {} when it trains no module.

        A place (name, shape, stride, at) is row[at:].as_strided(shape, stride).
        """
        return {}

    def afterwards(self) -> list[str]:
        """Notes for the user that only the run could tell."""
        return []

    def bind(
        self, x: Tensor, grad: Tensor, statistics: Tensor | None = None, module_buffers: Sequence[Tensor] | None = None
    ) -> None:
        """Take the (r, d) rows that gradients are taken at and written to, and the (r, b) statistics; workers first.

        module_buffers: (w, ...) of the w workers held here, as many as `module_buffers()`; None: some of its own.
        """

    def gradients(self, k: int, active: np.ndarray | None, own: np.ndarray) -> Tensor:
        """Fill the gradient rows of the active workers for iteration k; their losses, (r, 1), 0 elsewhere.

        own: (workers held here,) local steps each has taken so far, which is k unless some were idle; batches go by it.
        """

    # A problem may also `descend(k, rates, active, own)`: len(rates) steps x -= rate * gradient of the active workers in
    # place, from iteration k on; their losses, (len(rates), r, 1). One that says KEEPS_VELOCITY = True is given an SGDStep
    # (optim/__init__.py) as a fifth where steps have momentum or weight decay, and moves its velocity in place. `facts` go into
    # summary.json, `notes` are for the user.

    def evaluate(self, answer: Tensor, statistics: Tensor | None = None) -> dict[str, float | None]:
        """eval/loss and eval/accuracy of one (1, d) model with its (1, b) statistics."""

    def accuracies(self, x: Tensor) -> list[float] | None:
        """Accuracy of each worker held here, with its own statistics; None when the task has none."""

    def local_accuracies(self, x: Tensor) -> list[float] | None:
        """The same of each on the samples that it holds out of its own, nan where none; None unless workers hold some out."""
        return None

    def local_accuracies_of(self, answer: Tensor, statistics: Tensor | None = None) -> list[float] | None:
        """Accuracy of one (1, d) model on the samples that each worker of the run holds out, in their order."""
        return None

    # One whose task has `known` constants says ||grad F||^2 of a (1, d) model: `squared_gradient(model) -> float`.

    def recalibrated(self, answer: Tensor, statistics: Tensor, batches: int) -> Tensor:
        """(1, b) statistics of one model estimated anew on so many training batches, the same on every placement."""
        raise LookupError("there are no running statistics to estimate")

    def curved(self, model: Tensor, direction: Tensor, i: int, own: int) -> Tensor:
        """(1, d) H @ direction; H: the Hessian at `model` (1, d) of row i's loss on the batch of its step `own`."""
        raise LookupError("this task tells no curvature")


class Task:
    """Settings of a task; a frozen dataclass that imports no torch."""

    USES: ClassVar[tuple[str, ...]] = ()  # which of model, data, batch_size it reads
    THEIRS: ClassVar[bool] = False  # is the optimiser somebody else's, whatever the config says?
    ARRAYS: ClassVar[tuple[str, ...]] = ()  # fields that may name a file of numbers
    SCORES: ClassVar[tuple[str, ...]] = ()  # what it may say beside the loss, by `Metric.score` (run/schema.py)

    def scores(self, config: Config) -> tuple[str, ...]:
        """Those of SCORES that it says with this config. After `check`."""
        return self.SCORES

    def check(self, config: Config) -> None:
        """ValueError when it cannot work with this config; before any process starts."""

    def steps_per_epoch(self, config: Config) -> int | None:
        """Steps in which every worker passes over its own share once; None when there are no epochs."""
        return None

    def sizes(self, config: Config) -> list[int] | None:
        """How many training samples each worker holds; None when there are none."""
        return None

    def class_counts(self, config: Config) -> dict[str, Any] | None:
        """Who holds how many of which class: counts (workers, classes) and how many samples nobody holds. None without data."""
        return None

    def about(self, config: Config) -> dict[str, Any]:
        """Facts about the data for `show` and the summary."""
        return {}

    def notes(self, config: Config) -> tuple[str, ...]:
        """Lines about the data that a user should read before a run starts. After `check`."""
        return ()

    def learns_from(self, config: Config) -> Any:
        """The data, training and test: arrays, numbers and texts, in dataclasses, tuples and lists; None where all is drawn."""
        return None

    def known(self, config: Config) -> Known | None:
        """L, sigma2, gap and kappa2 in closed form; None when the task does not know them."""
        return None

    def dimension(self, config: Config) -> int:
        """d, the number of parameters of one model."""
        raise NotImplementedError

    def blocks(self, config: Config) -> tuple[Block, ...]:
        """The parameters that a row is made of, in order, as its problem's `blocks`; here one vector of that many numbers."""
        return vector(self.dimension(config))

    def statistics(self, config: Config) -> int:
        """b, the number of running statistics (BatchNorm's) beside one model."""
        return 0

    def infimum(self, config: Config) -> float | None:
        """The smallest value of the training loss, the mean over the workers, where it is known. No loss is negative."""
        return None

    def module(self, config: Config, answer: Tensor, statistics: Tensor | None = None) -> Any:
        """The model with the parameters `answer` (1, d) and its (1, b) statistics. LookupError when there is none."""
        raise LookupError(f"task {config.task['name']} trains no module; run.rows() holds its models")

    def build(self, config: Config, rows: range, device: Any) -> Problem:
        """The problem of the workers in `rows` (global numbers)."""
        raise NotImplementedError
