"""Steps of SGD and the communications between them in one call of compiled code (host/rounds.c), where rows lie in one memory.

A communication of a small model takes less time than Python needs to ask for it. What is computed is what the verbs of
fleet/shared.py and the loop would do, in the same order and to the same bits: some processes may take this way while others
go verb by verb, for they meet at the same places.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet.compiled import LARGE, Kernel
from coopsgd.fleet.memory import MOMENT, Meeting
from coopsgd.host import native

MOST = 0.1  # seconds after which Python looks whether somebody has asked for something
DONE, LATE, PAUSED, WRONG = range(4)  # how a call ended, as rounds.c says


class Together:
    """Rounds of the rows `every` (n, d) of some processes, of which this one mixes a slice of the columns.

    workers: which of them are averaged. room: gives the memory (1, d) where a mean is made, and takes it back.
    wait_at(verb, step): somebody has not come to this verb of a step in a moment; waits for all. come_to(verb, step): it is as
    far as that. spent(seconds): in communication.
    """

    def __init__(
        self,
        meeting: Meeting,
        every: Tensor,
        columns: slice,
        workers: np.ndarray,
        room: tuple[Callable[[], Tensor], Callable[[Tensor], None]],
        wait_at: Callable[[str, int], None],
        come_to: Callable[[str, int], None],
        spent: Callable[[float], None],
    ) -> None:
        self._slice, self._room = every[:, columns], room
        self._wait_at, self._come_to, self._spent = wait_at, come_to, spent
        library = native.library()
        self._call = library.rounds_32 if every.dtype == torch.float32 else library.rounds_64
        self._held = meeting, workers, every
        self._rounds = native.Rounds(
            meeting=ctypes.addressof(meeting.known),
            all=every.data_ptr(),
            stride=every.stride(0),
            width=every.shape[1],
            first=columns.start,
            columns=columns.stop - columns.start,
            workers=native.address(workers),
            n_workers=len(workers),
        )

    @staticmethod
    def can(every: Tensor) -> bool:
        """Is there compiled code for rows like these, and is it the work of one thread?"""
        one = torch.get_num_threads() == 1 or every.numel() < LARGE
        return one and native.in_use() and every.is_cpu and every.dtype in (torch.float32, torch.float64)

    def kernel(self, lowered: Any) -> Kernel | None:
        """What mixes the slice by this matrix, lowered for the fleet; None where compiled code does not."""
        found: Kernel | None = lowered.kernel(self._slice)
        return found

    def __call__(self, learning: Any, k: int, kernels: Sequence[Kernel | None] | None) -> None:
        """The steps that `learning` tells of (tasks/supervised_problem.py), k the first, and what follows each of them.

        kernels: what mixes the models after each, None: nothing. Without them `every` are gradients, `learning` stores them,
        and models take a step of plain SGD along their mean.
        """
        rounds, steps, verb = self._rounds, len(learning.losses), "mean" if kernels is None else "mix"
        places = None
        if kernels is not None:
            places = (ctypes.c_void_p * steps)(*(None if one is None else one.at for one in kernels))
        rounds.mixes = None if places is None else ctypes.addressof(places)
        taken, given_back = self._room
        mean = taken() if kernels is None else None
        rounds.mean = None if mean is None else mean.data_ptr()
        rounds.step = rounds.phase = 0
        at, known, ended = ctypes.addressof(rounds), ctypes.addressof(learning.known), None
        while ended != DONE:
            rounds.seconds = 0.0
            ended = self._call(at, known, steps, MOMENT, MOST)
            self._spent(rounds.seconds)
            if ended == WRONG:
                raise learning.error(rounds.wrong)
            if ended == LATE:
                self._wait_at(verb, k + rounds.step)
            else:  # DONE or PAUSED
                self._come_to(verb, k + rounds.step)
        if mean is not None:
            given_back(mean)
