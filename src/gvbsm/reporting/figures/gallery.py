"""All figures of a work directory, in the order of the page, with captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config import WHOLE_SET
from gvbsm.engine.progress.spelling import spell_count, spell_range
from gvbsm.files.network_names import file_stem
from gvbsm.files.schema import Continual, checked_header, checked_json
from gvbsm.reporting.analysis import MOST_CLASSES, MOST_IMAGES
from gvbsm.reporting.figures.accuracy import draw_confusion, draw_continual, draw_methods
from gvbsm.reporting.figures.captions import CaptionedFigure
from gvbsm.reporting.figures.curves import TrainingCurve, draw_losses, draw_training
from gvbsm.reporting.figures.images import PictureGrid, film_gif, first_of_classes
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
from gvbsm.reporting.figures.style import compact
from gvbsm.reporting.figures.sweeps import study_figures
from gvbsm.reporting.wording import listed, share
from gvbsm.store.distilled import DistilledDataset, load_images
from gvbsm.store.film import load_film
from gvbsm.store.workdir import Workspace

SHOWN_CLASSES, SHOWN_IMAGES = 20, 10  # rows and columns of a figure of images
SHOWN_BESIDE = 3  # images of a class beside real ones
SHOWN_SETS = 4  # beside each other
DISTILLED = ("gvbsm", "sre2l")  # methods whose images are no real pictures


def gallery(workdir: Path) -> Iterator[CaptionedFigure]:
    """Draw the figures of a work directory or of a sweep's folder, one at a time.

    Figures whose files do not exist are left out.

    Raises:
        ArtifactError: If a file is damaged.
    """
    workspace = Workspace(workdir)
    figure_makers: tuple[Callable[[Workspace], Iterator[CaptionedFigure]], ...] = (
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
    for make_figures in figure_makers:
        yield from make_figures(workspace)
    yield from study_figures(workdir)


def _images(workspace: Workspace) -> Iterator[CaptionedFigure]:
    """Figures 1, 7 and 11 to 14: the run's images beside real ones, other sets, more images."""
    paths = workspace.image_sets()
    if not paths:
        return
    method, *others = paths
    distilled = load_images(paths[method])
    names = distilled.class_names[:SHOWN_CLASSES]
    classes, counts = len(distilled.class_names), distilled.counts
    which = f"the first {len(names)} of {classes}" if len(names) < classes else f"all {classes}"
    more = _first_images(distilled, SHOWN_IMAGES)
    del distilled  # one set in memory at a time: those of ImageNet take gigabytes
    own = [images[:SHOWN_BESIDE] for images in more]
    groups = {"distilled" if method in DISTILLED else method: own}
    columns, ipc = max(map(len, own)), spell_range(counts)
    images = f"{spell_count(columns, 'image')}{f' of {ipc}' if max(counts) > columns else ''}"
    images = f"up to {images}" if min(counts) < columns else images
    real = next((name for name in ("real", "random") if name in others), None)
    beside = ""
    if real is not None:
        groups["real"] = _first_images(load_images(paths[real]), max(2, columns))
        beside = f" beside {spell_count(max(map(len, groups['real'])), 'real picture')}"
    yield CaptionedFigure(
        "images",
        "Distilled and real images" if method in DISTILLED else "Images of the set",
        f"Each class has {images}{beside}; {which} classes. The resolution is that of the "
        "students' input.",
        f"Images of {listed(groups)}",
        PictureGrid(groups, names),
    )
    if max(counts) > SHOWN_BESIDE:
        yield CaptionedFigure(
            "images-more",
            "More distilled images" if method in DISTILLED else "More images of the set",
            f"The first {max(map(len, more))} of {ipc} images per class, {which} classes.",
            f"Images of {method}",
            PictureGrid({"": more}, names),
        )
    baselines = [name for name in others if name != "real" and name != real]
    if baselines:
        shown = {name: paths[name] for name in baselines[:SHOWN_SETS]}
        sets = {name: _first_images(load_images(path), 2) for name, path in shown.items()}
        yield CaptionedFigure(
            "images-sets",
            "Images of the baselines",
            f"The first images of each class ({which} classes) of {listed(shown)}"
            f"{' (random: real pictures)' if 'random' in shown else ''}.",
            f"Images of {listed(shown)}",
            PictureGrid(sets, names),
        )


def _first_images(dataset: DistilledDataset, columns: int) -> list[Tensor]:
    """A copy of the first images of the first classes; the set itself can then be freed."""
    classes = min(SHOWN_CLASSES, len(dataset.class_names))
    return first_of_classes(dataset.images, dataset.labels, classes, columns)


