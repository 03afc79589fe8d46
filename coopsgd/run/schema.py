"""What a run folder's files hold, name by name: METRICS of a line of metrics.jsonl, SUMMARY of summary.json.

The one place that says so. The writers, the console, the readers and docs/run_folder.md follow it, and the tests hold runs
against it: a name that is not here is a mistake, and so is one that no run ever writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coopsgd.host.sizes import human_bytes
from coopsgd.registry import did_you_mean

# when a name is there. On a line that has it the value is null where there is nothing to say
ALWAYS = "every line"
EVALUATED = "evaluations"
AUXILIARY = "evaluations with v > 0"
LOCAL = "evaluations with `partition.test=local`"
SIMULATED = "with `cluster=`"
NUMBERS = "evaluations of `task=regression`"
SEVERAL = "evaluations of several labels a sample"
KNOWN = "tasks of known constants"
KNOWN_EVALUATED = "their evaluations"

MEASURED = ("wall_s", "train_s", "comm_s")  # by this machine's clock: never twice the same

# TensorBoard opens the first two groups of tags by name: they are to be eval and train, and all others come after
TRANSFER, WORKERS, THEORY, YOURS = "transfer", "workers", "vs", "yours"


@dataclass(frozen=True)
class Metric:
    """One name of metrics.jsonl. Totals are since the start, over all workers.

    section: the group of TensorBoard's tags it is in; empty where the name is not a curve, or begins with its group.
    words: what a person reads for it, on the console, in every table and figure; empty where the name's own will do.
    """

    name: str
    unit: str  # empty for a number without one
    when: str
    about: str
    section: str = ""
    words: str = ""

    @property
    def label(self) -> str:
        """What a person reads for it, everywhere."""
        return self.words or self.name.rpartition("/")[2].replace("_", " ")

    @property
    def score(self) -> str:
        """Of a share which task has it, by what its `SCORES` call it: accuracy, r2 or f1."""
        return {NUMBERS: "r2", SEVERAL: "f1"}.get(self.when, "accuracy") if self.unit == "share" else ""

    @property
    def rises(self) -> bool:
        """Is more of it better, as of an accuracy? Of a loss, less is."""
        return self.unit == "share"

    @property
    def tag(self) -> str:
        """TensorBoard's: the name, behind its section where it has one; empty for what is no curve."""
        return f"{self.section}/{self.name}" if self.section else self.name if "/" in self.name else ""

    def text(self, value: float | None) -> str:
        """A value as the console shows it."""
        if value is None:
            return "-"
        if self.unit == "bytes":
            return human_bytes(value)
        if self.unit == "s":
            return f"{value:.2f} s"
        return f"{value:.4f}" if self.unit in ("loss", "share") else f"{value:.4g}" if isinstance(value, float) else str(value)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("step", "", ALWAYS, "iterations so far, of which each is a local step of every active worker", words="steps"),
        Metric("epoch", "", ALWAYS, "passes over a worker's share; null where the task has none", "train"),
        Metric("samples", "", ALWAYS, "samples that all workers have seen", "train"),
        Metric("wall_s", "s", ALWAYS, "since the start, measuring included", "train", words="wall time"),
        Metric("train_s", "s", ALWAYS, "since the start, without measuring", "train", words="time"),
        Metric(
            "comm_s", "s", ALWAYS, "spent in communication, the mean of the processes", TRANSFER, words="communication time"
        ),
        Metric(
            "sim_s", "s", SIMULATED, "since the start, on the clock of the simulated cluster", "train", words="simulated time"
        ),
        Metric("rounds", "", ALWAYS, "communications so far", TRANSFER),
        Metric("messages", "", ALWAYS, "of one model to one member, that the algorithm asked for", TRANSFER),
        Metric("bytes", "bytes", ALWAYS, "in the messages that the algorithm asked for", TRANSFER, words="sent"),
        Metric("wire_bytes", "bytes", ALWAYS, "that this placement handed to the network", TRANSFER, words="sent on the wire"),
        Metric("lr", "", ALWAYS, "the learning rate", "train", words="learning rate"),
        Metric("tau", "steps", ALWAYS, "local steps of the round", "train"),
        Metric("phase", "steps", ALWAYS, "local steps since the last mixing", TRANSFER),
        Metric("train/loss", "loss", ALWAYS, "mean over workers and steps since the line before", words="training loss"),
        Metric(
            "consensus",
            "squared distance",
            ALWAYS,
            "mean of the workers' to their mean, before the latest communication; null but at evaluations",
            WORKERS,
            words="consensus distance",
        ),
        Metric(
            "consensus_after",
            "squared distance",
            ALWAYS,
            "mean of the workers' to their mean, when that was over",
            WORKERS,
            words="consensus distance after mixing",
        ),
        Metric("eval/loss", "loss", EVALUATED, "of the answer (the mean model) on the test set", words="test loss"),
        Metric(
            "eval/accuracy",
            "share",
            EVALUATED,
            "of the answer on the test set; null where the task has none",
            words="test accuracy",
        ),
        Metric(
            "eval/r2",
            "share",
            NUMBERS,
            "of the test targets' variance that it explains; null where they do not vary",
            words="test R²",
        ),
        Metric(
            "eval/f1",
            "share",
            SEVERAL,
            "its F1 score over all labels together; null where no label is there or said",
            words="test F1",
        ),
        Metric(
            "eval/accuracy_worst",
            "share",
            EVALUATED,
            "on the test set, of the worst single worker",
            words="test accuracy of the worst worker",
        ),
        Metric(
            "eval/accuracy_best",
            "share",
            EVALUATED,
            "on the test set, of the best single worker",
            words="test accuracy of the best worker",
        ),
        Metric(
            "eval/local_accuracy",
            "share",
            LOCAL,
            "of each worker's own model on the samples it holds out, the mean of them; a client that FedAvg did not draw still "
            "has the model of its last round",
            words="accuracy on own tests",
        ),
        Metric("eval/local_accuracy_std", "", LOCAL, "standard deviation of eval/local_accuracy over the workers"),
        Metric("eval/local_accuracy_p10", "share", LOCAL, "tenth percentile of eval/local_accuracy over the workers"),
        Metric(
            "eval/local_answer",
            "share",
            LOCAL,
            "of the answer on the samples that each worker holds out, the mean of them",
            words="accuracy of the answer on own tests",
        ),
        Metric("eval/local_answer_std", "", LOCAL, "standard deviation of eval/local_answer over the workers"),
        Metric("eval/local_answer_p10", "share", LOCAL, "tenth percentile of eval/local_answer over the workers"),
        Metric(
            "eval/aux_loss",
            "loss",
            AUXILIARY,
            "of the auxiliary model (EASGD's centre, a server's); of several the mean",
            words="auxiliary loss",
        ),
        Metric(
            "eval/aux_accuracy",
            "share",
            AUXILIARY,
            "of the auxiliary model; of several the mean; null where the task has none",
            words="auxiliary accuracy",
        ),
        Metric(
            "eval/aux_distance",
            "squared distance",
            AUXILIARY,
            "from it to the workers' mean, at the moment of `consensus`; of several the mean",
            words="auxiliary distance",
        ),
        Metric(
            "eval/grad2",
            "",
            KNOWN,
            "squared norm of the gradient at u, the mean of all m + v models",
            words="squared norm of the gradient",
        ),
        Metric(
            "eval/grad2_mean", "", KNOWN, "mean of eval/grad2 over the steps so far", words="mean squared norm of the gradient"
        ),
        Metric(
            "theory/bound",
            "",
            KNOWN,
            "of eval/grad2_mean by theory, where there is one",
            THEORY,
            words="its bound by theory",
        ),
        Metric(
            "theory/consensus",
            "squared distance",
            KNOWN_EVALUATED,
            "expected under gradient noise alone, where it is known",
            THEORY,
            words="expected consensus distance",
        ),
    )
}


