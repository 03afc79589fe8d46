"""A Lightning Trainer whose workers gossip: `CooperationCallback` is all that it takes.

pip install 'coopsgd[frameworks]'
torchrun --nproc-per-node 2 examples/lightning_callback.py
"""

import argparse
import contextlib
import functools
import os

import lightning
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import coopsgd


class CooperationCallback(lightning.Callback):
    """Trains by an algorithm of coopsgd: `Trainer(strategy="ddp", callbacks=[CooperationCallback("algo=easgd", "tau=4")])`.

    The trainer starts the processes, shares the data out, steps and logs as ever, but puts no DDP around the module. It
    validates the answer. A checkpoint holds the models and optimizers of all workers. The module has one optimizer.
    """

    def __init__(self, *words):
        self.words, self.coop, self.saved, self.within = words, None, None, contextlib.ExitStack()

    def setup(self, trainer, module, stage):
        trainer.strategy.configure_ddp = lambda: None  # which would wrap the module, so that gradients are averaged

    def on_train_start(self, trainer, module):
        (self.optimizer,) = trainer.optimizers
        self.coop = coopsgd.Cooperation(module, self.optimizer, *self.words)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        stepper = self.optimizer if scaler is None else scaler  # what Lightning calls
        step = stepper.step

        @functools.wraps(step)
        def cooperate(*args, closure=None):
            loss = None if closure is None else closure()  # forward and backward, unless a scaler had them done before
            self.coop.step(loss=loss, scaler=scaler, step=functools.partial(step, *args))
            return loss

        stepper.step = cooperate
        if self.saved is not None:
            mine = self.saved[trainer.global_rank]
            self.coop.load_state_dict(mine["coop"])
            self.optimizer.load_state_dict(mine["optimizer"])

    def on_validation_start(self, trainer, module):
        if self.coop is not None:
            self.within.enter_context(self.coop.answer())

    def on_validation_end(self, trainer, module):
        self.within.close()

    def state_dict(self):
        mine = {"coop": self.coop.state_dict(), "optimizer": self.optimizer.state_dict()}
        every = [None] * self.coop.processes if self.coop.rank == 0 else None  # Lightning saves what worker 0 has
        dist.gather_object(mine, every)
        return {"workers": every}

    def load_state_dict(self, state):
        self.saved = state["workers"]


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("accuracy", (self.model(x).argmax(1) == y).float().mean(), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--out", default="runs/lightning")
    parser.add_argument("--resume", help="a checkpoint of this script to go on from")
    options = parser.parse_args()

    digits = load_digits()
    everything = TensorDataset(torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16, torch.tensor(digits.target))
    train, test = torch.utils.data.random_split(everything, [0.9, 0.1], torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model, callback = Digits(), CooperationCallback("algo=easgd", "tau=10")
    trainer = lightning.Trainer(
        strategy="ddp",
        callbacks=[callback],
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        max_epochs=options.epochs,
        accumulate_grad_batches=2,
        precision=options.precision,
        default_root_dir=options.out,
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, DataLoader(train, 16, shuffle=True), DataLoader(test, 90), ckpt_path=options.resume)
    coop, accuracy = callback.coop, trainer.callback_metrics["accuracy"].item()
    if coop.rank == 0:
        print(f"accuracy {accuracy:.3f}, {coop.ledger.totals()['bytes'] / 1e6:.1f} MB sent", flush=True)
