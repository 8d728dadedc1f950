"""Check whether mirrored pictures still show their classes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.config.optimizer import OptimizerConfig
from gvbsm.config.views import ViewConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import training_batches, view_batches
from gvbsm.data.pictures import PictureFile, Split, decode, no_progress, resize_to
from gvbsm.data.pixel_statistics import pixel_statistics
from gvbsm.engine.device import Runtime
from gvbsm.engine.optimizers import make_optimizer, set_lr
from gvbsm.engine.seeds import generator_for, seeded

SIDE = 32  # pixels, to which the pictures of the check are resized
SAMPLE = 2400  # pictures of the check, of which a quarter is held out
LEAST_SAMPLE, READ_SECONDS = 256, 20.0  # of large pictures no more are read than in this time
PASSES = 9_000  # pictures that its network is trained on, repeats counted
NETWORK = "convnet64_d2"
LEAST_SHARE = 0.8  # of the accuracy above chance that mirrored pictures must keep


class MirrorCheck(NamedTuple):
    """How a quick network does on held-out training pictures and on their mirror images.

    Attributes:
        plain: Its top-1 accuracy in percent.
        mirrored: The same on the mirror images.
        pictures: Number of held-out pictures.
        harmless: Whether mirrored pictures still show their classes.
    """

    plain: float
    mirrored: float
    pictures: int
    harmless: bool


def check_mirror(data: ImageData, runtime: Runtime) -> MirrorCheck:
    """Train a small network for some seconds without flips, and test it on mirror images.

    Digits, letters and road signs lose their class in a mirror; most photographs keep it. Test
    pictures take no part.

    Args:
        data: The pictures; up to `SAMPLE` of the training pictures are read.
        runtime: Device and seed.
    """
    sample = _sample(data, runtime.seed)
    held_out = torch.arange(len(sample.train)) % 4 == 0
    tested = sample.train.select(held_out.nonzero().flatten())
    rest = replace(sample, train=sample.train.select((~held_out).nonzero().flatten()))
    network = _trained(rest, runtime)
    assert tested.images is not None
    plain = _is_correct(network, tested.images, tested.labels, rest, runtime)
    mirrored = _is_correct(network, tested.images.flip(3), tested.labels, rest, runtime)
    largest = int(tested.labels.bincount().max())
    return judge(plain, mirrored, largest / len(plain))


def _trained(data: ImageData, runtime: Runtime) -> nn.Module:
    """Train a small network on pictures that are shifted, but not mirrored."""
    with seeded(runtime.seed, "mirror"):
        network = build_backbone(NETWORK, len(data.class_names), data.image_size, data.channels)
    network.to(runtime.device).train()
    rate = 0.002
    optimizer = make_optimizer(OptimizerConfig(name="adamw"), list(network.parameters()), rate)
    views = ViewConfig(crop="pad", padding=3, flip=False)
    epochs = max(1, PASSES // len(data.train))
    for epoch in range(epochs):
        set_lr(optimizer, rate * (1 - epoch / epochs))
        batches = training_batches(data, 64, runtime, ("mirror", epoch))
        for pictures, labels in view_batches(data, views, batches, runtime, ("mirror", epoch)):
            optimizer.zero_grad()
            F.cross_entropy(network(pictures), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()


def judge(plain: Tensor, mirrored: Tensor, chance: float) -> MirrorCheck:
    """Compare which pictures are classified correctly, as they are and mirrored.

    Mirror images do harm if they lose more of the accuracy above chance than `LEAST_SHARE` allows,
    and more than two standard deviations of the difference (McNemar's test).

    Args:
        plain: Whether each picture is classified correctly, bool (pictures,).
        mirrored: The same of its mirror image.
        chance: Accuracy from 0 to 1 of a network that knows nothing: the share of the largest
            class. Where classes are uneven, it is far above 1 / classes.
    """
    lost, won = int((plain & ~mirrored).sum()), int((mirrored & ~plain).sum())
    count = len(plain)
    before, after = float(plain.float().mean()), float(mirrored.float().mean())
    falls = after - chance < LEAST_SHARE * (before - chance)
    harmful = falls and lost - won > 2 * (lost + won) ** 0.5
    return MirrorCheck(100 * before, 100 * after, count, not harmful)


def _sample(data: ImageData, seed: int) -> ImageData:
    """Read some of the training pictures, in random order, at the side of the check."""
    order = torch.randperm(len(data.train), generator=generator_for(seed, "mirror", "sample"))
    split = data.train.select(order[:SAMPLE])
    if split.images is not None:
        images = resize_to(split.images, SIDE, split.crop)
    else:
        images = torch.stack([*_decoded(split.paths or (), data.channels)])
    normalization = pixel_statistics([images], data.channels).normalization
    train = Split(split.labels[: len(images)], images)
    return replace(data, image_size=SIDE, train=train, normalization=normalization)


def _decoded(paths: Sequence[PictureFile], channels: int) -> Iterator[Tensor]:
    """Decode pictures until enough time has passed: large photographs take long."""
    start = time.perf_counter()
    for count, picture in enumerate(decode(paths, channels, SIDE, no_progress)):
        if count >= LEAST_SAMPLE and time.perf_counter() - start > READ_SECONDS:
            return
        yield picture


def _is_correct(
    network: nn.Module, images: Tensor, labels: Tensor, data: ImageData, runtime: Runtime
) -> Tensor:
    """Return whether each image is classified correctly, bool (images,)."""
    with torch.no_grad():
        pixels = data.normalization.normalize(images.to(runtime.device))
        predicted = torch.cat([network(part).argmax(1).cpu() for part in torch.split(pixels, 128)])
    return predicted == labels
