"""The probe: constants against closed forms and brute force, intervals against how often they hold, files, the command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from playing import settle

from coopsgd.commands.probe import curvature, measure, network, worker
from coopsgd.errors import ConfigError
from coopsgd.fleet import plan as plans
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing import spectra
from coopsgd.predict import estimates, probe_file
from coopsgd.predict.estimates import Moments
from coopsgd.setup import schema
from coopsgd.setup.parts import Parts
from coopsgd.streams import stream
from coopsgd.tasks.gradients import hessian_product
from coopsgd.tasks.networks import bound

M, D = 4, 12
LOGISTIC = ("model=logistic", "dtype=float64", "device=cpu", "processes=1", "threads=1")


def fits(probe, words):
    """What is told when a run of these words is foretold by the probe."""
    parts = Parts(settle(words))
    return probe.check(parts.config, parts.task)


def quick() -> None:
    """In the fork that runs a command: spend little on what is timed."""
    measure.SECONDS, network.SECONDS, network.SIZES, network.ROUNDS = 0.05, 0.01, 3, 3


def measured(monkeypatch, words, steps=6):
    """What `measure` finds for these words, in this process."""
    monkeypatch.setattr(measure, "SECONDS", 0.02)
    settings = settle(words)
    settings.steps = steps
    fleet = Stacked(Layout(settings.workers, 0, 1))
    problem = Parts(settings).task.build(settings, fleet.workers, torch.device("cpu"))
    message = []
    return measure.measure(Parts(settings), fleet, problem, message.append)[0], message


@pytest.fixture
def quadratic(tmp_path):
    """a (D,), c (M, D), start, and the words of a quadratic in which every worker has the same curvature a."""
    rng = np.random.default_rng(3)
    a, c, start = rng.uniform(0.1, 2, D), rng.standard_normal((M, D)), 3 * rng.standard_normal(D)
    for name, array in (("curvature", np.tile(a, (M, 1))), ("centers", c), ("start", start)):
        np.save(tmp_path / f"{name}.npy", array)
    words = [f"task.{name}={tmp_path}/{name}.npy" for name in ("curvature", "centers", "start")]
    base = ["task=quadratic", "task.sigma=1.5", f"workers={M}", "processes=1", "dtype=float64", "device=cpu", "optim.lr=0.1"]
    return a, c, start, [*base, *words]


def test_a_quadratic_is_known_in_closed_form(quadratic, monkeypatch):
    a, c, start, words = quadratic
    found, message = measured(monkeypatch, words)
    off = c - c.mean(0)
    true = {
        "L": a.max(),  # the Hessian is diag(a)
        "sigma2": 1.5**2,  # what task.sigma says
        "kappa2": (a * off) ** 2 @ np.ones(D) @ np.ones(M) / M,  # grad f_i - grad F = a (c - c_i), wherever x is
        "grad2": ((a * (start - c.mean(0))) ** 2).sum(),
        "gap": 0.5 * (a * (start - c.mean(0)) ** 2).sum(),  # F = gap + a constant, the mean of a (c_i - c)^2 / 2
    }
    for name, value in true.items():
        assert found[name]["low"] - 1e-9 <= value <= found[name]["high"] + 1e-9, name
    # and the intervals say something: 4 points x 16 batches x 4 workers x 12 coordinates are 3072 numbers,
    # whose variance is known within 2 sqrt(2 / 3072) = 5 %
    assert found["sigma2"]["high"] - found["sigma2"]["low"] < 0.2 * 1.5**2
    assert found["gap"]["value"] == pytest.approx(true["gap"], rel=1e-9)  # no noise in it
    assert found["L"]["value"] == pytest.approx(true["L"], rel=1e-5)  # nor in this: 8 products for 12 eigenvalues
    assert [point["step"] for point in found["path"]] == [0, 2, 4, 6] and len(message) == 6
    assert [bool(re.search(r", about [0-9 a-z]+ left of the path$", line)) for line in message] == [True] * 3 + [False] * 3
    assert all(point["L"] == pytest.approx(a.max(), rel=1e-5) for point in found["path"])


def test_what_the_intervals_of_a_quadratic_promise(quadratic, monkeypatch):
    """95 % intervals miss 1 time in 20: of 40 seeds x 2 constants, 4 are expected, more than 13 one time in 20,000."""
    a, c, _, words = quadratic
    kappa2 = ((a * (c - c.mean(0))) ** 2).sum() / M
    missed = 0
    settings = settle(words)
    for seed in range(40):
        settings.seed = seed
        fleet = Stacked(Layout(M, 0, 1))
        walk = measure.Walk(Parts(settings), fleet, Parts(settings).task.build(settings, fleet.workers, torch.device("cpu")))
        points, draw = [walk.moments(p) for p in range(2)], stream(seed, "test")
        for what, true in (("sigma2", 2.25), ("kappa2", kappa2)):
            found = estimates.along(points, what, draw)
            missed += not found.low <= true <= found.high
    assert missed <= 13


def test_no_noise_is_found_where_there_is_none(quadratic, monkeypatch):
    _, _, _, words = quadratic
    found, _ = measured(monkeypatch, [*words, "task.sigma=0"], steps=2)
    assert found["sigma2"]["value"] < 1e-12 * found["grad2"]["value"]


def test_equal_workers_are_found_equal(monkeypatch):
    words = ("task=quadratic", "task.heterogeneity=0", "workers=4", "processes=1", "device=cpu")
    found, _ = measured(monkeypatch, words, steps=2)
    assert found["kappa2"]["low"] == 0 and found["kappa2"]["high"] < 0.2 * found["sigma2"]["value"]


def logistic(words=LOGISTIC, **more):
    settings = settle((*words, *(f"{k}={v}" for k, v in more.items())))
    fleet = Stacked(Layout(settings.workers, 0, 1))
    return settings, fleet, Parts(settings).task.build(settings, fleet.workers, torch.device("cpu"))


def test_the_largest_curvature_is_the_hessians_own(monkeypatch):
    """Logistic regression on 5 classes of 6 features: a Hessian of 35 x 35, written out by torch.func.hessian."""
    monkeypatch.setattr(measure, "PRODUCTS", 35)
    words = (*LOGISTIC, "data=gaussian", "data.dim=6", "data.classes=5", "data.samples=600")
    settings, fleet, problem = logistic(words)
    walk = measure.Walk(Parts(settings), fleet, problem)
    walk.x[:] = torch.randn(walk.x.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    top, parts = walk.curvature()

    module, k = bound(Parts(settings).task, settings.seed, torch.float64), (measure.FAR - 1) * problem.steps_per_epoch
    seen = [problem._fetch(problem._batches.at(np.full(4, k + j)), np.full(4, k + j), 0, 4) for j in range(2)]
    x, y = (torch.cat([part.flatten(0, 1) for part in parts]) for parts in zip(*seen, strict=True))
    assert x.shape == (2 * 4 * 32, 6)  # 8 batches over 4 workers

    def loss(row):
        return torch.nn.functional.cross_entropy(module.functional(row[None], x), y)

    H = torch.autograd.functional.hessian(loss, walk.x[0])
    true, vectors = torch.linalg.eigh(H)
    assert top.value == pytest.approx(float(true[-1]), rel=1e-9) and top.slack < 1e-6 * top.value
    assert abs(float(vectors[:, -1] @ top.vector[0])) == pytest.approx(1)
    assert parts.shape == (4, 2) and parts.mean() == pytest.approx(top.value, rel=1e-9)
    direction = torch.ones_like(walk.x[:1])
    torch.testing.assert_close(hessian_product(module, walk.x[:1], direction, x, y), direction @ H, rtol=0, atol=1e-12)


def test_lanczos_on_matrices_that_end_early():
    d = torch.tensor([[5.0, 5.0, 1.0, 1.0, -7.0, 0.0]], dtype=torch.float64)
    for values, largest in ((d, -7.0), (d * 0 + 3, 3.0), (d * 0, 0.0)):  # four distinct eigenvalues, one, none but 0
        calls = []
        top = curvature.top(lambda v, values=values, calls=calls: calls.append(1) or values * v, torch.ones_like(d), 6)
        assert top.value == pytest.approx(largest, abs=1e-12) and top.slack < 1e-9 and len(calls) == 6
    assert curvature.top(lambda v: d * v, torch.ones_like(d), 6).other == pytest.approx(5)


@pytest.mark.parametrize("more", [("model=cnn", "model.width=8"), ("model=resnet20", "model.norm=batch", "batch_size=4")])
def test_a_hessian_product_is_the_slope_of_the_gradient(more):
    settings, _, problem = logistic((*LOGISTIC[1:], "workers=1", *more))
    b, x = bound(Parts(settings).task, settings.seed, torch.float64), problem.start()
    chosen = problem._batches.at(np.zeros(1, dtype=int))
    inputs, targets = (part[0] for part in problem._fetch(chosen, np.zeros(1, dtype=int), 0, 1))
    v = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    v /= v.norm()
    before = b.statistics()

    def gradient(at):
        at = at.clone().requires_grad_()
        return torch.autograd.grad(torch.nn.functional.cross_entropy(b.functional(at, inputs), targets), at)[0]

    h = 1e-5
    slope = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)  # off by h^2 times a third derivative
    found = hessian_product(b, x, v, inputs, targets)
    assert (found - slope).norm() < 1e-4 * found.norm()
    again = b.statistics()
    assert (before is None and again is None) or torch.equal(before, again)


def test_a_text_has_a_curvature_too(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a text of few words " * 400)
    words = ("task=language", f"data.file={tmp_path}/a.txt", "model.layers=1", "model.width=16", "model.heads=2")
    found, _ = measured(monkeypatch, (*words, "model.context=16", "batch_size=4", "workers=2", "processes=1", "device=cpu"), 1)
    assert found["L"]["value"] > 0 and found["sigma2"]["value"] > 0


def test_sigma2_and_kappa2_against_brute_force(monkeypatch):
    """Every worker's full gradient is computed, and sigma2 by hundreds of batches: digits, logistic, two classes a worker."""
    settings, fleet, problem = logistic((*LOGISTIC, "partition=shards"))
    walk = measure.Walk(Parts(settings), fleet, problem)
    monkeypatch.setattr(measure, "BATCHES", 60)
    w = np.ones((1, 60))
    moments = walk.moments(0)
    task = Parts(settings).task
    shares = task.shares(settings)
    full = []
    for i in range(4):
        x, y = problem._batch(torch.from_numpy(shares[i][None]), [i], [0])
        at = walk.x[:1].clone().requires_grad_()
        full.append(torch.autograd.grad(torch.nn.functional.cross_entropy(problem._bound.functional(at, x[0]), y[0]), at)[0])
    full = torch.cat(full)
    noise = []
    for k in range(400):
        _, grad = walk._gradients(k, None, np.full(4, k))
        noise.append(((grad - full) ** 2).sum(1))
    # 1600 batches: their mean is within 2 or 3 % of the truth, 240 batches within 4
    assert float(moments.sigma2(w)[0]) == pytest.approx(float(torch.stack(noise).mean()), rel=0.1)
    kappa2 = float(((full - full.mean(0)) ** 2).sum(1).mean())
    assert float(moments.kappa2(w)[0]) == pytest.approx(kappa2, rel=0.05)
    assert float(moments.grad2(w)[0]) == pytest.approx(float((full.mean(0) ** 2).sum()), rel=0.1)


