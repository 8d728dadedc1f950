"""Export a network that `gvbsm train` trained: weights, ONNX and a model card."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gvbsm.backbones import build_backbone, fill
from gvbsm.config import ConfigError
from gvbsm.data.pixels import Normalization
from gvbsm.data.sources.hub_library import need
from gvbsm.exchange.card import PAPER, filled
from gvbsm.exchange.public_files import copy_public
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.network_names import without_folders
from gvbsm.files.replacing import replacing
from gvbsm.files.schema import StudentHeader, checked
from gvbsm.files.tensors import load_tensors
from gvbsm.store.teachers import unusable_because

if TYPE_CHECKING:
    import onnx

log = logging.getLogger("gvbsm")

STUDENT = "onnx"  # the form of an export
MODEL, WEIGHTS = "model.onnx", "model.safetensors"
MOST_BYTES = 2**31  # of one file of ONNX
SHOWN = ("seed", "precision", "labels", "evaluation")  # entries of the recipe on the card


class PixelNetwork(nn.Module):
    """A network that normalizes its input itself.

    Args:
        network: Takes normalized pictures, float32 (batch, channels, size, size).
        normalization: Mean and standard deviation of the channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(normalization.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(normalization.std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits, float32 (batch, classes), of pixels, uint8 (batch, channels, ...)."""
        logits: Tensor = self.network((pixels.float() / 255 - self.mean) / self.std)
        return logits


def load_student(path: Path) -> tuple[PixelNetwork, StudentHeader]:
    """Build a trained network from the weights of `gvbsm train`, in evaluation mode, on the CPU.

    Raises:
        ArtifactError: If the file is missing, damaged, or holds something else.
        ConfigError: If the network is code of a user that is not run, or has changed since.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no {path}; name the weights that gvbsm train has written")
    tensors, header = load_tensors(path, "student")
    entries = checked(StudentHeader, header, path)
    if fault := unusable_because({"backbone": entries.backbone, "recipe": entries.recipe}):
        raise ConfigError(f"{path}: {fault}")
    classes = len(entries.class_names)
    network = build_backbone(entries.backbone, classes, entries.image_size, entries.channels)
    try:
        fill(network, tensors, f"the weights in {path}")
    except ValueError as error:
        raise ArtifactError(f"{error}; train the network again") from None
    normalization = Normalization(tuple(entries.mean), tuple(entries.std))
    return PixelNetwork(network, normalization).eval(), entries


def export_student(source: Path, out: Path) -> Path:
    """Write a folder with `model.onnx`, `model.safetensors` and a model card (`README.md`).

    Returns:
        `out`.

    Raises:
        DataError: If onnx or onnxscript is not installed.
        ConfigError, ArtifactError: With one clear line.
    """
    need("onnx", "onnxscript")
    network, header = load_student(source)
    nbytes = sum(tensor.nbytes for tensor in network.state_dict().values())
    if nbytes >= MOST_BYTES:
        raise ConfigError(
            f"the weights in {source} take {nbytes} bytes; a file of ONNX holds 2 GiB"
        )
    name = without_folders(header.backbone)
    shown = header.model_copy(update={"backbone": name, "recipe": without_folders(header.recipe)})
    content = to_onnx(network, shown).SerializeToString()
    with replacing(out) as draft:
        (draft / MODEL).write_bytes(content)
        copy_public(source, draft / WEIGHTS, "student")
        (draft / "README.md").write_text(model_card(shown), encoding="utf-8")
    log.info("how to load it: %s", out / "README.md")
    return out


def model_card(header: StudentHeader) -> str:
    """Write the README of a network: data, training, accuracy, and how to load the network."""
    return filled(
        "model_card.md",
        header=header,
        model=MODEL,
        weights=WEIGHTS,
        settings={name: header.recipe[name] for name in SHOWN if name in header.recipe},
        paper=PAPER,
    )


def to_onnx(network: PixelNetwork, header: StudentHeader) -> onnx.ModelProto:
    """Convert a network to ONNX: `pixels` uint8 (batch, channels, size, size) to `logits`.

    The metadata hold `class_names` (a JSON list), `backbone`, `mean`, `std` and `gvbsm`.
    """
    import onnx

    shape = (2, header.channels, header.image_size, header.image_size)  # torch fixes a batch of 1
    pixels = torch.zeros(shape, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about features of torch that this does not use
        program = torch.onnx.export(
            network,
            (pixels,),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # it is where no file is named
    model = program.model_proto
    entries = {
        "class_names": json.dumps(header.class_names),
        "backbone": header.backbone,
        "mean": json.dumps(header.mean),
        "std": json.dumps(header.std),
        "gvbsm": header.gvbsm,
    }
    onnx.helper.set_model_props(model, entries)
    return model
