"""A user's own code, as it was when it was imported: the files behind each name that a config has, by the registry's importer.

Own is what lies neither in this package nor in Python nor among installed packages, whose versions are known; a package that
is installed as a link to its sources (pip install -e) counts as own.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from weakref import WeakKeyDictionary

from coopsgd.blame import INSTALLED, OURS, STANDARD

LARGEST = 1 << 20  # bytes of a file that is kept
ALL = 16 << 20  # bytes of all files of a run that are
NEVER = ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")  # conditions under which nothing is imported here


PROGRAM = ("__main__", "__mp_main__")  # of the process, which no config names


class File(NamedTuple):
    """A file of a user's, as it was read."""

    path: str
    content: bytes | None  # None: it is larger than what is kept
    size: int
    sha256: str


_brought: dict[str, tuple[ModuleType, list[str]]] = {}  # name in a config -> its module, and the modules that came with it
_named = set[str]()  # names that will be imported, if not in this process
_read: WeakKeyDictionary[ModuleType, File] = WeakKeyDictionary()  # the file of a module may change after its import


def named(name: str) -> None:
    """A config's `name`, module:attribute, is that of code to import, by this process or by those that read data or train."""
    _named.add(name)


def remember(name: str, module: str, thing: object, before: set[str]) -> None:
    """A config's `name` was found in this module, as this thing; before it was, `before` had been imported."""
    found = sys.modules.get(module)
    if found is None or (name in _brought and _brought[name][0] is found):
        return
    home = getattr(thing, "__module__", None)
    _brought[name] = found, [module, *([home] if isinstance(home, str) else []), *sorted(sys.modules.keys() - before)]
    files([name])  # read now, as they were imported


def of(config: object) -> dict[str, File]:
    """The files behind all names in a config, in dicts and lists, see `files`."""
    return files(_names(config))


def files(names: Iterable[str]) -> dict[str, File]:
    """The files behind these names, those that they import too, by where they lie below the folder they are imported from.

    What is imported under a condition that does not hold here (NEVER) is left out. Those nearest to the names are the first.
    """
    left = deque(module for name in names for module in _modules(name))
    found: dict[str, File] = {}
    seen, kept = {"", *PROGRAM}, 0
    while left:
        module = left.popleft()
        if module in seen:
            continue
        seen.add(module)
        if (file := read(module)) is None:
            continue
        if kept + file.size > ALL or file.content is None:
            file = file._replace(content=None)
        kept += 0 if file.content is None else file.size
        found[_place(module, file.path)] = file
        if file.content is not None:
            package = module if os.path.basename(file.path).startswith("__init__.") else module.rpartition(".")[0]
            left += [*_parents(module), *_imports(file.content, package)]
    return found


def missing(config: object) -> list[str]:
    """The names in a config whose module is not there to be imported."""
    found = {name: name.partition(":")[0] for name in _names(config) if ":" in name}
    return [name for name, module in found.items() if module not in sys.modules and _path(module) is None]


def _modules(name: str) -> list[str]:
    return _brought[name][1] if name in _brought else [name.partition(":")[0]]


def read(module: str) -> File | None:
    """The file of a module of the user's own: as it was imported, or as it is if it was not. None where there is none."""
    loaded = sys.modules.get(module)
    if loaded is not None and loaded in _read:
        return _read[loaded]
    path = _path(module)
    if path is None or not _is_own(path):
        return None
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    size, digest = len(content), hashlib.sha256(content).hexdigest()
    found = File(path, content if size <= LARGEST else None, size, digest)
    if loaded is not None:
        _read[loaded] = found
    return found


def module_at(place: str) -> str:
    """The module whose file lies there: a.b of a/b.py and of a/b/__init__.py."""
    *folders, name = place.split("/")
    stem = name.partition(".")[0]
    return ".".join(folders if stem == "__init__" and folders else [*folders, stem])


def _place(module: str, path: str) -> str:
    *folders, last = module.split(".")
    name = os.path.basename(path)
    if name.startswith("__init__."):
        return "/".join([*folders, last, name])
    return "/".join([*folders, name if name.startswith(f"{last}.") else last + os.path.splitext(name)[1]])


def _is_own(path: str) -> bool:
    return not (path.startswith((OURS, *STANDARD)) or set(Path(path).parts) & set(INSTALLED)) and os.path.isfile(path)


def _path(module: str) -> str | None:
    """Where a module's file lies, without importing anything."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return None
    if (loaded := sys.modules.get(module)) is not None:
        file = getattr(loaded, "__file__", None)
        return os.path.abspath(file) if isinstance(file, str) else None
    find, (top, *rest) = importlib.machinery.PathFinder.find_spec, module.split(".")
    try:
        spec = importlib.util.find_spec(top) or find(top, [os.getcwd()])
        for name in rest:
            if spec is None or not spec.submodule_search_locations:
                return None
            spec = find(f"{spec.name}.{name}", list(spec.submodule_search_locations))
    except (ImportError, OSError, ValueError, AttributeError):
        return None
    return os.path.abspath(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _parents(module: str) -> Iterator[str]:
    """The packages that a module is in, which are imported before it."""
    while module := module.rpartition(".")[0]:
        yield module


@cache
def _imports(content: bytes, package: str) -> tuple[str, ...]:
    """What may be modules of the names that a file of this package imports, within functions too."""
    try:
        nodes: list[ast.AST] = [ast.parse(content)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # it is no Python
        return ()
    found = list[str]()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in NEVER:
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                found += (alias.name, *_parents(alias.name))
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += (base, *_parents(base), *(f"{base}.{alias.name}" for alias in node.names))
        nodes += ast.iter_child_nodes(node)
    return tuple(found)


def _names(value: object) -> Iterator[str]:
    if isinstance(value, str) and (value in _brought or value in _named):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _names(one)
