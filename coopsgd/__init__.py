"""coopsgd: write a cooperative SGD algorithm as (tau, W, v), get its theory, simulate it, run it for real.

After Wang & Joshi, "Cooperative SGD", arXiv:1808.07576. From Python: `coopsgd.Run(folder)` reads a finished run;
`coopsgd.register` adds an algorithm, a graph, a model, ... Both are imported when first asked for, so that the
command line answers `--help` at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coopsgd.registry import register
    from coopsgd.run.reader import Run

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "register"]


def __getattr__(name: str) -> Any:
    if name == "Run":
        from coopsgd.run.reader import Run

        return Run
    if name == "register":
        from coopsgd.registry import register

        return register
    raise AttributeError(f"module 'coopsgd' has no attribute {name!r}")
