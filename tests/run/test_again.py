"""A command that is given again: `resume=auto` goes on with what its folder holds, `skip_done=true` leaves out what is done."""

from __future__ import annotations

import shutil

import pytest
from running import unsaved_end
from test_resume import PLAIN, SAVED, interrupted, lines, same

import coopsgd

WORDS = ("train", *PLAIN, "processes=1", "algo=dpsgd", "tau=4", "optim.momentum=0.9", *SAVED)


@pytest.fixture
def whole(cli, tmp_path):
    """A run that nobody stopped, by the command that is given again."""
    ended = cli(*WORDS, "resume=auto", "hydra.run.dir=whole", first=unsaved_end)
    assert ended.code == 0 and "goes on" not in ended.out, ended
    return coopsgd.Run(tmp_path / "whole")


def test_the_same_command_goes_on(cli, tmp_path, whole):
    interrupted(whole.folder, tmp_path / "broken")
    ended = cli(*WORDS, "resume=auto", "hydra.run.dir=broken")
    assert ended.code == 0 and "goes on from step 15; at least 8 steps are computed again" in ended.out, ended
    same(whole, coopsgd.Run(tmp_path / "broken"))
    before = (tmp_path / "broken" / "metrics.jsonl").stat().st_mtime_ns
    ended = cli(*WORDS, "resume=auto", "hydra.run.dir=broken")
    assert ended.code == 0 and "completed at step 23; nothing is left to do" in ended.out, ended
    assert (tmp_path / "broken" / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_longer_command_makes_the_run_longer(cli, tmp_path, whole):
    longer = [word if not word.startswith("steps=") else "steps=30" for word in WORDS]
    ended = cli(*longer, "resume=auto", "hydra.run.dir=whole")
    assert ended.code == 0 and "goes on from step 15" in ended.out, ended
    assert cli(*longer, "hydra.run.dir=long").code == 0
    same(coopsgd.Run(tmp_path / "whole"), coopsgd.Run(tmp_path / "long"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optim.lr=0.3",), "optim.lr: would change what this run has done already"),
        (("algo=easgd",), "algo: would change"),
        (("seed=4",), "seed: would change"),
        (("steps=10",), "steps: the run has done 23 of them; name more, got 10"),
    ],
)
def test_another_run_in_the_folder_is_not_taken_for_this_one(cli, whole, words, line):
    before = {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    keys = [word.partition("=")[0] + "=" for word in words]
    ended = cli(*(word for word in WORDS if not word.startswith(tuple(keys))), *words, "resume=auto", "hydra.run.dir=whole")
    assert ended.code == 2 and len(ended.lines) == 1 and line in ended.err, ended
    assert {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()} == before


def test_where_it_is_computed_stays_unless_somebody_says_so(cli, tmp_path, whole):
    interrupted(whole.folder, tmp_path / "broken")
    ended = cli(*(word for word in WORDS if not word.startswith("processes=")), "resume=auto", "hydra.run.dir=broken")
    assert ended.code == 0, ended
    assert coopsgd.Run(tmp_path / "broken").summary["processes"] == 1  # a process a worker is what auto would say here
    interrupted(whole.folder, tmp_path / "placed")
    ended = cli(*WORDS, "processes=2", "name=again", "resume=auto", "hydra.run.dir=placed")
    assert ended.code == 0, ended
    summary = coopsgd.Run(tmp_path / "placed").summary
    assert summary["processes"] == 2 and summary["name"] == "again"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("resume=auto",), "resume: needs a folder that is the same each time; add hydra.run.dir=FOLDER"),
        (("-m", "seed=0,1", "resume=auto"), "resume: needs a folder that is the same each time; add hydra.sweep.dir=FOLDER"),
        (("-m", "seed=0,1", "skip_done=true"), "skip_done: needs a folder that is the same each time"),
        (("skip_done=true", "hydra.run.dir=r"), "skip_done: is about the runs of a sweep; put -m behind train"),
        (("resume=yes", "hydra.run.dir=r"), "resume: must be never or auto, got 'yes'"),
        (("-m", "seed=0,1", "skip_done=1", "hydra.sweep.dir=s"), "skip_done: must be false or true, got '1'"),
        (("resum=auto", "hydra.run.dir=r"), "did you mean resume?"),
    ],
)
def test_words_that_say_nothing(cli, tmp_path, words, line):
    ended = cli("train", *PLAIN, *words)
    assert ended.code == 2 and len(ended.lines) == 1 and line in ended.err, ended
    assert all(path.name.startswith(".cli") for path in tmp_path.iterdir())


