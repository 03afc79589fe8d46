"""Text: what is read, how it is dealt in windows, that the model is causal and learns what can be learned, and no more."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import sys

import numpy as np
import pytest
import torch
from playing import play, settle

import coopsgd
from coopsgd.data import cache
from coopsgd.data.text import Text, docstrings, modules
from coopsgd.modules.transformer import GPT
from coopsgd.setup.parts import Parts

TINY = ("task=language", "model.layers=1", "model.width=16", "model.heads=2", "model.context=16", "batch_size=4", "device=cpu")
QUIET = ("log_every=1000", "eval_every=0", "task.windows=8")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_last", None)
    return tmp_path


def test_a_file_becomes_tokens_and_back(alone):
    content = "naïve Ωmega\n🙂 " * 50
    path = alone / "a.txt"
    path.write_text(content, encoding="utf-8")
    for _ in range(2):  # read, then mapped
        cache._last = None
        text = Text(file=str(path)).load()
        everything = np.concatenate([text.train, text.test])
        assert "".join(text.vocabulary[t] for t in everything) == content
        assert len(text.test) == len(content) // 10 and text.vocabulary == "".join(sorted(set(content)))
        assert text.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert len(set(content)) == Text(file=str(path)).CLASSES
    wide = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))  # more characters than a byte counts
    path.write_text(wide * 3, encoding="utf-8")
    assert Text(file=str(path)).load().train[300] == 300


def test_the_default_text_is_the_documentation_of_the_standard_library(alone):
    """Parsed without importing, in the order of names: the same on every call, and what the modules themselves say."""
    before = set(sys.modules)
    (alone / "m.py").write_text('"""Mod."""\nclass A:\n    """Cls."""\n    def f(self):\n        """Fun."""\nx = """no."""\n')
    assert docstrings(alone / "m.py") == ["Mod.", "Cls.", "Fun."]
    (alone / "broken.py").write_text("def (:")
    assert docstrings(alone / "broken.py") == []
    paths = modules()
    assert paths == sorted(paths) and {"ast.py", "textwrap.py"} <= {path.name for path in paths}
    few = [path for path in paths if path.name in ("ast.py", "textwrap.py")]
    message = Text()._read(few)
    assert message.startswith(ast.get_docstring(ast.parse(few[0].read_text())) + "\n\n")
    import textwrap

    assert all(
        " ".join(f.__doc__.split()) in " ".join(message.split()) for f in (ast.dump, textwrap.dedent, textwrap.TextWrapper)
    )
    assert not {name for name in set(sys.modules) - before if name in ("antigravity", "this", "turtle")}


def test_it_is_known_by_its_hash(cli, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat. " * 40)
    found = json.loads(cli("show", *TINY, "data.file=a.txt", "--json").out)
    digest = hashlib.sha256(("the cat sat on the mat. " * 40).encode()).hexdigest()
    assert found["data"]["sha256"] == digest and found["data"]["characters"] == 960 and found["data"]["vocabulary"] == 11
    assert cli("train", *TINY, "data.file=a.txt", "steps=2", "workers=2", "hydra.run.dir=here").code == 0
    run = coopsgd.Run(tmp_path / "here")
    assert run.summary["data"]["sha256"] == digest
    assert run.model()(torch.zeros(1, 5, dtype=torch.long)).shape == (1, 5, 11)  # found from any folder


def test_windows_are_dealt_once_each(alone):
    """Numbers as text: each character tells where it stands, so a batch shows what it is made of."""
    (alone / "a.txt").write_text("".join(map(chr, range(0x3400, 0x3400 + 4000))), encoding="utf-8")
    for partition in ("iid", "shards"):
        settings = settle((*TINY, f"data.file={alone}/a.txt", f"partition={partition}", "workers=3"))
        task = Parts(settings).task
        problem = task.build(settings, range(3), torch.device("cpu"))
        sizes = task.sizes(settings)
        assert sum(sizes) == ((3600 - 1) // 16) // 3 * 3 if partition == "iid" else (3600 - 1) // 16
        seen = []
        for worker, shares in enumerate(task.shares(settings)):
            x, y = problem._batch(torch.from_numpy(shares), worker, 0)
            assert torch.equal(y, x + 1) and x.shape == (sizes[worker], 16)  # the next character, at each place
            seen.append(sorted(x.flatten().tolist()))
        together = [t for part in seen for t in part]
        assert len(set(together)) == len(together) and max(together) < 3600  # none twice, none of the test part
        if partition == "shards":
            assert all(part == list(range(part[0], part[-1] + 1)) for part in seen)  # one contiguous part each
        tests = [x.flatten() for x, _ in [problem._test(torch.arange(problem._tests))]]
        tests = torch.cat(tests)
        assert len(tests) == 24 * 16 and tests.min() >= 3600  # all there are: fewer than task.windows


def test_the_model_sees_no_future_and_only_its_context():
    torch.manual_seed(0)
    model = GPT(vocabulary=11, context=12, layers=2, heads=2, width=8, dropout=0.0).double()
    tokens = torch.randint(11, (3, 12))
    logits = model(tokens)
    for at in (0, 5, 11):
        other = tokens.clone()
        other[:, at] = (other[:, at] + 1) % 11
        changed = (model(other) - logits).abs().amax((0, 2)) > 1e-12
        assert not changed[:at].any() and changed[at:].all()


def test_attention_is_the_textbook_formula():
    """One block against softmax(q k^T / sqrt(width of a head)) v with a triangular mask, written out."""
    torch.manual_seed(0)
    model = GPT(vocabulary=7, context=6, layers=1, heads=2, width=8, dropout=0.0).double()
    block, x = model.blocks[0], torch.randn(2, 6, 8, dtype=torch.float64)
    q, k, v = block.query_key_value(block.before_attention(x)).split(8, dim=2)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        score = q[..., h] @ k[..., h].transpose(1, 2) / math.sqrt(4)
        score = score.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
        heads.append(score.softmax(-1) @ v[..., h])
    y = x + block.mixed(torch.cat(heads, 2))
    y = y + block.narrow(torch.nn.functional.gelu(block.wide(block.before_mlp(y))))
    torch.testing.assert_close(block(x), y, rtol=0, atol=1e-12)


def test_parameters_are_counted_without_building():
    from coopsgd.models.gpt import GPT as Settings

    for settings in (Settings(), Settings(layers=2, heads=2, width=24, context=10, dropout=0.1)):
        assert settings.parameters((), 104) == sum(p.numel() for p in settings.build((), 104).parameters())
    assert 0.9e6 < Settings().parameters((), 104) < 1.1e6


def test_it_starts_at_the_entropy_of_a_guess_and_ends_at_that_of_the_source(process_groups, tmp_path):
    """A walk over 8 letters, each of two next letters with probability 1/2: ln 2 nats, and none can do better."""
    rng, at, letters = np.random.default_rng(0), 0, []
    for step in rng.integers(1, 3, 20000):
        at = (at + step) % 8
        letters.append("abcdefgh"[at])
    (tmp_path / "walk.txt").write_text("".join(letters))
    words = (
        *TINY,
        *QUIET,
        f"data.file={tmp_path}/walk.txt",
        "workers=2",
        "algo=pasgd",
        "tau=5",
        "optim=adamw",
        "optim.lr=0.01",
    )
    run = play(process_groups, 1, *words, "steps=250", "task.windows=100")
    first, last = run.lines[0], run.lines[-1]
    assert first["eval/loss"] == pytest.approx(math.log(8), abs=0.1)
    assert math.log(2) - 0.01 < last["eval/loss"] < math.log(2) + 0.1  # 2000 characters: 0.7 +- 0.01 of chance
    assert last["eval/accuracy"] == pytest.approx(0.5, abs=0.05)


def test_it_is_the_same_wherever_rows_are(process_groups, tmp_path):
    (tmp_path / "a.txt").write_text("how much wood would a woodchuck chuck " * 80)
    words = (*TINY, *QUIET, f"data.file={tmp_path}/a.txt", "dtype=float64", "workers=4", "steps=12", "algo=easgd", "tau=3")
    for more in ((), ("partition=shards", "model.dropout=0.2")):
        played = {p: play(process_groups, p, *words, *more) for p in (1, 2, 4)}
        for run in played.values():
            np.testing.assert_allclose(run.x, played[1].x, rtol=0, atol=1e-12 * np.abs(played[1].x).max())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.file=nowhere.txt",), ["data.file", "nowhere.txt", "cannot read"]),
        (("data.file=latin.txt",), ["data.file", "latin.txt", "not UTF-8", "byte 3"]),
        (("data.file=short.txt",), ["short.txt", "100 characters", "model.context=16", "170", "lower model.context"]),
        (("data.file=empty.txt",), ["data.file", "empty.txt", "empty"]),
        (("data.file=.",), ["data.file", "is a folder"]),
        (("model.width=15",), ["model.width", "model.heads=2", "15"]),
        (("model.context=0",), ["model.context", "0"]),
        (("task.windows=0",), ["task.windows", "0"]),
        (("model=mlp",), ["mlp", "language", "model=gpt"]),
        (("data=digits",), ["digits", "language", "data=text"]),
    ],
)
def test_bad_text_is_one_line(cli, tmp_path, words, message):
    (tmp_path / "latin.txt").write_bytes("cafés".encode("latin-1"))
    (tmp_path / "short.txt").write_text("ten chars." * 10)
    (tmp_path / "empty.txt").write_text("")
    given = {word.partition("=")[0] for word in words}
    few = [word for word in TINY if not (words[0] == "model=mlp" and word.startswith("model."))]
    few = [word for word in few if word.partition("=")[0] not in given]
    ended = cli("train", *few, *words)
    assert ended.code == 2 and len(ended.lines) == 1, ended
    for word in message:
        assert word in ended.err, (word, ended.err)


@pytest.mark.parametrize("words", [("data=text",), ("model=gpt",)])
def test_text_wants_its_task(cli, words):
    ended = cli("train", *words)
    assert ended.code == 2 and len(ended.lines) == 1 and "task=language" in ended.err
