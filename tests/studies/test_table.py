"""The tables of a study."""

import csv

import pytest

from gvbsm.studies.table import (
    OTHER_PUBLISHED,
    format_study,
    gains,
    merge_shared_baselines,
    write_csv,
)

MEASURED = {"point": "a=1", "data": "digits", "student": "convnet8_d1", "ipc": 2, "top1": 31.4}
ELSEWHERE = {**MEASURED, "data": "imagenet-1k", "student": "torchvision/resnet18", "ipc": 10}


def row(point, method="gvbsm", recipe="r", values=(50.0, 60.0), **more):
    spread = {"mean": 55.0, "std": 7.07, "n": len(values), "values": list(values)}
    return {
        "study": "toy",
        "point": point,
        "axes": {"a": point == "a=1"},
        "method": method,
        "student": "convnet8_d1",
        "ipc": 2,
        "seeds": [0, 1],
        "top1": spread,
        "top1_best": {**spread, "mean": 56.0},
        "synthesis_seconds": None,
        "seconds_per_iteration": None,
        "seconds": 8.5,
        "bytes": 1640,
        "image_bytes": 640,
        "label_bytes": 1000,
        "recipe": recipe,
        **more,
    }


def point(name, **data):
    config = {"method": "gvbsm", "data": {"name": "digits", "image_size": None, **data}}
    return {"name": name, "config": config, "done": True}


@pytest.fixture
def content():
    timed = {"synthesis_seconds": 8.0, "seconds_per_iteration": 0.02}
    return {
        "study": "toy",
        "title": "a toy",
        "source": "table 0",
        "axes": ["a"],
        "paper": [MEASURED],
        "points": [point("a=1"), point("a=2")],
        "rows": [
            row("a=1", **timed),
            row("a=2", recipe="s", **timed),
            row(None, method="random-soft", axes={}),
            row(None, method="full", axes={}, ipc=None, values=[99.0]),
        ],
        "versions": {"gvbsm": "1", "device": "cpu"},
        "origin": {"preset": None, "changed": []},
    }


def test_tell_once__a_baseline_that_is_the_same_everywhere():
    rows = [
        row("a=1"),
        row("a=1", "random-soft"),
        row("a=1", "sre2l", recipe="x"),
        row("a=2"),
        row("a=2", "random-soft"),
        row("a=2", "sre2l", recipe="y"),
    ]
    merged = merge_shared_baselines(rows, {"gvbsm"})
    assert [(row["method"], row["point"], row["axes"]) for row in merged] == [
        ("gvbsm", "a=1", {"a": True}),
        ("sre2l", "a=1", {"a": True}),
        ("gvbsm", "a=2", {"a": False}),  # the points' own, though it has one recipe
        ("sre2l", "a=2", {"a": False}),
        ("random-soft", None, {}),
    ]


def test_tell_once__not_if_a_point_lacks_it_or_there_is_one_point():
    lacking = [row("a=1"), row("a=1", "random-soft"), row("a=2")]
    assert merge_shared_baselines(lacking, {"gvbsm"}) == lacking
    assert merge_shared_baselines(lacking[:2], {"gvbsm"}) == lacking[:2]


def test_csv__one_line_a_row_one_column_a_number(content, tmp_path):
    path = tmp_path / "toy.csv"
    write_csv(path, content)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ["gvbsm", "gvbsm", "random-soft", "full"]
    first, random_soft, full = lines[0], lines[2], lines[3]
    assert (first["point"], first["a"], first["n"], first["ipc"]) == ("a=1", "True", "2", "2")
    assert first["top1_values"] == "50.0 60.0"
    assert [line["paper_top1"] for line in lines] == ["31.4", "", "", ""]
    assert (first["top1_mean"], first["top1_best_mean"]) == ("55.0", "56.0")
    assert (first["seconds_per_iteration"], first["label_bytes"]) == ("0.02", "1000")
    assert (first["seconds"], first["bytes"]) == ("8.5", "1640")
    assert (first["seeds"], first["gvbsm"], first["device"]) == ("0 1", "1", "cpu")
    assert (random_soft["point"], random_soft["a"], random_soft["synthesis_seconds"]) == ("",) * 3
    assert full["ipc"] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["toy.csv"]


def test_csv__an_axis_with_the_name_of_another_column_has_its_own(content, tmp_path):
    """As in the studies `ipc` and `table4-ipc`; pandas would rename the second of two columns."""
    content["axes"] = ["ipc", "student"]
    for line in content["rows"]:
        line["axes"] = {"ipc": 7, "student": "first 2"} if line["point"] else {}
    write_csv(tmp_path / "toy.csv", content)
    with (tmp_path / "toy.csv").open(newline="", encoding="utf-8") as file:
        head, first, *_ = csv.reader(file)
    assert len({*head}) == len(head)
    found = dict(zip(head, first, strict=True))
    assert (found["axis_ipc"], found["ipc"]) == ("7", "2")
    assert (found["axis_student"], found["student"]) == ("first 2", "convnet8_d1")


