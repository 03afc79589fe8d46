"""`coopsgd analyze`: what it says, what it refuses to say, and what it draws over runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from playing import settle

from coopsgd.commands import analyze, overlay, show
from coopsgd.errors import ConfigError
from coopsgd.predict.probe_file import identity
from coopsgd.predict.theory import network_factor, terms
from coopsgd.setup.parts import Parts
from coopsgd.tasks.known import Known

QUADRATIC = ("task=quadratic", "task.heterogeneity=0", "workers=8", "processes=1", "device=cpu")


def analyzed(*words, probe=None):
    config = settle(words)
    return analyze.facts(Parts(config), (), probe)


def test_analyze_says_what_show_says_and_what_follows():
    found = analyzed(*QUADRATIC, "algo=easgd", "tau=4", "optim.lr=0.02", "steps=500")
    shown = show.facts(Parts(settle((*QUADRATIC, "algo=easgd", "tau=4", "optim.lr=0.02", "steps=500"))), ())
    same = set(found) & set(shown)
    assert same >= {"algo", "tau", "workers", "aux", "zeta", "cycle", "order", "delay"}
    assert {key: found[key] for key in same} == {key: shown[key] for key in same}
    # one communication every 4 steps
    each = shown["schedule"][0]
    assert found["cost"] == {key: each[key] / 4 for key in each if key in found["cost"]} | {"seconds": None}
    assert found["rate"]["communication"] == pytest.approx(0.8)
    assert found["rate"]["step"] ** 4 == pytest.approx(0.8)
    assert found["alpha"] == {"now": 0.2, "best": 0.2, "zeta_best": pytest.approx(0.8)}
    known = Known(**found["constants"])
    A = network_factor(4, 0.8, 8, 1)
    assert found["eta_eff"] == pytest.approx(0.02 * 8 / 9)
    assert found["bound"]["total"] == pytest.approx(terms(known, 0.02 * 8 / 9, 500, 8, A).total)
    assert found["bound"]["total"] == pytest.approx(sum(found["bound"][key] for key in ("optimisation", "noise", "network")))
    assert found["pasgd"]["tau_bound"] == pytest.approx(A + 1)
    # q = 0.64: consensus (7/8) (3/2 + 4 * 0.64 / 0.36); PASGD's is (7/8) (tau - 1) / 2
    assert found["consensus"]["noise"] == pytest.approx(0.02**2 * 7 / 8 * (1.5 + 4 * 0.64 / 0.36))
    assert found["pasgd"]["tau_consensus"] == pytest.approx(1 + 2 * (1.5 + 4 * 0.64 / 0.36))
    for name, x in found["largest_eta_eff_L"].items():
        assert found["largest_lr"][name] == pytest.approx(x / known.L * 9 / 8)
    json.dumps(found, allow_nan=False)


def test_both_ties_of_a_ring():
    found = analyzed(*QUADRATIC, "algo=dpsgd")
    # (1 + zeta^2) / (1 - zeta^2) of 0.8047, and 1 + (2/7) sum lambda^2 / (1 - lambda^2): about half of it
    assert found["pasgd"]["tau_bound"] == pytest.approx(4.68, rel=1e-3)
    squares = [(1 / 3 + 2 / 3 * math.cos(2 * math.pi * j / 8)) ** 2 for j in range(1, 8)]
    assert found["pasgd"]["tau_consensus"] == pytest.approx(1 + 2 / 7 * sum(q / (1 - q) for q in squares))
    assert found["alpha"] is None


def test_one_alpha_that_is_not_the_best():
    found = analyzed(*QUADRATIC, "algo=easgd", "algo.alpha=0.1")
    assert found["alpha"] == {"now": 0.1, "best": 0.2, "zeta_best": pytest.approx(0.8)}
    assert found["zeta"] == pytest.approx(0.9)


NOTHING = {
    "momentum": (["algo=pasgd", "optim.momentum=0.9"], "plain SGD", "momentum=0.9"),
    "weight decay": (["algo=pasgd", "optim.weight_decay=0.1"], "plain SGD", "weight_decay=0.1"),
    "adam": (["algo=pasgd", "optim=adam"], "plain SGD", "not SGD"),
    "clip": (["algo=pasgd", "clip=1"], "plain SGD", "clipped"),
    "cosine": (["algo=pasgd", "schedule=cosine"], "constant rate", "cosine"),
    "rows only": (["algo=cooperative", "algo.W=[[0.5,0.5],[0.25,0.75]]", "workers=2"], "doubly stochastic", "columns"),
    "nobody talks": (["algo=independent"], "zeta < 1", "zeta = 1"),
    "sampling": (["algo=fedavg"], "everyone works", "sit out"),
    "adaptive": (["algo=pasgd", "period=adacomm"], "tau", "only the run"),
    "a delay": (["algo=easgd", "delay=1"], "order", "not mixed"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_an_assumption_that_fails_is_named_and_nothing_is_promised(case):
    words, name, why = NOTHING[case]
    found = analyzed(*QUADRATIC, "optim.lr=0.001", *words)
    (failed,) = [a for a in found["assumptions"] if a["name"] == name]
    assert not failed["holds"] and why in failed["why"]
    assert found["bound"] is None
    if name == "plain SGD":
        assert found["largest_eta_eff_L"] is None and found["linear_speedup"] is None
        assert found["consensus"]["noise_coefficient"] is None
    if name in ("doubly stochastic", "zeta < 1", "order", "everyone works"):
        assert found["network_factor"] is None and found["largest_lr"] is None
    json.dumps(found, allow_nan=False)


def test_what_still_holds_is_said():
    server = analyzed(*QUADRATIC, "algo=parameter_server", "tau=5", "optim.lr=0.01")
    periodic = analyzed(*QUADRATIC, "algo=pasgd", "tau=5", "optim.lr=0.01")
    for key in ("bound", "network_factor", "largest_lr", "consensus", "eta_eff"):
        assert server[key] == pytest.approx(
            periodic[key]
        )  # nobody takes from the server what it held before: J by way of a star
    exponential = analyzed(*QUADRATIC, "algo=dpsgd", "topology=exponential")
    assert any("not symmetric" in a["why"] for a in exponential["assumptions"]) and exponential["network_factor"] is not None
    cycle = analyzed(*QUADRATIC, "algo=one_peer")
    assert cycle["rate"]["communication"] == 0 and cycle["network_factor"] == pytest.approx(2 * (3 / 8 + 1 / 8))
    moved = analyzed(*QUADRATIC, "algo=pasgd", "tau=[[0,1],[100,6]]")
    assert any("largest, 6" in a["why"] for a in moved["assumptions"]) and moved["network_factor"] == pytest.approx(5)
    cut = analyzed(*QUADRATIC, "algo=pasgd", "tau=7", "steps=100")
    assert any("2 of 7" in a["why"] for a in cut["assumptions"])
    fast = analyzed(*QUADRATIC, "algo=pasgd", "tau=7", "optim.lr=1.5")
    assert fast["bound"] is None and fast["condition"] is None and fast["largest_lr"]["pasgd"] < 1.5
    by_lot = analyzed(*QUADRATIC, "algo=matcha")
    assert by_lot["consensus"]["noise_coefficient"] > 0
    assert by_lot["network_factor"] == pytest.approx(network_factor(1, by_lot["zeta"], 8))


@pytest.mark.parametrize("tau", [501, 600, 2000])
def test_a_step_costs_a_whole_round_s_share(tau):
    found = analyzed(*QUADRATIC, "algo=pasgd", f"tau={tau}", "steps=10000", "cluster=ethernet_1g", "cluster.latency_s=1")[
        "cost"
    ]
    assert found["seconds"] == pytest.approx(0.01 + 14 / tau, rel=1e-3)  # a ring of eight hosts: 14 messages


@pytest.mark.parametrize(
    "words", [("algo=pairwise", "algo.events=2"), ("algo=fedavg", "algo.fraction=0.5", "tau=1"), ("algo=easgd",)]
)
def test_the_worker_that_sends_most(cli, tmp_path, words):
    words = (*QUADRATIC, *words, "optim.lr=0.01", "steps=250", "processes=1", "workers=4")
    assert cli("train", *words, f"hydra.run.dir={tmp_path}/r").code == 0
    sent = json.loads((tmp_path / "r" / "summary.json").read_text())["ledger"]["bytes_per_worker_max"] / 250
    assert analyzed(*words)["cost"]["bytes_per_worker_max"] == pytest.approx(sent, rel=0.05)


def test_one_worker_is_sgd():
    found = analyzed(*QUADRATIC, "workers=1", "algo=pasgd", "tau=10", "optim.lr=0.01")
    assert found["network_factor"] == 0 and found["bound"]["network"] == 0
    assert found["largest_eta_eff_L"] == {"sgd": 1.0} and found["condition"] == "sgd"
    assert found["linear_speedup"] is None and found["pasgd"] == {"tau_bound": None, "tau_consensus": None}


def test_what_a_step_costs_when_tau_moves():
    constant = analyzed(*QUADRATIC, "algo=pasgd", "tau=32", "steps=1000", "cluster=ethernet_1g")["cost"]
    assert constant["messages"] == pytest.approx(14 / 32)
    moved = analyzed(*QUADRATIC, "algo=pasgd", "tau=[[0,1],[900,32]]", "steps=1000", "cluster=ethernet_1g")["cost"]
    assert moved["messages"] == pytest.approx(14 * (900 + 3) / 1000)  # 100 steps more have three whole rounds of 32
    # a step takes 10 ms; an average of 40 bytes over eight hosts 14 latencies of a tenth of a millisecond and little more
    assert constant["seconds"] == pytest.approx(0.01 + 0.0014 / 32, rel=1e-3)
    assert moved["seconds"] == pytest.approx(0.01 + 0.0014 * 903 / 1000, rel=1e-3)
    switched = analyzed(*QUADRATIC, "algo=pasgd", "tau=8", "period=post_local", "period.switch=500", "steps=1000")["cost"]
    assert switched["messages"] == pytest.approx(14 * (500 + 62) / 1000)
    for period in ("qsr", "adacomm"):
        assert analyzed(*QUADRATIC, "algo=pasgd", "tau=8", f"period={period}")["cost"]["messages"] is None


def probe_file(path, words, **changed):
    interval = {"value": 1.0, "low": 0.5, "high": 2.0}
    content = {"format": 1, **identity(settle(words), Parts(settle(words)).task)}
    content |= dict.fromkeys(("L", "sigma2", "gap", "grad2"), interval) | {"kappa2": interval | {"low": 0.0}}
    content |= {"step_s": {"median": 0.1, "low": 0.1, "high": 0.1, "workers": [0.1] * 8}, "network": None}
    path.write_text(json.dumps(content | {"versions": {}, "command": "coopsgd probe"} | changed))
    return str(path)


DIGITS = ("task=classification", "data=digits", "model=logistic", "workers=8", "processes=1", "device=cpu", "algo=pasgd")


def test_constants_come_from_a_probe(tmp_path, capsys):
    bare = analyzed(*DIGITS)
    assert bare["constants"] is None and "coopsgd probe" in bare["missing"] and bare["largest_lr"] is None
    assert bare["bound"] is None and bare["largest_eta_eff_L"] and bare["linear_speedup"]
    # an interval of kappa2 that reaches 0: the workers cannot be told apart
    found = analyzed(*DIGITS, "optim.lr=0.01", probe=probe_file(tmp_path / "p.json", DIGITS))
    assert found["constants"] == {"L": 1.0, "sigma2": 1.0, "gap": 1.0, "kappa2": 0.0} and found["bound"] is not None
    apart = {"kappa2": {"value": 1.0, "low": 0.5, "high": 2.0}}
    found = analyzed(*DIGITS, "optim.lr=0.01", probe=probe_file(tmp_path / "q.json", DIGITS, **apart))
    assert found["consensus"]["drift"] == pytest.approx(0.01**2 * 9 * 19 / 6)  # tau 10
    # its kappa2 is that of the run: Q = 45, s = 0.01 sqrt(45), A = 9
    s, bound = 0.01 * 45**0.5, found["bound"]
    assert bound["network"] == pytest.approx(0.01**2 * 4.5 / (1 - s) ** 2) and found["dissimilarity"] is None
    assert bound["network"] + bound["drift"] == pytest.approx(((0.01 * 4.5**0.5 + s) / (1 - s)) ** 2)
    analyze.show(found)
    assert "if kappa2 is 1 in the mean over the run" in capsys.readouterr().out


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError, match="model=logistic, this run has model=cnn"):
        analyzed(*DIGITS[:2], "model=cnn", *DIGITS[3:], probe=probe_file(tmp_path / "p.json", DIGITS))
    with pytest.raises(ConfigError, match="cannot read"):
        analyzed(*DIGITS, probe=str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="names no run"):
        overlay.facts([], None, None)
    with pytest.raises(ConfigError, match="holds no run"):
        overlay.facts([str(tmp_path)], None, None)


def test_the_command(cli, tmp_path):
    done = cli("analyze", "--json", *QUADRATIC, "algo=easgd", "optim.lr=0.01", "cluster=ethernet_1g")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["bound"]["total"] > 0 and found["cost"]["seconds"] > 0
    message = cli("analyze", *QUADRATIC, "algo=fedavg")
    assert message.code == 0 and "FAILS  everyone works" in message.out
    for words, why in (
        (("--figure", "a.png"), "--over"),
        (("--probe", "none.json", *DIGITS), "none.json"),
        (("--over",), "names no run"),
    ):
        refused = cli("analyze", *words)
        assert refused.code == 2 and len(refused.lines) == 1 and why in refused.err


def test_over_runs_and_in_tensorboard(cli, tmp_path):
    words = (*QUADRATIC, "algo=easgd", "tau=4", "optim.lr=0.02", "steps=200", "log_every=10", "eval_every=10", "task.dim=400")
    for seed in (0, 1):
        assert cli("train", *words, f"seed={seed}", f"hydra.run.dir={tmp_path}/r{seed}").code == 0
    done = cli("analyze", "--over", "--json", "r0", "r1")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    for number, run in enumerate(found["runs"]):
        assert run["why"] == [] and run["seed"] == number
        curve = run["consensus"]
        assert curve["step"] == list(range(0, 201, 10))
        # 400 coordinates of curvature up to 1: a few per cent below what noise alone would do
        assert 0.75 < curve["ratio"] < 1.1
        lines = [json.loads(line) for line in (tmp_path / f"r{number}" / "metrics.jsonl").read_text().splitlines()]
        assert curve["predicted"] == [line["theory/consensus"] for line in lines]
        gradient = run["gradient"]
        assert gradient["step"] == curve["step"][1:]
        assert all(measured < bound for measured, bound in zip(gradient["measured"], gradient["bound"], strict=True))
        assert gradient["bound"] == pytest.approx([line["theory/bound"] for line in lines[1:]])
    (mean,) = found["means"]  # they differ by their seed alone, and what is predicted is an expectation
    assert mean["seeds"] == [0, 1]
    for what in ("consensus", "gradient"):
        both = np.array([run[what]["measured"] for run in found["runs"]])
        np.testing.assert_allclose(mean[what]["measured"], both.mean(0), rtol=1e-12)
    ratios = [run["consensus"]["ratio"] for run in found["runs"]]
    assert min(ratios) < mean["consensus"]["ratio"] < max(ratios)
    assert "mean of the 2 seeds" in cli("analyze", "--over", "r0", "r1").out
    assert overlay.facts([str(tmp_path / "r0"), f"{tmp_path}/r0/"], None, str(tmp_path / "twice.png"))["means"] == []
    assert (tmp_path / found["figure"]).read_bytes()[:4] == b"\x89PNG"
    # gone through again from the config alone, it is what the run logged
    plain = tmp_path / "r0" / "metrics.jsonl"
    plain.write_text(
        "".join(
            json.dumps({key: value for key, value in line.items() if not key.startswith("theory/")}) + "\n"
            for line in map(json.loads, plain.read_text().splitlines())
        )
    )
    again = overlay.facts([str(tmp_path / "r0")], None, str(tmp_path / "again.png"))
    np.testing.assert_allclose(
        again["runs"][0]["consensus"]["predicted"], found["runs"][0]["consensus"]["predicted"], rtol=1e-12
    )
    charts = tags(tmp_path / "r1")
    assert {"vs/theory/consensus", "vs/theory/bound", "eval/grad2", "eval/grad2_mean", "workers/consensus"} <= charts
    assert "custom_scalars__config__" in charts


def test_runs_that_differ_by_their_seed_and_by_where_their_files_are(cli, tmp_path):
    np.save(tmp_path / "w.npy", np.full((72, 72), 1 / 72))  # more numbers than a config holds itself
    for name, words in (
        ("W", ("algo=cooperative", "algo.W=w.npy", "workers=72", "processes=1")),
        ("lots", ("algo=matcha", "topology=erdos_renyi", "workers=9", "processes=1")),
    ):
        for seed in (0, 1):
            words = (*words, *QUADRATIC[:1], "steps=4", "eval_every=2")
            assert cli("train", *words, f"seed={seed}", f"hydra.run.dir={tmp_path}/{name}{seed}").code == 0
        found = overlay.facts([str(tmp_path / f"{name}{seed}") for seed in (0, 1)], None, str(tmp_path / "a.png"))
        assert [mean["seeds"] for mean in found["means"]] == [[0, 1]]


def test_why_there_is_no_bound_over_a_run_and_runs_that_cannot_be_read(cli, tmp_path):
    assert cli("train", *QUADRATIC, "algo=easgd", "tau=10", "optim.lr=0.3", "steps=4", f"hydra.run.dir={tmp_path}/r").code == 0
    (run,) = overlay.facts([str(tmp_path / "r")], None, str(tmp_path / "a.png"))["runs"]
    assert run["gradient"] is None and any("above what every condition allows" in why for why in run["why"])
    lines = tmp_path / "r" / "metrics.jsonl"
    config = tmp_path / "r" / "config.yaml"
    written = config.read_text()
    harms = {
        lines: ("", "{}\n", "3\n", '{"step": 1, "lo', '{"loss": 2}\n'),
        config: ("a: b: c", "[1]", "", written.replace("workers: 8", "workers: four"), written.replace("  name: easgd\n", "")),
    }
    config.write_text("a: b: c")
    ended = cli("analyze", "--over", "r")
    assert ended.code == 2 and len(ended.lines) == 1 and "r holds no run to read" in ended.err
    config.write_text(written)
    for file, texts in harms.items():
        for text in texts:
            file.write_text(text)
            with pytest.raises(ConfigError, match=r"--over: .*r holds no run to read"):
                overlay.facts([str(tmp_path / "r")], None, str(tmp_path / "a.png"))
        if file is lines:
            lines.write_text('{"step": 0}\n')
    ended = cli("analyze", "--over", "r", "--config-dir", ".")
    assert ended.code == 2 and "--config-dir ." in ended.err


def tags(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (file,) = folder.glob("events.*")
    return {value.tag for event in EventFileLoader(str(file)).Load() for value in event.summary.value}
