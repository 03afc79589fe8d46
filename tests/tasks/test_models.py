"""Networks: how many numbers they learn, that they learn, and that anybody's can be trained on any placement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from playing import play, settle
from refusals import refused

from coopsgd.models.cnn import CNN, LeNet
from coopsgd.models.external import Custom, TorchVision
from coopsgd.models.resnet import ResNet
from coopsgd.models.vgg import VGG
from coopsgd.modules.convolutional import relu_of_largest
from coopsgd.run.reader import Run
from coopsgd.setup.parts import Parts
from coopsgd.tasks.gradients import Bound
from coopsgd.tasks.networks import bound

CIFAR, GREY = (3, 32, 32), (1, 28, 28)
SPREAD = (
    "data=digits",
    "dtype=float64",
    "workers=4",
    "steps=6",
    "batch_size=8",
    "log_every=1000",
    "eval_every=0",
    "device=cpu",
)


def resnet(depth: int) -> int:
    """Convolutions of 9 a b weights, two numbers of normalisation a channel, 64 x 10 + 10 at the end; shortcuts have none."""
    n = (depth - 2) // 6
    pairs = [(3, 16), *[(16, 16)] * 2 * n, (16, 32), *[(32, 32)] * (2 * n - 1), (32, 64), *[(64, 64)] * (2 * n - 1)]
    return sum(9 * a * b + 2 * b for a, b in pairs) + 650


KNOWN = [
    (ResNet(20, norm="batch"), CIFAR, 269_722, 2 * (7 * 16 + 6 * 32 + 6 * 64)),  # the paper's 0.27 M
    (ResNet(32, norm="batch"), CIFAR, 464_154, 2 * (11 * 16 + 10 * 32 + 10 * 64)),  # 0.46 M
    (ResNet(56, norm="batch"), CIFAR, 853_018, 2 * (19 * 16 + 18 * 32 + 18 * 64)),  # 0.85 M
    (ResNet(20), CIFAR, 269_722, 0),  # GroupNorm has as many parameters
    (ResNet(depth=110), CIFAR, resnet(110), 0),  # 1.7 M
    (ResNet(20, norm="none"), CIFAR, 269_722 - 688, 0),  # one bias a channel for two of a norm: 688 channels
    (LeNet(), GREY, 61_706, 0),  # 156 + 2416 + 48,120 + 10,164 + 850, as LeCun's with all maps connected
    (LeNet(), CIFAR, 62_006, 0),  # 2 more input channels of 25 weights for 6 maps
    (LeNet(), (1, 40, 30), 61_706 + 120 * 16 * (7 - 5) * 5, 0),  # 40 -> 36 -> 18 -> 14 -> 7
    # with biases and BatchNorm VGG-11 has 9,231,114 and VGG-16 14,728,266: a bias less in each of 2752 and 4224 channels
    (VGG(11, norm="batch"), CIFAR, 9_231_114 - 2752, 2 * 2752),
    (VGG(16, norm="batch"), CIFAR, 14_728_266 - 4224, 2 * 4224),
    (VGG(11), GREY, 9_231_114 - 2752 - 2 * 9 * 64, 0),
    (CNN(norm="batch"), GREY, 421_834, 2 * 96),
    (CNN(norm="none"), GREY, 421_834 - 2 * 96, 0),
]


@pytest.mark.parametrize(("model", "shape", "parameters", "statistics"), KNOWN)
def test_known_sizes(model, shape, parameters, statistics):
    assert model.parameters(shape, 10) == parameters
    assert model.statistics(shape, 10) == statistics
    made = Bound(model.build(shape, 10))
    assert (made.d, made.b) == (parameters, statistics)
    assert made.module(torch.zeros(2, *shape)).shape == (2, 10)


def test_resnets_are_as_large_as_the_paper_says():
    assert [resnet(depth) for depth in (20, 32, 56)] == [269_722, 464_154, 853_018]


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_a_residual_block_is_what_the_paper_draws(norm):
    """relu(F(x) + x), and where it halves: every other pixel, the new channels 0."""
    torch.manual_seed(0)
    net = ResNet(20, norm=norm).build((3, 8, 8), 10)
    blocks = [part for part in net if hasattr(part, "body")]
    assert len(blocks) == 9
    for block, (before, after) in zip(
        blocks, [*[(16, 16)] * 3, (16, 32), *[(32, 32)] * 2, (32, 64), *[(64, 64)] * 2], strict=True
    ):
        torch.nn.init.zeros_([part for part in block.body if isinstance(part, torch.nn.Conv2d)][-1].weight)
        x = torch.rand(2, before, 8, 8)
        step = 1 if before == after else 2
        expected = torch.zeros(2, after, 8 // step, 8 // step)
        expected[:, :before] = x[:, :, ::step, ::step]
        torch.testing.assert_close(block(x), expected)  # x is positive, so relu keeps it


def test_without_a_norm_deep_resnets_begin_tame():
    torch.manual_seed(0)
    assert float(ResNet(56, norm="none").build(CIFAR, 10)(torch.randn(8, *CIFAR)).detach().std()) < 5


LEARNING = [
    "model=resnet20",
    "model=resnet20 model.norm=batch",
    "model=lenet data.name=nets:Large",
    pytest.param("model=vgg11 model.norm=batch data.name=nets:Large", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("model", LEARNING)
def test_every_network_learns(process_groups, model):
    """From chance (ln 10 = 2.30 nats) in a few steps."""
    small = ("data=digits", "workers=1", "steps=20", "batch_size=32", "log_every=5", "eval_every=0", "device=cpu")
    losses = [
        line["train/loss"]
        for line in play(process_groups, 1, *small, *model.split(), "algo=pasgd", "optim=adam", "optim.lr=0.003").lines
    ]
    assert losses[-1] < 0.7 * losses[1] and losses[-1] < 1.7


FOREIGN = [
    ("model=torchvision", "model.arch=resnet18", "model.arguments={width_per_group: 64}"),
    ("model=custom", "model.path=nets:Plain", "model.arguments={width: 3}"),
    ("model=custom", "model.path=nets:Odd", "optim.weight_decay=0.1"),
    ("model=custom", "model.path=nets:Noisy"),
]


@pytest.mark.parametrize("words", FOREIGN[1:])
def test_networks_of_others_are_placed_like_ours(process_groups, words):
    all_words = (*SPREAD, "algo=dpsgd", "tau=2", *words)
    one, two, four = (play(process_groups, p, *all_words) for p in (1, 2, 4))
    for other in (two, four):
        np.testing.assert_allclose(other.x, one.x, rtol=0, atol=1e-12)
        assert other.logical == one.logical


@pytest.mark.slow
def test_torchvision_by_name(process_groups):
    words = ("data=digits", "algo=pasgd", "tau=1", "workers=2", "steps=2", "batch_size=4", "eval_every=0", *FOREIGN[0])
    settings = settle(words)
    run = play(process_groups, 2, *words)
    assert run.x.shape == (2, 11_181_642) and bound(Parts(settings).task, settings.seed, torch.float32).b == 2 * 4800
    assert run.logical[2] == 2 * 2 * (11_181_642 + 9600) * 4  # two rounds of 2 (m - 1) messages, statistics in them
    assert TorchVision().parameters((3, 224, 224), 1000) == 11_689_512


def test_what_is_seen_of_a_network_before_a_run():
    seen = Custom(path="nets:Plain")._look((1, 8, 8), 10)
    assert (seen.parameters, seen.statistics) == (4 * 9 + 4 + 8 + 1440 + 10, 8)
    assert not seen.channels_last  # its .view() needs channels first
    assert (
        Custom(path="nets:Odd")._look((1, 8, 8), 10).parameters == 12 * 12 + 1 + 12 + 12 + 130
    )  # no frozen one, tied ones once
    assert TorchVision()._look((3, 32, 32), 10).channels_last


def test_odd_parameters_and_buffers():
    settings = settle(("data=digits", "algo=pasgd", "model=custom", "model.path=nets:Odd", "dtype=float64"))
    odd = bound(Parts(settings).task, settings.seed, torch.float64)
    x, stats = odd.flat().repeat(2, 1), odd.statistics().repeat(2, 1)
    before = odd.module.frozen.weight.clone()
    grad = torch.zeros_like(x)
    odd.bind(x, grad, stats)
    images = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    for row in (1, 1):
        odd.row(row)(images).sum().backward()
    assert torch.equal(odd.module.frozen.weight, before) and odd.module.two.weight is odd.module.one.weight
    assert not grad[0].any() and grad[1].count_nonzero() == odd.d
    expected = 0.75 * (images.flatten(1) @ before.T * torch.linspace(0.5, 1.5, 12).double()).mean(0)  # 0.5 (0.5 s) + 0.5 s
    torch.testing.assert_close(stats[1, 12:], expected)
    assert not stats[0, 12:].any()
    assert int(odd.row(1).seen) == 10 and int(odd.row(0).seen) == 0


def test_a_frozen_layer_is_neither_sent_nor_decayed(cli, tmp_path):
    words = (
        "model=custom",
        "model.path=nets:Odd",
        "optim.weight_decay=0.5",
        "algo=pasgd",
        "tau=1",
        "steps=3",
        "hydra.run.dir=run",
    )
    ended = cli("train", *words)
    assert ended.code == 0, ended.err
    kept = Run(tmp_path / "run", trust=True)
    fresh = bound(kept.parts.task, kept.config.seed, torch.float32)
    assert kept.summary["parameters"] == fresh.d == 299
    torch.testing.assert_close(kept.model().frozen.weight, fresh.module.frozen.weight, rtol=0, atol=0)
    torch.testing.assert_close(kept.model().constant, fresh.module.constant)


REFUSED = {
    "images too small for lenet": (("model=lenet",), ["lenet", "28 x 28", "8 x 8", "cnn"]),
    "images too small for vgg": (("model=vgg11",), ["vgg", "28 x 28", "8 x 8"]),
    "a depth between blocks": (("model=resnet", "model.depth=21"), ["model.depth", "6 n + 2", "21"]),
    "unknown norm": (("model=resnet20", "model.norm=layer"), ["model.norm", "group, batch, none", "layer"]),
    "unknown arch": (("model=torchvision", "model.arch=resnet81"), ["model.arch", "resnet81", "did you mean"]),
    "an arch of detection": (("model=torchvision", "model.arch=fcos_resnet50_fpn"), ["model.arch", "fcos_resnet50_fpn"]),
    "wrong argument": (("model=torchvision", "model.arguments={foo: 1}"), ["resnet18", "foo"]),
    "arguments of a number": (("model=torchvision", "model.arguments=3"), ["model.arguments", "3"]),
    "one sample and BatchNorm": (("model=torchvision", "batch_size=1"), ["resnet18", "more than 1 value per channel"]),
    "images too small for an arch": (("model=torchvision", "model.arch=alexnet"), ["alexnet", "too small"]),
    "path missing": (("model=custom",), ["model.path", "module:Class"]),
    "path of nowhere": (("model=custom", "model.path=nowhere:Net"), ["model.path", "nowhere"]),
    "path of nothing": (("model=custom", "model.path=nets:Nothing"), ["model.path", "nets:Nothing"]),
    "no module": (("model=custom", "model.path=nets:number"), ["nets:number", "int", "torch.nn.Module"]),
    "two outputs": (("model=custom", "model.path=nets:pair"), ["nets:pair", "tuple"]),
    "lazy": (("model=custom", "model.path=nets:lazy"), ["nets:lazy", "lazy"]),
    "no gradient": (("model=custom", "model.path=nets:Detached"), ["nets:Detached", "gradient"]),
    "of one dtype": (("model=custom", "model.path=nets:Doubled"), ["nets:Doubled", "dtype=float32", "dtype"]),
    "nothing to learn": (("model=custom", "model.path=nets:nothing_to_learn"), ["no parameters"]),
    "too few classes": (
        ("model=custom", "model.path=nets:Plain", "model.arguments={classes: 7}"),
        ["nets:Plain", "(2, 7)", "(2, 10)"],
    ),
    "wrong images": (
        ("model=custom", "model.path=nets:Plain", "data.name=nets:Large", "batch_size=8"),
        ["nets:Plain", "shapes"],
    ),
}


def test_a_model_of_the_other_dtype_is_trained_in_that(cli):
    words = ("algo=pasgd", "model=custom", "model.path=nets:Doubled", "dtype=float64", "steps=2", "workers=2", "processes=1")
    assert cli("train", *words).code == 0


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case):
    refused(("algo=pasgd", *REFUSED[case][0]), REFUSED[case][1])


def test_a_file_beside_you_is_found_and_its_mistakes_are_told(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n"
        "    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('no such luck')\n")
    assert cli("train", "model=custom", "model.path=mine:Net", "steps=2", "processes=2").code == 0
    ended = cli("train", "model=custom", "model.path=broken:Net")
    assert ended.code == 2 and len(ended.lines) == 1 and "no such luck" in ended.err


def test_torchvision_is_imported_by_nobody_else(tmp_path):
    code = (
        "import sys; from coopsgd.commands.compose import compose_config; from coopsgd.setup.parts import Parts\n"
        "settings = compose_config(['model=resnet20', 'model.norm=batch', 'norm_stats=local']).config\n"
        "sys.exit(bool({'torch', 'torchvision'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0


def test_what_a_network_keeps_in_no_buffer_is_told(cli, tmp_path):
    """It would be shared by the models of a process, and be lost when the run goes on from a checkpoint."""
    words = ("train", "data=digits", "steps=4", "workers=2", "processes=1", "batch_size=8", "model=custom")
    ended = cli(*words, "model.path=nets:Counting", "hydra.run.dir=r")
    assert ended.code == 0, ended
    for name in ("Counting.count", "Counting.mean"):
        assert f"model: {name} changed in training and is in no buffer" in ended.out
    assert "Counting.mask" not in ended.out and "Counting.width" not in ended.out
    notes = json.loads((tmp_path / "r" / "summary.json").read_text())["notes"]
    assert len([note for note in notes if "in no buffer" in note]) == 2
    for path in ("nets:Odd", "nets:Masked"):
        ended = cli(*words, f"model.path={path}")
        assert ended.code == 0 and "in no buffer" not in ended.out, ended


@pytest.mark.parametrize("last", [False, True])
def test_relu_and_pooling_may_change_places(last):
    """To the bit, forward and backward, also where a window holds ties, zeros or nothing above zero."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8).mul_(2).round_()
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    found = []
    for layers in (relu_of_largest(), [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]):
        leaf = x.clone().requires_grad_()
        y = torch.nn.Sequential(*layers)(leaf)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        found.append((y, leaf.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
