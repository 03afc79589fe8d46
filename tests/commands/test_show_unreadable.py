"""What cannot be read is refused by `show` too, once, and its code is not run again in the command's own process."""

from __future__ import annotations

import pytest

MODULE = """
import os
class Data:
    def __len__(self): return 60
    def __getitem__(self, i): return [1.0, 2.0, float(i)], i % 2
class Leaves(Data):
    def __getitem__(self, i): os._exit(0)
class Ends(Data):
    def __init__(self): raise SystemExit(0)
class Negative(Data):
    def __len__(self): return -3
"""


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (("data=custom", "data.path=gone:Leaves"), "data.path: gone:Leaves could not be read"),
        (("data=custom", "data.path=gone:Ends"), "data.path: gone:Ends could not be read"),
        (("data=custom", "data.path=gone:Negative"), "data.path: gone:Negative does not tell its length"),
        (("task=language", "model=cnn"), "model: cnn is for"),
        (("task=language", "data=digits"), "data: digits is for"),
        (("task=language", "data.file=/dev/zero"), "data.file: '/dev/zero' is a device"),
    ],
    ids=str,
)
def test_show_refuses(cli, tmp_path, case, message):
    (tmp_path / "gone.py").write_text(MODULE)
    ended = cli("show", *case)
    assert ended.code == 2 and len(ended.lines) == 1 and message in ended.err, ended


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("launch=maybe",), "launch: must be true or false, got 'maybe'"),
        (("launch=2",), "launch: must be true or false, got 2"),
        (("launch=[false]",), "launch: must be true or false, got [False]"),
        (("--config-dir", "mine", "experiment=two"), "launch: must be true or false, got 2"),
        (("data=custom", "data.path=torchvision.datasets:MNIST", "data.arguments=[1]"), "data.arguments: must be keys"),
        (("model.hidden={a:1}",), "model.hidden: must be a list of whole numbers, as in model.hidden=[20]"),
        (("schedule=multistep", "schedule.milestones={a:1}"), "schedule.milestones: must be a list"),
        (("--config-dir", "mine", "algo=rows"), "algo/rows.yaml: has a list"),
        (("--config-dir", "mine", "experiment=bare"), "experiment: its yaml must begin with the line `# @package _global_`"),
    ],
    ids=str,
)
def test_no_parsers_words(cli, tmp_path, typed, message):
    files = {"algo/rows": "[1, 2]\n", "experiment/bare": "tau: 4\n", "experiment/two": "# @package _global_\nlaunch: 2\n"}
    for name, text in ((f"{name}.yaml", text) for name, text in files.items()):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    ended = cli("show", *typed)
    assert ended.code == 2 and len(ended.lines) == 1 and message in ended.err, ended
