"""Fragments: against slow loops on every placement, every column once in tau steps, their neutral value, what they refuse."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from playing import MLP, QUADRATIC, play, settle
from test_oracle import EXACT, problem
from test_outer import OUTERS, matrices, words_of
from torch.utils._python_dispatch import TorchDispatchMode

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.fleet.block import vector
from coopsgd.setup.parts import Parts
from coopsgd.strategies.fragments import Fragments, _counted, _of_layers, _runs
from coopsgd.testing import check_strategy


def expected(words, P, by, tau, outer=None, delay=0, merge=None):
    """Slow loops: every tau / P steps the next fragment of the columns is mixed by W_(r // P)."""
    Ws, p = matrices(words, 8), problem(words)
    n, d, own = len(Ws[0]), len(p.x0), tau // P
    late = min(delay, own)
    fragments = Fragments(P, by, 0)
    x, z, kept = [p.x0.copy() for _ in range(n)], [p.x0.copy() for _ in range(n)], [[[] for _ in range(P)] for _ in range(n)]
    then = x
    for k in range(p.K):
        r = k // own
        if k % own == own - late:
            then = x
        x = [x[i] - p.eta * p.gradient(i, x[i], k) if i < p.m else x[i] for i in range(n)]
        if k % own < own - 1:
            continue
        then = x if not late else then
        at = fragments.columns(lambda: vector(d), d, r).numpy()
        y = oracle.product(Ws[r // P % len(Ws)], then)
        x = [one.copy() for one in x]
        for i in range(n):
            new = y[i][at]
            if outer:
                kind, o = outer
                new = oracle.outer_step(kind, z[i][at], y[i][at], kept[i][r % P], o, p.eta)
            z[i] = z[i].copy()
            z[i][at] = new
            x[i][at] = new + x[i][at] - then[i][at] if merge is None else (1 - merge) * new + merge * x[i][at]
    return np.array(x)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize(
    ("algo", "by", "more"),
    [
        ("pasgd", "stride", {"outer": "nesterov", "delay": 1}),
        ("pasgd", "stride", {"outer": "adam"}),
        ("dpsgd", "random", {"delay": 2, "merge": 0.5}),
        ("easgd", "stride", {"outer": "momentum"}),
        ("one_peer", "stride", {"outer": "nesterov", "delay": 2, "merge": 0.3}),
        ("hierarchical", "random", {}),
        ("parameter_server", "stride", {"outer": "nesterov"}),
    ],
)
def test_is_what_slow_loops_make_of_it(process_groups, algo, by, more, processes):
    words = (*QUADRATIC, f"algo={algo}", "tau=4", "fragments.count=2", f"fragments.by={by}")
    words += (*words_of(more["outer"]),) if "outer" in more else ()
    words += tuple(f"{key}={more[key]}" for key in ("delay", "merge") if key in more)
    outer = (more["outer"], OUTERS[more["outer"]]) if "outer" in more else None
    there = expected(words, 2, by, 4, outer, more.get("delay", 0), more.get("merge"))
    played = play(process_groups, processes, *words)
    np.testing.assert_allclose(played.x, there, **EXACT)
    assert played.logical[0] == 12


def test_shared_memory_has_the_same_rows(process_groups):
    words = (*QUADRATIC, "algo=dpsgd", "tau=4", "fragments.count=2", "fragments.by=random")
    shared, alone = play(process_groups, 2, *words, "fleet=shared"), play(process_groups, 1, *words)
    np.testing.assert_allclose(shared.x, alone.x, **EXACT)


@pytest.mark.parametrize("by", ["stride", "random", "layer"])
def test_every_column_travels_once_in_tau_steps(by):
    parts = Parts(settle((*MLP, "tau=6", "fragments.count=2", f"fragments.by={by}")))
    d = parts.task.dimension(parts.config)
    blocks = parts.task.blocks(parts.config)
    for cycle in range(3):
        seen = torch.cat([parts.fragments.columns(lambda: blocks, d, 2 * cycle + p) for p in range(2)])
        assert seen.sort().values.tolist() == list(range(d))


def test_layers_are_kept_whole():
    parts = Parts(settle((*MLP, "tau=6", "fragments.count=2", "fragments.by=layer")))
    blocks = parts.task.blocks(parts.config)
    first = set(parts.fragments.columns(lambda: blocks, 0, 0).tolist())
    for block in blocks:
        inside = set(range(block.start, block.stop)) & first
        assert len(inside) in (0, block.size)
    assert parts.config.tau == 6 and parts.period.tau == 3


def test_they_cost_what_the_whole_model_does(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=4")
    whole, some = play(process_groups, 1, *words), play(process_groups, 1, *words, "fragments.count=4")
    assert some.logical == (4 * whole.logical[0], 4 * whole.logical[1], whole.logical[2])


def test_one_fragment_is_the_whole_model(process_groups):
    assert settle((*QUADRATIC, "algo=pasgd", "tau=4", "fragments.count=1")).fragments is None


def both(one, other, *words):
    a, b = (play(None, 1, *QUADRATIC, *more, *words) for more in (one, other))
    np.testing.assert_allclose(a.x, b.x, **EXACT)
    return a, b


def test_streaming_diloco_at_its_limits():
    """One fragment, no delay, overwritten: DiLoCo. Without outer rates: each fragment averaged. Weight 1: nobody merges."""
    streaming = ("algo=streaming_diloco", "tau=4")
    both((*streaming, "fragments=none", "delay=0", "merge=0"), ("algo=diloco", "tau=4"))
    plain = ("algo=pasgd", "tau=4", "fragments.count=2")
    neutral = ("outer.lr=1", "outer.momentum=0", "fragments.count=2", "delay=0", "merge=0")
    both((*streaming, *neutral), plain)
    both((*streaming, "fragments.count=2", "merge=1"), ("algo=independent",))


FLAT = "task.curvature=[" + ",".join(["[0,0,0]"] * 8) + "]"


@pytest.mark.parametrize("words", [(), ("fragments.count=3", "fragments.by=random"), ("fragments.count=2",)], ids=" ".join)
@pytest.mark.parametrize("delay", ["0", "2"])
def test_what_is_kept_while_a_message_travels_keeps_the_mean(words, delay):
    """x <- mean of what was sent + the steps since: the mean of the models takes all steps; overwritten, it lacks some."""
    words = (*QUADRATIC, "algo=pasgd", "tau=6", "task.heterogeneity=0", FLAT, f"delay={delay}", *words)
    p = problem(words)
    mean = p.x0 - p.eta * sum(p.gradient(i, p.x0, k) for i in range(8) for k in range(p.K)) / 8
    np.testing.assert_allclose(play(None, 1, *words).x.mean(0), mean, **EXACT)
    lost = np.abs(play(None, 1, *words, "merge=0").x.mean(0) - mean).max()
    assert lost > 1e-3 if delay == "2" else lost < 1e-12


def test_sparta_moves_no_mean_and_a_200th_a_step():
    zeros = FLAT.replace("[0,0,0]", "[" + ",".join(["0"] * 400) + "]")
    words = (*QUADRATIC, "algo=sparta", "task.heterogeneity=0", zeros, "task.dim=400")
    p, played = problem(words), play(None, 1, *words)
    mean = p.x0 - p.eta * sum(p.gradient(i, p.x0, k) for i in range(8) for k in range(p.K)) / 8
    np.testing.assert_allclose(played.x.mean(0), mean, **EXACT)
    assert played.logical == (24, 24 * 14, 24 * 14 * (400 / 200) * 8)
    assert (np.ptp(played.x, axis=0) < 1e-15).sum() == 2  # which have just been averaged


def test_running_statistics_ride_with_the_last_fragment():
    check_strategy("dpsgd", "tau=4", "fragments.count=2", processes=(1,))


@pytest.mark.parametrize("algo", ["pasgd", "one_peer"])
def test_keeps_every_promise_of_the_contract(process_groups, algo):
    check_strategy(algo, "tau=4", "fragments.count=2", "outer=nesterov", process_groups=process_groups, processes=(1, 2))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=pasgd", "tau=5", "fragments.count=2"), "tau=5: 2 fragments take turns"),
        (("algo=pasgd", "tau=[[0,4],[10,3]]", "fragments.count=2"), "tau=3: 2 fragments take turns"),
        (("algo=pasgd", "fragments.count=0"), "fragments.count: must be a whole number of at least 1, got 0"),
        (("algo=pasgd", "fragments.by=layer"), "fragments.by: fragments=none has none"),
        (("algo=pasgd", "tau=4", "fragments.count=1", "fragments.by=layer"), "fragments.count=1 is the whole model"),
        (
            ("algo=pasgd", "tau=4", "fragments.count=2", "fragments.by=row"),
            "fragments.by: must be one of layer, stride, random",
        ),
        (("algo=pasgd", "tau=4", "fragments.count=2", "fragments.by=layer"), "fragments.by=layer: the model has 1 layers"),
        (("algo=pasgd", "tau=40", "fragments.count=20"), "fragments.count=20: the model has 10 numbers"),
        (("algo=pasgd", "tau=4", "fragments.count=2", "delay=3"), "delay=3: a message leaves within the round"),
        (("algo=pasgd", "tau=4", "fragments.count=2", "period=adacomm"), "which period=adacomm moves by itself"),
        (("algo=fedavg", "tau=4", "fragments.count=2"), "fragments.count=2: fedavg draws workers anew"),
        (("algo=fullsync", "fragments.count=2"), "fragments=columns: fullsync mixes no models"),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(["task=quadratic", *words])
    assert says in str(error.value)


class Copies(TorchDispatchMode):
    """What goes from a processor to where no processor is, in numbers."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "_to_copy" and args[0].device.type == "cpu":
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("by", ["layer", "stride", "random"])
def test_columns_are_counted_where_the_models_are(by):
    """Nothing is copied to a GPU, for which meta stands; of columns drawn at random each goes there once in tau steps."""
    words = (*MLP, "model.hidden=[12,6]")
    blocks, d = Parts(settle(words)).task.blocks(settle(words)), 64 * 12 + 12 + 12 * 6 + 6 + 6 * 10 + 10
    fragments = Fragments(3, by, 0)
    with Copies() as copies:
        for r in range(6):
            for _ in range(3):  # who sends, who receives, who merges
                there = fragments.columns_on("meta", lambda: blocks, d, r)
                assert there.device.type == "meta" and there.dtype == torch.int64
                assert len(there) == len(fragments.columns(lambda: blocks, d, r))
    assert sum(copies.sizes) == (2 * d if by == "random" else 0)
    for p, runs in enumerate(_runs(blocks, 3)):
        counted = _counted(runs, "cpu")
        layers = [torch.arange(block.start, block.stop) for block in blocks if blocks.index(block) // 2 % 3 == p]
        assert torch.equal(counted, torch.cat(layers)) and torch.equal(counted, _of_layers(blocks, 3)[p])
    assert _runs(blocks, 1) == [[(0, d)]]
