"""What a config that cannot work comes to: one line that names the thing, the value and the way out.

Of a table of cases, in this process; how a verb then ends is one piece of code (tests/setup/test_bad_input.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from coopsgd.commands import compose
from coopsgd.errors import ConfigError


def refused(words: Sequence[str], message: Iterable[str] = ()) -> str:
    """The line with which these words are refused, in which all of `message` stands."""
    with pytest.raises(ConfigError) as error:
        compose.compose_config(words)
    line = str(error.value)
    assert len(line.splitlines()) == 1 and "Traceback" not in line, line
    assert all(word in line for word in message), line
    return line
