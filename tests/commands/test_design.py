"""`coopsgd design`: what is searched, how pilots are read, that the ranking is what its parts say, and that it holds."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from functools import cache

import arrays
import arrays as matrices
import numpy as np
import pytest
from probes import probe_of

from coopsgd.commands import compose
from coopsgd.commands.design import advice, command, ranking, report, study
from coopsgd.commands.design.candidates import OUTERS, TAUS, candidates
from coopsgd.commands.design.pilots import Curves, Pilots, alike, pilot
from coopsgd.commands.design.ranking import Drift, Goal
from coopsgd.errors import ConfigError
from coopsgd.mixing.graphs import Ring
from coopsgd.predict import theory
from coopsgd.run import start
from coopsgd.setup.parts import Parts

NOISY = ("task=quadratic", "task.heterogeneity=0", "task.dim=20", "optim.lr=0.1")
SLOW = ("cluster=custom", "cluster.latency_s=0.05", "cluster.bandwidth=1 Gbit/s", "cluster.step_s=0.01")


def base(*words, workers=8, steps=200):
    return compose.compose_config([*words, f"workers={workers}", f"steps={steps}"]).config


@cache
def everyone(m=8):
    """The candidates for m workers on the noisy quadratic."""
    return candidates(Parts(base(*NOISY, workers=m)), ())


def average(m):
    return [np.full((m, m), 1 / m)]


def pilots(m=8, noise=1.0, drift=0.0, taus=(1, 4, 16), kept=1.0):
    steps = np.array([0, 50, 100])
    losses = np.array([[2.0, 1.0, 0.5 + 0.1 * i] for i in range(len(taus))])
    return Pilots(m, np.array(taus), steps, losses, noise, drift, kept)


@pytest.mark.parametrize("m", [2, 8, 12])
def test_every_candidate_is_another_algorithm_that_agrees(m):
    found = everyone(m)
    seen = {}
    for one in found:
        matrices = [arrays.factors(one.strategy.schedule, m, r) for r in range(one.strategy.schedule.cycle(m) or 6)]
        key = str(
            [
                one.config.tau,
                one.config.delay,
                one.config.outer,
                one.strategy.schedule.server_owns_aux,
                one.strategy.send is None,
            ]
            + [[np.round(W, 9).tolist() for W in factors] for factors in matrices]
        )
        assert seen.setdefault(key, one.label) == one.label
        assert one.strategy.schedule.zeta(m) < 1
    names = {one.config.algo["name"] for one in found}
    more = {"dpsgd", "gea", "hierarchical", "matching", "two_level"} if m > 2 else set()  # two workers know one graph
    assert names >= {"fullsync", "pasgd", "easgd", "parameter_server"} | more
    assert not names & {"fedavg", "independent", "cooperative"}
    assert {one.config.tau for one in found if one.config.algo["name"] == "pasgd"} == {tau for tau in TAUS if tau <= 100}


def test_words_that_are_given_are_not_searched():
    words = ("algo=dpsgd", "topology=ring", "tau=3")
    found = candidates(Parts(base(*NOISY, *words)), words)
    assert {one.config.tau for one in found} == {3}
    assert {one.config.topology["name"] for one in found} == {"ring"}
    assert {one.config.algo["weights"] for one in found} == {"metropolis", "fdla"}
    assert all(
        one.words[0] == "algo=dpsgd" and not any(word.startswith(("tau", "topology")) for word in one.words) for one in found
    )
    assert {one.outer for one in found} == {"", *OUTERS}
    found = candidates(Parts(base(*NOISY, "algo=easgd", "algo.alpha=0.05")), ("algo=easgd", "algo.alpha=0.05"))
    assert {one.config.algo["alpha"] for one in found} == {0.05} and len({one.config.tau for one in found}) > 3


def test_words_about_keys_and_topology_hold_for_whoever_has_them():
    words = (*NOISY, "topology=torus", "topology.rows=2")
    found = candidates(Parts(base(*command.based(words))), words)
    graphs = {one.config.algo["name"]: one.config.topology for one in found}
    assert graphs["dpsgd"] == {"name": "torus", "rows": 2} and graphs["gea"]["name"] == "torus" and graphs["easgd"] is None
    assert not any("topology=" in one.label for one in found)
    words = (*NOISY, "delay=1")
    found = candidates(Parts(base(*words)), words)
    assert {one.config.delay for one in found} == {1}
    assert {"pasgd", "easgd", "dpsgd"} <= {one.config.algo["name"] for one in found}
    assert "fullsync" not in {one.config.algo["name"] for one in found}  # which mixes no models
    found = candidates(Parts(base(*NOISY)), ("algo=easgd", "++algo.alpha=0.05"))
    assert {one.config.algo["alpha"] for one in found if one.config.algo["name"] == "easgd"} == {0.05}
    with pytest.raises(ConfigError, match="did you mean alpha"):
        candidates(Parts(base(*NOISY)), ("algo.alhpa=0.1",))


def test_an_outer_step_that_is_given_is_not_searched():
    for words, said in (
        (("algo=dpsgd", "topology=ring", "outer=adam", "outer.lr=0.2"), "outer=adam outer.lr=0.2"),
        (("algo=diloco",), "outer=nesterov"),
    ):
        found = candidates(Parts(base(*NOISY, *command.based(words))), words)
        assert {one.outer for one in found} == {said} and all(one.config.outer and not one.plain for one in found)
        assert not any("outer" in one.label for one in found)
    for words in (("algo=fullsync", "outer=none"), ("algo=pasgd", "outer=none")):
        assert {one.outer for one in candidates(Parts(base(*NOISY, words[0])), words)} == {""}


def test_what_an_outer_step_brings_is_its_own_pilots_plus_what_the_distance_costs():
    """Of averaging it is its pilot; of workers as far apart as under tau_eq, what plain pilots lose from tau on is added."""
    curves = Curves(np.array([1, 4]), np.array([[2.0, 0.8, 0.3], [2.0, 0.9, math.inf]]))
    found = replace(pilots(), stepping={"outer=nesterov": curves})
    np.testing.assert_allclose(found.stepped("outer=nesterov", 1, 1.0), [2.0, 0.8, 0.3])
    np.testing.assert_allclose(found.stepped("outer=nesterov", 1, 4.0), [2.0, 0.8, 0.4])
    np.testing.assert_allclose(found.stepped("outer=nesterov", 4, 4.0), [2.0, 0.9, math.inf])
    one = next(c for c in everyone() if c.label == "algo=pasgd tau=1 outer=nesterov")
    times = np.arange(1.0, 101.0)
    entry = ranking.predicted(one, Drift(0.0, 0.0, 0.0, 1.0), times, Goal(budget=100.0), found, None)
    assert entry.error == pytest.approx(0.3) and one.plain.outer == ""


def test_pilots_that_are_as_near_as_they_scatter_are_not_told_apart():
    steps, rng = np.arange(61), np.random.default_rng(0)
    plain = np.exp(-steps / 20)
    assert alike(plain, plain) and alike(plain * (1 + 0.005 * np.sin(steps)), plain)
    assert not alike(plain * np.where(steps > 50, 0.9, 1), plain)  # at the end alone
    assert alike(1 + 0.1 * rng.standard_normal(61), np.ones(61)) and not alike(1.1 + 0.1 * rng.standard_normal(61), np.ones(61))
    assert not alike(np.where(steps > 50, np.inf, plain), plain)
    losses = np.stack([plain, plain, 0.9 * plain])
    more = {"a": Curves(np.array([1, 4, 16]), losses), "b": Curves(np.array([1, 4, 16]), 0.9 * losses)}
    found = replace(pilots(), steps=steps, losses=np.stack([plain] * 3), stepping=more)
    assert [found.like("a", tau) for tau in (1, 4, 16)] == ["none", "none", None]
    assert [found.like("b", tau) for tau in (1, 16)] == [None, None]


def test_an_outer_step_that_does_nothing_is_not_ranked_and_that_is_said(tmp_path, capsys):
    """One of which the pilots are those without it: every choice with it goes, and a line says why."""
    words = (*NOISY, *SLOW, "algo=pasgd", "tau=4")
    parts = Parts(base(*words, workers=4, steps=40))
    flown = []

    def run(config, folder):
        flown.append((config.outer or {}).get("momentum", 0.9 if config.outer else 0))
        gain = 2.0 if config.outer and "momentum" not in config.outer else 1.0
        return [{"step": k, "eval/loss": math.exp(-gain * k / 20), "consensus": 0.1 * config.tau} for k in range(0, 41, 4)]

    found = study.study(parts, words, tmp_path, run, budget=1.0)
    assert flown.count(0.6) == flown.count(0.9) == 1 and flown.count(0) == 4  # of the tau that is given alone
    (one,) = found.untold
    assert one == ("outer=nesterov outer.momentum=0.6", "none", (4,))
    assert {entry.candidate.outer for entry in found.entries} == {"", "outer=nesterov"}
    assert found.entries[0].candidate.outer == "outer=nesterov"
    with np.errstate(all="ignore"):
        report.show(report.facts(found, words, 3) | {"folder": "f"})
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot tell outer=nesterov outer.momentum=0.6 from no outer step at tau 4, so it is not ranked there" in said


def test_what_cannot_be_mixed_is_no_candidate():
    words = ("model=cnn", "model.norm=batch", "model.width=8")
    found = {one.config.algo["name"] for one in candidates(Parts(base(*words, "algo=pasgd")), ())}
    assert "pasgd" in found and "gea" not in found  # its anchor's negative weight could make a variance negative


def test_a_checked_run_that_diverged_is_no_best(monkeypatch, tmp_path):
    """Two looks and a null: as bad as it gets; and what came after a budget of many times the steps is not counted."""
    settings = base(*NOISY, *SLOW, "algo=pasgd", steps=8)
    entries = []
    for tau in (1, 2):
        (one,) = [c for c in candidates(Parts(settings), ("algo=pasgd",)) if c.label == f"algo=pasgd tau={tau}"]
        entries.append(ranking.predicted(one, *Drift.of([one]), np.arange(1.0, 9.0), Goal(budget=3600.0), pilots(), None))
    ends = {"rank-1": [2.0, 1.0, 0.5], "rank-2": [2.0, 0.3, None]}

    def run(config, folder):
        return [{"sim_s": 4.0 * k, "eval/loss": loss} for k, loss in enumerate(ends[folder.name])]

    found = study.check(study.Study(Goal(budget=3600.0), pilots(), entries, 2, 0), settings, [0, 1], tmp_path, run)
    assert found.verdict.best.rank == 1 and found.verdict.regret_s == 0
    assert [one.value for one in found.verdict.runs] == [0.5, math.inf]
    ends["rank-2"] = [2.0, 0.4, 0.2]  # it was at 0.5 after 4 s at the latest, the first choice after 8
    verdict = study.check(found, settings, [0, 1], tmp_path, run).verdict
    assert verdict.regret_s == 4 and verdict.regret == 0.5
    for first in ([2.0, 5.0, None], [2.0, 2.5, 2.6]):  # a first choice that never got anywhere: all its time was lost
        ends["rank-1"] = first
        verdict = study.check(found, settings, [0, 1], tmp_path, run).verdict
        assert verdict.best.rank == 2 and verdict.regret_s == 8 and verdict.regret == 1


def test_the_words_of_a_candidate_make_it_again():
    """What is printed is what was ranked."""
    words, found = (*NOISY, *SLOW), everyone()
    for one in [found[0], found[len(found) // 2], found[-1]]:
        again = compose.compose_config([*words, *one.words, "workers=8", "steps=200"])
        assert again.config.tau == one.config.tau
        for r in range(3):
            for A, B in zip(
                arrays.factors(again.strategy.schedule, 8, r), arrays.factors(one.strategy.schedule, 8, r), strict=True
            ):
                np.testing.assert_allclose(A, B, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("noise", "drift"), [(1.0, 0.0), (0.0, 1.0), (0.3, 2.0)])
@pytest.mark.parametrize("tau", [1, 2, 7, 40])
@pytest.mark.parametrize("kept", [1.0, 0.9, 0.5])
def test_periodic_averaging_is_its_own_equal(noise, drift, tau, kept):
    """tau_eq of J every tau steps is tau, whatever mixture of noise and drift the task has."""
    found = pilots(8, noise, drift, kept=kept)
    C, H = theory.noise_consensus(average(8), 8, tau), theory.drift_consensus(average(8), 8, tau, kept=kept)
    assert found.tau_eq(C, H) == pytest.approx(tau, rel=1e-6 if not noise and kept < 1 else 1e-9)  # it levels off


def test_no_period_drifts_as_far_as_all_of_them():
    """Where curvature holds workers back, averaging never lets them further apart than 1 / (1 - kept)."""
    found = pilots(8, 0.0, 1.0, kept=0.5)
    assert found.tau_eq(0.0, 3.9) < math.inf and found.tau_eq(0.0, 4.0) == math.inf


def test_tau_eq_of_a_ring():
    """Under noise alone: 1 + 2/(m-1) sum lambda^2 / (1 - lambda^2), 2.17 for a ring of eight with thirds (issue: 2.17)."""
    (one,) = (c for c in everyone() if c.label == "algo=dpsgd topology=ring tau=1")
    (drift,) = Drift.of([one])
    values = np.linalg.eigvalsh(arrays.factors(one.strategy.schedule, 8, 0)[0])[:-1]
    by_hand = 1 + 2 / 7 * float((values**2 / (1 - values**2)).sum())
    assert by_hand == pytest.approx(2.17, abs=0.005)
    assert pilots(8).tau_eq(drift.noise, drift.drift) == pytest.approx(by_hand, rel=1e-9)
    assert drift.progress == pytest.approx(1)


def test_how_fast_the_mean_moves():
    """m / (m + v) for a symmetric W; all of it when nobody's own model stays on the server."""
    some = {c.config.algo["name"]: c for c in everyone() if c.config.tau in (1, 2)}
    names = ("easgd", "parameter_server", "pasgd", "gea")
    found = dict(zip(names, Drift.of([some[name] for name in names]), strict=True))
    assert found["easgd"].progress == pytest.approx(8 / 9)
    assert found["parameter_server"].progress == pytest.approx(1)
    assert found["pasgd"].progress == pytest.approx(1)
    assert found["gea"].progress == pytest.approx(8 / 9)


