"""The clock against closed forms, against loops over workers, and against itself: one time on every placement."""

from __future__ import annotations

import json
import math

import arrays as matrices
import numpy as np
import pytest
from conftest import processor_time
from playing import CNN, QUADRATIC, play, settle
from probes import probe_of

from coopsgd.fleet.price import price
from coopsgd.mixing.graphs import Ring, Star, Torus
from coopsgd.predict.clock.clock import Clock
from coopsgd.predict.clock.clusters import FromProbe, Links, bits
from coopsgd.predict.clock.network import all_reduce_s
from coopsgd.predict.rehearsal import rehearse
from coopsgd.setup import catalogue
from coopsgd.setup.parts import Parts

A, B = 0.003, 2e6  # seconds a message, bytes a second
N = 10_000  # bytes of a model
EXACT = {"rel": 1e-12, "abs": 0}  # the same few products, added in another order


def links(**more):
    return Links(**{"latency_s": A, "bandwidth": 8 * B} | more)


def spent(Ws, m, v=0, server_owns_aux=False, **cluster):
    """Seconds of mixings one after another, all workers having begun together."""
    clock = Clock(links(**cluster), m, v, server_owns_aux, seed=0)
    for W in Ws:
        clock.reach(clock.ends(clock.parts(price(W, m, server_owns_aux)), N))
    return clock.now


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 6, 8, 16])
def test_all_reduces_cost_what_the_table_says(p):
    log = math.ceil(math.log2(p))
    table = {
        "ring": 2 * (p - 1) * A + 2 * (p - 1) / p * N / B,
        "tree": 2 * log * (A + N / B),
        "halving_doubling": 2 * log * A + 2 * (p - 1) / p * N / B,
    }
    for name, seconds in table.items():
        assert spent([matrices.average(p)], p, all_reduce=name) == pytest.approx(seconds, **EXACT)


def test_a_tree_goes_up_and_down():
    to_root, from_root = 1.0, 5.0
    latency = np.zeros((4, 4))
    latency[0, 1:], latency[1:, 0] = to_root, from_root  # [to, from]
    group, none = np.arange(4), np.zeros((4, 4))
    # up: 1 to 0 and 3 to 2, then 2 to 0; down the same way back
    assert all_reduce_s("tree", group, N, latency, none, group) == 2 * (to_root + from_root)


@pytest.mark.parametrize("p", [2, 4, 9])
def test_a_server_is_the_bottleneck(p):
    everyone = np.ones(p, dtype=bool)
    Ws = matrices.upload(everyone / p), matrices.download(everyone)
    assert spent(Ws, p, 1, True) == pytest.approx(2 * A + 2 * p * N / B, **EXACT)
    assert spent(Ws, p, 1, True, ports="one") == pytest.approx(2 * p * (A + N / B), **EXACT)
    assert spent(Ws, p, 1, True, ports="parallel") == pytest.approx(2 * (A + N / B), **EXACT)


@pytest.mark.parametrize(("graph", "m", "degree"), [(Ring(), 8, 2), (Ring(), 5, 2), (Torus(), 16, 4), (Star(), 6, 5)])
def test_gossip_costs_its_degree_or_not(graph, m, degree):
    W = [matrices.metropolis(graph.adjacency(m, 0))]
    assert spent(W, m, ports="one") == pytest.approx(degree * (A + N / B), **EXACT)
    assert spent(W, m, ports="parallel") == pytest.approx(A + N / B, **EXACT)
    assert spent(W, m) == pytest.approx(A + degree * N / B, **EXACT)  # a network card: the latency once, the bytes share it


def test_matchings_cost_one_message_each():
    # an even ring is two matchings: one of them is one message a worker; MATCHA with both active two, on one port
    m, half = 8, np.zeros((8, 8), dtype=bool)
    for i in range(0, m, 2):
        half[i, i + 1] = half[i + 1, i] = True
    other = np.roll(half, 1, axis=(0, 1))
    for ports in ("nic", "one", "parallel"):
        assert spent([matrices.metropolis(half)], m, ports=ports) == pytest.approx(A + N / B, **EXACT)
    assert spent([matrices.metropolis(half | other)], m, ports="one") == pytest.approx(2 * (A + N / B), **EXACT)


