"""What coopsgd is compared with: public implementations of its algorithms, driven as their documentation says.

A `Peer` is one of them: a loop that a user of that library would write, on the same samples (a batch is a function of seed, row
and step) from the same first model. `PEERS` lists them all; tests/test_peers.py holds every one against `coopsgd train`, and
scripts/trust.py writes what it finds into docs/trust.md. Public code steps parameters with torch.optim, one module a process.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import arrays
import networkx as nx
import numpy as np
import oracle
import oracle_axes
import oracle_rules
import oracle_sent
import torch
import torch.distributed as dist
from playing import OF_ADAM, ONE_STEP, TIES, settle, written
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from coopsgd.data.base import Batches
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.streams import stream
from coopsgd.tasks.networks import bound

TAU, STEPS, WORKERS = 4, 22, 4  # the last two steps are not mixed: the workers differ at the end
CASE = (f"workers={WORKERS}", f"steps={STEPS}", f"tau={TAU}", "dtype=float64", "device=cpu", "data=digits")
CASE += ("eval_every=0", "log_every=1000", "eval_samples=10")
MODELS = {"cnn": ("model=cnn", "model.width=8"), "mlp": ("model=mlp", "model.hidden=[16]")}
SEEDS = (0, 1)
MOMENTUM = ("optim.momentum=0.9",)


class Worker:
    """Worker `rank` of a config as a program of its own: a module, the samples of its k-th step, an optimiser of torch."""

    def __init__(self, rank: int, settings: Config) -> None:
        self.settings, dtype = settings, getattr(torch, settings.dtype)
        self._bound = bound(Parts(settings).task, settings.seed, dtype)
        self.module = self._bound.module
        images = Parts(settings).data.load(settings.seed)
        shares = Parts(settings).task.shares(settings)
        self.samples = len(shares[rank])
        self._batches = Batches(shares, range(rank, rank + 1), settings.batch_size, settings.seed)
        channels = (-1, *[1] * (images.train_x.ndim - 2))
        mean, std = (torch.tensor(v, dtype=dtype).view(channels) for v in (images.mean, images.std))
        self._x, self._y = (torch.from_numpy(images.train_x).to(dtype) - mean) / std, torch.from_numpy(images.train_y)

    def loss(self, own: int, net: Any = None) -> torch.Tensor:
        """Of the minibatch of its step `own`, by its module or what wraps it."""
        which = torch.from_numpy(self._batches.at(np.array([own]))[0])
        return cross_entropy((net or self.module)(self._x[which]), self._y[which])

    def optimizer(self, parameters: Any = None) -> Any:
        """torch.optim as the config has it."""
        arguments = dict(self.settings.optim)
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[arguments.pop("name")]
        if "beta1" in arguments:
            arguments["betas"] = arguments.pop("beta1"), arguments.pop("beta2")
        return kind(list(self.module.parameters() if parameters is None else parameters), **arguments)

    def row(self) -> np.ndarray:
        """(d,) the model, flattened as a run's rows are."""
        return self._bound.flat()[0].numpy()

    def gradient(self, row: np.ndarray, own: int) -> np.ndarray:
        """(d,) of the loss of its step `own` at this model."""
        self.load(row)
        parameters = list(self.module.parameters())
        for p, g in zip(parameters, torch.autograd.grad(self.loss(own), parameters), strict=True):
            p.data = g
        return self.row()

    def before_a_norm(self) -> np.ndarray:
        """(d,) bool: the biases of convolutions that a normalisation follows, which subtracts them again."""
        parts = list(self.module)
        followed = [a.bias for a, b in pairwise(parts) if hasattr(b, "num_features") and getattr(a, "bias", None) is not None]
        for p in self.module.parameters():
            p.data = torch.full_like(p, float(any(p is bias for bias in followed)))
        return self.row() > 0

    def load(self, row: np.ndarray) -> None:
        """Make this the model."""
        self._bound.elsewhere(torch.from_numpy(row.copy())[None])


