"""The outer step: against slow loops on every placement, its neutral value, its special cases, what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle
import pytest
import torch
from conftest import needs
from playing import QUADRATIC, play, settle
from test_oracle import EXACT, problem

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.fleet import compiled
from coopsgd.host import native
from coopsgd.registry import lookup
from coopsgd.setup.parts import Parts
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.testing import check_strategy

OUTERS = {
    "momentum": {"lr": 0.7, "momentum": 0.5},
    "nesterov": {"lr": 0.6, "momentum": 0.8},
    "scaled": {"lr": 0.9, "momentum": 0.6, "scale": 1},
    "adam": {"lr": 0.2, "beta1": 0.8, "beta2": 0.9, "eps": 0.01},
    "yogi": {"lr": 0.2, "beta1": 0.8, "beta2": 0.9, "eps": 0.01},
    "adagrad": {"lr": 0.3, "beta1": 0.5, "eps": 0.1},
}
ALGOS = ["pasgd", "dpsgd", "easgd", "one_peer", "hierarchical", "gossip_pga", "matching", "parameter_server"]


def words_of(outer: str) -> tuple[str, ...]:
    kind = "momentum" if outer == "scaled" else outer
    said = [f"outer.{key}={'lr' if key == 'scale' else value}" for key, value in OUTERS[outer].items()]
    return (f"outer={kind}", *said)


def matrices(words: tuple[str, ...], rounds: int) -> list[list[list[float]]]:
    """The product of each communication, as lists."""
    schedule, m = Parts(settle(words)).strategy.schedule, 8
    found = []
    for r in range(rounds):
        W = np.eye(m + schedule.num_aux)
        for factor in schedule.factors(m, r):
            W = factor.dense() @ W
        found.append(W.tolist())
    return found


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("delay", ["0", "1", "tau"])
@pytest.mark.parametrize("outer", OUTERS)
@pytest.mark.parametrize("algo", ALGOS)
def test_is_what_slow_loops_make_of_it(process_groups, algo, outer, delay, processes):
    words = (*QUADRATIC, f"algo={algo}", "tau=4", f"delay={delay}", *words_of(outer))
    Ws = matrices(words, 6)
    kind = "momentum" if outer == "scaled" else outer
    mix = lambda x, r: oracle.product(Ws[r % len(Ws)], x)  # noqa: E731
    expected = oracle.with_outer(problem(words), mix, kind, OUTERS[outer], delay, len(Ws[0]) - 8)
    played = play(process_groups, processes, *words)
    np.testing.assert_allclose(played.x, expected, **EXACT)
    plain = play(process_groups, 1, *(word for word in words if not word.startswith("outer")))
    assert played.logical == plain.logical  # nothing more is sent


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("outer", ["momentum", "nesterov", "adam", "yogi", "adagrad"])
def test_the_server_of_fedavg_takes_it_and_hands_out_what_came_of_it(process_groups, outer, processes):
    words = (*QUADRATIC, "algo=fedavg", "tau=3", *words_of(outer))
    kept: list[np.ndarray] = []
    p = problem(words)
    expected = oracle.fedavg(p, server=lambda z, y: oracle.outer_step(outer, z, y, kept, OUTERS[outer], p.eta))
    np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


@pytest.mark.parametrize("outer", ["momentum", "nesterov"])
@pytest.mark.parametrize("algo", [*ALGOS, "fedavg"])
def test_lr_one_without_momentum_is_the_algorithm_(process_groups, algo, outer):
    words = (*QUADRATIC, f"algo={algo}", "tau=4")
    neutral = play(process_groups, 1, *words, f"outer={outer}", "outer.lr=1", "outer.momentum=0")
    plain = play(process_groups, 1, *words)
    assert np.array_equal(neutral.x, plain.x) or (
        algo == "pasgd" and np.allclose(neutral.x, plain.x, **EXACT)
    )  # a mean, not J x


@pytest.mark.parametrize("more", [("outer=momentum", "outer.momentum=0"), ("codec=identity",)])
def test_a_lazy_average_is_no_average(process_groups, more):
    words = (*QUADRATIC, "algo=pasgd", "algo.lazy=true", "tau=4")
    with_axis, plain = play(process_groups, 1, *words, *more), play(process_groups, 1, *words)
    np.testing.assert_allclose(with_axis.x, plain.x, **EXACT)


def test_diloco_steps_as_torch_does():
    z = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    theirs = torch.optim.SGD([z], lr=0.7, momentum=0.9, nesterov=True)
    ours = Parts(settle((*QUADRATIC, "algo=pasgd", "outer=nesterov"))).outer
    slow, draw = torch.zeros(1, 5, dtype=torch.float64), np.random.default_rng(0)
    memory = ours.begin(slow)
    for _ in range(6):
        y = torch.from_numpy(draw.standard_normal((1, 5)))
        z.grad = z.detach() - y[0]
        theirs.step()
        ours.step(slow, slow - (slow - y), memory, 0.1)
        torch.testing.assert_close(slow[0], z.detach(), rtol=0, atol=1e-12)
        z.data.copy_(slow[0])


@pytest.mark.parametrize("algo", ["dpsgd", "one_peer", "matching", "hierarchical"])
def test_the_mean_takes_the_steps_it_takes_where_W_is_J(process_groups, algo):
    o, words = OUTERS["nesterov"], (*QUADRATIC, f"algo={algo}", "tau=1")
    Ws = matrices(words, 24)
    v = len(Ws[0]) - 8
    p = problem(words)
    x = [p.x0.copy() for _ in range(8 + v)]
    z, kept, mean, kept_mean = list(x), [[] for _ in x], p.x0.copy(), []
    for k in range(12):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) if i < 8 else x[i] for i in range(8 + v)]
        sent = np.mean([z[i] - x[i] for i in range(8 + v)], axis=0)  # mean displacement, whatever W makes of it
        y = oracle.product(Ws[k % len(Ws)], x)
        z = [oracle.outer_step("nesterov", z[i], y[i], kept[i], o, p.eta) for i in range(8 + v)]
        mean = oracle.outer_step("nesterov", mean, mean - sent, kept_mean, o, p.eta)
        x = list(z)
        np.testing.assert_allclose(np.mean(z, axis=0), mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("algo", ["pasgd", "dpsgd", "fedavg"])
@pytest.mark.parametrize("outer", ["nesterov", "adam"])
def test_keeps_every_promise_of_the_contract(process_groups, algo, outer):
    check_strategy(algo, "tau=3", f"outer={outer}", process_groups=process_groups, processes=(1, 2))


@dataclass(frozen=True)
class SendsByItself(Cooperative):
    """Mixes by W as its base does, in a `send` of its own."""

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mix, self.mixing.at(fleet.m, t.round), x)


def test_an_algorithm_that_sends_by_itself_hands_nothing_out_twice(process_groups):
    words = (*QUADRATIC, "algo=fedavg", f"algo.strategy={__name__}:SendsByItself", "tau=3")
    plain = play(process_groups, 1, *words)
    neutral = play(process_groups, 1, *words, "outer=momentum", "outer.momentum=0")
    assert neutral.logical == plain.logical
    np.testing.assert_allclose(neutral.x, plain.x, **EXACT)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=fullsync", "outer=nesterov"), "outer=nesterov: fullsync mixes no models"),
        (("outer.lr=0.5",), "outer.lr: outer=none has none; choose one, as in outer=nesterov"),
        (("outer=nesterov", "outer.momentum=1"), "outer.momentum: must lie in"),
        (("outer=nesterov", "outer.momentum=-0.1"), "outer.momentum: must lie in"),
        (("outer=momentum", "outer.lr=0"), "outer.lr: must be a positive number"),
        (("outer=momentum", "outer.scale=rate"), "outer.scale: must be one of none, lr"),
        (("outer=adam", "outer.momentum=0.9"), "outer.momentum"),
        (("outer=adam", "outer.eps=0"), "outer.eps: must be a positive number"),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(["task=quadratic", *words])
    assert says in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_the_compiled_step_is_torchs(monkeypatch, name, dtype):
    needs(native.in_use(), "the compiled kernels")
    outer = lookup("outer", name)(lr=0.7, momentum=0.6, scale="lr")
    generator = torch.Generator().manual_seed(0)
    real = native.library
    for shape in ((1, 1), (3, 37), (1, compiled.LARGE + 5)):
        ways = []
        for library in (real, lambda: None):
            monkeypatch.setattr(compiled.native, "library", library)
            z, y, b = (torch.randn(shape, generator=generator.manual_seed(i), dtype=dtype) for i in range(3))
            z[0, 0] = torch.inf
            before = y.clone()
            outer.step(z, y, (b,), 0.25)
            assert torch.equal(y, before)
            ways.append((z, b))
        eps = 40 * torch.finfo(dtype).eps
        for one, other in zip(*ways, strict=True):
            torch.testing.assert_close(one, other, rtol=eps, atol=eps, equal_nan=True)
    z, y, b = torch.randn(3, 5, dtype=dtype), torch.randn(3, 5, dtype=dtype), torch.zeros(3, 5, dtype=dtype)
    lookup("outer", name)(lr=1.0, momentum=0.0).step(z, y, (b,), 0.25)
    assert torch.equal(z, y), "to the bit"
