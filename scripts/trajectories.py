"""The same numbers before and after a change of the core: hashes of final models, statistics and ledgers of many runs.

    python scripts/trajectories.py check             every case anew, compared with scripts/trajectories.json (about 15 minutes)
    python scripts/trajectories.py check pasgd/cta   those whose names hold a word
    python scripts/trajectories.py write FILE        hashes of this code in this environment

Bits hold for one build of torch on one kind of processor; `environment` says which, and `check` refuses any other. It uses the
command line and the files of a run folder, nothing else of coopsgd, so that it outlives what is inside.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import json
import multiprocessing.connection
import os
import platform
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

FILE = Path(__file__).with_suffix(".json")
AT_ONCE = 2  # runs
PLAIN = "COOPSGD_NATIVE"  # 0: torch computes everything, whose bits these are
LEDGER = ("rounds", "messages", "bytes", "wire_bytes", "wire_messages")

ALGORITHMS = (
    *("dpa", "dpsgd", "easgd", "fedavg", "fullsync", "gea", "gossip_pga", "hierarchical", "independent", "matcha", "matching"),
    *("one_peer", "pairwise", "parameter_server", "pasgd", "two_level", "written"),
)
ATC_ONLY = ("fedavg", "fullsync")
ORDERS = ("atc", "cta", "overlap")
WRITTEN = [[0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.125, 0.125]] + [
    [0.5 if i == j else 0.25 if j == (i + 3) % 8 else 0.125 if j in (8, (i + 1) % 8) else 0.0 for j in range(9)]
    for i in range(1, 8)
]
WRITTEN += [[0.0625] * 8 + [0.5]]  # not symmetric, not doubly stochastic, one auxiliary row
TASKS = {
    "quadratic": ("task=quadratic", "dtype=float64"),
    "mlp": ("data=digits", "model=mlp", "model.hidden=[16]", "batch_size=8"),
    "cnn": ("data=digits", "model=cnn", "model.width=8", "model.norm=batch", "batch_size=8"),
    "gpt": ("task=language", "model.layers=1", "model.width=16", "model.heads=2", "model.context=16", "batch_size=4"),
}
OPTIMS = {
    "plain": ("optim=sgd",),
    "momentum": ("optim=sgd", "optim.momentum=0.9", "optim.lr=0.05"),
    "adamw": ("optim=adamw", "optim.lr=0.003"),
}
COMMON = ("workers=8", "steps=11", "tau=3", "log_every=100", "eval_every=0", "threads=1", "device=cpu", "save=rows")


def cases() -> dict[str, tuple[str, ...]]:
    """name -> words, of all cases; `order:`, `delay:` and `buffers:` words are for `spelt`."""
    found = {name: (*COMMON, *words) for name, words in _cases()}
    return {f"{name}/{p}": (*words, f"processes={p}") for name, words in found.items() for p in (1, 2, 4)}


def _algo(name: str) -> tuple[str, ...]:
    if name == "written":
        return "algo=cooperative", f"algo.W={json.dumps(WRITTEN)}".replace(" ", ""), "algo.v=1"
    return (f"algo={name}", *(("tau=2",) if name in ("dpsgd", "matcha") else ()))


def _cases() -> Iterator[tuple[str, tuple[str, ...]]]:
    for algo in ALGORITHMS:
        for order in ORDERS[: 1 if algo in ATC_ONLY else None]:
            for optim, optimiser in OPTIMS.items():
                for task, on in TASKS.items():
                    if optim != "plain" or task in ("quadratic", "mlp"):
                        yield f"{algo}/{order}/{optim}/{task}", (*on, *optimiser, *_algo(algo), f"order:{order}")
            clock = ("cluster=ethernet_1g", *TASKS["quadratic"])
            yield f"{algo}/{order}/clock", (*clock, *_algo(algo), f"order:{order}")
    yield from _periods()
    yield from _participation()
    yield from _beside()
    yield from _graphs()


def _periods() -> Iterator[tuple[str, tuple[str, ...]]]:
    periods = {
        "list": ("tau=[[0,1],[4,3]]",),
        "post_local": ("period=post_local", "period.switch=4"),
        "qsr": ("period=qsr", "schedule=cosine"),
        "adacomm": ("period=adacomm", "period.interval=3", "tau=4"),
    }
    for period, words in periods.items():
        for algo in ("dpa", "easgd", "fedavg", "pasgd", "two_level"):
            for task in ("quadratic", "mlp"):
                yield f"period/{period}/{algo}/{task}", (*TASKS[task], *_algo(algo), *words)


def _participation() -> Iterator[tuple[str, tuple[str, ...]]]:
    ways = {"samples": (), "uniform": ("weights_by=uniform",), "proportional": ("algo.drawn=proportional",)}
    for weighting, way in ways.items():
        for optim, optimiser in OPTIMS.items():
            words = (*TASKS["mlp"], *optimiser, "algo=fedavg", *way, "algo.fraction=0.25")
            yield f"clients/{weighting}/{optim}", (*words, "partition=dirichlet", "batch_size=4")
    for seed in (0, 1):
        words = ("algo=fedavg", "algo.epochs=1", "partition=quantity", f"seed={seed}", "batch_size=32", "steps=23")
        yield f"clients/epochs/{seed}", (*TASKS["mlp"], *words)


def _beside() -> Iterator[tuple[str, tuple[str, ...]]]:
    for buffers in ("average", "reset"):
        for algo in ("dpsgd", "pasgd", "one_peer", *(("easgd",) if buffers == "reset" else ())):
            for order in ORDERS:
                for optim in ("momentum", "adamw"):
                    words = (*TASKS["mlp"], *OPTIMS[optim], *_algo(algo), f"order:{order}", f"buffers:{buffers}")
                    yield f"buffers/{buffers}/{algo}/{order}/{optim}", words
    for norm_stats in ("local", "recalibrate"):
        for algo in ("easgd", "fedavg", "fullsync", "pasgd"):
            yield f"norm_stats/{norm_stats}/{algo}", (*TASKS["cnn"], *_algo(algo), f"norm_stats={norm_stats}")
    for what in ("clip=0.5", "schedule=cosine", "optim.nesterov=true", "optim.weight_decay=0.01", "log_every=2"):
        words = OPTIMS["momentum"] if "nesterov" in what else OPTIMS["plain"]
        for algo in ("dpsgd", "pasgd"):
            for order in ORDERS:
                yield f"beside/{what}/{algo}/{order}", (*TASKS["mlp"], *words, *_algo(algo), f"order:{order}", what)


def _graphs() -> Iterator[tuple[str, tuple[str, ...]]]:
    for topology in ("chain", "complete", "erdos_renyi", "exponential", "grid", "hypercube", "random_regular", "star", "torus"):
        yield f"graph/{topology}", (*TASKS["quadratic"], "algo=dpsgd", f"topology={topology}")
    for weights in ("uniform", "best_constant", "fdla"):
        yield f"weights/{weights}", (*TASKS["quadratic"], "algo=dpsgd", f"algo.weights={weights}", "topology=torus")


@functools.cache
def _new_keys() -> bool:
    """Are order, delay and buffers keys of the run, and not yet (or no longer) of the algo?"""
    from dataclasses import fields

    config = importlib.import_module(_home("Config"))
    return "delay" in {f.name for f in fields(config.Config)}


def _home(name: str) -> str:
    """The module that defines the schema, wherever it is."""
    import coopsgd

    root = Path(coopsgd.__file__).parent
    found = next(p for p in root.rglob("*.py") if f"\nclass {name}:" in p.read_text())
    return "coopsgd." + ".".join(found.relative_to(root).with_suffix("").parts)


def spelt(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words as this version of coopsgd spells them."""
    old = {"order": "algo.order", "buffers": "algo.buffers"}
    found = []
    for word in words:
        key, _, value = word.partition(":") if word.startswith(("order:", "buffers:")) else (word, "", "")
        if not value:
            found.append(word)
        elif _new_keys():
            found.append("delay=1" if value == "overlap" else f"{key}={value}")
        elif value != "atc":
            found.append(f"{old[key]}={value}")
    return tuple(found)


