"""Distilled sets as the rehearsal buffer of a learner that meets the classes task by task.

    python examples/rehearsal_buffer.py --tasks 5 --ipc 10 --seeds 3 --workdir runs/rehearsal
    python examples/rehearsal_buffer.py --preset cifar100 --data-root DIR --tasks 10

The learner sees the real pictures of the present task and a buffer. Each finished task is
distilled by `gvbsm run` with teachers that have seen this task alone; its images and their soft
labels go into the buffer. Beside it: as many random real pictures with soft labels of the same
teachers, with hard labels for the same views, and with hard labels as they are (experience replay);
no buffer at all; and all real pictures of the tasks so far. The tables have the mean and the sample
deviation over seeds of the top-1 accuracy on all classes met so far, the forgetting (Chaudhry et
al., 2018), and the bytes of the pixels and soft labels of a buffer after the last task but one.
"""

import argparse
import statistics
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import Normalize

import gvbsm
from gvbsm.config.build import as_config
from gvbsm.data.datasets import read_dataset
from gvbsm.method.losses import hard_loss

BATCH = 25  # real pictures of a task in a step
GAMMA = 1.0  # weight of the cross-entropy beside the squared error of logits
METHODS = {  # name -> which set of a task is kept, and how it is learned
    "distilled, soft labels": ("distilled", "soft"),
    "random, soft labels": ("random", "soft"),
    "random, hard labels": ("random", "hard"),
    "random, experience replay": ("random", "plain"),
    "no buffer": (None, ""),
    "all real pictures": ("real", ""),
}


class Replay(NamedTuple):
    """A batch of a finished task: pictures and their labels.

    Attributes:
        views: Pixels from 0 to 1, float32 (batch, channels, height, width).
        classes: The classes of the task among all classes, int64 (classes of the task,).
        logits: Soft labels over these classes, float32 (batch, classes of the task), or None.
        labels: Hard labels among all classes, int64 (batch,).
        partners: Hard labels of the images that are mixed in, int64 (batch,).
        kept: Share of each view that is not mixed in, float32 (batch,).
    """

    views: torch.Tensor
    classes: torch.Tensor
    logits: torch.Tensor | None
    labels: torch.Tensor
    partners: torch.Tensor
    kept: torch.Tensor

    def to(self, device):
        """Return it on a device."""
        return Replay(*(None if tensor is None else tensor.to(device) for tensor in self))

    def loss(self, outputs):
        """Return the loss of the learner's outputs (batch, all classes), a scalar.

        The teachers of a task know its classes alone. So their logits are compared with the
        outputs of these classes, by the squared error. The cross-entropy with the hard labels takes
        the outputs of all classes. It alone teaches to separate the task's classes from the others.
        """
        hard = hard_loss(outputs, self.labels, self.partners, self.kept)
        if self.logits is None:
            return hard
        return F.mse_loss(outputs[:, self.classes], self.logits) + GAMMA * hard


class Buffer:
    """The sets of the finished tasks.

    Args:
        labels: `soft`, `hard` (of the same views), or `plain`: the images as they are, hard labels.
    """

    def __init__(self, labels="soft"):
        self._labels, self._streams, self.nbytes = labels, [], 0

    def add(self, distilled):
        """Add the set of a task, whose classes are named by their numbers among all classes."""
        self.nbytes += distilled.images.nbytes
        if self._labels == "soft":
            self.nbytes += distilled.soft_labels.nbytes()
        classes = torch.tensor(list(map(int, distilled.class_names)))
        stream = self._plain if self._labels == "plain" else self._views
        self._streams.append(stream(distilled, classes))

    def draw(self):
        """Return the next batch of each set."""
        return [next(stream) for stream in self._streams]

    def _views(self, distilled, classes):
        of_set = distilled.normalization
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (of_set.mean, of_set.std))
        loader = distilled.loader()
        while True:  # the stored epochs again and again
            loader.set_epoch(0)
            for _ in range(loader.epochs):
                for batch in loader:
                    logits = batch.logits if self._labels == "soft" else None
                    hard = classes[batch.labels], classes[batch.partners]
                    yield Replay(batch.views * std + mean, classes, logits, *hard, batch.kept)

    def _plain(self, distilled, classes):
        labels = classes[distilled.labels]
        while True:
            for index in torch.randperm(len(labels)).split(BATCH):
                views, of_views = distilled.images[index] / 255, labels[index]
                yield Replay(views, classes, None, of_views, of_views, torch.ones(len(index)))


