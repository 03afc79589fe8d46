"""consensus, worst and best accuracy are of one moment: after the last local step before the latest communication."""

from __future__ import annotations

from dataclasses import replace

import arrays
import numpy as np
import oracle
import pytest
import torch
from playing import MLP, QUADRATIC, Lines, play, run, settle
from test_oracle import ALGOS, preset, problem

from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop import consensus
from coopsgd.loop.evaluation import train
from coopsgd.loop.rounds import Rounds
from coopsgd.setup.parts import Parts
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.strategies.period import AdaComm, Period, PostLocal
from coopsgd.tasks.supervised_problem import SupervisedProblem

LOOKS = ("log_every=1", "eval_every=1")


def apart(x: np.ndarray) -> float:
    """(1/m) sum ||x_i - mean||^2, a worker at a time."""
    mean = sum(x) / len(x)
    return sum(float(((one - mean) ** 2).sum()) for one in x) / len(x)


def expected(run, p: oracle.Problem, order: str = "atc", delay: float = 0) -> list[tuple[float, float | None, int]]:
    """consensus, consensus_after and phase of every step, from the trajectory of the oracle `run`."""
    p = replace(p, seen=[])
    run(p)
    found = []
    for step in range(p.K + 1):
        done = [c for c in p.seen if c[0] <= step]
        if not done:
            found.append((apart(run(replace(p, K=step, seen=[]))[: p.m]), None, step))
            continue
        (at, before, after), previous = done[-1], done[-2][0] if len(done) > 1 else 0
        waits = order == "cta" and at == step  # it comes when the next step begins
        late = min(delay, at - previous)  # steps of its round that it does not mix
        phase = step - previous if waits else step - at + int(late)
        found.append((apart(before), None if waits else apart(after), phase))
    return found


def matches(lines, wanted):
    for line, (before, after, phase) in zip(lines, wanted, strict=True):
        assert line["consensus"] == pytest.approx(before, rel=1e-9, abs=1e-20), line["step"]
        assert (line["consensus_after"] is None) == (after is None), line["step"]
        assert after is None or line["consensus_after"] == pytest.approx(after, rel=1e-9, abs=1e-20), line["step"]
        assert line["phase"] == phase, line["step"]


@pytest.mark.parametrize("algo", ALGOS)
def test_consensus_is_that_of_the_rows_before_the_latest_mixing(process_groups, algo):
    words = preset(algo, "tau=[[0,1],[5,3]]", "steps=12", *LOOKS)
    delay = settle(words).delay
    wanted = expected(oracle.ORACLES[algo], problem(words), delay=np.inf if delay == "tau" else delay)
    if algo in ("fullsync", "gpa"):
        wanted = [(before, after, 0) for before, after, _ in wanted]
    for processes in (1, 4):
        matches(play(process_groups, processes, *words).lines, wanted)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("tau", [1, 5])
def test_the_other_order(process_groups, tau, processes):
    words = preset("dpsgd", f"tau={tau}", "order=cta", "steps=12", *LOOKS)
    W = arrays.factors(Parts(settle(words)).strategy.schedule, 8, 0)[0].tolist()
    wanted = expected(lambda p: oracle.combine_then_adapt(p, W), problem(words), "cta")
    matches(play(process_groups, processes, *words).lines, wanted)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("tau", "delay"), [(1, 1), (1, "tau"), (5, 0), (5, 1), (5, 2), (5, 5), (5, "tau")])
