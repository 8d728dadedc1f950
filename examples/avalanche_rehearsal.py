"""Distilled sets as the rehearsal buffer of a strategy of Avalanche (`pip install avalanche-lib`).

    python examples/avalanche_rehearsal.py --tasks 5 --ipc 10 --workdir runs/avalanche

The plugin works with any strategy and benchmark of classification, if the pictures are pixels from
0 to 1 without random views: the network normalizes them itself. The program compares it with
Avalanche's own replay of as many real pictures, on scikit-learn's digits.
"""

import argparse
from pathlib import Path

import torch
from avalanche.benchmarks import class_incremental_benchmark
from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, as_classification_dataset
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer
from rehearsal_buffer import BATCH, Buffer, build_learner, distill
from torch.utils.data import TensorDataset

import gvbsm


class RehearsalPlugin(SupervisedPlugin):
    """Rehearse distilled sets: each experience but the last is distilled when it is over.

    The pictures of the buffer are added to each batch, so that one forward pass has both. Each
    finished experience has the same weight in the loss as the present one.

    Args:
        distill: Makes the set of an experience from its pictures, uint8 (N, channels, height,
            width), their labels, int64 (N,), and its number. Its `class_names` are the numbers of
            the classes in the benchmark.
        labels: See `Buffer`.
    """

    def __init__(self, distill, labels="soft"):
        super().__init__()
        self.buffer = Buffer(labels)
        self._distill, self._replays, self._real = distill, [], 0

    def before_forward(self, strategy, **kwargs):
        """Add the pictures of the buffer to the batch."""
        self._replays = [replay.to(strategy.device) for replay in self.buffer.draw()]
        self._real = len(strategy.mb_x)
        views = [replay.views for replay in self._replays]
        strategy.mbatch[0] = torch.cat([strategy.mb_x, *views])

    def after_forward(self, strategy, **kwargs):
        """Separate their outputs: the strategy's own loss and metrics are on the real pictures."""
        sizes = [self._real, *(len(replay.views) for replay in self._replays)]
        strategy.mb_output, *self._outputs = strategy.mb_output.split(sizes)
        strategy.mbatch[0] = strategy.mb_x[: self._real]

    def before_backward(self, strategy, **kwargs):
        """Add their loss."""
        losses = [
            replay.loss(outputs)
            for replay, outputs in zip(self._replays, self._outputs, strict=True)
        ]
        strategy.loss = (strategy.loss + sum(losses)) / (1 + len(losses))

    def after_training_exp(self, strategy, **kwargs):
        """Distill the experience, if another one comes."""
        number, stream = strategy.experience.current_experience, strategy.experience.origin_stream
        if number + 1 < len(stream):
            pictures, labels = pictures_of(strategy.experience.dataset)
            self.buffer.add(self._distill(pictures, labels, number))


def pictures_of(dataset):
    """Return the pictures of a data set of Avalanche as uint8, and their labels.

    Raises:
        ValueError: If they are not pixels from 0 to 1.
    """
    rows = [dataset[index] for index in range(len(dataset))]
    pixels = torch.stack([row[0] for row in rows])
    if pixels.min() < 0 or pixels.max() > 1:
        low, high = float(pixels.min()), float(pixels.max())
        raise ValueError(
            f"pixels must be from 0 to 1 (not normalized), got {low:.2f} to {high:.2f}"
        )
    return (255 * pixels).round().to(torch.uint8), torch.tensor([row[1] for row in rows])


def benchmark_of(data, tasks, seed):
    """Return a class-incremental benchmark of a data set, with pixels from 0 to 1."""

    def with_targets(split):
        dataset = TensorDataset(split.images / 255, split.labels)
        dataset.targets = split.labels.tolist()
        # ReplayPlugin stores pictures with task labels: the others need them to share a batch.
        tasks = ConstantSequence(0, len(split))
        attribute = DataAttribute(tasks, "targets_task_labels", use_in_getitem=True)
        return as_classification_dataset(dataset).update_data_attribute(attribute.name, attribute)

    sets = {"train": with_targets(data.train), "test": with_targets(data.test)}
    return class_incremental_benchmark(sets, num_experiences=tasks, seed=seed)


def learn(data, plugin, options):
    """Learn the benchmark; return the accuracy in percent on all test pictures."""
    torch.manual_seed(options.seed)
    benchmark = benchmark_of(data, options.tasks, options.seed)
    first, _ = pictures_of(benchmark.train_stream[0].dataset)
    net = build_learner(options.model, len(data.class_names), first)
    strategy = Naive(
        model=net,
        optimizer=torch.optim.AdamW(net.parameters(), lr=0.001),
        train_mb_size=BATCH,
        train_epochs=options.epochs,
        eval_mb_size=256,
        plugins=[plugin],
        evaluator=EvaluationPlugin(),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    with torch.no_grad():
        predicted = net.eval()(data.test.images / 255).argmax(1)
    return 100 * float((predicted == data.test.labels).float().mean())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="convnet128_d2", help="the learner")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=10, help="images of a class in the buffer")
    parser.add_argument("--views", type=int, default=50, help="labeled views of each image")
    parser.add_argument("--epochs", type=int, default=8, help="the learner's, on each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("runs/avalanche"))
    parser.set_defaults(preset="digits")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = gvbsm.load_dataset(options.preset)

    def distill_task(images, labels, number):
        folder = options.workdir / f"seed{options.seed}-task{number}"
        return distill(images, labels, folder, options.seed, options)["distilled"]

    size = options.ipc * len(data.class_names)
    storage = ClassBalancedBuffer(
        size, adaptive_size=False, total_num_classes=len(data.class_names)
    )
    plugins = {
        "distilled": RehearsalPlugin(distill_task),
        "ReplayPlugin": ReplayPlugin(size, storage_policy=storage),
    }
    for name, plugin in plugins.items():
        print(f"{name:14} {learn(data, plugin, options):.1f} %", flush=True)


if __name__ == "__main__":
    main()