def test_other_verbs_have_no_such_words(cli):
    ended = cli("show", "resume=auto")
    assert ended.code == 2 and "resume: is a word of coopsgd train" in ended.err and len(ended.lines) == 1


def test_code_of_ones_own_needs_no_trust_but_other_code_is_not_imported(cli, tmp_path):
    (tmp_path / "mine.py").write_text("def W(m, r): return [[1 / m] * m] * m\n")
    words = [word for word in WORDS if not word.startswith(("algo", "tau"))] + ["algo=cooperative", "algo.W=mine:W", "tau=4"]
    assert cli(*words, "hydra.run.dir=whole", first=unsaved_end).code == 0
    whole = coopsgd.Run(tmp_path / "whole", trust=True)
    interrupted(whole.folder, tmp_path / "broken")
    ended = cli(*words, "resume=auto", "hydra.run.dir=broken")
    assert ended.code == 0 and "goes on from step 15" in ended.out, ended
    assert lines(whole.folder) == lines(tmp_path / "broken")
    interrupted(whole.folder, tmp_path / "theirs")
    config = tmp_path / "theirs" / "config.yaml"
    (tmp_path / "other.py").write_text("open('touched', 'w')\ndef W(m, r): return [[1 / m] * m] * m\n")
    config.write_text(config.read_text().replace("mine:W", "other:W"))
    ended = cli(*words, "resume=auto", "hydra.run.dir=theirs")
    assert ended.code == 2 and "algo.W" in ended.err and not (tmp_path / "touched").exists(), ended


def test_a_sweep_that_is_given_again_goes_on(cli, tmp_path):
    words = (*WORDS[:1], "-m", *WORDS[1:], "seed=0,1,2", "hydra.sweep.dir=s")
    assert cli(*words, first=unsaved_end).code == 0
    jobs = sorted(path.parent for path in (tmp_path / "s").rglob("summary.json"))
    assert len(jobs) == 3
    wanted = [lines(job) for job in jobs]
    interrupted(jobs[1], tmp_path / "broken")
    shutil.rmtree(jobs[1])
    (tmp_path / "broken").rename(jobs[1])
    shutil.rmtree(jobs[2])
    assert [job.name for job in jobs] == [f"algo=dpsgd,seed={seed}" for seed in range(3)]
    jobs[:2] = (job.rename(job.with_name(job.name.removeprefix("algo=dpsgd,"))) for job in jobs[:2])  # an earlier version's
    ended = cli(*words, "resume=auto")
    assert ended.code == 0, ended
    assert ended.out.count("nothing is left to do") == 1 and ended.out.count("goes on from step 15") == 1
    assert [lines(job) for job in jobs] == wanted


def test_what_a_sweep_has_done_is_left_out(cli, tmp_path):
    words = ("train", "-m", *PLAIN, "processes=1", "steps=6", "algo=dpsgd", "hydra.sweep.dir=s")
    assert cli(*words, "tau=1,2").code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("metrics.jsonl")}
    ended = cli(*words, "tau=1,2,3", "seed=0,1", "skip_done=true")
    assert ended.code == 0, ended
    assert ended.out.count("done already in s/") == 2 and ended.out.count("so it is not run again") == 2
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("metrics.jsonl")}
    assert len(after) == 6 and before.items() <= after.items()
    ended = cli(*words, "tau=1,2,3", "seed=0,1", "skip_done=true")
    assert ended.code == 0 and ended.out.count("so it is not run again") == 6
    assert ended.out.count("  completed  ") == 6  # in the table, with their numbers
    assert cli(*words, "tau=1,2", "skip_done=true").code == 0  # in the folders of these runs themselves
    ended = cli(*words, "tau=1", "processes=2", "skip_done=true")  # who asks for it elsewhere wants it
    assert ended.code == 0 and "done already" not in ended.out, ended


def test_one_that_was_not_finished_is_not_done(cli, tmp_path):
    words = (*WORDS[:1], "-m", *WORDS[1:], "seed=0,1", "hydra.sweep.dir=s")
    assert cli(*words, first=unsaved_end).code == 0
    job = sorted(path.parent for path in (tmp_path / "s").rglob("summary.json"))[0]
    interrupted(job, tmp_path / "broken")
    shutil.rmtree(job)
    (tmp_path / "broken").rename(job)
    ended = cli(*words, "skip_done=true")
    assert ended.code == 2 and "already holds a run; add resume=auto to go on with it" in ended.err, ended
    ended = cli(*words, "skip_done=true", "resume=auto")
    assert ended.code == 0 and "goes on from step 15" in ended.out and ended.out.count("done already") == 1, ended
