"""Recipes: all that each artifact of a work directory depends on.

A recipe names the inputs of an artifact by the fingerprints of their own recipes. A changed setting
therefore changes the recipes of its stage and of those that build on it, and no others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gvbsm.backbones import code_of, weights_digest
from gvbsm.backbones.output_names import names_digest
from gvbsm.config import (
    BY_DIFFICULTY,
    BY_FEATURES,
    Config,
    EvaluationConfig,
    LabelStorageConfig,
    SqueezeConfig,
)
from gvbsm.config.build import forgetting_training, images_of, squeeze_of, to_dict
from gvbsm.config.fields import names_in_recipe, names_of
from gvbsm.config.settled import (
    coreset_teacher,
    corruption_kinds,
    ipc_entries,
    labeling_teachers,
    matched_teachers,
)
from gvbsm.data.corrupted.copies import folder_content
from gvbsm.engine.forms import NO_FORMS, Forms, Kind
from gvbsm.files.artifacts import ArtifactError, Recipe, fingerprint, read_header
from gvbsm.store.image_set import CURRICULUM, FOREIGN, ImageSet
from gvbsm.store.label_store import STORAGE

# Raise a stage's number when its code gives another result from the same settings, such as after a
# fixed bug: its artifacts, and those that build on them, are then made again.
REVISIONS = {
    "squeeze": 1,
    "statistics": 2,
    "difficulty": 1,
    "selection": 1,
    "forgetting": 1,
    "foreign": 1,
    "synthesis": 1,
    "real": 1,
    "labels": 1,
    "evaluation": 1,
    "full": 1,
    "corruptions": 1,
}


def seed_of(config: Config, section: str) -> int:
    """The seed of a section (squeeze, synthesis, labels, evaluation); none set is the run's."""
    seed: int | None = getattr(config, section).seed
    return config.seed if seed is None else seed


def full_training(config: Config) -> SqueezeConfig:
    """The training of a student on all real pictures (baseline `full`).

    It is that of a teacher, with the epochs and tests of a student, without weights that are
    already trained and without the settings of single teachers.
    """
    return replace(
        config.squeeze,
        epochs=config.baselines.full_epochs,
        tests=config.evaluation.tests,
        pretrained=False,
        weights_dir=None,
        weights_classes=None,
        settings_of={},
    )


def _settings(section: Any) -> dict[str, Any]:
    """The settings of a section that belong in a recipe."""
    settings = to_dict(section)
    return {name: settings[name] for name in names_in_recipe(section)}


def _as_read(evaluation: EvaluationConfig) -> EvaluationConfig:
    """The training of students, with the defaults of what their loss does not read."""
    usual, readers = EvaluationConfig(), {"gamma": "mse_gt", "temperature": "kl"}
    unread = [name for name, loss in readers.items() if loss != evaluation.loss]
    return replace(evaluation, **{name: getattr(usual, name) for name in unread})