def test_with_a_delay_it_is_of_the_rows_when_they_were_sent(process_groups, tau, delay, processes):
    words = preset("dpsgd", f"tau={tau}", f"delay={delay}", "steps=12", *LOOKS)
    W, late = arrays.factors(Parts(settle(words)).strategy.schedule, 8, 0)[0].tolist(), tau if delay == "tau" else delay
    p = problem(words)
    wanted = expected(lambda p: oracle.delayed(p, W, delay), p)
    wanted = [(before, after, phase + (late if after is not None else 0)) for before, after, phase in wanted]
    run = play(process_groups, processes, *words)
    np.testing.assert_allclose(run.x, oracle.delayed(p, W, delay), rtol=0, atol=1e-12)
    matches(run.lines, wanted)
    for every in (2, 3, 4):  # how often one looks changes no number
        rare = play(process_groups, processes, *words, f"eval_every={every}", f"log_every={every}").lines
        matches(rare, wanted[::every])


def test_cta_has_the_numbers_of_atc(process_groups):
    atc, cta = (play(process_groups, 1, *preset("easgd", "tau=4", f"order={o}", *LOOKS)).lines for o in ("atc", "cta"))
    assert [line["consensus"] for line in cta] == pytest.approx([line["consensus"] for line in atc], rel=1e-9)


def test_how_often_one_looks_changes_no_number(process_groups):
    words = preset("dpsgd", "tau=4")
    often = {line["step"]: line for line in play(process_groups, 1, *words, *LOOKS).lines}
    for every in (3, 5, 8, 10):
        for line in play(process_groups, 1, *words, f"eval_every={every}").lines:
            assert line["consensus"] == often[line["step"]]["consensus"]
            assert line["consensus_after"] == often[line["step"]]["consensus_after"]
    between = [line for line in play(process_groups, 1, *words, "log_every=1", "eval_every=8").lines if line["step"] % 8]
    assert all(line["consensus"] is None and line["consensus_after"] is None for line in between)
    assert [line["phase"] for line in between] == [1, 2, 3, 0, 1, 2, 3] * 3


def test_one_worker_is_never_apart(process_groups):
    for line in play(process_groups, 1, *QUADRATIC, "workers=1", "algo=pasgd", "tau=3", *LOOKS).lines:
        assert line["consensus"] == 0 and line["consensus_after"] in (None, 0) and line["phase"] == line["step"] % 3


def test_workers_are_evaluated_before_the_mixing(process_groups):
    """With the defaults periodic averaging is evaluated right after averaging, where worst, best and mean are one."""
    words = (*MLP, "algo=pasgd", "workers=4", "tau=10", "partition=shards", "steps=40", "eval_every=20", "batch_size=8")
    for processes in (1, 2):
        run = play(process_groups, processes, *words)
        for line in run.lines[1:]:
            assert line["consensus"] > 0 == round(line["consensus_after"], 20)
            assert line["eval/accuracy_worst"] < line["eval/accuracy"]
        # the same workers, one step before the communication that hid them
        early = play(process_groups, 1, *words, "steps=20", "algo=independent").lines[-1]
        late = play(process_groups, 1, *words, "steps=20", "tau=20").lines[-1]
        for key in ("eval/accuracy_worst", "eval/accuracy_best", "consensus"):
            assert late[key] == pytest.approx(early[key], rel=1e-9)


def test_workers_between_communications_are_evaluated_as_they_are(process_groups):
    words = (*MLP, "algo=pasgd", "workers=4", "tau=10", "partition=shards", "batch_size=8", "eval_every=0")
    between = play(process_groups, 1, *words, "steps=13").lines[-1]
    p = settle((*words, "steps=13"))
    run = play(process_groups, 1, *words, "steps=13")
    problem_ = Parts(p).task.build(p, range(4), torch.device("cpu"))
    x = torch.from_numpy(run.x)
    problem_.bind(x, torch.zeros_like(x), None)
    assert sorted(problem_.accuracies(x))[::3] == [between["eval/accuracy_worst"], between["eval/accuracy_best"]]
    assert between["phase"] == 3


