"""What the fork server does after all imports, so that its forks need not.

Hydra reads its grammar, looks for its plugins and composes what most tests choose. It computes nothing, checks no config and
builds no part. What it holds is not looked through by a fork's collector of garbage, which would copy all of it.
"""

from __future__ import annotations

import gc
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from coopsgd import registry
from coopsgd.host import collector
from coopsgd.setup import catalogue, loading
from coopsgd.setup.compose import register_schema

register_schema()
with hydra.initialize_config_module("coopsgd.conf", version_base="1.3"):
    loading.quicken()
    engine: Any = GlobalHydra.instance().hydra
    for mode in (RunMode.RUN, RunMode.MULTIRUN):
        engine.compose_config("config", ["tau=4", "hydra.run.dir=r"], run_mode=mode)
    for group in ("algo", "task", "topology"):
        for choice in catalogue.choices(group):
            engine.compose_config("config", [f"{group}={choice.name}"], run_mode=RunMode.RUN)
for kind in registry.HOMES:
    registry.entry_points(f"coopsgd.{kind}")
gc.collect()
collector.wake()
