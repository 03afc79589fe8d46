"""A clock for a cluster that is not there: `sim_s`, the seconds a run would have taken there."""

from coopsgd.predict.clock.clock import Clock
from coopsgd.predict.rehearsal import clock_of, rehearse

__all__ = ["Clock", "clock_of", "rehearse"]
