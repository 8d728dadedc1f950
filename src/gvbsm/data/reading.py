"""What was read of a data set, what was left out of it, and what was assumed."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gvbsm.data.class_sizes import class_counts
from gvbsm.data.pictures import PictureFile, Split
from gvbsm.engine.progress.spelling import spell_count, spell_range

UNREADABLE = "pictures that cannot be read"
MOST_NAMES = 20  # files that are named for each reason to leave them out; the others are counted


@dataclass
class Findings:
    """Notes of a reader: what it left out, and what it assumed.

    Attributes:
        left_out: Files and folders that are not read, by reason.
        assumed: What the files do not say themselves, a sentence each.
    """

    left_out: dict[str, list[str]] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)

    def leave_out(self, why: str, *names: object) -> None:
        """Note things that are not read."""
        if names:
            self.left_out.setdefault(why, []).extend(readable(str(name)) for name in names)

    def assume(self, sentence: str) -> None:
        """Note an assumption, once."""
        if sentence not in self.assumed:
            self.assumed.append(sentence)


@dataclass(frozen=True)
class Reading:
    """The account of a data set, for the log and for `results.json`.

    Attributes:
        pictures: Number of pictures by split, then by class name.
        formats: Number of pictures by the suffix of their file; arrays have none.
        left_out: Reason -> names of what was not read.
        assumed: A sentence for each assumption.
        value_range: Smallest and largest of the training pixels that were looked at, 0 to 255;
            None where none were.
        held_out: Which share of the pictures the test pictures are; "" for a split of the data's.
    """

    pictures: Mapping[str, Mapping[str, int]]
    formats: Mapping[str, int]
    left_out: Mapping[str, Sequence[str]]
    assumed: Sequence[str]
    value_range: tuple[int, int] | None = None
    held_out: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`."""
        return {
            "pictures": {split: dict(counts) for split, counts in self.pictures.items()},
            "formats": dict(self.formats),
            "left_out": {
                why: {"count": len(names), "first": list(names[:MOST_NAMES])}
                for why, names in self.left_out.items()
            },
            "assumed": list(self.assumed),
            "value_range": self.value_range and list(self.value_range),
            "held_out": self.held_out,
        }

    def lines(self) -> list[str]:
        """Return the lines for the log at the start of a run, without assumptions."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.formats.items()))
        lines = [
            f"{split}: {spell_count(sum(counts.values()), 'picture')} of "
            f"{spell_count(len(counts), 'class')}, "
            f"{spell_range(counts.values())} in each"
            for split, counts in self.pictures.items()
        ]
        lines[0] += f" (files in all: {kinds})" if kinds else ""
        if self.held_out:
            lines[1] += f"; held out: {self.held_out}"
        for why, names in self.left_out.items():
            first = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
            lines.append(f"left out: {why}: {len(names)} ({first})")
        return lines


def account(
    splits: Mapping[str, Split],
    class_names: Sequence[str],
    left_out: Mapping[str, Sequence[str]],
    assumed: Sequence[str],
    value_range: tuple[int, int] | None = None,
    held_out: str = "",
) -> Reading:
    """Put together what was read."""
    pictures = {name: class_counts(split.labels, class_names) for name, split in splits.items()}
    formats = Counter(
        _suffix(path) for split in splits.values() for path in split.paths or () if _suffix(path)
    )
    return Reading(pictures, formats, left_out, assumed, value_range, held_out)


def _suffix(path: PictureFile) -> str:
    name = path.name if isinstance(path, Path) else str(path).partition(" in ")[0]
    return Path(name).suffix.lower().removeprefix(".")


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 become replacement characters.

    So do control characters, which would move a terminal's cursor.

    Accents are brought to their composed form (NFC), since file systems differ in it.
    """
    text = unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))
    return "".join("\ufffd" if unicodedata.category(sign) == "Cc" else sign for sign in text)


def read_lines(path: Path, findings: Findings) -> list[str]:
    """The lines of a text file that names classes: UTF-8, with or without a byte-order mark.

    What is not UTF-8 is read as Latin-1, which is noted.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        findings.assume(f"{path.name} is not UTF-8 and was read as Latin-1")
    return text.splitlines()


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
