"""Data sets in tar shards (WebDataset): an index is read once, pictures are read where they lie.

A sample is the members of one name up to its first dot: a picture (`.jpg`, `.png`, ...) and its
class, as a number in `.cls` or as an entry of `.json`. Only plain members of uncompressed archives
are read, nothing is extracted to the disk, and pickled members are refused.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gvbsm.pictures import DataError, Split
from gvbsm.sources import Raw, Request, hold_out

PICTURES = {"jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif"}
PICKLED = {"pyd", "pkl", "pickle", "pth", "pt"}
LABEL_KEYS = ("label", "cls", "class", "class_id")  # of .json, in this order
MOST_PICTURE_BYTES = 256 * 1024**2
MOST_LABEL_BYTES = 1024**2
_TRAIN, _TEST = r"train(ing)?", r"(val(id|idation)?|test(ing)?|eval)"


@dataclass(frozen=True, order=True, slots=True)
class Member:
    """A picture inside a tar file."""

    shard: str
    name: str
    offset: int
    nbytes: int

    def open(self) -> Image.Image:
        """Read its bytes and open them."""
        with Path(self.shard).open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.nbytes)
        if len(content) < self.nbytes:
            raise OSError(f"{self.shard} has become shorter")
        return Image.open(io.BytesIO(content))

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
    root = request.need_root()
    files = find_shards(root)
    folder = files[0].parent if root.is_file() or not root.is_dir() else root
    sides = [_side(path.relative_to(folder) if root.is_dir() else path) for path in files]
    samples = [list(_samples(path, request)) for path in request.progress(files)]
    found = {
        side: list(
            itertools.chain(*(s for s, of in zip(samples, sides, strict=True) if of == side))
        )
        for side in ("train", "test", None)
    }
    if found[None] and (found["train"] or found["test"]):
        odd = next(path for path, side in zip(files, sides, strict=True) if side is None)
        raise DataError(f"is {odd} for training or for testing? Name it train-* or val-*")
    label_of, names = _classes(itertools.chain(*samples), folder)
    splits = {side: _split(members, label_of) for side, members in found.items() if members}
    if len(splits) == 1:
        return Raw(names, *hold_out(next(iter(splits.values())), names, request), folder)
    return Raw(names, splits["train"], splits["test"], folder)


def expand_braces(pattern: str) -> list[str]:
    """All texts of a pattern: `{a,b}` is each in turn, `{08..11}` counts and keeps the zeros."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if counted:
        first, last = counted.groups()
        numbers = range(int(first), int(last) + 1)
        choices = [str(number).zfill(len(first)) for number in numbers]
    else:
        choices = found[1].split(",")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [text for choice in choices for text in expand_braces(before + choice + after)]


def find_shards(root: Path) -> list[Path]:
    """The tar files of a folder (and of its folders), of a pattern, or the one file, sorted.

    Raises:
        DataError: If there are none, or one that the pattern names is missing.
    """
    if root.is_dir():
        found = sorted(path for path in root.rglob("*.tar") if path.name[0] != ".")
        if not found:
            raise DataError(f"no .tar files in {root}: expected train-*.tar and val-*.tar")
        return found
    found = [Path(text) for text in expand_braces(str(root))]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        raise DataError(f"{len(missing)} shard(s) of {root} are missing, first {missing[:1]}")
    return found


def _side(path: Path) -> str | None:
    """Whether a shard's name says train or test; its folder's name counts where its own is mute."""
    for part in reversed((*path.parent.parts, path.stem)):
        for side, words in (("train", _TRAIN), ("test", _TEST)):
            if re.search(rf"(^|[-_.]){words}([-_.]|\d|$)", part.lower()):
                return side
    return None


Sample = tuple[Member, Any]


def _samples(path: Path, request: Request) -> Iterator[Sample]:
    """Each picture of a shard with its class: a number, or a word that names it."""
    size = path.stat().st_size
    parts: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isdir() or Path(member.name).name.startswith("."):
                    continue
                key, extension = _name(member, path, size)
                if extension in parts.setdefault(key, {}):
                    raise DataError(f"{path} holds {member.name} twice; repair it")
                parts[key][extension] = member
            for key, members in parts.items():
                picture = _picture(key, members, path)
                if picture is not None:
                    place = Member(str(path), picture.name, picture.offset_data, picture.size)
                    yield place, _label(archive, key, members, path, request)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"cannot read {path} as an uncompressed tar file: {error}; repair or unpack it"
        ) from error


