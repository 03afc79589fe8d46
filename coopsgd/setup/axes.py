"""Which axes combine, with each other and with which algorithms: what cannot be is refused here, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from coopsgd.errors import ConfigError
from coopsgd.registry import is_a
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import AXES
from coopsgd.strategies.axes import packs
from coopsgd.strategies.base import layers, overrides
from coopsgd.strategies.codec import Codec

if TYPE_CHECKING:
    from coopsgd.fleet.block import Block


def check(parts: Parts) -> None:
    """ConfigError when an axis means nothing with this algorithm."""
    config, algo, m = parts.config, parts.config.algo["name"], parts.config.workers
    schedule = parts.strategy.schedule
    if schedule is not None and schedule.lazy:
        schedule.at(m, 0)  # which refuses what has no lazy form
    chosen = [name for name in AXES if getattr(config, name)]
    rounds = parts.codec is not None and not parts.codec.LOSES  # which goes with every message
    if layers(parts.strategy)[-1].send is None and (lost := [name for name in chosen if name != "codec" or not rounds]):
        name = lost[0]
        raise ConfigError(
            f"{name}={getattr(config, name)['name']}: {algo} mixes no models, it communicates gradients inside its steps; use "
            f"{name}=none, or algo=pasgd tau=1, which averages models"
        )
    if parts.outer is not None and is_a(layers(parts.strategy)[-1], "strategy", "decentlam", "gasloc"):
        raise ConfigError(
            f"outer={(config.outer or {})['name']}: {algo} takes its momentum from where a communication left the models, "
            "which an outer step would move behind its back; use outer=none, or algo=dpsgd, whose outer step may have momentum"
        )
    if config.weights_by == "samples":
        _check_weights(parts)
    elif config.algo.get("drawn") == "proportional":
        raise ConfigError(
            "weights_by=uniform algo.drawn=proportional: clients drawn in proportion to their samples weigh by them on "
            "average; use algo.drawn=alike, or weights_by=samples"
        )
    if parts.codec is not None or parts.fragments is not None:
        _check_messages(parts)
    if parts.correction is None:
        return
    name = config.correction["name"]
    for other in chosen:
        if other not in ("correction", *parts.correction.BESIDE) and not (other == "codec" and rounds):
            both = f"correction={name} {other}={getattr(config, other)['name']}"
            if other == "fragments":
                raise ConfigError(
                    f"{both}: it corrects by where a communication left the whole model, and a fragment is a part of it; use "
                    "fragments=none"
                )
            way_out = "codec=bf16, fp16 or none" if other == "codec" else f"{other}=none"
            raise ConfigError(
                f"{both}: what a worker takes from others is corrected where W alone lies between what is sent and what is "
                f"heard; use {way_out}, or correction=proximal"
            )
    more = [one for one in ("direction", "send", "receive") if overrides(layers(parts.strategy)[-1], one)]
    if more and parts.correction.ALONE:
        raise ConfigError(
            f"correction={name}: corrects what mixing by W does, and {algo} does more with its models (its `{more[0]}`); use "
            "an algorithm that mixes them and no more, such as dpsgd, or correction=proximal"
        )
    period = parts.period
    tau = period.largest if period.smallest == period.largest else None
    parts.correction.check(schedule, m, tau, algo)


def _check_weights(parts: Parts) -> None:
    """Of workers that weigh by their samples."""
    config, algo, schedule = parts.config, parts.config.algo["name"], parts.strategy.schedule
    if schedule is None or not (schedule.WEIGHED or schedule.BY_SAMPLES):
        raise ConfigError(
            f"weights_by=samples: is of means over all workers, or over groups of them, and {algo} has a W of its own, whose "
            "weights say who takes what; use weights_by=uniform, or algo=pasgd, fullsync, two_level, parameter_server, fedavg"
        )
    if parts.task.sizes(config) is None and not schedule.BY_SAMPLES:
        raise ConfigError(
            f"weights_by=samples: task={config.task['name']} has no samples to count; use weights_by=uniform, or a task with "
            "data"
        )
    if parts.correction is not None and not parts.correction.WEIGHED:
        raise ConfigError(
            f"weights_by=samples correction={config.correction['name']}: its corrections sum to 0 where all workers count "
            "alike; use weights_by=uniform, or correction=scaffold, proximal, fednova"
        )


def _check_messages(parts: Parts) -> None:
    """Of the axes that say what is in a message."""
    config, algo, schedule = parts.config, parts.config.algo["name"], parts.strategy.schedule
    own, codec = layers(parts.strategy)[-1], parts.codec
    name = "codec" if codec is not None and (codec.LOSES or parts.fragments is None) else "fragments"
    what = f"{name}={getattr(config, name)['name']}"
    alone = packs(own)
    if not alone and (name == "fragments" or (codec is not None and codec.LOSES)):
        way_out = "codec=bf16, fp16 or none" if name == "codec" else "fragments=none"
        raise ConfigError(f"{what}: {algo} says by itself what it sends; use {way_out}, or an algorithm that mixes models by W")
    corrected = parts.correction is not None and "codec" not in parts.correction.BESIDE
    if codec is not None and not (corrected and codec.LOSES):  # which is refused by name below
        try:
            if alone and schedule is not None and not corrected:
                codec.rule_for(schedule, config.workers)
            else:
                codec.rule_of_messages(None if own.send is None else schedule, config.workers)
        except ValueError as error:
            raise ConfigError(_blamed(str(error), what, algo)) from None
    if parts.fragments is not None:
        _check_fragments(parts)


def _check_fragments(parts: Parts) -> None:
    config, algo, schedule, fragments = parts.config, parts.config.algo["name"], parts.strategy.schedule, parts.fragments
    assert schedule is not None and fragments is not None
    count, period = fragments.count, (config.period or {}).get("name", "constant")
    if period != "constant":
        raise ConfigError(
            f"fragments.count={count}: fragments take turns within tau, which period={period} moves by itself; "
            "use period=constant"
        )
    if schedule.times_itself or schedule.work(config.workers, 0, 1) is not None:
        raise ConfigError(
            f"fragments.count={count}: {algo} draws workers anew for each communication, so a fragment would not be averaged "
            "over those that trained it; use an algorithm in which every worker takes part, as pasgd"
        )
    d = parts.task.dimension(config)
    if count > d:
        raise ConfigError(f"fragments.count={count}: the model has {d} numbers; use at most that many")


def check_blocks(parts: Parts, kinds: Callable[[], Sequence[tuple[Block, ...]]]) -> None:
    """Of what hangs on the parameters that a model is made of, whose shapes no formula tells: torch is imported for them.

    kinds: tells them to who asks, those of each kind of number or device, which lie in rows of their own.
    """
    config, codec, fragments = parts.config, parts.codec, parts.fragments
    if codec is not None and type(codec).check is not Codec.check:
        try:
            codec.check([*chain(*kinds())], fragments.by if fragments else None)
        except ValueError as error:
            raise ConfigError(_blamed(str(error), f"codec={(config.codec or {})['name']}", config.algo["name"])) from None
    if fragments is not None and fragments.by == "layer":
        found = kinds()
        each = zip(*(fragments.sizes(partial(tuple, kind), kind[-1].stop) for kind in found), strict=True)
        if not all(map(any, each)):
            layers_ = max(len({block.name.rpartition(".")[0] or block.name for block in kind}) for kind in found)
            raise ConfigError(
                f"fragments.by=layer: the model has {layers_} layers for fragments.count={fragments.count}; use at most that "
                "many, or fragments.by=stride"
            )
    if hasattr(parts.optim, "chosen") and not parts.task.THEIRS:
        parts.optim.chosen([*chain(*kinds())])


def _blamed(line: str, what: str, algo: str) -> str:
    """A codec's line, with what it is about in front unless it says so."""
    return line if line.startswith(("codec.", "fragments.")) else f"{what}: {algo}: {line}"
