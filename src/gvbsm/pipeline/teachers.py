"""Load the trained teachers of a run when they are first needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from gvbsm.backbones.folding import fold_batchnorm
from gvbsm.config import Config, SynthesisConfig
from gvbsm.config.settled import labeling_teachers
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.engine.out_of_memory import InParts
from gvbsm.method.matching import Teacher, make_teacher
from gvbsm.method.statistics import Statistics
from gvbsm.store.recipes import Recipes
from gvbsm.store.teachers import load_teacher
from gvbsm.store.workdir import Workspace


class Teachers:
    """The teachers of a work directory by name, on the device; they must have been trained.

    Args:
        workspace: The work directory.
        data: The real pictures, whose classes the teachers must have.
        runtime: Device, and the forms of the teachers.
        recipes: What the teachers must have been made from.
    """

    def __init__(
        self, workspace: Workspace, data: ImageData, runtime: Runtime, recipes: Recipes
    ) -> None:
        self._workspace, self._data = workspace, data
        self._runtime, self._recipes = runtime, recipes
        self._loaded: dict[str, nn.Module] = {}
        self._folded: dict[str, nn.Module] = {}

    def __getitem__(self, backbone: str) -> nn.Module:
        """Return a backbone's teacher, in eval mode.

        Raises:
            ArtifactError: If its file is unusable, was made with other settings, or has other
                classes than the data.
        """
        if backbone not in self._loaded:
            path = self._workspace.teacher(backbone)
            self._workspace.is_made(path, self._recipes.teacher(backbone), "squeeze", make=False)
            self._loaded[backbone] = load_teacher(path, self._data, self._runtime)
        return self._loaded[backbone]

    def matched(self, backbone: str) -> nn.Module:
        """Return a copy of a teacher in the layout in which its statistics are matched."""
        return self._runtime.of(backbone, "pixels").place(copy.deepcopy(self[backbone]))

    def targets(
        self,
        names: Sequence[str],
        statistics: Mapping[str, Statistics],
        config: SynthesisConfig,
        n_p: int,
    ) -> list[Teacher]:
        """Return teachers with the statistics that the images are to match.

        Args:
            names: The teachers.
            statistics: Their recorded statistics by name; empty if no convolutions are matched.
            config: The settings of the synthesis.
            n_p: Side of a patch in pixels.
        """
        shape = (self._data.channels, self._data.image_size, self._data.image_size)
        return [
            make_teacher(name, self.matched(name), statistics.get(name), config, n_p, shape)
            for name in names
        ]

    def for_labels(self, config: Config) -> list[nn.Module]:
        """Return the networks that label the images of a method, in the order of its settings."""
        names = labeling_teachers(config)
        if config.labels.batchnorm == "batch":  # whose moments need the batch as a whole
            return [self._in_form(name, self[name]) for name in names]
        size = self._data.image_size
        shape = (self._data.channels, size, size)
        for name in names:
            if name not in self._folded:
                self._folded[name] = self._in_form(name, fold_batchnorm(self[name], shape))
        return [InParts(self._folded[name]) for name in names]

    def _in_form(self, name: str, network: nn.Module) -> nn.Module:
        """Return a copy of a network in its measured form; itself if none was measured."""
        if self._runtime.forms.of(name, "inference") is None:
            return network
        return _InForm(copy.deepcopy(network), self._runtime.of(name, "inference"))


class _InForm(nn.Module):
    """A network that is called in the form of a runtime, in whatever autocast it is called."""

    def __init__(self, network: nn.Module, runtime: Runtime) -> None:
        super().__init__()
        self.network, self._runtime = runtime.place(network), runtime
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        with self._runtime.autocast():
            logits: Tensor = self.network(pictures)
        return logits