def test_format_study__has_the_paper_s_accuracy_beside_its_point(content):
    lines = format_study(content).splitlines()
    assert lines[0] == "toy: a toy (table 0)"
    cells = [" ".join(line.split()) for line in lines]
    assert cells[2] == "a method student ipc top-1 % n s/iteration the paper"
    assert cells[4] == "true gvbsm convnet8_d1 2 55.0 ± 7.1 2 0.020 31.4"
    assert cells[5] == "false gvbsm convnet8_d1 2 55.0 ± 7.1 2 0.020"
    assert cells[6] == "any random-soft convnet8_d1 2 55.0 ± 7.1 2"
    assert cells[7] == "any full convnet8_d1 all 55.0 1"
    assert len(cells) == 8


@pytest.mark.parametrize(
    ("change", "heading"),
    [
        ({"data": "cifar10"}, "convnet8_d1, cifar10, 2 images per class"),
        ({"student": "resnet18"}, "resnet18, digits, 2 images per class"),
        ({"ipc": 1}, "convnet8_d1, digits, 1 image per class"),
        (ELSEWHERE, "resnet18, imagenet-1k, 10 images per class"),
    ],
)
def test_format_study__lists_accuracies_of_other_data_students_or_ipc_apart(
    content, tmp_path, change, heading
):
    content["paper"] = [{**MEASURED, **change}]
    lines = format_study(content).splitlines()
    assert lines[2].split()[-1] == "s/iteration"
    apart = lines[lines.index(OTHER_PUBLISHED) + 2 :]
    assert [" ".join(line.split()) for line in apart[:1] + apart[2:]] == [
        f"point {heading}",
        "a=1 31.4",
        "a=2",
    ]
    write_csv(tmp_path / "toy.csv", content)
    assert "31.4" not in (tmp_path / "toy.csv").read_text(encoding="utf-8")


def test_format_study__pictures_of_another_size_are_other_data(content):
    content["points"][0] = point("a=1", image_size=32)
    lines = format_study(content).splitlines()
    assert lines[2].split()[-1] == "s/iteration"
    assert OTHER_PUBLISHED in lines


def test_format_study__the_paper_s_accuracies_stand_beside_their_students(content):
    content["rows"].insert(1, {**content["rows"][0], "student": "wrn10_1"})
    content["paper"].append({**MEASURED, "student": "wrn10_1", "top1": 35.9})
    lines = format_study(content).splitlines()
    assert [line.split()[-1] for line in lines[4:6]] == ["31.4", "35.9"]
    assert OTHER_PUBLISHED not in lines


def test_format_study__a_column_names_all_its_images_per_class(content):
    content["paper"] = [ELSEWHERE, {**ELSEWHERE, "point": "a=2", "ipc": 50}]
    assert "  resnet18, imagenet-1k, 10, 50 images per class\n" in format_study(content)


def test_format_study__leaves_out_the_paper_at_points_that_are_not_done(content):
    content["paper"] = [ELSEWHERE]
    content["points"][0]["done"] = False
    assert "paper" not in format_study(content)


def test_format_study__bytes_of_labels_where_points_differ_in_them(content):
    assert "bytes" not in format_study(content)
    content["rows"][0]["label_bytes"] = 77
    cells = [" ".join(line.split()) for line in format_study(content).splitlines()]
    assert cells[2] == "a method student ipc top-1 % n s/iteration label bytes the paper"
    assert cells[4] == "true gvbsm convnet8_d1 2 55.0 ± 7.1 2 0.020 77 31.4"


def test_format_study__without_the_paper(content):
    text = format_study({**content, "paper": []})
    assert "paper" not in text
    assert "31.4" not in text


def additive(content):
    """Three points, each on top of the one before; the last has one student alone."""
    top1 = [
        {"mean": 50.0, "std": 3.0, "values": [0.0] * 9},
        {"mean": 52.5, "std": 4.0, "values": [0.0] * 4},
        {"mean": 51.0, "std": None, "values": [51.0]},
    ]
    names = ["one", "two", "three"]
    top1 = [{**t, "n": len(t["values"])} for t in top1]
    rows = [row(name, axes={"a": name}) | {"top1": t} for name, t in zip(names, top1, strict=True)]
    rows.append(row("two", "random-soft", axes={"a": "two"}))
    entries = [point(name) for name in names]
    return {**content, "additive": True, "points": entries, "rows": rows, "paper": []}


def test_gains__over_the_point_before_with_their_standard_error(content):
    found = gains(additive(content))
    assert list(found) == [("two", "convnet8_d1"), ("three", "convnet8_d1")]
    mean, error = found["two", "convnet8_d1"]
    assert mean == 2.5
    assert error == pytest.approx(5**0.5)  # 9 / 9 + 16 / 4
    assert found["three", "convnet8_d1"] == (-1.5, None)
    assert gains(content) == {}
    assert gains({**additive(content), "additive": False}) == {}


def test_gains__of_the_same_student_alone(content):
    study = additive(content)
    study["rows"][0]["student"] = "wrn10_1"
    assert list(gains(study)) == [("three", "convnet8_d1")]


def test_format_study__gains_of_an_additive_study(content):
    cells = [line.split("  ")[-1].strip() for line in format_study(additive(content)).splitlines()]
    assert cells[2] == "gain"
    assert cells[5:7] == ["+2.5 ± 2.2", "-1.5"]
