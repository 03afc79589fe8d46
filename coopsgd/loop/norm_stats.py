"""Running statistics (BatchNorm's mean and variance) are a policy, never an accident.

They are a second tensor of Rows, (r, b), beside the models x (r, d). `average` mixes them by the same W in the same message,
charged like the rest; `local` leaves each worker its own; `recalibrate` leaves them too, and estimates the averaged model's
anew before it is evaluated or shipped. The averaged model otherwise has the workers' mean statistics, single workers their own.
An auxiliary model sees no batch: what `average` mixes into it are its own, else it goes by those of an averaged model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.base import Common
    from coopsgd.loop.loop import Loop
    from coopsgd.tasks.base import Problem

BATCHES = 32  # training batches of batch_size that recalibrate looks at, drawn from all training data, the same every time


def answer(loop: Loop, problem: Problem, policy: str) -> tuple[Common, Tensor | None]:
    """(1, d) the model to evaluate and ship, and its (1, b) statistics; under `recalibrate` those on rank 0 only.

    An exchange: call it while measuring.
    """
    st, fleet = loop.state, loop.fleet
    with fleet.carrying(*([] if st.stats is None or policy != "average" else [st.stats])) as carried:
        found = loop.moves.answer(fleet, st.x, st.s)
    if st.stats is None:
        return found, None
    mean = carried.made[0] if carried.made else fleet.mean(st.stats)
    if policy != "recalibrate":
        return found, mean
    return found, problem.recalibrated(found, mean, BATCHES) if fleet.rank == 0 else None


def auxiliary(loop: Loop, problem: Problem, policy: str, a: int) -> tuple[Common, Tensor | None]:
    """The same of auxiliary model a."""
    st, fleet = loop.state, loop.fleet
    model = fleet.pick(st.x, fleet.m + a)
    if st.stats is None or policy == "average":
        return model, None if st.stats is None else fleet.pick(st.stats, fleet.m + a)
    mean = fleet.mean(st.stats)
    if policy != "recalibrate":
        return model, mean
    return model, problem.recalibrated(model, mean, BATCHES) if fleet.rank == 0 else None


def of_rows(loop: Loop, problem: Problem, policy: str) -> Tensor | None:
    """(r, b) of every row held here, to keep with the models; those of auxiliary models as `auxiliary` has them.

    An exchange: call it while measuring.
    """
    st, fleet = loop.state, loop.fleet
    if st.stats is None or policy == "average" or not fleet.v:
        return st.stats
    mean, w = fleet.mean(st.stats), len(fleet.workers)
    rows = st.stats.clone()
    for i in range(w, len(rows)):
        rows[i : i + 1] = mean if policy == "local" else problem.recalibrated(st.x[i : i + 1].clone(), mean, BATCHES)
    return rows