def counted(monkeypatch, *words: str) -> list[int]:
    """Spreads that were computed in a run: one communication that is looked at takes two."""
    calls = []
    real = consensus.distance
    monkeypatch.setattr(consensus, "distance", lambda *a: calls.append(1) or real(*a))
    settings = settle((*QUADRATIC, "steps=400", *words))
    parts = Parts(settings)
    fleet = Stacked(Layout(8, parts.strategy.schedule.num_aux, 1))
    train(parts, fleet, parts.task.build(settings, fleet.workers, torch.device("cpu")), Lines())
    return len(calls)


@pytest.mark.parametrize(
    ("words", "most"),
    [
        (("algo=pasgd", "tau=1", "eval_every=100"), 1 + 2 * 4),  # the start, then the communications that are looked at
        (("algo=dpsgd", "tau=1", "eval_every=0"), 1 + 2),
        (("algo=pasgd", "tau=7", "eval_every=100"), 1 + 2 * 4),
        (("algo=pasgd", "tau=[[0,1],[90,50]]", "eval_every=100"), 1 + 2 * 4),
        (("algo=pasgd", "tau=1", "eval_every=100", "order=cta"), 1 + 4),  # looked at before it comes
        (("algo=fedavg", "tau=1", "eval_every=100"), 1 + 2 * 4),
        (("algo=pasgd", "tau=1", "period=post_local", "period.switch=500", "eval_every=100"), 1 + 2 * 4),
        (("algo=fullsync", "eval_every=100"), 1 + 2 * 4),
        # a rule that asks for the loss decides every 100 steps: only then can nobody tell how long the next round will be
        (("algo=pasgd", "tau=1", "period=adacomm", "period.interval=100", "eval_every=100"), 1 + 2 * 4 + 2 * 4),
    ],
)
def test_communications_that_nobody_will_look_at_cost_nothing(monkeypatch, words, most):
    assert counted(monkeypatch, *words) <= most


@pytest.mark.parametrize("period", ["period=adacomm", "period=qsr"])
def test_a_period_that_only_the_run_can_tell(process_groups, period):
    words = preset("dpsgd", "tau=4", period, "steps=60", "schedule=cosine")
    words += ("period.interval=10",) if period == "period=adacomm" else ("period.alpha=0.3",)
    often, rare = (play(process_groups, 2, *words, f"eval_every={n}").lines for n in (1, 7))
    by_step = {line["step"]: line for line in often}
    assert len({line["tau"] for line in often}) > 1
    for line in rare:
        for key in ("consensus", "consensus_after", "phase"):
            assert line[key] == by_step[line["step"]][key] and (line["step"] < 4 or line["consensus"] > 0)


def test_a_round_is_told_ahead_as_far_as_it_can_be():
    def ahead(period, k, loss=lambda: 1.0):
        rounds = Rounds(period, None, 4, loss, lambda: 0.0)
        for j in range(k):
            rounds.begin(j, 0.1)
            rounds.end(None)
        return rounds.ahead(k)

    assert ahead(Period(tau=3), 3) == 3 and ahead(Period(tau=[[0, 1], [5, 8]]), 4) == 1
    assert ahead(Period(tau=[[0, 1], [5, 8]]), 5) == 8
    assert ahead(PostLocal(tau=6, switch=4), 3) == 1 and ahead(PostLocal(tau=6, switch=4), 4) == 6
    assert ahead(PostLocal(tau=6), 3) == 6  # at most
    assert ahead(AdaComm(tau=2, interval=8), 6) == 2 and ahead(AdaComm(tau=2, interval=8), 8) is None


class Own(Period):
    """A rule of a user's, who says nothing of what can be foreseen."""

    def next(self, s, k, lr, loss, now):
        return 2 + k % 3, s


def test_nothing_is_foreseen_of_a_rule_that_does_not_say_so():
    assert not Own().foreseen and Own().largest is None and Rounds(Own(), None, 4).ahead(0) is None
    assert Period().foreseen and Period(tau=4).largest == 4


class Functional(Cooperative):
    """Averages by hand, out of place."""

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x)

    def receive(self, fleet, t, x, mean, s):
        return mean.expand_as(x), s


