"""Every block of code in docs/your_loop.md runs, in two workers, and does what the page says of it."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import process_groups_of
from public import Mean
from torch import nn

import coopsgd

PAGE = (Path(__file__).parents[1] / "docs" / "your_loop.md").read_text()
BLOCKS = {
    kind: {
        text.partition("\n")[0].removeprefix("# "): text
        for of, text in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
        if of == kind
    }
    for kind in ("python", "diff")
}
BATCHES = 8


def block(name: str) -> str:
    return BLOCKS["python"][name]


class Writer:
    """As much of a SummaryWriter as is called."""

    def __init__(self) -> None:
        self.added: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.added.append((tag, value, step))


def network(norm: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), *[nn.BatchNorm1d(8)] * norm, nn.Tanh(), nn.Linear(8, 3)).double()


def batches(rank: int, n: int) -> list[Any]:
    draws = torch.Generator().manual_seed(rank)
    return [
        (torch.randn(6, 5, generator=draws, dtype=torch.float64), torch.randint(3, (6,), generator=draws)) for _ in range(n)
    ]


def names(rank: int, norm: bool, folder: str = "", n: int = BATCHES) -> dict[str, Any]:
    """What a program has where the blocks begin."""
    model = network(norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    test_x, test_y = batches(99, 1)[0]
    return {
        "torch": torch,
        "coopsgd": coopsgd,
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
        "scaler": torch.amp.GradScaler("cpu"),
        "device": torch.device("cpu"),
        "loss_fn": nn.functional.cross_entropy,
        "loader": batches(rank, n),
        "uneven_loader": batches(rank, n + 5 * rank),
        "loader_of_four": list(zip(*(batches(i, n) for i in range(4)), strict=True)),
        "make_model": lambda: network(norm),
        "test_x": test_x,
        "test_y": test_y,
        "folder": folder,
        "writer": Writer(),
    }


def run(rank: int, code: list[str], more: dict[str, Any], words: tuple[str, ...] = ()) -> dict[str, Any]:
    """What is left of these blocks, run one after another."""
    found = names(rank, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if words:
            found["coop"] = coopsgd.Cooperation(found["model"], found["optimizer"], *words)
        for text in code:
            exec(compile(text, "docs/your_loop.md", "exec"), found)
    coop = found["coop"]
    own = row(found["model"])
    with coop.answer():
        answer = row(found["model"])
    left = {name: found[name] for name in ("apart", "bytes_so_far") if name in found}
    left |= {name: float(found[name]) for name in ("loss", "found") if name in found}
    left |= {"own": own, "answer": answer, "steps": coop.steps, "rounds": coop.ledger.rounds, "added": found["writer"].added}
    if "together" in found:
        left["together"] = [row(m) for m in found["models"]]
    return left


def row(model: nn.Module) -> torch.Tensor:
    numbers = [b for b in model.buffers() if b.is_floating_point()]
    return torch.cat([x.detach().reshape(-1) for x in [*model.parameters(), *numbers]]).clone()


WORDS = ("algo=dpsgd", "topology=exponential", "tau=4")


def test_three_lines(process_groups):
    first, second = process_groups(2)(run, [block("three lines")], {"norm": True})
    assert first["steps"] == BATCHES and first["rounds"] == BATCHES // 4
    torch.testing.assert_close(first["own"], second["own"], rtol=0, atol=1e-15)  # just mixed, and of two each takes the mean
    assert not torch.equal(first["own"], row(network(True)))


def test_evaluate_and_ship(process_groups, tmp_path):
    """EASGD has a centre beside the workers: it is what is shipped, and the file holds it alone."""
    one = [block("three lines").replace(*EASGD), block("evaluate, and ship")]
    first, second = process_groups(2)(run, one, {"norm": True, "folder": str(tmp_path), "n": 10})
    shipped = torch.load(tmp_path / "model.pt")
    model = network(True)
    model.load_state_dict(shipped)
    assert torch.equal(row(model), first["answer"]) and torch.equal(first["answer"], second["answer"])
    assert not torch.equal(first["own"], first["answer"]) and first["loss"] == second["loss"]
    plain = io.BytesIO()
    torch.save(network(True).state_dict(), plain)
    assert (tmp_path / "model.pt").stat().st_size <= plain.tell() + 100


EASGD = ('"algo=dpsgd", "topology=exponential", "tau=4"', '"algo=easgd", "tau=4"')


def test_log(process_groups):
    loop = block("three lines").partition("for x")[1:]
    first, second = process_groups(2)(run, [block("log"), "".join(loop), block("log")], {"norm": True, "n": 22}, WORDS)
    assert {step for _, _, step in first["added"]} == {20} and not second["added"]
    assert ("transfer/rounds", 5, 20) in first["added"]
    assert first["apart"] == pytest.approx(second["apart"]) and first["apart"] > 0
    assert first["bytes_so_far"] == second["bytes_so_far"] == 5 * 2 * 8 * len(first["own"])


def test_save_and_go_on(process_groups, tmp_path):
    """After 6 of 8 steps, in the middle of a round; the rest in a new program."""
    loop = "".join(block("three lines").partition("for x")[1:])
    part, rest = loop.replace("in loader", "in loader[:6]"), loop.replace("in loader", "in loader[6:]")
    more = {"norm": True, "folder": str(tmp_path)}
    whole = process_groups(2)(run, [part, rest], more, WORDS)
    process_groups(2)(run, [part, block("save")], more, WORDS)
    going = process_groups(2)(
        run, [block("go on: model, optimizer, scheduler and coop are made as ever, then"), rest], more, WORDS
    )
    for one, other in zip(whole, going, strict=True):
        assert torch.equal(one["own"], other["own"]) and one["rounds"] == other["rounds"] == 2


def test_data_that_are_not_equal(process_groups):
    """8 and 13 batches: the round that is under way when the 13th is learned ends for all."""
    first, second = process_groups(2)(run, [block("data that are not equal")], {"norm": True}, WORDS)
    assert first["steps"] == second["steps"] == 16 and first["rounds"] == 4
    torch.testing.assert_close(first["own"], second["own"], rtol=0, atol=1e-15)


def test_statistics_of_the_answer(process_groups):
    code = [block("three lines"), block("BatchNorm's statistics of the answer")]
    first, second = process_groups(2)(run, code, {"norm": True})
    torch.testing.assert_close(first["own"], second["own"], rtol=0, atol=1e-15)  # each has its own again, as it was mixed
    assert first["found"] != second["found"], "of its own data each"


def test_what_a_large_model_needs(process_groups):
    first, second = process_groups(2)(run, [block("accumulation, clipping, mixed precision, schedules")], {"norm": True}, WORDS)
    assert first["steps"] == BATCHES // 2 and first["rounds"] == 1 and first["loss"] != second["loss"]
    torch.testing.assert_close(first["own"], second["own"], rtol=0, atol=1e-15)


def test_workers_that_rest(process_groups):
    words = ("algo=fedavg", "algo.fraction=0.5", "tau=4")
    counted = block("workers that rest").replace("coop.active:", "coop.active:\n        writer.add_scalar('gradient', 0, 0)")
    answers = process_groups(2)(run, [counted], {"norm": False}, words)
    computed = [len(one["added"]) for one in answers]
    assert sum(computed) == BATCHES and set(computed) <= {0, 4, 8}, "one of the two in each of two rounds"
    assert all(one["steps"] == BATCHES for one in answers) and torch.equal(answers[0]["answer"], answers[1]["answer"])


def test_on_a_laptop(process_groups):
    """Four in one process have the models of four processes."""
    code = ["coop = None", block("on a laptop"), "coop = together"]
    mine = run(0, code, {"norm": False})["together"]
    words = ("algo=dpsgd", "topology=ring", "tau=2")
    loop = "".join(block("three lines").partition("for x")[1:])
    theirs = process_groups(4)(run, ["optimizer.param_groups[0]['momentum'] = 0.0", loop], {"norm": False}, words)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other["own"], rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def groups():
    """Processes for those who keep things of their own in a process."""
    with process_groups_of() as found:
        yield found


PEERS = {
    "from DDP": "torch",
    "from PeriodicModelAverager": "torch",
    "from Accelerate's LocalSGD": "accelerate",
    "from torchft's LocalSGD": "torchft",
    "from Decent-DP": "decent_dp",
}


def side(text: str, sign: str) -> str:
    """Of a diff, what was there before (-) or is there after it (+)."""
    return "\n".join(line[1:] for line in text.splitlines()[1:] if line[:1] in (" ", sign))


def migrated(rank: int, text: str, package: str, norm: bool, n: int) -> torch.Tensor:
    """The model after one side of a diff."""
    found = names(rank, norm, n=n)
    if package == "torch":
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

        found["PeriodicModelAverager"] = PeriodicModelAverager
    elif package == "accelerate":
        from accelerate import Accelerator
        from accelerate.local_sgd import LocalSGD

        size = str(dist.get_world_size())
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ["OMP_NUM_THREADS"] = "1"
        found |= {"accelerator": Accelerator(cpu=True), "LocalSGD": LocalSGD}
        assert found["accelerator"].num_processes == dist.get_world_size()
    elif package == "torchft":
        from torchft.local_sgd import LocalSGD

        found |= {"manager": Mean(), "LocalSGD": LocalSGD}
    elif package == "decent_dp":
        from decent_dp.ddp import DecentralizedDataParallel

        found["DecentralizedDataParallel"] = DecentralizedDataParallel
    model = found["model"]  # Accelerate's block gives the name to another
    exec(compile(text, "docs/your_loop.md", "exec"), found)
    if package == "decent_dp":
        for work in filter(None, found["decent"]._comm_ops):  # the message of the step that does not come
            work.wait()
    if package == "accelerate":
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
            os.environ.pop(name, None)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


@pytest.mark.parametrize("peer", PEERS)
def test_both_sides_of_a_diff_train_the_same_models(groups, peer):
    """In the middle of a round too, after 10 steps with a period of 4; Accelerate's ends with a mean of its own, so after 8."""
    text, package = BLOCKS["diff"][peer], PEERS[peer]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} not installed: pip install '.[peers,frameworks]'")
    n = 8 if package == "accelerate" else 10
    before = groups(2)(migrated, side(text, "-"), package, peer != "from DDP", n)
    after = groups(2)(migrated, side(text, "+"), "", peer != "from DDP", n)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert package == "accelerate" or peer == "from DDP" or not torch.allclose(*after), "the last steps are the workers' own"


def test_an_averager_without_a_warm_up(groups):
    text = BLOCKS["diff"]["from PeriodicModelAverager"]
    before = groups(2)(migrated, side(text, "-").replace(", warmup_steps=3", ""), "torch", True, 10)
    after = groups(2)(migrated, side(text, "+").replace('"tau=4"', '"tau=[[0,1],[1,4]]"'), "", True, 10)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert not torch.allclose(*after), "a step after the communication of step 9"


def test_every_block_is_run():
    """A block that no test asks for is a promise that nobody holds."""
    asked = set(re.findall(r'\bblock\("(.*?)"\)', Path(__file__).read_text()))
    assert set(BLOCKS["python"]) == asked and set(PEERS) == set(BLOCKS["diff"])
    assert len(re.findall(r"^```\w", PAGE, re.MULTILINE)) == len(asked) + len(PEERS)
