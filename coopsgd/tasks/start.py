"""Models that begin where a file says: `start=FILE`. What may be one, what it names, and how it gets into a module.

A run's folder or its final.safetensors (the answer, its statistics), a safetensors file of parameters by name, or a
state_dict of torch.save, of which nothing but tensors is unpickled.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coopsgd.errors import ConfigError
from coopsgd.host import reading
from coopsgd.host.child import ChildFailed, answer_of
from coopsgd.host.files import sha256
from coopsgd.models.base import statistics_of
from coopsgd.registry import may_read

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from coopsgd.setup.schema import Config
    from coopsgd.tasks.supervised import Supervised

FINAL = Path("checkpoints") / "final.safetensors"  # of a run
OUT = "give a run's folder, a safetensors file or a state_dict of torch.save"
_fit: set[str] = set()  # what was looked at and fits; processes that are forked later know it, too
SHOWN = 4  # parameters that are named of each kind
Found = tuple["dict[str, Tensor]", bool]  # parameters and buffers by name; are they a run's answer?


def file_of(value: Any) -> str:
    """The file that `start` names: of a run's folder, the models it left. ConfigError when it names none."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"start: must be a path, got {value!r}; {OUT}")
    path = Path(value)
    if not path.is_dir():
        return value
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"start: {value!r} is a folder that holds no run; {OUT}")
    if not (path / FINAL).is_file():
        raise ConfigError(f"start: the run in {value!r} has kept no model; run it to its end with save=answer")
    _refuse_damaged(path)
    return str(path / FINAL)


def _refuse_damaged(folder: Path) -> None:
    try:
        promised = json.loads((folder / "summary.json").read_bytes())["checksums"][FINAL.as_posix()]
    except (OSError, ValueError, KeyError, TypeError):
        return  # under way, or of a version that promises nothing
    with (folder / FINAL).open("rb") as file:
        if sha256(file) != promised:
            raise ConfigError(f"start: {folder / FINAL} is damaged: its SHA-256 is not the one in summary.json; run it anew")


def check(task: Supervised, config: Config) -> None:
    """ConfigError unless the network of this task can begin where `start` says. Looks in a child: nothing is computed here."""
    file = file_of(config.start)
    may_read("start", config.start)
    with reading.opened("start", file, OUT) as opened:
        about = os.fstat(opened.fileno())
    seen = repr((task.model, task.data.SHAPE, task.data.CLASSES, config.dtype, file, about.st_size, about.st_mtime_ns))
    if seen in _fit:
        return
    import torch

    from coopsgd.tasks.networks import bound

    def look() -> str:
        torch.set_num_threads(1)
        try:
            bound(task, config.seed, getattr(torch, config.dtype), start=file)
        except ConfigError as error:
            return str(error)
        return ""

    try:
        why = answer_of(look)
    except (ValueError, ChildFailed) as error:
        why = f"start: {file!r} cannot be used ({error}); {OUT}"
    if why:
        raise ConfigError(why)
    _fit.add(seen)


def load(module: Module, file: str) -> None:
    """Put what the file holds into the module. ConfigError unless names and shapes are the module's."""
    import torch

    found, answer = _read(file)
    state = module.state_dict()
    if not set(found) & set(state) and all(name.startswith("module.") for name in found):  # as wrappers of torch save it
        found = {name.removeprefix("module."): value for name, value in found.items()}
    learned = {name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    wanted = (learned if answer else every) | set(statistics_of(module))  # an answer holds nothing that is not learned
    missing = [name for name in state if name in wanted and name not in found and not _tied(module, name, found)]
    unexpected = [name for name in found if name not in state]
    shaped = [
        f"{name} {list(value.shape)} for {list(state[name].shape)}"
        for name, value in found.items()
        if name in state and value.shape != state[name].shape
    ]
    faults = {"lacks": missing, "has unknown": unexpected, "has of another shape": shaped}
    if any(faults.values()):
        said = "; ".join(f"it {what} {_some(names)}" for what, names in faults.items() if names)
        raise ConfigError(f"start: {file!r} does not fit the model: {said}; choose the model that it is of")
    odd = [name for name, value in found.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if odd := [name for name in odd if name in wanted]:
        raise ConfigError(f"start: {file!r} holds numbers that are not finite in {_some(odd)}; take another")
    with torch.no_grad():
        module.load_state_dict(found, strict=False)


def _tied(module: Module, name: str, found: Mapping[str, Tensor]) -> bool:
    """Is the parameter another one's, which the file holds?"""
    every = dict(module.named_parameters(remove_duplicate=False))
    return any(other in found and every[other] is every.get(name) for other in every if name in every)


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read(file: str) -> Found:
    with reading.opened("start", file, OUT) as opened:
        head = opened.read(9)
    if head[8:] == b"{":  # the length of a header, and its first character
        return _safetensors(file)
    return _state_dict(file), False


def _safetensors(file: str) -> Found:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            about, names = opened.metadata() or {}, list(opened.keys())
            if "answer" not in names or "parameters" not in about:
                if "rows" in names or "answer" in names:
                    raise ConfigError(f"start: {file!r} is of a run that trains no module by name; {OUT}")
                return {name: opened.get_tensor(name) for name in names}, False
            rows = {"parameters": "answer", "statistics": "answer_stats"}
            found: dict[str, Tensor] = {}
            for kind, name in rows.items():
                places = json.loads(about.get(kind, "[]"))
                row = opened.get_tensor(name)[0].clone() if places and name in names else None
                found |= {one: row[at:].as_strided(shape, stride) for one, shape, stride, at in places if row is not None}
            return found, True
    except (SafetensorError, ValueError, TypeError, RuntimeError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"start: {file!r} is damaged or no safetensors file ({_line(error)}); {OUT}") from None


def _state_dict(file: str) -> dict[str, Tensor]:
    import torch

    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # bytes that are no pickle lead torch anywhere, and what it says then helps nobody
        if (fault := _fault(file)) is None and isinstance(error, pickle.UnpicklingError):
            raise ConfigError(
                f"start: {file!r} is no file of tensors alone, or is damaged; what else a pickle holds could run code: save "
                "model.state_dict(), or use safetensors"
            ) from None
        raise ConfigError(f"start: {file!r} {fault or 'is damaged, or cut short'}; {OUT}") from None
    for one in (content, *(_dicts(content))):
        if isinstance(one, dict) and one and all(isinstance(x, torch.Tensor) for x in one.values()):
            return {str(name): x for name, x in one.items()}
    raise ConfigError(f"start: {file!r} holds a {type(content).__name__} that is no state_dict; save model.state_dict()")


def _dicts(content: Any) -> list[Any]:
    """The one dict of tensors that a checkpoint of another trainer may hold its model in, else none."""
    import torch

    inner = [x for x in content.values() if isinstance(x, dict)] if isinstance(content, dict) else []
    found = [x for x in inner if x and all(isinstance(value, torch.Tensor) for value in x.values())]
    return found if len(found) == 1 else []


def _fault(file: str) -> str | None:
    """What is wrong with a file that torch.load does not read, as far as its bytes tell."""
    with open(file, "rb") as opened:
        head = opened.read(8)
    if not head:
        return "is empty"
    if head[:1] == b"\x80":  # a pickle, as torch.save wrote before there were archives
        return None
    if head[:2] != b"PK":
        return f"begins with {head!r}, as no such file does"
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return "is cut short, or damaged: it is no whole archive of torch.save"
    return None if bad is None else f"is damaged: {bad} in it has not its checksum"


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:160]
