"""Results: from the accuracies of single students to rows and the table, by hand."""

import json

import pytest
import torch

from gvbsm.config import Config
from gvbsm.config.build import to_dict
from gvbsm.engine.device import Runtime
from gvbsm.files.schema.runs import ResultRow
from gvbsm.pipeline.results import TIMED, collect
from gvbsm.pipeline.tables import format_continual, format_ipc, format_table


def history(*top1, **entries):
    return {"epochs": list(range(1, len(top1) + 1)), "top1": list(top1), "losses": [], **entries}


def test_metrics_of_a_row_are_spreads_over_its_students():
    metrics = [
        {"calibration_error": 4.0, "by_class": [50.0, None, 30.0], "top5": 90.0},
        {"calibration_error": 8.0, "by_class": [70.0, None, 40.0], "top5": 80.0},
    ]
    students = {
        ("gvbsm", "a"): [history(40.0, metrics=entry) for entry in metrics],
        ("sre2l", "a"): [history(40.0, metrics=metrics[0]), history(40.0)],  # one of an old version
    }
    full = {"a": [history(90.0, metrics={"calibration_error": 1.0, "by_class": [90.0]})]}
    runtime = Runtime(torch.device("cpu"), "fp32", 0)
    teachers = {"t": history(99.0)}
    rows = collect(Config(ipc=5), students, full, teachers, {}, {}, runtime)["rows"]
    assert ["metrics" in row for row in rows] == [True, False, True, False]
    found = rows[0]["metrics"]
    assert found["by_class"] == [60.0, None, 35.0]
    assert found["top5"] == {"mean": 85.0, "std": pytest.approx(50**0.5), "values": [90.0, 80.0]}
    assert found["calibration_error"]["mean"] == 6.0
    assert found.keys() == {"by_class", "top5", "calibration_error"}
    for row in rows:
        ResultRow.model_validate(row)


def test_rows_name_the_classes_with_other_numbers_of_images():
    config, runtime = Config(ipc=5, ipc_of={"cat": 2}), Runtime(torch.device("cpu"), "fp32", 0)
    students, full = {("gvbsm", "a"): [history(40.0)]}, {"a": [history(90.0)]}
    rows = collect(config, students, full, {}, {}, {}, runtime)["rows"]
    assert [(row["ipc"], row.get("ipc_of")) for row in rows] == [(5, {"cat": 2}), (None, None)]
    assert [format_ipc(row) for row in rows] == ["2 to 5", "all"]
    for row in rows:
        ResultRow.model_validate(row)


def test_rows_leave_out_the_times_of_students_that_are_asked_for_no_more():
    students, full = {("gvbsm", "a"): [history(40.0)]}, {"a": [history(90.0)]}
    seconds = {
        f"{stage}/a/{seed}": 2.0 for stage in ("evaluation/gvbsm", "full") for seed in (0, 4)
    }
    runtime = Runtime(torch.device("cpu"), "fp32", 0)
    results = collect(Config(ipc=5), students, full, {}, seconds, {}, runtime)
    assert [row["seconds"] for row in results["rows"]] == [2.0, 2.0]
    assert results["seconds"]["evaluation"] == 4.0  # all that was spent here


