"""The next character of a text: images and text differ in what a batch is, and in nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.registry import of_run, option, register
from coopsgd.tasks.supervised import Supervised
from coopsgd.tasks.supervised_problem import SupervisedProblem

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.setup.schema import Config


@register("language", "task")
@dataclass(frozen=True)
class Language(Supervised):
    """Cross entropy of the next character, in nats, of a `model` that reads `data=text`.

    A sample is a window of model.context characters, and the training text is cut into such windows end to end. They are
    what a partition deals: iid gives a worker windows from all over the text, shards one contiguous part of it (a text has one
    class). Evaluated on `windows` windows at even distances in the test part, the same ones each time.
    """

    model: Any = of_run("model", kw_only=True)  # that reads `context` characters
    data: Any = of_run("data", kw_only=True)  # that loads Characters
    windows: int = option(64, "of the test part, in an evaluation", unit="windows")

    INPUT = "tokens"

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise ValueError(f"task.windows: must be at least 1, got {self.windows}")

    def way_out(self) -> str:
        return "add data=text model=gpt"

    def labels(self, config: Config) -> np.ndarray:
        data, context = self.data, self.model.context
        text = data.load(config.seed)
        if getattr(data, "valid", None) is not None:
            for key, name, part in (("data.file", data.source, text.train), ("data.valid", data.valid, text.test)):
                if len(part) <= context:
                    raise ValueError(
                        f"{key}: {name} has {len(part)} characters or tokens and must hold model.context={context} and one "
                        "more; give a longer one, or lower model.context"
                    )
        if len(text.test) <= context:
            raise ValueError(
                f"data: {data.source} has {len(text.train) + len(text.test)} characters, of which a tenth, for testing, must "
                f"hold model.context={context} and one more; it takes {10 * (context + 1)}, or a lower model.context"
            )
        return np.broadcast_to(np.int64(0), (len(text.train) - 1) // context)

    def build(self, config: Config, rows: range, device: Any) -> LanguageProblem:
        return LanguageProblem(self, config, rows, device)


class LanguageProblem(SupervisedProblem):
    """The text in memory; a batch reads `context` characters of each window and answers with the same shifted by one."""

    PART = 32  # test windows in one forward pass

    def _load(self, task: Supervised, config: Config) -> int:
        import torch

        assert isinstance(task, Language)
        text, self._context = task.data.load(config.seed), task.model.context
        self._text, self._held_out = self._tensor(text.train), self._tensor(text.test)
        self._window = torch.arange(self._context + 1, device=self._device)
        there = (len(text.test) - 1) // self._context
        chosen = np.linspace(0, there - 1, min(task.windows, there)).round().astype(np.int64)
        self._chosen = torch.from_numpy(chosen).to(self._device)
        return len(chosen)

    def _windows(self, text: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """(..., context) characters of windows of these numbers, and the character after each."""
        window = text[which[..., None] * self._context + self._window].long()
        return window[..., :-1], window[..., 1:]

    def _batch(self, which: Tensor, rows: Sequence[int], own: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self._windows(self._text, which)

    def _test(self, which: Tensor) -> tuple[Tensor, Tensor]:
        return self._windows(self._held_out, self._chosen[which])

    def _own(self, which: Tensor) -> tuple[Tensor, Tensor]:
        return self._windows(self._text, which)
