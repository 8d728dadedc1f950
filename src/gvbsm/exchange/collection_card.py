"""The READMEs of a collection: the index of all sets, and the card of the teachers of a set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gvbsm._version import __version__
from gvbsm.config.keys import command_of, path_settings, value_at
from gvbsm.config.provenance import Origin
from gvbsm.exchange.card import PAPER, filled, hub_head, terms_of, title_of
from gvbsm.exchange.load import TABLE, SetDescription


@dataclass(frozen=True)
class CollectedTeacher:
    """A teacher of a collection.

    Attributes:
        place: Its file, relative to the collection.
        header: The header of its file.
        nbytes: Size of its file.
    """

    place: str
    header: Mapping[str, Any]
    nbytes: int

    @property
    def file(self) -> str:
        """Name of its file."""
        return PurePosixPath(self.place).name


@dataclass(frozen=True)
class CollectedSet:
    """A set of a collection.

    Attributes:
        name: Its folder.
        facts: Its description (`gvbsm.json`), with its texts escaped for Markdown (`quoted`).
        image_bytes: Size of its table of images and hard labels.
        label_bytes: Size of its soft labels; 0 without them.
        teachers: Its teachers.
        origin: The preset of its run, and what was changed.
        config: All settings of its run, with the paths of the machine.
    """

    name: str
    facts: SetDescription
    image_bytes: int
    label_bytes: int
    teachers: Sequence[CollectedTeacher]
    origin: Origin
    config: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Name of its data."""
        return title_of(self.facts)

    @property
    def terms(self) -> str:
        """What is known of the terms of its source pictures."""
        return terms_of(self.facts, "the images are derived from")

    @property
    def command(self) -> str:
        """The command that makes it again from its settings."""
        return command_of(self.config, f"{self.name}/settings.yaml", f"runs/{self.name}")

    @property
    def changes(self) -> str:
        """The settings that differ from the preset, each after a comma."""
        keys = (key for key in self.origin.changed if key not in path_settings())
        return "".join(f", {key} {json.dumps(value_at(self.config, key))}" for key in keys)

    def row(self, student: str, *methods: str) -> Mapping[str, Any] | None:
        """The accuracy of a network with the first of these methods that it was measured with."""
        rows = {row["method"]: row for row in self.facts["results"] if row["student"] == student}
        return next((rows[method] for method in methods if method in rows), None)


def index_card(sets: Sequence[CollectedSet]) -> str:
    """Write the README of a collection, with the header that the Hub reads."""
    count = sum(item.facts["images"] for item in sets)
    tables = {item.name: str(PurePosixPath(item.name, TABLE)) for item in sets}
    head = hub_head(count, tables)
    return filled("collection_card.md", head=head, sets=sets, gvbsm=__version__, paper=PAPER)


def teacher_card(teachers: Sequence[CollectedTeacher], facts: SetDescription) -> str:
    """Write the README of a folder of teachers.

    Args:
        teachers: The teachers of the folder, at least one.
        facts: The description of a set that was made with them, as in `CollectedSet`.
    """
    return filled(
        "teacher_card.md",
        teachers=teachers,
        facts=facts,
        title=title_of(facts),
        terms=terms_of(facts, "the networks were trained on"),
        gvbsm=__version__,
    )
