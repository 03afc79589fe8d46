"""What the fork server does after all imports, so that its forks need not.

Hydra reads its grammar and looks for its plugins. It computes nothing, checks no config and builds no
part. What it holds is not looked through by a fork's collector of garbage, which would copy all of it.
"""

from __future__ import annotations

import gc

import hydra

from coopsgd.host import collector
from coopsgd.setup.compose import register_schema

register_schema()
with hydra.initialize_config_module("coopsgd.conf", version_base="1.3"):
    hydra.compose("config", ["algo=easgd", "tau=4", "hydra.run.dir=r"], return_hydra_config=True)
gc.collect()
collector.wake()
