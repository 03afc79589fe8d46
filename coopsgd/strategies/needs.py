"""What corrections need of a W: of how many local steps, of its sums, of its eigenvalues. Each raises ValueError."""

from __future__ import annotations

from coopsgd.mixing import lanczos, spectra
from coopsgd.mixing.base import LOOKED_AT, Mixing
from coopsgd.mixing.matrix import WHOLE, Matrix

LOWEST = -1 / 3  # no eigenvalue of W may be there or below: the roots of z^2 - 2 l z + l leave the unit circle
APART = 1e-9  # of an eigenvalue from it
CLOSE = 1e-9  # of row and column sums to 1


def one_step(name: str, tau: int | None, instead: str) -> None:
    """Rounds of one local step. instead: what takes any."""
    if tau != 1:
        has = f"tau={tau}" if tau else "a period that moves"
        raise ValueError(
            f"correction={name}: corrects at communications alone, so that of several local steps a round the workers' drift "
            f"stays, got {has}; use tau=1, or correction={instead}"
        )


def doubly_stochastic(name: str, schedule: Mixing | None, m: int, algo: str) -> None:
    """Every communication keeps the sum over the workers."""
    _of_workers(name, schedule, m, algo)
    assert schedule is not None
    for r in range(min(schedule.cycle(m) or LOOKED_AT // 50, WHOLE)):
        for W in schedule.factors(m, r):
            if not W.is_doubly_stochastic(CLOSE):
                raise ValueError(
                    f"correction={name}: needs columns of W that sum to 1 as its rows do, or the corrections would not sum to "
                    f"0, and those of algo={algo} do not; use an undirected topology, or a directed one of one degree"
                )


def fixed_and_symmetric(name: str, schedule: Mixing | None, m: int, algo: str) -> None:
    """W is one symmetric matrix, doubly stochastic, with all eigenvalues above -1/3."""
    _of_workers(name, schedule, m, algo)
    assert schedule is not None
    if schedule.cycle(m) != 1:
        raise ValueError(
            f"correction={name}: needs one W for all rounds, since what it gives back is what the same W took, and that of "
            f"algo={algo} changes; use algo=dpsgd, or correction=kgt, which takes any doubly stochastic W"
        )
    W = schedule.at(m, 0)
    if not (W.is_symmetric(CLOSE) and W.is_doubly_stochastic(CLOSE)):
        raise ValueError(
            f"correction={name}: needs a symmetric W, whose eigenvalues are real, and that of algo={algo} is not; use an "
            "undirected topology, or correction=kgt, which takes any doubly stochastic W"
        )
    least = _least(W)
    if least <= LOWEST + APART:
        raise ValueError(
            f"correction={name}: needs a W whose eigenvalues are all above -1/3, or it diverges, and the least of algo={algo} "
            f"is {least:.6g}; use algo.lazy=true, which mixes with (I + W) / 2"
        )


def _of_workers(name: str, schedule: Mixing | None, m: int, algo: str) -> None:
    if schedule is None:
        raise ValueError(f"correction={name}: {algo} has no matrix to mix by, of which it must know that it keeps sums")
    if schedule.num_aux:
        raise ValueError(
            f"correction={name}: corrects the workers for what they take from each other, and {algo} has auxiliary models, "
            "which have no gradients; use an algorithm without, such as algo=pasgd, dpsgd, or correction=scaffold with a server"
        )
    if schedule.work(m, 0, 1) is not None:
        raise ValueError(
            f"correction={name}: needs every worker in every round, and {algo} lets some sit out; use an algorithm in which "
            "all work, or correction=scaffold with algo=fedavg"
        )


def _least(W: Matrix) -> float:
    """The smallest eigenvalue of a symmetric W."""
    values = spectra.eigenvalues(W)
    return float(values.min()) if len(values) else lanczos.ends(W)[1]
