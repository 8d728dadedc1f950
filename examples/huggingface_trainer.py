"""Hugging Face's Trainer on a distilled set with its soft labels.

    python huggingface_trainer.py SET

Needs transformers and accelerate.
"""

import sys

from torch import nn
from transformers import Trainer, TrainingArguments

import gvbsm


class Batches:
    """The loader's batches as dictionaries, which the Trainer passes on by name."""

    def __init__(self, loader):
        self.loader, self.dataset, self.batch_size = loader, loader.dataset, None

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return (batch._asdict() for batch in self.loader)

    def set_epoch(self, epoch):
        self.loader.set_epoch(epoch)


class SoftLabelTrainer(Trainer):
    """A Trainer whose batches and loss are those of a distilled set."""

    def __init__(self, loader, **options):
        super().__init__(train_dataset=loader.dataset, **options)
        self.batches = Batches(loader)

    def get_train_dataloader(self):
        return self.batches

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        outputs = model(inputs["views"])
        loss = self.batches.loader.loss(outputs, gvbsm.Batch(**inputs))
        return (loss, outputs) if return_outputs else loss


def train(source, model: nn.Module, folder, epochs=None):
    """Train a network on a set; return the Trainer."""
    loader = gvbsm.load(source).loader()
    settings = TrainingArguments(
        folder,
        num_train_epochs=epochs or loader.epochs,
        learning_rate=0.01,
        lr_scheduler_type="cosine",
        max_grad_norm=0.0,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
    )
    trainer = SoftLabelTrainer(loader, model=model, args=settings)
    trainer.train()
    return trainer


if __name__ == "__main__":
    distilled = gvbsm.load(sys.argv[1])
    _, channels, size, _ = distilled.images.shape
    model = gvbsm.build_backbone("convnet128_d2", len(distilled.class_names), size, channels)
    trainer = train(sys.argv[1], model, "runs/huggingface")
    trainer.save_model()
