"""task=regression, and several labels a sample: against formulas and torch by hand, in every engine, wherever rows are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing import play, settle
from refusals import refused
from safetensors.torch import save_file
from sklearn.datasets import load_diabetes
from sklearn.metrics import accuracy_score, f1_score, r2_score
from torch.nn import functional

from coopsgd.data.base import Images
from coopsgd.data.custom import Custom
from coopsgd.data.diabetes import Diabetes
from coopsgd.setup.parts import Parts
from coopsgd.tasks.networks import bound

SMALL = ("model=mlp", "model.hidden=[7]", "dtype=float64", "batch_size=8", "log_every=1000", "eval_every=0", "device=cpu")
NUMBERS = ("task=regression", *SMALL)
TWO = (*NUMBERS, "data=custom", "data.path=my_numbers:mixed", "data.targets=numbers")
SEVERAL = (*SMALL, "data=custom", "data.path=my_numbers:tagged", "data.targets=labels", "task.loss=bce")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def scaled(images: Images, x: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(number, dtype=torch.float64) for number in (images.mean, images.std))
    return (torch.from_numpy(x).double() - mean) / std


def test_the_built_in_data_is_that_of_scikit_learn():
    images = Diabetes().load()
    x, y = load_diabetes(return_X_y=True, scaled=False)
    test = np.arange(442) % 5 == 0
    assert images.targets == "numbers" and len(images.test_y) == 89
    np.testing.assert_array_equal(images.train_x, x[~test])
    np.testing.assert_allclose(images.train_y[:, 0], (y[~test] - y[~test].mean()) / y[~test].std(), rtol=1e-12)
    np.testing.assert_allclose(images.test_y[:, 0], (y[test] - y[~test].mean()) / y[~test].std(), rtol=1e-12)
    seen = scaled(images, images.train_x)
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(seen.std(0, correction=0), 1, rtol=1e-12)
    assert Diabetes().about()["target_mean"] == y[~test].mean()


def test_linear_regression_stays_at_the_normal_equations(tmp_path):
    """The least squares of numpy are where its gradient is zero, and it is measured there as scikit-learn measures."""
    images = Diabetes().load()
    A, B = (np.c_[scaled(images, x).numpy(), np.ones(len(x))] for x in (images.train_x, images.test_x))
    best = np.linalg.lstsq(A, images.train_y, rcond=None)[0]
    plain = tuple(word for word in NUMBERS if "hidden" not in word)
    words = (*plain, "model=logistic", "algo=fullsync", "workers=1", "batch_size=353", "steps=20", "optim.lr=0.1")
    names = [name for name, *_ in Parts(settle(words)).task.build(settle(words), range(1), "cpu").places()["parameters"]]
    save_file(
        dict(zip(names, map(torch.from_numpy, (best[:-1].T.copy(), best[-1])), strict=True)), tmp_path / "best.safetensors"
    )
    run = play(None, 1, *words, "start=best.safetensors", "log_every=20", "eval_every=20")
    np.testing.assert_allclose(run.answer, best.ravel(), rtol=0, atol=1e-12)
    last = run.lines[-1]
    assert last["eval/loss"] == pytest.approx(((B @ best - images.test_y) ** 2).mean(), rel=1e-12)
    assert last["eval/r2"] == pytest.approx(r2_score(images.test_y, B @ best), rel=1e-12)
    assert last["eval/accuracy"] is last["eval/accuracy_worst"] is None
    away = play(None, 1, *words, "steps=1")  # elsewhere it moves
    assert np.abs(away.x[0] - best.ravel()).max() > 0.01


BY_HAND = {
    "numbers": (NUMBERS, functional.mse_loss),
    "two numbers": ((*TWO, "task.loss=huber", "task.huber_delta=0.4"), lambda x, y: functional.huber_loss(x, y, delta=0.4)),
    "a loss of one's own": (
        (*NUMBERS, "task.loss=my_numbers:quantile"),
        lambda x, y: torch.maximum(0.9 * (y - x), 0.1 * (x - y)).mean(),
    ),
    "several labels": (SEVERAL, lambda x, y: functional.binary_cross_entropy_with_logits(x, y.double())),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_steps_are_those_of_torch_in_every_engine_wherever_rows_are(process_groups, case):
    words, loss = BY_HAND[case]
    words = (*words, "algo=pasgd", "tau=2", "workers=4", "steps=5", "optim.lr=0.1")
    config = settle(words)
    task = Parts(config).task
    images, network = task.data.load(0), bound(task, 0, torch.float64)
    batches = task.build(config, range(4), torch.device("cpu"))._batches
    x = network.flat().repeat(4, 1)
    for k in range(5):
        which = batches.at(np.full(4, k))
        for i in range(4):
            row, grad = x[i : i + 1].clone(), torch.zeros(1, network.d, dtype=torch.float64)
            network.bind(row, grad)
            loss(
                network.row(0)(scaled(images, images.train_x[which[i]])), torch.from_numpy(images.train_y[which[i]])
            ).backward()
            x[i] = (row - 0.1 * grad)[0]
        if k % 2:
            x[:] = x.mean(0)
    for engine, processes in (("loop", 1), ("bmm", 1), ("vmap", 1), ("auto", 2), ("auto", 4)):
        run = play(process_groups, processes, *words, f"engine={engine}")
        np.testing.assert_allclose(run.x, x.numpy(), rtol=0, atol=1e-12)
    said = network.elsewhere(x.mean(0, keepdim=True)).eval()(scaled(images, images.test_x)).detach()
    last, wanted = run.lines[-1], torch.from_numpy(images.test_y)
    assert last["eval/loss"] == pytest.approx(float(loss(said, wanted)), rel=1e-10)
    if case == "several labels":
        there = (said > 0).numpy().astype(int)
        assert last["eval/accuracy"] == pytest.approx(accuracy_score(images.test_y, there), rel=1e-12)
        assert last["eval/f1"] == pytest.approx(f1_score(images.test_y, there, average="micro"), rel=1e-12)
        of_each = [network.elsewhere(x[i : i + 1]).eval()(scaled(images, images.test_x)).detach() > 0 for i in range(4)]
        each = [accuracy_score(images.test_y, one.numpy().astype(int)) for one in of_each]
        assert [last["eval/accuracy_worst"], last["eval/accuracy_best"]] == pytest.approx([min(each), max(each)], rel=1e-12)
    else:
        assert last["eval/r2"] == pytest.approx(r2_score(images.test_y, said.numpy()), rel=1e-10)
        assert last["eval/accuracy"] is last["eval/accuracy_best"] is None


def test_mse_says_that_a_label_is_there_above_a_half():
    run = play(None, 1, *SEVERAL, "task.loss=mse", "algo=pasgd", "workers=2", "steps=300", "optim.lr=0.3")
    images = Custom(path="my_numbers:tagged", targets="labels").load()
    module = bound(Parts(settle(SEVERAL)).task, 0, torch.float64).elsewhere(torch.from_numpy(run.answer)[None]).eval()
    there = (module(scaled(images, images.test_x)) > 0.5).numpy().astype(int)
    assert run.lines[-1]["eval/f1"] == pytest.approx(f1_score(images.test_y, there, average="micro"), rel=1e-12) and there.any()


def test_it_learns():
    run = play(None, 1, *NUMBERS, "algo=easgd", "tau=4", "workers=4", "steps=150", "optim.lr=0.05")
    assert run.lines[-1]["eval/r2"] > 0.4
    run = play(None, 1, *SEVERAL, "algo=fedavg", "algo.fraction=0.5", "workers=4", "steps=300", "optim.lr=0.3")
    assert run.lines[-1]["eval/f1"] > 0.85


@pytest.mark.parametrize("partition", ["shards", "dirichlet"])
def test_numbers_are_dealt_by_their_tenths(partition):
    task = Parts(settle((*NUMBERS, f"partition={partition}", "workers=5"))).task
    config = settle((*NUMBERS, f"partition={partition}", "workers=5"))
    y, labels = Diabetes().load().train_y[:, 0], task.labels(config)
    assert np.bincount(labels).tolist() == pytest.approx([35.3] * 10, abs=6)
    assert all(y[labels == c].max() <= y[labels == c + 1].min() for c in range(9))
    counts = np.array(task.class_counts(config)["counts"])
    assert counts.sum() == 353 and (counts == 0).any()


def test_a_user_brings_one_number_two_or_a_dictionary():
    one = Custom(path="my_numbers:alone", targets="numbers")
    one.check()
    assert (one.CLASSES, one.load().train_y.shape, one.load().train_y.dtype) == (1, (36, 1), np.float64)
    assert not any("each class" in note for note in one.notes())
    two = Custom(path="my_numbers:mixed", targets="numbers", arguments={"outputs": 3})
    assert two.CLASSES == 3 and two.about()["outputs"] == 3
    dictionary = Custom(path="my_numbers:dicts", targets="numbers", collate="my_numbers:pair")
    assert dictionary.CLASSES == 1 and len(dictionary.load().test_y) == 6


def test_what_is_odd_about_numbers_is_told():
    notes = Custom(path="my_numbers:given", arguments={"values": [[5.0, i] for i in range(40)]}, targets="numbers").notes()
    assert any("all training samples have 5 as number 0 of their target" in note for note in notes)
    notes = Custom(path="my_numbers:given", arguments={"values": [i % 3 for i in range(40)]}, targets="numbers").notes()
    assert any("whole numbers, 0, 1, 2; if they are classes, use data.targets=label" in note for note in notes)
    notes = Custom(path="my_numbers:given", arguments={"values": [[1, i % 2, 0] for i in range(40)]}, targets="labels").notes()
    assert any("no training sample has label 2" in note for note in notes)
    assert any("every training sample has label 0" in note for note in notes)


def given(*values: object) -> tuple[str, ...]:
    return ("data=custom", "data.path=my_numbers:given", f"data.arguments={{values: [{', '.join(map(str, values))}]}}")


REFUSED = [
    (("task=regression", "data=digits"), ["digits", "a label a sample", "learns numbers", "data.targets=numbers"]),
    (("data=diabetes",), ["diabetes", "numbers to learn", "task=regression"]),
    (SEVERAL[:-1], ["task.loss", "cross_entropy", "task.loss=bce"]),
    ((*SEVERAL, "task=regression", "task.loss=mse"), ["several labels a sample", "task.loss=bce"]),
    (("task=regression", "task.loss=cross_entropy"), ["task.loss", "mse, huber", "'cross_entropy'"]),
    (("task=regression", "task.huber_delta=2"), ["task.huber_delta", "task.loss=huber"]),
    (("task=regression", "task.label_smoothing=0.1"), ["label_smoothing"]),
    (("task=regression", "task.loss=my_numbers:nothing"), ["task.loss", "nothing"]),
    (("task=regression", "partition.test=local"), ["partition.test", "regression"]),
    ((*TWO, "partition=dirichlet"), ["partition", "dirichlet", "2 numbers", "quantity"]),
    ((*SEVERAL, "partition=shards"), ["partition", "shards", "5 labels", "iid"]),
    (("task=regression", "objective=eval/accuracy"), ["objective", "regression has no eval/accuracy", "eval/loss"]),
    (("objective=eval/r2",), ["objective", "classification has no eval/r2"]),
    (("stop.metric=eval/f1", "stop.target=0.5"), ["stop.metric", "classification has no eval/f1"]),
    ((*given(0.5, 1, 2), "model.hidden=[2]"), ["item 0", "0.5", "data.targets=numbers", "task=regression"]),
    ((*given("[0,1]", "[1,1]"), "model.hidden=[2]"), ["item 0", "shape (2,)", "several labels", "data.targets"]),
    ((*TWO, "data.arguments={scale: 1e308, noise: 1e9}"), ["item 0", "inf", "not finite"]),
    ((*given("[1,2]", "[1]"), "task=regression", "data.targets=numbers"), ["item 1", "1 numbers", "item 0 has 2"]),
    ((*given("[0,1]", "[0,2]"), "data.targets=labels"), ["item 1", "2 among", "0 or 1"]),
    ((*given("a", "b"), "task=regression", "data.targets=numbers"), ["item 0", "'a'", "number"]),
    ((*given(1, 2), "data.targets=number"), ["data.targets", "'number'", "numbers"]),
]


@pytest.mark.parametrize(("words", "parts"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_refused_in_one_line(words, parts):
    refused(words, parts)


def test_scores_can_be_looked_for():
    config = settle((*NUMBERS, "stop.metric=eval/r2", "stop.target=0.1", "objective=eval/r2", "save=best", "steps=400"))
    run = play(None, 1, *NUMBERS, "stop.metric=eval/r2", "stop.target=0.1", "steps=400", "eval_every=5", "optim.lr=0.05")
    assert config.objective == "eval/r2" and run.lines[-1]["step"] < 400 and run.lines[-1]["eval/r2"] >= 0.1


def test_who_holds_what_is_counted_by_label():
    config = settle((*SEVERAL, "workers=3", "partition=quantity"))
    task = Parts(config).task
    found, images = task.class_counts(config), task.data.load()
    assert found["by"] == "label, of several" and found["test"] == images.test_y.sum(0).tolist()
    for share, counts in zip(task.shares(config), found["counts"], strict=True):
        assert counts == [sum(int(images.train_y[i, c]) for i in share) for c in range(5)]
