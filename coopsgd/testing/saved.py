"""What a checkpoint holds is all there is: a run rebuilt of it goes on as if nothing had happened."""

from __future__ import annotations

import json
from functools import partial

import torch
from torch import Tensor

from coopsgd.loop.loop import Loop
from coopsgd.loop.saved import ByRow, flatten, homes, inflate
from coopsgd.setup.schema import Config
from coopsgd.testing.runs import Recorder, make_loop


def saved_and_loaded(name: str, config: Config) -> None:
    """A run that is written down and rebuilt after every step has the same state, bit for bit, as one that is not."""
    whole = broken = make_loop(config, observer=Recorder())
    for k in range(config.steps or 0):
        if broken is not whole:
            broken.advance()
        whole.advance()
        (text, tensors), (expected_text, expected) = _written(broken), _written(whole)
        differs = f"{name}: saved and loaded after every step, it differs after step {k + 1}:"
        assert text == expected_text, f"{differs} {text} is not {expected_text}"
        for at, tensor in expected.items():
            same = at in tensors and torch.equal(tensors[at], tensor)
            assert same or at == ".ledger.comm_s", (
                f"{name}: saved and loaded after each step, {at[1:]} differs after step {k + 1}"
            )
        tree = inflate(json.loads(text), partial(_read, tensors), homes(broken.strategy, broken.parts.period))
        broken = make_loop(config, observer=Recorder(), saved=tree)


def _read(tensors: dict[str, Tensor], at: str, kind: str) -> Tensor:
    return tensors[at]


def _written(loop: Loop) -> tuple[str, dict[str, Tensor]]:
    """What a checkpoint of it holds: text, and copies of its tensors."""
    skeleton, tensors = flatten(loop.saved())
    copies = {at: torch.cat(list(x.parts)) if isinstance(x, ByRow) else x.tensor.clone() for at, x in tensors.items()}
    return json.dumps(skeleton), copies