def test_few_rows_at_a_time_give_the_same_moments(monkeypatch):
    """As when gradients of all workers would not fit: one worker is active at a time."""
    settings, fleet, problem = logistic(partition="shards")
    whole = measure.Walk(Parts(settings), fleet, problem).moments(1)
    monkeypatch.setattr(measure, "MEMORY", 16 * 8 * 650)  # 16 gradients of 10 x 64 + 10 float64 numbers
    walk = measure.Walk(Parts(settings), fleet, problem)
    for a, b in zip(whole, walk.moments(1), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(measure, "MEMORY", 1)
    assert len(walk.moments(1).losses) == 4  # batches: never fewer


def test_a_known_infimum_is_the_gap_and_an_unknown_one_its_bound():
    flat = np.zeros((4, 4))
    path = [Moments(flat, flat, np.full(4, 5.0)), Moments(flat, flat, np.full(4, 2.0)), Moments(flat, flat, np.full(4, 3.0))]
    assert estimates.gap(path, None, stream(0, "t")) == (5, 3, 5)  # 0 below, 2 seen
    assert estimates.gap(path, 1.5, stream(0, "t")) == (3.5, 3.5, 3.5)


def test_a_line_is_recovered_from_noisy_times():
    """a + b n with a tenth of noise and one time in ten a hundred times too long: the medians do not care."""
    a, b, sizes, draw = 2e-4, 3e-9, np.geomspace(1e3, 1e6, 8), np.random.default_rng(0)
    times = [(a + b * n) * draw.lognormal(0, 0.1, (8, 8)) * np.where(draw.random((8, 8)) < 0.1, 100, 1) for n in sizes]
    found = estimates.line(sizes, times, draw)
    assert found.a.value == pytest.approx(a, rel=0.05) and found.b.value == pytest.approx(b, rel=0.05)
    exact = estimates.line(sizes, [np.full((8, 8), a + b * n) for n in sizes], draw)
    assert [e.value for e in exact] == pytest.approx([a, b], rel=1e-9)
    falling = estimates.line(sizes, [np.full((8, 8), 1e-3 - 1e-10 * n) for n in sizes], draw)
    assert falling.b == (0, 0, 0) and 9e-4 < falling.a.value < 1e-3
    assert estimates.line(sizes, [np.full((8, 8), b * n) for n in sizes], draw).a.value == pytest.approx(0, abs=1e-15)


def test_intervals_cover():
    """95 % of 200 repeats are 190; four standard deviations of sqrt(200 x 0.05 x 0.95) = 3.1 leave 178 and more."""
    draw, held = np.random.default_rng(1), {"a": 0, "b": 0, "median": 0}
    a, b, sizes = 2e-4, 3e-9, np.geomspace(1e3, 1e6, 6)
    for _ in range(200):
        found = estimates.line(sizes, [(a + b * n) * draw.lognormal(0, 0.2, (8, 6)) for n in sizes], draw)
        held["a"] += found.a.low <= a <= found.a.high
        held["b"] += found.b.low <= b <= found.b.high
        found = estimates.median(draw.lognormal(0, 0.5, (2, 20)), draw)
        held["median"] += found.low <= 1 <= found.high
    assert all(178 <= count <= 199 for count in held.values()), held


def test_students_quantile():
    """t at 0.975: 2.365 with 7 degrees of freedom, 2.131 with 15; sqrt(n / (n - 1)) beside it."""
    for n, t in ((8, 2.365), (16, 2.131)):
        assert estimates.widening(n) == pytest.approx(t / 1.96 * np.sqrt(n / (n - 1)), rel=5e-3)


# the command and its file


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_leaves_a_file_that_reads_back(cli, tmp_path, processes):
    words = ["task=quadratic", "workers=4", f"processes={processes}", "threads=1"]
    ended = cli("probe", *words, "--steps", "5", first=quick)
    assert ended.code == 0, ended.err
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".cli")] == ["probe.json"]  # nothing else is left
    probe = probe_file.load(tmp_path / "probe.json")
    assert (probe.task, probe.model, probe.data, probe.parameters, probe.workers) == ("quadratic", None, None, 10, 4)
    assert len(probe.workers_s) == 4 and probe.step_s.low <= probe.step_s.value <= probe.step_s.high
    assert set(probe.constants()) == {"L", "sigma2", "gap", "kappa2"}
    if processes == 1:
        assert probe.network is None and "no network: one process" in ended.out
    else:
        assert probe.network.processes == 2
        for fit in (probe.network.all_reduce, probe.network.edge):
            assert 0 < fit.a.value < 0.5 and fit.a.low <= fit.a.value <= fit.a.high and fit.b.low <= fit.b.value <= fit.b.high
    assert re.search(r"coopsgd analyze --probe probe.json task=quadratic workers=4", ended.out)
    content = json.loads((tmp_path / "probe.json").read_text())
    assert content["command"] == f"coopsgd probe {shlex.join(words)} --steps 5" and content["versions"]["torch"]
    assert fits(probe, words) == ()


