"""The runs of a sweep's folder that have come to an end: `skip_done=true` leaves them out."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from coopsgd.commands.resume import OVER, frozen_like
from coopsgd.run.sweep import readable_summary
from coopsgd.setup.identity import FOUND, identity, memory_format, placement
from coopsgd.setup.resolve import Checked, given
from coopsgd.setup.schema import Config


class Done:
    """Those below the folder `root` when it is first asked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, tuple[Config, str]] = {}  # their configs, and what they are

    def like(self, checked: Checked, words: Sequence[str]) -> Path | None:
        """The folder of one that trained what `checked` says, in the way that `words` ask for, if they do; or None.

        auto, of a key in FOUND, asks for none.
        """
        mine, wanted = checked.config, identity(checked.parts)
        auto = given(word for word in words if word.partition("=")[2].strip("'\"") == "auto")
        named = [name for name in given(words) if name not in FOUND or name not in auto]
        ways = [name for name in placement(mine) if name in named]
        for folder in self._over:
            with contextlib.suppress(OSError, ValueError):  # one that cannot be read is not known to be done
                if folder not in self._known:
                    config = frozen_like(folder, mine)
                    self._known[folder] = config, identity(config)
                theirs, what = self._known[folder]
                alike = what == wanted and all(getattr(theirs, name) == getattr(mine, name) for name in ways)
                if alike and ("model.memory_format" not in named or memory_format(theirs) == memory_format(mine)):
                    return folder
        return None

    @cached_property
    def _over(self) -> list[Path]:
        folders = (file.parent for file in sorted(self._root.rglob("config.yaml")))
        return [folder for folder in folders if (readable_summary(folder) or {}).get("status") in OVER]
