"""coopsgd: write a cooperative SGD algorithm as (tau, W, v), get its theory, simulate it, run it for real.

After Wang & Joshi, "Cooperative SGD", arXiv:1808.07576. From Python: `coopsgd.train("algo=easgd", "tau=10")` trains and
gives a `coopsgd.Run`, `coopsgd.Run(folder)` reads one that is there, `coopsgd.load(folder)` many, with one table of them all;
`coopsgd.show` says what an algorithm is; `coopsgd.Cooperation` is an algorithm in a training loop of your own;
`coopsgd.register` adds an algorithm, a graph, a model, ...; `coopsgd.Strategy` and what goes with it is what a new algorithm is
written with. All are imported when first asked for, so that the command line answers `--help` at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coopsgd.compare.loading import load
    from coopsgd.cooperation.cooperation import Cooperation
    from coopsgd.errors import ConfigError, RunFailed
    from coopsgd.fleet.base import Common, Fleet, Pending, Rows
    from coopsgd.from_python import show, train
    from coopsgd.mixing.base import Mixing
    from coopsgd.mixing.graphs import Graph
    from coopsgd.registry import register
    from coopsgd.run.reader import Run
    from coopsgd.strategies.base import Strategy, Tick

__version__ = "0.1.0"
__all__ = [
    "Common",
    "ConfigError",
    "Cooperation",
    "Fleet",
    "Graph",
    "Mixing",
    "Pending",
    "Rows",
    "Run",
    "RunFailed",
    "Strategy",
    "Tick",
    "__version__",
    "load",
    "register",
    "show",
    "train",
]

HOMES = {
    "coopsgd.compare.loading": ("load",),
    "coopsgd.from_python": ("show", "train"),
    "coopsgd.cooperation.cooperation": ("Cooperation",),
    "coopsgd.errors": ("ConfigError", "RunFailed"),
    "coopsgd.fleet.base": ("Common", "Fleet", "Pending", "Rows"),
    "coopsgd.mixing.base": ("Mixing",),
    "coopsgd.mixing.graphs": ("Graph",),
    "coopsgd.registry": ("register",),
    "coopsgd.run.reader": ("Run",),
    "coopsgd.strategies.base": ("Strategy", "Tick"),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'coopsgd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
