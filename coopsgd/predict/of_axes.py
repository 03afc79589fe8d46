"""What is known of a correction, a codec and GASLoC's momentum with the W of a run: facts for `show` and `analyze`."""

from __future__ import annotations

from typing import Any

import numpy as np

from coopsgd.mixing import spectra
from coopsgd.mixing.static import takes_mean
from coopsgd.predict.mixed import not_plain
from coopsgd.predict.theory import corrected
from coopsgd.registry import is_a
from coopsgd.setup.parts import Parts
from coopsgd.strategies.base import layers
from coopsgd.strategies.codec import Codec

EXACT = {
    "d2": "exact: workers whose f_i differ end where their mean is least, at a constant rate",
    "proximal": "not exact: mu holds workers near the model they began with, and where they end stays off",
    "fednova": "not exact: makes unequal steps count alike; the drift within a round stays",
}
EXACT |= dict.fromkeys(("led", "gt", "kgt", "scaffold"), EXACT["d2"])
NEEDS = {
    **dict.fromkeys(("d2", "led"), "one symmetric W with all eigenvalues above -1/3"),
    **dict.fromkeys(("gt", "kgt"), "a doubly stochastic W; its eigenvalues may lie anywhere in the unit circle"),
    **dict.fromkeys(("scaffold", "fednova"), "a mean over all, W = J or a server"),
    "proximal": "nothing of W",
}


def correction_facts(parts: Parts) -> dict[str, Any] | None:
    """What a correction makes exact, and what it needs of W and of the rate; None where there is none.

    exact, needs: phrases; null for one of your own. least: the least eigenvalue of W, where it is one of eigenvalues that are
    known. left: what a round leaves of a disagreement at worst, without curvature. largest_lr_L: the rate times curvature below
    which it contracts on quadratics of one curvature. Null, and `unknown` says why, where no number is known.
    """
    config = parts.config
    if parts.correction is None or config.correction is None:
        return None
    name = config.correction["name"]
    found: dict[str, Any] = {"exact": EXACT.get(name), "needs": NEEDS.get(name)}
    values, unknown = _modes(parts), ""
    if name not in corrected.BLOCKS:
        unknown = "no condition on the rate is known beyond that of the inner steps"
    elif values is None:
        unknown = "of one fixed W of all workers alone"
    elif why := not_plain(parts):
        unknown = why
    elif (
        config.order != "atc"
        or config.merge != "kept"
        or parts.outer is not None
        or parts.period.largest != parts.period.smallest
    ):
        unknown = "of order=atc, merge=kept, one tau and no outer step alone"
    tau = int(parts.period.largest or config.tau)
    known = not unknown and values is not None
    return {
        **found,
        "least": None if values is None or not len(values) else float(values.real.min()),
        "left": corrected.left(name, values, 0.0, tau) if known and values is not None else None,
        "largest_lr_L": corrected.largest_step(name, values, tau) if known and values is not None else None,
        "unknown": unknown or None,
    }


def _modes(parts: Parts) -> np.ndarray | None:
    """(m - 1,) eigenvalues of the one W of all workers, less that of the mean; None where there is none, or they are many."""
    schedule, m = parts.strategy.schedule, parts.config.workers
    if schedule is None or schedule.cycle(m) != 1 or schedule.work(m, 0, 1) is not None:
        return None
    if takes_mean(schedule) or schedule.server_owns_aux:
        return np.zeros(m - 1)
    if schedule.num_aux or len(factors := schedule.factors(m, 0)) != 1:
        return None
    values = spectra.eigenvalues(factors[0])
    return values[1:] if len(values) else None


def delta_of(codec: Codec, d: int) -> float | None:
    """delta with E ||v - C(v)||^2 <= (1 - delta) ||v||^2 for whatever v, of a segment as long as there may be; None: not known.

    d: numbers of the model, of which a segment holds some.
    """
    from coopsgd.strategies import codecs

    L = min(d, getattr(codec, "chunk", d)) if getattr(codec, "per", "tensor") == "chunk" else d
    if isinstance(codec, codecs.Identity):
        return 1.0
    if isinstance(codec, codecs.BFloat16 | codecs.Float16):
        return 1 - 2.0 ** (-2 * (8 if isinstance(codec, codecs.BFloat16) else 11))
    if isinstance(codec, codecs.Sign):
        return 1 / L
    if isinstance(codec, codecs.QSGD):
        return 1 / (1 + omega_of(codec, d))
    if getattr(codec, "bits", None) is not None:
        return None
    if isinstance(codec, codecs.TopK | codecs.RandK):
        return float(codec.share)
    if isinstance(codec, codecs.DCT):
        return min(1.0, codec.keep / codec.chunk**2)
    return None


def omega_of(codec: Any, d: int) -> float:
    """omega of QSGD, with E C(v) = v and E ||v - C(v)||^2 <= omega ||v||^2: min(L / s^2, sqrt(L) / s), s levels.

    arXiv:1610.02132, Lemma 3.1.
    """
    L, s = min(d, codec.chunk) if codec.per == "chunk" else d, 2 ** (codec.bits - 1) - 1
    return float(min(L / s**2, L**0.5 / s))


def codec_facts(parts: Parts) -> dict[str, Any] | None:
    """How much of a vector a codec keeps, and what that does to the mixing; None where there is none.

    rule: slow, choco, deepsqueeze or rounded. delta: as in delta_of; omega of a codec that is right on average. left_out: with
    error feedback, E ||e||^2 is at most so many times the largest E ||D||^2 of a message, 4 (1 - delta) / delta^2
    (arXiv:1901.09847, Lemma 3). choco: {gamma, left}, gamma of the proof, and what it leaves of the squared disagreement a
    communication at most. Null where it is not known.
    """
    codec, schedule, m = parts.codec, parts.strategy.schedule, parts.config.workers
    if codec is None:
        return None
    d = parts.task.dimension(parts.config)
    delta, values = delta_of(codec, d), _modes(parts)
    try:
        rule = codec.rule_for(schedule, m) if schedule is not None else "rounded"
    except ValueError:
        rule = "rounded"
    feeds = rule == "slow" and codec.keeps and codec.decay == 1 and codec.over == "all"
    pair = corrected.choco(values, delta) if rule == "choco" and delta is not None and values is not None else None
    return {
        "rule": rule,
        "delta": delta,
        "omega": omega_of(codec, d) if is_a(codec, "codec", "qsgd") else None,
        "left_out": 4 * (1 - delta) / delta**2 if feeds and delta is not None else None,
        "choco": None if pair is None else {"gamma": pair[0], "left": pair[1], "now": codec.gamma},
    }


def gasloc_facts(parts: Parts) -> dict[str, Any] | None:
    """{momentum, zeta} of GASLoC: where its momentum is added, and what a communication then leaves of a disagreement between
    slow models, without gradients; null where W moves. None of other algorithms."""
    algorithm: Any = layers(parts.strategy)[-1]
    if not is_a(algorithm, "strategy", "gasloc"):
        return None
    values = _modes(parts)
    zeta = None if values is None else corrected.gasloc(values, algorithm.gamma, algorithm.momentum)
    return {"momentum": algorithm.momentum, "zeta": zeta}
