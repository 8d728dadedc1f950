"""Tables for papers: every number is that of results.json, and names cannot break them."""

import csv
import io
import json
import sys

import pytest

from gvbsm.pipeline.results import spread
from gvbsm.pipeline.tables import format_table
from gvbsm.reporting.result_tables import RunResults


def row(method, student, ipc, *values, best=None):
    top1, top1_best = spread(list(values)), spread(list(best or values))
    return {
        "method": method,
        "student": student,
        "ipc": ipc,
        "top1": top1,
        "top1_best": top1_best,
        "seconds": 1.0,
    }


@pytest.fixture
def results():
    """Three students of the method, one on all pictures."""
    return RunResults(
        rows=[
            row("gvbsm", "convnet128_d2", 10, 98.0, 99.0, 100.0, best=[99.0, 99.0, 100.0]),
            row("full", "a|b&c", None, 99.16),
        ]
    )


def test_results_are_still_a_mapping(results):
    assert results["rows"][1]["top1"] == {"mean": 99.16, "std": None, "values": [99.16]}
    assert json.loads(json.dumps(results)) == results


def test_a_table_in_markdown(results):
    assert results.to_markdown().splitlines() == [
        "| method | student | images per class | top-1 (%) | n |",
        "| --- | --- | --- | --- | --- |",
        r"| gvbsm | convnet128\_d2 | 10 | 99.0 ± 1.0 | 3 |",
        r"| full | a\|b&c | all | 99.2 | 1 |",
    ]


def test_a_table_in_latex(results):
    assert results.to_latex().splitlines() == [
        r"\begin{tabular}{llrrr}",
        r"\toprule",
        r"method & student & images per class & top-1 (\%) & n \\",
        r"\midrule",
        r"gvbsm & convnet128\_d2 & 10 & 99.0 $\pm$ 1.0 & 3 \\",
        r"full & a|b\&c & all & 99.2 & 1 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_tables_have_the_bytes_of_images_and_labels_where_they_are_known():
    sizes = {"image_bytes": 1500, "label_bytes": 2_500_000}
    rows = [{**row("gvbsm", "s", 1, 1.0), **sizes}, row("full", "s", None, 2.0)]
    rows.append({**row("random-hard", "s", 1, 1.0), "image_bytes": 1500, "label_bytes": 0})
    rows.append({**row("random-soft", "s", 1, 1.0), "image_bytes": 1500, "label_bytes": None})
    results = RunResults(rows=rows)
    assert results.to_markdown().splitlines() == [
        "| method | student | images per class | top-1 (%) | n | images | labels |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| gvbsm | s | 1 | 1.0 | 1 | 1.5 kB | 2.5 MB |",
        "| full | s | all | 2.0 | 1 |  |  |",
        "| random-hard | s | 1 | 1.0 | 1 | 1.5 kB | hard |",
        "| random-soft | s | 1 | 1.0 | 1 | 1.5 kB | by teachers |",
    ]
    latex = results.to_latex().splitlines()
    assert latex[0] == r"\begin{tabular}{llrrrrr}"
    assert latex[4] == r"gvbsm & s & 1 & 1.0 & 1 & 1.5 kB & 2.5 MB \\"
    assert [line.split()[-2:] for line in format_table(rows).splitlines()[2:]] == [
        ["2.5", "MB"],
        ["2.0", "1"],
        ["kB", "hard"],
        ["by", "teachers"],
    ]
    table = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert [line["image_bytes"] for line in table] == ["1500", "", "1500", "1500"]
    assert [line["label_bytes"] for line in table] == ["2500000", "", "0", ""]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (r"a\b", r"a\textbackslash{}b"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("{$#}", r"\{\$\#\}"),
    ],
)
def test_names_in_latex_are_text(name, text):
    assert text in RunResults(rows=[row(name, "s", 1, 1.0)]).to_latex()


TIDY = [
    ("gvbsm", "convnet128_d2", 10, 0, 98.0, 99.0),
    ("gvbsm", "convnet128_d2", 10, 1, 99.0, 99.0),
    ("gvbsm", "convnet128_d2", 10, 2, 100.0, 100.0),
    ("full", "a|b&c", None, 0, 99.16, 99.16),
]


def test_a_frame_has_a_row_a_student_and_seed(results):
    pandas = pytest.importorskip("pandas")
    frame = results.to_frame()
    assert list(frame) == ["method", "student", "ipc", "seed", "top1", "top1_best"]
    plain = frame.astype(object).where(frame.notna(), None)
    assert [tuple(line) for line in plain.to_numpy()] == TIDY
    assert frame.groupby("method").top1.std()["gvbsm"] == 1.0
    assert pandas.api.types.is_integer_dtype(frame["ipc"])


def test_a_csv_has_a_row_a_student_and_seed(results):
    lines = list(csv.reader(io.StringIO(results.to_csv())))
    assert lines[0] == ["method", "student", "ipc", "seed", "top1", "top1_best"]
    assert [tuple(line) for line in lines[1:]] == [
        tuple("" if cell is None else str(cell) for cell in line) for line in TIDY
    ]


def test_other_measures_are_columns(results):
    top5 = spread([99.5, 99.25, 100.0])
    results["rows"][0]["metrics"] = {"top5": top5, "by_class": [98.0, None]}
    measured, whole = results.tidy()[1], results.tidy()[3]
    assert measured["top5"] == 99.25
    assert "top5" not in whole
    assert "by_class" not in measured
    head, *lines = results.to_csv().splitlines()
    assert head.endswith(",top1_best,top5")
    assert lines[1].endswith(",99.25")
    assert lines[3].endswith(",")


def test_without_pandas_one_line_names_it(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        results.to_frame()
