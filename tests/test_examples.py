"""The examples run as they say, under torchrun with two workers, and learn; three lines make an algorithm of a plain script."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HANG

HERE = Path(__file__).parent
ROOT = HERE.parent
EXAMPLES = ROOT / "examples"
DRIVER = HERE / "scripts_in_turn.py"
SECONDS = (".ledger.comm_s",)  # of a state, what is measured


def torchrun(folder: Path, *lines: str, warnings: str = "error", workers: int = 2) -> tuple[str, list[list[Any]]]:
    """Run these lines, each an example and its words, in workers of torchrun.

    What they print, and what they leave, by line and rank.
    """
    mine = {"PYTHONPATH": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": warnings}
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={workers}",
        str(DRIVER),
        str(folder),
    ]
    line += [
        f"'{HERE if one.startswith('trained_by') else EXAMPLES}/{one.partition(' ')[0]}' {one.partition(' ')[2]}"
        for one in lines
    ]
    done = subprocess.run(line, cwd=folder, env={**os.environ, **mine}, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    read = [[torch.load(folder / f"{n}.{rank}.pt") for rank in range(workers)] for n in range(len(lines))]
    return done.stdout, read


SCRIPTS = {
    "plain": "plain.py --epochs 3 --out plain",
    "easgd": "easgd.py --epochs 3 --out easgd",
    "gossip": "gossip.py --epochs 3 --out gossip",
}
GPT = {
    "gpt": "char_gpt.py --steps 11 --save-every 11 --out whole",
    "gpt, a part": "char_gpt.py --steps 5 --out parts",
    "gpt, the rest": "char_gpt.py --steps 11 --out parts",
    "gpt, fp16": "char_gpt.py --steps 5 --amp fp16 --accumulate 1 --out fp16",
}


def test_the_examples_run_and_learn(tmp_path):
    """All in one start of torchrun, of which each takes ten seconds of processor time: one test, whose checks follow."""
    printed, found = torchrun(tmp_path, *SCRIPTS.values())
    ran = printed, dict(zip(SCRIPTS, found, strict=True)), tmp_path
    workers_of_the_plain_script_know_nothing_of_each_other(ran)
    digits_are_learned_together(ran, "easgd", 10)
    digits_are_learned_together(ran, "gossip", 1)


@pytest.mark.slow
def test_a_gpt_learns_and_goes_on(tmp_path):
    printed, found = torchrun(tmp_path, *GPT.values())
    ran = printed, dict(zip(GPT, found, strict=True)), tmp_path
    a_gpt_learns_and_its_workers_agree_in_the_answer(ran)
    a_gpt_that_was_stopped_goes_on_bit_for_bit(ran)
    half_precision_with_a_scaler(ran)


def changed(before: str, after: str) -> list[str]:
    """The lines of a diff that stand only in `after`, blank ones left out: each was added, or takes the place of another."""
    lines = difflib.ndiff((EXAMPLES / before).read_text().splitlines(), (EXAMPLES / after).read_text().splitlines())
    found = [line for line in lines if line[:1] in "+-" and line[2:].strip()]
    added, gone = ([line[2:].strip() for line in found if line[0] == sign] for sign in "+-")
    assert len(gone) <= len(added), "a line that only goes is a change too"
    return added


@pytest.mark.parametrize(
    ("script", "words"), [("easgd", '"algo=easgd", "tau=10"'), ("gossip", '"algo=dpsgd", "topology=exponential"')]
)
def test_three_lines_train_by_an_algorithm_and_a_fourth_measures_its_answer(script, words):
    """Counted is every line of the script that is not in plain.py, but blank ones; the docstring is the same in all three.

    Import, Cooperation and step are the three that train. The fourth is not needed to train: where the plain script evaluates
    its own model under `torch.no_grad()`, this one evaluates what the workers have come to together.
    """
    *three, fourth = changed("plain.py", f"{script}.py")
    assert three == ["import coopsgd", f"coop = coopsgd.Cooperation(model, optimizer, {words})", "coop.step()"]
    assert fourth == "with torch.no_grad(), coop.answer():"


def test_one_line_makes_gossip_of_easgd():
    assert len(changed("easgd.py", "gossip.py")) == 1


def losses(printed: str) -> list[list[float]]:
    """What worker 0 printed of its loss, a list a script."""
    found: list[list[float]] = []
    for epoch, loss in re.findall(r"^epoch (\d+): loss ([\d.]+)", printed, re.MULTILINE):
        if epoch == "1":
            found.append([])
        found[-1].append(float(loss))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3, 4])
def test_more_workers_and_one(tmp_path, workers):
    """What an algorithm makes of their number (EASGD's pull, a graph) suits the models of the examples."""
    lines = ["plain.py --epochs 1", "easgd.py --epochs 1", "gossip.py --epochs 1", "char_gpt.py --steps 9"]
    for left in torchrun(tmp_path, *lines, workers=workers)[1][1:]:
        assert all(torch.equal(one["answer"], left[0]["answer"]) for one in left) and left[0]["rounds"] > 0


def workers_of_the_plain_script_know_nothing_of_each_other(ran: Any) -> None:
    first, second = ran[1]["plain"]
    assert not torch.allclose(first["own"], second["own"], atol=0.01) and first["accuracy"] > 0.85


def digits_are_learned_together(ran: Any, script: str, tau: int) -> None:
    """Two messages a round: both are an average of the two workers (of EASGD's centre each keeps a copy)."""
    printed, found, folder = ran
    first, second = found[script]
    assert len(losses(printed)) == 3 and all(of_one[-1] < of_one[0] for of_one in losses(printed)), printed
    assert torch.equal(first["answer"], second["answer"]) and first["accuracy"] == second["accuracy"] > 0.9
    for one in (first, second):
        assert one["steps"] == 3 * 51 and one["rounds"] == one["steps"] // tau
        assert one["messages"] == 2 * one["rounds"] and one["bytes"] == one["messages"] * 4 * len(one["own"])
    assert first["consensus"] == pytest.approx(second["consensus"]) and (first["consensus"] > 1e-3) == (script == "easgd")
    assert len(list((folder / script).glob("events.out.tfevents.*"))) == 1


def a_gpt_learns_and_its_workers_agree_in_the_answer(ran: Any) -> None:
    first, second = ran[1]["gpt"]
    assert torch.equal(first["answer"], second["answer"]) and first["held_out"] == second["held_out"] < 3.7
    assert not torch.equal(first["own"], second["own"]), "a message of one step ago: each is a step ahead of the mean"
    assert (first["steps"], first["rounds"]) == (11, 2)
    assert first["messages"] == 6 and first["bytes"] == 6 * 4 * len(first["own"]), "those of step 12 are under way"


def a_gpt_that_was_stopped_goes_on_bit_for_bit(ran: Any) -> None:
    """Stopped after 5 of 11 steps, in the middle of a round of 4, and started again in another program."""
    whole, parts = ran[1]["gpt"], ran[1]["gpt, the rest"]
    assert ran[1]["gpt, a part"][0]["steps"] == 5
    for rank in (0, 1):
        assert torch.equal(whole[rank]["own"], parts[rank]["own"]) and torch.equal(whole[rank]["answer"], parts[rank]["answer"])
        one, other = (torch.load(ran[2] / folder / f"rank{rank}.pt") for folder in ("whole", "parts"))
        assert one.keys() == other.keys() == {"optimizer", "scheduler", "scaler", "coop"}
        assert same(one["optimizer"], other["optimizer"]) and one["scheduler"] == other["scheduler"]
        assert same(*({at: x for at, x in state["coop"]["tensors"].items() if at not in SECONDS} for state in (one, other)))


def same(a: Any, b: Any) -> bool:
    """Are these trees of tensors equal, bit for bit?"""
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def half_precision_with_a_scaler(ran: Any) -> None:
    """Steps that the scaler skips, as its first ones do while the scale is too large, count in all workers."""
    first, second = ran[1]["gpt, fp16"]
    assert first["steps"] == second["steps"] == 5 and first["rounds"] == 1
    assert torch.isfinite(first["own"]).all() and torch.equal(first["answer"], second["answer"])


FRAMEWORKS = {
    "huggingface": "huggingface.py --steps 9 --save-every 5 --out hf",
    "huggingface, the rest": "huggingface.py --steps 9 --save-every 100 --out hf --resume hf/checkpoint-5",
    "lightning": "lightning_callback.py --epochs 2 --out li",
    "lightning, a part": "lightning_callback.py --epochs 1 --out li_parts",
    "lightning, the rest": "lightning_callback.py --epochs 2 --out li_parts --resume li_parts/checkpoints/epoch=0-step=26.ckpt",
    "lightning, fp16": "lightning_callback.py --epochs 1 --precision 16-mixed --out li_half",
    "huggingface DDP": "trained_by.py huggingface",
    "huggingface fullsync": "trained_by.py huggingface algo=fullsync",
    "lightning DDP": "trained_by.py lightning",
    "lightning fullsync": "trained_by.py lightning algo=fullsync",
}


def test_trainers_of_frameworks(tmp_path):
    """All in one start of torchrun; the checks follow."""
    if missing := [name for name in ("transformers", "accelerate", "lightning") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: pip install '.[frameworks]'")
    _, found = torchrun(tmp_path, *FRAMEWORKS.values(), warnings="ignore")
    ran = dict(zip(FRAMEWORKS, found, strict=True))
    for script, steps, tau in (("huggingface", 9, 4), ("lightning", 52, 10), ("lightning, fp16", 26, 10)):
        a_framework_trains_by_an_algorithm(ran, script, steps, tau)
    for framework in ("huggingface", "lightning"):
        a_framework_goes_on_bit_for_bit(ran, framework)
        fullsync_in_a_framework_is_its_own_ddp(ran, framework)


def a_framework_trains_by_an_algorithm(ran: Any, script: str, steps: int, tau: int) -> None:
    """Accumulation over two batches in each: a step is one of the optimizer, and workers drift apart between two mixings."""
    first, second = ran[script]
    assert first["steps"] == second["steps"] == steps and first["rounds"] == second["rounds"] == steps // tau
    assert first["bytes"] == 2 * first["rounds"] * 4 * len(first["own"])
    assert torch.equal(first["answer"], second["answer"]) and not torch.equal(first["own"], second["own"])
    learned = {"huggingface": ("held_out", 0.0, 5.2), "lightning": ("accuracy", 0.4, 1.0)}[script.partition(",")[0]]
    name, least, most = learned
    assert least < first[name] < most and first[name] == pytest.approx(second[name])


def a_framework_goes_on_bit_for_bit(ran: Any, framework: str) -> None:
    """Every worker has its own model again, and its own momentum, of which the framework by itself saves worker 0's."""
    whole, rest = ran[framework], ran[f"{framework}, the rest"]
    for rank in (0, 1):
        assert rest[rank]["steps"] == whole[rank]["steps"] and torch.equal(rest[rank]["own"], whole[rank]["own"])


def fullsync_in_a_framework_is_its_own_ddp(ran: Any, framework: str) -> None:
    """That no DDP is left around the model is seen above, where workers differ; here that nothing else of the step is."""
    for ddp, ours in zip(ran[f"{framework} DDP"], ran[f"{framework} fullsync"], strict=True):
        assert ours["rounds"] == ours["steps"] == 6
        torch.testing.assert_close(ours["own"], ddp["own"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("script", ["huggingface", "lightning_callback"])
def test_a_callback_has_less_than_forty_lines(script):
    """Counted are all of its class, from `class` on, but blank ones."""
    tree = ast.parse((EXAMPLES / f"{script}.py").read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "CooperationCallback"]
    lines = (EXAMPLES / f"{script}.py").read_text().splitlines()[found.lineno - 1 : found.end_lineno]
    assert len([line for line in lines if line.strip()]) < 40


def test_the_source_distribution_has_the_examples(tmp_path):
    source = tmp_path / "source"
    for part in ("coopsgd", "conf", "examples"):
        shutil.copytree(ROOT / part, source / part)
    for part in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / part, source / part)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as files:
        inside = {name.partition("/examples/")[2] for name in files.getnames() if "/examples/" in name and Path(name).suffix}
    assert inside == {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.*")}