def distill(images, labels, folder, seed, options):
    """Distill the pictures of a task, and label as many random ones with the same teachers.

    Args:
        images: uint8 (N, channels, height, width).
        labels: Numbers of their classes among all classes, int64 (N,).
        folder: The work directory.
        seed: Seed of teachers, images and labels.
        options: `preset`, `ipc` and `views`.

    Returns:
        Both sets by name.
    """
    pictures = images.permute(0, 2, 3, 1).numpy(), labels.numpy()
    gvbsm.run(
        options.preset,
        folder,
        quiet=True,
        data=(*pictures, *pictures),  # the run's own test is not used
        ipc=options.ipc,
        seed=seed,
        threads=1,
        labels={"epochs": options.views, "min_steps": 0},
        evaluation={"students": ["convnet8_d1"], "seeds": 1, "tests": 1},
        baselines={"methods": ["random-soft"], "draws": 1},
    )
    random = gvbsm.load(folder / "baselines" / "random-0")
    return {"distilled": gvbsm.load(folder), "random": random}


def build_learner(name, classes, images):
    """Build a network for pixels from 0 to 1, normalized by the statistics of the first task."""
    pixels = images / 255
    normalize = Normalize(pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist())
    return torch.nn.Sequential(
        normalize, gvbsm.build_backbone(name, classes, images.shape[-1], images.shape[1])
    )


def learn_task(net, images, labels, buffer, batch, options):
    """Train on the real pictures of a task and on the buffer; each task has the same weight."""
    device = options.device
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.lr)
    net.train()
    for _ in range(options.steps):
        index = torch.randint(len(images), (batch,))
        replays = [replay.to(device) for replay in buffer.draw()]
        views = [images[index].to(device) / 255, *(replay.views for replay in replays)]
        real, *outputs = net(torch.cat(views)).split(list(map(len, views)))
        losses = [F.cross_entropy(real, labels[index].to(device))]
        losses += [replay.loss(logits) for replay, logits in zip(replays, outputs, strict=True)]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()


def learn(method, stream, sets, seed, options):
    """Learn the tasks one after the other.

    Args:
        method: A key of `METHODS`.
        stream: A `Stream`.
        sets: The sets of each task but the last, by name.
        seed: Seed of the learner and its batches.
        options: `model`, `steps`, `lr` and `device`.

    Returns:
        The accuracies in percent on each task so far, after each task, and the buffer's bytes.
    """
    kept, labels = METHODS[method]
    torch.manual_seed(seed)
    buffer, rows = Buffer(labels), []
    net = build_learner(options.model, stream.classes, stream.train[0][0]).to(options.device)
    for number in range(len(stream.train)):
        tasks = stream.train[: number + 1] if kept == "real" else [stream.train[number]]
        images, targets = map(torch.cat, zip(*tasks, strict=True))
        learn_task(net, images, targets, buffer, BATCH * len(tasks), options)
        rows.append([accuracy(net, *task, options.device) for task in stream.test[: number + 1]])
        if kept in ("distilled", "random") and number < len(sets):
            buffer.add(sets[number][kept])
    real = sum(images.nbytes for images, _ in stream.train[:-1])
    return rows, real if kept == "real" else buffer.nbytes


@torch.no_grad()
def accuracy(net, images, labels, device="cpu"):
    """Return the top-1 accuracy in percent among all classes."""
    net.eval()
    predicted = [net(part.to(device) / 255).argmax(1).cpu() for part in images.split(256)]
    return 100 * float((torch.cat(predicted) == labels).float().mean())


def forgetting(rows):
    """Return by how much the accuracy on a task fell from its best, on average over the tasks.

    Args:
        rows: After each task, the accuracy on it and on each task before. The last task does not
            count: it had no time to fall.
    """
    *before, last = rows
    if not before:
        return 0.0
    best = [max(row[task] for row in before[task:]) for task in range(len(before))]
    return statistics.mean(top - now for top, now in zip(best, last, strict=False))


