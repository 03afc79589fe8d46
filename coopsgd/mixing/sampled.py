"""Federated averaging: a server, and clients drawn at random. McMahan et al., arXiv:1602.05629."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Any, ClassVar

import numpy as np

from coopsgd.mixing import matrices
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.expectation import Outcomes
from coopsgd.mixing.matrix import Matrix
from coopsgd.registry import of_run, option, register
from coopsgd.setup import values
from coopsgd.streams import stream

OUTCOMES = 16, 13_000  # workers, and sets of clients, whose every round is gone through to tell what is expected
DRAWN = ("alike", "proportional")


@register("sampled", "mixing")
@dataclass(frozen=True)
class Sampled(Mixing):
    """FedAvg: the server takes the weighted mean of this round's clients, the next round's take the server's model.

    fraction: of the workers, drawn every round, at least one.

    drawn: alike, without replacement; they weigh by their shares of the samples, normalised over those drawn, which is biased
    where sizes differ, or alike (weights_by=uniform). proportional: drawn in proportion to their samples, with replacement, and
    every draw weighs the same: unbiased.

    epochs: local passes of a client over its own share in a round instead of tau steps, so that clients with more data take
    more steps. 2 s messages a round for s different clients; who is not drawn computes nothing and keeps what it had.
    """

    structured: ClassVar[bool] = True

    fraction: float = option(0.5, "of the clients, in every round", unit="share")
    drawn: str = option(
        "alike", "how clients are: alike; proportional, by their samples, and then each draw weighs the same", words=DRAWN
    )
    epochs: Any = option(None, "local passes over a client's own share instead of tau steps", unit="epochs", type="int or null")
    seed: int = of_run("seed", 0)
    sizes: Any = of_run("sizes", None)  # samples of each worker; None where there are none to count
    batch_size: int = of_run("batch_size", 1)

    server_owns_aux: ClassVar[bool] = True
    WEIGHED: ClassVar[bool] = True
    BY_SAMPLES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"algo.fraction: the share of clients in a round must lie in (0, 1], got {self.fraction}")
        if self.drawn not in DRAWN:
            raise ValueError(f"algo.drawn: must be one of {', '.join(DRAWN)}, got {self.drawn!r}")
        if self.epochs is not None:
            if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 1:
                raise ValueError(
                    f"algo.epochs: must be a whole number of at least 1, got {self.epochs!r}; or leave it out and set tau"
                )
            if self.sizes is None:
                raise ValueError(f"algo.epochs={self.epochs}: this task has no epochs; leave it out and set tau")
            steps = self.epochs * values.steps_of_pass(max(int(size) for size in self.sizes), self.batch_size)
            values.refuse_odd(f"algo.epochs={self.epochs}: the steps of a round", steps)

    @property
    def num_aux(self) -> int:
        return 1

    @property
    def times_itself(self) -> bool:
        return self.epochs is not None

    def cycle(self, m: int) -> int | None:
        return 1 if self.drawn != "proportional" and self._clients(m, 0).all() else None

    def _drawn(self, m: int, r: int) -> np.ndarray:
        """(m,) how often each worker is drawn for round r."""
        count, draw = self._count(m), stream(self.seed, "clients", r)
        if self.drawn == "proportional":
            return np.bincount(draw.choice(m, count, p=self.worker_shares(m)), minlength=m)
        return np.bincount(draw.choice(m, count, replace=False), minlength=m)

    def outcomes(self, m: int, tau: int) -> Outcomes | None:
        """A round: its clients download, take their steps, upload. None when there are too many sets of clients."""
        count, replaced = self._count(m), self.drawn == "proportional"
        several = math.comb(m + count - 1, count) if replaced else math.comb(m, count)
        if m > OUTCOMES[0] or several > OUTCOMES[1]:
            return None
        ways = combinations_with_replacement(range(m), count) if replaced else combinations(range(m), count)
        drawn = np.array([np.bincount(way, minlength=m) for way in ways])
        chance = np.full(len(drawn), 1 / len(drawn))
        if replaced:  # multinomial
            orders = [math.factorial(count) / math.prod(map(math.factorial, row)) for row in drawn.tolist()]
            chance = np.array(orders) * np.prod(self.worker_shares(m) ** drawn, axis=1)
        return Outcomes(
            chance,
            np.stack([matrices.download(row > 0).dense() for row in drawn]),
            np.stack([self._steps(row > 0, tau) for row in drawn]),
            np.stack([matrices.upload(self._weights(row)).dense() for row in drawn]),
        )

    def _clients(self, m: int, r: int) -> np.ndarray:
        """(m,) bool, who takes part in round r."""
        return self._drawn(m, r) > 0

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        return matrices.upload(self._weights(self._drawn(m, r))), matrices.download(self._clients(m, r + 1))

    def work(self, m: int, r: int, tau: int) -> np.ndarray | None:
        clients = self._clients(m, r)
        return None if self.epochs is None and clients.all() else self._steps(clients, tau)

    def _count(self, m: int) -> int:
        return max(1, math.ceil(self.fraction * m - 1e-9))

    def _weights(self, drawn: np.ndarray) -> np.ndarray:
        """(m,) of the workers in the server's mean, for how often each was drawn."""
        weights = drawn.astype(float)
        if self.drawn == "alike" and self.sample_shares is not None:
            weights *= np.asarray(self.sample_shares if self.sizes is None else self.sizes)
        return np.asarray(weights / weights.sum())

    def _steps(self, clients: np.ndarray, tau: int) -> np.ndarray:
        """(m,) local steps of each worker."""
        each = tau if self.epochs is None else self.epochs * values.steps_of_pass(np.asarray(self.sizes), self.batch_size)
        return np.where(clients, each, 0)

    def negative(self, m: int) -> None:
        """Means of the clients have none."""
        return None
