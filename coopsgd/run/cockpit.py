"""What TensorBoard shows of a run beside its curves: its row of hyperparameters, what it is in words, pictures of W."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coopsgd.host.sizes import human_bytes
from coopsgd.run import drawings
from coopsgd.run.final import command
from coopsgd.run.folders import words_of
from coopsgd.run.schema import WORKERS
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import AXES, GROUPS, SIZES, Config
from coopsgd.strategies.base import layers

ALWAYS = ("algo", "tau", "workers", "optim.lr", "seed")  # keys that a single run's row has in any case


def row(folder: Path, config: Config) -> dict[str, Any]:
    """Keys and values of a run's row in the table of hyperparameters.

    Of a job of a sweep its algorithm and the swept keys; of a single run the keys that its words name, and ALWAYS.
    """
    sweeping, words = words_of(folder)
    keys = {key_of(word): word.partition("=")[2] for word in words}
    found: dict[str, Any] = {}
    for key in dict.fromkeys((*(("algo",) if sweeping else ALWAYS), *keys)):
        if key.startswith("hydra"):
            continue
        value = value_of(config, key, keys.get(key))
        if value is not None or key in keys:
            found[key] = "null" if value is None else value
    return found


def key_of(word: str) -> str:
    """The key that a word sets: +optim.lr of +optim.lr=0.1."""
    return word.partition("=")[0].lstrip("+~").partition("@")[0]


def value_of(config: Config, key: str, otherwise: Any = None) -> Any:
    """Of a key as the run has it: of a group its choice. otherwise: where the config has no such key (an experiment)."""
    group, _, rest = key.partition(".")
    found = getattr(config, group, otherwise)
    if group in GROUPS and found is not None:
        for name in (rest or "name").split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found
    return otherwise if rest else found


def texts(folder: Path, parts: Parts) -> Iterator[tuple[str, str, str]]:
    """Tag, description and Markdown of what the run is."""
    yield "command", "the command that made the folder", f"```\n{command(folder)}\n```"
    yield "algorithm", "the algorithm as (tau, W, v), and what goes with it", in_words(parts)
    config = (folder / "config.yaml").read_text().partition("\n# What Hydra needs")[0]
    yield "config", "every key of the run, resolved", f"```yaml\n{config}\n```"


def in_words(parts: Parts) -> str:
    """(tau, W, v), order, delay and other axes of a run, as a table of Markdown."""
    config, strategy, schedule = parts.config, parts.strategy, parts.strategy.schedule
    m, v = config.workers, schedule.num_aux if schedule else 0
    period = (config.period or {}).get("name", "constant")
    times_itself = schedule is not None and schedule.times_itself
    tau = "the schedule times itself" if times_itself else f"{config.tau} local steps between two communications"
    about = (type(layers(strategy)[-1]).__doc__ or "").strip().split("\n")[0]
    zeta, cycle = (schedule.zeta(m), schedule.cycle(m)) if schedule else (None, 1)
    of = "one communication" if cycle == 1 else f"a cycle of {cycle} communications" if cycle else "one random communication"
    mixing = "none: " + about if schedule is None else (type(schedule).__doc__ or "").strip().split("\n")[0]
    width = parts.task.dimension(config) * SIZES[config.dtype]
    orders = {"atc": "step, then mix", "cta": "mix, then step"}
    rows = {
        "algorithm": f"{config.algo['name']}: A(tau, W, v) with m = {m} workers",
        "tau": tau if period == "constant" else f"{tau}; moved by {period}",
        "W": mixing,
        "zeta": "not known" if zeta is None else f"{zeta:.6g} of {of} (0 averages exactly, 1 never agrees)",
        "v": f"{v} auxiliary model{'s' * (v != 1)}",
        "order": orders.get(str(config.order), str(config.order)),
        "delay": f"{config.delay} local steps between sending and mixing" if config.delay else "none: sent and mixed at once",
        **{name: axis_in_words(node) for name in AXES if (node := getattr(config, name))},
        "a model": f"{parts.task.dimension(config)} numbers, {human_bytes(width)}",
    }
    lines = [f"| {name} | {str(text).replace('|', chr(92) + '|')} |" for name, text in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def axis_in_words(node: Mapping[str, Any]) -> str:
    """An axis by its name and keys."""
    keys = ", ".join(f"{key}={value}" for key, value in node.items() if key != "name")
    return f"{node['name']}{f' ({keys})' * bool(keys)}"


def images(parts: Parts, accuracies: Any) -> Iterator[tuple[str, str, tuple[bytes, int, int]]]:
    """Tag, description and picture (PNG, width, height), drawn one by one. accuracies: each worker's, or None."""
    schedule, m = parts.strategy.schedule, parts.config.workers
    if schedule is not None and parts.strategy.send is not None:
        factors, rows = schedule.factors(m, 0), drawings.members(m, schedule.num_aux)
        for n, W in enumerate(factors):
            of = f" {n + 1} of {len(factors)}" if len(factors) > 1 else ""
            more = f"_{n + 1}" if len(factors) > 1 else ""
            about = f"matrix{of} of the first communication: row i is what member i takes"
            yield f"{WORKERS}/W{more}", about, drawings.heat_map(W, rows)
            yield f"{WORKERS}/W{more}_graph", f"who takes from whom by {about}", drawings.graph(W, rows)
            if (spectrum := drawings.spectrum(W)) is not None:
                yield f"{WORKERS}/W{more}_spectrum", f"moduli of the eigenvalues of {about}", spectrum
    if accuracies is not None:
        yield f"{WORKERS}/accuracy", "of each single worker at the last evaluation", drawings.bars(accuracies)
    counts = parts.task.class_counts(parts.config)
    if counts is not None:
        yield f"{WORKERS}/samples", "who holds how many samples of which class", drawings.samples(counts)
