"""A set of images on disk: its settings, its folder, and the files in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gvbsm.config import BY_DIFFICULTY, BY_FEATURES, BY_FORGETTING, Config
from gvbsm.config.build import images_of, selection_of
from gvbsm.config.settled import coreset_teacher, labeling_teachers, matched_teachers
from gvbsm.files.network_names import file_stem
from gvbsm.store.label_store import FOLDER, OTHER_FOLDERS

FOREIGN = "set"  # selection of the images of another method's set
CURRICULUM = "curriculum"  # selection that completes some images of the run's own set


@dataclass(frozen=True)
class ImageSet:
    """A set of images in a work directory, with its soft labels and its students' results.

    Attributes:
        config: The settings of its method.
        directory: Its folder: the work directory itself for the run's own method.
        draw: Number of the random selection.
        label_folder: Name of the folder of its soft labels.
    """

    config: Config
    directory: Path
    draw: int = 0
    label_folder: str = FOLDER

    @property
    def method(self) -> str:
        """The method that makes the images and their labels: gvbsm, sre2l, random-hard, ..."""
        return self.config.method

    @property
    def selection(self) -> str | None:
        """How images are selected: random, herding, ...; FOREIGN; None if all are synthesized."""
        if self.method in self.config.baselines.sets:
            return FOREIGN
        return selection_of(self.method)

    @property
    def needs_statistics(self) -> bool:
        """Whether synthesis matches convolutions, or the statistics of classes or groups."""
        synthesis = self.config.synthesis
        by_part = synthesis.weight_class > 0 or synthesis.difficulty_groups
        matched = synthesis.weight_conv > 0 or (by_part and synthesis.weight_batchnorm > 0)
        return self.selection is None and matched

    @property
    def needs_difficulty(self) -> bool:
        """Whether real pictures are ordered by difficulty, for groups or for the start."""
        synthesis = self.config.synthesis
        ordered = synthesis.difficulty_groups or synthesis.init in BY_DIFFICULTY
        return self.selection is None and ordered

    @property
    def needs_forgetting(self) -> bool:
        """Whether real pictures are selected by how often they are forgotten."""
        return self.selection in BY_FORGETTING

    @property
    def retrieves(self) -> bool:
        """Whether synthesis mixes in the nearest real pictures."""
        return self.selection is None and self.config.synthesis.residual_source == "nearest"

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers of the images and of the labels, in the order of `squeeze.backbones`."""
        config, backbones = self.config, self.config.squeeze.backbones
        needed: set[str] = set()
        if self.selection is None:
            needed.update(matched_teachers(config))
        by_features = (self.selection or config.synthesis.init) in BY_FEATURES
        if by_features or self.retrieves or self.selection == CURRICULUM:
            needed.add(coreset_teacher(config))
        if config.evaluation.loss != "hard":
            needed.update(labeling_teachers(config))
        return tuple(name for name in backbones if name in needed)

    @property
    def stores_labels(self) -> bool:
        """Whether soft labels are kept on disk."""
        return self.config.labels.store and self.config.evaluation.loss != "hard"

    @property
    def images(self) -> Path:
        """The file of the images."""
        return self.directory / "synthesis" / "images.safetensors"

    @property
    def labels(self) -> Path:
        """The folder of the soft labels."""
        return self.directory / self.label_folder

    @property
    def label_name(self) -> str:
        """Name of its soft labels in the log and in the times of the stages."""
        name = self.directory.name if self.draw else self.method
        return name + self.label_folder.removeprefix(FOLDER)

    def of_student(self, student: str) -> ImageSet:
        """Return the set with the labels that a student is trained on."""
        labels = self.config.labels
        normalization = labels.logit_normalization_of.get(student, labels.logit_normalization)
        if normalization == labels.logit_normalization:
            return self
        labels = replace(labels, logit_normalization=normalization, logit_normalization_of={})
        config = replace(self.config, labels=labels)
        return replace(self, config=config, label_folder=OTHER_FOLDERS[normalization])

    @property
    def label_stores(self) -> list[ImageSet]:
        """The set once for each label store that its students are trained on."""
        if not self.stores_labels:
            return []
        image_sets = map(self.of_student, self.config.evaluation.students)
        return [*{image_set.label_folder: image_set for image_set in image_sets}.values()]

    @property
    def unnamed_label_folders(self) -> list[Path]:
        """Folders for labels of a logit normalization that no setting names any more."""
        labels = self.config.labels
        named = {*labels.logit_normalization_of.values()} - {labels.logit_normalization}
        folders = [folder for value, folder in OTHER_FOLDERS.items() if value not in named]
        return [self.directory / folder for folder in folders] if self.stores_labels else []

    def result(self, student: str, seed_index: int) -> Path:
        """The file of one student's result."""
        name = f"{self.method}-{file_stem(student)}-{seed_index}.json"
        return self.directory / "evaluation" / name


def image_folder(workdir: Path, own: str, method: str, draw: int = 0) -> Path:
    """Return the folder of a method's images, which hard and soft labels share."""
    images = images_of(method)
    if images == images_of(own) and not draw:
        return workdir
    return workdir / "baselines" / (f"random-{draw}" if images == "random" else images)