def test_rows_take_the_last_epoch_and_report_the_best_beside_it():
    students = {
        ("gvbsm", "convnet128"): [history(10.0, 60.0), history(70.0, 62.0), history(1.0, 64.0)],
        ("random-hard", "convnet128"): [history(30.0)],
        ("gvbsm", "convnet128_d4"): [history(5.0)],
    }
    seconds = {
        "squeeze/resnet18": 7.0,
        "statistics": 2.0,
        "synthesis/gvbsm": 3.0,
        "evaluation/gvbsm/convnet128/0": 1.0,
        "evaluation/gvbsm/convnet128/1": 0.5,
        "evaluation/gvbsm/convnet128_d4/0": 4.0,
        "full/convnet128/0": 4.0,
        "full/convnet128/1": 5.0,
        "corruptions/fog": 2.0,
        "corruptions/teacher/resnet18": 0.5,
    }
    full = {"convnet128": [history(90.0), history(92.0)]}
    teachers = {"resnet18": history(99.0, 98.0)}
    runtime = Runtime(torch.device("cpu"), "fp32", 0)
    pictures = {"train": 40, "test": 16}
    results = collect(Config(ipc=5), students, full, teachers, seconds, pictures, runtime)
    rows = {(row["method"], row["student"]): row for row in results["rows"]}
    assert list(rows) == [*students, ("full", "convnet128"), ("teacher", "resnet18")]

    row = rows["gvbsm", "convnet128"]
    assert row["top1"] == {"mean": 62.0, "std": 2.0, "values": [60.0, 62.0, 64.0]}
    assert row["top1_best"]["values"] == [60.0, 70.0, 64.0]
    assert row["top1_best"]["std"] == pytest.approx((76 / 3) ** 0.5)  # n - 1 in the denominator
    assert (row["ipc"], row["seconds"]) == (5, 1.5)
    assert rows["random-hard", "convnet128"]["top1"] == {
        "mean": 30.0,
        "std": None,
        "values": [30.0],
    }
    assert rows["gvbsm", "convnet128_d4"]["seconds"] == 4.0
    teacher, whole = rows["teacher", "resnet18"], rows["full", "convnet128"]
    assert (teacher["ipc"], teacher["seconds"]) == (None, 7.0)
    assert (teacher["top1"]["mean"], teacher["top1_best"]["mean"]) == (98.0, 99.0)
    assert (whole["ipc"], whole["seconds"], whole["top1"]["values"]) == (None, 9.0, [90.0, 92.0])

    expected = dict(zip(TIMED, (7.0, 2.0, 3.0, 0, 5.5, 9.0, 2.5), strict=True))
    assert results["seconds"] == expected
    assert results["pictures"] == {"train": 40, "test": 16}
    assert results["config"] == to_dict(Config(ipc=5))
    assert {"gvbsm", "torch", "torchvision", "python", "device"} <= results["versions"].keys()
    assert json.loads(json.dumps(results)) == results


def test_the_table_of_results():
    def spread(*values, std=0.0):
        return {"mean": sum(values) / len(values), "std": std, "values": list(values)}

    ours = {"top1": spread(60.0, 61.0, std=0.75), "top1_best": spread(62.04, 62.04)}
    full = {"top1": spread(98.06), "top1_best": spread(100.0)}
    rows = [
        {"method": "gvbsm", "student": "convnet128", "ipc": 10, **ours},
        {"method": "full", "student": "r", "ipc": None, **full},
    ]
    assert format_table(rows).splitlines() == [
        "method  student     ipc  top-1 %     best epoch  n",
        "------  ----------  ---  ----------  ----------  -",
        "gvbsm   convnet128  10   60.5 ± 0.8  62.0 ± 0.0  2",
        "full    r           all  98.1        100.0       1",
    ]
    assert len(format_table([]).splitlines()) == 2


def test_the_table_of_continual():
    def spread(*values, std=0.0):
        return {"mean": sum(values) / len(values), "std": std, "values": list(values)}

    row = {
        "method": "gvbsm",
        "student": "convnet128",
        "ipc": 10,
        "steps": [spread(90.0, 91.0, std=0.7), spread(80.0, 80.0)],
        "average": spread(85.0, 85.5, std=0.35),
    }
    results = {"classes": [4, 10], "orders": [[0], [1]], "rows": [row], "note": "Beware."}
    assert format_continual(results).splitlines() == [
        "method  student     ipc  4           10          average",
        "------  ----------  ---  ----------  ----------  ----------",
        "gvbsm   convnet128  10   90.5 ± 0.7  80.0 ± 0.0  85.2 ± 0.3",
        "",
        "top-1 % by classes seen, 2 orders of the classes",
        "Beware.",
    ]
