"""Pictures that Python code passes: arrays, tensors, lists, and Datasets of (image, label).

Shapes: N pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gvbsm.data.classes import class_name, labels_of, number_classes
from gvbsm.data.pictures import GRAY_MODES, REPAIR, DataError, Split, read_image, resize_to
from gvbsm.data.sources.arrays import array_split, channels_last, to_uint8
from gvbsm.data.sources.hub_columns import USUAL_LABELS, USUAL_PICTURES
from gvbsm.data.sources.request import Raw, Request, hold_out
from gvbsm.engine.progress.spelling import with_article

READ_TWICE = 16  # pictures of a Dataset, to find out whether they change at random
MOST_SIDE = 224  # pixels to which pictures of several larger sizes are resized
FORMS = (
    "(X, y), (X, y, X_test, y_test), a Dataset or list of (image, label), or "
    "{'train': ..., 'test': ...} of these"
)


@dataclass(frozen=True)
class InMemory:
    """Pictures as they were passed, of one kind: (X, y) pairs or Datasets.

    Attributes:
        train: Training pictures.
        test: Test pictures; None holds out a share of each class.
    """

    train: Any
    test: Any = None

    @classmethod
    def of(cls, pictures: Any) -> InMemory:
        """Sort what was passed into training and test pictures.

        Raises:
            DataError: If it has none of `FORMS`.
        """
        if isinstance(pictures, Mapping) and {"train"} <= {*pictures} <= {"train", "test"}:
            return cls(_side(pictures["train"]), _side(pictures.get("test")))
        if _is_arrays(pictures, 4):
            return cls(_side(pictures[:2]), _side(pictures[2:]))
        return cls(_side(pictures))


def read_memory(given: InMemory, request: Request) -> Raw:
    """Bring the pictures to uint8 (N, C, H, W), and number their classes.

    Pictures of several sizes are resized to `data.image_size`, or to their median short side.

    Args:
        given: The pictures.
        request: Size, and the share that is held out where there are no test pictures.

    Raises:
        DataError: If they are of another kind.
    """
    sides = {"train": given.train, "test": given.test}
    pairs = {side: value for side, value in sides.items() if value is not None}
    names = _names(given.train)
    if all(isinstance(value, tuple) and _is_array(value[0]) for value in pairs.values()):
        images, values, notes = _arrays(pairs)
    else:
        items = {side: _items(value, side) for side, value in pairs.items()}
        images, values, notes = _stacked(items, request)
    classes = number_classes(values["train"], names, "train")
    notes += classes.notes
    splits = {
        side: Split(torch.tensor(labels_of(values[side], classes, side)), images[side])
        for side in pairs
    }
    if "test" not in splits:
        raw = hold_out(splits["train"], classes.names, request)
        return Raw(classes.names, raw.train, raw.test, notes=notes, held_out=raw.held_out)
    return Raw(classes.names, splits["train"], splits["test"], notes=notes)


def refuse(_request: Request) -> Raw:
    """Stand in for a reader where no pictures were passed.

    Raises:
        DataError: Always.
    """
    raise DataError(f"the pictures came from Python code: pass them as gvbsm.run(data={FORMS})")


def _side(value: Any) -> Any:
    """An (X, y) pair as a tuple, a Dataset or a list of (image, label) as it is."""
    if value is None:
        return None
    if _is_arrays(value, 2):
        return tuple(value)
    is_other = _is_array(value) or isinstance(value, tuple | Mapping | str)
    if is_other or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        raise DataError(f"data is {with_article(type(value).__name__)}: expected {FORMS}")
    return value


def _is_array(value: Any) -> bool:
    """Whether this is an array or a tensor; a table of Hugging Face has a shape, too."""
    return hasattr(value, "shape") and not hasattr(value, "features")


def _is_arrays(value: Any, count: int) -> bool:
    """Whether these are pictures and labels in turn: arrays, tensors or lists, `count` in all."""
    is_row = isinstance(value, tuple | list) and len(value) == count
    return is_row and (_is_array(value[0]) or isinstance(value[0], list))


def _names(train: Any) -> tuple[str, ...] | None:
    """Names of the classes, if a Dataset, or the one that it is a part of, has them."""
    while train is not None and not isinstance(train, tuple):
        classes, features = getattr(train, "classes", None), getattr(train, "features", None)
        if isinstance(features, Mapping):  # of a table of Hugging Face
            kinds = (features[column] for column in USUAL_LABELS if column in features)
            classes = getattr(next(kinds, None), "names", None)
        if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
            return tuple(map(class_name, classes))
        train = getattr(train, "dataset", None)
    return None


_Sides = tuple[dict[str, Tensor], dict[str, list[int | str]], tuple[str, ...]]


def _arrays(pairs: Mapping[str, tuple[Any, Any]]) -> _Sides:
    """Images of each side, its labels, and notes of what was assumed."""
    arrays: dict[str, NDArray[Any]] = {}
    values: dict[str, list[int | str]] = {}
    notes: list[str] = []
    for side, (images, labels) in pairs.items():
        name = f"X of {side}"
        arrays[side], assumed = channels_last(_array(images), name)
        if arrays[side].ndim not in (3, 4) or not arrays[side].size:
            raise DataError(f"{name} must be [N,H,W], [N,H,W,C] or [N,C,H,W], found {images.shape}")
        notes += assumed
        values[side] = _labels(_array(labels), len(images), side)
    notes += to_uint8(arrays, list(pairs), Path("data"))
    numbers = {side: np.zeros(len(arrays[side]), dtype=np.int64) for side in pairs}
    splits = {side: array_split(arrays[side], numbers[side], side) for side in pairs}
    return {side: _pixels(split) for side, split in splits.items()}, values, tuple(notes)


def _pixels(split: Split) -> Tensor:
    assert split.images is not None
    return split.images


def _array(values: Any) -> NDArray[Any]:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    array: NDArray[Any] = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return array


def _labels(labels: NDArray[Any], count: int, side: str) -> list[int | str]:
    if labels.dtype.kind not in "iuUSO" or labels.size != max(labels.shape, default=0):
        raise DataError(
            f"y of {side} must be integers or words [N], found {labels.dtype} {labels.shape}"
        )
    if labels.size != count:
        raise DataError(f"{side} has {count} images but {labels.size} labels")
    return [_label(value, side) for value in labels.reshape(-1).tolist()]


def _label(value: Any, where: str) -> int | str:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    with suppress(UnicodeDecodeError):
        if isinstance(value, int | str | bytes) and not isinstance(value, bool):
            return value if isinstance(value, int) else class_name(value)
    raise DataError(f"a label of {where} is {value!r:.60}: expected an integer or a word")


@dataclass(frozen=True, order=True)
class _InMemoryPicture:
    """A picture of Pillow, as a source of pictures has them."""

    where: str
    image: Image.Image = field(compare=False)
    nbytes: int = 0

    def open(self) -> Image.Image:
        return self.image.copy()  # the reader closes it

    def __str__(self) -> str:
        return self.where


def _items(dataset: Any, side: str) -> Iterator[tuple[Tensor, int | str]]:
    """Each picture, uint8 (C, H, W), and its label."""
    where = f"data of {side}"
    if isinstance(dataset, tuple):
        images, labels = dataset
        dataset = list(zip(images, _labels(_array(labels), len(images), side), strict=True))
    for index in range(len(dataset)):
        picture, label = _item(dataset, index, where)
        if index < READ_TWICE and not torch.equal(picture, _item(dataset, index, where)[0]):
            raise DataError(
                f"picture {index} of {where} is another one each time that it is read: leave out "
                "random changes"
            )
        yield picture, label


def _item(dataset: Any, index: int, where: str) -> tuple[Tensor, int | str]:
    """A picture of a Dataset, and its label."""
    name, item = f"picture {index} of {where}", dataset[index]
    item = _pair(item, name) if isinstance(item, Mapping) else item
    if not isinstance(item, Sequence) or len(item) < 2:
        raise DataError(f"{name} is {with_article(type(item).__name__)}: expected (image, label)")
    return _picture(item[0], name), _label(item[1], where)


def _pair(item: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """The image and the label of a row of a table, as Hugging Face has them."""
    image = next((key for key in USUAL_PICTURES if key in item), "")
    label = next((key for key in USUAL_LABELS if key in item), "")
    if not image or not label:
        raise DataError(
            f"{name} has the entries {', '.join(map(str, item))}: expected "
            f"{' or '.join(USUAL_PICTURES)}, and {' or '.join(USUAL_LABELS)}"
        )
    return item[image], item[label]


def _picture(image: Any, name: str) -> Tensor:
    """One picture as uint8 (C, H, W), C 1 or 3."""
    if isinstance(image, Image.Image):
        channels = 1 if image.mode in GRAY_MODES else 3
        return read_image(_InMemoryPicture(name, image), channels, REPAIR)
    try:
        pixels = _array(image)
    except (TypeError, ValueError):  # such as lists of several lengths
        pixels = np.empty(0, dtype=object)
    if pixels.dtype.kind not in "biuf":
        raise DataError(
            f"{name} is {with_article(type(image).__name__)}: expected a picture of Pillow, an "
            "array or a tensor of real numbers"
        )
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    last = pixels.ndim == 3 and pixels.shape[0] not in (1, 3)
    pixels = pixels.transpose(2, 0, 1) if last else pixels
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or not pixels.size:
        raise DataError(
            f"{name} has the shape {tuple(np.shape(image))}: expected (C,H,W), (H,W,C) or (H,W), "
            "with 1 or 3 channels"
        )
    if pixels.dtype == np.uint8:
        return torch.from_numpy(pixels.copy())
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise DataError(
            f"{name} is {pixels.dtype} from {low:.6g} to {high:.6g}: expected uint8, or floats "
            "from 0 to 1; if it is normalized, leave that out"
        )
    return torch.from_numpy(np.rint(pixels.astype(np.float64) * 255).astype(np.uint8))


def _stacked(sides: Mapping[str, Iterator[tuple[Tensor, int | str]]], request: Request) -> _Sides:
    """Images of each side, of one size and number of channels; their labels; no notes."""
    pictures: dict[str, list[Tensor]] = {}
    values: dict[str, list[int | str]] = {}
    for side, items in sides.items():
        pairs = list(request.progress(items))
        if not pairs:
            raise DataError(f"data of {side} holds no pictures")
        pictures[side] = [picture for picture, _ in pairs]
        values[side] = [label for _, label in pairs]
    everything = [picture for side in pictures.values() for picture in side]
    channels = max(len(picture) for picture in everything)
    sizes = {tuple(picture.shape[1:]) for picture in everything}
    side_length = None
    if len(sizes) > 1:
        usual = min(median_low(min(picture.shape[1:]) for picture in everything), MOST_SIDE)
        side_length = request.config.image_size or usual
    crops = {"train": 1.0, "test": request.config.test_crop}  # which is applied later
    images = {
        side: torch.stack(
            [
                picture.expand(channels, -1, -1)
                if side_length is None
                else resize_to(picture, round(side_length / crops[side])).expand(channels, -1, -1)
                for picture in pictures[side]
            ]
        )
        for side in pictures
    }
    return images, values, ()
