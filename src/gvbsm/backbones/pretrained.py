"""Pretrained networks for a data set whose classes are some of those of the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.backbones import build_backbone, published_classes
from gvbsm.backbones.output_names import (
    OutputNames,
    imagenet_names,
    match_outputs,
    names_in_file,
)
from gvbsm.backbones.weights import fill, find_weights, read_weights
from gvbsm.config import SqueezeConfig
from gvbsm.files.artifacts import ArtifactError, read_header

log = logging.getLogger("gvbsm")


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network for the pictures of a data set.

    Attributes:
        backbone: Name of the network.
        class_names: Names of the data's classes, in their order.
        image_size: Side of a picture in pixels.
        channels: Channels of a picture.
        directory: Folder with the file of the weights; None for the library's published ones.
        names_file: File with the names of the weights' classes; None for those that the weights'
            file or ImageNet has.
    """

    backbone: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int
    directory: Path | None = None
    names_file: Path | None = None

    @classmethod
    def of(
        cls,
        backbone: str,
        config: SqueezeConfig,
        class_names: tuple[str, ...],
        image_size: int,
        channels: int,
    ) -> Pretrained:
        """Return the network that the settings of one teacher name."""
        paths = (config.weights_dir, config.weights_classes)
        directory, names_file = (None if path is None else Path(path) for path in paths)
        return cls(backbone, class_names, image_size, channels, directory, names_file)

    def check(self) -> None:
        """Check that there are weights for the data's classes; published ones are not loaded.

        Raises:
            ValueError: In one line, if there are none, or they do not fit the network or the data.
        """
        outputs = self._outputs()
        self._outputs_of_classes(outputs)
        if self.directory is not None:
            self._load(outputs)

    def build(self) -> nn.Module:
        """Build the network with one logit for each class of the data.

        Where the weights have more classes, or another order of them, the classifier is cut to
        the outputs of the data's classes.

        Returns:
            A module (batch, channels, image_size, image_size) -> (batch, classes).

        Raises:
            ValueError: As for `check`.
            OSError: If published weights can be neither found nor downloaded.
        """
        outputs = self._outputs()
        kept = self._outputs_of_classes(outputs)
        model = self._load(outputs)
        if kept == list(range(outputs)):
            return model
        log.info(
            "%s: the data's %d classes are outputs %s of the %d of its pretrained classifier",
            self.backbone,
            len(kept),
            ", ".join(map(str, kept[:10])) + ", ..." * (len(kept) > 10),
            outputs,
        )
        smaller = self._build(len(self.class_names))
        state = {
            name: value[kept] if name in self._tensors_by_class else value
            for name, value in model.state_dict().items()
        }
        fill(smaller, state, f"the weights of {self.backbone}, cut to {len(kept)} classes,")
        return smaller

    def _build(self, classes: int) -> nn.Module:
        return build_backbone(self.backbone, classes, self.image_size, self.channels)

    def _load(self, outputs: int) -> nn.Module:
        """Build the network with all outputs of its weights."""
        shape = (self.image_size, self.channels)
        return build_backbone(self.backbone, outputs, *shape, True, self.directory)

    def _outputs(self) -> int:
        """Return the number of the weights' classes."""
        if self.directory is None:
            return published_classes(self.backbone)
        weights = read_weights(find_weights(self.backbone, self.directory))
        by_class = [weights[name] for name in self._tensors_by_class if name in weights]
        counts = {len(tensor) for tensor in by_class if tensor.ndim}
        # Else the weights do not fit or have old names, which loading them finds out.
        return counts.pop() if len(counts) == 1 else len(self.class_names)

    @cached_property
    def _tensors_by_class(self) -> set[str]:
        """Return the names of the tensors that have a row for each class."""
        with torch.device("meta"):
            states: list[Mapping[str, Tensor]] = [
                self._build(len(self.class_names) + more).state_dict() for more in (0, 1)
            ]
        return {name for name, value in states[0].items() if value.shape != states[1][name].shape}

    def _outputs_of_classes(self, outputs: int) -> list[int]:
        """Return the output of each class of the data."""
        if self.names_file is not None:
            known = names_in_file(self.names_file)
            if len(known.names) != outputs:
                raise ValueError(
                    f"squeeze.weights_classes: {self.names_file} names {len(known.names)} classes, "
                    f"but the pretrained weights of {self.backbone} have {outputs}: write the name "
                    "of each on a line, in the order of the outputs"
                )
            return match_outputs(self.class_names, outputs, known, self.backbone)
        published = self._names_with_weights(outputs) or imagenet_names(outputs)
        try:
            return match_outputs(self.class_names, outputs, published, self.backbone)
        except ValueError:
            # As many classes under other names: in the order of the outputs, as far as is known.
            named = [] if published is None else published.outputs_of(self.class_names)
            ordered = all(place in places for place, places in enumerate(named) if places)
            if len(self.class_names) == outputs and ordered:
                return list(range(outputs))
            raise

    def _names_with_weights(self, outputs: int) -> OutputNames | None:
        """Return the class names in the file of a teacher that gvbsm saved; None of other files."""
        if self.directory is None:
            return None
        path = find_weights(self.backbone, self.directory)
        try:
            names = read_header(path).get("class_names", ())
        except ArtifactError:
            return None
        return OutputNames(f"classes of {path}", tuple(names)) if len(names) == outputs else None
