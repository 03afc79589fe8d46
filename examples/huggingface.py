"""A transformers.Trainer whose workers gossip: `CooperationCallback` is all that it takes. Here for a tiny, untrained GPT-2.

pip install 'coopsgd[frameworks]'
torchrun --nproc-per-node 2 examples/huggingface.py
"""

import argparse
import functools
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import coopsgd


class CooperationCallback(TrainerCallback):
    """Trains by an algorithm of coopsgd, a worker a process: `trainer.add_callback(CooperationCallback(trainer, "tau=4"))`.

    The trainer shares the data out, steps, logs and saves as ever, but puts no DDP around the model. It evaluates the answer.
    """

    def __init__(self, trainer, *words):
        self.words, self.coop, self.evaluate = words, None, trainer.evaluate
        whole = trainer.accelerator.prepare_model
        trainer.accelerator.prepare_model = functools.partial(whole, evaluation_mode=True)  # all that it does but for DDP
        trainer.args.average_tokens_across_devices = False  # a message a step, which DDP's mean of gradients needed
        trainer.evaluate = self.evaluate_answer

    def on_train_begin(self, args, state, control, model, optimizer, **kwargs):
        if self.coop is None:
            self.coop = coopsgd.Cooperation(model, optimizer.optimizer, *self.words)
            step = optimizer.step  # Accelerate's: it asks its scaler, and remembers whether that skipped the step
            optimizer.step = functools.wraps(step)(lambda *_: self.coop.step(scaler=optimizer.scaler, step=step))
        if (saved := self.file(args, state)).exists():
            found = torch.load(saved, map_location=args.device.type)
            self.coop.load_state_dict(found["coop"])
            optimizer.load_state_dict(found["optimizer"])

    def on_save(self, args, state, control, optimizer, **kwargs):
        found = {"coop": self.coop.state_dict(), "optimizer": optimizer.state_dict()}  # the trainer saves those of worker 0
        torch.save(found, self.file(args, state))

    def file(self, args, state):
        return Path(args.output_dir, f"checkpoint-{state.global_step}", f"cooperation-{args.process_index}.pt")

    def evaluate_answer(self, *args, **kwargs):
        if self.coop is None:
            return self.evaluate(*args, **kwargs)
        with self.coop.answer():
            return self.evaluate(*args, **kwargs)


def windows(length=32):
    """The source of a module of Python's own, in pieces of so many bytes."""
    text = Path(argparse.__file__).read_bytes()
    pieces = [torch.tensor(list(text[at : at + length])) for at in range(0, len(text) - length, length)]
    return [{"input_ids": piece, "labels": piece} for piece in pieces]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", default="runs/huggingface")
    parser.add_argument("--resume", help="a checkpoint of this script to go on from")
    parser.add_argument("--save-every", type=int, default=100)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )
    data = windows()
    settings = TrainingArguments(
        output_dir=options.out,
        max_steps=options.steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        bf16=True,
        logging_steps=20,
        save_steps=options.save_every,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(model, settings, train_dataset=data[:-100], eval_dataset=data[-100:])
    callback = CooperationCallback(trainer, "algo=dpsgd", "topology=exponential", "tau=4")
    trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=options.resume)
    coop, held_out = callback.coop, trainer.evaluate()["eval_loss"]
    with coop.answer():
        trainer.save_model()
    print(f"held out {held_out:.3f}, {coop.ledger.totals()['bytes'] / 1e6:.1f} MB sent", flush=True)
