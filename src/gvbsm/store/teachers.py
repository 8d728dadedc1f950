"""Teachers on disk: a trained backbone, its classes and its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gvbsm.backbones import build_backbone, code_of, fill, unavailable
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.engine.finite import first_not_finite
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import ArtifactError, Recipe
from gvbsm.files.schema import TeacherHeader, checked, checked_header
from gvbsm.files.tensors import load_tensors, save


def buildable(paths: Iterable[Path]) -> list[Path]:
    """The teachers whose networks can be built in this process (`unusable_because`)."""
    return [path for path in paths if not unusable_because(checked_header(path))]


def unusable_because(header: Mapping[str, Any]) -> str:
    """Why the network of a teacher cannot be built in this process; empty if it can.

    Args:
        header: The header of the teacher's file. Code that it names is not run unless the user has
            named it, and must not have changed since.
    """
    backbone = header["backbone"]
    if fault := unavailable(backbone):
        return fault
    code = header["recipe"].get("code")
    if code is not None and {"code": code} != code_of(backbone):
        return f"it was made by another version of {backbone}: train it again, or undo the change"
    return ""


def save_teacher(
    path: Path,
    model: nn.Module,
    backbone: str,
    data: ImageData,
    history: Mapping[str, Any],
    recipe: Recipe,
) -> None:
    """Write a teacher: its weights, architecture, classes, history and recipe."""
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
    """Load a teacher and check that its classes are those of the data; see `read_teacher`.

    Raises:
        ArtifactError: If the file is unusable, or its classes are not those of `data` in their
            order: its soft labels would then name wrong classes.
    """
    model, header = read_teacher(path, runtime)
    if tuple(header["class_names"]) != data.class_names:
        expected, names = list(data.class_names), header["class_names"]
        pairs = enumerate(zip(expected, names, strict=False))
        shorter = min(len(expected), len(names))
        first = next((index for index, (ours, theirs) in pairs if ours != theirs), shorter)
        place = slice(first, first + 1)
        raise ArtifactError(
            f"{path} has other classes than the data: {len(names)} against {len(expected)}, first "
            f"difference at index {first} ({names[place]} against {expected[place]}); train it on "
            "this data, or put the data's classes into its order"
        )
    return model


def read_teacher(path: Path, runtime: Runtime) -> tuple[nn.Module, dict[str, Any]]:
    """Load a teacher onto its device, in eval mode, with parameters that need no gradient.

    Returns:
        The network, and its file's header: `backbone`, `class_names`, `image_size`, `channels`.

    Raises:
        ArtifactError: If the file is unusable, or its network is code that the user has not named
            or has changed since.
    """
    tensors, header = load_tensors(path, "teacher")
    checked(TeacherHeader, header, path)
    if (broken := first_not_finite(tensors)) is not None:
        raise ArtifactError(
            f"{path}: {broken} holds a NaN or an infinity; remove the file and train the teacher "
            "again with a lower learning rate"
        )
    if fault := unusable_because(header):
        raise ArtifactError(f"{path} cannot be used: {fault}")
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
