"""What a hostile case is: an input, a command that reads it, and what the command may do."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where a case lives.

    Attributes:
        folder: The current folder of its command, with a file of the user's.
        samples: Sound inputs to begin with, shared by all cases and never changed: see `samples`.
        chance: The case's own, from the seed and its name.
    """

    folder: Path
    samples: Path
    chance: random.Random


@dataclass(frozen=True)
class Command:
    """A command and what it may do: be refused, be done, or either.

    Attributes:
        arguments: Of gvbsm, which a fork of the warm server runs.
        script: Instead: of a shell, in which $PYTHON is Python.
        refused: Words that the lines of a refusal must hold; None if it must not be refused.
        check: What must hold once it is done; None if it must not be done.
        codes: Exit codes of a refusal.
        done: Exit codes of a command that is done.
        outputs: Names in the current folder that a command which is done may make.
        home: Names in the home folder likewise, beside the cache.
        environment: Variables that differ.
    """

    arguments: tuple[str, ...] = ()
    script: str | None = None
    refused: tuple[str, ...] | None = None
    check: Callable[[], object] | None = None
    codes: tuple[int, ...] = (2,)
    done: tuple[int, ...] = (0,)
    outputs: tuple[str, ...] = ()
    home: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A case by name, `family/what`; `make` writes the input and returns the command."""

    name: str
    make: Callable[[Place], Command]

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]


def squeeze(place, name, root, *options, **rules):
    """The command that reads data and trains a small teacher on them."""
    arguments = (
        "squeeze",
        str(place.samples / "teacher.yaml"),
        "--data.name",
        name,
        "--data.root",
        str(root),
        "--workdir",
        "work",
        "--quiet",
        *options,
    )
    return Command(arguments, outputs=("work",), **rules)


def read_data(name, root, **options):
    """The data that `squeeze` read."""
    from gvbsm.data.datasets import load_dataset

    return load_dataset(name, Path(root), **options)


def export(source, **rules):
    """The command that reads a distilled set and writes its pictures into class folders."""
    arguments = ("export", str(source), "--to", "folder", "--out", "out", "--quiet")
    return Command(arguments, outputs=("out",), **rules)


def same_pictures(place):
    """A check that `export` wrote the pictures of the sample set, class by class."""

    def check():
        expected = sorted((place.samples / "folder").rglob("*.png"))
        made = sorted((place.folder / "out").rglob("*.png"))
        names = [str(path.relative_to(place.samples / "folder")) for path in expected]
        assert [str(path.relative_to(place.folder / "out")) for path in made] == names
        for one, other in zip(expected, made, strict=True):
            assert one.read_bytes() == other.read_bytes(), other

    return check
