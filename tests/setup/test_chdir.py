"""hydra.job.chdir=true leaves the folder where the command was given: classes of one's own, and what they read, lie there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from test_your_classes import EXAMPLES, IMPORTS

import coopsgd

READS = """
import numpy as np, torch
from dataclasses import dataclass
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.data.base import DataSet, Images
from coopsgd.data.partitions import Partition

class Net(torch.nn.Sequential):
    def __init__(self, classes=2, start="things/bias.npy"):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(4, classes))
        self[1].bias.data.copy_(torch.from_numpy(np.load(start)))

class Items(torch.utils.data.Dataset):
    def __init__(self, root): self.x = np.load(root + "/x.npy")
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], i % 2

def collate(items):
    np.load("things/bias.npy")
    return torch.stack([torch.from_numpy(x) for x, _ in items]), torch.tensor([y for _, y in items])

def loss(outputs, targets): return torch.nn.functional.cross_entropy(outputs, targets)

def W(m, r): return np.load("things/W.npy")

@dataclass(frozen=True)
class Reading(DataSet):
    file: str = "things/x.npy"
    SHAPE, CLASSES = (1, 2, 2), 2
    def load(self, seed=0):
        x, y = np.load(self.file), np.arange(60) % 2
        return Images(x[:40], y[:40], x[40:], y[40:], mean=(0.5,), std=(0.5,))

@dataclass(frozen=True)
class Listed(Partition):
    file: str = "things/order.txt"
    def deal(self, labels, workers, seed, epoch=0):
        return np.array_split(np.loadtxt(self.file, dtype=int), workers)

@dataclass(frozen=True)
class Mine(Cooperative):
    file: str = "things/W.npy"
    def init(self, fleet, x): return float(np.load(self.file).sum())
"""
RUN = ("workers=2", "processes=2", "threads=1", "steps=4", "eval_every=2", "device=cpu", "batch_size=2", "algo=pasgd", "tau=2")
WAYS = {
    "classes by path": (
        *("data=custom", "data.path=reads:Items", "data.arguments={root: things}", "data.collate=reads:collate"),
        *("model=custom", "model.path=reads:Net", "task.loss=reads:loss", "algo=cooperative", "algo.W=reads:W"),
    ),
    "dataclasses": ("data=gaussian", "data.name=reads:Reading", "partition.name=reads:Listed", "algo.strategy=reads:Mine"),
}


def things(at: Path):
    (at / "reads.py").write_text(READS)
    (at / "things").mkdir()
    np.save(at / "things" / "x.npy", np.random.default_rng(0).random((60, 1, 2, 2), dtype=np.float32))
    np.save(at / "things" / "bias.npy", np.ones(2, dtype=np.float32))
    np.save(at / "things" / "W.npy", np.full((2, 2), 0.5))
    np.savetxt(at / "things" / "order.txt", np.arange(40), fmt="%d")


def test_what_classes_read_is_named_from_where_the_command_was_given(cli, tmp_path):
    things(tmp_path)
    for name, words in WAYS.items():
        at = name.replace(" ", "-")
        for folder, more in ((at, ()), (f"{at}-there", ("hydra.job.chdir=true",))):
            ended = cli("train", *RUN, *words, *more, f"hydra.run.dir={folder}")
            assert ended.code == 0, (name, more, ended.err, ended.out)
        assert torch.equal(coopsgd.Run(tmp_path / at).rows(), coopsgd.Run(tmp_path / f"{at}-there").rows())
        assert [*coopsgd.Run(tmp_path / f"{at}-there").source] == ["reads.py"]


# fragments take turns within one tau, which the period of one's own moves; a correction bears no outer step beside it
APART = ("task", "topology", "algo", "fragments", "correction")


def test_classes_of_every_group_in_a_sweep(cli, tmp_path):
    """Each job begins in a folder of its own."""
    words = []
    for group, (line, file, code) in EXAMPLES.items():
        (tmp_path / file).write_text(IMPORTS + code)
        words += line if group not in APART else []
    few = [word for word in words if word not in ("algo=pasgd", "tau=1") and not word.startswith("partition.share")]
    ended = cli("train", "-m", "seed=0,1", *RUN, *few, "hydra.job.chdir=true", "hydra.sweep.dir=sweep", "partition.share=0.5")
    assert ended.code == 0, (ended.err, ended.out)
    kept = set(coopsgd.Run(tmp_path / "sweep" / "algo=pasgd,seed=1").source)
    assert kept == {EXAMPLES[group][1] for group in EXAMPLES} - {EXAMPLES[g][1] for g in APART}
