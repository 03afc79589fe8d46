"""What is counted is what it would be had every verb been added at once."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from coopsgd.fleet.ledger import Ledger
from coopsgd.fleet.price import average_price, pick_price


@pytest.mark.parametrize("often", [0, 1, 3])
def test_charges_are_added_in_their_order_whenever_somebody_looks(often):
    """often: after how many charges the totals are read, by whom no sum may be changed; 0: only at the end."""
    m, rng = 3, np.random.default_rng(0)
    prices, wire = [average_price(m), pick_price(2, 1, m + 1)], [rng.random(2), rng.random(2)]
    ledger, sent, moved = Ledger(m, 1, 2), np.zeros(m + 1), np.zeros(2)
    for k, i in enumerate((0, 0, 0, 1, 0, 1, 1, 1, 0, 0)):
        width = 4 * (1 + (k > 5))
        ledger.charge(prices[i], width, wire[i], 2)
        sent[: len(prices[i].sent)] += prices[i].sent * width
        moved += wire[i] * width
        if often and k % often == 0:
            assert (ledger.bytes, ledger.wire_bytes) == (round(float(sent.sum())), round(float(moved.sum())))
    np.testing.assert_array_equal(ledger.sent, sent)
    np.testing.assert_array_equal(ledger.wire, moved)
    assert ledger.wire_messages == 20 and ledger.messages == sum(prices[i].messages for i in (0, 0, 0, 1, 0, 1, 1, 1, 0, 0))


def test_it_goes_on_from_what_was_saved_and_a_pause_counts_nothing():
    price, wire = average_price(3), np.array([1.0])
    ledger, other = Ledger(3, 0, 1), Ledger(3, 0, 1)
    ledger.charge(price, 4, wire, 1)
    other.charge(price, 4, wire, 1)
    other.restore({**copy.deepcopy(ledger.saved()), "comm_s": 2.0})
    other.paused = True
    other.charge(price, 4, wire, 1)
    other.paused = False
    other.charge(price, 4, wire, 1)
    np.testing.assert_array_equal(other.sent, 2 * ledger.sent)
    assert (other.messages, other.wire_bytes, other.comm_s) == (2 * ledger.messages, 2 * ledger.wire_bytes, 2.0)
