"""The constants that theory needs: in closed form from the task, or measured, from the file of a probe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from coopsgd.config import Config, make
from coopsgd.errors import ConfigError
from coopsgd.theory import Known

MISSING = "L, sigma2 and gap are unknown: measure them with `coopsgd probe` and give its file, --probe probe.json"


def constants(config: Config, probe: str | None) -> tuple[Known | None, str]:
    """The constants and where they are from; None and how to get them when nobody knows."""
    if probe is not None:
        return _measured(config, probe), probe
    known = make(config, "task").known(config)
    return known, MISSING if known is None else f"task {config.task['name']}, in closed form"


def _measured(config: Config, path: str) -> Known:
    """From a probe's file; ConfigError when it is none or is of another model, data set, task or batch size."""
    try:
        found = json.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"--probe: {path} cannot be read ({error.strerror}); `coopsgd probe` writes one") from None
    except ValueError:
        raise ConfigError(f"--probe: {path} is no probe file: it is no JSON; `coopsgd probe` writes one") from None
    names = ("L", "sigma2", "kappa2", "gap")
    if not isinstance(found, dict) or found.get("format") != 1 or not all(_is_estimate(found.get(name)) for name in names):
        raise ConfigError(f"--probe: {path} is no probe file of format 1 with {', '.join(names)}; `coopsgd probe` writes one")
    for name, mine in _identity(config).items():
        if found.get(name) != mine:
            raise ConfigError(
                f"--probe: {path} was measured with {name}={found.get(name)}, this is {name}={mine}; probe this one or use that"
            )
    L, sigma2, kappa2, gap = (float(found[name]["value"]) for name in names)
    # workers whose difference cannot be told from none count as having one f
    return Known(L, sigma2, gap, kappa2 if found["kappa2"]["low"] > 0 else 0.0)


def _is_estimate(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(key), int | float) and math.isfinite(value[key]) and (key == "low" or value[key] >= 0)
        for key in ("value", "low")
    )


def _identity(config: Config) -> dict[str, Any]:
    groups = {name: (getattr(config, name) or {}).get("name") for name in ("task", "model", "data")}
    return {**groups, "batch_size": config.batch_size}
