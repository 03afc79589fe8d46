"""`model.weights=`: torchvision's trained networks, from torch's cache or the network; a line where they cannot be had."""

from __future__ import annotations

import pytest
import torch

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.models import external
from coopsgd.models.external import TorchVision

ARCH = "squeezenet1_1"
FILE = "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture(autouse=True)
def _no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(external, "_had", set())
    monkeypatch.setattr(external, "_seen", {})


def test_what_is_in_the_cache_is_what_it_begins_with(tmp_path):
    torch.manual_seed(5)
    untrained = TorchVision(ARCH).build((3, 64, 64), 1000)
    state = untrained.state_dict()
    at = tmp_path / "hub" / "checkpoints"
    at.mkdir(parents=True)
    torch.save(state, at / FILE)
    torch.manual_seed(6)
    model = TorchVision(ARCH, weights="DEFAULT")
    model.check((3, 64, 64), 1000, 2)
    assert model.parameters((3, 64, 64), 1000) == sum(p.numel() for p in untrained.parameters())
    for built, head in ((model.build((3, 64, 64), 1000), ""), (model.build((1, 64, 64), 1000), "network.")):
        mine = built.state_dict()
        assert all(torch.equal(mine[head + name], value) for name, value in state.items())


def test_without_a_network(tmp_path):
    with pytest.raises(ValueError, match=r"^model.weights: DEFAULT of squeezenet1_1 cannot be had \(.*\); where there is no"):
        TorchVision(ARCH, weights="DEFAULT").check((3, 64, 64), 1000, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model.weights=DEFAULT",), "tells 1000 classes apart, the data has 10; leave model.weights out"),
        (("model.weights=IMAGENET1K_V3",), "has no 'IMAGENET1K_V3' of squeezenet1_1; did you mean IMAGENET1K_V1"),
        (("model.weights=3",), "torchvision has no 3 of squeezenet1_1"),
    ],
)
def test_what_does_not_fit_is_refused(words, said):
    with pytest.raises(ConfigError) as error:
        compose.compose_config(["model=torchvision", f"model.arch={ARCH}", *words])
    assert str(error.value).startswith("model.weights: ") and said in str(error.value) and "\n" not in str(error.value)