def test_the_constants_do_not_depend_on_placement(cli, tmp_path):
    found = []
    for processes in (1, 2):
        words = (
            "model=logistic",
            "dtype=float64",
            "workers=4",
            f"processes={processes}",
            "partition=shards",
            "threads=1",
            "--steps=3",
        )
        ended = cli("probe", *words, "--json", "-o", f"p{processes}.json", first=quick)
        assert ended.code == 0, ended.err
        found.append(json.loads(ended.out))  # one object and nothing else
        assert found[-1] == json.loads((tmp_path / f"p{processes}.json").read_text())
    for name in ("L", "sigma2", "kappa2", "gap", "grad2"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-9), name


@pytest.mark.parametrize(("m", "processes"), [(2, 2), (3, 3), (4, 2), (4, 4), (5, 5), (6, 2), (6, 3), (8, 4)])
def test_edges_are_measured_by_messages_along_edges(m, processes):
    layout = Layout(m, 0, processes)
    found = [plans.lower(W, layout) for W in network.gossip(layout)]
    assert all(len(plan.links.src) and not plan.sums for plan in found)
    assert all(spectra.is_row_stochastic(W) for W in network.gossip(layout))


FLAT = """
from dataclasses import dataclass
from coopsgd.tasks.base import Problem
from coopsgd.tasks.quadratic import Quadratic, QuadraticProblem


class Untold(QuadraticProblem):
    curved = Problem.curved


@dataclass(frozen=True)
class Flat(Quadratic):
    def build(self, config, rows, device):
        return Untold(self, config, rows, device)
"""


