"""What TensorBoard shows of runs: read back over HTTP from a real one, and seen in a real browser."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import browser
import numpy as np
import pytest
import tensorboards
from conftest import OWNER, needs
from playing import MLP, settle
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboards import TEXT

from coopsgd.run import cockpit, drawings, events
from coopsgd.run.folders import write_config
from coopsgd.run.metrics import Files
from coopsgd.run.naming import of_job
from coopsgd.setup.parts import Parts

WORDS = ("algo=dpsgd", *MLP, "workers=4", "steps=40")
PAGE = (Path(__file__).parents[2] / "docs" / "tensorboard.md").read_text()
REGEX = re.search(r"`(\(\?:algo=.*?)`", PAGE)[1]  # of a run's name, which algorithm it has
PATIENCE = 120.0  # seconds
STATUSES = ("STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING")


def point(step, loss):
    """A line of metrics as a run of 4 workers could write it."""
    return {"step": step, "train_s": step / 50, "wall_s": step / 40, "bytes": 4000 * step, "train/loss": loss, "tau": 1} | {
        "eval/loss": loss,
        "eval/accuracy": 1 - loss,
        "eval/accuracy_worst": 0.9 - loss,
        "eval/accuracy_best": 1.0,
        "consensus": None,
    }


def run_into(folder, config, words, status, sweep=True, lines=((0, 0.5), (20, 0.2), (40, 0.1))):
    """A run's folder as far as TensorBoard reads it; status: as it ends, of its own accord or (failed) by its command."""
    write_config(config, folder, "coopsgd train", sweep, words=words)
    files = Files(folder, pytest.fail)
    files.events.row(cockpit.row(folder, config))
    for step, loss in lines:
        files.log(point(step, loss))
    if status in ("completed", "diverged"):
        files.events.end(status)
    files.close()
    if status == "failed":
        events.end(folder, status)


def in_table(address):
    """The table of hyperparameters: its columns, and of each run its status, hyperparameters and metrics."""
    found = tensorboards.post(address, "data/plugin/hparams/experiment", {"experimentName": ""})
    asked = {"experimentName": "", "allowedStatuses": STATUSES, "colParams": [], "startIndex": 0, "sliceSize": 1000}
    groups = tensorboards.post(address, "data/plugin/hparams/session_groups", asked)["sessionGroups"]
    rows = {}
    for group in groups:
        (session,) = group["sessions"]
        numbers = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert all(not value["name"]["group"] for value in group["metricValues"])
        rows[session["name"]] = (session.get("status", "STATUS_UNKNOWN"), group["hparams"], numbers)
    return {column["name"]: column.get("differs", False) for column in found["hparamInfos"]}, rows


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """A sweep of 60, and a folder of single runs and two sweeps whose keys differ; the addresses of a TensorBoard for each."""
    root, base = tmp_path_factory.mktemp("boards"), settle(WORDS)
    ended = {7: "failed", 11: "diverged", 13: "killed"}
    for i in range(60):
        lr, seed = 0.01 * (1 + i % 20), i // 20
        config = replace(base, seed=seed, optim={**base.optim, "lr": lr})
        words = [f"optim.lr={lr}", f"seed={seed}"]
        run_into(root / "sixty" / ",".join(words), config, words, ended.get(i, "completed"), lines=((0, 0.5), (40, i / 100)))
    odd = root / "odd"
    run_into(odd / "a", replace(base, tau=4), ["tau=4", "+optim.weight_decay=0.1"], "completed", sweep=False)
    run_into(odd / "b", base, ["topology=ring", "model.hidden=[16]", "experiment=mine"], "completed", sweep=False)
    for beta in (0.5, 0.9):
        config = replace(base, optim={**base.optim, "momentum": beta})
        run_into(odd / "c" / f"{beta}", config, [f"optim.momentum={beta}"], "completed")
    for workers in (2, 4):
        run_into(odd / "d" / f"{workers}", replace(base, workers=workers), [f"workers={workers}"], "completed")
    with (
        tensorboards.tensorboards(root / "sixty", odd) as (sixty, other),
        tensorboards.tensorboards(root / "sixty", fast=True) as (fast,),
    ):
        OWNER.staying |= (servers := set(OWNER.left()))
        yield {"sixty": sixty, "odd": other, "fast": fast}
    OWNER.staying -= servers


