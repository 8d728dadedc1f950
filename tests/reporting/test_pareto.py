"""The Pareto front: against its definition, and in a figure of what sets cost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.files.artifacts import write_json
from gvbsm.pipeline.results import spread
from gvbsm.reporting.figures.gallery import gallery
from gvbsm.reporting.figures.pareto import (
    FLOOR_SECONDS,
    KEY_LENGTH,
    MeasuredSet,
    draw_pareto,
    fronts,
    pareto,
    pareto_figure,
)
from gvbsm.reporting.figures.reading import read_studies, run_sets, study_sets
from gvbsm.reporting.figures.style import COLORS
from gvbsm.store.workdir import Workspace
from support.studies import Maker, study_row, write_study

STUDENT = "convnet8_d1"
NUMBERS = st.integers(0, 6) | st.floats(-1e9, 1e9, allow_nan=False)


def dominates(first, second):
    at_least = first[0] <= second[0] and first[1] >= second[1]
    return at_least and first != second


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30))
def test_the_front_is_what_no_other_point_dominates(points):
    front = pareto(points)
    assert set(front) == {
        at
        for at, point in enumerate(points)
        if not any(dominates(other, point) for other in points)
    }
    assert len(front) == len(set(front))
    chosen = [points[at] for at in front]
    assert chosen == sorted(chosen)  # both cost and value rise


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), st.randoms())
def test_the_front_does_not_depend_on_the_order(points, random):
    shuffled = random.sample(points, len(points))
    assert [points[at] for at in pareto(points)] == [shuffled[at] for at in pareto(shuffled)]


def test_fronts_by_hand():
    assert pareto([]) == []
    assert pareto([(1, 5), (2, 4), (2, 6), (3, 6), (1, 5), (math.inf, 9)]) == [0, 4, 2, 5]
    with pytest.raises(ValueError, match="found NaN"):
        pareto([(1, math.nan)])


def spot(name, method, mean, seconds, stored, student=STUDENT):
    return MeasuredSet(name, method, student, spread([mean - 1, mean + 1]), seconds, stored)


SPOTS = [
    spot("a", "gvbsm", 60.0, 20.0, 1000),
    spot("b", "gvbsm", 55.0, 30.0, 900),
    spot("any", "random-soft", 50.0, 0.002, 1000),
    spot("any", "random-hard", 40.0, 0.001, 100),  # no cheaper: both are below the floor
]


def test_a_front_a_student_and_times_below_the_floor_are_equal():
    by_seconds, by_bytes = fronts(SPOTS)
    assert by_seconds == {0, 2}
    assert by_bytes == {0, 1, 3}
    other = spot("c", "gvbsm", 99.0, 0.2, 1, "other")
    unknown = spot("d", "gvbsm", 100.0, None, None)
    assert fronts([*SPOTS, other, unknown]) == ({0, 2, 4}, {0, 1, 3, 4})


def test_a_few_bytes_of_a_header_decide_nothing():
    near = [spot("", "gvbsm", 98.0, 5.0, 489_216), spot("", "sre2l", 96.0, 5.0, 489_128)]
    assert fronts(near) == ({0}, {0})


def test_sets_of_a_run_are_named_by_the_legend_alone():
    sets = [spot("", "gvbsm", 98.0, 5.0, 489_216), spot("", "random-hard", 70.0, 0.0, 640)]
    left, _ = draw_pareto(sets).axes
    assert not left.texts
    assert len(left.figure.legends) == 1
    figure = pareto_figure("pareto", "T", sets, "")
    assert figure is not None
    assert "list below" not in figure.caption


def test_the_figure_joins_the_front_by_steps_and_numbers_it():
    left, right = draw_pareto(SPOTS).axes
    for axes, expected in (
        (left, [(FLOOR_SECONDS, 50), (20, 60)]),
        (right, [(100, 40), (900, 55), (1000, 60)]),
    ):
        (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
        assert list(zip(*steps.get_data(), strict=True)) == expected
        assert axes.get_xscale() == "log"
    marks = {
        line.get_label(): line
        for line in left.lines
        if line.get_label() in ("gvbsm", "random-soft", "random-hard")
    }
    assert len({line.get_marker() for line in marks.values()}) == 2
    assert marks["random-hard"].get_markerfacecolor() == COLORS["white"]
    assert [text.get_text() for text in left.texts] == ["3", "1"]
    assert [text.get_text() for text in right.texts] == ["4", "2", "1"]
    names = [text.get_text() for text in left.figure.legends[-1].get_texts()]
    assert names == ["1  a, gvbsm", "2  b, gvbsm", "3  any, random-soft", "4  any, random-hard"]


def test_numbers_of_close_marks_stand_together_and_a_long_key_keeps_its_method():
    long = "part after part " * 8
    near = [
        spot(name, "gvbsm", mean, seconds, 1000 + 400 * seconds)
        for name, mean, seconds in (("x", 60.0, 20.0), ("y", 60.5, 20.5), (long, 90.0, 21.0))
    ]
    left, _ = draw_pareto([*near, spot("z", "random-soft", 20.0, 0.0, 100)]).axes
    assert [(text.get_text(), text.xy) for text in left.texts] == [
        ("4", (FLOOR_SECONDS, 20.0)),
        ("1, 2", (20.0, 60.5)),
        ("3", (21.0, 90.0)),
    ]
    names = [text.get_text() for text in left.figure.legends[-1].get_texts()]
    assert names[2].endswith("…, gvbsm")
    assert len(names[2]) <= KEY_LENGTH + 5


def test_costs_that_are_nearly_the_same_look_it():
    near = [spot("a", "gvbsm", 50, 5.0, 489_216), spot("b", "gvbsm", 40, 5.1, 489_128)]
    for axes, high in zip(draw_pareto(near).axes, (5.1, 489_216), strict=True):
        low, top = axes.get_xlim()
        assert top / low == pytest.approx(8)
        assert low < high < top


def test_one_set_alone_has_no_figure():
    assert pareto_figure("pareto", "T", SPOTS[:1], "") is None
    assert pareto_figure("pareto", "T", [SPOTS[0], SPOTS[1]._replace(bytes=None)], "") is None


def test_costs_of_a_study__of_an_unknown_time_too(tmp_path):
    rows = [
        {**study_row("one", "gvbsm", 50.0, axes={"a": "one"}), "seconds": 3.0},
        {**study_row("one", "random-soft", 40.0, axes={"a": "one"}), "synthesis_seconds": None},
        study_row(None, "full", 90.0, stored=(None, None)),
    ]
    write_study(tmp_path, "table1", ["a"], rows)
    (study,) = read_studies(tmp_path)
    assert [(s.title, s.seconds, s.bytes) for s in study_sets(study)] == [
        ("one, gvbsm", 3.0, 300),
        ("one, random-soft", 0.0, 300),
    ]
    item = {item.name: item for item in gallery(tmp_path)}["study-table1-pareto"]
    assert "drawn at 0.1 s" in item.caption
    assert "(digits, 10 images per class)" in item.caption


def test_costs_of_a_run__hard_labels_take_no_room_beside_the_soft_ones(tmp_path):
    maker = Maker(tmp_path)
    maker.images("gvbsm")
    maker.images("random", "baselines/random-0")
    maker.results(gvbsm=[60.0, 62.0], random_hard=[30.0], random_soft=[40.0], full=[99.0])
    write_json(tmp_path / "seconds.json", {"synthesis/gvbsm": 7.5, "synthesis/random-hard": 0.5})
    (item,) = [item for item in gallery(tmp_path) if item.name == "pareto"]
    left, right = item.figure.axes
    found = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in left.lines
        if not line.get_label().startswith("_")
    }
    assert found == {"gvbsm": (7.5, 61.0), "random-hard": (0.5, 30.0), "random-soft": (0.5, 40.0)}
    pixels = 4 * 6 * 3 * 8 * 8
    assert {x for line in right.lines for x in line.get_xdata()} == {pixels}


def test_costs_of_a_run__are_the_bytes_of_its_results(tmp_path):
    """Labels made during training have no bytes, though a folder of labels lies beside."""
    maker = Maker(tmp_path)
    stored = {"gvbsm": 500, "gvbsm-unaugmented": None, "random-soft": 400}
    rows = {"gvbsm": [60.0], "gvbsm_hard": [20.0], "gvbsm_unaugmented": [40.0]}
    maker.results(label_bytes=stored, **rows, random_soft=[50.0], teacher=[99.0])
    pixels = 4 * 6 * 3 * 8 * 8
    assert {item.method: item.bytes for item in run_sets(Workspace(tmp_path))} == {
        "gvbsm": pixels + 500,
        "gvbsm-hard": pixels,
        "gvbsm-unaugmented": None,
        "random-soft": pixels + 400,
    }