def hashes(folder: Path) -> str:
    """What a run came to: hashes of its rows, running statistics and answer, its ledger, and its seconds on a clock."""
    kept = _kept(folder)
    summary = json.loads((folder / "summary.json").read_text())
    parts = [_hash(kept[name].numpy().tobytes()) if name in kept else "-" for name in ("rows", "stats", "answer")]
    ledger = ",".join(str(summary["ledger"][name]) for name in LEDGER)
    return " ".join([*parts, ledger, *([repr(summary["sim_s"])] if "sim_s" in summary else [])])


def _kept(folder: Path) -> dict[str, Any]:
    """The final models, in the form that this version keeps them."""
    import torch
    from safetensors.torch import load_file

    (final,) = folder.rglob("final.*")
    return load_file(final) if final.suffix == ".safetensors" else torch.load(final, weights_only=True)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def environment() -> dict[str, str]:
    """What the bits depend on. `arithmetic` is a hash of what plain torch makes of the kinds of operations that a run uses."""
    import numpy
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = []
    for dtype in (torch.float32, torch.float64):
        a, b = torch.randn(37, 65, dtype=dtype), torch.randn(65, 129, dtype=dtype)
        image, kernel = torch.randn(8, 4, 8, 8, dtype=dtype), torch.randn(6, 4, 3, 3, dtype=dtype)
        made += [a @ b, torch.bmm(a.expand(3, -1, -1), b.expand(3, -1, -1)), a.softmax(1), a.exp(), a.mean(0), a.sum(1)]
        made += [torch.nn.functional.conv2d(image, kernel), torch.nn.functional.gelu(a), a.sqrt(), a.var(0)]
    arithmetic = _hash(b"".join(x.numpy().tobytes() for x in made))
    kind = torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": f"{platform.system()} {platform.machine()} {kind}",
        "arithmetic": arithmetic,
    }


