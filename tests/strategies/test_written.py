"""The algorithms written as docs/new_algorithm.md tells are those of their papers: loops over workers, one vector at a time."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Problem
from playing import QUADRATIC, play
from test_oracle import problem


def slowmo(p: Problem, tau: int, beta: float = 0.7) -> list[np.ndarray]:
    """Each round: tau local steps from z; b <- beta b + (z - mean x) / eta; z <- z - eta b."""
    z, b, x = p.x0.copy(), np.zeros_like(p.x0), [p.x0.copy() for _ in range(p.m)]
    for k in range(p.K):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(p.m)]
        if (k + 1) % tau == 0:
            b = beta * b + (z - sum(x) / p.m) / p.eta
            z = z - p.eta * b
            x = [z.copy() for _ in range(p.m)]
    return x


def streaming(p: Problem, tau: int, fragments: int = 3, lr: float = 0.7, mu: float = 0.9) -> list[np.ndarray]:
    """Round r: the coordinates j with j = r mod P take an outer Nesterov step, alone; nobody touches the others."""
    z, b, x = p.x0.copy(), np.zeros_like(p.x0), [p.x0.copy() for _ in range(p.m)]
    for k in range(p.K):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(p.m)]
        if (k + 1) % tau == 0:
            for j in range(len(z)):
                if j % fragments == ((k + 1) // tau - 1) % fragments:
                    delta = z[j] - sum(x[i][j] for i in range(p.m)) / p.m
                    b[j] = mu * b[j] + delta
                    z[j] = z[j] - lr * (delta + mu * b[j])
                    for i in range(p.m):
                        x[i][j] = z[j]
    return x


def push_sum(p: Problem, tau: int) -> list[np.ndarray]:
    """Mass and weight go along directed edges in shares that sum to one for the sender; the model is mass / weight."""
    mass, w = [p.x0.copy() for _ in range(p.m)], [1.0] * p.m
    to = {j: [j, (j + 1) % p.m] + ([p.m // 2] if j == 0 else []) for j in range(p.m)}
    for k in range(p.K):
        mass = [mass[i] - p.eta * p.gradient(i, mass[i] / w[i], k) for i in range(p.m)]
        if (k + 1) % tau == 0:
            new, weights = [np.zeros_like(p.x0) for _ in range(p.m)], [0.0] * p.m
            for j in range(p.m):
                for i in to[j]:
                    new[i] = new[i] + mass[j] / len(to[j])
                    weights[i] += w[j] / len(to[j])
            mass, w = new, weights
    assert max(w) - min(w) > 0.1 and abs(sum(w) - p.m) < 1e-12
    return [mass[i] / w[i] for i in range(p.m)]


def tracking(p: Problem, tau: int) -> list[np.ndarray]:
    """y_0 = g_0; x <- W (x - eta y), y <- W y + g - g before, on a ring of thirds."""
    assert tau == 1
    x, y, last = [p.x0.copy() for _ in range(p.m)], [np.zeros_like(p.x0)] * p.m, [np.zeros_like(p.x0)] * p.m

    def mixed(x: list[np.ndarray]) -> list[np.ndarray]:
        return [(x[i - 1] + x[i] + x[(i + 1) % p.m]) / 3 for i in range(p.m)]

    for k in range(p.K):
        g = [p.gradient(i, x[i], k) for i in range(p.m)]
        y = [y[i] + g[i] - last[i] for i in range(p.m)]
        x, y, last = mixed([x[i] - p.eta * y[i] for i in range(p.m)]), mixed(y), g
    return x


CASES = [
    ("SlowMo", 3, slowmo, ("~algo.mixing",)),
    ("StreamingDiLoCo", 2, streaming, ("~algo.mixing",)),
    ("PushSum", 2, push_sum, ("~algo.mixing",)),
    ("GradientTracking", 1, tracking, ("algo.mixing=gossip", "topology=ring")),
]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("name", "tau", "expected", "more"), CASES, ids=[case[0] for case in CASES])
def test_it_is_what_its_paper_says(process_groups, name, tau, expected, more, processes):
    words = (*QUADRATIC, "algo=pasgd", f"algo.strategy=written:{name}", f"tau={tau}", *more)
    found = play(process_groups, processes, *words).x
    np.testing.assert_allclose(found, np.array(expected(problem(words), tau)), rtol=0, atol=1e-12)