def test_pilots_are_read_between_their_taus():
    found = pilots(taus=(1, 4, 16))
    np.testing.assert_allclose(found.losses_at(1.0), [2, 1, 0.5])
    np.testing.assert_allclose(found.losses_at(2.0), [2, 1, 0.55])  # half way in log tau from 1 to 4
    np.testing.assert_allclose(found.losses_at(8.0), [2, 1, 0.65])
    np.testing.assert_allclose(found.losses_at(99.0), [2, 1, 0.7])


def test_a_goal_is_reached_when_it_is():
    times, errors = np.array([1.0, 2.0, 3.5, 4.0]), np.array([4.0, 3.0, 2.0, 2.5])
    assert Goal(budget=3.5).reached(times, errors) == (3, 3.5)
    assert Goal(budget=0.5).reached(times, errors) == (0, math.inf)
    assert Goal(target=3.2).reached(times, errors) == (2, 2.0)
    assert Goal(target=1.0).reached(times, errors) == (0, math.inf)


def test_kendall():
    assert ranking.kendall([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert ranking.kendall([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert ranking.kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)  # one of six pairs the other way
    assert ranking.kendall([1, 2, 3], [1, math.inf, math.inf]) == pytest.approx(2 / math.sqrt(3 * 2))  # two never get there
    assert math.isnan(ranking.kendall([1, 2], [5, 5]))


def test_the_first_few_and_some_losers():
    assert study.places(100, 3) == [0, 1, 2, 35, 67, 99]
    assert study.places(4, 10) == [0, 1, 2, 3]


@pytest.mark.slow
def test_pilots_see_noise_and_drift(tmp_path):
    """On a flat quadratic the consensus distances of pilots are eta^2 (sigma^2 C + kappa^2 H) to the letter."""
    found = {}
    for name, sigma, spread in (("noise", 2.0, 0.0), ("drift", 0.0, 1.0)):
        words = ("task=quadratic", f"task.sigma={sigma}", f"task.heterogeneity={spread}", "task.dim=400", "optim.lr=0.001")
        settings = base(*words, steps=400)

        def run(config, folder):
            assert config.algo["name"] == "pasgd" and config.processes == 1 and config.cluster is None
            return start.train_silently(config, folder, "test")

        found[name] = study.fly(settings, tmp_path / name, run)
    C = theory.noise_consensus(average(8), 8, 16)
    H = {name: theory.drift_consensus(average(8), 8, 16, kept=pilots.kept) for name, pilots in found.items()}
    assert found["noise"].noise == pytest.approx(0.001**2 * 2**2, rel=0.1)
    assert found["noise"].drift * H["noise"] < 0.05 * found["noise"].noise * C
    assert found["drift"].noise * C < 0.05 * found["drift"].drift * H["drift"] and found["drift"].kept == 1


@pytest.mark.slow
def test_pilots_see_how_curvature_holds_workers_back(tmp_path):
    """All curvatures 1 and a rate of 0.2: a step leaves 0.8 of a distance, and workers differ by their centres."""
    centers = np.random.default_rng(0).standard_normal((8, 400))
    np.save(tmp_path / "a.npy", np.ones((8, 400)))
    np.save(tmp_path / "c.npy", centers)
    files = (f"task.curvature={tmp_path}/a.npy", f"task.centers={tmp_path}/c.npy", "task.sigma=0")
    settings = base("task=quadratic", "task.dim=400", *files, "optim.lr=0.2", steps=400)
    found = study.fly(settings, tmp_path / "pilots", lambda config, folder: start.train_silently(config, folder, "test"))
    assert found.kept == 0.8
    assert found.drift == pytest.approx(0.2**2 * ((centers - centers.mean(0)) ** 2).sum() / 8, rel=0.05)
    ring = [matrices.metropolis(Ring().adjacency(8))]
    held, free = (theory.drift_consensus(ring, 8, 1, kept=kept) for kept in (0.8, 1.0))
    assert 1 < found.tau_eq(0.0, held) < pilots(noise=0.0, drift=1.0).tau_eq(0.0, free)


def test_pilots_look_at_every_phase_of_a_round():
    every = pilot(base(*NOISY, steps=500), 16).eval_every
    assert every % 2 and len({k % 16 for k in range(0, 500, every)}) == 16


def entries_of(*values, words=("algo=pasgd", "outer=none")):
    """Entries by (error after all of 200 steps, bytes a step)."""
    times = np.arange(1.0, 201.0)
    some = candidates(Parts(base(*NOISY, *SLOW, "algo=pasgd")), words)
    drift = Drift(0.0, 1.0, 1.0, 1.0)
    return [
        ranking.Entry(one, drift, 1.0, sent, times, np.linspace(2.0, error, 200), 200, 200.0)
        for one, (error, sent) in zip(some, values, strict=False)
    ]


def test_of_the_tied_the_one_that_sends_least_is_taken_and_the_sentence_says_so():
    entries = entries_of((1.0, 40.0), (1.005, 10.0), (1.006, 10.0), (1.2, 1.0))
    tied = study.Study(Goal(budget=200.0), pilots(), entries, 4, 0)
    assert advice.ties(tied) == 3 and advice.taken(tied) is entries[1]
    name = entries[1].candidate.label.removeprefix("algo=")
    assert advice.sentence(tied, "{:g} s".format) == (
        f"Take {name}: it is at a test loss of 1.005 after 200 s. 3 are tied; of these it sends least."
    )
    alike = entries_of((1.0, 10.0), (1.005, 10.0), words=("algo=pasgd", "tau=200", "delay=0"))
    stepping = [alike[1], alike[0]]  # one with an outer step before the same without
    assert advice.taken(study.Study(Goal(budget=200.0), pilots(), stepping, 2, 0)) is alike[0]
    alone = study.Study(Goal(budget=200.0), pilots(), entries[3:], 1, 0)
    assert advice.taken(alone) is entries[3] and "tied" not in advice.sentence(alone, "{:g} s".format)


def test_the_budget_is_told_with_where_it_is_from(capsys):
    entries = entries_of((1.0, 40.0), (1.2, 10.0))
    own = study.Study(Goal(budget=3.5), pilots(), entries, 2, 0, quickest="algo=pasgd tau=16")
    report.show(report.facts(own, [], 2) | {"folder": "f"})
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "ranked by the test loss after a budget of 3.5 s, which is what the quickest, algo=pasgd tau=16, takes for all 200"
        in told
    )
    given = study.Study(Goal(budget=3.5), pilots(), entries, 2, 0)
    assert advice.wanted(given, "{:g} s".format) == "the test loss after a budget of 3.5 s (--budget-seconds)"


def designed(cli, tmp_path, *words):
    ended = cli("design", "--json", *words)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_design_from_the_command_line(cli, tmp_path):
    """A slow network: fullsync pays 6 latencies a step, so it must lose to whoever communicates rarely; and the runs agree."""
    found = designed(
        cli,
        tmp_path,
        *NOISY,
        *SLOW,
        "outer=none",
        "workers=4",
        "steps=32",
        "--budget-seconds",
        "1",
        "--check",
        "2",
        "--top",
        "400",
    )
    ranked = {entry["algo"]: entry["rank"] for entry in found["ranking"]}
    assert ranked["algo=pasgd tau=8"] < ranked["algo=fullsync"] and ranked["algo=pasgd tau=1"] > len(ranked) / 2
    errors = [float(f"{entry['error']:.3g}") for entry in found["ranking"]]
    assert errors == sorted(errors)
    assert all(entry["seconds"] <= 1 for entry in found["ranking"])
    full = next(entry for entry in found["baselines"] if entry["algo"] == "algo=fullsync")
    near = [entry for entry in found["ranking"] if entry["error"] <= 1.01 * found["ranking"][0]["error"]]
    assert found["ties"] == len(near) >= 1
    first = found["taken"]
    assert first == min(near, key=lambda entry: entry["bytes_per_step"])
    less = full["bytes_per_step"] / first["bytes_per_step"]
    assert first["algo"].removeprefix("algo=") in found["advice"] and f"sends {less:.3g} times less than" in found["advice"]
    assert f"is at a test loss of {first['error']:.4g} after 1 s instead of {full['error']:.4g}" in found["advice"]
    assert [entry["rank"] for entry in found["baselines"]] == [ranked[entry["algo"]] for entry in found["baselines"]]
    assert "cluster" in first["command"] and "cluster" not in first["on_machines"]
    assert "processes=4" in first["on_machines"] and "processes" not in first["command"]  # as many machines as workers
    check = found["check"]
    assert len(check["runs"]) == 5 and check["kendall_tau"] > 0.3 and check["regret"] <= 0.25
    folder = tmp_path / found["folder"]
    assert json.loads((folder / "design.json").read_text()) == found
    assert (folder / "pareto.png").read_bytes()[:4] == b"\x89PNG"


def test_design_to_a_target_prints_commands_that_run(cli, tmp_path):
    ended = cli("design", *NOISY, *SLOW, "workers=4", "steps=60", "--target-loss", "3", "--top", "2", "algo=pasgd")
    assert ended.code == 0, ended.err
    (line,) = (line for line in ended.out.splitlines() if line.strip().startswith("1. coopsgd train"))
    assert ended.out.startswith("Take pasgd tau=") and "reaches a test loss of 3 in" in ended.out.splitlines()[0]
    assert "(baseline)" in ended.out and "launch=false" in ended.out.splitlines()[-3]
    assert "ranked by the seconds until the test loss is at most 3 (--target-loss)" in ended.out
    head = next(line for line in ended.out.splitlines() if line.startswith("rank "))
    for column in re.split(r"  +", head.strip()):
        assert len(re.findall(rf"^{column}: \S", ended.out, re.MULTILINE)) == 1, column
    words = shlex.split(line.split("coopsgd ", 1)[1])
    again = cli(*words, f"hydra.run.dir={tmp_path}/run", "log_every=1", "eval_every=1")
    assert again.code == 0, again.err
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/loss"] < 3.5 and last["sim_s"] > 0


def test_design_goes_where_it_is_told_with_a_probe_of_any_name(cli, tmp_path):
    name = "it's (1), a=b.json"
    (tmp_path / name).write_text(probe_of(*NOISY))
    words = (*NOISY, "workers=4", "steps=20", "algo=pasgd", "hydra.run.dir=mine")
    ended = cli("design", *words, "--probe", name, "--top", "1", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["folder"] == "mine" and (tmp_path / "mine" / "design.json").is_file() and not (tmp_path / "designs").exists()
    line = shlex.split(found["ranking"][0]["command"])
    assert not any("hydra.run.dir" in word for word in line)
    again = cli(*line[1:])
    assert again.code == 0, again.err
    (tmp_path / "file").touch()
    ended = cli("design", *words, *SLOW, "hydra.run.dir=file/x")
    assert ended.code == 2 and ended.lines == [
        "coopsgd: file/x cannot be written (Not a directory); choose another hydra.run.dir"
    ]


def test_theory_alone_trains_nothing(cli, tmp_path):
    found = designed(cli, tmp_path, *NOISY, *SLOW, "workers=4", "steps=20", "--theory", "algo=pasgd")
    assert found["pilots"] is None and found["predicts"].startswith("mean squared gradient")
    assert not list(tmp_path.glob("designs/*/*/pilot*"))
    last = found["ranking"][-1]  # who had no time for all steps
    assert last["error"] > last["floor"] > 0 and last["algo"].startswith("algo=pasgd")


BAD = {
    ("workers=1",): "two or more",
    ("--budget-seconds", "1", "--target-loss", "1"): "one of the two",
    ("--budget-seconds", "-1"): "positive",
    ("--budget-seconds", "0.001"): "too few",
    ("--target-loss", "1e-9"): "below the predicted floor",
    ("--theory", "--target-loss", "1"): "leave out --theory",
    ("tau=100", "steps=210"): "all drift further apart",
    ("--target-loss", "nan"): "finite number",
    ("period=qsr",): "period=constant",
    ("tau=[[0,1],[5,2]]",): "constant periods",
    ("steps=7",): "at least 8",
    ("schedule=cosine",): "rate must stay, got schedule=cosine",
    ("schedule.warmup=5",): "with a warm-up",
    ("--theory", "optim.momentum=0.9"): "--theory: optim.momentum=0.9",
    ("--theory", "optim.lr=99"): "above 1 / L",
    ("--theory", "outer=momentum"): "--theory: outer=momentum: the bound is about W alone",
    ("algo.allow_disconected=true",): "did you mean allow_disconnected",
    ("algo.mixing=foo",): "algo.mixing: no mixing named 'foo'",
    ("algo.tau=3",): "tau=4",
    ("optim.lr=90",): "diverged",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_bad_input(cli, tmp_path, words):
    ended = cli("design", *NOISY, *SLOW, "workers=4", "steps=20", "algo=pasgd", *words)
    message = [line for line in ended.lines if line.startswith("coopsgd: ")]
    assert ended.code == 2 and len(message) == 1 and BAD[words] in message[0], ended.err
    assert all(list(folder.iterdir()) for folder in tmp_path.glob("designs/*/*")), "an empty folder was left behind"


def test_design_needs_a_cluster(cli):
    ended = cli("design", *NOISY, "workers=4", "steps=20")
    assert ended.code == 2 and ended.lines == [
        "coopsgd: cluster: is missing, so nothing is known of the network; name one, as in cluster=ethernet_1g"
    ]
