"""What a run is made of: `Config` is the schema Hydra composes into, and what config.yaml, frozen, holds.

`resolve.py` resolves each `auto`, `parts.py` makes what its names stand for, `checks.py` refuses what cannot work. No torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from coopsgd.errors import ConfigError
from coopsgd.host import processors
from coopsgd.registry import option
from coopsgd.setup import yamls
from coopsgd.setup.formats import FORMAT, upgraded

GROUPS = (
    "algo",
    "period",
    "outer",
    "correction",
    "codec",
    "fragments",
    "topology",
    "task",
    "model",
    "data",
    "partition",
    "optim",
    "schedule",
    "cluster",
    "stop",
)
AXES = ("outer", "correction", "codec", "fragments")  # groups that are absent unless they are chosen
ABSENT = "none"  # the choice of an axis that is absent
SIZES = {"float32": 4, "float64": 8}  # bytes of a number
DTYPES = tuple(SIZES)
DEVICES = ("auto", "cpu", "cuda")
FLEETS = ("auto", "shared", "processes")
ENGINES = ("auto", "loop", "vmap", "bmm", "conv")
WEIGHTS = ("uniform", "samples")
NORM_STATS = ("average", "local", "recalibrate")
SAVES = ("auto", "rows", "answer", "best", "none")
STEPS = 1000  # of a run that names neither steps nor epochs nor rounds


WHOLE = (
    "tau",
    "delay",
    "steps",
    "epochs",
    "rounds",
    "processes",
    "machines",
    "threads",
    "workers",
    "batch_size",
    "seed",
    "log_every",
    "eval_every",
    "eval_samples",
    "keep",
    "checkpoint_every",
    "max_restarts",
)
# keys below a group that count something, beside those annotated int
COUNTS = ("groups", "epochs", "tau_2", "every", "switch", "interval", "classes", "rows", "tau", "unit")


def key(
    default: Any, help: str, *, identity: bool, unit: str | None = None, type: str | None = None, words: tuple[str, ...] = ()
) -> Any:
    """A top-level key of the config with its line, unit and type: see registry.option.

    identity: does it say what is trained? Else it says where or how that is computed, looked at, kept or called, and two runs
    that differ in it train the same models: see identity.py.
    """
    return option(default, help, unit=unit, type=type, identity=identity, words=words)


def group(help: str) -> Any:
    """A config group: an open node whose keys are the fields of the class it names."""
    return field(default_factory=dict, metadata={"help": help, "identity": True})


@dataclass
class Config:
    """The keys at the top. Groups are open here; their keys are checked against the class they choose."""

    algo: Any = group("the algorithm, A(tau, W, v) or one beyond it")
    period: Any = group("how tau moves, usable with every algorithm that has a tau")
    outer: Any = group("the step from the slow model towards the mixed one, usable with every algorithm that mixes models")
    correction: Any = group("what keeps workers from drifting towards their own optimum")
    codec: Any = group("what a message holds: numbers in few bits, or a few of them, and what is kept back")
    fragments: Any = group("which columns travel at a communication: all, or one share after another")
    topology: Any = group("who talks to whom, for algorithms that ask")
    task: Any = group("what is learned")
    model: Any = group("the network, for tasks that train one")
    data: Any = group("the data set, for tasks that read one")
    partition: Any = group("who sees what of the data set")
    optim: Any = group("the inner optimiser of every worker")
    schedule: Any = group("how the learning rate moves")
    cluster: Any = group("whose seconds to simulate (sim_s): a step's time, links; none unless it is named")
    stop: Any = group("when a run ends before its steps are done: a target is reached, or a budget spent")
    tau: Any = key(
        "auto",
        "between communications, or as in 1epoch, or [[from step, tau], ...]; auto: what the algo's yaml says",
        identity=True,
        unit="steps",
        type="int, text, list or auto",
    )
    order: str = key(
        "auto",
        "atc mixes after the local steps, cta before the next gradient; auto: as the algo's yaml says, else atc",
        identity=True,
        words=("auto", "atc", "cta"),
    )
    delay: Any = key(
        "auto",
        "how old what is mixed is, in local steps, or tau; auto: as the algo's yaml says, else 0",
        identity=True,
        unit="steps",
        type="int, tau or auto",
        words=("auto", "tau"),
    )
    merge: Any = key(
        "auto",
        "what becomes of the local model when an answer is applied: kept adds the steps since the message left to the answer; "
        "a number in [0, 1] is the weight of the local model beside it; auto: as the algo's yaml says, else kept",
        identity=True,
        unit="share",
        type="float, kept or auto",
        words=("auto", "kept"),
    )
    buffers: str = key(
        "auto",
        "of the optimiser, at a communication: keep, average, reset; auto: as the algo's yaml says, else keep",
        identity=True,
        words=("auto", "keep", "average", "reset"),
    )
    buffers_every: Any = key(
        "auto",
        "of buffers=average: they are averaged at every so many-th communication; or a list, one for each of the optimiser's; "
        "auto: as the algo's yaml says, else 1",
        identity=True,
        unit="rounds",
        type="int, list or auto",
        words=("auto",),
    )
    weights_by: str = key(
        "auto",
        "what workers weigh in a mean over all of them: uniform, alike; samples, by how many each holds; auto: as the algo's "
        "yaml says, else samples where clients are drawn (fedavg), uniform elsewhere",
        identity=True,
        words=("auto", *WEIGHTS),
    )
    start: Any = key(
        None,
        "where the models begin: a run's folder, a safetensors file, a state_dict; null: as the seed draws them",
        identity=True,
        type="path or null",
    )
    workers: int = key(4, "m, how many models are trained", identity=True, unit="workers")
    processes: Any = key(
        "auto",
        "how many processes hold them; auto: one a worker while they fit the machine",
        identity=False,
        unit="processes",
        type="int or auto",
    )
    threads: Any = key(
        "auto",
        "torch threads of one process; auto: cores / processes, at least 1",
        identity=False,
        unit="threads",
        type="int or auto",
    )
    fleet: str = key(
        "auto",
        "how several processes hold the models: shared, in one memory a machine; processes, each its own, over the network; "
        "auto: shared on one machine's CPU",
        identity=False,
        words=FLEETS,
    )
    steps: Any = key(
        None,
        f"local steps of every worker; {STEPS} unless epochs or rounds is given",
        identity=True,
        unit="steps",
        type="int or null",
    )
    epochs: Any = key(
        None, "instead of steps: passes of every worker over its own share", identity=True, unit="epochs", type="int or null"
    )
    rounds: Any = key(
        None,
        "instead of steps: communications, each with the local steps that lead to it",
        identity=True,
        unit="rounds",
        type="int or null",
    )
    batch_size: int = key(32, "samples in one worker's minibatch", identity=True, unit="samples")
    seed: int = key(0, "of everything random", identity=True, unit="")
    dtype: str = key("float32", "of the models: float32 or float64", identity=True, words=DTYPES)
    device: str = key("auto", "cpu, cuda, or auto: cuda where there is one", identity=False, words=DEVICES)
    log_every: Any = key(
        20, "between two lines of metrics.jsonl; or as in 1epoch, 5rounds", identity=False, unit="steps", type="int or text"
    )
    norm_stats: str = key(
        "average",
        "BatchNorm's running statistics: average with the models, local, or recalibrate the mean's",
        identity=True,
        words=NORM_STATS,
    )
    clip: Any = key(
        None,
        "largest norm of one worker's gradient row; a longer one is scaled down to it",
        identity=True,
        unit="",
        type="float or null",
    )
    amp: Any = key(
        None,
        "bf16: forward and backward passes in bfloat16 autocast; models, mixing, optimiser keep dtype",
        identity=True,
        type="bf16 or null",
        words=("bf16",),
    )
    eval_every: Any = key(
        100,
        "between two evaluations; or as in 1epoch, 5rounds; 0: at the start and the end only",
        identity=False,
        unit="steps",
        type="int or text",
    )
    eval_samples: Any = key(
        "auto",
        "test samples single workers are measured on; auto: all, fewer beyond 32 workers",
        identity=False,
        unit="samples",
        type="int or auto",
    )
    engine: str = key("auto", "how stacked models are computed: auto, loop, vmap, bmm, conv", identity=False, words=ENGINES)
    save: str = key(
        "auto",
        "what to keep: rows, answer, none, at the end; best: the answer, and the best so far by objective; auto: rows up to "
        "200 MB, else the answer",
        identity=False,
        words=SAVES,
    )
    checkpoint_every: Any = key(
        "auto",
        "between two checkpoints; or as in 1epoch, 5rounds, 10min; auto: 5min while that is cheap; 0: none",
        identity=False,
        unit="steps",
        type="int, text or auto",
    )
    keep: int = key(2, "how many checkpoints stay", identity=False, unit="checkpoints")
    objective: Any = key(
        "eval/loss",
        "what a sweep that looks for the best is told: a metric at the end, or bytes, seconds, sim_seconds until stop.target",
        identity=False,
        words=("eval/loss", "eval/accuracy", "bytes", "seconds", "sim_seconds"),
        type="text or null",
    )
    name: str = key("", "a name of your own, kept in the summary", identity=False)
    timeout: Any = key(
        "auto",
        "that a process waits for another before the run fails; auto: 20 times the longest step, evaluation, checkpoint or "
        "round here so far, at least 60, and 600 for the first of each",
        identity=False,
        unit="s",
        type="float or auto",
    )
    max_restarts: int = key(
        0,
        "how often workers are started again from the last checkpoint when one of them has failed",
        identity=False,
        unit="restarts",
    )
    machines: Any = key(
        "auto",
        "with launch=false: how many machines share the processes; auto: 2, where that goes",
        identity=False,
        unit="machines",
        type="int or auto",
    )
    interface: str = key(
        "auto",
        "with launch=false: the network interface that processes of several machines talk over, as in eth1; auto: what gloo "
        "and nccl find",
        identity=False,
        type="text or auto",
    )
    launch: Any = key(
        True,
        "false: check, freeze the folder, print the torchrun line for several machines",
        identity=False,
        type="bool",
    )


KEYS = tuple(f.name for f in fields(Config))


class UntrustedConfig(Config):
    """A config read from a folder that nobody has vouched for: parts built of it import nothing that it names."""


def whole(value: Any) -> Any:
    """1000 for 1e3 and 1000.0, in every place of a list; anything else as it is."""
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def dumps(config: Config) -> str:
    """The frozen config as yaml."""
    return OmegaConf.to_yaml(OmegaConf.create({"format": FORMAT, **asdict(config)}))


# keys that configs of an older coopsgd lack, and what they stand for where they are not there
ADDED: dict[str, Any] = {"stop": None, "merge": "kept", "buffers_every": 1, **dict.fromkeys(AXES)}


def load(path: Path, trust: bool = False) -> Config:
    """Read a frozen config back, of this format or an older one. trust: it may name code to import, as the user's words may."""
    keys: dict[str, Any] = ADDED | upgraded(path, yamls.keys(path))
    found = (Config if trust else UntrustedConfig)(**{k: v for k, v in keys.items() if k in KEYS})
    _refuse_unfrozen(path, found)
    return beside_it(found, path.parent)


