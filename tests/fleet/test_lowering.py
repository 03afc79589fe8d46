"""No plan is dearer than the best of all-reduce, all-gather and edge by edge, and every plan does what its matrix says."""

from __future__ import annotations

from itertools import product
from typing import Any

import arrays as matrices
import numpy as np
import pytest
import torch
from conftest import processor_time
from playing import mixed
from test_plan import KINDS, carried_out, example

from coopsgd.fleet.plan import Layout, choose_layout, lower
from coopsgd.fleet.price import price
from coopsgd.fleet.processes import Processes
from coopsgd.mixing import graphs
from coopsgd.mixing.matrix import Edges, frozen
from coopsgd.mixing.structured import Groups
from coopsgd.registry import lookup
from coopsgd.setup import catalogue


def rank(W: np.ndarray) -> int:
    """By singular values, which the planner does not use."""
    return int(np.linalg.matrix_rank(W, tol=1e-10 * np.abs(W).max())) if W.any() else 0


def baselines(W: np.ndarray, m: int, v: int, processes: int) -> dict[str, int]:
    """Vectors sent by three ways that anybody would think of."""
    home = Layout(m, v, processes, replicated=False).home
    least = rank(W)
    needed = [
        np.count_nonzero(W[np.ix_(home == p, home == q)].any(0)) for p in range(processes) for q in range(processes) if p != q
    ]
    return {
        "all-reduce": 2 * (processes - 1) * least,  # of the rows of a factor V, W = U V
        "all-gather": (processes - 1) * (m + v),  # every row to every other process
        "edge by edge": sum(needed),  # each row once to each process that takes something from it
    }


def examined(W: np.ndarray, m: int, v: int, processes: int) -> None:
    """The plan is its matrix, no dearer than the baselines, and sends nothing twice."""
    plan = lower(W, choose_layout([W], m, v, processes))
    np.testing.assert_allclose(carried_out(plan), W, rtol=0, atol=1e-12 * np.abs(W).max())
    assert plan.vectors <= min(baselines(W, m, v, processes).values())
    assert plan.sent.sum() == pytest.approx(plan.vectors)
    counts = {(p, q): k for p, q, k in zip(*(part.tolist() for part in plan.links), strict=True)}
    groups = [item.group for item in plan.sums]
    assert len(set(groups)) == len(groups), "two all-reduces over one group, where one would do"
    for item in plan.sums:
        assert len(item.group) > 1 or processes == 1
    for src in range(processes):
        out, _ = plan.edges(src)
        assert len({edge.dst for edge in out}) == len(out), "two messages on one edge"
        for edge in out:
            block = plan.rest.block(*(np.flatnonzero(plan.layout.home == q) for q in (edge.dst, edge.src)))
            assert edge.V.shape[0] == counts[edge.dst, src] == rank(block)  # fewer vectors cannot do it, so no row goes twice


TOPOLOGIES = [choice.name for choice in catalogue.choices("topology") if choice.name != "file"]  # one needs a file


@pytest.mark.parametrize("weights", list(matrices.WEIGHTS))
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_wherever_its_rows_are(topology, weights):
    tried = 0
    for m in (1, 2, 3, 4, 6, 8, 9, 12, 16):
        try:
            W = matrices.WEIGHTS[weights](lookup("graph", topology)().adjacency(m, 0))
        except ValueError:  # a hypercube of 3, a best constant of a directed graph
            continue
        for processes in (p for p in range(1, m + 1) if m % p == 0):
            tried += 1
            examined(W, m, 0, processes)
            anchored = np.block([[0.9 * W, np.full((m, 1), 0.1)], [np.full((1, m), 0.1), np.array([[1 - 0.1 * m]])]])
            examined(anchored, m, 1, processes)
    assert tried or (topology, weights) == ("exponential", "best_constant")