class Stream(NamedTuple):
    """A stream of tasks.

    Attributes:
        train: Pictures of each task, uint8 (N, channels, height, width), and their labels.
        test: Test pictures of each task, likewise.
        classes: Number of classes.
    """

    train: list
    test: list
    classes: int


def divide(data, tasks, seed, choosing=False):
    """Divide the classes between tasks, in a random order.

    Args:
        data: The pictures of all classes.
        tasks: Number of tasks.
        seed: Seed of the order.
        choosing: Test on every fifth training picture, which is not trained on.
    """
    generator, classes = torch.Generator().manual_seed(seed), len(data.class_names)
    parts = torch.randperm(classes, generator=generator).tensor_split(tasks)
    train, test = ((split.images, split.labels) for split in (data.train, data.test))
    if choosing:
        held_out = torch.arange(len(data.train)) % 5 == 0
        train, test = ([t[rows] for t in train] for rows in (~held_out, held_out))

    def of_classes(images, labels):
        kept = [torch.isin(labels, part) for part in parts]
        return [(images[rows], labels[rows]) for rows in kept]

    return Stream(of_classes(*train), of_classes(*test), classes)


def run(data, options):
    """Return the results of each method: (`learn`'s rows, bytes), one a seed."""
    results = {method: [] for method in METHODS}
    for seed in range(options.seeds):
        stream, sets = divide(data, options.tasks, seed, options.choosing), []
        for number, (images, labels) in enumerate(stream.train[:-1]):
            folder = options.workdir / f"seed{seed}-task{number}"
            print(f"{folder}: {len(images)} pictures of {labels.unique().tolist()}", flush=True)
            sets.append(distill(images, labels, folder, seed, options))
        for method in METHODS:
            rows, nbytes = learn(method, stream, sets, seed, options)
            results[method].append((rows, nbytes))
            print(f"seed {seed}, {method}: {statistics.mean(rows[-1]):.1f} %", flush=True)
    return results


def show(results):
    """Print the tables."""
    width = max(map(len, METHODS))
    tasks = len(results["no buffer"][0][0])
    print(f"\n{'':{width}}  {'last':>11}  {'all tasks':>11}  {'forgetting':>11}  {'kB':>8}")
    for method, runs in results.items():
        means = [[statistics.mean(row) for row in rows] for rows, _ in runs]
        columns = (
            [row[-1] for row in means],
            [statistics.mean(row) for row in means],
            [forgetting(rows) for rows, _ in runs],
        )
        nbytes = statistics.mean(nbytes for _, nbytes in runs)
        print(f"{method:{width}}  {'  '.join(map(spread, columns))}  {nbytes / 1000:8.1f}")
    print(f"\n{'after task':{width}}  " + "  ".join(f"{n:>11}" for n in range(1, tasks + 1)))
    for method, runs in results.items():
        columns = zip(*([statistics.mean(row) for row in rows] for rows, _ in runs), strict=True)
        print(f"{method:{width}}  {'  '.join(map(spread, columns))}")


def spread(values):
    values = list(values)
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):5.1f} ± {deviation:3.1f}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="digits", help="settings of a task's distillation")
    parser.add_argument("--data-root", help="folder or file of the preset's data")
    parser.add_argument("--model", help="the learner; the preset's first student if not given")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=10, help="images of a class in the buffer")
    parser.add_argument("--views", type=int, default=50, help="labeled views of each image")
    parser.add_argument("--steps", type=int, default=100, help="steps of the learner for a task")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--choosing", action="store_true", help="test on held-out training pictures"
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/rehearsal"))
    options = parser.parse_args(arguments)
    settings = as_config(options.preset, {"data.root": options.data_root})
    options.model = options.model or settings.evaluation.students[0]
    torch.set_num_threads(1)
    data = read_dataset(settings.data)
    if not 1 <= options.tasks <= len(data.class_names) // 2:
        parser.error(f"--tasks must leave two classes for each task of {len(data.class_names)}")
    if data.train.images is None:
        parser.error(f"{data.name} is too large to be in memory")
    results = run(data, options)
    show(results)
    return results


if __name__ == "__main__":
    main()
