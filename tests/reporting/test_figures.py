"""The picture: what is drawn where, for grey and colour, and for any class name."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gvbsm.data.pixels import Normalization
from gvbsm.files import manifest
from gvbsm.files.artifacts import atomic
from gvbsm.files.manifest import claim
from gvbsm.reporting import figures
from gvbsm.reporting.figures.images import plot_images
from gvbsm.store.distilled import DistilledDataset
from support.launch import environment


def distilled_set(images, names):
    ipc = len(images) // len(names)
    labels = torch.arange(len(names)).repeat_interleave(ipc)
    half = (0.5,) * images.shape[1]
    return DistilledDataset(images, labels, tuple(names), Normalization(half, half), None, {})


def plain(colors, channels, size=6):
    """One picture of a single colour for each entry: uint8 (n, channels, size, size)."""
    values = torch.tensor(colors, dtype=torch.uint8).view(len(colors), -1, 1, 1)
    return values.expand(-1, channels, size, size).contiguous()


def squares(picture):
    """The colours of the drawn squares from left to right and from top to bottom.

    A square is a rectangle of one colour, larger than a letter and not white.
    """
    found, seen = [], np.zeros(picture.shape[:2], dtype=bool)
    for row in range(0, picture.shape[0], 4):
        for column in range(0, picture.shape[1], 4):
            color = tuple(int(value) for value in picture[row, column])
            if seen[row, column] or color == (255, 255, 255):
                continue
            across = (picture[row, column:] == color).all(axis=1)
            down = (picture[row:, column] == color).all(axis=1)
            right = column + int(np.argmin(np.append(across, [False])))
            below = row + int(np.argmin(np.append(down, [False])))
            if right - column > 40 and below - row > 40:
                seen[max(row - 4, 0) : below + 1, max(column - 4, 0) : right + 1] = True
                found.append((row // 40, column, color))
    return found


def read(path):
    with Image.open(path) as file:
        assert file.format == "PNG"
        return np.asarray(file.convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_class_has_a_row_distilled_left_and_real_right(tmp_path, channels):
    ipc, columns = 3, 2
    if channels == 1:
        made, real = [10, 20, 0, 30, 40, 0], [110, 120, 130, 140]
        shown = [(10, 20, 110, 120), (30, 40, 130, 140)]
        shown = [[(value,) * 3 for value in row] for row in shown]
    else:
        made = [(200, i, 0) for i in range(6)]
        real = [(0, 200, i) for i in range(4)]
        shown = [[made[0], made[1], real[0], real[1]], [made[3], made[4], real[2], real[3]]]
    distilled = distilled_set(plain(made, channels), ["cat", "dog"])
    assert distilled.ipc == ipc
    path = tmp_path / "deep" / "images.png"
    plot_images(distilled, plain(real, channels), columns, path)
    found = squares(read(path))
    rows = sorted({row for row, _, _ in found})
    colors = [[c for r, _, c in sorted(found, key=lambda s: s[1]) if r == row] for row in rows]
    assert colors == shown
    assert [entry.name for entry in path.parent.iterdir()] == ["images.png"]


def test_a_class_with_fewer_images_has_a_shorter_row(tmp_path):
    distilled = distilled_set(plain([10, 20, 30, 40], 1), ["cat", "dog"])
    distilled = replace(distilled, labels=torch.tensor([0, 1, 1, 1]))
    assert (distilled.counts, distilled.ipc) == ((1, 3), 1)
    plot_images(distilled, plain([110, 120, 130, 140], 1), 2, tmp_path / "images.png")
    rows = colors_by_row(read(tmp_path / "images.png"))
    assert rows == [[10, 110, 120], [20, 30, 130, 140]]


def colors_by_row(picture):
    """The red of the drawn squares: rows from top to bottom, each from left to right."""
    found = squares(picture)
    rows = sorted({row for row, _, _ in found})
    return [[c[0] for r, _, c in sorted(found, key=lambda s: s[1]) if r == row] for row in rows]


def draw_single(path, names, shown):
    """Draw a distilled image (10, 11, ...) and a real one (120, 121, ...) of each shown class."""
    distilled = distilled_set(plain([10 + index for index in range(len(names))], 1), names)
    plot_images(distilled, plain([120 + index for index in range(shown)], 1), 1, path)
    return colors_by_row(read(path))


@pytest.mark.parametrize(
    ("classes", "shown"), [(1, 1), (2, 2), (10, 10), (11, 11), (20, 20), (100, 20)]
)
def test_single_images_are_a_distilled_row_above_a_real_one(tmp_path, classes, shown):
    names = [str(index) for index in range(classes)]
    assert draw_single(tmp_path / "x.png", names, shown) == [
        [10 + index for index in range(shown)],
        [120 + index for index in range(shown)],
    ]


@pytest.mark.parametrize("name", ["golden retriever", "a rather long name"])
@pytest.mark.parametrize("classes", [1, 2, 11])
def test_single_images_below_names_that_are_too_long_have_a_row_each(tmp_path, classes, name):
    names = [name, *(str(index) for index in range(classes - 1))]
    expected = [[10 + index, 120 + index] for index in range(classes)]
    assert draw_single(tmp_path / "x.png", names, classes) == expected


def test_only_the_shown_classes_are_drawn(tmp_path):
    distilled = distilled_set(plain([10, 20, 30], 1), ["a", "b", "c"])
    plot_images(distilled, plain([110, 120], 1), 1, tmp_path / "x.png")
    colors = {color[0] for _, _, color in squares(read(tmp_path / "x.png"))}
    assert colors == {10, 20, 110, 120}


def test_pixels_keep_their_values_and_are_not_stretched_to_the_range(tmp_path):
    distilled = distilled_set(plain([100, 101], 1), ["a", "b"])
    plot_images(distilled, plain([102, 103], 1), 1, tmp_path / "x.png")
    colors = {color[0] for _, _, color in squares(read(tmp_path / "x.png"))}
    assert colors == {100, 101, 102, 103}


def test_many_pictures_and_long_names_stay_inside(tmp_path):
    names = [f"a rather long name of class {index}" for index in range(20)]
    distilled = distilled_set(plain([7] * 200, 3, size=32), names)
    plot_images(distilled, plain([9] * 200, 3, size=32), 10, tmp_path / "x.png")
    picture = read(tmp_path / "x.png")
    assert (picture[:, :2] == 255).all()
    assert (picture[:, -2:] == 255).all()
    assert picture.shape[1] > picture.shape[0]


@pytest.mark.parametrize("name", [r"$\frac$", "a$b$c_{", "a_b^c", "", " ", "a\nb", "äß", "猫"])
def test_any_class_name_can_be_drawn(tmp_path, name):
    distilled = distilled_set(plain([10, 20], 1), [name, "b"])
    plot_images(distilled, plain([110, 120], 1), 1, tmp_path / "x.png")
    assert len(squares(read(tmp_path / "x.png"))) == 4


def test_a_figure_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    claim(tmp_path)
    with atomic(path) as temporary:
        temporary.write_bytes(b"old")

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", fail)
    with pytest.raises(OSError, match="No space"):
        plot_images(distilled_set(plain([1, 2], 1), ["a", "b"]), plain([1, 2], 1), 1, path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [manifest.NAME, "x.png"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("backend", "kept"),
    [
        ("module://matplotlib_inline.backend_inline", None),
        ("no_such_backend", None),
        ("svg", "svg"),
    ],
)
def test_figures_need_no_backend_that_the_environment_names(backend, kept):
    program = f"import runpy, os\nrunpy.run_path({figures.__file__!r})\n"  # without torch
    program += "import matplotlib\nprint(os.environ['MPLBACKEND'])\n"
    program += "print(dict.__getitem__(matplotlib.rcParams, 'backend'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(MPLBACKEND=backend),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    named, used = done.stdout.splitlines()
    assert named == backend
    assert kept is None or used == kept
