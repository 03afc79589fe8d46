"""Which matrix the r-th communication applies. A mixing is a frozen dataclass; its fields are keys of an algo's yaml.

A communication may be a product of *factors*, applied in order, so that its price stays honest: federated averaging is "up"
then "down", not the dense product of the two. What a mixing wants of the run it asks for: by a field of the type Graph for
the topology, by `of_run` for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, cast

import numpy as np

from coopsgd.host import arrays, sizes
from coopsgd.mixing import spectra
from coopsgd.mixing.expectation import Expectation, Outcomes, lazily
from coopsgd.mixing.matrix import FOLLOWED, ROUNDING, Matrix, identity
from coopsgd.mixing.recognise import recognise
from coopsgd.mixing.structured import Dense, Product
from coopsgd.registry import of_run, option
from coopsgd.setup.exact import as_float64

LOOKED_AT = 1000  # communications of a schedule without a cycle whose weights are looked at before a run
RANDOM_KEPT = 2  # communications whose matrices are kept when they never come again
LONGEST = 64  # communications of a cycle up to which its matrices count as recurring


@dataclass(frozen=True)
class Mixing:
    """A schedule of mixing matrices over m workers (rows first) and `num_aux` auxiliary models (rows last)."""

    allow_disconnected: bool = option(False, "run although the workers never agree")
    lazy: bool = option(False, "mix with (I + W) / 2, whose eigenvalues are not negative where W is symmetric")
    sample_shares: Any = of_run("sample_shares", None)  # what each worker weighs in a mean over all, in sum 1; None: alike
    _cache: dict[tuple[int, int], Matrix] = field(default_factory=dict, init=False, repr=False, compare=False)
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    # what a class says of the matrices that it makes, so that nobody has to look at them
    OF_MATRICES: ClassVar[tuple[str, ...]] = ("structured", "negative", "expectation", "outcomes", "WEIGHED")
    structured: ClassVar[bool] = False  # are its matrices made without an (m, m) array?
    server_owns_aux: ClassVar[bool] = (
        False  # the auxiliary models live on a server of their own, never as copies beside the workers
    )
    WEIGHED: ClassVar[bool] = False  # are its matrices means over workers, which may weigh differently?
    BY_SAMPLES: ClassVar[bool] = False  # do they weigh by their samples unless the run says otherwise?
    in_pairs: ClassVar[bool] = False  # do the two ends of an edge exchange, whichever way it is said to go?
    AUX: ClassVar[str] = "algo.v"  # the key that says how many auxiliary models there are
    CYCLE: ClassVar[str] = "algo"  # the one that says how long a cycle is

    def __init_subclass__(cls, **more: Any) -> None:
        """A class that makes other matrices than its base says anew what is known of them, or they are looked at."""
        super().__init_subclass__(**more)
        if "matrices" in vars(cls):
            for name in set(Mixing.OF_MATRICES) - vars(cls).keys():
                setattr(cls, name, vars(Mixing)[name])

    @property
    def num_aux(self) -> int:
        """v, the number of auxiliary models."""
        return 0

    @property
    def times_itself(self) -> bool:
        """Does `work` say how long a round is, whatever tau is?"""
        return False

    def matrices(self, m: int, r: int) -> Iterable[Matrix | np.ndarray]:
        """The (m + v, m + v) factors of communication r (from 0), in the order they are applied; asked for by `at`."""
        raise NotImplementedError

    def cycle(self, m: int) -> int | None:
        """After how many communications the schedule repeats: 1 when it is constant, None when it never does."""
        return 1

    def at(self, m: int, r: int) -> Matrix:
        """The matrix of communication r, a Product if it has several factors; the same object whenever the schedule repeats."""
        cycle = self.cycle(m)
        key = (m, r if cycle is None else r % cycle)
        if key not in self._cache:
            if len(self._cache) >= (cycle or RANDOM_KEPT):
                self._cache.pop(next(iter(self._cache)))
            made = tuple(recognise(_cleaned(W)) for W in self.matrices(*key))
            made = self._lazily(made) if self.lazy else made
            for W in made:
                object.__setattr__(W, "recurring", cycle is not None and cycle <= LONGEST)
            self._cache[key] = made[0] if len(made) == 1 else Product(m + self.num_aux, made)
        return self._cache[key]

    def _lazily(self, factors: tuple[Matrix, ...]) -> tuple[Matrix, ...]:
        """(I + W) / 2 for the W of a communication, which keeps its structure."""
        if not factors:
            return factors
        if len(factors) != 1:
            raise ValueError(
                f"algo.lazy: a communication here is {len(factors)} matrices one after the other, and (I + W) / 2 of their "
                "product cannot be sent as they are; use algo.lazy=false"
            )
        (W,) = factors
        if isinstance(W, Dense):
            return (Dense((np.eye(W.n) + W.array) / 2),)
        return (0.5 * identity(W.n) + 0.5 * W,)

    def law(self, m: int) -> Expectation | None:
        """`expectation` of what is mixed with: of (I + W) / 2 where it is lazy."""
        found = self.expectation(m)
        return self.once(("lazy law", m), lambda: lazily(found)) if self.lazy and found is not None else found

    def factors(self, m: int, r: int) -> tuple[Matrix, ...]:
        """What communication r applies, in order."""
        return self.at(m, r).factors

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` answers, asked the first time only; an array is read-only, so that equal communications share it."""
        if key not in self._made:
            self._made[key] = made = make()
            if isinstance(made, np.ndarray):
                made.setflags(write=False)
        return self._made[key]

    def work(self, m: int, r: int, tau: int) -> np.ndarray | None:
        """(m,) local steps of each worker towards communication r, 0 for one that sits it out; None: tau for everyone."""
        return None

    def worker_shares(self, m: int) -> np.ndarray:
        """(m,) what each worker weighs among all of them, in sum 1: in the mean that is the aim."""
        return np.full(m, 1 / m) if self.sample_shares is None else np.asarray(self.sample_shares, dtype=float)

    def zeta(self, m: int) -> float | None:
        """How much of the disagreement one cycle of communications leaves, at worst; None when no matrix tells.

        A random schedule answers with the root of ||E[W'W] - J||, the mean square of one communication (arXiv:1905.09435),
        where its expectation is known.
        """
        if self.cycle(m) is None:
            law = self.law(m)
            return None if law is None else law.zeta
        # of thousands of workers it takes seconds, and is asked for by checks, theory and cost
        return float(self.once(("zeta", m), lambda: math.exp(min(spectra.log_zeta(self._communications(m)), 700.0))))

    def expectation(self, m: int) -> Expectation | None:
        """What one communication does in expectation, if it is at random and independent of the others."""
        return None

    def outcomes(self, m: int, tau: int) -> Outcomes | None:
        """All that one random round can be, where the rounds are independent and not the communications, and few."""
        return None

    def _communications(self, m: int) -> list[Matrix]:
        """(m + v, m + v) what each communication of a cycle does."""
        self.at(m, 0)  # a size that makes no sense is refused before anything is as large
        return [self.at(m, r) for r in range(self.cycle(m) or 1)]

    def negative(self, m: int) -> str | None:
        """A negative weight in any communication, named; None when there is none, or none in the first of an endless schedule.

        A maker that knows more, such as the worst case of what it draws, overrides it.
        """
        return first_negative(self.at(m, r) for r in range(self.cycle(m) or LOOKED_AT))

    def best_alpha(self, m: int) -> float | None:
        """alpha*, the pull with the smallest zeta; None when the mixing has no such weight."""
        return None

    def computed_settings(self, m: int) -> dict[str, Any]:
        """Fields that a run's config must hold as they were found here, because other machines could find them otherwise."""
        return {}

    def refuse_size(self, m: int) -> None:
        """ConfigError when its matrices or its cycle would take more memory or time than there is; makes none of them."""
        n = m + self.num_aux
        if self.structured:
            sizes.refuse_members(n, m, self.AUX)
            n = min(n, FOLLOWED)
        else:
            sizes.refuse_square(n, m, self.AUX)
        sizes.refuse_cycle(self.cycle(m) or 1, n, self.CYCLE)

    def check(self, m: int) -> None:
        """Build every matrix once. ValueError when the schedule cannot work for m workers."""
        found = self.zeta(m)
        if self.allow_disconnected or found is None or spectra.below_one(found):
            return
        cycle = self.cycle(m)
        if cycle is None or not spectra.reaches_consensus(self._communications(m)):
            over = "of a random communication" if cycle is None else "over a cycle of communications"
            raise ValueError(
                f"no consensus: zeta {over} is {found:.6g}, not below 1 by more than rounding, so the workers never agree, or "
                f"so slowly that no run would show it{self._apart(m)}; choose another W or topology, {self._said()}or set "
                "algo.allow_disconnected=true"
            )

    def _said(self) -> str:
        """A way out by whatever was set and would else be found."""
        said = [(f.name, value) for f in fields(cast(Any, self)) if f.default == "auto" != (value := getattr(self, f.name))]
        return "".join(f"algo.{name}=auto in place of {value}, " for name, value in said)

    def _apart(self, m: int) -> str:
        """Who hangs together, where its topology falls into parts."""
        topology = getattr(self, "topology", None)
        parts = topology.links(m, getattr(self, "seed", 0)).parts() if topology is not None else []
        if len(parts) < 2:
            return ""
        some = " and ".join(f"{', '.join(map(str, one[:6]))}{', ...' * (len(one) > 6)}" for one in parts[:3])
        return f" (the topology has {len(parts)} parts that no edge joins: workers {some}{', ...' * (len(parts) > 3)})"


