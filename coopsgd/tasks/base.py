"""The contract of a task: settings that a config chooses, and the problem they build in every process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from coopsgd.config import Config


class Problem(Protocol):
    """One process's share of a task: the workers in `rows`."""

    samples: int  # one worker's samples in one step
    steps_per_epoch: int | None

    def start(self) -> Tensor:
        """(1, d) the model every worker starts from."""

    def bind(self, x: Tensor, grad: Tensor) -> None:
        """Take the (r, d) rows that gradients are taken at and written to; workers first."""

    def gradients(self, k: int, active: np.ndarray | None) -> Tensor:
        """Fill the gradient rows of the active workers for iteration k; their losses, (r, 1), 0 elsewhere."""

    # A problem may also `descend(k, rates, active)`: len(rates) steps x -= rate * gradient of the active workers in place,
    # from iteration k on; their losses, (len(rates), r, 1). `about` goes into summary.json, `notes` are told the user.

    def evaluate(self, answer: Tensor) -> dict[str, float | None]:
        """eval/loss and eval/accuracy of one (1, d) model."""

    def accuracies(self, x: Tensor) -> list[float] | None:
        """Accuracy of each worker held here; None when the task has none."""


class Task:
    """Settings of a task; a frozen dataclass that imports no torch."""

    USES: ClassVar[tuple[str, ...]] = ()  # which of model, data, batch_size it reads
    ARRAYS: ClassVar[tuple[str, ...]] = ()  # fields that may name a .npy file

    def check(self, config: Config) -> None:
        """ValueError when it cannot work with this config; before any process starts."""

    def steps_per_epoch(self, config: Config) -> int | None:
        """Steps in which every worker passes over its own share once; None when there are no epochs."""
        return None

    def dimension(self, config: Config) -> int:
        """d, the number of parameters of one model."""
        raise NotImplementedError

    def module(self, config: Config, answer: Tensor) -> Any:
        """The model with the parameters `answer` (1, d), as users know it. LookupError when there is none."""
        raise LookupError(f"task {config.task['name']} trains no module; run.rows() holds its models")

    def build(self, config: Config, rows: range, device: Any) -> Problem:
        """The problem of the workers in `rows` (global numbers)."""
        raise NotImplementedError
