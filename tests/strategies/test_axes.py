"""Axes drawn by lot: what is taken goes the same way on two placements, what is not is refused in a line before it starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lots import drawn
from playing import QUADRATIC, play, settle

from coopsgd.errors import ConfigError
from coopsgd.fleet.block import vector
from coopsgd.setup.parts import Parts
from coopsgd.strategies.coder import Coder

DRAWN = 100
LOTS = 200  # that are drawn for one that is taken, at most: most algorithms have no room for a lossy codec or a correction


@pytest.mark.parametrize("number", range(DRAWN))
def test_a_combination_goes_the_same_way_and_others_are_refused(process_groups, number):
    """Lots are drawn until one is taken; each that is not was refused in a line that names one of its words."""
    for lots in range(LOTS):
        words = (*QUADRATIC, *drawn(number, lots), "steps=13")
        try:
            settle(words)
            break
        except ConfigError as error:
            line = str(error)
            assert "\n" not in line and any(word.split("=")[0].split(".")[0] in line for word in words), (line, words)
    else:
        raise AssertionError(f"none of {LOTS} is taken")
    one, other = play(process_groups, 1, *words), play(process_groups, 2, *words)
    np.testing.assert_allclose(other.x, one.x, rtol=1e-9, atol=1e-10)
    assert other.logical == one.logical and np.isfinite(one.x).all(), words


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("codec", ["topk", "randk"])
def test_a_message_of_one_row_is_read_whatever_its_length(codec, share):
    """Bytes of a length that 4 does not divide, of one row alone, as a process has that holds one worker."""
    numbers = torch.randn(1, 4099, generator=torch.Generator().manual_seed(0))
    found = Parts(settle((*QUADRATIC, "algo=pasgd", f"codec={codec}", f"codec.share={share}"))).codec
    coder = Coder(found, found.segments(vector(numbers.shape[1]), None), numbers.shape[1], numbers.dtype, 0)
    packed = torch.cat([coder.pack(numbers, range(1), False), torch.zeros(1, 3, dtype=torch.uint8)], 1)[:, :-3]
    values, _ = coder.unpack(packed, range(1))
    kept = values != 0
    assert 0 < kept.sum() <= share * 4099 + 1
    if codec == "topk":
        assert torch.equal(values[kept], numbers[kept])
