"""Each figure: what is on its axes, its colors, and that nothing overlaps or is cut off."""

import io
import itertools
import math
import re
import statistics
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from gvbsm.config import SynthesisConfig
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.files.sizes import byte_count
from gvbsm.reporting.figures.accuracy import draw_confusion, draw_continual, draw_methods
from gvbsm.reporting.figures.curves import (
    TERMS,
    TrainingCurve,
    draw_losses,
    draw_training,
    running_median,
)
from gvbsm.reporting.figures.images import (
    STRIP_CELL,
    PictureGrid,
    film_gif,
    sheet,
    sheet_png,
    strips,
)
from gvbsm.reporting.figures.layers import LayerStatistics, draw_statistics
from gvbsm.reporting.figures.sets import CLASS_COLORS, draw_cosine, draw_tsne
from gvbsm.reporting.figures.studies import (
    CostPoint,
    draw_against_bytes,
    draw_against_time,
    draw_points,
    draw_scaling,
)
from gvbsm.reporting.figures.style import (
    COLORS,
    compact,
    figure_bytes,
    method_style,
    new_figure,
    shorten,
    styled,
)
from gvbsm.reporting.figures.svg import page_svg
from gvbsm.stages.synthesis_task import SynthesisTask
from gvbsm.studies.published import PublishedColumn
from support.fonts import installed, write_font

METHODS = (
    "gvbsm",
    "sre2l",
    "random-soft",
    "random-hard",
    "herding-soft",
    "herding-hard",
    "k-center-soft",
    "k-center-hard",
    "balanced-soft",
    "balanced-hard",
    "forgetting-soft",
    "forgetting-hard",
    "curriculum-soft",
    "curriculum-hard",
    "full",
)
AWKWARD = [r"$\frac$ and {", "ein sehr langer Name einer Klasse, wirklich", "äß 猫", "a\nb", " "]


def top1(*values):
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def row(method, student, *values, **more):
    return {"method": method, "student": student, "ipc": 10, "top1": top1(*values), **more}


def laid_out(figure):
    """The figure with all places settled."""
    with styled():
        figure.draw_without_rendering()
    return figure


def texts(figure):
    """Every text that is seen; matplotlib keeps labels of ticks beyond an axis's ends."""
    beyond = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not axes.axison or not low <= tick.get_loc() <= high:
                    beyond |= {tick.label1, tick.label2}
    found = (text for text in figure.findobj(Text) if text not in beyond)
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def words(figure):
    return {text.get_text() for text in texts(figure)}


def assert_readable(figure):
    """Nothing is cut off, no labels of one axis touch, and no letter is smaller than 8 points."""
    laid_out(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for text in texts(figure):
        box = text.get_window_extent()
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
        assert inside, f"{text.get_text()!r} is cut off"
        assert text.get_fontsize() >= 8
    seen = set(texts(figure))
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            turned = [t for t in labels if t in seen and t.get_rotation() in (0, 90)]
            for one, other in itertools.pairwise(turned):
                a, b = one.get_window_extent(), other.get_window_extent()
                apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
                assert apart, f"{one.get_text()!r} touches {other.get_text()!r}"


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def xy(line):
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


# Style


def test_a_method_has_one_color_and_hard_labels_are_hollow():
    soft, hard = method_style("random-soft"), method_style("random-hard")
    assert soft.color == hard.color == method_style("random").color
    assert (soft.face, soft.dashes) == (soft.color, "-")
    assert (hard.face, hard.dashes) == (COLORS["white"], "--")
    styles = {method_style(name)[:3] for name in METHODS}
    assert len(styles) == len(METHODS)
    assert method_style("mine") == method_style("mine")
    sources = {name.rpartition("-")[0] or name for name in METHODS if "-" in name}
    assert len({method_style(name).color for name in {*sources, "gvbsm", "sre2l", "full"}}) == 9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.4, "0.4"),
        (50, "50"),
        (1500, "1.5k"),
        (2e6, "2M"),
        (1e-5, "1e-05"),
        (3e9, "3G"),
        (999_600, "1M"),
        (1.2e12, "1,200G"),
    ],
)
def test_numbers_are_short(value, text):
    assert compact(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999, "999 B"),
        (1000, "1 kB"),
        (3.07e6, "3.07 MB"),
        (4.2e9, "4.2 GB"),
        (999_499, "999 kB"),
        (999_600, "1 MB"),
        (999_700_000_000, "1 TB"),
        (1.2e15, "1,200 TB"),
    ],
)
def test_bytes_have_units(value, text):
    assert byte_count(value) == text