def rate(settings: Config, k: int) -> float:
    """The step size of step k as a share of the first: warm-up, then constant, cosine or milestones, by their formulas."""
    given, K = settings.schedule, settings.steps
    warmup, start = given.get("warmup", 0), given.get("warmup_from", 0.0)
    if k < warmup:
        return start + (1 - start) * (k + 1) / warmup
    if given["name"] == "cosine":
        floor = given["floor"] / settings.optim["lr"]
        return floor + (1 - floor) * (1 + math.cos(math.pi * (k - warmup) / (K - warmup))) / 2
    if given["name"] == "multistep":
        return given["gamma"] ** sum(k >= milestone for milestone in given["milestones"])
    return 1.0


def bare(rank: int, settings: Config) -> np.ndarray:
    """One worker alone: loss.backward(), clip_grad_norm_, optimizer.step(), LambdaLR."""
    me = Worker(rank, settings)
    optimizer = me.optimizer()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate, settings))
    for k in range(settings.steps):
        optimizer.zero_grad()
        me.loss(k).backward()
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(me.module.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
    return me.row()


def ddp(rank: int, settings: Config) -> np.ndarray:
    """DistributedDataParallel: gradients averaged in the backward pass."""
    me = Worker(rank, settings)
    net, optimizer = DistributedDataParallel(me.module), me.optimizer()
    for k in range(settings.steps):
        optimizer.zero_grad()
        me.loss(k, net).backward()
        optimizer.step()
    return me.row()


def _averager(settings: Config, warmup: int) -> Any:
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    return PeriodicModelAverager(period=settings.tau, warmup_steps=warmup)


def periodic(rank: int, settings: Config) -> np.ndarray:
    """PeriodicModelAverager. It averages after step s (from 0) if s >= warmup_steps and period divides s - warmup_steps."""
    me = Worker(rank, settings)
    optimizer, averager = me.optimizer(), _averager(settings, warmup=settings.tau - 1)
    for k in range(settings.steps):
        optimizer.zero_grad()
        me.loss(k).backward()
        optimizer.step()
        averager.average_parameters(me.module.parameters())
    return me.row()


def post_local_optimizer(rank: int, settings: Config) -> np.ndarray:
    """PostLocalSGDOptimizer around torch.optim, no hook: local from the first step."""
    from torch.distributed.optim import PostLocalSGDOptimizer

    me = Worker(rank, settings)
    optimizer = PostLocalSGDOptimizer(optim=me.optimizer(), averager=_averager(settings, warmup=settings.tau - 1))
    for k in range(settings.steps):
        optimizer.zero_grad()
        me.loss(k).backward()
        optimizer.step()
    return me.row()


SWITCH = 8


def post_local(rank: int, settings: Config) -> np.ndarray:
    """post_localSGD_hook with PostLocalSGDOptimizer, start_localSGD_iter = warmup_steps as documented.

    Before it gradients are averaged; the first average of models follows step `SWITCH` itself, hence period.switch below.
    """
    return _hooked(rank, settings, SWITCH, list(range(WORKERS)), gradients=False, warmup=SWITCH)


def post_local_groups(rank: int, settings: Config) -> np.ndarray:
    """The same with a subgroup of two, the machine of the documentation, whose gradients are averaged in every step."""
    half = WORKERS // 2
    group = list(range(half)) if rank < half else list(range(half, WORKERS))
    return _hooked(rank, settings, 0, group, gradients=True, warmup=settings.algo["tau_2"] - 1, period=settings.algo["tau_2"])


def _hooked(
    rank: int, settings: Config, start: int, group: list[int], gradients: bool, warmup: int, period: int | None = None
) -> np.ndarray:
    from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    me = Worker(rank, settings)
    net = DistributedDataParallel(me.module)
    size = len(group)
    subgroup, _ = dist.new_subgroups(size) if size < WORKERS else (dist.group.WORLD, None)
    state = PostLocalSGDState(None, subgroup, start_localSGD_iter=start, post_local_gradient_allreduce=gradients)
    net.register_comm_hook(state, post_localSGD_hook)
    averager = PeriodicModelAverager(period=period or settings.tau, warmup_steps=warmup)
    optimizer = PostLocalSGDOptimizer(optim=me.optimizer(), averager=averager)
    for k in range(settings.steps):
        optimizer.zero_grad()
        me.loss(k, net).backward()
        optimizer.step()
    return me.row()


def hierarchical_averager(rank: int, settings: Config) -> np.ndarray:
    """HierarchicalModelAverager: pairs every tau steps, everyone every tau_2. It counts calls; the first is made number 1."""
    from torch.distributed.algorithms.model_averaging.hierarchical_model_averager import HierarchicalModelAverager

    me = Worker(rank, settings)
    sizes = OrderedDict([(settings.tau, WORKERS // 2), (settings.algo["tau_2"], WORKERS)])
    optimizer, averager = me.optimizer(), HierarchicalModelAverager(period_group_size_dict=sizes)
    averager.step = 1
    for k in range(settings.steps):
        optimizer.zero_grad()
        me.loss(k).backward()
        optimizer.step()
        averager.average_parameters(me.module.parameters())
    return me.row()


def decent(graph: str, rank: int, settings: Config) -> np.ndarray:
    """Decent-DP's DecentralizedDataParallel: it mixes what was there before a step while the gradient is computed."""
    from decent_dp.ddp import DecentralizedDataParallel

    me = Worker(rank, settings)

    def optimizer(named: Any) -> Any:
        return me.optimizer([parameter for _, parameter in named])

    net = DecentralizedDataParallel(me.module, optimizer, topology=_registered(graph, settings), _local_world_size=1)
    for k in range(settings.steps):
        me.loss(k, net).backward()
    for work in net._comm_ops:  # the message of the step that does not come
        if work is not None:
            work.wait()
    return me.row()


def _registered(graph: str, settings: Config) -> str:
    """A topology of Decent-DP's, registered as its users register theirs, whose k-th graph is used in step k.

    Left to itself it begins 1, 3, 4, 5, ...: the message that its first step sends has number 1, that of step s number s + 1.
    """
    from decent_dp.topo import Edge, Topology, TopologyReg

    def pairs(r: int) -> list[Any]:
        free, drawn, edges = set(range(WORKERS)), [], oracle.ring_edges(WORKERS)
        for e in stream(settings.seed, "matching", r).permutation(len(edges)):
            if free.issuperset(edges[e]):
                free -= set(edges[e])
                drawn.append(Edge(ranks=list(edges[e]), weight=0.5))
        return drawn

    base = TopologyReg.registry.get(graph, Topology)

    class InOrder(base):  # type: ignore
        def _get_topo_edges(self) -> list[list[Any]]:
            graphs = [pairs(k) for k in range(settings.steps)] if graph == "matching" else super()._get_topo_edges()
            numbers = (0, 1, 1, *range(2, settings.steps + 1))
            return [[Edge(list(e.ranks), e.weight) for e in graphs[k % len(graphs)]] for k in numbers]

    name = f"{graph} in order, seed {settings.seed}"
    TopologyReg.registry[name] = InOrder
    return name


class Mean:
    """As much of torchft's Manager as its LocalSGD and DiLoCo call, with everyone always there: allreduce is the mean."""

    _use_async_quorum = False

    def __init__(self) -> None:
        self._step = 0

    def allreduce(self, tensor: torch.Tensor, **_: Any) -> Any:
        dist.all_reduce(tensor)
        tensor.div_(dist.get_world_size())
        return SimpleNamespace(wait=lambda: True)

    def should_commit(self) -> bool:
        self._step += 1
        return True

    def current_step(self) -> int:
        return self._step

    def __getattr__(self, name: str) -> Any:  # start_quorum, allow_state_dict_read, ...: nobody leaves or joins
        return lambda *_, **__: None


def torchft_local_sgd(rank: int, settings: Config) -> np.ndarray:
    """torchft.local_sgd.LocalSGD, in a manager that averages over the process group."""
    from torchft.local_sgd import LocalSGD

    me = Worker(rank, settings)
    optimizer = me.optimizer()
    with LocalSGD(Mean(), me.module, optimizer, sync_every=settings.tau):
        for k in range(settings.steps):
            optimizer.zero_grad()
            me.loss(k).backward()
            optimizer.step()
    return me.row()


def torchft_diloco(rank: int, settings: Config) -> np.ndarray:
    """torchft.local_sgd.DiLoCo with the outer SGD that the config names; without one of rate 1, which is plain averaging."""
    from torchft.local_sgd import DiLoCo

    me, said = Worker(rank, settings), settings.outer or {"lr": 1.0}
    optimizer = me.optimizer()
    outer = torch.optim.SGD(
        me.module.parameters(), lr=said["lr"], momentum=said.get("momentum", 0.0), nesterov=said.get("name") == "nesterov"
    )
    with DiLoCo(Mean(), [me.module], optimizer, outer, sync_every=settings.tau):
        for k in range(settings.steps):
            optimizer.zero_grad()
            me.loss(k).backward()
            optimizer.step()
    return me.row()


class Bucket:
    """As much of a GradBucket of DistributedDataParallel as a hook reads: all gradients, one behind the other."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = list(module.parameters())
        self._flat = torch.cat([p.grad.flatten() for p in self._parameters])

    def buffer(self) -> torch.Tensor:
        return self._flat

    def gradients(self) -> list[torch.Tensor]:
        parts = self._flat.split([p.numel() for p in self._parameters])
        return [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]

    def index(self) -> int:
        return 0

    def is_last(self) -> bool:
        return True


def power_sgd(rank: int, settings: Config) -> np.ndarray:
    """powerSGD_hook on the gradients from the first step on, from our first Q; torch.optim.SGD with momentum behind it."""
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

    me, k = Worker(rank, settings), settings.codec["rank"]
    optimizer = torch.optim.SGD(me.module.parameters(), lr=settings.optim["lr"], momentum=settings.outer["momentum"])
    state = PowerSGDState(None, matrix_approximation_rank=k, start_powerSGD_iter=2, min_compression_rate=1)
    state.start_powerSGD_iter = 0  # a real GradBucket's gradients change places after the first step
    shapes = [(len(p), p[0].numel()) for p in me.module.parameters() if p.ndim > 1]
    shapes = [(n, m) for n, m in shapes if k * (n + m) < n * m]
    assert len(set(shapes)) == len(shapes), "it takes those of one shape together"
    state.p_memory_dict[0] = torch.zeros(k * sum(n for n, _ in shapes), dtype=torch.float64)
    state.q_memory_dict[0] = torch.from_numpy(stream(settings.seed, "codec").standard_normal(k * sum(m for _, m in shapes)))
    for step in range(settings.steps):
        optimizer.zero_grad()
        me.loss(step).backward()
        bucket = Bucket(me.module)
        flat = powerSGD_hook(state, bucket).wait()
        for p, part in zip(me.module.parameters(), flat.split([p.numel() for p in me.module.parameters()]), strict=True):
            p.grad = part.view(p.shape).clone()
        optimizer.step()
    return me.row()


def federated(aggregate: Callable[[list[np.ndarray], list[int]], np.ndarray], rank: int, settings: Config) -> np.ndarray:
    """Clients drawn at random train from the server's model with a new optimiser; somebody else's code averages them."""
    clients = [Worker(i, settings) for i in range(settings.workers)]
    server, own = clients[0].row(), [0] * settings.workers
    drawn = math.ceil(settings.algo["fraction"] * settings.workers)
    for r in range(settings.steps // settings.tau):
        chosen = stream(settings.seed, "clients", r).choice(settings.workers, drawn, replace=False)
        for i in chosen:
            clients[i].load(server)
            optimizer = clients[i].optimizer()
            for _ in range(settings.tau):
                optimizer.zero_grad()
                clients[i].loss(own[i]).backward()
                optimizer.step()
                own[i] += 1
        server = aggregate([clients[i].row() for i in chosen], [clients[i].samples for i in chosen])
    return server


def flower(models: list[np.ndarray], samples: list[int]) -> np.ndarray:
    from flwr.server.strategy.aggregate import aggregate

    return aggregate([([model], n) for model, n in zip(models, samples, strict=True)])[0]


def fedlab(models: list[np.ndarray], samples: list[int]) -> np.ndarray:
    from fedlab.utils.aggregator import Aggregators

    weights = torch.tensor(samples, dtype=torch.float64)
    return Aggregators.fedavg_aggregate([torch.from_numpy(model) for model in models], weights).numpy()


@dataclass(frozen=True)
class Peer:
    """A public implementation, and the config of ours that says the same."""

    algo: str
    name: str  # as its users call it
    train: Callable[[int, Config], np.ndarray]  # (rank, config) -> the final model (d,) of worker `rank`; or of the server
    words: tuple[str, ...] = ()  # beside CASE, algo, model and seed
    package: str = "torch"  # who publishes it
    module: str = "torch"  # what must be there to run it
    processes: int = WORKERS  # 1: the peer has none of its own
    about: str = ""  # what must be known to read the comparison
    within: float = 1e-12  # how far float64 may be off after STEPS steps

    @property
    def missing(self) -> str | None:
        """Why it cannot be run here; None when it can."""
        if importlib.util.find_spec(self.module.split(".")[0]) is None:
            return f"{self.package} is not installed; pip install 'coopsgd[peers]'"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(self.module)
        except Exception as error:
            return f"{self.package} {metadata.version(self.package)} cannot be imported: {' '.join(str(error).split())}"
        return None

    @property
    def rows(self) -> slice:
        """Which of a run's models these are: the workers', or the server's."""
        return slice(WORKERS, None) if self.processes == 1 else slice(WORKERS)

    def trained(self, process_groups: Any, settings: Config) -> np.ndarray:
        """(WORKERS or 1, d) its final models."""
        if self.processes == 1:
            return self.train(0, settings)[None]
        return np.stack(process_groups(self.processes)(self.train, settings))

    def all_words(self, model: str, seed: int) -> tuple[str, ...]:
        momentum = () if any(word.startswith("optim") for word in self.words) else MOMENTUM
        return (*CASE, *MODELS[model], f"algo={self.algo}", f"seed={seed}", *momentum, *self.words)


RING = "[[[0.5,0.5,0,0],[0.5,0.5,0,0],[0,0,0.5,0.5],[0,0,0.5,0.5]],[[0.5,0,0,0.5],[0,0.5,0.5,0],[0,0.5,0.5,0],[0.5,0,0,0.5]]]"
ADAM = "what Adam does to rounding: see the end of the page"
OVERLAP = "it mixes the models before the step: delay=1"
PEERS = (
    Peer("independent", "torch.optim, alone", bare, about="SGD, momentum"),
    Peer(
        "independent",
        "torch.optim, clip_grad_norm_, LambdaLR",
        bare,
        (
            *("optim.momentum=0.9", "optim.nesterov=true", "optim.weight_decay=0.01", "clip=1.0"),
            *("schedule=cosine", "schedule.warmup=5", "schedule.floor=0.01"),
        ),
        about="SGD, Nesterov, weight decay, clipping, warm-up and cosine, each by its formula",
    ),
    Peer(
        "independent",
        "torch.optim, LambdaLR",
        bare,
        ("optim=adamw", "optim.weight_decay=0.1", "schedule=multistep", "schedule.milestones=[8,16]", "schedule.warmup=3"),
        about=f"AdamW, warm-up and milestones; {ADAM}",
        within=1e-9,
    ),
    Peer(
        "independent",
        "torch.optim, clip_grad_norm_",
        bare,
        ("optim=adam", "optim.weight_decay=0.01", "optim.beta1=0.8", "clip=0.5"),
        about=f"Adam, L2 decay, clipping; {ADAM}",
        within=1e-9,
    ),
    Peer("fullsync", "DistributedDataParallel", ddp),
    Peer(
        "fullsync",
        "DistributedDataParallel",
        ddp,
        ("optim=adamw", "optim.weight_decay=0.01"),
        about=f"AdamW; {ADAM}",
        within=1e-9,
    ),
    Peer("pasgd", "PeriodicModelAverager", periodic, about="warmup_steps = tau - 1, so that it first averages after tau steps"),
    Peer("pasgd", "PostLocalSGDOptimizer", post_local_optimizer, about="warmup_steps = tau - 1"),
    Peer(
        "pasgd",
        "post_localSGD_hook, PostLocalSGDOptimizer",
        post_local,
        ("period=post_local", f"period.switch={SWITCH + 1}", "optim.momentum=0.0"),
        about=f"period=post_local; no momentum: torch averages gradients before the switch, so that buffers agree, ours keeps "
        f"them apart; start_localSGD_iter = warmup_steps = {SWITCH} first averages models after step {SWITCH + 1}",
    ),
    Peer("parameter_server", "PeriodicModelAverager", periodic, about="the workers' models"),
    Peer(
        "two_level",
        "HierarchicalModelAverager",
        hierarchical_averager,
        (f"algo.tau_2={2 * TAU}", "algo.groups=2"),
        about="its count of steps begins at 1",
    ),
    Peer(
        "two_level",
        "post_localSGD_hook, subgroups of 2",
        post_local_groups,
        ("tau=1", f"algo.tau_2={TAU}", "algo.groups=2"),
        about=f"tau = 1 within a group, {TAU} across",
    ),
    Peer(
        "pasgd",
        "LocalSGD",
        torchft_local_sgd,
        package="torchft",
        module="torchft.local_sgd",
        about="its Manager replaced by a mean",
    ),
    Peer(
        "powersgd",
        "powerSGD_hook, rank 2",
        power_sgd,
        ("tau=1", "optim.momentum=0", "outer=momentum", "outer.lr=1"),
        about="tau = 1; min_compression_rate = 1, from the first step, from our first Q; SGD with momentum behind the hook: an "
        "outer step with momentum",
    ),
    Peer(
        "pasgd",
        "DiLoCo, outer SGD of rate 1",
        torchft_diloco,
        package="torchft",
        module="torchft.local_sgd",
        about="its Manager replaced by a mean",
    ),
    Peer(
        "diloco",
        "DiLoCo, outer SGD of rate 0.7, Nesterov 0.9",
        torchft_diloco,
        package="torchft",
        module="torchft.local_sgd",
        about="its Manager replaced by a mean",
    ),
    Peer(
        "dpsgd",
        "DecentralizedDataParallel, complete",
        partial(decent, "complete"),
        ("topology=complete", "delay=1", "tau=1"),
        "decent-dp",
        "decent_dp.ddp",
        about=f"tau = 1; {OVERLAP}; of graphs that stay it has only this one",
    ),
    Peer(
        "one_peer",
        "DecentralizedDataParallel, one-peer-exp",
        partial(decent, "one-peer-exp"),
        ("algo.form=hypercube", "delay=1", "tau=1"),
        "decent-dp",
        "decent_dp.ddp",
        about=f"tau = 1; {OVERLAP}; its pairs are algo.form=hypercube",
    ),
    Peer(
        "matching",
        "DecentralizedDataParallel, pairs at random",
        partial(decent, "matching"),
        ("delay=1", "tau=1"),
        "decent-dp",
        "decent_dp.ddp",
        about=f"tau = 1; {OVERLAP}; pairs of a ring of {WORKERS}, drawn by our documented rule, as a Topology of Decent-DP",
    ),
    Peer(
        "cooperative",
        "DecentralizedDataParallel, ring",
        partial(decent, "ring"),
        (f"algo.W={RING}", "delay=1", "tau=1"),
        "decent-dp",
        "decent_dp.ddp",
        about=f"tau = 1; {OVERLAP}; its ring is two matchings in turn, written as a list of two W",
    ),
    *(
        Peer(
            "fedavg",
            name,
            partial(federated, aggregate),
            ("partition=quantity", "batch_size=20"),
            package,
            module,
            processes=1,
            about="half of the clients, unequal shares, weighted by samples; the server's model",
        )
        for name, aggregate, package, module in (
            ("flwr.server.strategy.aggregate", flower, "flwr", "flwr.server.strategy.aggregate"),
            ("Aggregators.fedavg_aggregate", fedlab, "fedlab", "fedlab.utils.aggregator"),
        )
    ),
)


# what was looked at and cannot be run beside torch on a CPU
NOT_RUN = {
    "fairscale 0.4.13 (D-PSGD, SGP, SlowMo)": "making one of its graphs moves a tensor to a GPU, so that a CPU cannot "
    "run them; the rule of SGP's graph is compared below",
    "BlueFog 0.3.0": "it does not build without MPI; the rules of its graphs are compared below",
}


@dataclass(frozen=True)
class Rule:
    """Matrices as another system documents them, made here from the documented rule with networkx and formulas."""

    system: str
    name: str
    rule: str  # in a line
    ours: str  # the words of ours
    matrices: Callable[[int], list[np.ndarray]]  # of n workers: one cycle
    sizes: tuple[int, ...]

    def furthest(self) -> float:
        """The largest difference between an entry of theirs and one of ours, over a cycle and all sizes."""
        algo, *more = self.ours.split()
        strategy = Parts(settle((*CASE, "task=quadratic", f"workers={self.sizes[0]}", f"algo={algo}", *more))).strategy
        found = []
        for n in self.sizes:
            theirs = self.matrices(n)
            assert strategy.schedule.cycle(n) == len(theirs), (
                f"{self.name} of {n}: a cycle of {strategy.schedule.cycle(n)}, not {len(theirs)}"
            )
            found += [np.abs(arrays.factors(strategy.schedule, n, r)[0] - W).max() for r, W in enumerate(theirs)]
        return float(max(found))


def receiving(graph: Any, n: int, weight: Callable[[int, int], float]) -> list[np.ndarray]:
    """[W], W[i, j] = weight(i, j) for every edge j -> i of the graph; what is left of one stays."""
    W = np.zeros((n, n))
    for j, i in graph.edges:
        W[i, j] += weight(i, j)
    for i in range(n):
        W[i, i] = 1 - W[i].sum()
    return [W]


def exponential_graph(n: int) -> list[np.ndarray]:
    graph = nx.DiGraph((j, (j + 2**k) % n) for j in range(n) for k in range(n) if 2**k < n)
    return receiving(graph, n, lambda i, _: 1 / (graph.in_degree(i) + 1))


def one_peer_exponential(n: int) -> list[np.ndarray]:
    """Step k: worker j keeps half and sends half to j + 2^(k mod K), K = floor(log2(n - 1)) + 1."""
    K = math.floor(math.log2(n - 1)) + 1
    return [receiving(nx.DiGraph((j, (j + 2**k) % n) for j in range(n)), n, lambda *_: 1 / 2)[0] for k in range(K)]


def hastings(graph: Any) -> list[np.ndarray]:
    """W_ij = 1 / max(neighbours of i, neighbours of j), each counted with itself."""
    graph = nx.convert_node_labels_to_integers(graph, ordering="sorted")
    both = nx.DiGraph(graph)
    return receiving(both, len(graph), lambda i, j: 1 / max(graph.degree(i) + 1, graph.degree(j) + 1))


def squarest(n: int) -> int:
    return max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)


SIZES, POWERS, GRIDS = (4, 6, 8, 12, 16), (4, 8, 16), (6, 8, 9, 12, 16)
RULES = (
    Rule(
        "BlueFog",
        "ExponentialTwoGraph",
        "j sends to j + 2^k mod n for every 2^k < n; equal weights",
        "dpsgd topology=exponential algo.weights=uniform",
        exponential_graph,
        SIZES,
    ),
    Rule(
        "BlueFog",
        "one-peer dynamic exponential",
        "in step k j sends half to j + 2^(k mod K)",
        "one_peer",
        one_peer_exponential,
        SIZES,
    ),
    Rule("BlueFog", "RingGraph", "a third each", "dpsgd topology=ring", lambda n: hastings(nx.cycle_graph(n)), SIZES),
    Rule(
        "BlueFog",
        "MeshGrid2DGraph",
        "Hastings: 1 / max of the two numbers of neighbours",
        "dpsgd topology=grid",
        lambda n: hastings(nx.grid_2d_graph(squarest(n), n // squarest(n))),
        GRIDS,
    ),
    Rule(
        "BlueFog", "StarGraph", "1 / n with the centre", "dpsgd topology=star", lambda n: hastings(nx.star_graph(n - 1)), SIZES
    ),
    Rule(
        "BlueFog",
        "FullyConnectedGraph",
        "1 / n",
        "dpsgd topology=complete",
        lambda n: [nx.to_numpy_array(nx.complete_graph(n)) / n + np.eye(n) / n],
        SIZES,
    ),
    Rule(
        "arXiv:2110.13363",
        "one-peer hypercube",
        "in step k i and i XOR 2^k average",
        "one_peer algo.form=hypercube",
        lambda n: [
            receiving(nx.DiGraph((i, i ^ 2**k) for i in range(n)), n, lambda *_: 1 / 2)[0] for k in range(int(math.log2(n)))
        ],
        POWERS,
    ),
    Rule(
        "SGP, arXiv:1811.10792",
        "directed one-peer exponential",
        "in step k j keeps half and sends half to j + 2^(k mod K), K = floor(log2(n - 1)) + 1",
        "one_peer",
        one_peer_exponential,
        SIZES,
    ),
    Rule(
        "MATCHA, arXiv:1905.09435",
        "budget 1",
        "I - alpha L, alpha = 2 / (lambda_2 + lambda_n)",
        "dpsgd topology=hypercube algo.weights=best_constant",
        lambda n: best_laplacian(nx.hypercube_graph(int(math.log2(n)))),
        POWERS,
    ),
)


def best_laplacian(graph: Any) -> list[np.ndarray]:
    L = nx.laplacian_matrix(graph, sorted(graph.nodes)).toarray().astype(float)
    values = np.sort(np.linalg.eigvalsh(L))
    return [np.eye(len(L)) - 2 / (values[1] + values[-1]) * L]


oracle.ORACLES |= oracle_rules.RULES | oracle_axes.AXES | oracle_sent.SENT
RAW = oracle.raw_matrix(WORKERS, oracle.RAW_V)
ORACLE_WORDS = {
    "cooperative": (f"algo.v={oracle.RAW_V}", written(RAW)),
    **dict.fromkeys(("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fednova"), ("weights_by=uniform",)),
    "matcha": ("workers=8", f"algo.alpha={oracle.MATCHA_ALPHA}"),  # of four the two matchings could come in either order
    **dict.fromkeys(ONE_STEP, ("tau=1",)),
    "muloco": ("optim=sgd",),  # Muon itself is held against torch's and its equations in tests/loop/test_muon.py
    "qg_dsgdm": ("optim.momentum=0",),  # it has its own
    # what they add to a gradient is in its momentum too
    **dict.fromkeys(("fedprox", "scaffold"), ("weights_by=uniform", "optim.momentum=0")),
    "kgt": ("optim.momentum=0",),
    "sgp": ("topology=star",),
    "demo": ("codec.chunk=8", "codec.keep=3"),  # of whole chunks what is 0 comes back as rounding, which has a sign
    "sparta": ("fragments.count=2",),
    "two_level": (f"algo.tau_2={4 * TAU}",),
}


# of two channels that are normalised together the biases' gradients are opposite: either may be the larger by rounding; and
# one of a bias that normalisation takes off again is rounding alone, by whose root Adam divides it
UNSURE = (*TIES, *OF_ADAM)


class Network(oracle.Problem):
    """The problem of the papers' formulas (oracle.py), but the f_i are a network's losses and a step has momentum."""

    def __init__(self, settings: Config) -> None:
        m, x0 = settings.workers, Worker(0, settings).row()
        super().__init__(np.zeros((m, 0)), x0, x0, 0.0, settings.seed, settings.optim["lr"], settings.tau, settings.steps)
        self._workers, self._own = [Worker(i, settings) for i in range(m)], [0] * m
        self._momentum, self._buffers = settings.optim.get("momentum", 0.0), np.zeros((m, len(x0)))
        blocks = Parts(settings).task.blocks(settings)
        self._blocks = [(block.start, block.stop) for block in blocks]
        self._parts = [(b.start, *(b.matrix or (1, b.size)), b.order if b.matrix else None) for b in blocks]
        self._forgets = settings.algo.get("mixing") == "sampled"  # its clients begin every round without momentum

    @property
    def blocks(self) -> list[tuple[int, int]]:
        return self._blocks

    @property
    def parts(self) -> list[tuple[int, int, int, list[int] | None]]:
        return self._parts

    def gradient(self, i: int, x: np.ndarray, k: int) -> np.ndarray:
        """The direction of worker i's step, b <- momentum b + g; asked for once a step."""
        if self._forgets and k % self.tau == 0:
            self._buffers[i] = 0
        self._buffers[i] = self._momentum * self._buffers[i] + self._workers[i].gradient(x, self._own[i])
        self._own[i] += 1
        return self._buffers[i].copy()


def papers(algo: str, model: str, seed: int) -> tuple[tuple[str, ...], Callable[[Config], np.ndarray]]:
    """The words of a run and the slow loop that gives its (m + v, d) models from the papers' formulas."""
    momentum = () if algo in OF_ADAM else MOMENTUM
    words = (*CASE, *MODELS[model], f"algo={algo}", f"seed={seed}", *momentum, *ORACLE_WORDS.get(algo, ()))
    words += ("model.norm=none",) if model == "cnn" and algo in UNSURE else ()
    return words, lambda settings: oracle.ORACLES[algo](Network(settings))
