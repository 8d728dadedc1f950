"""The figure of points against students: which values it shows, and where."""

import pytest
from matplotlib.colors import to_rgb

from gvbsm.config.provenance import UNKNOWN
from gvbsm.reporting.figures.matrix import StudentMatrix, draw_matrices
from gvbsm.reporting.figures.reading import StudyResults
from gvbsm.reporting.figures.sweeps import _matrix

POINTS, STUDENTS = ["first", "second"], ["a", "timm/b", "c"]


def texts(axes):
    """The text of each cell by row and column."""
    return {tuple(map(round, reversed(t.get_position()))): t.get_text() for t in axes.texts}


def test_cells_hold_the_values_and_empty_ones_stay_empty():
    values = {("first", "a"): 91.24, ("second", "c"): 5.0}
    figure = draw_matrices([StudentMatrix("top-1, %", values)], POINTS, STUDENTS)
    (axes,) = figure.axes
    assert texts(axes) == {(0, 0): "91.2", (1, 2): "5.0"}
    assert [label.get_text() for label in axes.get_yticklabels()] == POINTS
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]


def test_differences_have_signs_and_two_colors_around_0():
    values = {("first", "a"): -3.0, ("first", "timm/b"): 0.0, ("first", "c"): 6.0}
    figure = draw_matrices([StudentMatrix("lead", values, True)], ["first"], STUDENTS)
    (axes,) = figure.axes
    assert texts(axes) == {(0, 0): "-3.0", (0, 1): "+0.0", (0, 2): "+6.0"}
    (image,) = axes.get_images()
    colors = image.to_rgba(image.get_array())[0]
    below, zero, above = colors
    assert zero[3] == pytest.approx(0, abs=0.01)
    assert above[2] > above[0]  # blue
    assert below[0] > below[2]  # vermilion
    assert 0 < below[3] < above[3]  # as far as it is from 0
    assert to_rgb(axes.texts[0].get_color()) == (0, 0, 0)


def row(point, method, student, mean):
    top1 = {"mean": mean, "std": 0.1, "values": [mean, mean]}
    return {"point": point, "method": method, "student": student, "top1": top1}


def study(students, random_points=(None,)):
    rows = [row(p, "gvbsm", s, 50.0 + i) for p in POINTS for i, s in enumerate(students)]
    rows += [row(p, "random-soft", s, 40.0) for p in random_points for s in students]
    config = {"method": "gvbsm", "ipc": 10, "data": {"name": "digits"}}
    points = [{"name": name, "axes": {"teachers": name}, "config": config} for name in POINTS]
    nothing = [None] * len(rows)
    about = ("x", "who", "none", ["teachers"])
    return StudyResults(*about, points, rows, nothing, [], [], False, {}, len(points), UNKNOWN, {})


def test_a_study_with_few_students_has_no_such_figure():
    assert _matrix(study(STUDENTS[:2])) is None


@pytest.mark.parametrize("random_points", [(None,), POINTS])
def test_the_lead_is_over_random_pictures_of_the_same_point_or_of_all(random_points):
    captioned = _matrix(study(STUDENTS, random_points))
    assert "each student (digits, 10 images per class); below, how far" in captioned.caption
    accuracy, lead = captioned.figure.axes
    assert [texts(accuracy)[row, 2] for row in (0, 1)] == ["52.0", "52.0"]
    assert [texts(lead)[row, 2] for row in (0, 1)] == ["+12.0", "+12.0"]


def test_without_random_pictures_there_is_no_lead():
    captioned = _matrix(study(STUDENTS, random_points=()))
    assert len(captioned.figure.axes) == 1
    assert "below" not in captioned.caption
