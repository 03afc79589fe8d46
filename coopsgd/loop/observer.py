"""What a loop tells of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from coopsgd.loop.loop import Loop
    from coopsgd.strategies.base import Tick


class Observer:
    """Who looks at a loop: off its ledger and off its clock. This one does not look."""

    def due(self, step: int, ended: int | None = None) -> bool:
        """Must `loop.state.x` be what it is after so many steps, when the loop has taken them and when they are communicated?

        Else it may be further (`steps.ahead`), then and until the loop has come there. ended: so many rounds have ended with
        them; None: none ends, or nobody asks of one.
        """
        return False

    def moved(self, loop: Loop, t: Tick, active: np.ndarray | None, due: bool) -> None:
        """The workers `active` (m,) took their local step (None: all); if a communication is due, it comes now."""

    def sends(self, loop: Loop, done: int) -> None:
        """A communication begins; when it is over, `done` steps will have been taken."""

    def received(self, loop: Loop, late: int) -> None:
        """It is over; the models hold `late` local steps that it has not mixed."""

    def stepped(self, loop: Loop, t: Tick, loss: Tensor, active: np.ndarray | None, due: bool) -> None:
        """One iteration is over, in which the workers `active` (m,) computed (None: all); loss (r, 1), 0 where idle."""
