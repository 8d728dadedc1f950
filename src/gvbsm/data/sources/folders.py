"""Pictures in class folders: train/ and val/ as they come, or one folder that is split.

What is read and what is not is described in docs/data.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from gvbsm.data.pictures import SUFFIXES, DataError, Split
from gvbsm.data.reading import Findings, read_lines, readable, repeated
from gvbsm.data.sources.request import Raw, Request, hold_out
from gvbsm.files.manifest import is_claimed

TRAIN = ("train", "training", "train_set", "trainset")
VALIDATION = ("val", "valid", "validation", "validate", "dev")
TEST = ("test", "testing", "tests", "test_set", "testset", "eval", "evaluation")

# Folders and files that file servers, systems and editors put beside pictures.
_STRAY_FOLDERS = {
    "@eadir",
    "__macosx",
    "#recycle",
    "$recycle.bin",
    "lost+found",
    "system volume information",
    "thumbnails",
    "thumbs",
}
_STRAY_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}

HIDDEN = "hidden files and folders"
_STRAY = "files and folders of file servers or systems"
_WORKDIRS = "work directories of gvbsm"


def read_folder(request: Request, may_split: bool = False) -> Raw:
    """Read train/ with val/ (or else test/), or split one folder of class folders.

    Raises:
        DataError: If the folders do not hold the same classes, or no pictures.
    """
    root, findings = request.need_root(), Findings()
    train, held_out = _sides(root, findings)
    # "train" may also be a class, of locomotives: then it holds pictures and no val/ is beside it
    has_classes = train is not None and any(entry.is_dir() for entry in train.iterdir())
    if may_split and held_out is None and not has_classes:
        pictures = scan(root, findings)
        raw = hold_out(path_split(pictures), tuple(pictures), request)
        return replace(raw, notes=tuple(findings.assumed), left_out=findings.left_out)
    if held_out is None or train is None:
        hint = f"; to split one folder, pass {train} itself" if may_split and train else ""
        if may_split and (single := train or held_out) is not None:
            hint += (
                f"; if {single.name}/ is a class, rename it, since folders of that name are splits"
            )
        raise DataError(f"expected train/ and val/ (or test/) with class folders in {root}{hint}")
    train_pictures, test_pictures = scan(train, findings), scan(held_out, findings)
    only_train = sorted(train_pictures.keys() - test_pictures.keys())
    only_test = sorted(test_pictures.keys() - train_pictures.keys())
    if only_train or only_test:
        raise DataError(
            f"{train.name}/ and {held_out.name}/ of {root} must hold the same classes; only in "
            f"{train.name}: {only_train[:5]}, only in {held_out.name}: {only_test[:5]}"
        )
    names = tuple(train_pictures)
    matched = {name: test_pictures[name] for name in names}
    return _raw(names, path_split(train_pictures), path_split(matched), findings)


def _raw(names: tuple[str, ...], train: Split, test: Split, findings: Findings) -> Raw:
    return Raw(names, train, test, notes=tuple(findings.assumed), left_out=findings.left_out)


def _sides(root: Path, findings: Findings) -> tuple[Path | None, Path | None]:
    """The folders of training and of test pictures, whatever the case of their names."""
    if not root.is_dir():
        raise DataError(f"expected a folder of class folders, but {root} is a file")
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
    train, validation, test = (
        [folder for folder in folders if folder.name.lower() in words]
        for words in (TRAIN, VALIDATION, TEST)
    )
    for side in (train, validation, test):
        if len(side) > 1:
            several = " and ".join(f"{folder.name}/" for folder in side)
            raise DataError(f"{root} holds {several}: rename or move all but one of them")
    if train and validation and test:
        findings.leave_out(f"folder beside {validation[0].name}/, which judges", test[0].name)
    held_out = [*validation, *test]
    if train and held_out:
        sides = {train[0], *held_out}
        others = [folder.name for folder in folders if folder not in sides]
        findings.leave_out(f"folders beside {train[0].name}/ and {held_out[0].name}/", *others)
    return next(iter(train), None), next(iter(held_out), None)


def scan(folder: Path, findings: Findings) -> dict[str, list[Path]]:
    """Class name -> its pictures, both sorted by name.

    Pictures in folders within a class folder are of that class. A folder that is met twice, by
    links, is read once.

    Raises:
        DataError: If there are no class folders, two of one name, or one without pictures.
    """
    if not folder.is_dir():
        raise DataError(f"expected a folder of class folders, but {folder} is a file")
    classes: list[Path] = []
    loose: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if _is_passed_over(entry, findings):
            continue
        (classes if entry.is_dir() else loose).append(entry)
    if not classes:
        raise DataError(f"no class folders in {folder}: expected one folder for each class")
    findings.leave_out("files beside class folders", *loose)
    names = [readable(entry.name) for entry in classes]
    if twins := repeated(names):
        raise DataError(
            f"{folder} has several folders that read {twins[0]!r} (names that differ in how "
            "accents are written, or are not UTF-8); rename one"
        )
    met = {_identity(folder)}
    return {
        name: _pictures_of(entry, met, findings)
        for name, entry in sorted(zip(names, classes, strict=True))
    }


def _pictures_of(entry: Path, met: set[tuple[int, int]], findings: Findings) -> list[Path]:
    """The pictures of a class folder and of the folders in it, sorted."""
    if _identity(entry) in met or _is_above(entry, entry.parent):
        raise DataError(f"{entry} is a link to a folder that is a class already or holds one")
    pictures: list[Path] = []
    others: list[Path] = []
    for place, folders, files in os.walk(entry, followlinks=True, onerror=_refuse):
        if (identity := _identity(Path(place))) in met or _is_above(Path(place), entry):
            findings.leave_out("folders that a link leads to a second time", place)
            folders.clear()
            continue
        met.add(identity)
        folders[:] = sorted(
            name for name in folders if not _is_passed_over(Path(place, name), findings)
        )
        for path in sorted(Path(place, name) for name in files):
            if not _is_passed_over(path, findings):
                (pictures if path.suffix.lower() in SUFFIXES else others).append(path)
    for path in others:
        findings.leave_out(f"files {path.suffix.lower() or 'without a suffix'}", path)
    if not pictures:
        raise DataError(
            f"no pictures in class folder {readable(str(entry))} (looked for {' '.join(SUFFIXES)})"
        )
    return sorted(pictures)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read {error.filename}: {error.strerror}; change its permissions")


def _is_passed_over(path: Path, findings: Findings) -> bool:
    """Whether a file or folder is not of the data; why is noted."""
    name = path.name.lower()
    if name.startswith("."):
        why = HIDDEN
    elif name in _STRAY_FOLDERS or name in _STRAY_FILES:
        why = _STRAY
    elif path.is_dir():
        why = _WORKDIRS if _is_of_workdirs(path) else ""
    else:
        why = "" if path.is_file() else "broken links, pipes and devices"
    if why:
        findings.leave_out(why, path)
    return bool(why)


def _is_of_workdirs(folder: Path) -> bool:
    """Whether a folder is a work directory, or holds nothing else, as `runs` does."""
    if is_claimed(folder):
        return True
    with suppress(OSError), os.scandir(folder) as entries:  # one that cannot be read is met later
        visible = (Path(entry.path) for entry in entries if entry.name[0] != ".")
        first = next(visible, None)
        return first is not None and is_claimed(first) and all(map(is_claimed, visible))
    return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_above(folder: Path, entry: Path) -> bool:
    """Whether a link leads from a class folder up to one that holds it."""
    real = folder.resolve()
    return real != entry.resolve() and entry.absolute().is_relative_to(real)


def path_split(pictures: dict[str, list[Path]]) -> Split:
    """Paths with their labels, class by class."""
    labels = [label for label, paths in enumerate(pictures.values()) for _ in paths]
    paths = tuple(path for of_class in pictures.values() for path in of_class)
    return Split(torch.tensor(labels, dtype=torch.int64), paths=paths)


def read_tiny_imagenet(request: Request) -> Raw:
    """Read train/ with val/val_annotations.txt, as it is unpacked, or with class folders."""
    root = request.need_root()
    table = root / "val" / "val_annotations.txt"
    if not table.is_file():
        raw, findings = read_folder(request), Findings()
        names = _words_for(root, raw.class_names, findings)
        notes = (*raw.notes, *findings.assumed)
        return replace(raw, class_names=names, notes=notes)
    if not (root / "train").is_dir():
        raise DataError(f"expected train/ with class folders in {root}, beside val/")
    findings = Findings()
    pictures = scan(root / "train", findings)
    if not (images := root / "val" / "images").is_dir():
        raise DataError(f"{images} is missing, whose pictures {table.name} lists: unpack again")
    present = {entry.name for entry in os.scandir(images)}
    held_out: dict[str, list[Path]] = {wnid: [] for wnid in pictures}
    for line in read_lines(table, findings):
        file, _, fields = line.partition("\t")
        wnid = fields.partition("\t")[0]
        if wnid not in held_out:  # a subset of the classes was unpacked
            findings.leave_out("pictures of classes that train/ does not have", file)
            continue
        if file not in present:
            raise DataError(f"{table} lists {file}, but val/images does not hold it: unpack again")
        held_out[wnid].append(images / file)
    if missing := [wnid for wnid, listed in held_out.items() if not listed]:
        raise DataError(f"classes of {root / 'train'} that {table} does not list: {missing[:5]}")
    names = _words_for(root, tuple(pictures), findings)
    return _raw(names, path_split(pictures), path_split(held_out), findings)


def _words_for(root: Path, wnids: Sequence[str], findings: Findings) -> tuple[str, ...]:
    """The first word of words.txt (`wnid TAB names`) for each wnid, kept apart where two agree."""
    lines: Iterable[str] = ()
    if (root / "words.txt").is_file():
        lines = read_lines(root / "words.txt", findings)
    words: dict[str, str] = {}
    for line in lines:
        wnid, _, synonyms = line.partition("\t")
        words[wnid] = synonyms.split(",")[0].strip()
    names = [words.get(wnid) or wnid for wnid in wnids]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    )
