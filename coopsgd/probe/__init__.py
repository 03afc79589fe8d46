"""What theory asks of a model, its data and the machines, measured: `coopsgd probe` writes a file, `load` reads it."""

from coopsgd.probe.file import Probe, load

__all__ = ["Probe", "load"]
