"""Small data, settings of a run that takes seconds, and what two work directories share."""

import hashlib
import json
import pickle

import numpy as np
import torch
import yaml
from PIL import Image

from gvbsm.config import ViewConfig
from gvbsm.data.loading import view_batches
from gvbsm.data.pictures import open_image

# Files that hold times.
TIMED = (
    "seconds.json",
    "results.json",
    "continual.json",
    "finished.json",
    "gvbsm.log",
    "index.html",
    "pareto.svg",
)


def pictures(generator, each):
    """uint8 (4 * each, 8, 8, 3) of four classes that differ in where they are bright; labels."""
    images = generator.integers(0, 90, (4 * each, 8, 8, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(4), each)
    for image, label in zip(images, labels, strict=True):
        top, left = divmod(int(label), 2)
        image[4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 120
    return images, labels


def write_arrays(file, train=30, test=10):
    """The data as one .npz."""
    generator = np.random.default_rng(0)
    arrays = dict(
        zip(("train_images", "train_labels"), pictures(generator, train), strict=True)
    ) | dict(zip(("test_images", "test_labels"), pictures(generator, test), strict=True))
    np.savez(file, class_names=np.array(list("abcd")), **arrays)
    return file


def write_files(folder, train=12, test=4):
    """The data as PNG files in class folders."""
    generator = np.random.default_rng(0)
    for split, each in (("train", train), ("val", test)):
        for number, (image, label) in enumerate(zip(*pictures(generator, each), strict=True)):
            path = folder / split / "abcd"[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


def quick_settings(data, **changes):
    """Every stage and selection in about three seconds, with a checkpoint at nearly every step."""
    views = {"scale": [0.6, 1.0], "flip": False}
    return {
        "ipc": 2,
        "checkpoint_seconds": 0.02,
        "threads": 1,
        "device": "cpu",
        "data": data,
        "squeeze": {
            "backbones": ["wrn10_1", "convnet8_d1"],
            "epochs": 3,
            "views": {"crop": "pad", "padding": 1, "flip": False},
            "tests": 2,
        },
        "synthesis": {"iterations": 12, "batch_size": 4, "views": {**views, "roll": 1}},
        "labels": {"epochs": 12, "views": {**views, "cutmix": 1.0}},
        "evaluation": {"students": ["convnet8_d1"], "seeds": 2, "tests": 2},
        "baselines": {
            "methods": [
                "random-hard",
                "random-soft",
                "sre2l",
                "teacher",
                "herding-hard",
                "forgetting-hard",
            ]
        },
        **changes,
    }


def write_preset(file, settings):
    """Settings as a preset's file."""
    file.write_text(yaml.safe_dump(settings))
    return file


def is_kept(path):
    """Whether two runs must agree in a file: no lock, no times."""
    listed = path.name.startswith(".gvbsm-files")  # it lists files that hold times
    return path.is_file() and not listed and path.name not in (*TIMED, ".lock")


def digests(workdir):
    """Hash of every file that holds no times, by its place."""
    return {
        str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(workdir.rglob("*"))
        if is_kept(path)
    }


def rows_without_times(workdir):
    """The rows of `results.json` and, if it is there, of `continual.json`, without times.

    The bytes of labels, which are counted on disk, are left out too: a file that a fault has cut
    counts less, and nothing reads it again.
    """
    files = [workdir / name for name in ("results.json", "continual.json")]
    rows = [row for file in files if file.is_file() for row in json.loads(file.read_text())["rows"]]
    return [{key: row[key] for key in row if key not in ("seconds", "label_bytes")} for row in rows]


def assert_seen_alike(kept, streamed, runtime):
    """Pictures of 8 pixels in memory and where they lie give the same batches.

    Their places can be sent to the workers that open them.
    """
    sent = pickle.dumps(streamed.train.paths)  # as it goes to the workers
    for place in pickle.loads(sent):  # noqa: S301
        assert open_image(place).size == (8, 8)
    views = ViewConfig(crop="none", flip=False)
    batches = torch.arange(len(kept.train)).split(4)
    found = [
        torch.cat([x for x, _ in view_batches(data, views, batches, runtime, ("t",))])
        for data in (kept, streamed)
    ]
    assert torch.allclose(*found)