def _played(words: tuple[str, ...], folder: str) -> str:
    """In a fork: train by the command line, and read the folder."""
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="coopsgd")
    at = Path(folder) / "run"
    child = os.fork()
    if child == 0:
        sys.argv = ["coopsgd", "train", *spelt(words), f"hydra.run.dir={at}"]
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code: Any = 1
        try:
            code = command.load()()
        except SystemExit as end:
            code = end.code
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
    _, status = os.waitpid(child, 0)
    return hashes(at) if status == 0 else f"exit {os.waitstatus_to_exitcode(status)}"


def all_of(names: list[str]) -> dict[str, str]:
    """name -> hashes, several runs at once; a line each on stderr."""
    os.environ[PLAIN] = "0"
    known, found = cases(), {}
    _warm()
    context, begun = multiprocessing.get_context("fork"), list(names)
    random.Random(0).shuffle(begun)  # an early sight of every kind
    running: dict[Any, tuple[str, Any]] = {}  # by the end that its answer comes to
    while begun or running:
        while begun and len(running) < AT_ONCE:
            name = begun.pop()
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_send, args=(known[name], there))
            process.start()
            there.close()
            running[here] = name, process
        for ready in multiprocessing.connection.wait(list(running)):
            name, process = running.pop(ready)
            with contextlib.suppress(EOFError):
                found[name] = str(cast(Any, ready).recv())
            process.join()
            print(f"{len(found)} of {len(names)}  {name}  {found.get(name, '')}", file=sys.stderr, flush=True)
    return {name: found.get(name, "nothing came back") for name in names}


def _send(words: tuple[str, ...], there: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        there.send(_played(words, folder))


def _warm() -> None:
    """Import what every fork needs, so that it need not; compute nothing."""
    import torch  # noqa: F401

    (command,) = importlib.metadata.entry_points(group="console_scripts", name="coopsgd")
    command.load()
    _new_keys()


def unlike() -> str:
    """Why the hashes of the file do not hold here; empty when they do."""
    with multiprocessing.get_context("fork").Pool(1) as pool:  # this process computes nothing, so that it can be forked
        here = pool.apply(environment)
    there = json.loads(FILE.read_text())["environment"]
    return "; ".join(f"{key} is {here.get(key)}, there {value}" for key, value in there.items() if here.get(key) != value)


def main() -> None:
    """See above."""
    if sys.argv[1:2] == ["write"] and len(sys.argv) == 3:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            here = pool.apply(environment)
        found = all_of(list(cases()))
        Path(sys.argv[2]).write_text(json.dumps({"environment": here, "cases": found}, indent=0) + "\n")
        return
    if sys.argv[1:2] != ["check"]:
        sys.exit(__doc__)
    if why := unlike():
        sys.exit(f"the bits of another environment: {why}")
    known = json.loads(FILE.read_text())["cases"]
    names = [name for name in known if all(word in name for word in sys.argv[2:])]
    found = all_of(names)
    other = {name: (known[name], found[name]) for name in names if found[name] != known[name]}
    for name, (before, now) in other.items():
        print(f"{name}\n  before {before}\n  now    {now}")
    print(f"{len(names) - len(other)} of {len(names)} cases the same")
    sys.exit(bool(other))


if __name__ == "__main__":
    main()
