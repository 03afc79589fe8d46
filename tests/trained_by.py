"""A model trained by a framework of test_examples: by its DDP, or by these words of coopsgd in the callback of the example."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

framework, *words = sys.argv[1:]
script = {"huggingface": "huggingface", "lightning": "lightning_callback"}[framework]
callback_of = runpy.run_path(str(Path(__file__).parents[1] / "examples" / f"{script}.py"))["CooperationCallback"]
torch.manual_seed(0)
x, y = torch.randn(96, 5), torch.randint(3, (96,))

if framework == "huggingface":
    from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

    class Classifier(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self) -> None:
            super().__init__(PretrainedConfig())
            self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

        def forward(self, x: Any, labels: Any) -> Any:
            return {"loss": nn.functional.cross_entropy(self.layers(x), labels)}

    model: Any = Classifier()
    settings = TrainingArguments(
        output_dir="alike",
        max_steps=6,
        per_device_train_batch_size=8,
        learning_rate=0.1,
        optim="sgd",
        max_grad_norm=0.0,  # a mean of gradients is clipped otherwise than each of them
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, settings, train_dataset=[{"x": a, "labels": b} for a, b in zip(x, y, strict=True)])
    if words:
        callback = callback_of(trainer, *words)
        trainer.add_callback(callback)
    trainer.train()
    assert isinstance(trainer.model_wrapped, nn.parallel.DistributedDataParallel) == (not words)
else:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert isinstance(self.trainer.strategy.model, nn.parallel.DistributedDataParallel) == (not words)
            return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    model = Module()
    callback = callback_of(*words) if words else None
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        max_epochs=1,
        callbacks=[callback] if words else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(x, y), 8))
if words:
    coop = callback.coop
