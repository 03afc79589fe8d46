"""What is cited: every paper that a yaml names has an entry, and a config's are those of its parts."""

from __future__ import annotations

import re

import pytest

from coopsgd.commands import cite
from coopsgd.setup import catalogue, papers
from coopsgd.setup.schema import GROUPS

ENTRIES = papers.entries()
LINES = [choice.paper for group in GROUPS for choice in catalogue.choices(group) if choice.paper]


def field(entry: str, name: str) -> str:
    found = re.search(r"^  " + name + r" = {(.*)},$", entry, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("line", dict.fromkeys(LINES))
def test_every_paper_of_a_yaml_has_an_entry(line):
    ids = set(re.findall(r"arXiv:([\d.]+\d)", line))
    found = {field(ENTRIES[key], "eprint") for key in papers.keys_of(line)}
    assert ids <= found and papers.keys_of(line)


def test_an_entry_that_is_not_there_is_noticed():
    with pytest.raises(KeyError, match=r"arXiv:2999\.12345"):
        papers.keys_of("arXiv:1412.6651, then arXiv:2999.12345")
    with pytest.raises(KeyError, match="Nobody 2031"):
        papers.keys_of("after Nobody 2031")


def test_entries_are_whole_and_each_is_used():
    ids = [field(entry, "eprint") for entry in ENTRIES.values() if field(entry, "eprint")]
    assert len(ids) == len(set(ids))
    for key, entry in ENTRIES.items():
        author, year, arxiv = (field(entry, name) for name in ("author", "year", "eprint"))
        assert field(entry, "title") and author and entry.endswith("\n}") and entry.count("{") == entry.count("}")
        assert all(one.count(",") == 1 for one in author.split(" and ")), "Last, First"
        assert key.startswith(f"{author.partition(',')[0].lower()}{year}")
        assert not arxiv or (re.fullmatch(r"\d{4}\.\d{4,5}", arxiv) and 0 <= int(year) - 2000 - int(arxiv[:2]) <= 3), key
        assert any(field(entry, name) for name in ("journal", "booktitle", "institution", "howpublished")), key
    used = {key for line in (*LINES, papers.FRAMEWORK, papers.DELAYED) for key in papers.keys_of(line)}
    used |= {key for *_, line in papers.OF_KEYS for key in papers.keys_of(line)}
    assert used == set(ENTRIES)


@pytest.mark.parametrize(
    ("words", "cited"),
    {
        "algo=easgd task=quadratic": "wang2021cooperative zhang2015easgd",
        "algo=fullsync task=quadratic": "wang2021cooperative",
        "algo=dpsgd topology=exponential task=quadratic workers=8": "wang2021cooperative lian2017dpsgd xiao2007distributed "
        "ying2021exponential",
        "algo=dpsgd algo.weights=fdla task=quadratic": "wang2021cooperative lian2017dpsgd xiao2004fast",
        "algo=pasgd tau=4 delay=4 task=quadratic": "wang2021cooperative stich2019local shen2019cocod",
        "algo=pasgd tau=4 delay=1 task=quadratic": "wang2021cooperative stich2019local",
        "algo=pasgd period=qsr optim=adamw task=quadratic": "wang2021cooperative stich2019local gu2024qsr "
        "loshchilov2019decoupled",
        "algo=fullsync optim=muon": "wang2021cooperative alpaydin1998optical jordan2024muon",
        "algo=pairwise task=quadratic": "wang2021cooperative boyd2006gossip",
        "algo=pasgd partition=dirichlet": "wang2021cooperative stich2019local alpaydin1998optical yurochkin2019bayesian",
        "algo=pasgd partition=dirichlet partition.equal=true": "wang2021cooperative stich2019local alpaydin1998optical "
        "yurochkin2019bayesian hsu2019measuring",
    }.items(),
)
def test_a_config_cites_what_it_uses_and_nothing_else(words, cited):
    found = cite.facts(words.split())
    assert list(found["bibtex"]) == cited.split()
    assert not [part for part in found["parts"] if part["own"]]


def test_a_class_of_ones_own_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_graph.py").write_text(
        "import numpy as np\nfrom dataclasses import dataclass\nfrom coopsgd import Graph\n\n@dataclass(frozen=True)\n"
        "class All(Graph):\n    def adjacency(self, m, seed=0):\n        return ~np.eye(m, dtype=bool)\n"
    )
    cite.show(cite.facts(["algo=dpsgd", "topology.name=own_graph:All", "task=quadratic"]))
    out = capsys.readouterr().out
    assert out.endswith("cite what they are from: topology=own_graph:All\n") and "% algo=dpsgd\n@inproceedings{lian2017" in out


def test_runs_and_sweeps_are_cited(cli, tmp_path):
    done = cli("train", "-m", "algo=easgd,pasgd", "task=quadratic", "steps=2", "workers=2", "processes=1", "hydra.sweep.dir=s")
    assert done.code == 0, done.err
    of_sweep = cli("cite", "s").out
    assert re.findall(r"@\w+{(\w+)", of_sweep) == ["wang2021cooperative", "zhang2015easgd", "stich2019local"]
    one = cli("cite", "s/algo=pasgd").out
    assert one == cli("cite", "algo=pasgd", "task=quadratic").out


@pytest.mark.parametrize(
    ("words", "said"),
    {
        (): "names neither runs nor a config",
        ("nowhere",): "nowhere: holds no run",
        ("algo=easgd", "nowhere"): "not both at once",
        ("algo=eagsd",): "did you mean easgd?",
    }.items(),
)
def test_what_cannot_be_cited_is_refused(cli, words, said):
    ended = cli("cite", *words)
    assert (ended.code, len(ended.lines)) == (2, 1) and said in ended.err
