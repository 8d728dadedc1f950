"""Settings of the real pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gvbsm.config.fields import setting


@dataclass(frozen=True)
class DataConfig:
    """The real pictures.

    Args:
        name: digits, cifar10, cifar100, tiny-imagenet, imagenet-1k, folder, npz, webdataset, hub,
            hub/USER/NAME or torchvision/NAME.
        root: Folder, .npz file or pattern of tar files that holds them (digits needs none).
        image_size: Side in pixels to which pictures are brought; none takes the data set's own.
        test_crop: Share of a test picture's short side that the square in its middle covers, which
            is all that is seen; 0.875 is 224 of 256 pixels. Of all other pictures it is 1.
        val_fraction: Share held out for testing where the data set has no split of its own.
        split_seed: Seed of that split.
        in_memory: Hold decoded pictures in memory; none decides by size.
        subset: Configuration of a set of the Hugging Face Hub.
        image_column: Column of a Hugging Face set with the pictures; none finds it by its type.
        label_column: Likewise with the labels; of webdataset, the entry of .json.
        unreadable: Of pictures that cannot be read: stop at the first one, or look at all of them
            before any work and skip these, which are then listed in the results.
        workers: Processes that decode pictures which are not held in memory: 0 is the run's own,
            none takes as many as there are cores, of which processes on one machine share.
    """

    name: str = "digits"
    root: str | None = setting(None, changes_results=False, of_a_machine=True)
    image_size: int | None = None
    test_crop: float = setting(1.0, limit="(0, 1]")
    val_fraction: float = setting(0.2, limit="(0, 1)")
    split_seed: int = setting(0, limit="64 bits")
    in_memory: bool | None = setting(None, changes_results=False, of_a_machine=True)
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    unreadable: Literal["stop", "skip"] = "stop"
    workers: int | None = setting(
        None, changes_results=False, of_a_machine=True, limit="not negative"
    )