def test_long_names_are_cut_and_lines_are_joined():
    assert shorten("a\n b", 5) == "a b"
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcde fgh", 7) == "abcde…"


def simple():
    figure = new_figure(3, 2)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4])
    axes.set_title("words")
    return figure


def test_the_bytes_of_a_figure_repeat_and_its_text_stays_text():
    with styled():
        figure, again = simple(), simple()
    svg, pdf = (figure_bytes(figure, kind) for kind in ("svg", "pdf"))
    assert b">words</text>" in svg
    assert pdf.startswith(b"%PDF-")
    assert b"/FontFile2" in pdf  # TrueType, inside
    assert b"CreationDate" not in pdf
    assert [figure_bytes(again, kind) for kind in ("svg", "pdf")] == [svg, pdf]


def test_a_figure_follows_the_scheme_of_its_page():
    with styled():
        figure = simple()
        figure.axes[0].plot([1, 2], [4, 3], "o", color=COLORS["blue"], markerfacecolor="#fefefe")
        figure.axes[0].set_title("\x1b " + shorten("\ud800 <b> é"))
    content = figure_bytes(figure, "svg")
    first, second = (page_svg(content, name, 'a "b"') for name in ("net/1", "two"))
    assert "var(--figure-blue)" in first
    assert "var(--figure-gray)" in first  # the axes
    assert "var(--figure-grid)" in first
    assert "#fefefe" in first  # no color of the figures: it stays
    assert "? ? &lt;b&gt; é" in first
    assert "font-family" not in first
    root = ElementTree.fromstring(first)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'a "b"')
    assert root.get("width") is None
    ids = [{e.get("id") for e in ElementTree.fromstring(svg).iter()} for svg in (first, second)]
    assert ids[0] & ids[1] == {None}
    assert re.findall(r"#(net-1-[^)\"]+)", first)
    assert set(re.findall(r"#(net-1-[^)\"]+)", first)) <= ids[0]


# Images


