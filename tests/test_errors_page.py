"""docs/errors.md: the code still says each message, of the words beside it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from coopsgd.commands import compose
from coopsgd.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "errors.md").read_text()
ROWS = re.findall(r"^\| `([^`]+)` \| ``(.+?)`` \|", PAGE, re.MULTILINE)
OF_FOLDERS = re.findall(r"^\| ``(.+?)`` \|", PAGE, re.MULTILINE)


def test_there_are_rows():
    assert len(ROWS) >= 20 and len(OF_FOLDERS) >= 3


@pytest.mark.parametrize(("words", "message"), ROWS)
def test_the_words_are_refused_so(words, message):
    with pytest.raises(ConfigError) as error:
        compose.compose_config(shlex.split(words), verb="train")
    assert str(error.value) == message, "docs/errors.md has another line"


def test_what_is_said_of_folders_stands_in_the_code():
    code = "".join(path.read_text() for path in (ROOT / "coopsgd").rglob("*.py"))
    assert not [message for message in OF_FOLDERS if message not in code]
