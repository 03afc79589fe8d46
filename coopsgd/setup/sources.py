"""Where Hydra reads yamls from: a user's files are looked at (yamls.py) before it does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from hydra._internal.core_plugins.file_config_source import FileConfigSource as HydrasSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from coopsgd.errors import ConfigError
from coopsgd.setup import yamls


class FileConfigSource(HydrasSource):
    """Where Hydra reads yamls from, each looked at first."""

    last: ClassVar[str] = ""  # the file that was read last

    def load_config(self, config_path: str) -> ConfigResult:
        path = os.path.join(self.path, self._normalize_file_name(config_path))
        if not os.path.lexists(path):
            return super().load_config(config_path)
        yamls.text(path)
        FileConfigSource.last = path
        try:
            return super().load_config(config_path)
        except (YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(yamls.blamed(path, error)) from None


def install() -> None:
    """Have Hydra read a user's files through here."""
    Plugins.instance()  # registers its own
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
    FileConfigSource.last = ""


@contextmanager
def borrowed() -> Iterator[None]:
    """Inside, Hydra may be told to read through here; afterwards it reads as it did before."""
    Plugins.instance()
    types = SourcesRegistry.instance().types
    before = types[FileConfigSource.scheme()]
    try:
        yield
    finally:
        types[FileConfigSource.scheme()] = before
