"""Label a small distilled set with real teachers, as a run does."""

from gvbsm.config import LabelsConfig
from gvbsm.config.build import to_dict
from gvbsm.stages.labels import LabelTask, generate_labels
from support.distilled_files import save_images


def write_labeled_set(workdir, data, teachers, runtime, labels=None, *, images=8, **evaluation):
    """Write the first real pictures as images with soft labels; their recipe holds the settings.

    The recipe's `labels` and `evaluation` are what `gvbsm.load` takes for the settings of a stopped
    run.
    """
    config = labels or LabelsConfig(epochs=6)
    order = data.train.labels[:images].argsort(stable=True)  # class by class
    pictures, hard = data.train.images[order], data.train.labels[order]
    path = workdir / "synthesis" / "images.safetensors"
    save_images(path, "gvbsm", {"ipc": 2}, pictures, hard, data)
    settings = to_dict(config)
    recipe = {"stage": "labels", "labels": settings, "evaluation": evaluation}
    task = LabelTask(pictures, len(data.class_names), config, data.normalization)
    generate_labels(task, list(teachers.values()), runtime, workdir / "labels", recipe)
    return workdir
