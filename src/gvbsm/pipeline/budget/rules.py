"""The recipe for a user's own pictures: settings from the pictures and from the effort spent.

The preset `own.yaml` has what is the same for all pictures. Here is what depends on them, and what
grows with the effort. docs/own_pictures.md has the measurement behind each rule.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from gvbsm.config import BY_FORGETTING, Config
from gvbsm.config.build import forgetting_training, selection_of
from gvbsm.config.fields import replaced, settings_in
from gvbsm.config.keys import nested

SIDES = {"cpu": (32, 48, 64), "cuda": (64, 96, 128, 224)}  # pixels that are offered on a device
NOTHING: Mapping[str, Any] = {}
SMALL_SIDE = 16  # pixels, up to which views and networks are those of the digits


class DataFacts(NamedTuple):
    """What the rules have to know about the pictures.

    Attributes:
        classes: Number of classes.
        pictures: Number of training pictures.
        side: Side of the pictures in pixels, before they are resized.
        mirror: Whether a mirrored picture still shows its class.
    """

    classes: int
    pictures: int
    side: int
    mirror: bool = True


class Span(NamedTuple):
    """A quantity at the least effort (0) and at the most (1); it grows geometrically between."""

    least: float
    most: float

    def at(self, effort: float) -> float:
        """Return the quantity at an effort from 0 to 1."""
        return float(self.least * (self.most / self.least) ** effort)


TEACHER_PICTURES = Span(10_000, 150_000)  # that a teacher is trained on, with repeats
MATCHED_SHARE = 1 / 2  # of these pictures for the teacher that is matched and does not label
IPC_POWER = 0.8  # the teacher that labels sees ipc ** IPC_POWER times as many pictures
MOST_GROWTH = 10.0  # at the most
MOST_PICTURES = 1_000_000  # that it sees in all, with repeats
LEAST_EPOCHS = 2  # of both teachers
MOST_EPOCHS = Span(8, 100)  # of the teacher that labels, at 1 image per class and at 10 or more
MOST_OF_FEW = Span(16, 100)  # the same, until the teacher has seen ENOUGH_PICTURES
ENOUGH_PICTURES = 24_000  # with repeats, at 1 image per class; they grow with the images as above
MOST_MATCHED = 8  # epochs of the teacher that does not label
ITERATIONS = Span(75, 600)
LABEL_EPOCHS = Span(100, 1000)
LEAST_STEPS = Span(400, 2500)  # of a student: a set of few images gets more epochs
BATCH = 25  # images in a step of a student, as own.yaml has it
BOTH_LABEL = (10, 2500)  # images per class and steps of a student from which both teachers label


def sides(facts: DataFacts, device: str) -> tuple[int, ...]:
    """Return the sides in pixels to which pictures may be resized, in ascending order.

    Args:
        facts: The pictures.
        device: cpu or cuda.
    """
    offered = [side for side in SIDES[device] if side < facts.side]
    largest = max(SIDES[device])
    return (*offered, facts.side) if facts.side <= largest else tuple(offered)


def recipe(
    teachers: tuple[str, ...],
    facts: DataFacts,
    ipc: int,
    side: int,
    effort: float,
    by_batch: bool = True,
    given: Mapping[str, Any] = NOTHING,
) -> dict[str, Any]:
    """Return nested settings, to be laid over those of the preset.

    Args:
        teachers: The two teachers of the preset: one with BatchNorm, and a ConvNet, whose build is
            that of the students. Both are matched. The ConvNet labels, the other from `BOTH_LABEL`
            on.
        facts: The pictures.
        ipc: Images per class.
        side: Side of the images, in pixels.
        effort: From 0, the cheapest run that is worth its time, to 1, the best.
        by_batch: Whether views may be labeled by their training batch. If not, the ConvNet labels
            alone.
        given: Settings that the user has fixed, by dotted name. Read are those of the steps of a
            student, of the teachers and of their epochs, and of how they label.
    """
    matched, convnet = teachers
    convnet += _depth(side)
    growth = min(ipc**IPC_POWER, MOST_GROWTH)
    pictures = TEACHER_PICTURES.at(effort)
    most = _most_epochs(facts, ipc, growth)
    labeling = _within(min(pictures * growth, MOST_PICTURES) / facts.pictures, LEAST_EPOCHS, most)
    matching = MATCHED_SHARE * _within(pictures / facts.pictures, LEAST_EPOCHS, most)
    matching = max(1, round(min(matching, MOST_MATCHED)))
    is_photo = facts.mirror and side > SMALL_SIDE
    least_crop = 0.08 if is_photo else 0.5  # of the area: half a digit is another digit
    epochs = given.get("labels.epochs") or round(LABEL_EPOCHS.at(effort))
    least = 0 if "labels.epochs" in given else round(LEAST_STEPS.at(effort))
    steps, batch = given.get("labels.min_steps", least), given.get("evaluation.batch_size", BATCH)
    steps_taken = max(epochs * math.ceil(ipc * facts.classes / batch), steps)
    own_teachers = "squeeze.backbones" in given
    by_batch = by_batch and not own_teachers and given.get("labels.batchnorm") != "running"
    both_label = by_batch and ipc >= BOTH_LABEL[0] and steps_taken >= BOTH_LABEL[1]
    strong = {"scale": (least_crop, 1.0), "flip": facts.mirror}
    chosen = {
        "data.image_size": side,
        "squeeze.backbones": (matched, convnet),
        "squeeze.epochs": round(labeling),
        "squeeze.settings_of": {} if "squeeze.epochs" in given else {matched: {"epochs": matching}},
        "squeeze.views": {"padding": max(1, side // 8), "flip": facts.mirror},
        "synthesis.iterations": round(ITERATIONS.at(effort)),
        "synthesis.views": strong,
        "labels.backbones": (matched, convnet) if both_label else (convnet,),
        "labels.batchnorm": "batch" if both_label else "running",
        "labels.epochs": epochs,
        "labels.min_steps": steps,
        "labels.views": strong,
        "evaluation.students": (convnet,),
    }
    if own_teachers:  # the preset's are not among them
        del chosen["labels.backbones"]
    return nested(chosen)


def _most_epochs(facts: DataFacts, ipc: int, growth: float) -> float:
    """Return the epochs at which the teacher that labels ends, however much time there is."""
    share = min(math.log10(ipc), 1.0)
    enough = ENOUGH_PICTURES * growth / facts.pictures
    return _within(enough, MOST_EPOCHS.at(share), MOST_OF_FEW.at(share))


def _within(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _depth(side: int) -> str:
    """Return the suffix of a ConvNet's name whose last map has a side of 3 to 5 pixels."""
    depth = max(2, min(6, round(math.log2(side / 4))))
    return "" if depth == 3 else f"_d{depth}"


