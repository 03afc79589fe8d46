"""Who sees what: each partition keeps its promise for any labels, workers and seed; batches follow it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from playing import MLP, play, settle

from coopsgd.data import partitions
from coopsgd.data.base import Batches, refuse_short
from coopsgd.data.partitions import IID, Dirichlet, Quantity, Shards, left_over
from coopsgd.setup.parts import Parts
from coopsgd.streams import stream

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), [100, 200, 150, 50, 300, 100, 100, 400, 500, 600]))
ALL = [
    IID(),
    IID(reshuffle=True),
    Quantity(),
    Quantity(alpha=0.1, min_size=5, reshuffle=True),
    Shards(),
    Shards(classes=3),
    Dirichlet(),
    Dirichlet(alpha=0.1, min_size=1),
    Dirichlet(alpha=0.1, equal=True),
    Dirichlet(alpha=1e6),
]


def table(shares, labels=LABELS):
    return np.array([np.bincount(labels[share], minlength=labels.max() + 1) for share in shares])


@pytest.mark.parametrize("partition", ALL, ids=repr)
@pytest.mark.parametrize("workers", [4, 7, 20])
def test_a_partition_is_one(partition, workers):
    for seed in range(3):
        shares = partition.deal(LABELS, workers, seed)
        dealt = np.concatenate(shares)
        assert len(shares) == workers and len(set(dealt.tolist())) == len(dealt)  # no sample twice
        assert set(dealt.tolist()) | set(left_over(2500, shares).tolist()) == set(range(2500))
        rest = 2500 % workers if isinstance(partition, IID) or getattr(partition, "equal", False) else 0
        assert len(left_over(2500, shares)) == rest
        again, other = partition.deal(LABELS, workers, seed), partition.deal(LABELS, workers, seed + 1)
        assert all(np.array_equal(a, b) for a, b in zip(shares, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(shares, other, strict=True))


def test_iid_is_the_deal_it_always_was():
    """Written out as it was before there were partitions: results of earlier versions stay what they are."""
    old = stream(3, "partition").permutation(1433)[: 1433 // 4 * 4].reshape(4, -1)
    assert np.array_equal(np.stack(IID().deal(np.zeros(1433), 4, 3)), old)
    batches = Batches(list(old), range(4), 32, 3)
    for k in (0, 5, 11, 30):
        epoch, b = divmod(k, 358 // 32)
        expected = [stream(3, "batch", i, epoch).permutation(old[i])[b * 32 : b * 32 + 32] for i in range(4)]
        assert np.array_equal(batches.at(np.full(4, k)), expected)


@pytest.mark.parametrize("k", [1, 2, 3, 10])
@pytest.mark.parametrize("workers", [10, 13, 40])
def test_shards_hold_exactly_k_classes_in_contiguous_runs(k, workers):
    shares = Shards(classes=k).deal(LABELS, workers, seed=1)
    counts = table(shares)
    assert ((counts > 0).sum(1) == k).all() and (counts.sum(0) == np.bincount(LABELS)).all()
    for c in range(10):
        place = {sample: i for i, sample in enumerate(np.flatnonzero(c == LABELS).tolist())}
        runs = [sorted(place[s] for s in share.tolist() if s in place) for share in shares]
        assert all(run == list(range(run[0], run[0] + len(run))) for run in runs if run)
        lengths = [len(run) for run in runs if run]
        assert max(lengths) - min(lengths) <= 1


def test_shards_are_about_equal_and_auto_covers_every_class():
    # 200 shards of 2500 samples: 12.5 each, whole classes allowing
    shares = Shards(classes=2).deal(LABELS, 100, seed=0)
    assert min(map(len, shares)) >= 23 and max(map(len, shares)) <= 27
    for workers, classes in ((1, 10), (4, 3), (5, 2), (100, 2)):
        assert {int(n) for n in (table(Shards().deal(LABELS, workers, 0)) > 0).sum(1)} == {classes}
    text = Shards().deal(np.zeros(103, dtype=int), 4, 0)  # one class: contiguous parts of a text, whoever holds which
    assert sorted((int(s[0]), len(s)) for s in text) == [(0, 26), (26, 26), (52, 26), (78, 25)]
    assert all((np.diff(s) == 1).all() for s in text)


def test_dirichlet_proportions_have_its_moments():
    """A worker's share of a class is Beta(alpha, (m - 1) alpha): mean 1 / m, variance (m - 1) / (m^2 (m alpha + 1))."""
    m, labels = 5, np.repeat(np.arange(20), 2000)
    for alpha in (0.3, 3.0):
        partition = Dirichlet(alpha=alpha, min_size=1)
        shares = np.concatenate([table(partition.deal(labels, m, seed), labels).T / 2000 for seed in range(100)])
        assert shares.mean() == pytest.approx(1 / m)
        expected = (m - 1) / (m**2 * (m * alpha + 1))
        assert shares.var() == pytest.approx(expected, rel=0.08)  # 10,000 shares: about 2 % of chance


