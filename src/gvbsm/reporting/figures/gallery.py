"""Everything that can be drawn of a work directory, in the order of reading, with captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config import WHOLE_SET
from gvbsm.files.artifacts import read_json
from gvbsm.files.schema import Continual, checked, checked_header
from gvbsm.reporting.figures.accuracy import draw_confusion, draw_continual, draw_methods
from gvbsm.reporting.figures.captions import CaptionedFigure, count
from gvbsm.reporting.figures.curves import TrainingCurve, draw_losses, draw_training
from gvbsm.reporting.figures.images import draw_film, draw_images, film_gif, first_of_classes
from gvbsm.reporting.figures.layers import draw_statistics
from gvbsm.reporting.figures.pareto import pareto_figure
from gvbsm.reporting.figures.reading import (
    Student,
    fitting,
    read_analysis,
    read_layers,
    read_rows,
    read_students,
    read_teachers,
    run_sets,
)
from gvbsm.reporting.figures.sets import CLASS_COLORS, draw_cosine, draw_tsne
from gvbsm.reporting.figures.sweeps import study_figures
from gvbsm.reporting.wording import listed
from gvbsm.store.distilled import DistilledDataset, load_images
from gvbsm.store.film import load_film
from gvbsm.store.teachers import file_name
from gvbsm.store.workdir import Workspace

SHOWN_CLASSES, SHOWN_IMAGES = 20, 10  # rows and columns of a figure of images
SHOWN_SETS = 4  # beside each other


def gallery(workdir: Path) -> Iterator[CaptionedFigure]:
    """Draw whatever the files of a work directory, or of a sweep's, allow, one at a time.

    A file that is not there leaves its figure out.

    Raises:
        ArtifactError: If a file is damaged.
    """
    workspace = Workspace(workdir)
    parts: tuple[Callable[[Workspace], Iterator[CaptionedFigure]], ...] = (
        _images,
        _film,
        _accuracies,
        _costs,
        _continual,
        _cosine,
        _tsne,
        _losses,
        _teachers,
        _statistics,
    )
    for part in parts:
        yield from part(workspace)
    yield from study_figures(workdir)


def _images(workspace: Workspace) -> Iterator[CaptionedFigure]:
    """Figures 1, 7 and 11 to 14: sets beside each other, and more of the run's own."""
    paths = _beside(workspace.image_sets())
    if not paths:
        return
    own, *others = paths
    columns = max(1, SHOWN_IMAGES // len(paths))
    first = load_images(paths[own])
    more = _corner(first, SHOWN_IMAGES)
    names, ipc = first.class_names[:SHOWN_CLASSES], first.ipc
    which = f"the first {len(names)} of {len(first.class_names)} classes"
    del first  # one set at a time: those of ImageNet take gigabytes
    groups = {own: more[:, :columns]}
    groups |= {name: _corner(load_images(paths[name]), columns) for name in others}
    yield CaptionedFigure(
        "images",
        "Images beside each other" if others else "Images",
        f"A row a class ({which}), and in it up to {columns} images of each set: "
        f"{listed(paths)}{_real_ones(paths)}. They have the resolution that students see.",
        f"Grid of images, {len(names)} classes by {columns} of each of {listed(paths)}",
        draw_images(groups, names),
    )
    if ipc > columns and others:
        yield CaptionedFigure(
            "images-more",
            f"More images of {own}",
            f"The first {more.shape[1]} of {ipc} images per class, {which}.",
            f"Grid of {own} images, {len(names)} classes by {more.shape[1]}",
            draw_images({own: more}, names),
        )


def _beside(paths: Mapping[str, Path]) -> dict[str, Path]:
    """The sets to show: random pictures are real ones, and stand in for them only if need be."""
    names = [
        name
        for index, name in enumerate(paths)
        if index == 0 or name != "random" or "real" not in paths
    ]
    if len(names) > SHOWN_SETS:
        names = [*names[: SHOWN_SETS - 1], names[-1]]
    return {name: paths[name] for name in names}


def _real_ones(names: Iterable[str]) -> str:
    """Tell which of the sets are no distilled ones."""
    found = [name for name in names if name in ("random", "real")]
    return f" ({listed(found)}: real pictures)" if found else ""


def _corner(found: DistilledDataset, columns: int) -> Tensor:
    """The first images of the first classes, as a tensor of their own."""
    classes = min(SHOWN_CLASSES, len(found.class_names))
    return first_of_classes(found.images, found.ipc, classes, columns).clone()


def _film(workspace: Workspace) -> Iterator[CaptionedFigure]:
    film = load_film(workspace.directory)
    if film is None:
        return
    path = workspace.directory / "synthesis" / "images.safetensors"
    header = checked_header(path)
    with fitting(path):
        names = [header["class_names"][label] for label in film.labels.tolist()]
        start = header["recipe"]["synthesis"]["init"]
    steps = film.steps.tolist()
    origin = "noise" if start == "noise" else "a real picture"
    yield CaptionedFigure(
        "film",
        "How the images came to be",
        f"The first image of {len(names)} classes, from its start ({origin}) on the left to the "
        f"end of its {steps[-1]} steps on the right. The steps, above the columns, lie closer "
        "together at the beginning, where most happens.",
        f"{len(names)} images forming over {steps[-1]} steps",
        draw_film(film.frames, steps, names),
        film_gif(film.frames, steps, names),
    )


def _accuracies(workspace: Workspace) -> Iterator[CaptionedFigure]:
    """Methods beside each other, then each kind of student: its training, and its mistakes."""
    rows = read_rows(workspace)
    if not [row for row in rows if row["method"] not in WHOLE_SET]:
        return
    classes = _class_names(workspace)
    several = max(len(row["top1"]["values"]) for row in rows)
    if classes:
        yield CaptionedFigure(
            "methods",
            "Accuracy of every method",
            "Accuracy on the real test pictures after the last epoch, in percent. Each mark is one "
            f"student (up to {several} of a method); the upright bar is their mean and the line "
            "across it one sample deviation to each side. Hollow marks: trained with hard labels. "
            "The axis does not start at 0.",
            "Accuracies of " + listed(list(dict.fromkeys(row["method"] for row in rows))),
            draw_methods(rows, 100 / len(classes)),
        )
    students = read_students(workspace, rows)
    for name in dict.fromkeys(student.name for student in students):
        yield from _student([student for student in students if student.name == name], classes)


def _costs(workspace: Workspace) -> Iterator[CaptionedFigure]:
    front = pareto_figure("pareto", "Accuracy for time and storage", run_sets(workspace), "")
    if front is not None:
        yield front


def _student(students: Sequence[Student], classes: Sequence[str]) -> Iterator[CaptionedFigure]:
    """One architecture's confusion matrix and training."""
    name, own = students[0].name, students[0].method
    mine = [s.confusion for s in students if s.method == own and s.confusion is not None]
    if mine and len(mine[0]) == len(classes):
        counts = torch.stack(mine).sum(dim=0)
        yield CaptionedFigure(
            f"confusion-{_file(name)}",
            f"What {name} mistakes for what",
            f"Students of {own} (n = {len(mine)}, summed) on the real test pictures: each row is a "
            "true class, and its cells are the percentages of its pictures that were taken for "
            f"each class; the diagonal is right. {_worst(counts, classes)}",
            f"Confusion matrix of {len(classes)} classes",
            draw_confusion(counts, classes),
        )
    runs: dict[str, list[TrainingCurve]] = {}
    for student in students:
        runs.setdefault(student.method, []).append(student.history)
    numbers = [len(histories) for histories in runs.values()]
    most = f"{'up to ' if min(numbers) < max(numbers) else ''}{count(max(numbers), 'student')}"
    yield CaptionedFigure(
        f"students-{_file(name)}",
        f"Training of the students, {name}",
        "Above, the loss on the training images in each epoch; below, the accuracy on the real "
        f"test pictures. A line is the mean of {most} and its band their range. Losses of soft and "
        "of hard labels (dashed) are of different kinds and are not to be compared.",
        f"Loss and test accuracy over epochs for {listed(runs)}",
        draw_training(runs, methods=True),
    )


def _worst(counts: Tensor, classes: Sequence[str]) -> str:
    """The commonest mistake, in words."""
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    wrong = share.fill_diagonal_(0)
    row, column = divmod(int(wrong.argmax()), len(classes))
    if not wrong[row, column]:
        return "There are no mistakes."
    percent = 100 * float(wrong[row, column])
    return f"The commonest mistake: {percent:.0f} % of {classes[row]} taken for {classes[column]}."


def _continual(workspace: Workspace) -> Iterator[CaptionedFigure]:
    path = workspace.continual
    if not path.is_file():
        return
    content = read_json(path)
    checked(Continual, content, path)
    rows, classes, orders = content["rows"], content["classes"], len(content["orders"])
    note = content["note"]
    if rows:
        yield CaptionedFigure(
            "continual",
            "Continual learning",
            "Classes arrive step by step; after each step a student is trained from scratch on the "
            "images of all classes seen so far and tested on the real pictures of these classes. "
            f"Lines are means over {orders} random orders of the classes, bands one sample "
            f"deviation. {note}",
            "Accuracy against the number of classes seen",
            draw_continual(classes, rows),
        )


def _cosine(workspace: Workspace) -> Iterator[CaptionedFigure]:
    found = read_analysis(workspace)
    if found is None:
        return
    tables = {
        f"{what}": {name: found.tensors[f"{key}/{name}"] for name in found.sets}
        for what, key in ((f"features of {found.teacher}", "cosine"), ("pixels", "pixel_cosine"))
    }
    if not any(bool(v.isfinite().any()) for table in tables.values() for v in table.values()):
        return  # one image a class everywhere
    judged = ", ".join(f"{name} {percent:.1f} %" for name, percent in found.accuracy.items())
    yield CaptionedFigure(
        "cosine",
        "How alike the images of a class are",
        "Mean cosine similarity of two images of the same class: a dot a class, the upright bar "
        "and the number at the right their mean. Further left is more diverse. Above, of the "
        f"features that {found.teacher} computes; below, of the normalized pixels. This teacher's "
        f"own accuracy on the sets: {judged}.",
        f"Similarity within classes of {listed(found.sets)}",
        draw_cosine(tables),
    )


def _tsne(workspace: Workspace) -> Iterator[CaptionedFigure]:
    found, names = read_analysis(workspace), _class_names(workspace)
    if found is None:
        return
    points, labels = found.tensors["tsne/points"], found.tensors["tsne/labels"]
    with fitting(workspace.analysis):
        classes = len({names[label] for label in labels.tolist()})
    picked = "" if classes <= len(CLASS_COLORS) else f" {len(CLASS_COLORS)} of them are colored."
    yield CaptionedFigure(
        "tsne",
        "Where the logits lie",
        f"The logits that {found.teacher} gives to {len(points)} images of {classes} classes, laid "
        "out in the plane by t-SNE, all sets together, then shown set by set; colors are classes."
        f"{picked} Near points have like logits; distances between clusters and the axes mean "
        "nothing.",
        f"Map of logits of {listed(found.sets)}",
        draw_tsne(points, labels, found.tensors["tsne/set"], found.sets, names),
    )


def _losses(workspace: Workspace) -> Iterator[CaptionedFigure]:
    path = workspace.directory / "synthesis" / "images.safetensors"
    if not path.is_file():
        return
    header = checked_header(path)
    with fitting(path):
        traces = header["traces"]
        if not any(row[term] for trace in traces for row in trace for term in ("cross_entropy",)):
            return  # real pictures
        figure = draw_losses(traces)
    yield CaptionedFigure(
        "losses",
        "The loss of the synthesis",
        "Each term of the loss, before its weight, over the steps: dots are logged steps (means of "
        f"{count(len(traces), 'batch', 'batches')} of images), lines a running median. Every step "
        "asks one teacher, and a teacher's values are as large as its layers make them, so each "
        "has a line; the densification looks at the images alone. On a logarithmic axis zeros are "
        "not seen.",
        "Terms of the loss over the steps of synthesis",
        figure,
    )


def _teachers(workspace: Workspace) -> Iterator[CaptionedFigure]:
    histories = read_teachers(workspace)
    if histories:
        yield CaptionedFigure(
            "teachers",
            "Training of the teachers",
            "Above, the loss on the real training pictures in each epoch; below, the accuracy on "
            f"the real test pictures. One network of each kind (n = {len(histories)}).",
            f"Loss and test accuracy over epochs for {listed(histories)}",
            draw_training({name: [history] for name, history in histories.items()}),
        )


def _statistics(workspace: Workspace) -> Iterator[CaptionedFigure]:
    layers = read_layers(workspace)
    if layers:
        yield CaptionedFigure(
            "statistics",
            "What the teachers know of the real data",
            "For each layer, in the order of the network, the mean (solid) and the variance "
            "(dashed) over its channels of the channel means (left) and channel variances (right), "
            "squeezed into 0 to 1 by a sigmoid, so that 0.5 stands for 0. BatchNorm and "
            "convolutions tell different things, which is why both are matched.",
            f"Statistics by layer for {listed(layers)}",
            draw_statistics(layers),
        )


def _class_names(workspace: Workspace) -> tuple[str, ...]:
    """Names of the classes, from any set or teacher; none without either."""
    for path in (*workspace.image_sets().values(), *workspace.teachers()):
        header = checked_header(path)
        with fitting(path):
            return tuple(map(str, header["class_names"]))
    return ()


def _file(backbone: str) -> str:
    return file_name(backbone).removesuffix(".safetensors")