def test_mistakes_are_one_line(cli, tmp_path):
    (tmp_path / "folder").mkdir()
    for words, message in (
        (("tua=3",), "no key named 'tua'"),
        (("-o", "nowhere/probe.json"), "-o nowhere/probe.json: there is no folder"),
        (("-o", "folder"), "-o folder: it is a folder"),
        (("--steps", "-1"), "--steps"),
        (("launch=false", "-o", "x.json"), "-o x.json: with launch=false"),
    ):
        ended = cli("probe", *words)
        assert ended.code == 2 and len(ended.lines) == 1 and message in ended.err, (words, ended)
    ended = cli(
        "probe", "task=quadratic", "dtype=float32", "optim.lr=1000", "workers=2", "processes=2", "--steps=60", first=quick
    )
    assert ended.code == 1 and len(ended.lines) == 1 and "diverged before step" in ended.err and "lower optim.lr" in ended.err
    (tmp_path / "flat.py").write_text(FLAT)
    ended = cli("probe", "task=quadratic", "task.name=flat:Flat", "workers=2", "processes=2", first=quick)
    assert ended.code == 1 and len(ended.lines) == 1 and "task flat:Flat cannot be probed" in ended.err, ended
    left = {name for name in os.listdir(tmp_path) if not name.startswith((".cli", "__pycache__"))}
    assert left == {"folder", "flat.py"}
    ended = cli("probe", "--help")
    assert ended.code == 0 and "--steps" in ended.out and "probe.json" in ended.out


