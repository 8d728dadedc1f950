"""Files that an export copies: soft labels, teachers and trained networks.

Their headers name networks. The user's own code is named there without its folder.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gvbsm.engine.device import Runtime
from gvbsm.exchange.load import LABELS
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.network_names import without_folders
from gvbsm.files.schema import MOST_BYTES
from gvbsm.files.tensors import load_tensors, save
from gvbsm.store.soft_labels import SoftLabels

_NAMING = {"backbone", "recipe"}  # entries of a header that name networks


def copy_public(source: Path, target: Path, kind: str) -> dict[str, Any]:
    """Copy an artifact after comparing its checksum; return the header of the copy.

    The copy is the file itself, unless its header names a folder of the user's code.

    Raises:
        ArtifactError: If the file is damaged, or another kind of artifact.
    """
    tensors, header = load_tensors(source, kind)  # damage must not travel
    public = header | {name: without_folders(header[name]) for name in _NAMING & header.keys()}
    if public == header:
        shutil.copyfile(source, target)
    else:
        save(target, tensors, public)
    return public


def label_files(stored: SoftLabels) -> list[Path]:
    """List the files of a label store: its index and the shards that this names."""
    return [stored.directory / "index.json", *(shard.path for shard in stored.shards)]


def label_tensors(stored: SoftLabels) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All rows of a store, each tensor named `soft_labels/...`, and the index of its one shard.

    Raises:
        ArtifactError: If a shard is missing, or they are too much for one file.
    """
    if (nbytes := stored.nbytes()) > MOST_BYTES:
        raise ArtifactError(f"the soft labels take {nbytes} bytes, too much for one file: --to hub")
    rows = {f"{LABELS}/{name}": tensor for name, tensor in stored.all_rows().items()}
    single = replace(stored, shard_epochs=len(stored.kept), shard_images=stored.images)
    return rows, {**single.index(), "recipe": without_folders(stored.recipe)}


def copy_labels(folder: Path, stored: SoftLabels | None, bar: Runtime) -> None:
    """Copy the files of soft labels, if there are any, after comparing their checksums.

    They are written anew if their recipe names a folder of the user's code.
    """
    if stored is None:
        return
    folder.mkdir(exist_ok=True)
    public = replace(stored, directory=folder, recipe=without_folders(stored.recipe))
    index, *shards = label_files(stored)
    for path in bar.track(shards, "soft labels"):
        copy_public(path, folder / path.name, "labels")
    if public.recipe == stored.recipe:
        shutil.copyfile(index, folder / index.name)
    else:
        public.write_index()


def describe_labels(stored: SoftLabels) -> dict[str, Any]:
    """Describe soft labels for a README: epochs, bytes, what is stored, the first stored epoch."""
    return {
        "epochs": stored.epochs,
        "bytes": stored.nbytes(),
        "stored": stored.describe(),
        "first": stored.kept[0],
    }
