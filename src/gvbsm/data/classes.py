"""Number the classes of a set: from the numbers and words of its files to labels 0 to n - 1.

Classes keep their identity: words are matched by name, numbers by value, whatever their order.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gvbsm.data.pictures import DataError

MOST_CLASSES = 100_000
MOST_NAME = 255  # characters of a class's name
MOST_NAMES_BYTES = 64 * 1024**2  # of a list of class names


@dataclass(frozen=True)
class Classes:
    """The classes of a set.

    Attributes:
        names: Name of each label.
        label_of: Label of each class number or word of the files.
        notes: What was assumed, a line each.
    """

    names: tuple[str, ...]
    label_of: Mapping[int | str, int]
    notes: tuple[str, ...] = ()


def number_classes(values: Iterable[int | str], names: Sequence[str] | None, where: str) -> Classes:
    """Number classes that files give as numbers or as words.

    Args:
        values: Class numbers, or words, of the training pictures; repetitions do not matter.
        names: Name of each class, if there is a list of them. Numbers are places in it.
        where: The file or folder, for messages.

    Returns:
        The classes: with `names` in their order, else in ascending order. Numbers that are not 0
        to n - 1 and have no names are taken as identifiers.

    Raises:
        DataError: If numbers and words are mixed, a number is negative, a class is not in `names`,
            or there are too many classes.
    """
    distinct = set(values)
    words = {value for value in distinct if isinstance(value, str)}
    numbers = {value for value in distinct if not isinstance(value, str)}
    if words and numbers:
        raise DataError(
            f"classes of {where} are numbers and words, such as {min(numbers)} and {min(words)!r}: "
            "write one kind"
        )
    if numbers and min(numbers) < 0:
        raise DataError(
            f"a class of {where} has the number {min(numbers)}: classes count from 0; remove the "
            "pictures without a class"
        )
    if len(distinct) > MOST_CLASSES:
        raise DataError(
            f"labels of {where} have {len(distinct)} different values, more than {MOST_CLASSES} "
            "classes: is it a number of the picture in the place of its class?"
        )
    if names is not None:
        return _named(words or numbers, names, where)
    ordered: Sequence[int | str] = sorted(words) if words else sorted(numbers)
    label_of = {value: label for label, value in enumerate(ordered)}
    texts = tuple(str(value) for value in ordered)
    check_names(texts, where)
    if words or ordered == list(range(len(ordered))):
        return Classes(texts, label_of)
    shown = ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")
    note = (
        f"the class numbers of {where} are not 0 to {len(ordered) - 1}: its {len(ordered)} "
        f"different numbers are taken as names of classes, in ascending order ({shown})"
    )
    return Classes(texts, label_of, (note,))


def _named(values: set[str] | set[int], names: Sequence[str], where: str) -> Classes:
    """Classes by a list of names."""
    check_names(names, where)
    by_word: dict[int | str, int] = {name: label for label, name in enumerate(names)}
    by_number: dict[int | str, int] = {label: label for label in range(len(names))}
    label_of = by_word if any(isinstance(value, str) for value in values) else by_number
    unknown = sorted(value for value in values if value not in label_of)
    if unknown:
        raise DataError(
            f"{where} names {len(names)} classes, but not the class {unknown[0]!r} of a picture"
            + ("" if label_of is by_word else f": expected numbers from 0 to {len(names) - 1}")
        )
    return Classes(tuple(names), label_of)


def check_names(names: Sequence[str], where: str) -> None:
    """Check that each class has a name of its own that can be printed and written.

    Raises:
        DataError: If a name is empty, given twice, too long, or has control characters.
    """
    previous: set[str] = set()
    for name in names:
        if len(name) > MOST_NAME:
            raise DataError(
                f"{where} has the class {name[:20]!r}... of {len(name)} characters, more than "
                f"{MOST_NAME}: shorten it"
            )
        if not is_text(name):
            raise DataError(f"{where} has the class {name!a}, with control characters: rename it")
        if name in previous or not name:
            fault = f"names the class {name!r} twice" if name else "has a class without a name"
            raise DataError(f"{where} {fault}: give each class another name")
        previous.add(name)


def is_text(name: str) -> bool:
    """Whether a name has no control characters, and none that UTF-8 cannot write."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def class_name(raw: str | bytes) -> str:
    """A class name as text: UTF-8 decoded, without byte-order mark and spaces around, in NFC.

    Raises:
        UnicodeDecodeError: If bytes are no UTF-8.
    """
    text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8") if isinstance(raw, bytes) else raw
    return unicodedata.normalize("NFC", text.removeprefix("\ufeff").strip())


def labels_of(values: Iterable[int | str], classes: Classes, where: str) -> list[int]:
    """Label of each value.

    Raises:
        DataError: If a class has no training pictures, and so no label.
    """
    values = list(values)
    unknown = sorted({str(value) for value in values if value not in classes.label_of})
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise DataError(
            f"{where} has pictures of classes that no training picture has: "
            f"{', '.join(unknown[:3])}{more}; known are {', '.join(classes.names[:3])}, ..."
        )
    return [classes.label_of[value] for value in values]


def renumbered(labels: Tensor, names: Sequence[str], order: Sequence[str]) -> Tensor | None:
    """Number labels by another order of the same classes.

    Args:
        labels: Labels by `names`, int64 (n,).
        names: Name of each class.
        order: The names in the other order.

    Returns:
        int64 (n,); None if the names are not the same.
    """
    if sorted(names) != sorted(order):
        return None
    places = {name: place for place, name in enumerate(order)}
    return torch.tensor([places[name] for name in names])[labels]


def matched_by_place(labels: Tensor, names: Sequence[str], order: Sequence[str]) -> Tensor:
    """Number labels by as many classes of other names, whose order is assumed to agree.

    Words are in the order in which they are listed. Numbers are in ascending order, since folders
    may list 10 before 2.

    Args:
        labels: Labels by `names`, int64 (n,).
        names: Name of each class.
        order: The other names.

    Returns:
        int64 (n,).
    """
    places = torch.empty(len(names), dtype=torch.int64)
    places[_ascending(names)] = torch.tensor(_ascending(order))
    return places[labels]


def _ascending(names: Sequence[str]) -> list[int]:
    """Labels of the classes in ascending order of their names, if these are numbers."""
    listed = list(range(len(names)))
    if not all(name.isdecimal() for name in names):
        return listed
    return sorted(listed, key=lambda label: int(names[label]))