def test_several_machines_type_a_torchrun_line(cli, tmp_path, monkeypatch, capsys):
    ended = cli("probe", "task=quadratic", "workers=2", "processes=1", "threads=1", "launch=false", "--steps=3")
    assert ended.code == 0, ended.err
    line = ended.out.splitlines()[-1]
    assert "--nproc-per-node 1" in line and "-m coopsgd.commands.probe " in line
    folder = Path(shlex.split(line)[-1])
    assert os.listdir(folder) == ["config.yaml"] and schema.load(folder / "config.yaml").steps == 3
    named = cli("probe", "task=quadratic", "workers=2", "processes=1", "launch=false", "hydra.run.dir=shared")
    assert named.code == 0 and os.listdir(tmp_path / "shared") == ["config.yaml"], named.err
    typed = [sys.executable, "-m", "coopsgd.commands.probe", str(folder)]
    done = subprocess.run(typed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    probe = probe_file.load(folder / "probe.json")
    assert probe.network is None and str(folder / "probe.json") in done.stdout
    monkeypatch.setattr(sys, "argv", typed[2:])
    with pytest.raises(SystemExit, match="1"):
        worker.main()
    assert "already holds a probe" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit, match="2"):  # the line goes to stderr
        worker.main()
    monkeypatch.setattr(sys, "argv", ["probe", str(tmp_path)])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        worker.main()
    assert "WORLD_SIZE is 3, but MASTER_ADDR" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(sys, "argv", ["probe"])
    with pytest.raises(SystemExit, match="usage: torchrun"):
        worker.main()


