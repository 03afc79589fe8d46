"""A run that is saved and loaded after every step ends where one ends that is not: nothing of its state is left out."""

import inspect
import json
from dataclasses import replace

import pytest
import torch
from written import GradientTracking, PushSum, SlowMo, StreamingDiLoCo

from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.loop import Loop
from coopsgd.loop.saved import ByRow, flatten, homes, inflate
from coopsgd.predict.rehearsal import clock_of
from coopsgd.setup.parts import Parts
from coopsgd.commands import compose
from coopsgd.testing.battery import CNN, COMMON, QUADRATIC, _words
from coopsgd.testing.runs import Recorder


def loop_of(config, observer=None, saved=None):
    parts = Parts(config)
    fleet = Stacked(layout_of(parts.strategy.schedule, config.workers, 1))
    fleet.clock = clock_of(parts)
    problem = parts.task.build(config, fleet.workers, torch.device("cpu"))
    return Loop(parts, fleet, problem, observer=observer or Recorder(), saved=saved)


def copied(loop):
    """What a checkpoint would hold, as text and copies, and read again."""
    skeleton, tensors = flatten(loop.saved())
    text = json.dumps(skeleton)
    kept = {at: torch.cat([p.clone() for p in leaf.parts]) if isinstance(leaf, ByRow) else leaf.tensor.clone() for at, leaf in tensors.items()}
    return inflate(json.loads(text), lambda at, kind: kept[at], homes(loop.strategy, loop.parts.period))


def snapshot(loop):
    skeleton, tensors = flatten(loop.saved())
    return skeleton, {at: torch.cat([p.clone() for p in leaf.parts]) if isinstance(leaf, ByRow) else leaf.tensor.clone() for at, leaf in tensors.items()}


def same(a, b):
    return a[0] == b[0] and a[1].keys() == b[1].keys() and all(torch.equal(a[1][at].nan_to_num(7), b[1][at].nan_to_num(7)) or at == ".ledger.comm_s" for at in a[1])


def check(words, steps=13):
    config = compose.compose_config([*COMMON, *words, f"steps={steps}"]).config
    whole = loop_of(config)
    broken = loop_of(config)
    for k in range(steps):
        whole.advance()
        broken.advance()
        broken = loop_of(config, saved=copied(broken))
        a, b = snapshot(whole), snapshot(broken)
        off = [at for at in a[1] if at not in b[1] or not torch.equal(a[1][at], b[1][at])]
        assert same(a, b), (k, off, [(x, a[0]["dict"][x], b[0]["dict"][x]) for x in a[0]["dict"] if a[0]["dict"][x] != b[0]["dict"][x]])


ALGOS = "cooperative dpa dpsgd easgd fedavg fullsync gea gossip_pga hierarchical independent matcha matching one_peer pairwise parameter_server pasgd two_level".split()


@pytest.mark.parametrize("algo", ALGOS)
def test_q(algo):
    check([*QUADRATIC, f"algo={algo}", "optim.momentum=0.9"] + ([] if algo == "fullsync" else ["tau=1"] if algo == "one_peer" else ["tau=3"]) + (["algo.W=[[0.5,0.5,0,0],[0.5,0.25,0.25,0],[0,0.25,0.25,0.5],[0,0,0.5,0.5]]"] if algo == "cooperative" else []))


@pytest.mark.parametrize("more", [["delay=1"], ["delay=tau"], ["order=cta"], ["delay=2", "cluster=ethernet_1g"], ["optim=sgd", "optim.momentum=0.9", "buffers=average", "delay=1"], ["optim=adamw", "buffers=average", "delay=1"], ["optim=adamw", "buffers=reset", "delay=1"], ["period=adacomm", "period.interval=4"], ["schedule=cosine", "schedule.warmup=3"], ["schedule=step"], ["tau=[[0,1],[4,5]]", "delay=1"]])
def test_more(more):
    check([*QUADRATIC, "algo=dpsgd", "tau=3", *more])


@pytest.mark.parametrize("cls", [SlowMo, StreamingDiLoCo, PushSum, GradientTracking])
@pytest.mark.parametrize("delay", [0, 1])
def test_written(cls, delay):
    check([*QUADRATIC, *_words(cls), "tau=3", f"delay={delay}"])


@pytest.mark.parametrize("more", [["algo=dpsgd"], ["algo=fedavg", "algo.fraction=0.5"], ["algo=dpsgd", "delay=1"], ["algo=easgd", "optim.momentum=0.9", "norm_stats=local"]])
def test_cnn(more):
    check([*CNN, "tau=3", *more], steps=7)
