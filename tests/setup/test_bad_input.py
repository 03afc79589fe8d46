"""A user's mistake is one line that names the thing, the value and the way out: exit 2, no traceback, no process started."""

from __future__ import annotations

import arrays
import numpy as np
import pytest
from refusals import refused

from coopsgd.commands import compose

CASES = {
    "unknown algo": (("algo=easdg",), ["algo", "easdg", "did you mean easgd"]),
    "unknown topology": (("algo=dpsgd", "topology=rign"), ["topology", "rign", "did you mean ring"]),
    "unknown key": (("wrokers=3",), ["wrokers", "did you mean workers"]),
    "unknown key added": (("+wrokers=3",), ["wrokers", "did you mean workers"]),
    "unknown key of the algo": (("algo.alhpa=0.1",), ["algo.alhpa", "did you mean alpha"]),
    "unknown key of the model": (("model.hiden=[3]",), ["model.hiden", "did you mean hidden"]),
    "unknown weights": (("algo=dpsgd", "algo.weights=metropolys"), ["metropolys", "metropolis"]),
    "tau of zero": (("tau=0",), ["tau", "0", "at least 1"]),
    "tau of two and a half": (("tau=2.5",), ["tau", "2.5", "whole number"]),
    "tau of a word": (("tau=often",), ["tau", "often"]),
    "alpha too large": (("algo.alpha=0.4",), ["alpha", "0.4", "(0, 2 / (m + 1))", "algo.allow_unstable=true"]),
    "alpha of zero": (("algo.alpha=0",), ["alpha", "algo.allow_unstable=true"]),
    "alpha of a word": (("algo.alpha=much",), ["alpha", "much"]),
    "W missing": (("algo=cooperative",), ["algo.W", "missing"]),
    "W no file": (("algo=cooperative", "algo.W=nowhere.npy"), ["algo.W", "nowhere.npy", "No such file"]),
    "W not square": (("algo=cooperative", "algo.W=[[1,0]]", "workers=1"), ["algo.W", "square", "(1, 2)"]),
    "W ragged": (("algo=cooperative", "algo.W=[[1,0],[1]]", "workers=2"), ["algo.W", "array"]),
    "W of another size": (("algo=cooperative", "algo.W=[[1]]"), ["algo.W", "4", "1"]),
    "W rows": (("algo=cooperative", "algo.W=[[0.5,0.4],[0.5,0.5]]", "workers=2"), ["algo.W", "row 0", "0.9"]),
    "W swaps": (
        ("algo=cooperative", "algo.W=[[0,1],[1,0]]", "workers=2"),
        ["no consensus", "algo.allow_disconnected=true"],
    ),
    "W disconnected": (("algo=cooperative", "algo.W=[[1,0],[0,1]]", "workers=2"), ["no consensus"]),
    "W of a bipartite graph": (
        ("algo=cooperative", "algo.W=[[0,0.5,0,0.5],[0.5,0,0.5,0],[0,0.5,0,0.5],[0.5,0,0.5,0]]"),
        ["no consensus"],
    ),
    "groups that leave someone out": (("algo=two_level", "algo.groups=[[0,1],[2]]"), ["algo.groups", "partition", "worker 3"]),
    "groups that overlap": (("algo=hierarchical", "algo.groups=[[0,1],[1,2,3]]"), ["algo.groups", "partition", "worker 1"]),
    "groups of strangers": (("algo=two_level", "algo.groups=[[0,1],[2,3,4]]"), ["algo.groups", "0 to 3", "4"]),
    "group sizes": (("algo=two_level", "algo.groups=[2,3]"), ["algo.groups", "add up", "4", "[2, 3]"]),
    "more groups than workers": (("algo=hierarchical", "algo.groups=5"), ["algo.groups", "5", "4"]),
    "groups of a word": (("algo=hierarchical", "algo.groups=many"), ["algo.groups", "many"]),
    "tau_2 no multiple": (("algo=two_level", "tau=4", "algo.tau_2=10"), ["algo.tau_2", "multiple of tau = 4", "10"]),
    "tau_2 of a list": (("algo=two_level", "tau=[[0,1],[9,2]]", "algo.tau_2=4"), ["algo.tau_2", "tau_2=auto"]),
    "budget of nothing": (("algo=matcha", "algo.budget=0"), ["algo.budget", "(0, 1]", "0"]),
    "budget above one": (("algo=matcha", "algo.budget=1.5"), ["algo.budget", "(0, 1]", "1.5"]),
    "nobody sampled": (("algo=fedavg", "algo.fraction=0"), ["algo.fraction", "(0, 1]", "0"]),
    "unknown weights of workers": (("algo=fedavg", "weights_by=fair"), ["weights_by", "fair", "samples"]),
    "weighting that is gone": (("algo=fedavg", "algo.weighting=uniform"), ["algo.weighting", "weights_by", "algo.drawn"]),
    "clients drawn unfairly": (("algo=fedavg", "algo.drawn=fair"), ["algo.drawn", "fair", "proportional"]),
    "weights of gossip": (("algo=dpsgd", "weights_by=samples"), ["weights_by=samples", "dpsgd", "algo=pasgd"]),
    "epochs where there are none": (("algo=fedavg", "algo.epochs=1", "task=quadratic"), ["algo.epochs", "tau"]),
    "epochs of nothing": (("algo=fedavg", "algo.epochs=0"), ["algo.epochs", "0"]),
    "a server a round behind": (("algo=fedavg", "order=cta"), ["order", "cta", "atc"]),
    "no strategy": (("algo.strategy=coopsgd.setup.schema:Config",), ["algo.strategy", "schema:Config", "Strategy"]),
    "no model": (("model.name=coopsgd.setup.schema:Config",), ["model", "coopsgd.setup.schema:Config", "Model"]),
    "a list of tau in quotes": (('tau="[[0,1],[5,3]]"',), ["tau", "[[0,1],[500,8]]"]),
    "a function that leaves": (("algo=cooperative", "algo.W=members:leaves"), ["algo.W", "members:leaves", "SystemExit"]),
    "one peer by bits": (("algo=one_peer", "algo.form=hypercube", "workers=6"), ["one_peer", "6", "power of two"]),
    "unknown order": (("order=act",), ["order", "act", "atc"]),
    "unknown period": (("period=qrs",), ["period", "qrs", "did you mean qsr"]),
    "a rule from a list": (("period=qsr", "tau=[[0,1]]"), ["tau", "[[0, 1]]", "period=constant"]),
    "buffers that a negative weight would spoil": (
        ("algo=matcha", "workers=8", "optim=adam", "buffers=average"),
        ["buffers=average", "negative weight", "optim=adam", "keep"],
    ),
    "more groups than fit a memory": (("algo=hierarchical", "algo.groups=200000"), ["algo.groups", "200000"]),
    "more auxiliaries than fit a memory": (("algo=cooperative", "algo.W=[[1]]", "algo.v=200000"), ["algo.W", "200000"]),
    "W a broken archive": (("algo=cooperative", "algo.W=broken.npz"), ["algo.W", "broken.npz"]),
    "a strategy that breaks": (("algo.strategy=breaks:Thing",), ["algo.strategy", "breaks:Thing", "no such luck"]),
    "a rate that turns": (("schedule=step", "schedule.gamma=-1"), ["schedule.gamma", "positive", "-1"]),
    "a floor below nothing": (("schedule=cosine", "schedule.floor=-1"), ["schedule.floor", "-1"]),
    "a rate without end": (("optim.lr=inf",), ["optim.lr", "inf"]),
    "a switch that never comes": (("period=post_local",), ["period.switch", "schedule=constant"]),
    "an interval of nothing": (("period=adacomm", "period.interval=0"), ["period.interval", "0", "60s"]),
    "an interval of a word": (("period=adacomm", "period.interval=often"), ["period.interval", "often", "60s"]),
    "an interval of other units": (("period=adacomm", "period.interval=1min"), ["period.interval", "1min", "60s"]),
    "seconds without a clock": (("period=adacomm", "period.interval=9s"), ["period.interval", "9s", "cluster=ethernet_1g"]),
    "a list of tau that begins late": (("tau=[[5,1]]",), ["tau", "begin at 0", "[5]"]),
    "a list of tau that is none": (("tau=[3,4]",), ["tau", "[from step, tau]"]),
    "fastest weights of a directed graph": (
        ("algo=dpsgd", "topology=exponential", "algo.weights=fdla", "workers=8"),
        ["fdla", "undirected"],
    ),
    "a function that is nowhere": (("algo=cooperative", "algo.W=no_such:thing"), ["algo.W", "no_such:thing"]),
    "a function that goes wrong": (
        ("algo=cooperative", "algo.W=members:wrong_at_17"),
        ["algo.W", "rows must sum to 1", "round 17"],
    ),
    "a schedule that never agrees": (
        ("algo=cooperative", "workers=2", "algo.W=[[[1,0],[0,1]],[[0,1],[1,0]]]"),
        ["no consensus", "algo.allow_disconnected=true"],
    ),
    "workers of a word": (("workers=many",), ["workers", "many"]),
    "no workers": (("workers=0",), ["workers", "0"]),
    "processes do not divide": (("workers=6", "processes=4"), ["processes", "6", "4", "1, 2, 3, 6"]),
    "hypercube of six": (("algo=dpsgd", "topology=hypercube", "workers=6"), ["hypercube", "6", "power of two"]),
    "torus of a prime": (("algo=dpsgd", "topology=torus", "workers=7"), ["torus", "7"]),
    "odd regular graph": (("algo=dpsgd", "topology=random_regular", "workers=5"), ["random_regular", "5 * 3", "even"]),
    "best constant of a directed graph": (
        ("algo=dpsgd", "topology=exponential", "algo.weights=best_constant", "workers=8"),
        ["best_constant", "undirected"],
    ),
    "unknown dtype": (("dtype=float8",), ["dtype", "float8", "float32"]),
    "unknown device": (("device=tpu",), ["device", "tpu"]),
    "no GPU": (("device=cuda",), ["device", "cuda"]),
    "both lengths": (("steps=10", "epochs=2"), ["steps=10", "epochs=2", "one of the two"]),
    "epochs of a quadratic": (("task=quadratic", "epochs=2"), ["epochs", "quadratic"]),
    "batch too large": (("batch_size=1000",), ["batch_size", "1000", "358"]),
    "batch larger than one share": (
        ("partition=quantity", "partition.alpha=0.1", "partition.min_size=5", "partition.small=refuse"),
        ["batch_size", "32", "worker", "quantity"],
    ),
    "fewer samples than workers": (("workers=2000", "processes=1"), ["partition", "iid", "2000", "1433", "lower workers"]),
    "more shards than classes": (("partition=shards", "partition.classes=11"), ["partition.classes", "11", "10"]),
    "shards that leave a class to nobody": (("partition=shards", "partition.classes=1"), ["partition.classes", "at least 3"]),
    "shards of a word": (("partition=shards", "partition.classes=some"), ["partition.classes", "some"]),
    "partition alpha of zero": (("partition=dirichlet", "partition.alpha=0"), ["partition.alpha", "positive", "0"]),
    "partition alpha of a word": (("partition=dirichlet", "partition.alpha=much"), ["partition.alpha", "much"]),
    "an impossible min_size": (("partition=dirichlet", "partition.min_size=400"), ["min_size=400", "1433", "lower"]),
    "a min_size no draw gives": (
        ("partition=dirichlet", "partition.min_size=350", "partition.alpha=0.1"),
        ["min_size=350", "1000 draws", "partition.equal=true"],
    ),
    "shards dealt anew": (("partition=shards", "partition.reshuffle=true"), ["partition.reshuffle", "shards"]),
    "unknown partition": (("partition=irichlet",), ["partition", "irichlet", "did you mean dirichlet"]),
    "too few dimensions": (("data=gaussian", "data.dim=3"), ["data.dim", "10", "3"]),
    "a vector for a cnn": (("data=gaussian", "model=cnn"), ["cnn", "20", "use mlp"]),
    "optimiser of whole matrices": (("optim=lbfgs",), ["lbfgs", "elementwise"]),
    "optimiser of whole matrices by name": (("optim.name=Adafactor",), ["Adafactor", "elementwise"]),
    "negative rate": (("optim.lr=-1",), ["optim.lr", "-1"]),
    "rate of a word": (("optim.lr=fast",), ["optim.lr", "fast"]),
    "buffers of an auxiliary": (("buffers=average",), ["buffers", "auxiliary"]),
    "milestones missing": (("schedule=multistep",), ["schedule.milestones"]),
    "curvature of another shape": (("task=quadratic", "task.centers=[[1,2]]"), ["task.centers", "(4, 2)", "(1, 2)"]),
    "hidden of a number": (("model.hidden=100",), ["model.hidden", "100", "list"]),
    "hidden of words": (("model.hidden=[wide]",), ["model.hidden", "wide"]),
    "milestones of a number": (("schedule=multistep", "schedule.milestones=5"), ["schedule.milestones", "list"]),
    "milestones of words": (("schedule=multistep", "schedule.milestones=[a]"), ["schedule.milestones", "a"]),
    "a strategy that is none": (("algo.strategy=os.path:join",), ["algo.strategy", "os.path:join"]),
    "a strategy that is nowhere": (("algo.strategy=no_such:Thing",), ["algo.strategy", "no_such"]),
    "negative weight decay": (("optim.weight_decay=-0.1",), ["optim.weight_decay", "-0.1"]),
    "negative eps": (("optim=adam", "optim.eps=-1"), ["optim.eps", "-1"]),
    "empty arrays": (("task=quadratic", "task.centers=[[],[],[],[]]"), ["empty"]),
    "broken grammar": (("tau=[1",), ["[1"]),
    "a word without =": (("tau",), ["tau"]),
    "unknown flag": (("--mulitrun",), ["--mulitrun"]),
    "group set to a value": (("algo={a:1}",), ["algo"]),
}