class Recipes:
    """The recipes of one run.

    Args:
        config: The run's settings.
        data_fingerprint: Fingerprint of the real pictures.
        precision: fp32 or bf16 (`auto` is resolved), of all work that `forms` does not name.
        forms: Forms of networks, whose names are then the entry `precision`.
    """

    def __init__(
        self, config: Config, data_fingerprint: str, precision: str, forms: Forms = NO_FORMS
    ) -> None:
        self._config, self._data = config, data_fingerprint
        self._precision, self._forms = precision, forms

    def teacher(self, backbone: str) -> Recipe:
        """The recipe of a teacher; a pre-trained one has no settings and no form of a training."""
        squeeze = squeeze_of(self._config.squeeze, backbone)
        pretrained: dict[str, Any] = {"pretrained": True}
        settings = pretrained if squeeze.pretrained else _settings(squeeze)
        if (folder := squeeze.weights_dir) is not None:
            settings["weights"] = weights_digest(backbone, Path(folder))
        if (names := squeeze.weights_classes) is not None:
            settings["classes"] = names_digest(Path(names))
        seed = seed_of(self._config, "squeeze")
        precision = None if squeeze.pretrained else self._forms_of((backbone,), "training")
        return self._recipe(
            "squeeze",
            precision,
            seed=seed,
            backbone=backbone,
            squeeze=settings,
            **code_of(backbone),
        )

    def statistics(self, backbone: str) -> Recipe:
        """The recipe of a teacher's statistics."""
        settings = _settings(self._config.statistics)
        if self._config.synthesis.weight_class:
            settings["by_class"] = True
        groups: dict[str, Any] = {}
        if self._config.synthesis.difficulty_groups:
            groups = {"groups": self._config.ipc, "difficulty": fingerprint(self.difficulty())}
        return self._recipe(
            "statistics",
            self._uncompiled(backbone),
            seed=seed_of(self._config, "squeeze"),
            teacher=fingerprint(self.teacher(backbone)),
            statistics=settings,
            views=to_dict(self._config.synthesis.views),
            **groups,
        )

    @property
    def difficulty_backbones(self) -> tuple[str, ...]:
        """The backbones by which the difficulty of real pictures is measured, in all sets."""
        return matched_teachers(self._config)

    def difficulty(self) -> Recipe:
        """The recipe of the difficulty of each training picture."""
        names = self.difficulty_backbones
        return self._recipe(
            "difficulty",
            [self._uncompiled(name) for name in names],
            seed=seed_of(self._config, "squeeze"),
            teachers=[fingerprint(self.teacher(name)) for name in names],
        )

    def images(self, image_set: ImageSet) -> Recipe:
        """The recipe of a set of images."""
        config = image_set.config
        if image_set.selection == FOREIGN:
            if not image_set.images.is_file():
                raise ArtifactError(
                    f"{image_set.images} is not there: `gvbsm run` and its stages copy it from "
                    "baselines.sets, other verbs do without; leave it out"
                )
            recorded: Recipe = read_header(image_set.images)["recipe"]
            return recorded
        if image_set.selection == "random":
            return self._recipe("selection", **ipc_entries(config), draw=image_set.draw)
        if image_set.selection == CURRICULUM:
            return self._curriculum(image_set)
        if image_set.selection is not None:
            forgets = image_set.selection == "forgetting"
            source = self.forgetting() if forgets else self.teacher(self.coreset_backbone)
            return self._recipe(
                "selection",
                **ipc_entries(config),
                by=image_set.selection,
                source=fingerprint(source),
            )
        names = matched_teachers(config)
        settings = _settings(config.synthesis)
        recipe = self._recipe(
            "synthesis",
            self._forms_of(names, "pixels"),
            seed=seed_of(config, "synthesis"),
            **ipc_entries(config),
            method=images_of(image_set.method),
            synthesis={**settings, "backbones": list(names)},
            teachers=[fingerprint(self.teacher(name)) for name in names],
        )
        if (extra := config.synthesis.extra) is not None:
            function = extra.rpartition(":")[2]
            weight = config.synthesis.weight_extra
            recipe["extra"] = {"function": function, **code_of(extra), "weight": weight}
        if image_set.needs_statistics:
            recipe["statistics"] = [fingerprint(self.statistics(name)) for name in names]
        recipe |= self._start(config)
        if image_set.retrieves:
            recipe["nearest"] = fingerprint(self.teacher(self.coreset_backbone))
        return recipe

    def _curriculum(self, image_set: ImageSet) -> Recipe:
        """The recipe of images of the run that real pictures complete."""
        # Teachers label the views of the filters as they come, however a run stores its labels.
        labels = replace(self._config.labels, storage=LabelStorageConfig())
        config = replace(self._config, labels=labels)
        own = ImageSet(config, image_set.directory)
        student = self.student(own, config.evaluation.students[0], 0)
        student.pop("corruptions", None)  # filters are not tested on test pictures
        del student["evaluation"]["tests"]
        return self._recipe(
            "selection",
            **ipc_entries(config),
            by=CURRICULUM,
            images=fingerprint(self.images(own)),
            source=[
                fingerprint(self.forgetting()),
                fingerprint(self.teacher(self.coreset_backbone)),
            ],
            filter=fingerprint(student),
            distilled_share=config.coreset.distilled_share,
            curricula=config.coreset.curricula,
        )

    def _start(self, config: Config) -> Recipe:
        """The entry of the start of a synthesis, where other entries do not determine it."""
        init = config.synthesis.init
        if init == "noise":
            return {"start": "noise by position"}  # once it was drawn for a group of images
        if init in BY_FEATURES:
            return {"start": fingerprint(self.teacher(self.coreset_backbone))}
        return {"start": fingerprint(self.difficulty())} if init in BY_DIFFICULTY else {}

    def foreign(self, digest: str) -> Recipe:
        """The recipe of another method's set, by the digest of its images and labels."""
        return self._recipe("foreign", **ipc_entries(self._config), content=digest)

    @property
    def coreset_backbone(self) -> str:
        """The backbone by which real pictures are selected."""
        return coreset_teacher(self._config)

    def forgetting(self) -> Recipe:
        """The recipe of the count of forgetting events of each training picture."""
        settings = _settings(forgetting_training(self._config))
        del settings["pretrained"]  # forgetting always trains
        return self._recipe(
            "forgetting",
            seed=seed_of(self._config, "squeeze"),
            backbone=self.coreset_backbone,
            squeeze=settings,
            **code_of(self.coreset_backbone),
        )

    def real(self) -> Recipe:
        """The recipe of the real pictures that are shown beside the images."""
        return self._recipe("real", ipc=self._config.ipc)

    def labels(self, image_set: ImageSet) -> Recipe:
        """The recipe of a label store."""
        config = image_set.config
        names = labeling_teachers(config)
        settings = _settings(config.labels)
        # An entry of its own: a store can be converted to one that differs in this alone.
        storage = settings.pop(STORAGE)
        return self._recipe(
            "labels",
            self._forms_of(names, "inference"),
            seed=seed_of(config, "labels"),
            images=fingerprint(self.images(image_set)),
            labels={**settings, "backbones": list(names)},
            teachers=[fingerprint(self.teacher(name)) for name in names],
            **{STORAGE: storage},
        )

    def student(self, image_set: ImageSet, student: str, seed_index: int) -> Recipe:
        """The recipe of a student's result."""
        return self._recipe(
            "evaluation",
            self._forms_of((student,), "training"),
            seed=seed_of(image_set.config, "evaluation"),
            student=student,
            seed_index=seed_index,
            lr=image_set.config.evaluation.lr_of.get(student),
            evaluation=_settings(_as_read(image_set.config.evaluation)),
            **self._batches(image_set.of_student(student)),
            **self._corruptions(),
            **code_of(student),
        )

    def full(self, student: str, seed_index: int) -> Recipe:
        """The recipe of a student that is trained on all real pictures."""
        settings = _settings(full_training(self._config))
        seed = seed_of(self._config, "squeeze")
        return self._recipe(
            "full",
            self._forms_of((student,), "training"),
            seed=seed,
            student=student,
            seed_index=seed_index,
            squeeze=settings,
            **self._corruptions(),
            **code_of(student),
        )

    def corrupted(self, kind: str) -> Recipe:
        """The recipe of the test pictures' copies by a kind of corruption."""
        section = self._config.evaluation.corruptions
        return self._recipe(
            "corruptions", kind=kind, severities=section.severities, pictures=section.pictures
        )

    def tested_teacher(self, backbone: str) -> Recipe:
        """The recipe of a teacher's tests on corrupted pictures."""
        teacher = fingerprint(self.teacher(backbone))
        return self._recipe("corruptions", teacher=teacher, **self._corruptions())

    def _corruptions(self) -> Recipe:
        """The entry of a network that is tested on corrupted pictures; none if they are off."""
        section = self._config.evaluation.corruptions
        if not (kinds := corruption_kinds(section)):
            return {}
        settings = {**to_dict(section), "kinds": kinds, "seed": self._config.seed}
        if section.folder is not None:
            settings["folder"] = Path(section.folder).name
            settings["content"] = folder_content(section, self._config.seed)
        return {"corruptions": settings}

    def continual(
        self, image_set: ImageSet, student: str, order: int, seen: Sequence[int]
    ) -> Recipe:
        """The recipe of a student whose outputs are the classes `seen`, in this order."""
        recipe = self.student(image_set, student, order)
        recipe.pop("corruptions", None)  # it is tested on the pictures as they are
        return {**recipe, "stage": "continual", "classes": list(seen)}

    def _batches(self, image_set: ImageSet) -> Recipe:
        """The entries of a student's recipe for its batches; hard labels need no teacher."""
        if image_set.config.evaluation.loss != "hard":
            return {"labels": fingerprint(self.labels(image_set))}
        labels = image_set.config.labels
        names = names_of(labels, "with_hard_labels")
        settings = {name: value for name, value in to_dict(labels).items() if name in names}
        views = seed_of(image_set.config, "labels")
        if views != seed_of(image_set.config, "evaluation"):  # else it is the recipe's own
            settings["seed"] = views
        return {"images": fingerprint(self.images(image_set)), "labels": settings}

    def _uncompiled(self, backbone: str) -> str:
        """The entry `precision` of statistics, which are always recorded by hooks."""
        form = self._forms.of(backbone, "pixels")
        return form._replace(compiled=False).name if form else self._precision

    def _forms_of(self, names: Sequence[str], kind: Kind) -> str | list[str]:
        """The entry `precision` for networks: a single name if all have the same form."""
        forms = [self._forms.of(name, kind) for name in names]
        named = [form.name if form else self._precision for form in forms]
        return named[0] if len(set(named)) == 1 else named

    def _recipe(
        self,
        stage: str,
        precision: str | list[str] | None = None,
        seed: int | None = None,
        **parts: Any,
    ) -> Recipe:
        common = {
            "stage": stage,
            "revision": REVISIONS[stage],
            "data": self._data,
            "seed": self._config.seed if seed is None else seed,
        }
        # As JSON, so that a recipe equals what is read back from a file.
        full: Recipe = json.loads(
            json.dumps({**common, "precision": precision or self._precision, **parts})
        )
        return full