def test_two_levels_are_a_ring_in_each_group_and_one_over_groups():
    slow = {"latency_s": [[A, 9 * A], [9 * A, A]], "bandwidth": [[8 * B, B], [B, 8 * B]], "groups": 2}
    inside, across = 2 * 3 * A + 2 * 3 / 4 * N / B, 2 * 1 * 9 * A + 2 * 1 / 2 * N / (B / 8)
    J, m = matrices.average(8), 8
    assert spent([J], m, all_reduce="two_level", **slow) == pytest.approx(inside + across, **EXACT)
    groups = np.kron(np.eye(2), np.full((4, 4), 1 / 4))
    assert spent([groups], m, all_reduce="ring", **slow) == pytest.approx(inside, **EXACT)  # the slow line is not used
    # a ring over all eight crosses it in every one of its 14 rounds
    assert spent([J], m, all_reduce="ring", **slow) == pytest.approx(14 * (9 * A + N / 8 / (B / 8)), **EXACT)


def words(*more):
    # no message takes any time, so that steps alone are seen
    return (*QUADRATIC, "cluster=custom", "cluster.step_s=1", "cluster.latency_s=0", "cluster.bandwidth=1e30", *more)


def rehearsed(*more, steps=None):
    settings = settle(more)
    return rehearse(Parts(settings), settings.steps if steps is None else steps)


# E[max over m workers of the mean of tau draws of Exp(1)], by integrating 1 - F^m of Erlang
STRAGGLERS = {
    (16, 1): 3.381, (16, 2): 2.587, (16, 4): 2.063, (16, 10): 1.634, (16, 20): 1.433, (16, 50): 1.265, (16, 100): 1.185,
    (8, 1): 2.718, (8, 4): 1.808, (8, 10): 1.492, (8, 20): 1.340,
}  # fmt: skip


@pytest.mark.parametrize(("m", "tau"), STRAGGLERS)
def test_a_round_takes_as_long_as_its_straggler(m, tau):
    # the spread of one round's maximum is at most 0.4 of it, so of 12000 steps 0.4 % at tau = 1, and less than that above
    times = rehearsed(*words("algo=pasgd", f"workers={m}", f"tau={tau}", "cluster.step=exponential"), steps=12_000)
    assert times[-1] / 12_000 == pytest.approx(STRAGGLERS[m, tau], rel=0.01)


@pytest.mark.parametrize(
    ("step", "more"), [("exponential", ["cluster.jitter=0.25"]), ("pareto", ["cluster.tail=4"]), ("constant", [])]
)
def test_a_step_takes_its_mean(step, more):
    # one worker alone: Exp has a spread of 1, a quarter of it 0.25; Pareto of index 4 one of 0.35: 1 % is four spreads or more
    times = rehearsed(*words("algo=pasgd", "workers=1", f"cluster.step={step}", *more), steps=20_000)
    assert times[-1] / 20_000 == pytest.approx(1, rel=0.01)
    # the constant share: no step is shorter
    assert np.diff(times).min() >= {"exponential": 0.75, "pareto": 0.75 - 1e-12, "constant": 1}[step]


@pytest.mark.parametrize(("a", "table"), [(0.1, 1.09), (0.9, 1.74), (1, 1.82), (4, 3.57)])
def test_constant_times_speed_up_as_they_must(a, table):
    # D = 2 (m - 1) latency = a, Y = 1: (1 + a) / (1 + a / tau)
    cluster = words(f"cluster.latency_s={a / 14}")
    sync, rare = rehearsed(*cluster, "algo=fullsync"), rehearsed(*cluster, "algo=pasgd", "tau=10", steps=20)
    assert (sync[19] if len(sync) > 19 else sync[-1]) / rare[19] == pytest.approx((1 + a) / (1 + a / 10), rel=1e-9)
    assert round((1 + a) / (1 + a / 10), 2) == table