def test_dirichlet_of_equal_size_gives_everyone_a_mix_of_his_own():
    """A share of a class has mean 1 / C and variance (C - 1) / (C^2 (C alpha + 1)), but for the last, who take what is left."""
    C, alpha, found = 5, 0.5, []
    for seed in range(40):
        mixes = Dirichlet(alpha=alpha, equal=True)._mixes(np.full(5, 100_000), 500, stream(seed, "x"))
        assert (mixes.sum(0) == 1000).all() and (mixes.sum(1) == 100_000).all()
        found.append(mixes / 1000)
    assert np.concatenate(found, axis=1).var() == pytest.approx(
        (C - 1) / (C**2 * (C * alpha + 1)), rel=0.1
    )  # 6 % above, for those


def test_dirichlet_limits():
    even = table(Dirichlet(alpha=1e7).deal(LABELS, 5, 0))
    assert np.abs(even - np.bincount(LABELS) / 5).max() < 2
    alone = table(Dirichlet(alpha=1e-4, min_size=1).deal(np.repeat(np.arange(40), 50), 3, 0), np.repeat(np.arange(40), 50))
    assert ((alone == 0) | (alone == 50)).all()  # every class belongs to one worker


def test_quantity_is_a_floor_and_a_draw_of_sizes():
    shares = Quantity(alpha=0.2, min_size=20).deal(LABELS, 10, 0)
    sizes = np.array([len(share) for share in shares])
    assert sizes.sum() == 2500 and sizes.min() >= 20 and sizes.max() > 3 * sizes.mean()
    # labels play no part: the same deal for other labels
    other = Quantity(alpha=0.2, min_size=20).deal(LABELS[::-1], 10, 0)
    assert all(np.array_equal(a, b) for a, b in zip(shares, other, strict=True))
    assert np.ptp([len(s) for s in Quantity(alpha=1e6).deal(LABELS, 10, 0)]) <= 3


@pytest.mark.parametrize("partition", [Dirichlet(alpha=0.1, equal=True), Quantity(), Shards(), IID()], ids=repr)
def test_a_thousand_workers_are_quick(partition):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 6000))
    began = time.process_time()
    shares = partition.deal(labels, 1000, 0)
    assert time.process_time() - began < 1  # 0.1 s
    assert len(np.unique(np.concatenate(shares))) == 60000


