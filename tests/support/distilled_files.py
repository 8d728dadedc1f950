"""Write the images and the soft labels of a small distilled set."""

from dataclasses import replace

import torch

from gvbsm.config import LabelStorageConfig
from gvbsm.data.epochs import EpochPlan
from gvbsm.data.mixing import Mixes
from gvbsm.data.views import Views
from gvbsm.files.schema import PACKED
from gvbsm.files.tensors import save
from gvbsm.store.distilled import load_labels, stream_images
from gvbsm.store.label_codec import field
from gvbsm.store.soft_labels import SoftLabels

RECIPE = {"stage": "synthesis", "seed": 0}


def save_images(path, method, recipe, images, labels, data, traces=()):
    """Write a set of images that is in memory; see `stream_images`."""
    batch = torch.arange(len(images)), images
    stream_images(path, method, recipe, labels, [batch], data, traces)


def write_images(directory, ipc=2, classes=2, channels=3):
    count = ipc * classes
    header = {
        "kind": "images",
        "recipe": {**RECIPE, "ipc": ipc},
        "method": "gvbsm",
        "class_names": [f"class {index}" for index in range(classes)],
        "mean": [0.5, 0.25, 0.125][:channels],
        "std": [0.25, 0.5, 1.0][:channels],
    }
    images = torch.arange(count * channels * 4, dtype=torch.uint8).view(count, channels, 2, 2)
    labels = torch.arange(classes).repeat_interleave(ipc)
    path = directory / "synthesis" / "images.safetensors"
    save(path, {"images": images, "labels": labels}, header)
    return path


def write_labels(directory, epochs=5, shard_epochs=2, images=4, classes=2, **entries):
    """A store whose logits and boxes are the number of the epoch; `entries` are others of it."""
    store = SoftLabels(
        directory,
        epochs,
        images,
        classes,
        tuple(range(epochs)),
        LabelStorageConfig(),
        tuple(field(name, 0, max(epochs, images)) for name in PACKED),
        images,
        min(shard_epochs, epochs),
        images,
        RECIPE,
    )
    store = replace(store, **entries)

    def labeled(shard, epoch):
        boxes, rolls = (torch.full((images, numbers), epoch) for numbers in (4, 2))
        flips = torch.full((images,), bool(epoch))
        order = torch.arange(images)
        plan = EpochPlan(order.flip(0), Views(boxes, flips, rolls), Mixes(order, boxes))
        logits = torch.full((shard.stop - shard.start, classes), float(epoch)).half()
        return [plan], [store.encode(logits)]

    store.write_index()
    for shard in store.shards:
        store.write(shard, [labeled(shard, epoch) for epoch in shard.epochs])
    return load_labels(directory)
