"""A small GPT learns the characters of a file, each worker from its own places: gossip with what large models need beside it.

    torchrun --nproc-per-node 2 examples/char_gpt.py
    torchrun --nproc-per-node 2 examples/char_gpt.py --steps 400     # goes on where it was, as if nothing had been in between

Gradient accumulation, mixed precision (`--amp fp16` with a GradScaler), clipping, a schedule of the learning rate, checkpoints.
"""

import argparse
import os
import textwrap
from pathlib import Path

import torch
from torch import nn

import coopsgd

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--accumulate", type=int, default=2, help="batches a step")
parser.add_argument("--amp", choices=["none", "bf16", "fp16"], default="bf16")
parser.add_argument("--save-every", type=int, default=100)
parser.add_argument("--out", default="runs/char_gpt")
args = parser.parse_args()

CONTEXT, WIDTH, LAYERS, HEADS, BATCH = 64, 64, 2, 4, 16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.before_attention(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.before_mlp(x))


class GPT(nn.Module):
    def __init__(self, characters):
        super().__init__()
        self.characters, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, characters, bias=False)
        self.head.weight = self.characters.weight  # tied: one parameter in two places
        self.apply(lambda m: nn.init.normal_(m.weight, std=0.02) if isinstance(m, nn.Linear | nn.Embedding) else None)

    def forward(self, x):
        return self.head(self.blocks(self.characters(x) + self.places.weight[: x.shape[1]]))


rank = int(os.environ.get("RANK", 0))
device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
if device.type == "cuda":
    torch.cuda.set_device(device)

text = Path(argparse.__file__).read_text() + Path(textwrap.__file__).read_text()  # what every Python has
alphabet = sorted(set(text))
numbers = torch.tensor([alphabet.index(c) for c in text])
train, test = numbers[: -len(numbers) // 10], numbers[-len(numbers) // 10 :]


def batch(data, address):
    """The same for the same address, so that a run that goes on has the batches that it would have had."""
    at = torch.randint(len(data) - CONTEXT, (BATCH, 1), generator=torch.Generator().manual_seed(address))
    windows = data[at + torch.arange(CONTEXT + 1)].to(device)
    return windows[:, :-1], windows[:, 1:]


torch.manual_seed(0)
model = GPT(len(alphabet)).to(device)
decays = [p for p in model.parameters() if p.dim() > 1]
others = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW([{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=3e-3)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1, (k + 1) / 20))
scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
coop = coopsgd.Cooperation(model, optimizer, "algo=dpsgd", "tau=4", "delay=1")


def loss_of(x, y):
    kind = torch.float16 if args.amp == "fp16" else torch.bfloat16
    with torch.autocast(device.type, kind, enabled=args.amp != "none"):
        return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


parts = {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "coop": coop}
saved = Path(args.out) / f"rank{rank}.pt"  # each worker has its own model and its own optimizer, so a file of its own
if saved.exists():
    for name, state in torch.load(saved, map_location=device).items():
        parts[name].load_state_dict(state)
saved.parent.mkdir(parents=True, exist_ok=True)

while coop.steps < args.steps:
    for i in range(args.accumulate):
        address = (coop.steps * args.accumulate + i) * int(os.environ.get("WORLD_SIZE", 1)) + rank
        loss = loss_of(*batch(train, address))
        scaler.scale(loss / args.accumulate).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    coop.step(scaler=scaler)
    scaler.update()
    scheduler.step()
    optimizer.zero_grad()
    if coop.steps % 50 == 0 or coop.steps == args.steps:
        with torch.no_grad(), coop.answer():
            held_out = sum(loss_of(*batch(test, i)).item() for i in range(4)) / 4
        if rank == 0:
            sent = coop.ledger.totals()["bytes"] / 1e6
            print(f"step {coop.steps}: loss {loss.item():.3f}, held out {held_out:.3f}, {sent:.1f} MB sent", flush=True)
    if coop.steps % args.save_every == 0 or coop.steps == args.steps:
        torch.save({name: part.state_dict() for name, part in parts.items()}, saved)
