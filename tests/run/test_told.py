"""What a run says at its end and leaves in its summary: of its own tests, of its files, and no value that there is not."""

from __future__ import annotations

import json

from coopsgd.setup.words import as_written, mended


def test_the_end_says_how_workers_do_on_their_own_and_the_summary_what_files_were_taken_for(cli, tmp_path):
    (tmp_path / "users.json").write_text(json.dumps([f"user {i % 7}" for i in range(1433)]))
    (tmp_path / "g.csv").write_text("here,there\n0,1\n1,2\n2,0\n")
    words = ("partition=file", "partition.file=users.json", "partition.test=local", "workers=3", "processes=1", "threads=1")
    words = (*words, "algo=dpsgd", "topology=file", "topology.file=g.csv", "steps=4", "hydra.run.dir=r")
    ended = cli("train", *words)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    last = summary["eval"]
    mean, spread, tenth = (last[f"eval/local_accuracy{end}"] for end in ("", "_std", "_p10"))
    said = " ".join(ended.out.split())
    assert f"accuracy on own tests {mean:.4f} +- {spread:.4g}, a tenth below {tenth:.4f}" in said
    assert f"accuracy of the answer on own tests {last['eval/local_answer']:.4f}" in said
    for note in ("7 users are dealt to 3 workers", "is taken for a heading"):
        assert note in ended.out + ended.err and any(note in one for one in summary["notes"])


def test_an_algorithm_without_a_period_has_none(cli):
    said = cli(
        "train", "algo=fedavg", "algo.epochs=1", "workers=2", "processes=1", "threads=1", "rounds=1", "hydra.run.dir=r"
    ).out
    assert "None" not in said and "tau" not in said


def test_words_are_told_as_they_were_written():
    for word in (
        "cluster.file=a/net.gml",
        "name=it's",
        "topology.file='a b.gml'",
        "tau=4",
        "optim.lr=0.1",
        "data.file=x=y.txt",
    ):
        (made,), _ = mended([word], "train")
        assert mended([as_written(made)], "train")[0] == [made]
    (made,), _ = mended(["cluster.file=a/net.gml"], "train")
    assert made != "cluster.file=a/net.gml" == as_written(made)