@pytest.mark.parametrize("reader", ["sixty", "fast"])
def test_sixty_runs_are_sixty_rows_with_their_status_and_final_numbers(boards, reader):
    columns, rows = in_table(boards[reader])
    assert columns == {"algo": False, "optim.lr": True, "seed": True}
    assert len(rows) == 60
    for i in range(60):
        lr, seed = 0.01 * (1 + i % 20), i // 20
        status, keys, numbers = rows[f"optim.lr={lr},seed={seed}"]
        assert keys == {"algo": "dpsgd", "optim.lr": lr, "seed": float(seed)}
        assert numbers["eval/loss"] == pytest.approx(i / 100) and numbers["transfer/bytes"] == 160_000
        assert status == {7: "STATUS_FAILURE", 11: "STATUS_FAILURE", 13: "STATUS_UNKNOWN"}.get(i, "STATUS_SUCCESS"), i
    assert len(tensorboards.get(boards[reader], "data/runs")) == 60, "no run beside the runs"


def test_runs_whose_keys_differ_have_all_their_columns(boards):
    columns, rows = in_table(boards["odd"])
    assert set(columns) == {
        *cockpit.ALWAYS,
        *("optim.weight_decay", "topology", "model.hidden", "experiment", "optim.momentum", "workers"),
    }
    assert rows["a"][1]["tau"] == 4 and rows["a"][1]["workers"] == 4 and "topology" not in rows["a"][1]
    assert (
        rows["b"][1]["topology"] == "ring" and rows["b"][1]["model.hidden"] == "[16]" and rows["b"][1]["experiment"] == "mine"
    )
    assert rows["c/0.9"][1] == {"algo": "dpsgd", "optim.momentum": 0.9}
    assert rows["d/2"][1] == {"algo": "dpsgd", "workers": 2}


@pytest.mark.parametrize("reader", ["sixty", "fast"])
def test_every_tag_says_what_it_is_and_curves_are_drawn_over_bytes_and_seconds(boards, reader):
    address, run = boards[reader], "optim.lr=0.01,seed=1"
    tags = tensorboards.get(address, "data/plugin/scalars/tags")[run]
    assert all(about["description"] for about in tags.values()), [
        tag for tag, about in tags.items() if not about["description"]
    ]
    for unit, last in (("kB", 160), ("ms", 800)):
        curve = tensorboards.get(address, "data/plugin/scalars/scalars", run=run, tag=f"vs_{unit}/eval/loss")
        assert [(step, round(value, 3)) for _, step, value in curve] == [(0, 0.5), (last, 0.2)]
    layout = tensorboards.get(address, "data/plugin/custom_scalars/layout")
    charts = {chart["title"]: chart for category in layout["category"] for chart in category["chart"]}
    (band,) = charts["accuracy of the answer, between the worst worker and the best"]["margin"]["series"]
    for tag in band.values():
        assert tag in tags
    assert charts["loss of the answer at equal megabytes"]["multiline"]["tag"] == ["^vs_kB/eval/loss$"]


def test_curves_over_bytes_are_cut_where_the_run_goes_on_also_for_a_tensorboard_that_is_open(tmp_path):
    """Steps up to 20 were saved, and there were some more, that said other things; with bytes fewer than steps, and more."""
    for scale in (1e-3, 4.0):
        folder = tmp_path / f"{scale}"
        folder.mkdir()

        def log(files, steps, loss, scale=scale):
            for step in steps:
                files.log(point(step, loss) | {"bytes": int(1000 * scale * step)})

        first = Files(folder, pytest.fail)
        first.events.row({"algo": "dpsgd"})
        log(first, range(0, 21, 5), 0.5)
        saved = first.saved()
        log(first, (25, 30), 0.9)
        first.events.end("interrupted")
        first.close()
        is_open = plugin_event_accumulator.EventAccumulator(str(folder)).Reload()
        again = Files(folder, pytest.fail, saved)
        again.events.row({"algo": "dpsgd"})
        log(again, range(25, 41, 5), 0.1)
        again.events.end("completed")
        again.close()
        is_open.Reload()
        fresh = plugin_event_accumulator.EventAccumulator(str(folder)).Reload()
        wanted = [(step, 0.5 if step <= 20 else 0.1) for step in range(0, 41, 5)]
        for board in (is_open, fresh):
            for tag, each in (("eval/loss", 1), ("vs_kB/eval/loss", scale), ("vs_ms/eval/loss", 20)):
                found = [(event.step, round(event.tensor_proto.float_val[0], 4)) for event in board.Tensors(tag)]
                assert found == [(int(step * each), value) for step, value in wanted], (tag, scale)
        ended = fresh.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
        assert HParamsPluginData.FromString(ended).session_end_info.status == 1, "as it ended at last"