def noise(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def inked(picture):
    """The rows and columns of a picture's first and last pixel that is not white."""
    rows, columns = np.nonzero((np.asarray(picture) != 255).any(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize(
    ("rows", "columns", "channels", "size"),
    [
        (1, 1, 1, 8),
        (20, 10, 3, 32),
        (5, 3, 3, 300),
    ],
)
def test_a_sheet_of_any_number_and_size_of_images_has_a_margin(rows, columns, channels, size):
    names = (AWKWARD * 4)[:rows]
    groups = {"a method": noise(rows, columns, channels, size, size)}
    picture = sheet(PictureGrid(groups, names))
    top, bottom, left, right = inked(picture)
    assert min(top, left) >= 5
    assert max(bottom - picture.height, right - picture.width) <= -5
    assert sheet_png(PictureGrid(groups, names)) == sheet_png(PictureGrid(groups, names))


def test_titles_of_single_columns_stand_apart():
    titles = ("a rather long title", "another long title", "the third of the titles")
    white = torch.full((3, 1, 3, 8, 8), 255, dtype=torch.uint8)
    narrow, wide = (
        sheet(PictureGrid(dict.fromkeys(names, white), ["a", "b", "c"])).width
        for names in ("abc", titles)
    )
    assert wide > narrow + 100


def test_a_sheet_has_the_steps_of_a_film_above_its_columns():
    frames = noise(2, 4, 1, 8, 8)
    bare, stepped = (
        np.asarray(sheet(PictureGrid({"": frames}, AWKWARD[:2], columns)))
        for columns in ({}, {"": ["start", "1", "30", "4k"]})
    )
    changed = np.nonzero((bare != stepped).any(axis=(1, 2)))[0]
    assert len(changed)
    assert changed.max() < 60  # above the images alone


@pytest.mark.parametrize(
    ("size", "side"), [(8, 64), (28, 84), (64, 64), (100, 100), (224, STRIP_CELL[1])]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_has_a_row_of_images_with_transparent_gaps(size, side, channels):
    images = noise(2, 3, channels, size, size)
    for row, content in zip(images, strips(images), strict=True):
        with Image.open(io.BytesIO(content)) as file:
            pixels = np.asarray(file.convert("RGBA"))
        gap = side // 20
        assert pixels.shape == (side, 3 * side + 2 * gap, 4)
        opaque = (pixels[..., 3] == 255).all(axis=0)
        assert opaque.sum() == 3 * side
        assert not pixels[:, side : side + gap, 3].any()
        if side % size == 0:  # whole pixels
            times = side // size
            second = pixels[::times, side + gap : 2 * side + gap : times, :channels]
            assert (second == row[1].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("images", [1, 7])
def test_the_moving_film_shows_every_frame_for_ever(images):
    colors = torch.tensor([10, 120, 230], dtype=torch.uint8)
    frames = colors.view(1, 3, 1, 1, 1).expand(images, 3, 1, 8, 8)
    with Image.open(io.BytesIO(film_gif(frames, [0, 5, 60], (AWKWARD * 2)[:images]))) as film:
        assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", 3, 0)
        assert max(film.size) < 700
        times = []
        for frame in range(3):
            film.seek(frame)
            times.append(film.info["duration"])
            pixels = np.asarray(film.convert("RGB"))
            filled = (pixels == int(colors[frame])).all(axis=2)
            assert filled.sum() > images * 2000
            if images == 1:
                down, across = (int((filled.sum(axis=axis) > 40).sum()) for axis in (1, 0))
                assert down == across
    assert times[2] > times[0] == times[1]


# Curves


def history(losses, top1):
    step = len(losses) // len(top1)
    return TrainingCurve(list(range(step, len(losses) + 1, step)), top1, losses)


def test_training_is_drawn_as_mean_and_range_over_seeds():
    seeds = [history([4.0, 3, 2, 1], [10.0, 30]), history([2.0, 1, 0, 1], [20.0, 50])]
    figure = draw_training({"random-hard": seeds, "gvbsm": seeds[:1]}, methods=True)
    assert_readable(figure)
    losses, accuracy = figure.axes
    assert xy(line(losses, "random-hard")) == [(1, 3), (2, 2), (3, 1), (4, 1)]
    assert xy(line(accuracy, "random-hard")) == [(2, 15), (4, 40)]
    assert line(accuracy, "random-hard").get_color() == method_style("random-hard").color
    assert len(accuracy.collections) == 1  # of one student there is no band
    band = accuracy.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (10, 50)
    assert losses.get_yscale() == "linear"
    assert {"epoch", "training loss", "test accuracy, %", "gvbsm", "random-hard"} <= words(figure)


def test_each_kind_of_loss_has_a_panel_and_accuracies_have_room():
    kinds = {"gvbsm": "mse_gt", "random-soft": "mse_gt", "sre2l": "kl", "random-hard": "hard"}
    runs = {
        name: [history([1.0] * 4, [99.0, 99.2])._replace(kind=kind)] for name, kind in kinds.items()
    }
    figure = draw_training(runs, methods=True)
    assert_readable(figure)
    *losses, accuracy = figure.axes
    drawn = {axes.get_title("left"): [line.get_label() for line in axes.lines] for axes in losses}
    assert drawn == {
        "squared error to soft labels, and cross-entropy": ["gvbsm", "random-soft"],
        "KL divergence from soft labels": ["sre2l"],
        "cross-entropy with hard labels": ["random-hard"],
    }
    assert len(accuracy.lines) == 4
    low, high = accuracy.get_ylim()
    assert high - low == pytest.approx(5)
    assert low < 99 < 99.2 < high


def test_losses_of_many_decades_are_logarithmic_with_plain_numbers():
    figure = draw_training({r"$\frac$": [history([100.0, 1, 0.01], [1.0, 2, 3])]})
    assert_readable(figure)
    assert figure.axes[0].get_yscale() == "log"
    assert {"0.01", "1", "100", r"$\frac$"} <= words(figure)
    assert not any("mathdefault" in word for word in words(figure))


def trace(steps, **terms):
    zero = dict.fromkeys(TERMS, 0.0)
    return [
        {"step": s, "teacher": t, **zero, **{k: f(s) for k, f in terms.items()}} for s, t in steps
    ]


def test_legends_have_names_that_begin_with_an_underscore():
    curves = draw_training({"_mine": [history([1.0, 2], [1.0, 2])]})
    points, labels = torch.arange(8.0).view(4, 2), torch.tensor([0, 0, 1, 1])
    cloud = draw_tsne(points, labels, torch.zeros_like(labels), ["a"], ["_x", "y"])
    for figure, names in ((curves, ["_mine"]), (cloud, ["_x", "y"])):
        assert_readable(figure)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == names


def dark(picture):
    """Number of dark pixels in each row of a sheet's left part, which has the names."""
    return (np.asarray(picture.convert("L"))[:, :60] < 128).sum(1)


def test_names_of_any_script_are_drawn_with_installed_fonts(tmp_path):
    """字 is a triangle of this font, 한 a square; a box would have neither area."""
    images = [torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)]
    pictures = {name: sheet(PictureGrid({"": images}, [name])) for name in ("字", "한")}
    assert np.array_equal(*map(dark, pictures.values()))  # boxes
    with installed(write_font(tmp_path / "han.ttf", "Han", "字한")):
        areas = {name: dark(sheet(PictureGrid({"": images}, [name]))).sum() for name in pictures}
        figure = draw_confusion(torch.eye(2), ["字", "b"])
    side = 0.8 * 25
    assert areas == {"字": pytest.approx(side**2 / 2, rel=0.15), "한": pytest.approx(side**2, 0.15)}
    families = {text.get_text(): text.get_fontfamily() for text in texts(laid_out(figure))}
    assert families["字"] == ["DejaVu Sans", "Han"]
    assert families["b"] == ["DejaVu Sans"]


def test_losses_are_means_of_the_batches_a_line_for_each_teacher():
    steps = [(s, "ab"[s % 2]) for s in range(6)]
    first = trace(steps, cross_entropy=lambda s: s + 1.0, densification=lambda s: 1.0 + s)
    second = trace(steps, cross_entropy=lambda s: s + 3.0, densification=lambda s: 3.0 + s)
    for row in (*first, *second):
        row["batchnorm"] = 5.0 if row["teacher"] == "a" else 0.0
    figure = draw_losses([first, second])
    assert_readable(figure)
    entropy, batchnorm, densification = (figure.axes[i] for i in range(3))
    raw, median = entropy.lines[:2]
    assert xy(raw) == [(0, 2), (2, 4), (4, 6)]
    assert median.get_label() == "a"
    assert [line.get_label() for line in batchnorm.lines[1::2]] == ["a"]  # b has none
    assert xy(densification.lines[0]) == [(s, s + 2) for s in range(6)]  # whatever the teacher
    assert "convolution matching" not in words(figure)  # zero throughout
    assert {"cross-entropy", "BatchNorm matching", "densification", "step"} <= words(figure)


def test_every_term_that_a_synthesis_logs_has_a_title():
    config = SynthesisConfig(weight_flatness=1.0, weight_absorption=1.0, extra="module:function")
    task = SynthesisTask(config, [], {}, None, ImageCounts.even(2, 1), 4)
    assert {*TERMS} == {*task.terms, "densification_gradient"}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_terms_fill_their_panels(number):
    terms = dict.fromkeys(list(TERMS)[:number], lambda s: 1.0 + s)
    figure = draw_losses([trace([(0, "a"), (4000, "a")], **terms)])
    assert_readable(figure)
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == number
    assert (boxes[0].width > 0.7) == (number % 2 == 1)  # the whole row


def test_losses_that_vanish_do_not_stretch_the_axis():
    steps = [(s, "a") for s in range(20)]
    figure = draw_losses([trace(steps, densification=lambda s: 10.0 ** (-4 * s))])
    assert_readable(figure)
    low, high = figure.axes[0].get_ylim()
    assert (1e-8, 1) <= (low, high) < (1e-7, 2)


def test_the_median_is_taken_of_neighbors():
    values = np.array([5.0, 1, 9, 2, 2, 100, 3])
    slow = [np.median(values[max(0, i - 1) : i + 2]) for i in range(7)]
    assert running_median(values, 3).tolist() == slow
    assert running_median(np.full(3, 4.0)).tolist() == [4, 4, 4]


# Layers


def test_statistics_are_sigmoids_of_mean_and_variance_over_channels():
    layers = [
        LayerStatistics("convolution", torch.tensor([1.0, 3]), torch.tensor([0.0, 4])),
        LayerStatistics("BatchNorm", torch.tensor([-2.0, 2]), torch.tensor([1.0, 1])),
    ]
    figure = draw_statistics({"a_long/name": layers, "b": layers[:1]})
    assert_readable(figure)
    means, variances, only, _ = figure.axes

    def sigmoid(x):
        return pytest.approx(1 / (1 + math.exp(-x)))

    assert xy(line(means, "convolution, mean")) == [(0, sigmoid(2))]
    assert xy(line(means, "convolution, variance")) == [(0, sigmoid(1))]
    assert xy(line(means, "BatchNorm, mean")) == [(1, sigmoid(0))]
    assert xy(line(variances, "convolution, variance")) == [(0, sigmoid(4))]
    assert xy(line(variances, "BatchNorm, variance")) == [(1, sigmoid(0))]
    assert {entry.get_label() for entry in only.lines} == {
        "convolution, mean",
        "convolution, variance",
    }


# Sets


def test_cosines_are_a_dot_a_class_with_their_mean():
    nan = math.nan
    table = {"gvbsm": torch.tensor([0.3, nan, 0.5]), "sre2l": torch.full((3,), nan)}
    figure = draw_cosine({"features": table, "pixels": {"real": torch.rand(1000)}})
    assert_readable(figure)
    dots, mean = figure.axes[0].lines
    assert sorted(dots.get_xdata().tolist()) == pytest.approx([0.3, 0.5])
    assert mean.get_xdata() == pytest.approx([0.4, 0.4])
    assert dots.get_color() == method_style("gvbsm").color
    assert {"0.40", "no pairs", "gvbsm", "features"} <= words(figure)
    assert len(figure.axes[1].lines[0].get_xdata()) == 1000


def test_the_map_has_a_panel_a_set_and_a_color_a_class():
    points = torch.arange(24.0).view(12, 2)
    labels, which = torch.arange(12) % 3, torch.arange(12) // 6 * 2
    figure = draw_tsne(points, labels, which, ["a", "empty", "c"], ["x", "y", "z"])
    assert_readable(figure)
    assert [axes.get_title() for axes in figure.axes] == ["a", "c"]
    one, other = figure.axes
    assert one.get_xlim() == other.get_xlim()
    assert one.get_ylim() == other.get_ylim()
    for axes, index in ((one, 0), (other, 2)):
        for label in range(3):
            (drawn,) = [
                entry
                for entry in axes.lines
                if to_hex(entry.get_color()) == CLASS_COLORS[label].lower()
            ]
            expected = points[(which == index) & (labels == label)]
            assert torch.tensor(xy(drawn)).equal(expected)


@pytest.mark.parametrize("classes", [1, 200])
def test_the_map_of_many_classes_picks_some_out(classes):
    labels = torch.arange(2 * classes) % classes
    names = [f"{AWKWARD[index % 5]}{index}" for index in range(classes)]
    points = torch.rand(2 * classes, 2)
    figure = draw_tsne(points, labels, torch.zeros_like(labels), ["a"], names)
    assert_readable(figure)
    assert ("other classes" in words(figure)) == (classes > len(CLASS_COLORS))
    drawn = sum(len(line.get_xdata()) for line in figure.axes[0].lines)
    assert drawn == 2 * classes


# Accuracies


def test_methods_show_every_student_and_the_figures():
    rows = [
        row("gvbsm", "small", 50.0, 52.0),
        row("random-hard", "small", 40.0),
        row("gvbsm", "large", 60.0),
        row("teacher", "small", 70.0),
        row("teacher", "large2", 80.0),
    ]
    figure = draw_methods(rows, 10)
    assert_readable(figure)
    small, large = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["small", "large"]
    names = [text.get_text() for text in small.get_yticklabels()]
    assert names == ["gvbsm", "random-hard", "teacher"]
    marks = [xy(entry) for entry in small.lines if entry.get_marker() not in ("|", "None")]
    assert [(50, 0), (52, 0)] in marks
    assert [(40, 1)] in marks
    assert {"51.0 ± 1.4", "40.0", "70.0", "test accuracy, % (chance: 10)"} <= words(figure)
    assert small.get_ylim()[0] > small.get_ylim()[1]  # the first on top
    assert len(large.get_yticklabels()) == 1


@pytest.mark.parametrize(("chance", "shown"), [(10, True), (1, False)])
def test_chance_is_a_line_only_where_it_does_not_squeeze_the_rest(chance, shown):
    values = (15.0, 20.0) if shown else (90.0, 91.0)
    (axes,) = draw_methods([row("gvbsm", "net", *values)], chance).axes
    at_chance = [entry for entry in axes.lines if set(entry.get_xdata()) == {chance}]
    assert bool(at_chance) == shown
    assert axes.get_xlim()[0] < chance if shown else axes.get_xlim()[0] > 80


def test_scaling_has_a_line_a_method_with_bars_and_levels():
    rows = [
        row("gvbsm", "net", 40.0, 44.0, x=10),
        row("gvbsm", "net", 30.0, x=1),
        row("random-hard", "net", 20.0, x=1),
        row("full", "net", 80.0, x=None),
        row("gvbsm", "other", 50.0, x=50),
        row("teacher", "teacher", 90.0, x=None),
    ]
    figure = draw_scaling(rows, "x", "images per class", "log")
    assert_readable(figure)
    net, other = figure.axes
    assert net.get_xscale() == "log"
    curve, hard = net.containers
    assert xy(curve.lines[0]) == [(1, 30), (10, 42)]
    bars = [segment[:, 1].tolist() for segment in curve.lines[2][0].get_segments()]
    assert bars == [[30, 30], pytest.approx([42 - math.sqrt(8), 42 + math.sqrt(8)])]
    assert curve.lines[0].get_color() == method_style("gvbsm").color
    assert hard.lines[0].get_markerfacecolor() == COLORS["white"]
    assert set(line(net, "full").get_ydata()) == {80}
    assert not [entry for entry in other.lines if entry.get_label() == "full"]
    assert {"1", "10", "50", "images per class", "gvbsm", "full"} <= words(figure)


def test_a_level_of_hard_labels_is_told_from_one_of_soft_labels():
    rows = [
        row("gvbsm", "net", 50.0, x=1),
        row("random-soft", "net", 40.0, x=None),
        row("random-hard", "net", 30.0, x=None),
    ]
    (axes,) = draw_scaling(rows, "x", "alpha").axes
    soft, hard = line(axes, "random-soft"), line(axes, "random-hard")
    assert soft.get_color() == hard.get_color()
    assert soft.get_linestyle() != hard.get_linestyle()


def test_the_paper_has_a_panel_of_its_own_below():
    rows = [row("gvbsm", "net", 90.0 + x, alpha=x) for x in (0.0, 0.4, 0.8)]
    published = [
        PublishedColumn("resnet18, imagenet-1k, 10 images per class", {0.0: 30.4, 0.8: 31.9}),
        PublishedColumn("resnet50, imagenet-1k, 10 images per class", {0.8: 36.4}),
    ]
    figure = draw_scaling(rows, "alpha", "alpha", published=published)
    assert_readable(figure)
    ours, theirs = figure.axes
    assert theirs.get_title("left") == "the paper's accuracies"
    assert xy(line(theirs, "the paper: resnet18, imagenet-1k, 10 images per class")) == [
        (0, 30.4),
        (0.8, 31.9),
    ]
    assert xy(line(theirs, "the paper: resnet50, imagenet-1k, 10 images per class")) == [
        (0.8, 36.4)
    ]
    assert "the paper: resnet50, imagenet-1k, 10 images per class" in words(figure)  # legend
    assert ours.get_ylim()[0] > 80  # its own axis
    labels = [text.get_text() for text in theirs.get_xticklabels()]
    assert labels == ["0.0", "0.4", "0.8"]  # the measured points


@pytest.mark.parametrize("scale", ["log", "bytes"])
@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50), (1e3, 1e9), (5,)])
def test_a_logarithmic_axis_is_readable_whatever_the_points(values, scale):
    rows = [row("gvbsm", "net", 50.0, x=value) for value in values]
    figure = draw_scaling(rows, "x", "size", scale)
    assert_readable(figure)
    assert figure.axes[0].get_xscale() == "log"
    if values[-1] == 1e9:
        assert any("MB" in word for word in words(figure)) == (scale == "bytes")


def test_points_have_a_strip_a_method_and_lines_for_what_is_the_same():
    rows = [
        row("gvbsm", "net", 50.0, 54.0, point="a=true,b=kl"),
        row("random-hard", "net", 30.0, point="a=true,b=kl"),
        row("gvbsm", "net", 60.0, point="$both_"),
        row("full", "net", 80.0, point=None),
    ]
    published = [PublishedColumn("resnet18, imagenet-1k, 10 images per class", {"$both_": 31.4})]
    figure = draw_points(rows, ["a=true,b=kl", "$both_"], published)
    assert_readable(figure)
    ours, theirs = figure.axes
    assert [text.get_text() for text in ours.get_yticklabels()] == ["a=true\nb=kl", "$both_"]
    marks = [xy(entry) for entry in ours.lines]
    places = {x: y for found in marks for x, y in found}
    assert places[50] == places[54] < 0 < places[30] < 0.5 < places[60] < 1
    assert set(line(ours, "full").get_xdata()) == {80}
    assert [xy(entry) for entry in theirs.lines if len(entry.get_xdata())] == [[(31.4, 1)]]
    assert {"52.0 ± 2.8", "30.0", "31.4", "gvbsm"} <= words(figure)


def test_a_comma_begins_a_line_where_another_axis_follows_alone():
    names = ["pool 10x, top 3, 8 bits", "a=1,b=kl"]
    rows = [{"method": "gvbsm", "student": "net", "point": n, "top1": top1(50.0)} for n in names]
    figure = draw_points(rows, names)
    assert_readable(figure)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [names[0], "a=1\nb=kl"]


def test_the_ladder_numbers_its_rungs_and_names_them_below():
    points = [CostPoint(r"$\frac$", 100, top1(21.0)), CostPoint("all " * 20, 200, top1(31.0, 33.0))]
    figure = draw_against_time({"small": points, "large": points[::-1]})
    assert_readable(figure)
    small, large = figure.axes
    assert xy(small.containers[0].lines[0]) == [(100, 21), (200, 32)]
    assert [text.get_text() for text in small.texts] == ["1", "2"]
    assert [text.get_text() for text in large.texts] == ["2", "1"]
    assert {r"1  $\frac$", "time of an iteration, ms", "small", "large"} <= words(figure)


def test_sets_against_their_bytes_have_units_and_their_fronts():
    points = [
        CostPoint("all", 2e6, top1(90.0)),
        CostPoint("some", 3e4, top1(70.0)),  # worse than few, which is smaller
        CostPoint("few", 4e3, top1(80.0)),
    ]
    random = [point._replace(top1=top1(60.0 + place)) for place, point in enumerate(points)]
    figure = draw_against_bytes({"net": points}, {"net": random})
    assert_readable(figure)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    marks = {container.get_label(): container.lines[0] for container in axes.containers}
    assert xy(marks["random-soft"]) == [(2e6, 60), (3e4, 61), (4e3, 62)]
    assert [line.get_linestyle() for line in marks.values()] == ["None", "None"]
    steps = [xy(line) for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert steps == [[(4e3, 80), (2e6, 90)], [(4e3, 62)]]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3"]
    assert {"10 kB", "1 MB", "pixels and soft labels", "random-soft", "2  some"} <= words(figure)


def test_sets_against_their_bytes_do_without_random_pictures():
    points = [CostPoint("all", 2e6, top1(90.0)), CostPoint("few", 4e3, top1(80.0))]
    figure = draw_against_bytes({"net": points}, {})
    assert_readable(figure)
    assert "random-soft" not in words(figure)


def test_continual_learning_has_a_line_a_method_and_a_band_over_orders():
    steps = [top1(90.0, 94.0), top1(80.0, 80.0)]
    rows = [{"method": m, "student": "net", "steps": steps} for m in ("gvbsm", "random-hard")]
    rows.append({"method": "sre2l", "student": "net", "steps": [top1(70.0), top1(60.0)]})
    figure = draw_continual([5, 10], rows)
    assert_readable(figure)
    (axes,) = figure.axes
    assert xy(line(axes, "gvbsm")) == [(5, 92), (10, 80)]
    assert line(axes, "random-hard").get_linestyle() == "--"
    assert len(axes.collections) == 2
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (80, pytest.approx(92 + math.sqrt(8)))
    assert {"5", "10", "classes so far"} <= words(figure)


def test_confusion_is_in_percent_of_the_true_class():
    counts = torch.tensor([[3, 1, 0], [0, 0, 0], [1, 1, 2]])
    figure = draw_confusion(counts, AWKWARD[:3])
    assert_readable(figure)
    image = figure.axes[0].images[0].get_array()
    assert image[0].tolist() == [75, 25, 0]
    assert image.mask[1].all()  # no pictures, no percentages
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in figure.axes[0].texts}
    assert (cells[0, 0], cells[1, 0], cells[2, 0], cells[2, 2]) == ("75", "25", "", "50")
    assert {"predicted class", "true class", shorten(AWKWARD[0], 16)} <= words(figure)


@pytest.mark.parametrize(
    ("classes", "named", "numbered"),
    [
        (1, True, True),
        (12, True, True),
        (20, True, False),
        (200, False, False),
    ],
)
def test_confusion_of_many_classes_leaves_out_what_would_not_fit(classes, named, numbered):
    names = [f"{AWKWARD[1]} {index}" for index in range(classes)]
    figure = draw_confusion(torch.eye(classes, dtype=torch.int64), names)
    assert_readable(figure)
    axes = figure.axes[0]
    assert any("ein sehr" in text.get_text() for text in axes.get_yticklabels()) == named
    assert bool(axes.texts) == numbered