def metric(name: str) -> Metric:
    """What the schema says of a name. KeyError, with what may have been meant, when it is none of ours."""
    if name not in METRICS:
        raise KeyError(f"no metric named {name!r}{did_you_mean(name, list(METRICS))}; known: {', '.join(METRICS)}")
    return METRICS[name]


def tag(name: str) -> str:
    """TensorBoard's for any name of a line; a number that a task of the user's own adds comes after ours."""
    if name in METRICS:
        return METRICS[name].tag
    return name if name.startswith(("eval/", "train/")) else f"{YOURS}/{name}"


def label(name: str) -> str:
    """What a person reads for any name of a line; a number that a task of the user's own adds is called as it is."""
    return METRICS[name].label if name in METRICS else name


def about(name: str) -> str:
    """What to say of any name of a line, in words that need no table."""
    if name not in METRICS:
        return "a number that the task adds"
    found = METRICS[name]
    return f"{found.label}, `{name}`{f' [{found.unit}]' if found.unit else ''}: {found.about}"


@dataclass(frozen=True)
class Axis:
    """Another number than the step that some curves are drawn over. TensorBoard's steps are whole numbers that never fall.

    name: the metric; scale: what to multiply it by; unit: what it is in then.
    """

    name: str
    scale: float
    unit: str

    def tag(self, name: str) -> str:
        """That of a curve over it."""
        return f"vs_{self.unit}/{tag(name)}"

    def about(self, name: str) -> str:
        """What to say of such a curve."""
        return f"{about(name)}. Here the step is `{self.name}` in {self.unit}"


