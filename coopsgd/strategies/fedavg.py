"""Federated averaging as people mean it: the server's model is the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coopsgd.registry import register
from coopsgd.strategies.cooperative import Cooperative

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Rows


@register("fedavg")
@dataclass(frozen=True)
class FedAvg(Cooperative):
    """Clients drawn by lot train, a server averages, and the server's model is what is evaluated. arXiv:1602.05629.

    Clients are stateless: momentum is discarded between rounds (buffers=reset).
    """

    buffers: str = "reset"

    answer_lags: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order == "cta":
            raise ValueError("algo.order: cta leaves the server a round behind what is evaluated; use atc")
        if self.order == "overlap":
            raise ValueError(
                "algo.order: overlap uploads a client as it was before its last step, lost if it is not drawn again; use atc"
            )

    def shipped(self, fleet: Fleet, rows: Rows) -> Common:
        return fleet.pick(rows, fleet.m)
