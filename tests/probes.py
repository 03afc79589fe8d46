"""Files as `coopsgd probe` writes them, of any config, with made up numbers."""

from __future__ import annotations

import json

from playing import settle

from coopsgd.predict.probe_file import CONSTANTS, identity
from coopsgd.setup.parts import Parts

LINES = (("all_reduce", 0.6, 1e-3), ("edge", 0.1, 2e-3))


def probe_of(*given, **more):
    """What a probe of these words would write: steps of 1 to 3 s, an all-reduce of 0.6 s, a message of 0.1 s."""
    one = {"value": 1.0, "low": 0.5, "high": 2.0}
    fits = {name: {"a": a, "b": b, "low": {"a": a, "b": b}, "high": {"a": a, "b": b}} for name, a, b in LINES}
    times = {"step_s": {"median": 2.0, "low": 1.0, "high": 3.0, "workers": [1.0, 2.0, 2.0, 3.0]}}
    parts = Parts(settle((*given, "workers=4")))
    head = {"format": 1, **identity(parts.config, parts.task), "versions": {}, "command": ""}
    return json.dumps(head | dict.fromkeys(CONSTANTS, one) | times | {"network": {"processes": 4, **fits}} | more)
