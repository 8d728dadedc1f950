"""Load a distilled set from a work directory, an export, the Hub or a plain set of pictures.

An export has one of four forms: `folder`, `hub`, `dd-ranking` and `safetensors`. Its author is not
trusted: only JSON, PNG, Parquet and safetensors are read, sizes are checked before memory is taken,
and paths that lead out of the folder are refused.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gvbsm.config.keys import without_paths
from gvbsm.config.paths import cache_folder, user_path
from gvbsm.data.pictures import DataError, PictureFile, open_file, read_image
from gvbsm.data.pixels import Normalization
from gvbsm.data.sources.arrays import MOST_RATIO, SMALL
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.exchange import hub
from gvbsm.exchange.plain_sets import is_plain, load_plain, refuse_pickle
from gvbsm.files import schema
from gvbsm.files.artifacts import (
    ArtifactError,
    DamagedError,
    fingerprint,
    opened,
    read_header,
    read_json,
)
from gvbsm.files.schema import Data, Results, checked
from gvbsm.files.schema.tensors import check_labels
from gvbsm.files.tensors import load_tensors
from gvbsm.store.distilled import (
    DistilledDataset,
    load_distilled,
    load_images,
    load_labels,
)
from gvbsm.store.label_store import label_folders
from gvbsm.store.soft_labels import SoftLabels
from gvbsm.store.training_settings import DATA, recorded_settings

FACTS = "gvbsm.json"
FORMS = ("folder", "hub", "dd-ranking", "safetensors")
LABELS = "soft_labels"  # folder of the soft labels in `hub`, and how their names begin in one file
TABLE = "data/train-00000-of-00001.parquet"
TRAINED_WITH = ("seed", "labels", "evaluation")  # sections of the settings
MOST_FACTS_BYTES = 64 * 1024**2
MOST_NAME_BYTES = 255  # of a folder
MOST_EXTRA = 64 * 1024  # bytes of an encoded picture beside twice its pixels

SetDescription = dict[str, Any]
"""The description of a set, `gvbsm.json`: format, form, method, dataset, class_names, mean, std,
image_size, channels, images, folders, settings, results, versions, pictures, teachers, recipe."""


@dataclass(frozen=True, order=True)
class _Encoded:
    """An encoded picture in memory, from a cell of a table."""

    name: str
    content: bytes

    @property
    def nbytes(self) -> int:
        return len(self.content)

    def open(self) -> Image.Image:
        return open_file(io.BytesIO(self.content), ("PNG",))

    def __str__(self) -> str:
        return self.name


@torch_defaults()
def load(
    source: str | Path, cache: Path | None = None, logit_normalization: bool | None = None
) -> DistilledDataset:
    """Load a distilled set (`gvbsm.load`).

    Args:
        source: A work directory, an exported folder or file, the name of a set on the Hugging Face
            Hub (user/name, or user/name/set of a collection), which is downloaded, or a plain set
            with hard labels: class folders of pictures, or an .npz.
        cache: Where soft labels of a single file are unpacked; None is ~/.cache/gvbsm.
        logit_normalization: Take the soft labels with logit normalization, or those without, of a
            work directory that may hold both; None takes those of most students.

    Raises:
        ArtifactError: If there is no set, a damaged one, or one without such labels.
        DataError: If pictures cannot be read, or the Hub is out of reach.
    """
    if not str(source):  # such as a variable of the shell that is not set
        raise ArtifactError("the name of the set is empty; . is the current folder")
    path = user_path(source)
    if path.is_dir() and not (path / FACTS).is_file() and not is_plain(path):
        distilled = load_distilled(path, logit_normalization)
        settings = {**recorded_settings(distilled), **_run_settings(path)}
        return replace(distilled, header={**distilled.header, "settings": settings})
    distilled = _load_exported(source, path, cache)
    recorded = recorded_settings(distilled).get("labels", {}).get("logit_normalization")
    if distilled.soft_labels is not None and logit_normalization not in (None, recorded):
        how = "with" if logit_normalization else "without"
        raise ArtifactError(f"{source} holds no soft labels {how} logit normalization")
    return distilled


def _load_exported(source: str | Path, path: Path, cache: Path | None) -> DistilledDataset:
    if (path / FACTS).is_file():
        return _load_folder(path, path)
    if path.exists() and is_plain(path):
        return load_plain(path)
    if path.is_file():
        refuse_pickle(path)
        if path.suffix != ".safetensors":
            raise ArtifactError(
                f"{path} is no distilled set; name its folder, a .safetensors or an .npz file"
            )
        return _load_file(path, cache or cache_folder())
    name = hub.split_name(str(source))
    # if a folder above it is here, it is a mistyped path: do not query the Hub
    if name is None or any(map(Path.is_dir, path.parents[: str(source).count("/")])):
        raise ArtifactError(
            f"there is no {path}; name a work directory, an exported folder or .safetensors file, "
            "or a set of the Hugging Face Hub as user/name, or user/name/set of a collection"
        )
    try:
        snapshot = hub.download(*name)
    except DataError as error:
        raise DataError(f"there is no {path} on this machine; {error}") from error
    folder = snapshot / (name[1] or "")
    if not (folder / FACTS).is_file():
        raise ArtifactError(f"{source} on the Hub holds no {FACTS}: it is no set of `gvbsm export`")
    # a snapshot is links to files that lie two folders up, beside it
    return _load_folder(folder, snapshot.parent.parent)


def _run_settings(workdir: Path) -> dict[str, Any]:
    """The settings of a work directory that training on its set needs."""
    if (results := workdir / "results.json").is_file():
        config = without_paths(checked(Results, read_json(results), results).config or {})
        settings = {name: config[name] for name in TRAINED_WITH if name in config}
        data = config.get("data", {})  # whose other entries name folders of this machine
        if chosen := {name: data[name] for name in DATA if name in data}:
            settings["data"] = chosen
        schema.checked(schema.RunSettings, settings, results)
        return settings
    settings = {}
    for folder in label_folders(workdir)[:1]:  # a stopped run: the recipe of its labels
        recipe = read_json(folder / "index.json").get("recipe") or {}
        settings = {name: recipe[name] for name in TRAINED_WITH if name in recipe}
    if (record := workdir / "data.json").is_file():
        crop = checked(Data, read_json(record), record).test_crop
        settings |= {} if crop is None else {"data": {"test_crop": crop}}
    return settings


def read_description(path: Path) -> SetDescription:
    """Read and check the description of a set.

    Raises:
        ArtifactError: If an entry is wrong, or the format is newer than this version.
    """
    if path.stat().st_size > MOST_FACTS_BYTES:
        raise ArtifactError(
            f"{path} has more than {MOST_FACTS_BYTES} bytes: expected the description of a set"
        )
    facts = read_json(path)
    check_description(facts, path)
    return facts


def check_description(facts: SetDescription, path: Path) -> None:
    """Check types and sizes, before any of them decides how much memory is taken.

    Raises:
        ArtifactError: Naming the first entry that is wrong.
    """
    if isinstance(facts.get("format"), int) and facts["format"] > 1:
        raise ArtifactError(
            f"{path} has format {facts['format']}, this version reads up to 1: upgrade gvbsm"
        )
    schema.check_facts(facts, path)


def inside(path: Path, root: Path) -> Path:
    """Return the path of a file if it lies in `root` once links are resolved.

    Raises:
        ArtifactError: If it does not, or is a folder, a pipe or a device.
    """
    try:
        leads_out = not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links in a ring
        leads_out = True
    if leads_out:
        raise ArtifactError(f"{path} leads out of {root}: refused")
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path} is no regular file, as all of a set are: fetch the set again")
    return path


def _load_folder(folder: Path, root: Path) -> DistilledDataset:
    facts = read_description(inside(folder / FACTS, root))
    form = facts.get("form")
    if form == "hub":
        table = inside(folder / TABLE, root)
        if not table.is_file():
            raise ArtifactError(f"there is no {table}; export or fetch the set again")
        pixels = facts["channels"] * facts["image_size"] ** 2
        _check_pixels(facts, table.stat().st_size, folder)
        labels = hub.read_labels(table, facts["images"])
        cells = hub.read_pictures(table, facts["images"], 2 * pixels + MOST_EXTRA)
        places: Iterable[PictureFile] = (
            _Encoded(f"row {index} of {table}", cell) for index, cell in enumerate(cells)
        )
    elif form in ("folder", "dd-ranking"):
        places, labels = _class_folders(
            folder / "images" if form != "folder" else folder, root, facts
        )
        _check_pixels(facts, sum(path.stat().st_size for path in places), folder)
    else:
        raise ArtifactError(f"{folder / FACTS}: form must be one of {FORMS[:3]}, found {form!r}")
    if len(labels) != facts["images"]:
        raise ArtifactError(
            f"{folder} holds {len(labels)} images, but {FACTS} states {facts['images']}"
        )
    images = _read_all(places, facts)
    stored = folder / LABELS if form == "hub" else folder
    if form == "dd-ranking" or not os.path.lexists(stored / "index.json"):
        return _distilled(images, labels, facts, None, folder)
    for path in [stored / "index.json", *stored.glob("shard-*")]:
        inside(path, root)
    return _distilled(images, labels, facts, load_labels(stored), folder)


def _check_pixels(facts: SetDescription, packed: int, folder: Path) -> None:
    """Check that files of `packed` bytes may hold the pixels that a set should have.

    Raises:
        ArtifactError: If they are more than `MOST_RATIO` times the bytes, as of repeated or blank
            pictures.
    """
    pixels = facts["images"] * facts["channels"] * facts["image_size"] ** 2
    if pixels > max(SMALL, MOST_RATIO * packed):
        raise ArtifactError(
            f"{folder} should unpack its {packed} bytes of pictures to at most {MOST_RATIO} times "
            f"as many, but {FACTS} states {pixels}; fetch it again from somebody you trust"
        )


def _class_folders(folder: Path, root: Path, facts: SetDescription) -> tuple[list[Path], list[int]]:
    """List the pictures in the folders of the classes, and their labels."""
    names = facts.get("folders")
    if names is None:
        raise ArtifactError(f"{folder}: {FACTS} must name a folder per class")
    places: list[Path] = []
    labels: list[int] = []
    known: set[str] = set()
    for label, name in enumerate(names):
        long = len(name.encode(errors="surrogatepass")) > MOST_NAME_BYTES
        if Path(name).name != name or "\\" in name or long:
            raise ArtifactError(
                f"{folder}: {name[:100]!r} should be the plain name of a folder: refused"
            )
        if name in known:
            raise ArtifactError(f"{folder}: {FACTS} names folder {name!r} for two classes: refused")
        known.add(name)
        paths = sorted((folder / name).glob("[!.]*.png"))  # macOS puts ._NAME beside files
        places += [inside(path, root) for path in paths]
        labels += [label] * len(paths)
    return places, labels


def _read_all(places: Iterable[PictureFile], facts: SetDescription) -> Tensor:
    size, channels = facts["image_size"], facts["channels"]
    images = torch.empty(facts["images"], channels, size, size, dtype=torch.uint8)
    for index, place in enumerate(places):
        try:
            with _open_png(place) as file:  # the head alone: pixels cost memory
                shape = file.size
        except Exception as error:  # as in `read_image`
            raise DataError(f"cannot read {place}: {error}; fetch it again") from error
        if shape != (size, size):
            raise ArtifactError(f"{place} has {shape} pixels, but {FACTS} states {(size, size)}")
        images[index] = read_image(place, channels, cure="fetch it again")
    return images


def _open_png(place: PictureFile) -> Image.Image:
    """Open a picture of a set, which is a PNG by its content and nothing else."""
    if not isinstance(place, Path):
        return place.open()
    return open_file(place, ("PNG",))


def _distilled(
    images: Tensor,
    labels: Sequence[int],
    facts: SetDescription,
    stored: SoftLabels | None,
    where: Path,
) -> DistilledDataset:
    classes = len(facts["class_names"])
    check_labels(where, hard := torch.tensor(labels, dtype=torch.int64), classes)
    if stored is not None and (stored.images, stored.classes) != (len(labels), classes):
        raise ArtifactError(
            f"the soft labels of {where} are of {stored.images} images and {stored.classes} "
            f"classes, the set has {len(labels)} and {classes}; fetch it again"
        )
    return DistilledDataset(
        images=images,
        labels=hard,
        class_names=tuple(facts["class_names"]),
        normalization=Normalization(
            tuple(map(float, facts["mean"])), tuple(map(float, facts["std"]))
        ),
        soft_labels=stored,
        header=facts,
    )


def _load_file(path: Path, cache: Path) -> DistilledDataset:
    """Load a single file: of `export --to safetensors`, or the images of a work directory."""
    header = read_header(path)
    if header.get("kind") == "images":
        return load_images(path)
    facts = header.get("facts")
    if header.get("kind") != "distilled" or not isinstance(facts, dict):
        raise ArtifactError(f"{path} holds {header.get('kind')!r}, expected a distilled set")
    check_description(facts, path)
    shape = [facts["images"], facts["channels"], facts["image_size"], facts["image_size"]]
    with opened(path) as file:
        names = set(file.keys())
        if not {"images", "labels"} <= names:
            raise ArtifactError(f"{path} lacks images or labels; fetch it again")
        for name, kind, expected in (("images", "U8", shape), ("labels", "I64", shape[:1])):
            tensor = file.get_slice(name)
            if tensor.get_shape() != expected or tensor.get_dtype() != kind:
                raise ArtifactError(
                    f"{name} of {path} are {tensor.get_dtype()} {tensor.get_shape()}, but its "
                    f"header states {kind} {expected}"
                )
    tensors, _ = load_tensors(path, "distilled")  # compares their checksum, whatever is asked for
    stored = None
    if LABELS in header:
        stored = _unpack_labels(path, header, tensors, cache)
    return _distilled(tensors["images"], tensors["labels"].tolist(), facts, stored, path)


def _unpack_labels(
    path: Path, header: dict[str, Any], tensors: Mapping[str, Tensor], cache: Path
) -> SoftLabels:
    """Unpack the soft labels of a single file into a store in the cache, unless it is there.

    What programs that clean caches have removed of it is unpacked again.
    """
    state = path.stat()
    key = fingerprint({"header": header, "bytes": state.st_size, "time": state.st_mtime_ns})
    if not isinstance(header[LABELS], dict):
        raise DamagedError(path, f"{LABELS} should be a JSON object")
    store = SoftLabels.of_index(cache / LABELS / key, header[LABELS], path)
    if len(store.shards) > 1:
        raise DamagedError(path, f"its soft labels should be one shard, not {len(store.shards)}")
    if not (store.directory / "index.json").is_file() or store.missing():
        start = f"{LABELS}/"
        named = {name.removeprefix(start): name for name in tensors if name.startswith(start)}
        rows = {name: tensors[key] for name, key in named.items()}
        store.check_rows(store.shards[0], rows, path)
        store.write_rows(store.shards[0], rows)
        try:
            for epoch in store.kept:
                store.epoch(epoch)
        except ArtifactError:
            raise DamagedError(path, f"{LABELS} lack an image in epoch {epoch}") from None
        store.write_index()
    return store