def scaled(config: Config, effort: float, fixed: Collection[str]) -> Config:
    """Return the settings of a preset for an effort: what is `reducible` is made smaller.

    So are the least steps, which decide the epochs of a small set.

    Args:
        config: The preset's settings, which effort 1 leaves as they are.
        effort: From 0 to 1, where the numbers are a fiftieth and the whole.
        fixed: Dotted names of settings that stay.
    """
    share = Span(1 / 50, 1.0).at(effort)
    changes: dict[str, Any] = {
        name: max(min(value, 1), round(value * share))
        for name, item, value in settings_in(config)
        if item.metadata.get("reducible") or name == "labels.min_steps"
        if name not in {*fixed, "evaluation.seeds"}
    }
    if "squeeze.settings_of" not in fixed:
        table = config.squeeze.settings_of.items()
        changes["squeeze.settings_of"] = {name: _shortened(own, share) for name, own in table}
    return replaced(config, nested(changes))


def _shortened(settings: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return the settings of a single teacher with a share of their epochs, if they have any."""
    epochs = {"epochs": max(1, round(settings["epochs"] * share))} if "epochs" in settings else {}
    return {**settings, **epochs}


def with_forgetting(config: Config) -> Config:
    """Return settings whose training for forgetting has two epochs, where it would have one.

    A selection by forgetting needs them, and a small effort leaves the teachers a single one.
    """
    methods = (config.method, *config.baselines.methods, *config.continual.methods)
    epochs = forgetting_training(config).epochs
    if epochs > 1 or {*BY_FORGETTING}.isdisjoint(map(selection_of, methods)):
        return config
    return replaced(config, {"coreset": {"epochs": 2}})
