"""Teachers on disk: a trained backbone, its classes and its accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gvbsm.backbones import build_backbone, file_stem, fill
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.engine.finite import first_not_finite
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import ArtifactError, Recipe, load_tensors, save
from gvbsm.files.schema import TeacherHeader, checked


def file_name(backbone: str) -> str:
    """File name of what belongs to one backbone."""
    return f"{file_stem(backbone)}.safetensors"


def save_teacher(
    path: Path,
    model: nn.Module,
    backbone: str,
    data: ImageData,
    history: Mapping[str, Any],
    recipe: Recipe,
) -> None:
    """Write a teacher with all that is needed to build it again."""
    header = {
        "kind": "teacher",
        "recipe": recipe,
        "backbone": backbone,
        "class_names": list(data.class_names),
        "image_size": data.image_size,
        "channels": data.channels,
        "history": dict(history),
    }
    save(path, model.state_dict(), header)


def load_teacher(path: Path, data: ImageData, runtime: Runtime) -> nn.Module:
    """A teacher of these very classes; see `read_teacher`.

    Args:
        path: Its file.
        data: The pictures that it is to judge.
        runtime: Device and precision.

    Raises:
        ArtifactError: If the file is unusable, or its classes are not those of `data` in their
            order: the commonest cause of labels that mean nothing.
    """
    model, header = read_teacher(path, runtime)
    if tuple(header["class_names"]) != data.class_names:
        mine, theirs = data.class_names, header["class_names"]
        at = next(
            (
                index
                for index, pair in enumerate(zip(mine, theirs, strict=False))
                if pair[0] != pair[1]
            ),
            min(len(mine), len(theirs)),
        )
        raise ArtifactError(
            f"{path} knows other classes than the data: {len(theirs)} against {len(mine)}, first "
            f"difference at index {at} ({theirs[at : at + 1]} against {list(mine[at : at + 1])}); "
            "train it on this data, or bring the data's folders into its order"
        )
    return model


def read_teacher(path: Path, runtime: Runtime) -> tuple[nn.Module, dict[str, Any]]:
    """A teacher on its device, in eval mode, with parameters that ask for no gradient.

    Args:
        path: Its file.
        runtime: Device and precision.

    Returns:
        The network, and its file's header: `backbone`, `class_names`, `image_size`, `channels`.

    Raises:
        ArtifactError: If the file is unusable.
    """
    tensors, header = load_tensors(path, "teacher")
    checked(TeacherHeader, header, path)
    if (broken := first_not_finite(tensors)) is not None:
        raise ArtifactError(
            f"{path}: {broken} holds a NaN or an infinity; remove the file and train it again, "
            "with a lower learning rate"
        )
    with seeded(runtime.seed, "unused"):  # the weights drawn here are replaced
        model = build_backbone(
            header["backbone"],
            len(header["class_names"]),
            header["image_size"],
            header["channels"],
        )
    try:
        fill(model, tensors, "its tensors")
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); move it away to make it again") from None
    return runtime.place(model).eval().requires_grad_(False), header
