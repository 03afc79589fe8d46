"""Learns handwritten digits as many scripts do. Three of a kind, each worker with its share of the data:

    torchrun --nproc-per-node 2 examples/plain.py     # every worker alone
    torchrun --nproc-per-node 2 examples/easgd.py     # EASGD: every 10 steps the workers and a centre pull at each other
    torchrun --nproc-per-node 2 examples/gossip.py    # D-PSGD: after every step a mean with the neighbours in a graph

`diff examples/plain.py examples/easgd.py` shows what makes the difference, `tensorboard --logdir runs` what it does.
"""

import argparse
import os

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torch.utils.tensorboard import SummaryWriter

import coopsgd

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--out", default="runs")
args = parser.parse_args()

rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
if device.type == "cuda":
    torch.cuda.set_device(device)

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
everything = TensorDataset(images, torch.tensor(digits.target))
train, test = torch.utils.data.random_split(everything, [0.9, 0.1], torch.Generator().manual_seed(0))
sampler = DistributedSampler(train, world, rank)
loader = DataLoader(train, batch_size=16, sampler=sampler)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
coop = coopsgd.Cooperation(model, optimizer, "algo=dpsgd", "topology=exponential")
writer = SummaryWriter(args.out) if rank == 0 else None

for epoch in range(args.epochs):
    model.train()
    sampler.set_epoch(epoch)
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()
        coop.step()
    model.eval()
    with torch.no_grad(), coop.answer():
        x, y = test[:]
        accuracy = (model(x.to(device)).argmax(1) == y.to(device)).float().mean().item()
    if writer:
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {accuracy:.3f}", flush=True)
        writer.add_scalar("train/loss", loss.item(), epoch + 1)
        writer.add_scalar("eval/accuracy", accuracy, epoch + 1)
if writer:
    writer.close()
