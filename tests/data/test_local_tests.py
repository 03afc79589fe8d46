"""partition.test=local: every worker is tested on samples of its own that nobody trains on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing import MLP, play, settle

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.loop.evaluation import over_workers
from coopsgd.setup.parts import Parts
from coopsgd.tasks.networks import bound

SKEWED = ("partition=dirichlet", "partition.alpha=0.1", "workers=8", "batch_size=16", "partition.test=local")
LOCAL = ("eval/local_accuracy", "eval/local_accuracy_std", "eval/local_accuracy_p10")
ANSWER = tuple(name.replace("local_accuracy", "local_answer") for name in LOCAL)


def test_what_is_held_out_is_trained_on_by_nobody():
    config = settle((*MLP, *SKEWED, "partition.test_share=0.25"))
    task = Parts(config).task
    shares, held = task.shares(config), task.held_out(config)
    everything = np.concatenate([*shares, *held])
    assert len(np.unique(everything)) == len(everything) == 1433
    for mine, tested in zip(shares, held, strict=True):
        assert len(tested) == int(0.25 * (len(mine) + len(tested)) + 0.5) and len(mine) >= 16
    assert task.sizes(config) == [len(share) for share in shares]  # what FedAvg weighs by
    counts = task.class_counts(config)
    assert counts["held_out"] == [len(one) for one in held] and counts["left_over"] == 0


def test_the_numbers_are_those_of_a_plain_evaluation(process_groups):
    words = (*MLP, *SKEWED, "algo=dpa", "tau=3", "steps=8", "eval_every=4")
    played = {p: play(process_groups, p, *words) for p in (1, 4)}
    config = settle(words)
    task = Parts(config).task
    images, held = task.data.load(0), task.held_out(config)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (images.mean, images.std))
    network = bound(task, 0, torch.float64)

    def accuracy(model, which):
        module = network.elsewhere(torch.from_numpy(model)[None]).eval()
        said = module((torch.from_numpy(images.train_x[which]).double() - mean) / std).argmax(-1).numpy()
        return (said == images.train_y[which]).mean()

    own = [accuracy(played[1].x[i], held[i]) for i in range(8)]
    answer = [accuracy(played[1].answer, held[i]) for i in range(8)]
    for p in (1, 4):
        last = played[p].lines[-1]
        for names, values in ((LOCAL, own), (ANSWER, answer)):
            wanted = [np.mean(values), np.std(values), np.quantile(values, 0.1)]
            np.testing.assert_allclose([last[name] for name in names], wanted, rtol=0, atol=1e-12)
        for line, other in zip(played[p].lines, played[1].lines, strict=True):
            assert [line.get(name) for name in (*LOCAL, *ANSWER)] == [other.get(name) for name in (*LOCAL, *ANSWER)]


def test_whoever_holds_one_sample_has_no_test():
    words = (*MLP, *SKEWED, "workers=60", "processes=1", "batch_size=50", "algo=fedavg", "steps=2", "partition.seed=0")
    words = words[:-1]
    config = settle(words)
    task = Parts(config).task
    alone = sum(len(one) == 0 for one in task.held_out(config))
    assert alone and any(f"{alone} of 60 workers hold a single sample" in note for note in task.notes(config))
    last = play(None, 1, *words).lines[-1]
    assert 0 <= last["eval/local_accuracy_p10"] <= last["eval/local_accuracy"] <= 1
    assert over_workers("a", [np.nan]) == {"a": None, "a_std": None, "a_p10": None}
    assert over_workers("a", [1, np.nan, 0])["a"] == 0.5


def test_show_and_language(cli):
    shown = cli("show", *SKEWED, "data=digits").out
    assert "held out" in shown
    words = ("task=language", "data=text", "model=gpt", "model.context=16", "model.width=16", "model.layers=1")
    words = (*words, "model.heads=2", "partition.test=local", "workers=2", "steps=1", "device=cpu", "batch_size=4")
    assert 0 <= play(None, 1, *words).lines[-1]["eval/local_accuracy"] <= 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("partition.test=own",), ["partition.test", "'own'", "shared, local"]),
        (("partition.test=local", "partition.test_share=1"), ["partition.test_share", "(0, 1)", "1"]),
        (("partition.test=local", "partition.reshuffle=true"), ["partition.test", "reshuffle"]),
        (("objective=eval/local_accuracy",), ["objective", "eval/local_accuracy", "partition.test=local"]),
        (("stop.metric=eval/local_answer", "stop.target=0.9"), ["stop.metric", "partition.test=local"]),
    ],
)
def test_bad_values_are_told(words, parts):
    with pytest.raises(ConfigError) as refused:
        compose.compose_config((*MLP, *words))
    assert all(part in str(refused.value) for part in parts) and "\n" not in str(refused.value)
