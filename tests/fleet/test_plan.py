"""Lowering: a plan does what W says, and costs no more than the best of all-reduce, all-gather and edge by edge."""

from __future__ import annotations

import arrays as matrices
import numpy as np
import pytest
from conftest import processor_time

from coopsgd.fleet.plan import Layout, choose_layout, lower
from coopsgd.fleet.price import average_price, price
from coopsgd.mixing import graphs


def carried_out(plan) -> np.ndarray:
    """What every row ends up with when the plan is executed on x = I, so that the answer is the matrix itself."""
    layout = plan.layout
    x, result = np.eye(layout.n), np.full((layout.n, layout.n), np.nan)

    def contributes(q):
        return list(layout.workers(q)) if layout.replicated else layout.rows(q)

    for q in range(layout.processes):
        rows = layout.rows(q)
        y = plan.stay(q) @ x[rows]
        for item in plan.sums:
            if q in item.group:
                y += item.U[rows] @ sum(item.V[:, contributes(p)] @ x[contributes(p)] for p in item.group)
        for edge in plan.edges(q)[1]:
            sender = layout.rows(edge.src)
            y += edge.U.dense()[rows] @ (edge.V.dense()[:, sender] @ x[sender])
        for at, row in enumerate(rows):
            if not np.isnan(result[row, 0]):  # a replica: the same on every process
                np.testing.assert_allclose(result[row], y[at], rtol=0, atol=1e-12)
            result[row] = y[at]
    return result


def example(rng: np.random.Generator, m: int, v: int, kind: str) -> np.ndarray:
    n = m + v
    W = rng.standard_normal((n, n))
    if kind == "sparse":
        W *= rng.random((n, n)) < 0.3
    elif kind == "diagonal plus rank one":
        W = np.outer(rng.random(n), rng.random(n)) + np.diag(rng.random(n))
    elif kind == "low rank":
        W = W[:, :2] @ W[:2]
    elif kind == "edges":
        W = np.eye(n) + (rng.random((n, n)) < 0.1)
    elif kind == "average of workers":
        W[:m, :m] = 1 / m
    elif kind == "blocks":
        W[:m, :m] = np.kron(np.eye(2), np.full((m // 2, m // 2), 2 / m))
        W[:m, m:] = 0
    return W


KINDS = ["dense", "sparse", "diagonal plus rank one", "low rank", "edges", "average of workers", "blocks"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_is_its_matrix_and_never_dear(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(30):
        m, v = int(rng.choice([2, 4, 6, 8, 12, 16])), int(rng.integers(4))
        W = example(rng, m, v, kind)
        for processes in (p for p in range(1, m + 1) if m % p == 0):
            for replicated in (True, False):
                plan = lower(W, Layout(m, v, processes, replicated))
                np.testing.assert_allclose(carried_out(plan), W, rtol=0, atol=1e-11)
            chosen = choose_layout([W], m, v, processes)
            home = Layout(m, v, processes, replicated=False).home
            edge_by_edge = sum(
                np.count_nonzero(W[np.ix_(home == p, home == q)].any(0))
                for p in range(processes)
                for q in range(processes)
                if p != q
            )
            all_gather = (processes - 1) * (m + v)
            assert lower(W, chosen).vectors <= min(edge_by_edge, all_gather)


@pytest.mark.parametrize("processes", [2, 4, 8, 16])
def test_an_average_is_one_all_reduce(processes):
    plan = lower(matrices.average(16), Layout(16, 0, processes))
    assert plan.vectors == 2 * (processes - 1) and not len(plan.links.src) and len(plan.sums) == 1


def test_groups_are_averaged_apart():
    plan = lower(np.kron(np.eye(4), matrices.average(4)), Layout(16, 0, 16))
    assert sorted(item.group for item in plan.sums) == [tuple(range(i, i + 4)) for i in (0, 4, 8, 12)]
    assert plan.vectors == 4 * 2 * 3


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_easgd_is_one_sum_and_every_process_keeps_z(processes):
    W = matrices.elastic(8, 0.2)
    layout = choose_layout([W], 8, 1, processes)
    plan = lower(W, layout)
    assert layout.replicated and plan.vectors == 2 * (processes - 1) and len(plan.sums) == 1


def test_an_anchor_on_an_average_shares_its_sum():  # workers and anchor both want the sum of the workers
    m, alpha = 8, 0.1
    W = np.zeros((m + 1, m + 1))
    W[:m, :m] = (1 - alpha) / m
    W[:m, m] = W[m, :m] = alpha
    W[m, m] = 1 - m * alpha
    assert price(W, m).messages == 2 * (m - 1)


@pytest.mark.parametrize(
    ("W", "messages"),
    [
        (matrices.average(8), 14),  # 2 (m - 1)
        (0.5 * np.eye(8) + 0.5 * matrices.average(8), 14),  # a lazy average is one sum all the same
        (matrices.elastic(7, 0.2), 12),  # 2 (m - 1): z is known to all
        (matrices.metropolis(graphs.Ring().adjacency(8)), 16),  # two neighbours each
        (matrices.metropolis(graphs.Ring().adjacency(2)), 2),  # a ring of two is an average of two
        (matrices.metropolis(graphs.Star().adjacency(8)), 14),  # seven up, seven down
        (np.kron(np.eye(2), matrices.average(4)), 12),  # two groups of 2 (4 - 1)
        (np.eye(8), 0),
    ],
)
def test_the_price_list(W, messages):
    m = 7 if len(W) == 8 and W[7, 7] < 0 else len(W)
    cost = price(W, m)
    assert cost.messages == messages
    assert cost.sent.sum() == pytest.approx(messages)  # one vector each
    for processes in (p for p in range(1, m + 1) if m % p == 0):
        layout = choose_layout([W], m, len(W) - m, processes)
        assert lower(W, layout).vectors <= messages  # rows that share a process never cost more


def test_who_sends_what():
    star = price(matrices.metropolis(graphs.Star().adjacency(5)), 5)
    assert star.sent.tolist() == [4, 1, 1, 1, 1]
    assert average_price(4).sent.tolist() == [1.5] * 4


def test_nothing_is_sent_in_one_process():
    for W in (matrices.average(8), np.random.default_rng(0).random((8, 8))):
        assert lower(W, Layout(8, 0, 1)).vectors == 0


def test_large_matrices_are_priced_quickly():
    def priced():
        assert price(matrices.average(1024), 1024).messages == 2046
        assert price(matrices.elastic(1024, 1e-3), 1024).messages == 2046
        assert price(matrices.metropolis(graphs.Ring().adjacency(1024)), 1024).messages == 2048

    assert processor_time(priced, 1) < 10  # it took 16 s once, block by block
