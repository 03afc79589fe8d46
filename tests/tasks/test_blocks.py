"""The blocks of a row: the parameters of a module, where they lie, and which of them are matrices of hidden layers."""

from __future__ import annotations

import pytest
import torch
from playing import settle
from torch import nn

from coopsgd.cooperation.modules import Modules
from coopsgd.fleet.block import Block, vector
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.blocks import Blocks, Blockwise
from coopsgd.models.blocks import hidden
from coopsgd.models.gpt import GPT
from coopsgd.predict.rehearsal import on_stage
from coopsgd.setup.parts import Parts
from coopsgd.strategies.base import Strategy
from coopsgd.testing.runs import make_loop

DIGITS = ("data=digits", "workers=2", "batch_size=4", "device=cpu", "steps=2")
MODELS = {
    "logistic": ((*DIGITS, "model=logistic"), []),
    "mlp": ((*DIGITS, "model=mlp", "model.hidden=[6,5]"), ["1.weight", "3.weight"]),
    "cnn": ((*DIGITS, "model=cnn", "model.width=8", "model.norm=batch"), ["4.weight", "9.weight"]),
    "contiguous": (
        (*DIGITS, "model=cnn", "model.width=8", "model.memory_format=contiguous"),
        ["4.weight", "9.weight"],
    ),
    "own": ((*DIGITS, "model=custom", "model.path=nets:Odd"), None),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_task_says_before_a_run_what_its_rows_are_made_of(name):
    words, inside = MODELS[name]
    config = settle(words)
    task = Parts(config).task
    problem = task.build(config, range(2), torch.device("cpu"))
    blocks = task.blocks(config)
    assert blocks == problem.blocks()
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == task.dimension(config) == problem.start().shape[1]
    assert inside is None or [block.name for block in blocks if block.hidden] == inside
    rows = torch.randn(3, task.dimension(config), dtype=torch.float64)
    for i, row in enumerate(rows.split(1)):
        module = task.module(config, row)
        for block, (name, p) in zip(blocks, ((n, p) for n, p in module.named_parameters() if p.requires_grad), strict=True):
            assert block.name == name
            assert torch.equal(block.of(rows)[i], p)
            if block.matrix is None:
                continue
            matrix = block.matrices(rows)[i]
            assert tuple(matrix.shape) == block.matrix == (len(p), p[0].numel())
            assert torch.equal(matrix.sort(1).values, p.flatten(1).sort(1).values)  # some order of the columns


def test_a_transformer_has_hidden_matrices_between_its_embeddings_and_its_head():
    blocks = GPT(layers=1, width=8, heads=2, context=16).blocks((16,), 30)
    names = [f"blocks.0.{name}.weight" for name in ("query_key_value", "mixed", "wide", "narrow")]
    assert [block.name for block in blocks if block.hidden] == names
    assert [block.matrix for block in blocks if block.hidden] == [(24, 8), (8, 8), (32, 8), (8, 32)]


def test_views_write_through():
    block, rows = Block("w", (2, 3, 2, 2), (12, 1, 6, 3), 4, True), torch.zeros(3, 29)[:, 1:]
    block.of(rows)[1, 1, 2, :, 1] = 1.0
    block.matrices(rows)[2, 1] = 2.0
    assert rows[1].nonzero()[:, 0].tolist() == [21, 27]  # 4 + 12 + 2 + 6 h + 3
    assert rows[2].nonzero()[:, 0].tolist() == [*range(16, 28)]
    assert rows[0].eq(0).all()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (1, 0, 2), (2, 1, 0)])
def test_matrices_of_whatever_lies_densely(order):
    """A user's own parameters may lie in any order; the numbers of a matrix are those of the parameter, each once."""
    value = torch.arange(24.0).view([(2, 3, 4)[i] for i in order]).permute([order.index(i) for i in range(3)])
    assert value.shape == (2, 3, 4)
    block, row = Block("w", (2, 3, 4), value.stride(), 2), torch.arange(-2.0, 24)[None]
    assert torch.equal(block.of(row)[0], value)
    found = block.matrices(row)
    assert tuple(found.shape[1:]) == block.matrix
    assert found.flatten().sort().values.tolist() == list(range(24))
    if order != (1, 0, 2):
        assert torch.equal(found[0].sort(1).values, value.flatten(1).sort(1).values)
    found.zero_()
    assert row.count_nonzero() == 2


def test_no_embedding_no_norm_no_head_and_no_first_convolution_is_hidden():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
            self.norm, self.table = nn.LayerNorm([4, 4]), nn.Embedding(5, 4)
            self.pos_embedding, self.raw = nn.Parameter(torch.zeros(7, 4)), nn.Parameter(torch.zeros(4, 4))
            self.attention, self.row = nn.MultiheadAttention(4, 2), nn.Parameter(torch.zeros(1, 4))
            self.head = nn.Linear(4, 5, bias=False)

    def names(module):
        return {name for name, p in module.named_parameters() if id(p) in hidden(module)}

    net = Net()
    middle = {"depthwise.weight", "raw", "attention.in_proj_weight", "attention.out_proj.weight"}
    assert names(net) == middle
    net.head.weight = net.table.weight  # tied: no other layer becomes the head for it
    assert names(net) == middle
    assert names(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))) == {"0.weight"}
    assert names(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))) == set()


def test_a_quadratic_is_one_vector():
    config = settle(("task=quadratic", "task.dim=7", "workers=2", "steps=2"))
    task = Parts(config).task
    assert task.blocks(config) == task.build(config, range(2), torch.device("cpu")).blocks() == vector(7)


class Asks(Strategy):
    """Notes what it is told of each block."""

    def init(self, fleet, x):
        return (x.shape[1], fleet.blocks)

    def receive(self, fleet, t, x, heard, s):
        return x, (*s, fleet.blocks)


def test_the_fleet_tells_a_strategy_what_its_rows_are_made_of():
    """In somebody's own loop with numbers of two kinds: of the rows of each kind by themselves."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 2).double(), nn.Linear(2, 2)
            self.a.weight.data = self.a.weight.data.T.contiguous().T  # lies transposed, and so in its row

    modules, fleet = Modules([Two(), Two()]), Stacked(Layout(2, 0, 1))
    x = Blocks(fleet.rows(start) for start in modules.start())
    modules.bind(x, None)
    both = Blockwise(Asks(), modules.blocks())
    states = both.init(fleet, x)
    assert [[(b.name, b.start, b.hidden) for b in blocks] for _, blocks in states] == [
        [("a.weight", 0, True), ("a.bias", 12, False), ("c.weight", 16, False), ("c.bias", 20, False)],
        [("b.weight", 0, True), ("b.bias", 8, False)],
    ]
    assert all(blocks[-1].stop == width for width, blocks in states)
    first = states[0][1][0]
    assert torch.equal(first.of(x[0])[1], modules.modules[1].a.weight)
    assert torch.equal(first.matrices(x[0])[1], modules.modules[1].a.weight)
    _, after = both.receive(fleet, None, x, [None, None], states)
    assert [state[1] == state[2] for state in after] == [True, True]


def test_the_loop_of_a_run_and_its_rehearsal_tell_the_same():
    config = settle((*MODELS["mlp"][0], "cluster=ethernet_1g"))
    loop = make_loop(config)
    assert loop.fleet.blocks == Parts(config).task.blocks(config) == on_stage(Parts(config)).fleet.blocks
