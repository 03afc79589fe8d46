"""scripts/figure_*.py draw their own experiment or nothing, where they are told or beside it, never into docs/ unasked."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from copy import deepcopy
from itertools import product
from pathlib import Path

import pytest
import yaml
from playing import settle

from coopsgd.setup import schema

ROOT = Path(__file__).parents[1]
EXPERIMENT = {"alpha": "alpha", "bytes": "equal_bytes", "crossing": "crossing", "skew": "skew"}
TAUS, SEEDS = range(1, 7), range(5)


@pytest.fixture
def draw(monkeypatch, capsys):
    """draw("crossing", FOLDER, ...) runs the script: exit code, stdout, stderr."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def run(name, *words):
        script = ROOT / "scripts" / f"figure_{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, words)])
        code = 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def leave(folder: Path, settings: schema.Config) -> None:
    """What a run of this config would leave behind, as far as figures read it; the numbers are made up."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(schema.dumps(settings))
    brief = {"algo": settings.algo["name"], "tau": settings.tau, "workers": settings.workers, "status": "completed"}
    (folder / "summary.json").write_text(json.dumps(brief))
    lines = [{"step": k, "consensus": settings.tau + 0.1 * k, "eval/loss": settings.tau + 0.01 * settings.seed} for k in (0, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a whole sweep of experiment=crossing."""
    sweep = tmp_path_factory.mktemp("whole")
    for algo in ("pasgd", "dpsgd"):
        first = settle(("experiment=crossing", f"algo={algo}", "tau=1", "seed=0"))
        for tau, seed in product(TAUS, SEEDS):
            settings = deepcopy(first)
            settings.tau, settings.seed, settings.processes = tau, seed, 1 + seed % 2  # where it ran is nobody's business
            leave(sweep / f"algo={algo},tau={tau},seed={seed}", settings)
    return sweep


@pytest.fixture
def crossing(whole, tmp_path):
    """A copy of it to change."""
    return Path(shutil.copytree(whole, tmp_path / "sweep"))


def edit(folder: Path, **changes) -> None:
    """Other values in a run's config."""
    path = folder / "config.yaml"
    node = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *above, last = key.split("__")
        at = node
        for part in above:
            at = at[part]
        at[last] = value
    path.write_text(yaml.safe_dump(node))


def pictures() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (ROOT / "docs").iterdir() if path.is_file()}


def test_a_whole_sweep_is_drawn_beside_its_folder_or_where_asked(draw, crossing):
    before = pictures()
    code, out, err = draw("crossing", crossing)
    assert code == 0, err
    beside = crossing.parent / "sweep.crossing.png"
    assert beside.read_bytes()[:4] == b"\x89PNG" and str(beside) in out and "| pasgd | 6 |" in out
    code, out, err = draw("crossing", crossing, "-o", crossing.parent / "mine.svg")
    assert code == 0 and "<svg" in (crossing.parent / "mine.svg").read_text()
    assert pictures() == before


@pytest.mark.parametrize("name", ["alpha", "bytes", "skew"])
def test_runs_of_another_experiment_are_refused(draw, crossing, name):
    before = pictures()
    code, out, err = draw(name, crossing)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"holds no sweep of experiment={EXPERIMENT[name]}:" in err and "algo=dpsgd,tau=1,seed=0 has" in err
    assert pictures() == before and not list(crossing.parent.glob("*.png"))


RUN = "algo=pasgd,tau=1,seed=0"
CHANGED = [
    ({"tau": 7}, "has tau=7, which sweeps 1, 2, 3, 4, 5, 6"),
    ({"algo__mixing": "identity"}, "has algo.mixing=identity, not average"),
    ({"optim__momentum": 0.9}, "has optim.momentum=0.9, not 0.0"),
    ({"clip": 1.0}, "has clip=1.0, not None"),
    ({"seed": 1}, "are the same run"),
]


@pytest.mark.parametrize(("changes", "message"), CHANGED)
def test_one_run_that_is_not_of_the_experiment_is_named(draw, crossing, changes, message):
    edit(crossing / RUN, **changes)
    code, out, err = draw("crossing", crossing)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err and RUN in err and "coopsgd train -m experiment=crossing" in err


def test_a_sweep_that_is_not_whole_is_refused(draw, crossing):
    (crossing / RUN / "summary.json").unlink()
    code, _, err = draw("crossing", crossing)
    assert (code, err.count("\n")) == (2, 1) and "1 of its 60 runs are not there, the first algo=pasgd, tau=1, seed=0" in err


def test_a_damaged_run_is_named(draw, crossing):
    (crossing / RUN / "summary.json").write_text('{"algo": ')
    code, _, err = draw("crossing", crossing)
    assert (code, err.count("\n")) == (2, 1) and RUN in err and "damaged" in err


def test_a_sweep_shortened_on_the_command_line_is_not_the_experiment(draw, cli, tmp_path):
    ended = cli("train", "-m", "experiment=crossing", "steps=20", "algo=pasgd", "tau=1,2", "seed=0", "hydra.sweep.dir=short")
    assert ended.code == 0, ended.err
    code, _, err = draw("crossing", tmp_path / "short")
    assert (code, err.count("\n")) == (2, 1) and "has steps=20, not 10000" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the following arguments are required: folder"),
        (("nowhere",), "nowhere is no folder"),
        (("FOLDER", "-o", "mine.doc"), "-o mine.doc: no picture is called that"),
        (("FOLDER", "-o", "nowhere/mine.png"), "nowhere is no folder"),
        (("FOLDER", "extra"), "unrecognized arguments: extra"),
    ],
)
def test_words_that_mean_nothing(draw, whole, words, message):
    code, out, err = draw("crossing", *(whole if word == "FOLDER" else word for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err


def test_an_empty_folder(draw, tmp_path):
    code, _, err = draw("skew", tmp_path)
    assert (code, err.count("\n")) == (2, 1) and "holds no finished runs" in err
