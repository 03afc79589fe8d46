"""What a worker leaves for its command arrives, whatever it is."""

from __future__ import annotations

import os
import signal

import pytest

from coopsgd.host import child, signals
from coopsgd.run.board import Board, Phase


@pytest.mark.parametrize(
    "text", ["short", "a" * 10**6, "\x00" * 10**5, "\u00e9" * 10**5, "\U0001f600" * 10**5, "\ud800" * 10**5]
)
def test_a_text_of_any_length_and_letters(text):
    board = Board(2)
    board.tell(1, 2.5, "traceback", text + "the end")
    board.enter(1, Phase.SAVING)
    line = board.message(1)
    assert line is not None and line["time"] == 2.5 and (text + "the end").endswith(line["traceback"])
    assert line["traceback"].endswith("the end") and board.message(0) is None and board.phase(1) == Phase.SAVING


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="no real-time signals here")
def test_a_child_that_is_killed_by_a_signal_without_a_name():
    with pytest.raises(child.ChildFailed, match="killed by signal"):
        child.answer_of(lambda: os.kill(os.getpid(), signal.SIGRTMIN + 1))
    assert signals.name_of(signal.SIGTERM) == "SIGTERM"
