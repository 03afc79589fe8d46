"""`coopsgd time`: what a run takes on another cluster is, to the bit, what the same run logs when it is trained with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playing import settle

from coopsgd import Run
from coopsgd.completion import overrides
from coopsgd.predict import cost
from coopsgd.run.simulated import name_of
from coopsgd.setup.parts import Parts

SMALL = ("task=quadratic", "workers=4", "processes=1", "steps=23", "log_every=5", "eval_every=10", "save=none")
STRAGGLERS = "ethernet_1g,step=pareto,step_s=0.02"
CLUSTERS = {
    "wan_100m": ("cluster=wan_100m",),
    STRAGGLERS: ("cluster=ethernet_1g", "cluster.step=pareto", "cluster.step_s=0.02"),
}
# gossip, a server, sampled clients that make unequal steps, matrices at random, messages that are late, one before the step
KINDS = {
    "gossip": ("algo=easgd,fedavg,matcha,fullsync", "topology=ring"),
    "late": ("algo=pasgd,dpsgd", "delay=2", "tau=4"),
    "cta": ("algo=dpsgd", "order=cta", "tau=3"),
    "rate": ("algo=pasgd", "period=qsr", "schedule=cosine", "optim.lr=0.1"),
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["sim_s"]) for line in Run(folder).metrics()]


@pytest.mark.parametrize(("kind", "cluster"), [*((kind, STRAGGLERS) for kind in KINDS), ("cta", "wan_100m")])
def test_it_is_what_training_with_the_cluster_logs(cli, kind, cluster):
    def sweep(at, *words):
        ended = cli("train", "-m", *SMALL, *KINDS[kind], *words, f"hydra.sweep.dir={at}")
        assert ended.code == 0, ended.err
        return sorted(path.parent for path in Path(at).glob("*/config.yaml"))

    without, trained = sweep("without"), sweep("trained", *CLUSTERS[cluster])
    ended = cli("time", "without", *CLUSTERS[cluster], "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["cluster"] == cluster and len(found["runs"]) == len(without) == len(trained) > 0
    for run, same in zip(without, trained, strict=True):
        assert run.name == same.name
        timed = [(point["step"], point["sim_s"]) for point in Run(run).simulated(cluster)]
        assert timed == lines(same) and timed[-1][1] > 0
        assert not any("sim_s" in line for line in Run(run).metrics()), "the run itself stays as it is"


def test_tensorboard_reads_it(cli):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert cli("train", *SMALL, "hydra.run.dir=r").code == 0
    for _ in range(2):  # a second time replaces the first
        assert cli("time", "r", "cluster=wan_100m").code == 0
    at = Path("r/sim/wan_100m")
    assert len(list(at.iterdir())) == 1
    board = EventAccumulator(str(at)).Reload()
    timed = Run("r").simulated("wan_100m")
    seconds = board.Scalars("train/sim_s")
    assert [event.value for event in seconds] == pytest.approx([point["sim_s"] for point in timed])
    loss = board.Scalars("eval/loss")
    assert loss[-1].wall_time - loss[0].wall_time == pytest.approx(timed[-1]["sim_s"], rel=1e-4)
    assert timed[0]["cluster"]["bandwidth"] and Run("r").simulated("wan_100m") == timed


def test_a_run_that_has_a_cluster_is_told_beside_it(cli):
    assert cli("train", *SMALL, "cluster=wan_20m", "hydra.run.dir=r").code == 0
    before = lines(Path("r"))
    (run,) = json.loads(cli("time", "r", "cluster=wan_100m", "--json").out)["runs"]
    assert run["own_sim_s"] == before[-1][1] > run["sim_s"] and lines(Path("r")) == before
    (again,) = json.loads(cli("time", "r", "cluster=wan_20m", "--json").out)["runs"]
    assert again["sim_s"] == again["own_sim_s"]
    table = cli("time", "r", "cluster=wan_20m").out
    assert "seconds on wan_20m" in table and "r/" not in table.split()[0]


WATCHED = ("algo=pasgd", "period=adacomm", "tau=4")
ENDED = ("algo=pasgd", "cluster=wan_100m", "stop.sim_seconds=0.2")


def test_what_only_training_tells_is_refused(cli):
    for name, words, why in (("a", WATCHED, "period=adacomm: goes by the loss"), ("b", ENDED, "stop.sim_seconds: ended it")):
        assert cli("train", *SMALL, *words, f"hydra.run.dir=s/{name}").code == 0
        ended = cli("time", f"s/{name}", "cluster=wan_100m")
        assert ended.code == 2 and len(ended.lines) == 1 and f"s/{name}: {why}" in ended.err
        assert not Path(f"s/{name}/sim").exists()
    assert cli("train", *SMALL, "hydra.run.dir=s/c").code == 0
    ended = cli("time", "s", "cluster=wan_100m", "--json")
    found = json.loads(ended.out)
    assert [run["folder"] for run in found["runs"]] == ["s/c"] and len(found["notes"]) == 2
    # a rate that the loss lowers moves the period too
    plateau = ("schedule=plateau", "schedule.patience=0", "schedule.threshold=0.9", "eval_every=2")
    assert cli("train", *SMALL, *plateau, "period=qsr", "period.alpha=0.05", "steps=40", "hydra.run.dir=p").code == 0
    ended = cli("time", "p", "cluster=wan_100m")
    assert ended.code == 2 and len(ended.lines) == 1 and "so only the run tells" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "time: names no cluster"),
        (("r",), "time: names no cluster"),
        (("cluster=wan_100m",), "time: names no run"),
        (("", "cluster=wan_100m"), "time: an empty word"),
        (("nowhere", "cluster=wan_100m"), "nowhere: nowhere holds no run"),
        (("empty", "cluster=wan_100m"), "holds no run"),
        (("r", "cluster=wan"), "did you mean wan_"),
        (("r", "cluster=wan_100m", "cluster.step=1"), "cluster.step"),
        (("r", "cluster=wan_100m", "cluster.speed=[1]"), "did you mean speeds"),
        (("r", "cluster=wan_100m", "cluster.speeds=[1,2]"), "r: cluster.speeds: names 2 workers"),
        (("r", "cluster=null"), "names no cluster"),
        (("r", "cluster=wan_100m", "tau=4"), "tau=4: is neither a run folder nor about the cluster"),
        (("r", "cluster=wan_100m,wan_20m"), "cluster"),
        (("r", "cluster=wan_100m", "--jsn"), "did you mean --json"),
    ],
)
def test_bad_words(cli, a_run, words, said):
    ended = cli("time", *words)
    assert ended.code == 2 and len(ended.lines) == 1 and said in ended.err, ended.err
    assert not list(Path().rglob("*.jsonl.*")) and not (Path("r") / "sim").exists()


@pytest.fixture
def a_run(cli):
    """A folder `r` that holds what a run leaves, and one that holds nothing."""
    from coopsgd.commands import compose
    from coopsgd.setup import schema

    for name in ("r", "empty"):
        Path(name).mkdir()
    Path("r/config.yaml").write_text(schema.dumps(compose.compose_config([*SMALL]).config))
    Path("r/metrics.jsonl").write_text('{"step": 0, "rounds": 0, "messages": 0, "bytes": 0}\n')


def test_what_was_not_timed(a_run):
    with pytest.raises(LookupError, match=r"coopsgd time r cluster=wan_20m"):
        Run("r").simulated("wan_20m")


def test_names_of_files():
    assert name_of("wan_100m", {}) == "wan_100m"
    assert name_of("custom", {"step_s": "1", "latency_s": "0.1"}) == "custom,latency_s=0.1,step_s=1"
    assert name_of("custom", {"step_s": "1", "bandwidth": "10 Mbit/s"}).startswith("custom,bandwidth=10-Mbit-s,step_s=1~")
    assert name_of("graph", {"file": "a/b.gml"}) != name_of("graph", {"file": "a-b.gml"})
    assert name_of("custom", {"speeds": "1" * 500}) != name_of("custom", {"speeds": "1" * 501})
    assert "/" not in name_of("graph", {"file": "../a/b.gml"}) and len(name_of("custom", {"speeds": "1" * 500})) <= 120


def test_its_words_are_completed():
    assert {"cluster=wan_100m", "cluster=graph"} <= {item.value for item in overrides(["cluster="])}


def test_a_run_that_has_gone_on_is_to_be_timed_again(cli, tmp_path):
    words = ("task=quadratic", "workers=2", "processes=1", "tau=2", "log_every=2", "checkpoint_every=2", "hydra.run.dir=r")
    assert cli("train", *words, "steps=4").code == 0
    assert cli("time", "r", "cluster=wan_100m").code == 0
    assert cli("resume", "r", "steps=8").code == 0
    with pytest.raises(LookupError, match=r"has gone on since it was timed on 'wan_100m': coopsgd time .* cluster=wan_100m$"):
        Run(tmp_path / "r").simulated("wan_100m")


@pytest.mark.parametrize("period", ["post_local", "qsr"])
def test_nothing_is_said_of_seconds_that_a_plateau_decides(period):
    words = ("task=quadratic", "workers=2", "algo=pasgd", "tau=2", f"period={period}", "cluster=wan_100m", "steps=20")
    assert cost.seconds(Parts(settle((*words, "schedule=step", "schedule.every=5")))) is not None
    assert cost.seconds(Parts(settle((*words, "schedule=plateau", "eval_every=5")))) is None


def test_a_key_that_the_cluster_does_not_have_is_told_by_its_name(cli):
    assert cli("train", *SMALL, "algo=pasgd", "hydra.run.dir=r").code == 0
    ended = cli("time", "r", "cluster=wan_100m", "cluster.file=a")
    assert ended.code == 2 and len(ended.lines) == 1 and ": cluster.file: wan_100m has no such key; it is a key of" in ended.err
