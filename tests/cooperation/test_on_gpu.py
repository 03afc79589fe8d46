"""On one GPU, a user's loop: what it does on a CPU, with AMP and its scaler, in blocks of several kinds, going on to the bit.

Each test is a program of its own: a process that has touched a GPU cannot fork.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.device_count(), reason="no GPU, or no -m gpu")]
HERE = Path(__file__).parent

BEGIN = """
import copy, io, sys, warnings
import torch
from torch import nn
from coopsgd import Cooperation
warnings.simplefilter("ignore", UserWarning)
torch.use_deterministic_algorithms(True, warn_only=True)

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()

def start(device, words, make=net, kind=torch.optim.SGD, **options):
    models = [make().to(device) for _ in range(4)]
    optimizers = [kind(m.parameters(), lr=0.05, **options) for m in models]
    return models, optimizers, Cooperation(models, optimizers, *words.split())

def go(models, optimizers, coop, first, last):
    for k in range(first, last):
        losses = []
        for i, (model, optimizer) in enumerate(zip(models, optimizers)):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(100 * i + k)).to(next(model.parameters()))
            optimizer.zero_grad()
            losses.append(model(x).square().mean())
            losses[-1].backward()
        coop.step(loss=losses)

def flat(models):
    return torch.stack([torch.cat([v.detach().double().cpu().flatten() for v in m.state_dict().values()]) for m in models])
"""
SAME = """
from coopsgd.cooperation import modules
modules._taken = lambda x: -(-x.numel() // 2) * 2  # rows on the CPU have the gaps that they have on a GPU, which travel too

for words in ("algo=easgd tau=2 norm_stats=local", "algo=dpsgd topology=ring tau=4 delay=2", "algo=fullsync",
              "algo=pasgd tau=2 buffers=average", "algo=pasgd tau=4 period=adacomm period.interval=4"):
    found = []
    for device in ("cpu", "cuda"):
        loop = start(device, words, momentum=0.9)
        go(*loop, 0, 11)
        with loop[2].answer():
            found.append((flat(loop[0]), loop[2].ledger.totals()))
        found[-1] += (flat(loop[0]), loop[2].consensus())
    (a, ledger, rows, apart), (b, other, others, also) = found
    assert ledger == other, words
    assert torch.allclose(a, b, rtol=1e-12, atol=1e-12) and torch.allclose(rows, others, rtol=1e-12, atol=1e-12), words
    assert abs(apart - also) < 1e-12
"""
RESUMED = """
for words in ("algo=dpsgd topology=ring tau=4 delay=2", "algo=easgd tau=3 norm_stats=local", "algo=fullsync"):
    loop = start("cuda", words, kind=torch.optim.Adam)
    go(*loop, 0, 14)
    for gathered in (False, True):
        first = start("cuda", words, kind=torch.optim.Adam)
        go(*first, 0, 6)
        file = io.BytesIO()
        torch.save([first[2].state_dict(gathered), [o.state_dict() for o in first[1]]], file)
        file.seek(0)
        state, theirs = torch.load(file, map_location="cpu")
        second = start("cuda", words, kind=torch.optim.Adam)
        for optimizer, told in zip(second[1], theirs):
            optimizer.load_state_dict(told)
        second[2].load_state_dict(state)
        go(*second, 6, 14)
        rows, others = ([p for m in models for p in m.parameters()] for models in (loop[0], second[0]))
        assert all(torch.equal(p, q) for p, q in zip(rows, others)), (words, gathered)
"""
AMP = """
def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))

for words in ("algo=pasgd tau=1", "algo=fullsync"):
    models, optimizers, coop = start("cuda", words, small)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    for k in range(4):
        for i, (model, optimizer) in enumerate(zip(models, optimizers)):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = model(torch.randn(8, 4, device="cuda")).square().mean() * (1e6 if k == 1 and i == 0 else 1)
            scaler.scale(loss).backward()
        coop.step(scaler=scaler)
        scaler.update()
    rows = flat(models)
    assert coop.steps == 4 and scaler.get_scale() < 2.0**10
    assert rows.isfinite().all() and torch.allclose(rows[0], rows[3], atol=1e-6)
"""
KINDS = """
class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.norm, self.b = nn.Linear(4, 6).bfloat16(), nn.BatchNorm1d(6), nn.Linear(6, 3).double()
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def to(self, device):
        for part in (self.a, self.norm, self.b):
            part.to(device)
        return self

    def forward(self, x):
        return self.b(self.norm(self.a(x.to(self.a.weight)).float()).double()).cpu() * self.scale

for words in ("algo=pasgd tau=1", "algo=dpsgd topology=ring tau=4 delay=2", "algo=fullsync"):
    loop = start("cuda", words, Mixed)
    go(*loop, 0, 6)
    state = loop[2].state_dict()
    kept = [copy.deepcopy(m.state_dict()) for m in loop[0]]
    go(*loop, 6, 9)
    after = flat(loop[0])
    for model, told in zip(loop[0], kept):
        model.load_state_dict(told)
    loop[2].load_state_dict(state)
    go(*loop, 6, 9)
    assert torch.equal(after, flat(loop[0])), words
    assert {p.device.type for p in loop[0][0].parameters()} == {"cpu", "cuda"}
"""
NCCL = """
import os
os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
model = net().to("cuda")
coop = Cooperation(model, torch.optim.SGD(model.parameters(), lr=0.1), "algo=pasgd tau=1")
import torch.distributed as dist
assert dist.get_backend() == "nccl"
model(torch.randn(8, 4, device="cuda").double()).mean().backward()
coop.step()
try:
    Cooperation(cpu := net(), torch.optim.SGD(cpu.parameters(), lr=0.1), "algo=pasgd")
except ValueError as error:
    assert 'the model is on cpu, and the process group (nccl) moves no models there' in str(error), error
else:
    raise AssertionError
"""


@pytest.mark.parametrize("program", [SAME, RESUMED, AMP, KINDS, NCCL], ids=["same", "resumed", "amp", "kinds", "nccl"])
def test_on_a_gpu(program, tmp_path):
    env = {
        **os.environ,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2500:]
