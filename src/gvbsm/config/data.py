"""Settings of the real pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gvbsm.config.fields import setting


@dataclass(frozen=True)
class DataConfig:
    """The real pictures.

    Args:
        name: Data set, or form of your own data: `gvbsm list data` shows them. hub/USER/NAME and
            torchvision/NAME name a set of these libraries; memory is for pictures from Python.
        root: Folder, .npz file or pattern of tar files with the data (digits needs none).
        title: Name of the data in the report and in the card of an export; null takes the name of
            the user's own folder or file, or that of the data set.
        image_size: Side in pixels to which pictures are resized; null takes the data set's own.
        test_crop: Share of a test picture's short side that the central crop keeps; 0.875 keeps
            224 of 256 pixels.
        val_fraction: Share of the pictures that is used for testing if the data set has no split.
        split_seed: Seed of that split.
        in_memory: Keep decoded pictures in memory; null decides by their size.
        subset: Configuration of a data set on the Hugging Face Hub.
        image_column: Column of a Hugging Face data set with the pictures; null finds it by type.
        label_column: Column of a Hugging Face data set, or .json entry of webdataset, with the
            labels; null finds it.
        unreadable: Stop at the first picture that cannot be read (stop), or check all before the
            run starts, skip such pictures and list them in the results (skip).
        workers: Processes that decode pictures which are not in memory; 0 decodes in the run's own
            process, null takes the number of CPU cores, divided between the processes of a run.
    """

    name: str = setting("digits", often_changed=True)
    root: str | None = setting(None, changes_results=False, of_a_machine=True, often_changed=True)
    title: str | None = setting(None, changes_results=False)
    image_size: int | None = setting(None, often_changed=True)
    test_crop: float = setting(1.0, limit="(0, 1]")
    val_fraction: float = setting(0.2, limit="(0, 1)", often_changed=True)
    split_seed: int = setting(0, limit="64 bits")
    in_memory: bool | None = setting(None, changes_results=False, of_a_machine=True)
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    unreadable: Literal["stop", "skip"] = "stop"
    workers: int | None = setting(
        None, changes_results=False, of_a_machine=True, limit="not negative"
    )