def _film(workspace: Workspace) -> Iterator[CaptionedFigure]:
    film = load_film(workspace.directory)
    if film is None:
        return
    path = workspace.images
    header = checked_header(path)
    with fitting(path):
        names = [header["class_names"][label] for label in film.labels.tolist()]
        start = header["recipe"]["synthesis"]["init"]
    steps = film.steps.tolist()
    origin = "noise" if start == "noise" else "a real picture"
    columns = ["start" if step == 0 else compact(step) for step in steps]
    yield CaptionedFigure(
        "film",
        "The images during the synthesis",
        f"The first image of {len(names)} classes, from its start ({origin}) on the left to step "
        f"{steps[-1]}, the last, on the right. The images are those after {listed(map(str, steps))}"
        " steps: closer together at the beginning, where images from noise change most.",
        f"Images over {steps[-1]} steps of the synthesis",
        PictureGrid({"": list(film.frames)}, names, {"": columns}),
        film_gif(film.frames, steps, names),
    )


def _accuracies(workspace: Workspace) -> Iterator[CaptionedFigure]:
    """The accuracy of all methods, then errors and training of each student architecture."""
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
            f"student (up to {several} for each method). The vertical bar is their mean, the "
            "horizontal line one sample standard deviation to each side. Hollow marks: trained "
            "with hard labels. The axis does not start at 0.",
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
    """The confusion matrix and training curves of one architecture."""
    name, method = students[0].name, students[0].method
    matrices = [s.confusion for s in students if s.method == method and s.confusion is not None]
    if matrices and len(matrices[0]) == len(classes):
        counts = torch.stack(matrices).sum(dim=0)
        yield CaptionedFigure(
            f"confusion-{file_stem(name)}",
            f"Confusion matrix of {name}",
            f"Students of {method} (n = {len(matrices)}, summed) on the real test pictures. Each "
            "row is a true class; its cells are the percentages of its pictures by predicted "
            f"class. The diagonal is correct. {_worst(counts, classes)}",
            f"Confusion matrix of {len(classes)} classes",
            draw_confusion(counts, classes),
        )
    runs: dict[str, list[TrainingCurve]] = {}
    for student in students:
        runs.setdefault(student.method, []).append(student.history)
    numbers = [len(histories) for histories in runs.values()]
    most = spell_count(max(numbers), "student")
    most = f"up to {most}" if min(numbers) < max(numbers) else most
    yield CaptionedFigure(
        f"students-{file_stem(name)}",
        f"Training of the students, {name}",
        "Top: mean loss on the training images in each epoch, a panel for each kind of loss, since "
        "losses of different kinds cannot be compared. Bottom: accuracy on the real test pictures. "
        f"A line is the mean of {most}, its band their range. Dashed: hard labels.",
        f"Loss and test accuracy over epochs for {listed(runs)}",
        draw_training(runs, methods=True),
    )


def _worst(counts: Tensor, classes: Sequence[str]) -> str:
    """A sentence on the most frequent error."""
    shares = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    wrong = shares.fill_diagonal_(0)
    row, column = divmod(int(wrong.argmax()), len(classes))
    if not wrong[row, column]:
        return "There are no errors."
    percent = share(float(wrong[row, column]), 1)
    return f"Most frequent error: {percent} of {classes[row]} classified as {classes[column]}."


def _continual(workspace: Workspace) -> Iterator[CaptionedFigure]:
    path = workspace.continual
    if not path.is_file():
        return
    content = checked_json(Continual, path)
    rows, classes, orders = content["rows"], content["classes"], len(content["orders"])
    note = content["note"]
    if rows:
        yield CaptionedFigure(
            "continual",
            "Continual learning",
            "Classes arrive step by step. After each step a student is trained from scratch on the "
            "images of all classes so far and tested on the real pictures of these classes. Lines "
            f"are means over {orders} random orders of the classes, bands one sample standard "
            f"deviation. {note}",
            "Accuracy against the number of classes so far",
            draw_continual(classes, rows),
        )


