"""Workers that hold less than a batch train on what they have, as a loader without drop_last: on every placement and engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing import MLP, play, settle

from coopsgd.data.base import Batches
from coopsgd.data.partitions import Dirichlet, File, Quantity
from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts
from coopsgd.setup.values import steps_of_pass
from coopsgd.tasks.gradients import Bound
from coopsgd.tasks.networks import bound

# 8 workers with 49 to 448 samples of digits: half of them hold less than a batch
SKEWED = ("workers=8", "partition=dirichlet", "partition.alpha=0.05", "partition.min_size=3", "batch_size=150")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 143))


def sizes(words):
    config = settle(words)
    return np.array(Parts(config).task.sizes(config)), config


def test_a_hundred_clients_of_little_data_run():
    words = (*MLP, "algo=fedavg", "algo.fraction=0.1", "algo.epochs=2", "partition=dirichlet", "partition.alpha=0.1")
    words = (*words, "workers=100", "processes=1", "batch_size=50", "rounds=4")
    held, config = sizes(words)
    assert held.min() >= 1 and held.sum() == 1433 and (held < 50).sum() > 50
    played = play(None, 1, *words)
    last = played.lines[-1]
    assert np.isfinite(played.x).all() and last["rounds"] == 4
    schedule = Parts(config).strategy.schedule
    own = sum(schedule.work(100, r, 1) for r in range(4))
    assert sum(schedule.work(100, r, 1).max() for r in range(4)) == last["step"]
    assert last["samples"] == int((own * np.minimum(held, 50)).sum())  # not 50 a step of whoever holds fewer
    steps = schedule.work(100, 0, 1)
    clients = steps > 0
    assert np.array_equal(steps[clients], 2 * np.maximum(held[clients] // 50, 1))  # two passes each, of unequal length


def test_a_small_share_is_one_batch():
    shares = [np.arange(3), np.arange(10, 40)]
    batches = Batches(shares, range(2), 8, seed=0)
    assert batches.sizes.tolist() == [3, 8] and batches.per_epoch.tolist() == [1, 3]
    for k in range(5):
        small, large = batches.of(batches.at(np.full(2, k)), 0, 1), batches.of(batches.at(np.full(2, k)), 1, 2)
        assert small.shape == (1, 3) and set(small[0].tolist()) == {0, 1, 2} and large.shape == (1, 8)
    alone = Batches(shares[1:], range(1), 8, seed=0)
    assert alone.at(np.array([4])).shape == (1, 8)
    assert steps_of_pass(np.array([3, 30, 8]), 8).tolist() == [1, 3, 1]


@pytest.mark.parametrize("engine", ["loop", "bmm", "vmap"])
def test_a_step_is_that_of_torch_on_what_each_worker_holds(engine):
    """Each worker by hand: the mean over the samples of its own batch."""
    words = (*MLP, *SKEWED, "algo=independent", "steps=3", f"engine={engine}", "optim.lr=0.1")
    held, config = sizes(words)
    assert (held < 150).sum() == 4
    x = play(None, 1, *words).x
    task = Parts(config).task
    images, shares = task.data.load(0), task.shares(config)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (images.mean, images.std))
    for i, share in enumerate(shares):
        one: Bound = bound(task, 0, torch.float64)
        row, grad = one.flat(), torch.zeros(1, one.d, dtype=torch.float64)
        one.bind(row, grad)
        mine = Batches(shares, range(i, i + 1), 150, 0)
        for k in range(3):
            which = mine.at(np.array([k]))[0, : min(150, len(share))]
            inputs = (torch.from_numpy(images.train_x[which]).double() - mean) / std
            grad.zero_()
            torch.nn.functional.cross_entropy(one.row(0)(inputs), torch.from_numpy(images.train_y[which])).backward()
            row.sub_(0.1 * grad)
        np.testing.assert_allclose(x[i], row[0].numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", ["mlp", "batchnorm"])
def test_it_is_the_same_wherever_rows_are(process_groups, model):
    network = ("data=digits", "model=cnn", "model.width=8", "model.norm=batch", "norm_stats=average", "dtype=float64")
    network = MLP if model == "mlp" else (*network, "log_every=1000", "eval_every=0", "device=cpu")
    words = (*network, *SKEWED, "algo=dpa", "tau=2", "steps=6")
    played = {p: play(process_groups, p, *words) for p in (1, 2, 4)}
    for one in played.values():
        np.testing.assert_allclose(one.x, played[1].x, rtol=0, atol=1e-12 * np.abs(played[1].x).max())
        if model == "batchnorm":
            np.testing.assert_allclose(one.stats, played[1].stats, rtol=0, atol=1e-11)
        assert one.lines[-1]["samples"] == played[1].lines[-1]["samples"]


def test_auto_is_one_batch_where_the_draw_allows_it():
    for partition, other in (
        (Dirichlet(alpha=0.5, batch_size=20), Dirichlet(alpha=0.5, min_size=20)),
        (Quantity(batch_size=20), Quantity(min_size=20)),
    ):
        made, wanted = partition.deal(LABELS, 8, 3), other.deal(LABELS, 8, 3)
        assert all(np.array_equal(a, b) for a, b in zip(made, wanted, strict=True))
        assert min(map(len, made)) >= 20
        poor = type(partition)(alpha=0.05, batch_size=50).deal(LABELS, 100, 3)
        assert min(map(len, poor)) >= 1 and len(np.unique(np.concatenate(poor))) == len(LABELS)


def test_who_is_left_without_a_sample_is_told():
    words = (*MLP, "partition=dirichlet", "partition.alpha=0.1", "workers=100", "processes=1", "batch_size=50")
    config = settle(words)
    task = Parts(config).task
    notes = [note for note in task.notes(config) if note.startswith("partition")]
    held = np.array(task.sizes(config))
    assert any(f"{(held < 50).sum()} of 100 workers" in note and "batch_size=50" in note for note in notes)
    assert any("given one" in note for note in notes)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ("partition.small=refuse", "partition.min_size=3", "batch_size=150"),
            ["batch_size: 150", "partition.min_size", "partition.small=train"],
        ),
        (("partition.small=some",), ["partition.small", "'some'", "train", "refuse"]),
        (("partition.min_size=some",), ["partition.min_size", "'some'", "auto"]),
        (("partition.min_size=0",), ["partition.min_size", "at least 1", "0"]),
        (("partition.min_size=2.5",), ["partition.min_size", "2.5", "auto"]),
    ],
)
def test_bad_values_are_told(words, parts):
    with pytest.raises(ConfigError) as refused:
        settle((*MLP, "partition=dirichlet", "partition.alpha=0.05", "workers=8", *words))
    assert all(part in str(refused.value) for part in parts) and "\n" not in str(refused.value)


def test_a_model_that_needs_two_samples_is_refused_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "needs_two.py").write_text(
        "import torch\n\n\ndef net(classes=10):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8),"
        " torch.nn.Linear(8, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("data=digits", "model=custom", "model.path=needs_two:net", "partition=dirichlet", "partition.alpha=0.05")
    with pytest.raises(ConfigError, match=r"partition.min_size"):
        settle((*words, "workers=60", "processes=1"))


def test_a_file_and_other_partitions(tmp_path, monkeypatch):
    (tmp_path / "split.json").write_text(str([list(range(4)), list(range(4, 100))]))
    monkeypatch.chdir(tmp_path)
    assert File(file="split.json").small == "train"
    held, _ = sizes((*MLP, "partition=file", "partition.file=split.json", "workers=2"))
    assert held.tolist() == [4, 96]
    with pytest.raises(ConfigError, match=r"batch_size: 32 is more than the 4 samples of worker 0.*partition.small=train"):
        settle((*MLP, "partition=file", "partition.file=split.json", "workers=2", "partition.small=refuse"))
    with pytest.raises(ConfigError, match=r"batch_size: 32 .* of worker 0 .*partition.small=train"):
        settle((*MLP, "workers=100", "processes=1"))
    held, _ = sizes((*MLP, "workers=100", "processes=1", "partition.small=train"))
    assert set(held.tolist()) == {14}