def test_gossip_waits_for_neighbours_only():
    cluster = ("cluster.step=exponential", "cluster.latency_s=0.25", "cluster.ports=parallel")
    times = rehearsed(*words("algo=dpsgd", "topology=ring", *cluster))
    settings = settle(words("algo=dpsgd", "topology=ring", *cluster))
    made, t = Parts(settings).cluster, [0.0] * 8
    for k in range(24):
        own = [t[i] + made.step_times(8, settings.seed, k)[i] for i in range(8)]
        t = [max(own[i], own[i - 1] + 0.25, own[(i + 1) % 8] + 0.25) for i in range(8)]
        assert times[k] == pytest.approx(max(t), rel=1e-12)
    assert times[-1] < rehearsed(*words("algo=fullsync", *cluster))[-1]


def test_a_slow_worker_is_felt_one_neighbour_further_a_round():
    clock = Clock(links(speeds=[0.1, 1, 1, 1, 1, 1, 1, 1], step_s=1.0, latency_s=0), 8, 0, False, 0)
    parts = clock.parts(price(matrices.metropolis(Ring().adjacency(8, 0)), 8))
    for k, late in enumerate([{7, 0, 1}, {6, 7, 0, 1, 2}]):
        clock.begin(k, None)
        clock.compute()
        clock.reach(clock.ends(parts, 0))
        assert set(np.flatnonzero(clock.t >= 10 * 1).tolist()) == late


def test_a_server_waits_for_its_clients_and_idle_workers_for_nobody():
    # tau = 3 steps of 1 s, then two clients send (latency + 2 n / B) and the next two receive (the same)
    times = rehearsed(
        *words("algo=fedavg", "workers=4", "tau=3", "algo.fraction=0.5", "cluster.latency_s=0.5", "cluster.bandwidth=640")
    )
    sent = 0.5 + 2 * 10 * 8 * 8 / 640  # ten numbers of 8 bytes
    assert times[2::3] == pytest.approx([r * (3 + 2 * sent) for r in range(1, 9)], rel=1e-12)


@pytest.mark.parametrize("latency", [0.1, 1.0, 2.5])
def test_a_message_takes_its_time_or_hides_behind_a_step(latency):
    cluster = words("algo=dpsgd", "topology=ring", f"cluster.latency_s={latency}")
    k = np.arange(1, 25)
    assert rehearsed(*cluster, "delay=1") == pytest.approx(k * max(1, latency), rel=1e-12)
    assert rehearsed(*cluster, "order=atc") == pytest.approx(k * (1 + latency), rel=1e-12)
    # cta: the communication that follows a step is begun by the next one
    assert rehearsed(*cluster, "order=cta") == pytest.approx(k + (k - 1) * latency, rel=1e-12)


@pytest.mark.parametrize("delay", [0, 1, 2, 3, "tau"])
def test_a_message_hides_behind_as_many_steps_as_it_is_given(delay):
    cluster = words("algo=dpsgd", "topology=ring", "tau=3", "cluster.latency_s=2.5", f"delay={delay}")
    times = rehearsed(*cluster)
    hidden = 3 if delay == "tau" else delay
    assert times[2::3] == pytest.approx(np.arange(1, 9) * (3 + max(0, 2.5 - hidden)), rel=1e-12)


