"""Federated averaging as people mean it: the server's model is the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coopsgd.registry import register
from coopsgd.strategies.cooperative import Cooperative

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Rows


@register("fedavg")
@dataclass(frozen=True)
class FedAvg(Cooperative):
    """Clients drawn at random train, a server averages, and the server's model is what is evaluated. arXiv:1602.05629."""

    def answer(self, fleet: Fleet, x: Rows, s: Any) -> Common:
        return fleet.pick(x, fleet.m)
