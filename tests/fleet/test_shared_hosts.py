"""Hosts of several processes: a verb is what one process makes of all rows, and what crosses is that of one process a host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing import CNN, QUADRATIC, play, play_settled, settle
from test_shared import M, matrix, verbs

from coopsgd.fleet.plan import Layout
from coopsgd.fleet.processes import Processes


def sent_by_one_a_host(rank, hosts, v, W, x, dtype):
    """wire_bytes of the same verbs where each host is a process, whose auxiliary rows have owners."""
    fleet = Processes(Layout(M, v, hosts, replicated=not v), rank)
    given = torch.from_numpy(x[fleet.layout.rows(rank)]).to(dtype)
    fleet.mean(given)
    for i in (0, M - 1, M + v - 1):
        fleet.pick(given, i)
    fleet.mean(given, given[:, :3].contiguous())
    for _ in range(2):
        fleet.mix(W, given)
    fleet.mean(given)
    fleet.pick(given, M - 1)
    fleet.mix(W, given, given[:, :5].contiguous())
    return fleet.ledger.wire_bytes


@pytest.mark.parametrize(("processes", "each"), [(4, 2), (4, 1), (4, 4)])
@pytest.mark.parametrize("v", [0, 1, 3])
@pytest.mark.parametrize("kind", ["average", "ring", "elastic", "random"])
def test_every_verb_is_that_of_one_process(process_groups, kind, v, processes, each):
    dtype, d = (torch.float32, 777) if v == 1 else (torch.float64, 20_011 if v else 7)
    W, x = matrix(kind, v), np.random.default_rng(1).normal(size=(M + v, d))
    _, alone, charged, _ = verbs(0, 1, v, W, x, dtype, owned=False)
    hosts = processes // each
    crossing = process_groups(hosts)(sent_by_one_a_host, hosts, v, W, x, dtype)[0] if hosts > 1 else 0
    for owned in (False, True):
        for rows, found, logical, wire in process_groups(processes)(verbs, processes, v, W, x, dtype, owned, each):
            assert logical == charged
            assert wire == pytest.approx(crossing, abs=2)
            np.testing.assert_array_equal(found["total"], [processes * (processes + 1) / 2, 2 * processes])
            if rows[0] == 0:
                assert torch.equal(found["gather"], alone["gather"])
            close = {"rtol": 0, "atol": 1e-14 if dtype == torch.float64 else 1e-6}
            torch.testing.assert_close(found["mean"], alone["mean"], **close)
            torch.testing.assert_close(found["means"], alone["means"], **close)
            assert all(map(torch.equal, found["pick"], alone["pick"]))
            for mine, whole in zip((*found["mix"], *found["later"][:2]), (*alone["mix"], *alone["later"][:2]), strict=True):
                torch.testing.assert_close(mine, whole[rows], rtol=0, atol=20 * close["atol"])
            torch.testing.assert_close(found["later"][2], alone["later"][2], **close)
            assert torch.equal(found["later"][3], alone["later"][3])


RUNS = {
    "a mean": ("algo=pasgd", "tau=3"),
    "a centre": ("algo=easgd", "tau=2", "delay=1"),
    "a ring": ("algo=dpsgd", "topology=ring", "tau=1", "delay=1"),
    "groups": ("algo=two_level", "algo.groups=2", "algo.tau_2=4", "tau=2"),
    "an outer step": ("algo=diloco", "tau=4"),
    "top-k over a ring": ("algo=choco", "tau=1"),
    "signs": ("algo=pasgd", "codec=sign", "tau=2"),
    "a lookup of one": ("algo=parameter_server", "tau=2"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_one_process(process_groups, name):
    words = (*QUADRATIC, *RUNS[name])
    one, hosts = play(process_groups, 1, *words), play_settled(process_groups, 4, settle(words), each=2)
    np.testing.assert_allclose(hosts.x, one.x, rtol=0, atol=1e-12)
    assert hosts.logical == one.logical


def test_a_network_with_running_statistics_is_too(process_groups):
    words = (*CNN, "workers=4", "model.norm=batch", "algo=pasgd", "tau=2", "steps=4", "batch_size=4")
    one, hosts = play(process_groups, 1, *words), play_settled(process_groups, 4, settle(words), each=2)
    np.testing.assert_allclose(hosts.x, one.x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(hosts.stats, one.stats, rtol=0, atol=1e-12)
    wire = 2 * 2 * sum(x.shape[1] * 8 for x in (one.x, one.stats))  # two rounds, of a sum over two hosts 2 vectors each
    assert hosts.wire_bytes == wire