def _name(member: tarfile.TarInfo, path: Path, size: int) -> tuple[str, str]:
    """Key and extension of a member that is safe to read."""
    folder, _, file = member.name.rpartition("/")
    base, _, extension = file.partition(".")
    extension = extension.lower()
    last = extension.rpartition(".")[2]
    if last in PICKLED:
        raise DataError(f"{path} holds {member.name}, pickled data, which can run code: remove it")
    if not member.isreg() or member.issparse():
        raise DataError(f"{path} holds {member.name}, which is no plain file: remove it")
    most = MOST_PICTURE_BYTES if last in PICTURES else MOST_LABEL_BYTES
    if (last in PICTURES or last in ("cls", "json")) and member.size > most:
        raise DataError(f"{member.name} in {path} has {member.size} bytes, more than {most}")
    if member.offset_data + member.size > size:
        raise DataError(f"{path} ends within {member.name}: it is cut off, fetch it again")
    return f"{folder}/{base}", extension


def _picture(key: str, members: dict[str, tarfile.TarInfo], path: Path) -> tarfile.TarInfo | None:
    found = [name for name in members if name.rpartition(".")[2] in PICTURES]
    if len(found) > 1:
        raise DataError(f"sample {key} in {path} has several pictures: {found}")
    return members[found[0]] if found else None


def _label(
    archive: tarfile.TarFile,
    key: str,
    members: dict[str, tarfile.TarInfo],
    path: Path,
    request: Request,
) -> Any:
    def read(extension: str) -> str:
        file = archive.extractfile(members[extension])
        assert file is not None  # `_name` lets plain files alone pass
        return file.read().decode("utf-8")

    with suppress(ValueError, RecursionError):  # no UTF-8, no JSON, JSON made to be endless
        if "cls" in members and request.label_column is None:
            text = read("cls").strip()
            return int(text) if re.fullmatch(r"\d{1,9}", text) else text
        if "json" in members:
            content = json.loads(read("json"))
            keys = LABEL_KEYS if request.label_column is None else (request.label_column,)
            for name in keys if isinstance(content, dict) else ():
                value = content.get(name)
                if isinstance(value, (int, str)) and not isinstance(value, bool):
                    return value
    wanted = request.label_column or " or ".join(LABEL_KEYS)
    raise DataError(
        f"sample {key} in {path} has no class: expected a number in .cls, or {wanted} in .json; "
        f"found {sorted(members)} (--data.label_column names the entry of .json)"
    )


def _classes(samples: Iterable[Sample], folder: Path) -> tuple[dict[Any, int], tuple[str, ...]]:
    """Label of each class as the samples tell it, and the classes' names."""
    told = {value for _, value in samples}
    if not told:
        raise DataError(f"no pictures in the shards of {folder} (looked for {sorted(PICTURES)})")
    words = {value for value in told if isinstance(value, str)}
    if words and words != told:
        raise DataError(f"classes of {folder} are numbers and words, such as {sorted(words)[:2]}")
    file = folder / "classes.txt"
    names = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [name.strip() for name in names if name.strip()]
    if words:
        unknown = sorted(words - set(names)) if names else []
        if unknown:
            raise DataError(f"{file} does not name the classes {unknown[:5]}")
        names = names or sorted(words)
        return {name: label for label, name in enumerate(names)}, tuple(names)
    count = max(told) + 1
    if names and len(names) < count:
        raise DataError(f"{file} names {len(names)} classes, but labels go up to {count - 1}")
    names = names or [str(label) for label in range(count)]
    return {label: label for label in told}, tuple(names)


def _split(samples: Sequence[Sample], label_of: dict[Any, int]) -> Split:
    labels = torch.tensor([label_of[value] for _, value in samples], dtype=torch.int64)
    return Split(labels, paths=tuple(member for member, _ in samples))