def random_matrix(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    W = rng.standard_normal((n, n)) if rng.random() < 0.5 else rng.random((n, n))
    if kind == "sparse":
        W *= rng.random((n, n)) < rng.choice([0.1, 0.3, 0.6])
    elif kind == "block":
        group = rng.integers(0, rng.choice([2, 3]), n)
        W *= group[:, None] == group
    elif kind == "low rank":
        k = int(rng.integers(1, max(2, n // 2 + 1)))
        W = W[:, :k] @ W[:k]
    return W


@pytest.mark.parametrize("kind", ["sparse", "dense", "block", "low rank"])
def test_two_hundred_random_matrices(kind):
    rng = np.random.default_rng(sum(map(ord, kind)))
    for _ in range(50):
        m, v = int(rng.choice([2, 4, 6, 8, 12, 16])), int(rng.choice([0, 0, 1, 3]))
        W = random_matrix(rng, kind, m + v)
        for processes in (p for p in range(1, m + 1) if m % p == 0):
            examined(W, m, v, processes)


def test_an_average_under_sparse_edges_is_a_sum_and_those_edges():
    ring = matrices.metropolis(graphs.Ring().adjacency(16))
    lazy = 0.5 * ring + 0.5 * matrices.average(16)  # gossip and a global average in one step
    for processes in (8, 16):
        plan = lower(lazy, Layout(16, 0, processes))
        assert plan.vectors == 2 * (processes - 1) + 2 * processes  # edges: P (P - 1); a sum of full rank: 2 (P - 1) 16
        assert len(plan.sums) == 1 and len(plan.links.src) == 2 * processes
        assert any("average" in line for line in plan.describe()) and any("edges" in line for line in plan.describe())
    # two tiers at once: averages within four groups of 4, and a ring between their first members
    heads = np.eye(16)
    heads[::4, ::4] = matrices.metropolis(graphs.Ring().adjacency(4))
    tiers = 0.7 * Groups(16, np.arange(16).reshape(4, 4).tolist()) + 0.3 * Edges.of(16, *np.nonzero(heads), heads[heads != 0])
    plan = lower(tiers, Layout(16, 0, 16), recurring=True)
    assert plan.vectors == 4 * 2 * 3 + 4 * 2 and sorted(len(item.group) for item in plan.sums) == [4] * 4


def test_the_price_does_not_depend_on_the_lowering():
    """The price list knows averages and edges; what the wire saves beyond them is not charged to the algorithm's merit."""
    rng = np.random.default_rng(0)
    W = rng.random((8, 1)) @ rng.random((1, 8)) + rng.random((8, 1)) @ rng.random((1, 8))
    assert price(W, 8).messages == 8 * 7  # any other off-diagonal nonzero: one
    assert lower(W, Layout(8, 0, 8)).vectors == 2 * 7 * 2
    assert price(0.5 * matrices.average(8) + 0.5 * matrices.metropolis(graphs.Ring().adjacency(8)), 8).messages == 56


def test_sums_over_some_are_for_what_comes_again():
    W = np.kron(np.eye(4), matrices.average(4))
    assert len(lower(W, Layout(16, 0, 16)).sums) == 4
    plan = lower(W, Layout(16, 0, 16), recurring=False)
    assert not plan.sums and plan.vectors == 4 * 12  # edge by edge: a group of processes is never given back
    np.testing.assert_allclose(carried_out(plan), W, rtol=0, atol=1e-15)
    assert len(lower(matrices.average(16), Layout(16, 0, 16), recurring=False).sums) == 1  # the group of all is there anyway


def test_an_ill_conditioned_completion_is_not_used():
    """Off the diagonal u v', but its own entries would be 1e8: float32 rows would drown in them."""
    u = np.array([1e4, 1, 1, 1, 1, 1])
    v = np.array([1e4, 1, 1, 1, 1, 1])
    W = np.outer(u, v)
    np.fill_diagonal(W, 1)
    plan = lower(W, Layout(6, 0, 6))
    assert all((np.abs(item.U) @ np.abs(item.V)).max() <= 1e3 * np.abs(W).max() for item in plan.sums)
    np.testing.assert_allclose(carried_out(plan), W, rtol=0, atol=1e-12 * np.abs(W).max())


def pulled(rank: int, processes: int, v: int, Ws: list[np.ndarray], x: np.ndarray) -> list[Any]:
    """What each W makes of the rows here: of all columns, of some within wider rows, of two tensors, and started early."""
    m, found = len(x) - v, []
    for W in Ws:
        fleet = Processes(Layout(m, v, processes), rank)
        rows = torch.from_numpy(x[fleet.layout.rows(rank)])
        wide, parts, early = torch.cat([rows, rows, rows], 1), [c.clone() for c in rows.split(20, 1)], rows.clone()
        inside = wide[:, 37:74]
        fleet.mix(frozen(W), rows)
        fleet.mix(frozen(W), inside)
        fleet.mix(frozen(W), *parts)
        sent = fleet.later(fleet.mix, frozen(W), early)
        early += 1
        assert torch.equal(sent.wait(), rows) and torch.equal(inside, rows) and torch.equal(torch.cat(parts, 1), rows)
        assert torch.equal(wide[:, :37], wide[:, 74:])
        found.append((rows.numpy(), fleet.planned(frozen(W), rows).lowered.at_once is not None))
    return found


@pytest.mark.parametrize(("processes", "v", "m"), [(2, 1, 2), (4, 1, 4), (4, 1, 8), (2, 2, 4), (4, 1, 32)])
def test_copies_of_auxiliary_rows_are_summed_where_they_lie(process_groups, processes, v, m):
    """A process adds its part to its copy, and the copies become their sum: nothing is set aside, and all copies are alike."""
    rng, n = np.random.default_rng([processes, v, m]), m + v
    elastic, upload, both = np.eye(n), np.eye(n), np.eye(n)
    elastic[np.arange(m), m + np.arange(m) % v] = 0.2
    elastic[m + np.arange(m) % v, np.arange(m)] = 0.1
    elastic[np.arange(n), np.arange(n)] = [0.8] * m + [1 - 0.1 * m / v] * v
    upload[m:] = rng.random((v, n))
    upload[m:, m:] = rng.random((v, v))
    both[:, :m] = rng.random((n, m)) @ rng.random((m, m))  # the workers want a sum too
    x = rng.standard_normal((n, 37))
    answers = process_groups(processes)(pulled, processes, v, [elastic, upload, both], x)
    share = m // processes
    for number, W in enumerate((elastic, upload, both)):
        for q, answer in enumerate(answers):
            rows, at_once = answer[number]
            np.testing.assert_allclose(
                rows[:share], (W @ x)[q * share : (q + 1) * share], rtol=0, atol=1e-12 * n * np.abs(W).max()
            )
            np.testing.assert_allclose(rows[share:], (W @ x)[m:], rtol=0, atol=1e-12 * n * np.abs(W).max())
            np.testing.assert_array_equal(rows[share:], answers[0][number][0][share:])
            assert at_once == (number < 2 and share + v <= 6)


@pytest.mark.parametrize("v", [0, 1, 3])
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_plans_run_as_they_are_drawn(process_groups, processes, v):
    rng = np.random.default_rng([processes, v])
    for m in (8, 16):
        n, home = m + v, Layout(m, v, processes, replicated=False).home
        Ws = [random_matrix(rng, kind, n) for kind in ("sparse", "dense", "block", "low rank")]
        Ws.append(np.where(home[:, None] == home, rng.standard_normal((n, n)), rng.random((n, 2)) @ rng.random((2, n))))
        mixture = np.eye(n)
        mixture[:m, :m] = 0.5 * matrices.average(m) + 0.5 * matrices.metropolis(graphs.Ring().adjacency(m))
        Ws.append(mixture)
        x = rng.standard_normal((n, 37))
        answers = process_groups(processes)(mixed, processes, v, Ws, x)
        for number, W in enumerate(Ws):
            np.testing.assert_allclose(answers[0][number][0], W @ x, rtol=0, atol=1e-12 * np.abs(W).max() * n)
            for answer in answers:
                planned, charged, handed_over = answer[number][1]
                assert planned == pytest.approx(charged) == pytest.approx(handed_over)


@pytest.mark.parametrize(
    ("limit", "W", "processes"),
    [
        (0.5, matrices.average(1024), 16),
        (0.5, matrices.metropolis(graphs.Ring().adjacency(1024)), 16),
        (2, np.random.default_rng(0).random((1024, 2)) @ np.random.default_rng(1).random((2, 1024)), 16),
        (2, np.random.default_rng(0).random((1024, 1024)), 16),
        (0.1, np.random.default_rng(0).random((1024, 1024)), 1),
    ],
)
def test_planning_is_fast(limit, W, processes):  # with a factor of ten to spare on an idle machine
    assert processor_time(lambda: lower(W, Layout(1024, 0, processes)), 1) < limit


def test_auxiliary_rows_lie_where_no_matrix_of_the_schedule_is_dear():
    """Placed by the first matrix, later ones cost up to twice the best of the three simple ways."""
    rng, dearer = np.random.default_rng(0), 0

    def costs(schedule: list[np.ndarray], layout: Layout) -> np.ndarray:
        return np.array([lower(W, layout).vectors for W in schedule])

    for m, kind in product((4, 6, 8), KINDS):
        first = matrices.elastic(m, 0.1)  # on which replicas are as good as owners
        schedule = [first, *(example(rng, m, 1, kind) for _ in range(2))]
        for processes in (p for p in range(2, m + 1) if m % p == 0):
            best = [min(baselines(W, m, 1, processes).values()) for W in schedule]
            assert (costs(schedule, choose_layout(schedule, m, 1, processes)) <= best).all()
            dearer += bool((costs(schedule, choose_layout([first], m, 1, processes)) > best).any())
    assert dearer >= 10, "the first matrix would have been enough"


def test_a_schedule_that_never_repeats_has_owners():
    J = matrices.elastic(4, 0.1)
    assert choose_layout([J], 4, 1, 4).replicated and not choose_layout(None, 4, 1, 4).replicated
    assert choose_layout(None, 4, 0, 4).replicated  # where there is nothing to own
