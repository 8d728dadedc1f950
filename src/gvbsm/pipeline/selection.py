"""The real pictures that stand in the place of synthetic ones: what chooses them, and from what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from gvbsm.backbones.features import feature_batches
from gvbsm.config import Config, ConfigError
from gvbsm.config.build import squeeze_of
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.data.pictures import DataError
from gvbsm.engine.device import Runtime
from gvbsm.engine.out_of_memory import InParts
from gvbsm.files.artifacts import Recipe, is_current, load_tensors, save
from gvbsm.stages.selection.coreset import (
    select_forgetting,
    select_herding,
    select_k_center,
    select_random,
)
from gvbsm.stages.selection.forgetting import record_forgetting
from gvbsm.stages.selection.starts import Start, choose_crops, select_lowest, training_losses
from gvbsm.store.recipes import Recipes, seed_of
from gvbsm.store.workdir import Workspace

BATCH = 256  # pictures whose features are taken together; the choice does not depend on it


class Selector:
    """Chooses real pictures of one run.

    Args:
        config: The run's settings.
        data: The real pictures.
        runtime: Device, precision, seed.
        workspace: Where the work directory's files lie.
        recipes: What they are made from.
        teacher: A backbone's teacher on its device.
    """

    def __init__(
        self,
        config: Config,
        data: ImageData,
        runtime: Runtime,
        workspace: Workspace,
        recipes: Recipes,
        teacher: Callable[[str], nn.Module],
    ) -> None:
        self._config, self._data, self._runtime = config, data, runtime
        self._workspace, self._recipes, self._teacher = workspace, recipes, teacher

    def select(self, selection: str, draw: int = 0) -> Tensor:
        """Indices of `ipc` training pictures of each class, class by class, int64 (classes * ipc,).

        Args:
            selection: random, herding, k-center or forgetting.
            draw: Number of the random selection.

        Raises:
            ArtifactError: If the teacher whose features are compared has not been trained.
            RunError: If the training for forgetting diverges.
        """
        labels, ipc = self._data.train.labels, self._config.ipc
        classes = len(self._data.class_names)
        if selection == "random":
            generator = self._runtime.generator("selection", draw)
            return select_random(labels, classes, ipc, generator)
        if selection == "forgetting":
            generator = self._runtime.generator("selection", "forgetting")
            return select_forgetting(self._forgetting_events(), labels, classes, ipc, generator)
        choose = {"herding": select_herding, "k-center": select_k_center}[selection]
        return choose(self._features(), labels, classes, ipc)

    def keep_start(self, path: Path, recipe: Recipe) -> None:
        """Choose what the pixels start from and keep it, unless that has been done.

        Args:
            path: The file.
            recipe: Of the images that start there.

        Raises:
            ArtifactError: If the teacher whose features are compared has not been trained.
        """
        if is_current(path, recipe):
            return
        start = self._choose_start()
        tensors = {"pictures": start.pictures}
        if start.boxes is not None:
            tensors["boxes"] = start.boxes
        save(path, tensors, {"kind": "start", "recipe": recipe})

    def _choose_start(self) -> Start:
        config, data, runtime = self._config.synthesis, self._data, self._runtime
        if config.init == "herding":
            return Start(self.select("herding")[:, None])
        names = config.backbones or self._config.squeeze.backbones
        teachers = [InParts(self._teacher(name)) for name in names]
        ipc, workers = self._config.ipc, runtime.workers(self._config.data.workers)
        if config.init == "crops":
            return choose_crops(
                data, ipc, config.crop_tiles, config.crop_scale, teachers, runtime, workers
            )
        losses = training_losses(data, teachers, runtime, BATCH, workers)
        found = select_lowest(losses, data.train.labels, len(data.class_names), ipc)
        return Start(found[:, None])

    def _features(self) -> Iterator[Tensor]:
        """What the teacher sees in the training pictures, unchanged: (batch, features) each."""
        backbone, recipes = self._recipes.coreset_backbone, self._recipes
        path = self._workspace.teacher(backbone)
        self._workspace.is_made(path, recipes.teacher(backbone), "squeeze", make=False)
        data, runtime = self._data, self._runtime
        workers = runtime.workers(self._config.data.workers)
        batches = plain_batches(data, data.train, BATCH, runtime, workers)
        pictures = runtime.track((images for images, _ in batches), f"features of {backbone}")
        try:
            for features, _ in feature_batches(self._teacher(backbone), pictures, runtime):
                yield features
        except DataError:
            raise
        except ValueError as error:
            raise ConfigError(f"coreset.backbone {backbone}: {error}") from None

    def _forgetting_events(self) -> Tensor:
        """How often each training picture was forgotten; that is recorded if it has not been."""
        backbone, recipe = self._recipes.coreset_backbone, self._recipes.forgetting()
        path = self._workspace.forgetting(backbone)
        if not self._workspace.is_made(path, recipe, "synthesis", make=True):
            training = squeeze_of(self._config.squeeze, backbone)
            epochs = self._config.coreset.epochs or training.epochs
            training = replace(training, epochs=epochs)
            runtime = replace(self._runtime, seed=seed_of(self._config, "squeeze"))
            with self._workspace.timed("forgetting"):
                record_forgetting(
                    backbone, self._data, training, runtime, path, recipe,
                    runtime.workers(self._config.data.workers),
                )  # fmt: skip
        return load_tensors(path, "forgetting")[0]["events"]
