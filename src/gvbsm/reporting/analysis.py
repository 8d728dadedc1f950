"""Features and logits of the image sets in a teacher, as in figures 3 and 8 of the paper.

Needs only the artifacts of a work directory, not the data set.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.backbones.features import teacher_features
from gvbsm.config import SqueezeConfig
from gvbsm.engine.device import Runtime, resolve_runtime
from gvbsm.files.artifacts import Recipe, fingerprint, is_current
from gvbsm.files.schema import checked_header
from gvbsm.files.tensors import save
from gvbsm.store.distilled import DistilledDataset, load_images
from gvbsm.store.teachers import buildable, read_teacher
from gvbsm.store.workdir import Workspace

log = logging.getLogger("gvbsm")

MOST_CLASSES, MOST_IMAGES = 100, 50  # classes analyzed, and images of each: minutes on a CPU
MAP_CLASSES = 20  # of these, the classes on the map of logits
BATCH = 64
MAP_TEACHER = SqueezeConfig().backbones[0]  # figure 8's, at any image size and from any library


@dataclass(frozen=True)
class SetAnalysis:
    """Features and logits of one set, summarized.

    Attributes:
        cosine: Mean cosine similarity of the features of two images of a class, float32 (classes,);
            NaN where a class has fewer than two, or was not analyzed.
        pixel_cosine: The same of the normalized pixels.
        accuracy: Percent of the images that are classified as their label says.
        logits: float32 (images, classes).
        labels: int64 (images,).
    """

    cosine: Tensor
    pixel_cosine: Tensor
    accuracy: float
    logits: Tensor
    labels: Tensor


def mean_cosine(vectors: Tensor) -> float:
    """Mean cosine similarity over all pairs of different rows of (vectors, dimensions).

    NaN for fewer than two rows. A row of zeros is at right angles to all others.
    """
    count = len(vectors)
    if count < 2:
        return math.nan
    units = F.normalize(vectors.double(), dim=1)
    # The square of a sum holds each pair twice, and each vector with itself.
    total = units.sum(dim=0).square().sum() - units.square().sum()
    return float(total) / (count * (count - 1))


def first_images(labels: Tensor, classes: int, count: int) -> list[Tensor]:
    """Indices of the first `count` images of each of the first `classes` classes."""
    return [(labels == label).nonzero().squeeze(1)[:count] for label in range(classes)]


def analyze_set(
    images: DistilledDataset, teacher: nn.Module, runtime: Runtime, name: str
) -> SetAnalysis:
    """Analyze a set with a teacher: at most 50 images of each of the first 100 classes.

    Args:
        images: The set.
        teacher: A network for its classes and size, in eval mode, on the device.
        runtime: Device, precision, progress.
        name: The set's name, for the progress bar.

    Raises:
        ValueError: If the network has no linear classifier.
    """
    classes = len(images.class_names)
    places = first_images(images.labels, min(classes, MOST_CLASSES), MOST_IMAGES)

    def pixels(index: Tensor) -> Tensor:
        return images.normalization.normalize(images.images[index])

    batches = runtime.track(torch.split(torch.cat(places), BATCH), f"analysis of {name}")
    on_device = (pixels(index).to(runtime.device) for index in batches)
    features, logits = teacher_features(teacher, on_device, runtime)
    cosine, pixel_cosine = torch.full((2, classes), math.nan)
    class_features = torch.split(features, [len(index) for index in places])
    for label, (index, vectors) in enumerate(zip(places, class_features, strict=True)):
        cosine[label] = mean_cosine(vectors)
        pixel_cosine[label] = mean_cosine(pixels(index).flatten(1))
    labels = images.labels[torch.cat(places)]
    accuracy = 100.0 * float((logits.argmax(dim=1) == labels).double().mean())
    return SetAnalysis(cosine, pixel_cosine, accuracy, logits, labels)


def map_points(vectors: Tensor) -> Tensor:
    """Map vectors, (points, dimensions), to the plane by t-SNE: float32 (points, 2).

    The perplexity is 30, or less for fewer than 91 points. The result is deterministic. Equal
    vectors, which scikit-learn cannot take, are all at the origin.
    """
    if bool((vectors == vectors[0]).all()):
        return torch.zeros(len(vectors), 2)
    from sklearn.manifold import TSNE  # slow to import

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=0)
    return torch.from_numpy(layout.fit_transform(vectors.numpy())).float()


def choose_teacher(paths: Sequence[Path]) -> Path:
    """The teacher of figure 8, ResNet18, if it is among the paths, else the first one."""

    def is_resnet18(path: Path) -> bool:
        name: str = checked_header(path)["backbone"]
        return name.rpartition("/")[2] == MAP_TEACHER

    return next(filter(is_resnet18, paths), paths[0])


def analyze(workdir: str | Path, quiet: bool = False) -> Path | None:
    """Compare the sets of a work directory by a teacher's features and logits, and save the result.

    Does nothing if the file is up to date. Its header has the names of the `sets` in order, the
    `teacher`, and its `accuracy` on each set. Its tensors are `cosine/SET` and `pixel_cosine/SET`
    (see `SetAnalysis`), and a map of the logits of up to 20 classes: `tsne/points` float32
    (points, 2), `tsne/labels` and `tsne/set` (index into the sets) int64 (points,).

    Returns:
        The file, or None without a set, or without a teacher that has a linear classifier.

    Raises:
        ArtifactError: If a file is damaged.
    """
    workspace = Workspace(Path(workdir))
    sets, path = workspace.image_sets(), workspace.analysis
    files = {name: fingerprint(checked_header(file)["recipe"]) for name, file in sets.items()}
    for teachers in (workspace.teachers(), buildable(workspace.teachers())):
        if not sets or not teachers:
            return None
        chosen = choose_teacher(teachers)
        teacher = fingerprint(checked_header(chosen)["recipe"])
        recipe: Recipe = {"stage": "analysis", "images": files, "teacher": teacher}
        if is_current(path, recipe):
            return path
    runtime = resolve_runtime("auto", "fp32", 0, math.inf, quiet)
    model, header = read_teacher(chosen, runtime)
    try:
        analyses = {
            name: analyze_set(load_images(file), model, runtime, name)
            for name, file in sets.items()
        }
    except ValueError as error:
        log.warning("the sets are not compared by their features: %s", error)
        return None
    tensors = _map_tensors(list(analyses.values()))
    for name, analysis in analyses.items():
        tensors[f"cosine/{name}"] = analysis.cosine
        tensors[f"pixel_cosine/{name}"] = analysis.pixel_cosine
    header_entries = {
        "kind": "analysis",
        "recipe": recipe,
        "sets": list(analyses),
        "teacher": header["backbone"],
        "accuracy": {name: analysis.accuracy for name, analysis in analyses.items()},
    }
    save(path, tensors, header_entries)
    return path


def _map_tensors(analyses: Sequence[SetAnalysis]) -> dict[str, Tensor]:
    """Tensors of the map of logits."""
    masks = [analysis.labels < MAP_CLASSES for analysis in analyses]
    pairs = list(zip(analyses, masks, strict=True))
    logits = torch.cat([analysis.logits[mask] for analysis, mask in pairs])
    labels = torch.cat([analysis.labels[mask] for analysis, mask in pairs])
    counts = torch.tensor([int(mask.sum()) for mask in masks])
    sets = torch.arange(len(analyses)).repeat_interleave(counts)
    return {"tsne/points": map_points(logits), "tsne/labels": labels, "tsne/set": sets}
