"""What can be known to fail is told before any long work starts."""

from __future__ import annotations

from pathlib import Path

import torch

from gvbsm.artifacts import ArtifactError, changes, read_json, write_json
from gvbsm.backbones import build_backbone, check_pretrained
from gvbsm.config import Config, ConfigError
from gvbsm.datasets import ImageData, load_dataset
from gvbsm.pictures import DataError
from gvbsm.runtime import Runtime


def load_data(config: Config, runtime: Runtime) -> ImageData:
    """Read the real pictures that the settings name."""
    root = None if config.data.root is None else Path(config.data.root)
    return load_dataset(
        config.data.name,
        root,
        image_size=config.data.image_size,
        val_fraction=config.data.val_fraction,
        split_seed=config.data.split_seed,
        in_memory=config.data.in_memory,
        progress=lambda items: runtime.track(items, "reading pictures"),
    )


def check_feasible(config: Config, data: ImageData) -> None:
    """Build every network once, without memory, and count pictures, before any long work."""
    for name in dict.fromkeys((*config.squeeze.backbones, *config.evaluation.students)):
        try:
            with torch.device("meta"):
                build_backbone(name, len(data.class_names), data.image_size, data.channels)
            if config.squeeze.pretrained and name in config.squeeze.backbones:
                check_pretrained(name, len(data.class_names))
        except ValueError as error:
            raise ConfigError(str(error)) from None
    takes_real = {config.method, *config.baselines.methods} & {"random-soft", "random-hard"}
    if takes_real or config.synthesis.init == "real":
        counts = torch.bincount(data.train.labels, minlength=len(data.class_names))
        if int(counts.min()) < config.ipc:
            raise DataError(
                f"ipc is {config.ipc}, but class {data.class_names[int(counts.argmin())]!r} has "
                f"{int(counts.min())} training pictures and the random baselines draw from them; "
                "lower --ipc or leave the random methods out of --baselines.methods"
            )


def check_owner(workdir: Path, data: ImageData) -> None:
    """Keep a work directory to one data set: a wrong --workdir must cost nobody their teachers."""
    if workdir.exists() and not workdir.is_dir():
        raise ArtifactError(f"{workdir} is a file; give a folder as --workdir")
    path = workdir / "data.json"
    mine = {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "classes": len(data.class_names),
        "image_size": data.image_size,
    }
    if path.is_file() and (found := read_json(path)) != mine:
        raise ArtifactError(
            f"{workdir} belongs to other data ({'; '.join(changes(found, mine))}); "
            "give another --workdir"
        )
    if not path.is_file():
        write_json(path, mine)