AXES = (Axis("bytes", 1e-3, "kB"), Axis("train_s", 1e3, "ms"), Axis("sim_s", 1e3, "sim_ms"))
OVER = ("train/loss", "eval/loss", "eval/accuracy", "eval/r2", "eval/f1")  # what is drawn over them


def by_step(lines: Iterable[Mapping[str, Any]], name: str) -> dict[int, Any]:
    """The values of one metric by step, in order, without lines that have none."""
    known = metric(name).name
    return {line["step"]: line[known] for line in lines if line.get(known) is not None}


def evaluated(lines: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The lines of evaluations. A loss that is not finite is null there."""
    return [line for line in lines if "eval/loss" in line]


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def metrics_table() -> str:
    """METRICS as docs/run_folder.md shows them."""
    rows = ((f"`{m.name}`", m.label, m.unit, m.when, m.about, f"`{m.tag}`" if m.tag else "") for m in METRICS.values())
    return table(("name", "printed as", "unit", "there on", "what it is", "TensorBoard's tag"), rows)


ALL, ENDED = "always", "runs that came to their end"
SUMMARY = {  # key of summary.json -> when it is there, and what it is; a task of the user's own may add facts
    "format": (ALL, "of these keys; a file without one is of format 0"),
    "status": (ALL, "completed, diverged, failed or interrupted"),
    "steps": (ALL, "done, as far as is known"),
    "diverged_at": ("runs that diverged", "the first step whose loss was not finite"),
    "diverged_workers": ("runs that diverged", "whose loss it was; none where only the mean model's is not finite"),
    "best": ("`save=best`", "metric, step and value of the best evaluation, whose model is in best.safetensors"),
    "workers": (ALL, "m"),
    "aux": (ALL, "v"),
    "processes": (ALL, "that held them"),
    "algo": (ALL, "its name"),
    "tau": (ALL, "as it was given; null where the algorithm times itself"),
    "period": (ALL, "how tau moved"),
    "zeta": (ENDED, "of the matrices; null where it is not known"),
    "ledger": (ALL, "totals as in METRICS, and of runs that came to their end by worker, server and process"),
    "eval": (ALL, "eval/... of the last evaluation"),
    "consensus": (ALL, "of the last evaluation"),
    "consensus_after": (ALL, "of the last evaluation"),
    "phase": (ALL, "of the last log point, as are the seconds"),
    "train_s": (ALL, ""),
    "wall_s": (ALL, ""),
    "sim_s": (SIMULATED, ""),
    "cluster": (SIMULATED, "its keys, and about: what they say"),
    "seed": (ALL, ""),
    "name": (ALL, "the user's for this run"),
    "saved": (ALL, "what was kept of the models: rows, answer, none"),
    "data": ("tasks with data, " + ENDED, "which, and how many samples"),
    "parameters": (ENDED, "d, numbers of one model"),
    "norm_stats": (ENDED, "what was done with running statistics; null where there are none"),
    "device": (ENDED, "of the models"),
    "engine": ("networks, " + ENDED, "what computed stacked models"),
    "eval_samples": ("networks, " + ENDED, "that single workers were measured on"),
    "peak_memory": (ENDED, "bytes, of the largest process"),
    "checkpoints": (ENDED, "written, bytes of the last one, seconds that they took"),
    "resumed": (
        "runs that went on from one",
        "each time: from which step, how many steps were computed again, and which keys changed, from what to what",
    ),
    "restarts": ("runs whose workers were started again", "how often, in all commands: max_restarts=, or torchrun's"),
    "restarts_of_commands": ("where several commands did so", "how often in each of them, in order"),
    "notes": (ALL, "lines for the user"),
    "versions": (ALL, "of what the numbers depend on"),
    "environment": (ALL, "what their bits depend on besides: threads, processor, SHA-256 of data, packages, own source, git"),
    "command": (ALL, "that made the folder"),
    "checksums": (ENDED, "SHA-256 of what is kept"),
    "not_written": ("disks without room", "what is missing, and why"),
}