class Quiet(Cooperative):
    """Talks to nobody."""

    def send(self, fleet, t, x, s):
        return ()

    def receive(self, fleet, t, x, heard, s):
        return x, s


def test_a_strategy_of_ones_own(process_groups):
    words = preset("pasgd", "tau=4", *LOOKS)
    for processes in (1, 4):
        run = play(process_groups, processes, *words, "algo.strategy=test_consensus:Functional")
        matches(run.lines, expected(oracle.pasgd, problem(words)))
    alone = play(process_groups, 1, *words, "algo.strategy=test_consensus:Quiet").lines
    matches(alone, expected(oracle.ORACLES["independent"], problem(words)))


def test_looking_is_off_the_ledger_and_off_the_clock(process_groups):
    words = (*QUADRATIC, "algo=dpsgd", "tau=2", "cluster=wan_100m", "log_every=24")
    never, always = (play(process_groups, 2, *words, f"eval_every={n}") for n in (0, 1))
    assert never.logical == always.logical and never.wire_bytes == always.wire_bytes
    assert never.lines[-1]["sim_s"] == always.lines[-1]["sim_s"]
    np.testing.assert_array_equal(never.x, always.x)


def test_looking_is_not_training_time(process_groups, monkeypatch):
    import time

    slow = SupervisedProblem.accuracies

    def sleepy(self, x):
        time.sleep(0.05)
        return slow(self, x)

    monkeypatch.setattr(SupervisedProblem, "accuracies", sleepy)
    last = play(None, 1, *MLP, "algo=pasgd", "workers=2", "tau=1", "steps=20", "eval_every=1").lines[-1]
    assert last["wall_s"] - last["train_s"] > 20 * 0.05


def test_a_worker_that_leaves_the_numbers_is_seen_though_averaging_is_not_looked_at(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "optim.lr=1e30", "steps=24", "eval_every=12", "log_every=12")
    last = play(process_groups, 2, *words).lines[-1]
    assert last["step"] == 12 and not np.isfinite(last["consensus"])


def test_prediction_and_measurement_are_of_one_moment(process_groups, tmp_path):
    """Without curvature, over 2000 coordinates: within 8 % at every step, whatever the order."""
    np.save(tmp_path / "zero.npy", np.zeros((8, 2000)))
    flat = (*QUADRATIC, "steps=24", "task.heterogeneity=0", f"task.curvature={tmp_path}/zero.npy", "task.sigma=2", *LOOKS)
    for more in (
        ("algo=pasgd",),
        ("algo=dpsgd", "tau=3"),
        ("algo=dpsgd", "tau=3", "order=cta"),
        *(("algo=dpsgd", "tau=3", f"delay={delay}") for delay in (1, 2, "tau")),
        ("algo=fedavg", "tau=4"),
        ("algo=fullsync",),
    ):
        for line in play(process_groups, 1, *flat, *more).lines:
            assert line["consensus"] == pytest.approx(line["theory/consensus"], rel=0.08, abs=1e-20), (more, line["step"])


def in_parts(rank, settings, at_once):
    """consensus of each line, looked at so many numbers at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consensus, "AT_ONCE", at_once)
        return [line["consensus"] for line in run(rank, settings, 4)[4]]


@pytest.mark.parametrize("algo", ["easgd", "fedavg", "hierarchical"])
def test_rows_are_looked_at_in_parts_that_are_equal_in_every_process(process_groups, algo):
    """The process that holds the auxiliary models has more rows than others, and their collectives must match."""
    words = preset(algo, "steps=4", "workers=8", *LOOKS)
    whole = [line["consensus"] for line in play(process_groups, 4, *words).lines]
    for at_once in (7, 16):
        assert process_groups(4)(in_parts, settle(words), at_once)[0] == pytest.approx(whole, rel=1e-12)