def _cleaned(W: Any) -> Any:
    """An array in read-only float64, without the zeros that rounding missed; the same one if it is so already."""
    if isinstance(W, Matrix):
        return W
    missed = (np.abs(W) < ROUNDING) & ((W != 0) | np.signbit(W))
    if W.dtype == np.float64 and not W.flags.writeable and not missed.any():
        return W
    W = np.array(W, dtype=np.float64)
    W[missed] = 0
    W.setflags(write=False)
    return W


def first_negative(communications: Iterable[Any]) -> str | None:
    """The most negative weight of the first matrix that has one, in words; None when none has.

    Each communication is a matrix, or its factors in order.
    """
    seen: set[int] = set()
    for W in (W for some in communications for W in (some.factors if isinstance(some, Matrix) else map(recognise, some))):
        if id(W) not in seen:
            i, j, weight = W.least
            if weight < -ROUNDING:
                return negative_weight(i, j, weight)
            seen = {*seen, id(W)} if W.recurring else set()
    return None


def negative_weight(i: Any, j: Any, weight: float) -> str:
    """A negative weight in a message."""
    return f"this W has a negative weight (W[{i}, {j}] = {weight:.3g})"


def is_number(value: Any) -> bool:
    """An int or float that is no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def auto_or_number(name: str, value: Any) -> None:
    """ValueError unless `value` is "auto" or a number."""
    if value != "auto" and not is_number(value):
        raise ValueError(f"{name} must be auto or a number, got {value!r}")


def load_array(name: str, value: Any, fits: Callable[[tuple[int, ...]], None] | None = None) -> np.ndarray:
    """A float64 array from a file's path (host/arrays.py) or a nested list. ValueError, naming `name`, when it is neither.

    fits: is shown the shape, of a file before the file is read, and raises when it will not do.
    """
    if value is None:
        raise ValueError(f"{name}: is missing; give a file of numbers or a list, as in {name}=w.npy")
    if isinstance(value, str):
        return as_float64(name, arrays.read(name, value, fits))
    try:
        found = np.array(value)
    except (ValueError, TypeError):
        raise ValueError(
            f"{name}: {str(value)[:60]!r} holds no array of numbers; give a file of numbers or a list of rows"
        ) from None
    if fits is not None:
        fits(found.shape)
    return as_float64(name, found)
