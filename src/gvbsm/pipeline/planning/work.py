"""What is timed before a run: one kind of work, of one network or of none, on batches of one size.

This module needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

from gvbsm.engine.forms import Kind

Task = Literal[
    "training",
    "pixels",
    "labeling",
    "testing",
    "recording",
    "real views",
    "test pictures",
    "set batches",
    "label store",
    "corrupting",
]


class Work(NamedTuple):
    """A kind of work on the pictures of a run.

    Attributes:
        task: What is done with each picture. By a network: `training` (a step with its optimizer),
            `pixels` (an iteration of synthesis), `labeling`, `testing`, `recording` (statistics).
            Without: `real views` (augmented training pictures), `test pictures`, `set batches`
            (augmented images of a set with their soft labels, read from the store), `label store`
            (views that are labeled, and the writing of their labels), `corrupting` (corrupted
            copies, on the average over severities).
        network: The network; empty where none is called.
        batch: Pictures in a batch.
        side: Height and width of the pictures, in pixels.
        settings: Settings that change the time, as pairs of a name and a value.
    """

    task: Task
    network: str
    batch: int
    side: int
    settings: tuple[tuple[str, object], ...] = ()


KINDS: dict[Task, Kind] = {
    "training": "training",
    "testing": "training",
    "pixels": "pixels",
    "recording": "pixels",
    "labeling": "inference",
}
"""Task of a network -> the kind of work whose form the network has in it (`engine.forms`)."""


class Cost(NamedTuple):
    """What a kind of work costs in one process.

    Attributes:
        seconds: Time a picture.
        nbytes: The most memory that it takes, with its network; None if that is not known.
    """

    seconds: float
    nbytes: int | None = None


Costs = Callable[[Work], float]
"""costs(work): seconds a picture, in one process."""

Memory = Callable[[Collection[Work]], int | None]
"""memory(works): the most bytes of a process that does these works, or of the report without any;
None if they are not known."""
