"""Data sets in tar shards (WebDataset): headers are read once, pictures when they are needed.

A sample is the members of one name up to its first dot: a picture (`.jpg`, `.png`, ...) and its
class, as a number in `.cls` or as an entry of `.json`. Only plain members of uncompressed archives
are read, nothing is extracted to the disk, and pickled members are refused. Headers are read within
a limit, whatever sizes they claim.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from gvbsm.data.classes import MOST_NAMES_BYTES, Classes, class_name, is_text, number_classes
from gvbsm.data.pictures import SUFFIXES, DataError, Split, open_file
from gvbsm.data.reading import Findings
from gvbsm.data.sources.folders import HIDDEN, read_folder
from gvbsm.data.sources.request import Raw, Request, hold_out

PICTURES = {suffix.removeprefix(".") for suffix in SUFFIXES}
PICKLED = {"pyd", "pkl", "pickle", "pth", "pt"}
LABEL_KEYS = ("label", "cls", "class", "class_id")  # of .json, in this order
MOST_PICTURE_BYTES = 256 * 1024**2
MOST_LABEL_BYTES = 1024**2
MOST_HEADER_BYTES = 1024**2  # that one member's headers may be read at once
MOST_SHARDS = 100_000  # that a pattern may name
MOST_SHOWN = 300  # letters of a pattern in a message
_BRACES = re.compile(r"\{([^{}]*)\}")  # without braces inside
_TRAIN, _TEST = r"train(ing)?", r"(val(id|idation)?|test(ing)?|eval)"


@dataclass(frozen=True, order=True, slots=True)
class Member:
    """A picture inside a tar file."""

    shard: str
    name: str
    offset: int
    nbytes: int

    @property
    def files(self) -> tuple[str]:
        """The shard."""
        return (self.shard,)

    def open(self) -> Image.Image:
        """Read its bytes and open them."""
        with Path(self.shard).open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.nbytes)
        if len(content) < self.nbytes:
            raise OSError(f"{self.shard} has become shorter")
        return open_file(io.BytesIO(content))

    def __str__(self) -> str:
        return f"{self.name} in {self.shard}"


def read_shards(request: Request) -> Raw:
    """Read train-*.tar with val-*.tar (or test-*), or split the shards there are.

    Args:
        request: Its root is a folder of shards, one shard, or a pattern such as
            `DIR/{train,val}-{000..012}.tar`. A file `classes.txt` beside them names the classes,
            a line each.

    Raises:
        DataError: If there are no shards, or a sample is not as it should be.
    """
    root, findings = request.need_root(), Findings()
    files = find_shards(root)
    is_folder = os.path.isdir(root)  # noqa: PTH112
    folder = root if is_folder else files[0].parent
    sides = [_side(path.relative_to(folder) if is_folder else path) for path in files]
    samples = [list(_samples(path, request, findings)) for path in request.progress(files)]
    samples_of = {
        side: list(
            itertools.chain(*(s for s, of in zip(samples, sides, strict=True) if of == side))
        )
        for side in ("train", "test", None)
    }
    if samples_of[None] and (samples_of["train"] or samples_of["test"]):
        unclear = next(path for path, side in zip(files, sides, strict=True) if side is None)
        raise DataError(f"is {unclear} for training or for testing? Name it train-* or val-*")
    classes = _classes(itertools.chain(*samples), folder)
    splits = {side: _split(members, classes) for side, members in samples_of.items() if members}
    if len(splits) == 1:
        raw = hold_out(next(iter(splits.values())), classes.names, request)
    else:
        raw = Raw(classes.names, splits["train"], splits["test"])
    return replace(raw, root=folder, notes=classes.notes, left_out=findings.left_out)


def read_imagenet(request: Request) -> Raw:
    """Read ImageNet's pictures from tar shards if the root is or holds some, or class folders.

    Archives beside class folders, as ImageNet is downloaded in, are no shards.

    Raises:
        DataError: As `read_shards`, or `read_folder`.
    """
    root = request.need_root()
    if not os.path.isdir(root):  # noqa: PTH112 - false where a path is too long
        in_shards = str(root).endswith((".tar", "}"))
    else:
        has_classes = any(path.is_dir() for path in root.glob("*/*"))
        in_shards = not has_classes and any((*root.glob("*.tar"), *root.glob("*/*.tar")))
    return read_shards(request) if in_shards else read_folder(request)


def expand_braces(pattern: str) -> list[str]:
    """All texts of a pattern: `{a,b}` is each in turn, `{08..11}` counts and keeps the zeros.

    Raises:
        DataError: If there are more than `MOST_SHARDS`, or a range counts down.
    """
    texts = [pattern]
    while any(_BRACES.search(text) for text in texts):
        expanded: list[str] = []
        for text in texts:
            expanded += _first_expanded(text, pattern)
            if len(expanded) > MOST_SHARDS:
                raise DataError(f"{pattern} names more than {MOST_SHARDS} shards: name fewer")
        texts = expanded
    return texts


def _first_expanded(text: str, pattern: str) -> list[str]:
    """A text with each choice of its first innermost braces."""
    braces = _BRACES.search(text)
    if braces is None:
        return [text]
    before, after = text[: braces.start()], text[braces.end() :]
    return [before + choice + after for choice in _choices(braces[1], pattern)]


def _choices(braces: str, pattern: str) -> Sequence[str]:
    """The texts that stand in the place of one pair of braces."""
    bounds = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", braces)
    if bounds is None:
        return braces.split(",")
    first, last = int(bounds[1]), int(bounds[2])
    if last < first:
        raise DataError(f"{{{braces}}} in {pattern} counts down: write the smaller number first")
    if last - first >= MOST_SHARDS:
        raise DataError(f"{pattern} names more than {MOST_SHARDS} shards: name fewer")
    return [str(number).zfill(len(bounds[1])) for number in range(first, last + 1)]


def find_shards(root: Path) -> list[Path]:
    """The tar files of a folder (and of its folders), of a pattern, or the one file, sorted.

    Raises:
        DataError: If there are none, or one that the pattern names is missing.
    """
    if os.path.isdir(root):  # noqa: PTH112 - false where a path is too long
        shards = sorted(path for path in root.rglob("*.tar") if path.name[0] != ".")
        if not shards:
            raise DataError(f"no .tar files in {root}: expected train-*.tar and val-*.tar")
        irregular = [path for path in shards if not path.is_file()]
        if irregular:
            raise DataError(
                f"{irregular[0]} is no regular file: expected a tar file, so rename or move it"
            )
        return shards
    shards = [Path(text) for text in expand_braces(str(root))]
    missing = [path for path in shards if not os.path.isfile(path)]  # noqa: PTH113
    if missing:
        kind = "no regular file" if os.path.lexists(missing[0]) else "missing"
        pattern, first = (str(path)[:MOST_SHOWN] for path in (root, missing[0]))
        raise DataError(f"{len(missing)} shard(s) of {pattern} cannot be read: {first} is {kind}")
    return shards


def _side(path: Path) -> str | None:
    """Whether a shard's name says train or test; its folder's name counts where its own is mute."""
    for name in reversed((*path.parent.parts, path.stem)):
        for side, words in (("train", _TRAIN), ("test", _TEST)):
            if re.search(rf"(^|[-_.]){words}([-_.]|\d|$)", name.lower()):
                return side
    return None


Sample = tuple[Member, int | str]


class _Headers(io.BufferedReader):
    """A tar file that is read for its headers, a limited number of bytes at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes.

        Raises:
            tarfile.ReadError: If they are more than a header and a label have.
        """
        if size is None or not 0 <= size <= MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes, more than {MOST_HEADER_BYTES}")
        return super().read(size)


def _samples(path: Path, request: Request, findings: Findings) -> Iterator[Sample]:
    """Each picture of a shard with its class: a number, or a word that names it."""
    size = path.stat().st_size
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with (
            _Headers(path.open("rb", buffering=0)) as file,
            tarfile.open(fileobj=file, mode="r:") as archive,
        ):
            for member in archive:
                if member.isdir():
                    continue
                if Path(member.name).name.startswith("."):
                    findings.leave_out(HIDDEN, f"{member.name} in {path}")
                    continue
                key, extension = _name(member, path, size)
                if extension in samples.setdefault(key, {}):
                    raise DataError(f"{path} holds {member.name} twice; repair it")
                samples[key][extension] = member
            _check_end(file, archive.offset, path)
            for key, members in samples.items():
                picture = _picture(key, members, path)
                if picture is None:
                    name = f"{key.lstrip('/')} in {path}"
                    findings.leave_out("samples without a picture", name)
                    continue
                place = Member(str(path), picture.name, picture.offset_data, picture.size)
                yield place, _label(archive, key, members, path, request)
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise DataError(
            f"cannot read {path} as an uncompressed tar file: {error}; repair or unpack it"
        ) from error


def _check_end(file: _Headers, offset: int, path: Path) -> None:
    """Check that an archive ends where its members do: `tarfile` takes a broken header for the end.

    Raises:
        DataError: If something other than the zeros of an end lies there.
    """
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise DataError(f"{path} is damaged or cut off at byte {offset}: fetch it again")


def _name(member: tarfile.TarInfo, path: Path, size: int) -> tuple[str, str]:
    """Key and extension of a member that is safe to read."""
    folder, _, file = member.name.rpartition("/")
    base, _, extension = file.partition(".")
    extension = extension.lower()
    last = extension.rpartition(".")[2]
    if last in PICKLED:
        raise DataError(f"{path} holds {member.name}, pickled data, which can run code: remove it")
    if not is_text(member.name):  # bytes that are no UTF-8 are surrogates
        raise DataError(
            f"{path} holds {member.name!a}, a name with control characters or no UTF-8: rename it"
        )
    if member.issparse():
        raise DataError(
            f"{path} holds {member.name} as a sparse file: pack it without tar's --sparse"
        )
    if not member.isreg():
        kind = "a link" if member.issym() or member.islnk() else "a pipe or device"
        raise DataError(
            f"{path} holds {member.name}, which is no plain file but {kind}: remove it, or pack "
            "with tar's --dereference and --hard-dereference"
        )
    most = MOST_PICTURE_BYTES if last in PICTURES else MOST_LABEL_BYTES
    if (last in PICTURES or last in ("cls", "json")) and member.size > most:
        raise DataError(f"{member.name} in {path} has {member.size} bytes, more than {most}")
    if member.offset_data + member.size > size:
        raise DataError(f"{path} ends within {member.name}: it is cut off, fetch it again")
    return f"{folder}/{base}", extension


def _picture(key: str, members: dict[str, tarfile.TarInfo], path: Path) -> tarfile.TarInfo | None:
    pictures = [name for name in members if name.rpartition(".")[2] in PICTURES]
    if len(pictures) > 1:
        names = " and ".join(members[name].name for name in pictures[:2])
        raise DataError(
            f"sample {key.lstrip('/')} in {path} has several pictures, {names}: a sample is all "
            "members of one name up to its first dot, and has one picture; rename samples whose "
            "names have dots, and pack masks and other views apart"
        )
    return members[pictures[0]] if pictures else None


def _label(
    archive: tarfile.TarFile,
    key: str,
    members: dict[str, tarfile.TarInfo],
    path: Path,
    request: Request,
) -> int | str:
    def read(extension: str) -> str:
        file = archive.extractfile(members[extension])
        assert file is not None  # `_name` lets plain files alone pass
        return file.read().decode("utf-8-sig")

    with suppress(ValueError, RecursionError):  # no UTF-8, no JSON, JSON made to be endless
        if "cls" in members and request.config.label_column is None:
            text = class_name(read("cls"))
            if text:
                return int(text) if re.fullmatch(r"-?\d{1,18}", text) else text
        if "json" in members:
            content = json.loads(read("json"))
            keys = (
                LABEL_KEYS
                if request.config.label_column is None
                else (request.config.label_column,)
            )
            for name in keys if isinstance(content, dict) else ():
                value = content.get(name)
                if isinstance(value, str) and class_name(value):
                    return class_name(value)
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
    entries = request.config.label_column or " or ".join(LABEL_KEYS)
    dotted = any("." in extension for extension in members)
    raise DataError(
        f"sample {key.lstrip('/')} in {path} has no class: expected a number in .cls, or {entries} "
        f"in .json; found {sorted(members)} (--data.label_column names the entry of .json)"
        + ("; a sample's name ends at its first dot, so rename those with dots" if dotted else "")
    )


def _classes(samples: Iterable[Sample], folder: Path) -> Classes:
    """The classes of all shards, named by `classes.txt` if it is there."""
    values = {value for _, value in samples}
    if not values:
        raise DataError(f"no pictures in the shards of {folder} (looked for {sorted(PICTURES)})")
    file = folder / "classes.txt"
    if not file.is_file():
        return number_classes(values, None, str(folder))
    return number_classes(values, read_names(file), str(file))


def read_names(file: Path) -> list[str]:
    """Class names, a line each.

    Raises:
        DataError: If it is no text in UTF-8, or too large.
    """
    if file.stat().st_size > MOST_NAMES_BYTES:
        raise DataError(f"{file} has more than {MOST_NAMES_BYTES} bytes: expected a name a line")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8: {error}; save it as such") from error
    return [class_name(line) for line in text.rstrip().split("\n")]


def _split(samples: Sequence[Sample], classes: Classes) -> Split:
    labels = torch.tensor([classes.label_of[value] for _, value in samples], dtype=torch.int64)
    return Split(labels, paths=tuple(member for member, _ in samples))