@pytest.fixture
def broken(tmp_path, monkeypatch):
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "breaks.py").write_text("raise RuntimeError('no such luck')\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_exit_2(cli, tmp_path, broken, case):
    words, message = CASES[case]
    ended = cli("train", *words)
    assert ended.code == 2, ended
    assert len(ended.lines) == 1, ended.err
    assert "Traceback" not in ended.err
    for word in message:
        assert word in ended.err, (word, ended.err)
    assert not list(tmp_path.glob("outputs/*/*/logs")), "a worker was started"


# device=cuda is counted in a child, which this process, having threads, should not fork
@pytest.mark.parametrize("case", [case for case, (words, _) in CASES.items() if "device=cuda" not in words])
def test_what_every_verb_asks(broken, case):
    """In this process; how a verb then ends is one piece of code, see test_the_other_verbs_end_alike."""
    words, message = CASES[case]
    flags = [word for word in words if word.startswith("--")]
    refused([word for word in words if word not in flags] or ["tau=0"], () if flags else message)


@pytest.mark.parametrize("verb", ["show", "analyze", "probe", "design"])
def test_the_other_verbs_end_alike(cli, verb):
    for words in (("algo=easdg",), ("tau=2.5",), ("wrokers=3",), ("--mulitrun",)):
        ended = cli(verb, *words)
        assert ended.code == 2 and len(ended.lines) == 1 and "Traceback" not in ended.err, ended
        assert words[0].lstrip("-").partition("=")[0] in ended.err


def hide_fashion_mnist():
    """The machine may have the Debian package: look elsewhere, and let the download fail as it does without a network."""
    from pathlib import Path

    from coopsgd.data import fashion_mnist

    fashion_mnist.DEBIAN = Path("nowhere")
    import torchvision

    def offline(*args, **kwargs):
        print("Downloading http://...\nFailed to download (trying next):")
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz\nand more")

    torchvision.datasets.FashionMNIST = offline


def test_missing_data_set(cli, tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "COOPSGD_DATA": ""}
    ended = cli("train", "data=fashion_mnist", env=env, first=hide_fashion_mnist)
    assert ended.code == 2 and len(ended.lines) == 2 and ended.out == "", ended
    assert ended.lines[0].startswith("data: fashion_mnist is not here; downloading it into"), ended
    assert "COOPSGD_DATA" in ended.lines[1] and "dataset-fashion-mnist" in ended.err


def test_a_refused_run_leaves_no_folder(cli, tmp_path):
    cli("train", "tau=0")
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.parametrize("verb", ["train", "show"])
def test_a_yaml_that_is_none(cli, tmp_path, verb):
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "own.yaml").write_text("strategy: a: b")
    ended = cli(verb, "--config-dir", "mine", "algo=own")
    assert ended.code == 2 and len(ended.lines) == 1 and "own.yaml" in ended.err, ended