def _refuse_unfrozen(path: Path, found: Config) -> None:
    """ConfigError unless this is a config as runs leave them: every number a number, every group a mapping."""
    whole = ("workers", "processes", "threads", "steps", "batch_size", "seed")
    for name, value in ((name, getattr(found, name)) for name in KEYS):
        if name in whole and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"{path} is no config of a run: {name} is {value!r}, not a whole number; restore it")
        if name in GROUPS and not (value is None or isinstance(value, dict)):
            raise ConfigError(f"{path} is no config of a run: {name} is {value!r}, not keys and values; restore it")
    for name in ("algo", "task", "optim", "schedule", "period"):
        if not isinstance((getattr(found, name) or {}).get("name"), str):
            raise ConfigError(f"{path} is no config of a run: {name}.name is missing; restore it")


def beside_it(config: Config, folder: Path) -> Config:
    """Files that were frozen into a run's folder lie beside its config.yaml, wherever that is now: they are named there."""

    def there(group: str, name: str, value: Any) -> Any:
        lies = isinstance(value, str) and value == frozen(group, name, Path(value).suffix) and (folder / value).is_file()
        return str((folder / value).resolve()) if lies else value

    nodes = {group: node for group in GROUPS if isinstance(node := getattr(config, group), dict)}
    found: dict[str, Any] = {g: {name: there(g, name, value) for name, value in node.items()} for g, node in nodes.items()}
    return replace(config, start=there("", "start", config.start), **found)


def frozen(group: str, name: str, suffix: str) -> str:
    """What the file behind a key is called in a run's folder, as in algo.W.npy; of a key at the top, as in start.pt."""
    return f"{group}.{name}{suffix}".removeprefix(".")


def machines_of(config: Config) -> int:
    """How many machines share the processes of a placed config: one, unless launch=false leaves starting them to others."""
    if config.launch:
        return 1
    return config.machines if config.machines != "auto" else 2 if config.processes % 2 == 0 else 1


def place(workers: int, gpus: int, at_once: int = 1, machines: int = 1) -> int:
    """Processes to start: one a worker while that is at most 2 a core or 1 a GPU, else the largest divisor that fits.

    at_once: runs that share cores and GPUs; machines: that share the processes evenly, each with as many cores as this one.
    """
    room, share = max(1, (gpus or 2 * processors.cores()) // at_once), workers // machines
    return machines * next(p for p in range(min(share, room), 0, -1) if share % p == 0)
