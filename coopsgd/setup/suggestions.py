"""What may have been meant by a key or a choice that there is not."""

from __future__ import annotations

from coopsgd.registry import closest, like
from coopsgd.setup import again, catalogue
from coopsgd.setup.schema import GROUPS, KEYS

# what other programs call it
ALIASES = {
    "learning_rate": ("optim.lr",),
    "eta": ("optim.lr",),
    "optimizer": ("optim",),
    "optimiser": ("optim",),
    "algorithm": ("algo",),
    "strategy": ("algo",),
    "method": ("algo",),
    "dataset": ("data",),
    "network": ("model", "cluster"),
    "arch": ("model",),
    "graph": ("topology",),
    "scheduler": ("schedule",),
    "m": ("workers",),
    "n": ("workers",),
    "nodes": ("workers",),
    "clients": ("workers",),
    "num_workers": ("workers",),
    "bs": ("batch_size",),
    "iterations": ("steps",),
    "iters": ("steps",),
    "max_steps": ("steps",),
    "local_steps": ("tau",),
    "local_epochs": ("algo.epochs", "tau"),
    "local_epoch": ("algo.epochs", "tau"),
    "num_rounds": ("rounds",),
    "n_rounds": ("rounds",),
    "communication_rounds": ("rounds",),
    "global_rounds": ("rounds",),
    "global_epoch": ("rounds",),
    "num_epochs": ("epochs",),
    "max_epochs": ("epochs",),
    "num_clients": ("workers",),
    "n_clients": ("workers",),
    "client_num": ("workers",),
    "join_ratio": ("algo.fraction",),
    "participation": ("algo.fraction",),
    "fraction_fit": ("algo.fraction",),
    "log_interval": ("log_every",),
    "eval_interval": ("eval_every",),
    "test_interval": ("eval_every",),
    "checkpoint_interval": ("checkpoint_every",),
    "warmup_steps": ("schedule.warmup",),
    "lr_scheduler": ("schedule",),
    "lr_decay": ("schedule.gamma",),
    "output": ("hydra.run.dir",),
    "output_dir": ("hydra.run.dir",),
    "out": ("hydra.run.dir",),
    "gpus": ("device",),
    "precision": ("dtype", "amp"),
}


# keys that were, and what is in their place
GONE = {
    "algo.weighting": "weights_by=samples or uniform is what workers weigh in every mean, and proportional is "
    "algo.drawn=proportional"
}


def brief(text: str, most: int = 80) -> str:
    """Text as a message can hold it: on one line, printable, cut when long."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def nested(config_dir: str | None = None) -> dict[str, list[str]]:
    """Every key below a group, GROUP.KEY, by the name of the key: what its choices have."""
    found: dict[str, list[str]] = {}
    for group in GROUPS:
        choices = catalogue.choices(group, config_dir)
        options = (option for choice in choices for option in catalogue.options(group, choice.name, config_dir))
        names = {option.key for option in options if option.group}
        for name in names:
            found.setdefault(name, []).append(f"{group}.{name}")
    return found


def nearest(name: str) -> list[str]:
    """Keys that may be meant by one that is none, whatever its case: of the same name below a group, else the most alike."""
    group, _, last = name.rpartition(".")
    plain, below = like(last), nested()
    if group in GROUPS:
        here = {like(key): f"{group}.{key}" for key, where in below.items() if f"{group}.{key}" in where}
        if (close := closest(plain, here)) is not None:
            return [here[close]]
    if last in KEYS and not group:
        return [last]
    if last in below:
        return below[last]
    for key in (*KEYS, "experiment", *again.HELP):
        if like(key) == plain:
            return [key]
    for alias, keys in ALIASES.items():
        if like(alias) == plain:
            return list(keys)
    for key, where in below.items():
        if like(key) == plain:
            return where
    by_plain = {like(key): where for key, where in below.items()} | {like(key): [key] for key in (*KEYS, *again.HELP)}
    close = closest(plain, by_plain, 0.78)
    return by_plain[close] if close else []


def unknown_key(key: str) -> str:
    """What to say of a key that is none."""
    group, _, rest = key.partition(".")
    keys = [f"{close}.{rest}" for close in nearest(group) if close in GROUPS] if rest else []
    keys = keys or nearest(key)
    meant = f"; did you mean {' or '.join(keys)}?" if keys else ""
    return f"no key named {brief(key)!r}{meant}; `coopsgd list run` and `coopsgd list GROUP=NAME` have them all"


def elsewhere(group: str, name: str) -> str:
    """'; it is a key of algo=dpsgd' when other choices of the group have it; what may be meant when other groups do."""
    if f"{group}.{name}" in GONE:
        return f": {GONE[f'{group}.{name}']}"
    having = [
        f"{group}={choice.name}"
        for choice in catalogue.choices(group)
        if any(option.key == name and option.group for option in catalogue.options(group, choice.name))
    ]
    if having:
        return f"; it is a key of {', '.join(having)}"
    keys = [key for key in nearest(name) if not key.startswith(f"{group}.")]
    return f"; did you mean {' or '.join(keys)}?" if keys else ""


def choices_named(name: str) -> list[str]:
    """GROUP=NAME of every choice of that name, whatever its case; else of the one most alike."""
    table: dict[str, list[str]] = {}
    for group in catalogue.ABOUT:
        for choice in catalogue.choices(group):
            table.setdefault(like(choice.name), []).append(f"{group}={choice.name}")
    close = closest(like(name), table, 0.75)
    return table[close] if close else []


def example(key: str) -> str:
    known = {
        "algo": "easgd",
        "experiment": "alpha",
        "cluster": "ethernet_1g",
        "outer": "nesterov",
        "correction": "kgt",
        "codec": "topk",
        "fragments": "columns",
        "tau": "10",
        "steps": "1000",
        "hydra.run.dir": "FOLDER",
        "resume": "auto",
        "skip_done": "true",
    }
    return known.get(key, catalogue.choices(key)[0].name if key in GROUPS else "VALUE")
