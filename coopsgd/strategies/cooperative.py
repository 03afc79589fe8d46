"""A(tau, W, v), the framework itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from coopsgd.mixing.base import Mixing
from coopsgd.mixing.static import Average
from coopsgd.registry import register
from coopsgd.strategies.base import Strategy


@register("cooperative")
@dataclass(frozen=True)
class Cooperative(Strategy):
    """A(tau, W, v): x <- W (x - eta g), where W = I unless a communication is due. arXiv:1808.07576."""

    mixing: Mixing = field(default_factory=Average)

    @property
    def schedule(self) -> Mixing:  # type: ignore[override]
        """The mixing that the yaml names."""
        return self.mixing
