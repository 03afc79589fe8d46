"""A process that has touched CUDA cannot fork workers that use it: no command does."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from playing import MLP

NAMES = ("is_available", "device_count", "init", "_lazy_init", "current_device", "set_device", "synchronize")


def noted(name, kept):
    def asked(*args, **more):
        with Path("asked").open("a") as file:
            file.write(f"{os.getpid()} {name}\n")
        return kept(*args, **more)

    return asked


def noting():
    """From now on whoever asks torch for a GPU is noted, with the process that does."""
    for name in NAMES:
        setattr(torch.cuda, name, noted(name, getattr(torch.cuda, name)))
    Path("command").write_text(str(os.getpid()))


def test_no_command_touches_cuda(cli, tmp_path):
    words = [word for word in MLP if not word.startswith("device=")]
    ended = cli("train", "-m", *words, "workers=2", "processes=2", "steps=2", "seed=1,2", "hydra.sweep.dir=sweep", first=noting)
    assert ended.code == 0, ended
    command = (tmp_path / "command").read_text()
    asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    assert not [line for line in asked if line.split()[0] == command]