def content(words=("task=quadratic", "workers=4", "processes=1")):
    """What a probe of these words would write, with made up numbers."""
    one = {"value": 1.0, "low": 0.5, "high": 2.0}
    fit = {"a": 1e-4, "b": 1e-9, "low": {"a": 0.0, "b": 0.0}, "high": {"a": 1.0, "b": 1.0}}
    return {
        "format": 1,
        **probe_file.identity(settle(words), Parts(settle(words)).task),
        **dict.fromkeys(probe_file.CONSTANTS, one),
        "step_s": {"median": 1.0, "low": 0.5, "high": 2.0, "workers": [1.0] * 4},
        "network": {"processes": 2, "all_reduce": fit, "edge": fit},
        "versions": {},
        "command": "",
    }


def test_a_bad_file_is_refused_in_one_line(tmp_path):
    at = tmp_path / "probe.json"

    def refused(text, message):
        at.write_text(text)
        with pytest.raises(ConfigError, match=message) as error:
            probe_file.load(at)
        assert str(at) in str(error.value) and "\n" not in str(error.value)

    with pytest.raises(ConfigError, match="cannot read"):
        probe_file.load(tmp_path / "none.json")
    whole = content()
    at.write_text(json.dumps(whole))
    assert probe_file.load(at).network.edge.b.high == 1
    refused("no json", "JSON")
    refused("[1]", "no probe file")
    refused("{}", "no probe file")
    refused(json.dumps({**whole, "format": 2}), "format 2, this version reads format 1")
    for key in set(whole) - {"format"}:
        refused(json.dumps({k: v for k, v in whole.items() if k != key}), f"it has no {key}")
    refused(json.dumps({**whole, "L": {"value": 1.0, "low": 0.5}}), "it has no high")
    for bad in (None, "1", float("nan"), float("inf"), -1.0, True):
        refused(json.dumps({**whole, "sigma2": {**whole["sigma2"], "high": bad}}), "sigma2.high is")
    refused(json.dumps({**whole, "step_s": 3}), "no whole probe file")
    refused(json.dumps({**whole, "network": {"processes": 2, "all_reduce": None, "edge": None}}), "no whole probe file")
    for bad in (1, 0, True, "2"):
        refused(json.dumps({**whole, "network": {**whole["network"], "processes": bad}}), "network.processes is")


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        ((), ("task=quadratic",), "task=classification, this run has task=quadratic"),
        ((), ("model=logistic",), "model=mlp, this run has model=logistic"),
        ((), ("data=gaussian",), "data=digits, this run has data=gaussian"),
        ((), ("model.hidden=[100]",), "parameters=15010, this run has parameters=7510"),
        ((), ("batch_size=64",), "batch_size=32, this run has batch_size=64"),
        ((), ("partition=shards",), "partition.name=iid, this run has partition.name=shards"),
        ((), ("model.dropout=0.5",), "model.dropout=0.0, this run has model.dropout=0.5"),
        (("task=quadratic",), ("task=quadratic", "task.sigma=2"), "task.sigma=1.0, this run has task.sigma=2"),
    ],
)
def test_a_probe_of_something_else_is_refused(tmp_path, mine, theirs, message):
    (tmp_path / "probe.json").write_text(json.dumps(content(mine)))
    probe = probe_file.load(tmp_path / "probe.json")
    assert fits(probe, mine) == () == fits(probe, (*mine, "seed=7", "algo=pasgd", "optim.lr=0.3"))
    with pytest.raises(ConfigError, match=re.escape(message)):
        fits(probe, theirs)
    (note,) = fits(probe, (*mine, "workers=8"))
    assert "measured with workers=4, used for workers=8" in note


def test_arrays_are_known_by_what_is_in_them(quadratic, tmp_path):
    a, _, _, words = quadratic
    (tmp_path / "probe.json").write_text(json.dumps(content(words)))
    probe = probe_file.load(tmp_path / "probe.json")
    np.save(tmp_path / "same.npy", np.tile(a, (M, 1)))
    np.save(tmp_path / "other.npy", np.tile(a, (M, 1)) + 1e-6)
    assert fits(probe, (*words, f"task.curvature={tmp_path}/same.npy")) == ()
    with pytest.raises(ConfigError, match=r"task\.curvature="):
        fits(probe, (*words, f"task.curvature={tmp_path}/other.npy"))


def test_reading_a_probe_imports_no_torch():
    code = "import sys, coopsgd.commands.probe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
