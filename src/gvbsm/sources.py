"""Sources: how the files of each data set, in their own layout, become two splits.

Each `read_...` takes a `Request` and gives a `Raw`. Shapes: N pictures, C channels, H rows, W
columns.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from gvbsm.pictures import DataError, Progress, Split, no_progress


@dataclass(frozen=True)
class Request:
    """Where the data lie, and how to split them where they have no split of their own.

    Attributes:
        root: Folder or file of the data.
        val_fraction: Share held out.
        split_seed: Seed of that split.
        cache: Where downloads are kept.
        member: What the data set's name says after its slash, as SVHN in torchvision/SVHN.
        subset: Which of the configurations of a data set of the Hub.
        image_column: Column of a table that holds the pictures; None finds it by its type.
        label_column: Likewise of the labels, and the key of labels in JSON.
        progress: Wraps loops that take long.
    """

    root: Path | None
    val_fraction: float
    split_seed: int
    cache: Path
    member: str = ""
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    progress: Progress = no_progress

    def need_root(self) -> Path:
        """The folder or file of the data, of a set that is not downloaded."""
        if self.root is None:
            raise DataError("this data set is not downloaded: pass its folder as --data.root")
        return self.root


@dataclass(frozen=True)
class Raw:
    """A data set as its files hold it: pictures of any size, labels not yet checked.

    Attributes:
        root: Folder that paths are relative to in the fingerprint; None is the request's.
        notes: What was left out or assumed, a line each.
    """

    class_names: tuple[str, ...]
    train: Split
    test: Split
    root: Path | None = None
    notes: tuple[str, ...] = ()


def take(split: Split, index: Tensor) -> Split:
    """The pictures at `index`, int64 (n,)."""
    if split.images is not None:
        return Split(split.labels[index], split.images[index])
    paths = split.paths or ()
    return Split(split.labels[index], paths=tuple(paths[i] for i in index.tolist()))


def hold_out(whole: Split, class_names: Sequence[str], request: Request) -> tuple[Split, Split]:
    """Train and test of a set without a split of its own (see `Request`).

    Raises:
        DataError: If a class has fewer than two pictures.
    """
    train, test = _split_indices(whole.labels, class_names, request)
    return take(whole, train), take(whole, test)


def _split_indices(
    labels: Tensor, class_names: Sequence[str], request: Request
) -> tuple[Tensor, Tensor]:
    """Stratified train and test indices, sorted; every class gives at least one to each side."""
    generator = torch.Generator().manual_seed(request.split_seed)
    train, test = [], []
    for label, name in enumerate(class_names):
        members = (labels == label).nonzero().flatten()
        count = len(members)
        if count < 2:
            raise DataError(
                f"class {name!r} has {count} picture(s), but a split needs 2 or more in each class:"
                " add pictures, remove the class, or provide train/ and val/ folders"
            )
        members = members[torch.randperm(count, generator=generator)]
        held_out = min(max(round(count * request.val_fraction), 1), count - 1)
        test.append(members[:held_out])
        train.append(members[held_out:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def read_digits(request: Request) -> Raw:
    """Read the digits that come with scikit-learn, and split them."""
    from sklearn.datasets import load_digits  # slow to import, and needed for this set only

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    names = tuple(str(name) for name in digits.target_names)
    return Raw(names, *hold_out(Split(labels, images), names, request))


def _scan(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its pictures, both sorted; hidden entries and other files are passed over."""
    if not folder.is_dir():
        raise DataError(f"expected a folder of class folders, but {folder} is a file")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise DataError(f"no class folders in {folder}: expected one folder for each class")
    pictures: dict[str, list[Path]] = {name: [] for name in names}
    for name, found in pictures.items():
        for place, folders, files in os.walk(folder / name, followlinks=True):
            folders[:] = [inner for inner in folders if not inner.startswith(".")]
            kept = (f for f in files if f.lower().endswith(IMG_EXTENSIONS) and f[0] != ".")
            found.extend(Path(place, file) for file in kept)
        if not found:
            known = " ".join(IMG_EXTENSIONS)
            raise DataError(f"no pictures in class folder {folder / name} (looked for {known})")
        found.sort()
    return pictures


def _path_split(pictures: dict[str, list[Path]]) -> Split:
    labels = [label for label, found in enumerate(pictures.values()) for _ in found]
    paths = tuple(path for found in pictures.values() for path in found)
    return Split(torch.tensor(labels, dtype=torch.int64), paths=paths)


def read_folder(request: Request, may_split: bool = False) -> Raw:
    """Read train/ with val/ (or else test/), or split one folder of class folders."""
    root = request.need_root()
    held_out = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    inside = (root / "train").iterdir() if (root / "train").is_dir() else iter(())
    # "train" may also be a class, of locomotives: then it holds pictures and no val/ is beside it
    if may_split and held_out is None and not any(entry.is_dir() for entry in inside):
        pictures = _scan(root)
        names = tuple(pictures)
        return Raw(names, *hold_out(_path_split(pictures), names, request))
    if held_out is None or not (root / "train").is_dir():
        hint = f"; to split one folder, pass {root / 'train'} itself" if may_split else ""
        raise DataError(f"expected train/ and val/ (or test/) with class folders in {root}{hint}")
    train_pictures, test_pictures = _scan(root / "train"), _scan(held_out)
    only_train = sorted(train_pictures.keys() - test_pictures.keys())
    only_test = sorted(test_pictures.keys() - train_pictures.keys())
    if only_train or only_test:
        raise DataError(
            f"train/ and {held_out.name}/ of {root} must hold the same classes;"
            f" only in train: {only_train[:5]}, only in {held_out.name}: {only_test[:5]}"
        )
    return Raw(tuple(train_pictures), _path_split(train_pictures), _path_split(test_pictures))


def _readable_names(root: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """The first word of words.txt (`wnid TAB names`) for each wnid, kept apart where two agree."""
    words: dict[str, str] = {}
    if (root / "words.txt").is_file():
        for line in (root / "words.txt").read_text(encoding="utf-8").splitlines():
            wnid, _, synonyms = line.partition("\t")
            words[wnid] = synonyms.split(",")[0].strip()
    names = [words.get(wnid) or wnid for wnid in wnids]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    )


def read_tiny_imagenet(request: Request) -> Raw:
    """Read train/ with val/val_annotations.txt, as it is unpacked, or with class folders."""
    root = request.need_root()
    table = root / "val" / "val_annotations.txt"
    if not table.is_file():
        raw = read_folder(request)
        return Raw(_readable_names(root, raw.class_names), raw.train, raw.test)
    if not (root / "train").is_dir():
        raise DataError(f"expected train/ with class folders in {root}, beside val/")
    pictures = _scan(root / "train")
    present = {entry.name for entry in os.scandir(root / "val" / "images")}
    held_out: dict[str, list[Path]] = {wnid: [] for wnid in pictures}
    for line in table.read_text(encoding="utf-8").splitlines():
        file, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in held_out:  # a subset of the classes was unpacked
            continue
        if file not in present:
            raise DataError(f"{table} lists {file}, but val/images does not hold it: unpack again")
        held_out[wnid].append(root / "val" / "images" / file)
    missing = [wnid for wnid, found in held_out.items() if not found]
    if missing:
        raise DataError(f"classes of {root / 'train'} that {table} does not list: {missing[:5]}")
    names = _readable_names(root, tuple(pictures))
    return Raw(names, _path_split(pictures), _path_split(held_out))
