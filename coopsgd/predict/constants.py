"""The constants that theory needs: in closed form from the task, or measured, from the file of a probe."""

from __future__ import annotations

from coopsgd.predict import probe_file
from coopsgd.setup.parts import Parts
from coopsgd.tasks.known import Known

MISSING = "L, sigma2 and gap are unknown: measure them with `coopsgd probe` and give its file, --probe probe.json"


def constants(parts: Parts, probe: str | None) -> tuple[Known | None, str, tuple[str, ...]]:
    """The constants, where they are from, and what to tell of them; None and how to get them when nobody knows.

    A probe whose interval of kappa2 reaches down to 0 cannot tell the workers apart: they count as having one f.
    """
    if probe is None:
        known = parts.task.known(parts.config)
        return known, MISSING if known is None else f"task {parts.config.task['name']}, in closed form", ()
    measured = probe_file.load(probe)
    notes = measured.check(parts.config, parts.task)
    found = measured.constants() | ({} if measured.kappa2.low > 0 else {"kappa2": 0.0})
    if measured.L_workers is None:
        notes = (
            *notes,
            f"{probe}: holds the L of F alone, the mean of the workers' f_i; the bound asks it of each, and one may be curved "
            "more: probe again",
        )
    return Known(**found, L_F=measured.L.value), probe, notes