def test_a_run_is_named_by_its_algorithm_and_one_that_fails_says_so(cli, tmp_path):
    words = ("task=quadratic", "processes=1", "algo=gossip_pga", "tau=2", "workers=4", "steps=9")
    assert cli("train", *words, first=no_fifth_step).code == 1
    (folder,) = tmp_path.glob("outputs/*/*")
    assert re.search(REGEX, str(folder))[1] == "gossip_pga"
    found = plugin_event_accumulator.EventAccumulator(str(folder)).Reload()
    ended = HParamsPluginData.FromString(found.SummaryMetadata("_hparams_/session_end_info").plugin_data.content)
    assert ended.session_end_info.status == 2
    begun = HParamsPluginData.FromString(found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    assert dict(begun.session_start_info.hparams)["tau"].number_value == 2


def no_fifth_step():
    from coopsgd.loop.loop import Loop

    advance = Loop.advance

    def fails(self):
        if self.state.k == 5:
            raise RuntimeError("no fifth")
        advance(self)

    Loop.advance = fails


def test_a_record_that_a_killed_run_left_half_written_hides_no_status(tmp_path):
    base = settle(WORDS)
    run_into(tmp_path / "a", base, [], "killed")
    (file,) = (tmp_path / "a").glob("events.*")
    whole = file.read_bytes()
    for torn in (b"", b"\x01", whole[:20], struct.pack("<Q", 1000) + b"abc"):
        file.write_bytes(whole + torn)
        events.end(tmp_path / "a", "interrupted")
        found = file.read_bytes()
        assert found.startswith(whole) and 0 < len(found) - len(whole) < 200
        assert found[len(whole) :][8 + 4 :].find(b"_hparams_/session_end_info") > 0
        with pytest.raises(OSError):
            events.end(link_to(file, tmp_path / "b"), "failed")


def link_to(file, folder):
    """A folder whose file of events is a link to another."""
    folder.mkdir(exist_ok=True)
    if not (folder / file.name).is_symlink():
        (folder / file.name).symlink_to(file)
    return folder


# pictures


def sizes(png):
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize(
    "words",
    [
        ("algo=easgd", "workers=4"),
        ("algo=dpsgd", "workers=300", "topology=torus"),
        ("algo=pasgd", "workers=2000"),
        ("algo=dpsgd", "workers=2000"),
        ("algo=hierarchical", "workers=8"),
        ("algo=two_level", "workers=64", "algo.tau_2=20", "algo.groups=8"),
        ("algo=fullsync", "workers=4"),
        ("algo=independent", "workers=3"),
        ("algo=fedavg", "workers=8"),
    ],
)
def test_pictures_stay_small_whatever_the_number_of_workers(words):
    parts = Parts(settle(("task=quadratic", "processes=1", *words)))
    found = {tag: picture for tag, _, picture in cockpit.images(parts, None)}
    if words[0] == "algo=fullsync":
        assert not found, "no matrix mixes the models"
        return
    assert {tag for tag in found if tag.endswith("W") or tag.endswith("W_1")}
    for png, width, height in found.values():
        assert png.startswith(b"\x89PNG") and sizes(png) == (width, height)
        assert len(png) < 150_000 and max(width, height) <= 600


def test_a_cell_of_the_heat_map_is_the_sum_of_its_weights():
    for words in (
        ("algo=dpsgd", "workers=300"),
        ("algo=easgd", "workers=50"),
        ("algo=two_level", "workers=12", "algo.groups=3"),
    ):
        parts = Parts(settle(("task=quadratic", "processes=1", *words)))
        for W in parts.strategy.schedule.factors(parts.config.workers, 0):
            n, cells = len(W), 7
            place = [i * cells // n for i in range(n)]
            wanted = [[0.0] * cells for _ in range(cells)]
            dense = W.dense()
            for i in range(n):
                for j in range(n):
                    wanted[place[i]][place[j]] += dense[i, j]
            assert drawings.binned(W, cells) == pytest.approx(np.array(wanted), abs=1e-9)


def test_what_is_drawn_is_no_reason_to_lose_a_run(cli, tmp_path):
    ended = cli("train", "task=quadratic", "steps=3", "hydra.run.dir=r", "processes=1", first=no_pictures)
    assert ended.code == 0 and "not all pictures for TensorBoard could be drawn (RuntimeError: no ink)" in ended.err + ended.out
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "completed"


def no_pictures():
    def fails(*_):
        raise RuntimeError("no ink")

    drawings.heat_map = fails


# a real sweep, looked at

SWEEP = ("algo=easgd,dpsgd", "optim.lr=0.1,1e30", "model.hidden=[16]", "steps=20", "log_every=5", "eval_every=5")


def test_a_person_sees_tags_rows_and_pictures_of_a_real_sweep(cli, tmp_path):
    needs(browser.found() is not None, "chromium")
    ended = cli("train", "-m", *SWEEP, "processes=1", "hydra.sweep.dir=s")
    assert ended.code == 1 and "2 of the sweep's jobs failed" in ended.err, "at such a rate they diverge"
    with tensorboards.tensorboards(tmp_path / "s", fast=True) as (address,), browser.opened(1400, 900) as page:
        columns, rows = in_table(address)
        assert columns == {"algo": True, "optim.lr": True} and len(rows) == 4
        assert sorted(status for status, _, _ in rows.values()) == ["STATUS_FAILURE"] * 2 + ["STATUS_SUCCESS"] * 2

        def seen(tab, words):
            page.go("about:blank")  # an address that differs behind # alone would load nothing
            page.go(f"{address}?darkMode=false#{tab}")
            page.wait(f"(text => {json.dumps(words)}.every(word => text.includes(word)))({TEXT})", PATIENCE)
            page.screenshot(tmp_path / f"{tab}.png")
            return page.evaluate(TEXT)

        said = seen("timeseries", ["workers", "Run", "eval", "/accuracy"]).splitlines()
        groups = [line for line in said if line in ("eval", "train", "transfer", "vs_kB", "vs_ms", "workers")]
        assert list(dict.fromkeys(groups)) == ["eval", "train", "transfer", "vs_kB", "vs_ms", "workers"]
        table = seen("hparams", ["Trial ID", "session groups: 4", "eval/loss"]).partition("Trial ID")[2]
        assert table.split()[:5] == ["Show", "Metrics", "algo", "optim.lr", "eval/accuracy"] and table.count("algo=") == 4
        seen("images", ["W_graph"])
        assert page.errors == []
    for name in ("timeseries", "hparams", "images"):
        png = (tmp_path / f"{name}.png").read_bytes()
        assert sizes(png)[0] == 1400 and len(png) > 20_000


def test_the_link_of_the_docs_colours_by_algorithm():
    assert f"?runColorGroup=regex:{quote(REGEX, safe='')}" in PAGE
    for name, algo in (
        ("algo=easgd,tau=4", "easgd"),
        ("2030-01-31/12-00-00/algo=two_level,tau=4", "two_level"),
        ("2030-01-31/12-00-00-gossip_pga", "gossip_pga"),
        ("2030-01-31/12-00-00-dpsgd-2", "dpsgd"),
        ("2030-01-31/12-00-00-dpsgd/tau=4,seed=1", "dpsgd"),
        (of_job(["tau=4", "seed=1"], 0, "dpsgd"), "dpsgd"),
        (of_job(["experiment=skew", "x" * 200, "algo=gossip_pga"], 0, "gossip_pga"), "gossip_pga"),
    ):
        assert re.search(REGEX, name)[1] == algo, name