def test_dirichlet_over_a_thousand_workers_takes_under_a_second():
    """alpha = 0.1 leaves somebody without a sample, whatever is drawn: a few draws, then an error that says what to do."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 6000))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"alpha=0.1 gave some worker of 1000 fewer than min_size=1 .* partition.equal=true"):
        Dirichlet(alpha=0.1, min_size=1, attempts=100).deal(labels, 1000, 0)
    shares = Dirichlet(alpha=2.0, min_size=8).deal(labels, 1000, 0)  # divided class by class, the same way as for 0.1
    assert len(np.unique(np.concatenate(shares))) == 60000
    assert time.process_time() - began < 1  # 0.1 s


WRONG = [
    (lambda: IID().deal(np.zeros(3), 4, 0), "iid cannot give 4 workers one of 3 training samples each; lower workers"),
    (
        lambda: Quantity(min_size=30).deal(np.zeros(100), 4, 0),
        "min_size=30 of 100 training samples each; lower partition.min_size",
    ),
    (lambda: Dirichlet(min_size=30).deal(np.zeros(100), 4, 0), "dirichlet cannot give 4 workers min_size=30 of 100"),
    (lambda: Shards(classes=11).deal(LABELS, 4, 0), "partition.classes: 11 is more than the 10 classes"),
    (lambda: Shards(classes=2).deal(LABELS, 4, 0), "4 workers of 2 classes hold 8 of 10, .* at least 3"),
    (lambda: Shards(classes=2).deal(np.arange(4) // 2, 4, 0), "8 shards, more than the 4 that"),
    (lambda: Shards(classes=0), "partition.classes: .* got 0"),
    (lambda: Shards(classes="two"), "partition.classes: .* got 'two'"),
    (lambda: Dirichlet(alpha=0), "partition.alpha: must be a positive number, got 0"),
    (lambda: Dirichlet(alpha=float("inf")), "partition.alpha"),
    (lambda: Quantity(alpha=-1.0), "partition.alpha"),
    (lambda: Quantity(min_size=0), "partition.min_size: must be auto or a whole number of at least 1, got 0"),
    (lambda: Dirichlet(attempts=0), "partition.attempts: must be at least 1 .*got 0"),
    (lambda: refuse_short([40, 12, 60], 32, "shards"), "batch_size: 32 is more than the 12 samples of worker 1"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_cannot_be_dealt_is_told(number):
    made, message = WRONG[number]
    with pytest.raises(ValueError, match=message):
        made()


def test_a_deal_is_made_once(monkeypatch):
    made = []
    monkeypatch.setattr(IID, "deal", lambda self, labels, workers, seed, epoch=0: made.append(seed) or [labels])
    for seed in (5, 5, 6, 6, 5):
        partitions.dealt(IID(), np.arange(3), 1, seed)
    assert made == [5, 6, 5]
    partitions.dealt(IID(), np.arange(1, 4), 1, 5)
    assert made == [5, 6, 5, 5]  # other labels


def test_unequal_shares_have_passes_of_their_own():
    """Worker 0 holds 10 samples and starts its next pass after 2 steps, worker 1 holds 23 and does after 5."""
    shares = [np.arange(10), np.arange(10, 33)]
    batches = Batches(shares, range(2), 4, seed=0)
    assert batches.per_epoch.tolist() == [2, 5]
    seen = [batches.at(np.full(2, k)) for k in range(10)]
    for worker, steps in enumerate((2, 5)):
        passes = np.array([batch[worker] for batch in seen]).reshape(10 // steps, steps * 4)
        assert all(len(set(one)) == steps * 4 and set(one) <= set(shares[worker]) for one in passes)
        assert len({tuple(one) for one in passes}) == len(passes)  # dealt anew


def test_rows_may_have_made_different_numbers_of_steps():
    shares = [np.arange(10), np.arange(10, 33), np.arange(40, 60)]
    batches, rng = Batches(shares, range(3), 4, seed=2), np.random.default_rng(0)
    for own in rng.integers(0, 12, (30, 3)):  # any steps in any order
        alone = [Batches(shares, range(i, i + 1), 4, seed=2).at(own[i : i + 1])[0] for i in range(3)]
        assert np.array_equal(batches.at(own), alone)


@pytest.mark.parametrize("partition", [IID(reshuffle=True), Quantity(alpha=0.3, min_size=40, reshuffle=True)], ids=repr)
def test_reshuffled_epochs_are_dealt_over_all_workers(partition):
    labels, seed = np.arange(1000) % 7, 4
    first = partition.deal(labels, 4, seed)
    batches = Batches(first, range(4), 8, seed, lambda epoch: partition.deal(labels, 4, seed, epoch))
    for epoch in (0, 2, 1):
        dealt = partition.deal(labels, 4, seed, epoch)
        assert [len(s) for s in dealt] == [len(s) for s in first]
        assert len(np.unique(np.concatenate(dealt))) == sum(map(len, dealt))
        for i, steps in enumerate(batches.per_epoch):
            own = np.zeros((steps, 4), dtype=int)
            own[:, i] = epoch * steps + np.arange(steps)
            pass_ = {int(s) for row in own for s in batches.at(row)[i]}
            assert pass_ <= set(dealt[i].tolist()) and len(pass_) == steps * 8
    assert not np.array_equal(np.sort(first[0]), np.sort(partition.deal(labels, 4, seed, 1)[0]))


def test_batches_are_drawn_fast():
    """30,000 a second for one row; a step of 256 rows costs far less than 256 of them."""
    for rows, steps, least in ((1, 3000, 30_000), (256, 150, 100_000)):
        batches = Batches(IID().deal(np.zeros(60000), max(rows, 1), 0), range(rows), 32, 0)
        owns = [np.full(rows, k) for k in range(steps)]
        best = 0.0
        for _ in range(3):
            began = time.process_time()
            for own in owns:
                batches.at(own)
            best = max(best, rows * steps / (time.process_time() - began))
        assert best > least / 2  # of a busy machine


@pytest.mark.parametrize(
    "words",
    [
        ("partition=dirichlet", "partition.alpha=0.3", "partition.min_size=8"),
        ("partition=shards", "partition.classes=2"),
        ("partition=quantity", "partition.min_size=8", "partition.reshuffle=true"),
        ("partition.reshuffle=true", "data=gaussian", "data.samples=200"),
    ],
)
def test_a_partition_is_the_same_wherever_rows_are(process_groups, words):
    words = (*MLP, "algo=easgd", "tau=3", "steps=40", "workers=8", "batch_size=8", *words)
    played = {p: play(process_groups, p, *words).x for p in (1, 2, 4)}
    for x in played.values():
        np.testing.assert_allclose(x, played[1], rtol=0, atol=1e-12 * np.abs(played[1]).max())
    plain = play(process_groups, 1, *MLP, "algo=easgd", "tau=3", "steps=40", "workers=8", "batch_size=8").x
    assert plain.shape != played[1].shape or np.abs(plain - played[1]).max() > 1e-3


def test_an_epoch_is_the_longest_pass():
    settings = settle((*MLP, "partition=quantity", "workers=4", "batch_size=16", "epochs=2"))
    task = Parts(settings).task
    sizes = task.sizes(settings)
    assert sum(sizes) == 1433 and len(set(sizes)) > 1
    assert settings.steps == 2 * (max(sizes) // 16)
    problem = task.build(settings, range(4), torch.device("cpu"))
    assert problem.steps_per_epoch == max(sizes) // 16
    counts = np.array(task.class_counts(settings)["counts"])
    assert counts.sum(1).tolist() == sizes and counts.shape == (4, 10)
    assert Parts(settle(("task=quadratic",))).task.sizes(settings) is None