def test_alpha_outside_runs_with_a_warning(cli):
    ended = cli("train", "algo.alpha=0.45", "algo.allow_unstable=true", "task=quadratic", "steps=2")
    assert ended.code == 0, ended.err
    assert "warning" in ended.err and "alpha" in ended.err


def test_no_consensus_runs_when_allowed(cli):
    words = ("algo=cooperative", "algo.W=[[1,0],[0,1]]", "workers=2", "algo.allow_disconnected=true")
    assert cli("train", *words, "task=quadratic", "steps=2").code == 0


def test_rows_that_nearly_sum_to_one_are_made_to():
    W = "[[0.3333333,0.3333333,0.3333333],[0,1,0],[0,0.5,0.5]]"
    found = arrays.factors(compose.compose_config(["algo=cooperative", "workers=3", f"algo.W={W}"]).strategy.schedule, 3, 0)[0]
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[0], 1 / 3, rtol=0, atol=1e-15)


def test_one_worker_counts_as_consensus(cli):
    assert cli("train", "algo=dpsgd", "workers=1", "task=quadratic", "steps=2").code == 0


@pytest.mark.parametrize("verb", [("run",), ("sweep",)])
def test_a_run_folder_that_cannot_be_written(cli, tmp_path, verb):
    (tmp_path / "file").write_text("in the way")
    if verb == ("run",):
        ended = cli("train", "task=quadratic", "hydra.run.dir=file/below")
    else:
        ended = cli("train", "-m", "task=quadratic", "hydra.sweep.dir=file/below", "tau=1,2")
    assert ended.code == 2, ended
    assert len(ended.lines) == 1 and "file/below" in ended.err


def test_a_run_is_never_overwritten(cli, tmp_path):
    words = ("task=quadratic", "steps=2", "hydra.run.dir=here")
    assert cli("train", *words).code == 0
    before = (tmp_path / "here" / "metrics.jsonl").read_text()
    ended = cli("train", *words)
    assert ended.code == 2 and "already holds a run" in ended.err
    assert (tmp_path / "here" / "metrics.jsonl").read_text() == before


def test_full_errors_on_request(cli):
    ended = cli("train", "tau=0", env={"HYDRA_FULL_ERROR": "1"})
    assert ended.code != 0 and "Traceback" in ended.err


def test_matrix_from_a_file_is_kept_with_the_run(cli, tmp_path):
    np.save(tmp_path / "w.npy", np.full((2, 2), 0.5))
    words = ("algo=cooperative", "algo.W=w.npy", "workers=2", "task=quadratic", "steps=2", "hydra.run.dir=here")
    assert cli("train", *words).code == 0
    from coopsgd import Run

    assert Run(tmp_path / "here").config.algo["W"] == [[0.5, 0.5], [0.5, 0.5]]