def test_what_is_mixed_is_what_is_sent():
    # 80 bit/s: a byte takes a tenth of a second; a J over 8 moves 2 * 7 / 8 of ten numbers of 8 bytes
    cluster = words("algo=pasgd", "tau=1", "cluster.step_s=0", "cluster.bandwidth=80")
    D = 2 * 7 / 8 * 80 / 10
    assert rehearsed(*cluster)[0] == pytest.approx(D, rel=1e-12)
    assert rehearsed(*cluster, "buffers=average", "optim.momentum=0.9")[0] == pytest.approx(2 * D, rel=1e-12)
    # AdaComm asks for the loss, one number of 8 bytes: asked at the second round
    lines = play(None, 1, *cluster, "period=adacomm", "period.interval=1", "log_every=1").lines
    asked = 2 * 7 / 8 * 8 / 10
    assert lines[1]["sim_s"] == pytest.approx(D, rel=1e-12)
    assert lines[2]["sim_s"] == pytest.approx(2 * D + asked, rel=1e-12)


CLUSTER = ("cluster=wan_20m", "cluster.step=exponential", "log_every=1")
RUNS = {
    "fullsync": ["algo=fullsync"],
    "pasgd": ["algo=pasgd", "tau=3"],
    "easgd cta": ["algo=easgd", "tau=2", "order=cta"],
    "ring": ["algo=dpsgd", "cluster=two_sites"],
    "a delay": ["algo=dpsgd", "topology=torus", "delay=1"],
    "a delay of factors": ["algo=pairwise", "algo.events=3", "delay=1"],
    "a delay of some steps": ["algo=gea", "tau=[[0,4],[8,2],[12,5]]", "delay=2"],
    "a delay of rounds": ["algo=pasgd", "tau=[[0,1],[5,3]]", "delay=tau"],
    "matching": ["algo=matching", "topology=complete", "cluster.ports=one"],
    "matcha": ["algo=matcha", "cluster.ports=parallel"],
    "fedavg": ["algo=fedavg", "tau=2"],
    "parameter server": ["algo=parameter_server", "tau=2", "cluster.speeds=[1,1,1,1,1,1,2,0.5]"],
    "hierarchical": ["algo=hierarchical", "tau=[[0,1],[5,3]]", "cluster.all_reduce=tree"],
    "gea": ["algo=gea", "tau=2", "cluster.all_reduce=halving_doubling"],
    "qsr": ["algo=pasgd", "tau=2", "period=qsr", "schedule=cosine", "period.alpha=0.2"],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_rehearsal_is_what_a_run_logs_wherever_its_rows_are(process_groups, name):
    run = (
        *QUADRATIC,
        *(word for word in CLUSTER if word.split("=")[0] not in {w.split("=")[0] for w in RUNS[name]}),
        *RUNS[name],
    )
    logged = {p: [line["sim_s"] for line in play(process_groups, p, *run).lines] for p in (1, 2, 4)}
    assert logged[1] == logged[2] == logged[4]
    assert logged[1][0] == 0
    np.testing.assert_array_equal(logged[1][1:], rehearsed(*run))


def test_a_model_with_statistics_sends_them_too(process_groups):
    run = (*CNN, "model.norm=batch", "workers=2", "steps=3", "batch_size=4", "cluster=wan_20m", "algo=dpsgd", "log_every=1")
    for more in ([], ["norm_stats=local"], ["delay=1"], ["delay=tau", "tau=2"]):
        logged = [line["sim_s"] for line in play(process_groups, 1, *run, *more).lines[1:]]
        np.testing.assert_array_equal(logged, rehearsed(*run, *more))
    assert rehearsed(*run)[-1] > rehearsed(*run, "norm_stats=local")[-1]


def test_measuring_costs_no_time():
    run = (*QUADRATIC, *CLUSTER, "algo=easgd")
    often, never = (play(None, 1, *run, f"eval_every={every}").lines[-1]["sim_s"] for every in (1, 0))
    assert often == never


def test_a_rehearsal_is_fast():
    settings = settle(("task=quadratic", "workers=64", "algo=dpsgd", "topology=ring", "cluster=ethernet_1g", "steps=1000"))
    parts = Parts(settings)
    assert processor_time(lambda: rehearse(parts, 1000)) < 0.5  # 0.07 s on an idle core


def test_what_cannot_be_rehearsed_says_so():
    with pytest.raises(ValueError, match="period=adacomm: goes by the loss"):
        rehearsed(*words("algo=pasgd", "period=adacomm"))
    with pytest.raises(ValueError, match="cluster: is missing"):
        rehearsed(*QUADRATIC, "algo=pasgd")


def test_a_probe_is_taken_at_its_word(tmp_path):
    file = tmp_path / "probe.json"
    file.write_text(probe_of(*QUADRATIC))
    cluster = (*QUADRATIC, "workers=4", "cluster=from_probe", f"cluster.file={file}")
    n = 80  # bytes: ten numbers
    assert rehearsed(*cluster, "algo=fullsync")[0] == pytest.approx(3 + 0.6 + 1e-3 * n, rel=1e-12)
    assert rehearsed(*cluster, "algo=fullsync", "cluster.own_speeds=false")[0] == pytest.approx(2 + 0.6 + 1e-3 * n, rel=1e-12)
    # a ring of four: the slowest's neighbours have its message 0.1 s and two messages' bytes after it was done
    assert rehearsed(*cluster, "algo=dpsgd")[0] == pytest.approx(3 + 0.1 + 2 * 2e-3 * n, rel=1e-12)
    assert rehearsed(*cluster, "workers=1", "cluster.own_speeds=false")[-1] == pytest.approx(
        24 * 2, rel=1e-12
    )  # nobody to talk to
    # groups of two of four: a ring has 1 of 3 latencies and (1/2) / (3/4) of the bytes
    pair = 0.6 / 3 + 1e-3 * n * (1 / 2) / (3 / 4)
    assert FromProbe(file=str(file)).network(4, 4).all_reduce(np.arange(2), n) == pytest.approx(pair, rel=1e-12)


BAD = {
    "unknown": (["cluster=wan_10m"], ["cluster", "wan_10m", "wan_100m"]),
    "a key of none": (["cluster.ports=one"], ["cluster", "missing", "coopsgd list"]),
    "unknown key": (["cluster=wan_20m", "cluster.speed=3"], ["cluster.speed", "did you mean speeds"]),
    "more workers than there are": (["cluster=wan_20m", "cluster.groups=[4,1]"], ["cluster.groups", "add up", "4", "[4, 1]"]),
    "groups that leave one out": (
        ["cluster=wan_20m", "cluster.groups=[[0,1],[3]]"],
        ["cluster.groups", "worker 2", "no group"],
    ),
    "speeds of five": (["cluster=wan_20m", "cluster.speeds=[1,1,1,1,1]"], ["cluster.speeds", "5", "workers=4"]),
    "a speed of nothing": (["cluster=wan_20m", "cluster.speeds=[1,1,1,0]"], ["cluster.speeds", "positive"]),
    "negative bandwidth": (["cluster=wan_20m", "cluster.bandwidth=-5 Mbit/s"], ["cluster.bandwidth", "-5 Mbit/s", "positive"]),
    "no bandwidth": (["cluster=wan_20m", "cluster.bandwidth=0"], ["cluster.bandwidth", "positive", "0"]),
    "a bandwidth in bytes": (["cluster=wan_20m", "cluster.bandwidth=5 MB/s"], ["cluster.bandwidth", "5 MB/s", "Mbit/s"]),
    "negative latency": (["cluster=wan_20m", "cluster.latency_s=-0.1"], ["cluster.latency_s", "-0.1"]),
    "a matrix of three": (
        ["cluster=wan_20m", "cluster.latency_s=[[0,1,1],[1,0,1],[1,1,0]]"],
        ["cluster.latency_s", "3", "4 workers"],
    ),
    "a matrix that is none": (["cluster=wan_20m", "cluster.latency_s=[[0,1],[1]]"], ["cluster.latency_s", "square"]),
    "unknown all-reduce": (["cluster=wan_20m", "cluster.all_reduce=star"], ["cluster.all_reduce", "star", "tree"]),
    "two levels of nothing": (["cluster=wan_20m", "cluster.all_reduce=two_level"], ["cluster.groups"]),
    "a step that takes less than nothing": (["cluster=wan_20m", "cluster.step_s=-1"], ["cluster.step_s", "-1"]),
    "a tail without a mean": (["cluster=wan_20m", "cluster.step=pareto", "cluster.tail=1"], ["cluster.tail", "above 1"]),
    "jitter above one": (["cluster=wan_20m", "cluster.jitter=1.5"], ["cluster.jitter", "[0, 1]", "1.5"]),
    "unknown ports": (["cluster=wan_20m", "cluster.ports=two"], ["cluster.ports", "two", "nic"]),
    "no probe": (["cluster=from_probe"], ["cluster.file", "missing", "coopsgd probe"]),
    "a probe that is not there": (["cluster=from_probe", "cluster.file=no.json"], ["no.json", "No such file"]),
    "a probe that is none": (
        ["cluster=from_probe", "cluster.file=other.json"],
        ["other.json", "no probe file"],
    ),
    "a probe without a network": (
        ["cluster=from_probe", "cluster.file=alone.json"],
        ["cluster.file", "no network", "processes=2"],
    ),
    "a probe of another task": (["cluster=from_probe", "cluster.file=longer.json"], ["longer.json", "11", "10"]),
    "a probe of others": (
        ["cluster=from_probe", "cluster.file=probe.json", "workers=3"],
        ["4 workers", "workers=3", "own_speeds"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_cluster_that_cannot_be_is_one_line(cli, tmp_path, case):
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "alone.json").write_text(probe_of("task=quadratic", network=None))
    (tmp_path / "probe.json").write_text(probe_of("task=quadratic"))
    (tmp_path / "longer.json").write_text(probe_of("task=quadratic", "task.dim=11"))
    given, message = BAD[case]
    ended = cli("show", "task=quadratic", "workers=4", *given)
    assert ended.code == 2 and len(ended.lines) == 1, ended
    assert all(word in ended.err for word in message), ended.err


def test_bandwidths_in_words():
    assert bits("25 Gbit/s") == 25e9 and bits("100mbit") == 1e8 and bits("1.5e3 kbit/s") == 1.5e6 and bits(20) == 20


def test_a_run_tells_its_simulated_seconds(cli, tmp_path):
    (tmp_path / "probe.json").write_text(probe_of("task=quadratic"))
    run = ["algo=pasgd", "tau=2", "workers=4", "task=quadratic", "steps=4", "log_every=2"]
    ended = cli("train", *run, "processes=2", "cluster=from_probe", "cluster.file=probe.json", "hydra.run.dir=out")
    assert ended.code == 0, ended.err
    assert "13.28 s (" in ended.out
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    D = 0.6 + 1e-3 * 40  # ten numbers of 4 bytes
    assert [line["sim_s"] for line in lines] == pytest.approx([0, 6 + D, 12 + 2 * D], rel=1e-12)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["sim_s"] == lines[-1]["sim_s"] and summary["cluster"]["name"] == "from_probe"
    assert b"train/sim_s" in next((tmp_path / "out").glob("events*")).read_bytes()
    # the folder alone repeats the run
    (tmp_path / "probe.json").unlink()
    assert cli("train", "--config-path", "out", "--config-name", "config", "hydra.run.dir=again").code == 0
    without = cli("train", *run, "hydra.run.dir=none")
    assert without.code == 0 and "sim_s" not in (tmp_path / "none" / "metrics.jsonl").read_text()


def test_it_is_listed_shown_and_in_the_help(cli):
    assert "wan_100m" in cli("list").out and "wan_100m" in catalogue.help_text()
    found = cli("show", "cluster=datacenter").out
    assert "the clock runs on: 25 Gbit/s, 2.5e-05 s a message, all-reduce by ring" in found
