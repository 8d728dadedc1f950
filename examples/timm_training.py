"""timm's network, optimizer, schedule and loss on a distilled set with its soft labels.

    python timm_training.py SET [NETWORK]

The soft labels are probabilities at the temperature of KL, as timm's loss for soft targets takes
them.
"""

import sys

import torch
from timm import create_model
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter

import gvbsm


def train(source, name, epochs=None, temperature=4.0):
    """Train a network of timm on a set; return it and the mean loss of the last epoch."""
    distilled = gvbsm.load(source)
    loader = distilled.loader()
    epochs = epochs or loader.epochs
    classes, channels = len(distilled.class_names), distilled.images.shape[1]
    model = create_model(name, num_classes=classes, in_chans=channels)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.001, weight_decay=0.01)
    schedule, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    criterion = SoftTargetCrossEntropy()
    for epoch in range(epochs):
        losses = AverageMeter()
        for batch in loader:
            outputs = model(batch.views) / temperature
            loss = temperature**2 * criterion(outputs, batch.probabilities(temperature))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(batch.labels))
        schedule.step(epoch + 1)
    return model, losses.avg


if __name__ == "__main__":
    model, loss = train(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "resnet18")
    torch.save(model.state_dict(), "student.pt")
    print(f"loss of the last epoch: {loss:.4f}")
