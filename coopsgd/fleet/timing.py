"""What a clock is to a fleet: it moves with what is charged, and says when each host could go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.fleet.price import Price


class Timing(Protocol):
    """A clock that moves with what is charged (predict/clock/clock.py is one); `parts` are its own."""

    @property
    def now(self) -> float:
        """Seconds."""

    def begin(self, k: int, active: np.ndarray | None) -> None:
        """Iteration k, in which the workers `active` (m,) compute (None: all), as soon as `compute` is called."""

    def compute(self) -> None:
        """The local step of this iteration is taken."""

    def average(self) -> Any:
        """Parts of the mean over all workers."""

    def broadcast(self, i: int) -> Any:
        """Parts of row i, sent to everyone."""

    def parts(self, price: Price) -> Any:
        """Parts of what is charged, of one worker a host."""

    def saved(self) -> Any:
        """The times, to go on from with `restore`."""

    def restore(self, saved: Any) -> None:
        """Go on from there."""

    def ends(self, parts: Any, nbytes: int) -> np.ndarray:
        """(hosts,) when each could go on if a verb on vectors of so many bytes began now."""

    def reach(self, ends: np.ndarray) -> None:
        """Let time pass until then, on each host."""
