"""Laws of every (tau, W, v), on a few random configs; scripts/trust.py tries hundreds."""

from __future__ import annotations

import pytest
from invariants import LAWS, draw

FEW = range(1000, 1012)  # not those of the page


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.measure.__name__)
def test_a_law_is_kept_by_random_configs(process_groups, law):
    tried = 0
    for number in FEW:
        off = law.measure(process_groups, draw(number))
        assert off is None or off <= law.within, f"{law.says}: {off} off, {draw(number)}"
        tried += off is not None
    assert tried >= 2


def test_configs_are_drawn_by_their_number():
    assert str(draw(7)) == str(draw(7)) != str(draw(8))
    drawn = [draw(number) for number in range(60)]
    assert {d.order for d in drawn} == {"atc", "cta"} and {d.v for d in drawn} == {0, 1, 2}
    assert {d.delay for d in drawn} == {0, 1, 2, "tau"}
    assert {d.buffers for d in drawn} == {"keep", "average", "reset"} and {d.optim["name"] for d in drawn} == {"sgd", "adam"}
