"""What the pages of docs/ tell to type works: each line is read in `make test`, and run, in order, in `make test-all`."""

from __future__ import annotations

import re
import shlex

import pages
import pytest
from pages import PAGES, README

from coopsgd.cli import cli as group
from coopsgd.commands import compose

TYPED = {name: found for name, page in PAGES.items() if (found := pages.lines(page))}
CONFIGURED = ("train", "show", "analyze", "probe", "design", "cite")  # verbs whose words are a config's
OTHERS = ("cd", "torchrun", "tensorboard")
INLINE = re.compile(r"`(coopsgd [a-z]+(?: [^`]*)?)`")


def parsed(words: list[str]) -> list[str]:
    """The words of a verb that are none of its options. AssertionError where it has no such verb or option."""
    verb = group.commands.get(words[1])
    assert verb is not None, f"{shlex.join(words)}: no such verb"
    if verb.name == "train":
        return [word for word in words[2:] if word not in ("-m", "-q", "--multirun")]
    known = {name: option for option in verb.params for name in option.opts if name.startswith("-")}
    left, given = [], iter(words[2:])
    for word in given:
        if not word.startswith("-"):
            left.append(word)
            continue
        assert word in known, f"{shlex.join(words)}: {words[1]} has no {word}"
        if not known[word].is_flag:
            next(given)
    return left


def composed(words: list[str]) -> None:
    """The config that its words make is accepted; the first job of a sweep stands for all."""
    left = [word for word in parsed(words) if not word.startswith(("hydra", "task.dim="))]  # a large one takes its time
    if "-m" in words:
        left = [re.sub(r"=(?:tag\(\w+, *)?(?:choice|range|interval)\(([^,)]*).*\)$", r"=\1", word) for word in left]
        left = [re.sub(r"=([^,\[]*),.*", r"=\1", word) for word in left]
    compose.compose_config(left, look=words[1] == "show")


@pytest.mark.parametrize("name", TYPED)
def test_what_a_page_types_is_known(name, monkeypatch):
    folder = re.search(r"^cd (.*)", PAGES[name], re.MULTILINE)
    monkeypatch.chdir(pages.ROOT / folder[1] if folder else pages.ROOT)
    for words in TYPED[name]:
        if words[0] != "coopsgd":
            assert words[0] in OTHERS or pages.not_run(words), f"{shlex.join(words)}: is it typed? Output is a block of text"
        elif words[1] in CONFIGURED and "--over" not in words:
            composed(words)
        else:
            parsed(words)


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_what_a_page_says_within_a_line_is_known(name, monkeypatch):
    """Of commands in the text at least verb and options; whole ones are accepted, where no class of the page is named."""
    monkeypatch.chdir(pages.ROOT)
    for text in INLINE.findall(PAGES.get(name, README)):
        words = shlex.split(text.replace("[", "").replace("]", "") if "[--" in text else text)
        left = parsed([word for word in words if word != "..."])
        whole = words[1] in CONFIGURED and left and not any(word.isupper() or ":" in word or word == "..." for word in words)
        if whole and not {"--over", "--config-path", "--config-dir"} & {*words}:
            composed(words)


def test_a_page_that_is_wrong_is_noticed():
    for line in ("coopsgd trian", "coopsgd show --jsn algo=easgd", "coopsgd compare --bye steps x"):
        with pytest.raises(AssertionError):
            parsed(shlex.split(line))
    page = "```\ncoopsgd train algo=easgd \\\n  tau=3   # a run\n. x && cd y\n```\n```text\nout\n```\n"
    page += "```python\n# a/b.py\n1\n```\n"
    assert pages.lines(page) == [["coopsgd", "train", "algo=easgd", "tau=3"], [".", "x"], ["cd", "y"]]
    assert pages.named(page) == {"a/b.py": "# a/b.py\n1\n"}
    assert pages.shortened(shlex.split("coopsgd train -m algo=easgd steps=2000 seed=0,1")) == [
        "train", "-m", "algo=easgd", "steps=20", "processes=1", "seed=0",
    ]  # fmt: skip


def test_what_is_not_run_is_there():
    """No exception is left of what is gone."""
    used = pages.exceptions()
    assert {*used} - {pages.EXTRA} == {*pages.NOT_RUN.values()}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, found in TYPED.items() if not all(map(pages.not_run, found))])
def test_what_a_page_types_runs(name, tmp_path):
    reader = pages.Reader(tmp_path, PAGES[name])
    for words in TYPED[name]:
        if pages.not_run(words) is None:
            reader.types(words)
