"""Names of run folders: readable, safe on any file system, short."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

LONGEST = 100


def folder_name(words: Sequence[str], number: int) -> str:
    """'tau=4', 'algo=easgd' -> 'tau=4,algo=easgd'. Awkward characters become '_'; cut at 100 with a hash; never empty.

    `number` names the job when there are no words.
    """
    if not words:
        return str(number)
    plain = ",".join(words)
    name = re.sub(r"[^\w.=,+-]", "_", plain.replace("'", "").replace('"', "")).lstrip(".")
    if len(name) > LONGEST or name != plain:
        digest = hashlib.blake2b(plain.encode(), digest_size=4).hexdigest()
        name = f"{name[: LONGEST - 9]}-{digest}"  # two words that differ stay apart
    return name


def of_job(words: Sequence[str], number: int, algo: str) -> str:
    """folder_name of a sweep's job, which always holds its algorithm: 'tau=4' of easgd -> 'algo=easgd,tau=4'.

    words: those in which its jobs differ. TensorBoard takes a run's name from its folder.
    """
    known = next((word for word in words if word.startswith("algo=")), f"algo={algo}" if algo else "")
    name = folder_name(words, number)
    if not known or known in name.split(","):
        return name
    return folder_name([known, *(word for word in words if word != known)], number)  # in front, where nothing is cut off