def _cosine(workspace: Workspace) -> Iterator[CaptionedFigure]:
    analysis = read_analysis(workspace)
    if analysis is None:
        return
    sets = [name for name in analysis.sets if analysis.tensors[f"cosine/{name}"].isfinite().any()]
    if len(sets) < min(2, len(analysis.sets)):
        return  # one image per class: no pairs to compare
    tables = {
        title: {name: analysis.tensors[f"{key}/{name}"] for name in sets}
        for title, key in (
            (f"features of {analysis.teacher}", "cosine"),
            ("pixels", "pixel_cosine"),
        )
    }
    accuracies = ", ".join(f"{name} {analysis.accuracy[name]:.1f} %" for name in sets)
    count = len(analysis.tensors[f"cosine/{sets[0]}"])
    first = f", of the first {MOST_CLASSES} of {count:,} classes" if count > MOST_CLASSES else ""
    yield CaptionedFigure(
        "cosine",
        "Similarity of images within a class",
        "Mean cosine similarity of two images of the same class, over at most "
        f"{MOST_IMAGES} images of each class{first}. Each dot is a class; the vertical bar and the "
        "number at the right are their mean. Further left is more diverse. Top: features of the "
        f"teacher {analysis.teacher}. Bottom: normalized pixels. The teacher's accuracy on these "
        f"images: {accuracies}.",
        f"Similarity within classes of {listed(sets)}",
        draw_cosine(tables),
    )


def _tsne(workspace: Workspace) -> Iterator[CaptionedFigure]:
    analysis, names = read_analysis(workspace), _class_names(workspace)
    if analysis is None:
        return
    points, labels = analysis.tensors["tsne/points"], analysis.tensors["tsne/labels"]
    with fitting(workspace.analysis):
        classes = len({names[label] for label in labels.tolist()})
    colored = "" if classes <= len(CLASS_COLORS) else f" {len(CLASS_COLORS)} of them are colored."
    yield CaptionedFigure(
        "tsne",
        "Map of the logits (t-SNE)",
        f"Logits of {analysis.teacher} on {len(points)} images of {classes} classes, mapped to the "
        f"plane by one t-SNE of all sets; a panel for each set. Colors are classes.{colored} Close "
        "points have similar logits. Axes and distances between clusters have no meaning.",
        f"Map of logits of {listed(analysis.sets)}",
        draw_tsne(points, labels, analysis.tensors["tsne/set"], analysis.sets, names),
    )


def _losses(workspace: Workspace) -> Iterator[CaptionedFigure]:
    path = workspace.images
    if not path.is_file():
        return
    header = checked_header(path)
    with fitting(path):
        traces = header["traces"]
        if not any(row["cross_entropy"] for trace in traces for row in trace):
            return  # real pictures
        figure = draw_losses(traces)
        start = header["recipe"]["synthesis"]["init"]
    rise = (
        ""
        if start == "noise"
        else " The images start as real pictures, which the teachers classify well: the "
        "cross-entropy may rise while the other terms fall."
    )
    yield CaptionedFigure(
        "losses",
        "The loss of the synthesis",
        "Each term of the loss on its own scale, before its weight, over the steps. Dots are "
        f"logged steps (means of {spell_count(len(traces), 'batch')} of images), lines their "
        "running median. Every "
        "step uses one teacher. The scale of its values depends on its layers, so each teacher has "
        "a line. Densification depends on the images only; the size of its gradient shows where "
        f"it acts. Logarithmic axes do not show zeros.{rise}",
        "Terms of the loss over the steps of synthesis",
        figure,
    )


def _teachers(workspace: Workspace) -> Iterator[CaptionedFigure]:
    histories = read_teachers(workspace)
    if histories:
        yield CaptionedFigure(
            "teachers",
            "Training of the teachers",
            "Top: mean loss on the real training pictures in each epoch. Bottom: accuracy on the "
            "real test pictures. Each line is one network.",
            f"Loss and test accuracy over epochs for {listed(histories)}",
            draw_training({name: [history] for name, history in histories.items()}),
        )


def _statistics(workspace: Workspace) -> Iterator[CaptionedFigure]:
    layers = read_layers(workspace)
    if layers:
        yield CaptionedFigure(
            "statistics",
            "Statistics of the real data in the teachers",
            "Channel means (left) and channel variances (right) of each layer, in the order of the "
            "network: their mean (solid) and variance (dashed) over the channels. A sigmoid maps "
            "the values to 0 to 1, so that 0.5 stands for 0. BatchNorm and convolutions differ, "
            "which is why the method matches both.",
            f"Statistics by layer for {listed(layers)}",
            draw_statistics(layers),
        )


def _class_names(workspace: Workspace) -> tuple[str, ...]:
    """Names of the classes, from the first set or teacher; empty without either."""
    for path in (*workspace.image_sets().values(), *workspace.teachers()):
        header = checked_header(path)
        with fitting(path):
            return tuple(map(str, header["class_names"]))
    return ()
