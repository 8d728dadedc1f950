"""Write the images and the soft labels of a small distilled set."""

import torch

from gvbsm.files.artifacts import save, write_json
from gvbsm.store.distilled import (
    load_labels,
)

RECIPE = {"stage": "synthesis", "seed": 0}


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


def write_labels(directory, epochs=5, shard_epochs=2, images=4, classes=2):
    """A store of the first layout, whose logits and boxes are the number of the epoch."""

    def full(*shape, dtype):
        rows = torch.arange(start, stop).view(-1, *[1] * (len(shape) + 1))
        return rows.expand(-1, images, *shape).to(dtype)

    for number, start in enumerate(range(0, epochs, shard_epochs)):
        stop = min(start + shard_epochs, epochs)
        shard = {
            "logits": full(classes, dtype=torch.float16),
            "boxes": full(4, dtype=torch.int16),
            "mix_boxes": full(4, dtype=torch.int16),
            "rolls": full(2, dtype=torch.int16),
            "flips": full(dtype=torch.bool),
            "order": torch.arange(images, dtype=torch.int32).flip(0).expand(stop - start, -1),
            "partners": torch.arange(images, dtype=torch.int32).expand(stop - start, -1),
        }
        header = {"kind": "labels", "recipe": RECIPE, "epochs": [start, stop]}
        save(directory / f"shard-{number:05d}.safetensors", shard, header)
    numbers = {"epochs": epochs, "shard_epochs": shard_epochs, "images": images}
    write_json(directory / "index.json", {"recipe": RECIPE, **numbers, "classes": classes})
    return load_labels(directory)
