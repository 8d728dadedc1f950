"""Published accuracies: the file, the page of it, and beside which rows they are shown."""

import re
from itertools import groupby
from pathlib import Path

import pytest

from gvbsm.backbones import check_known
from gvbsm.config.preset_files import preset_names
from gvbsm.data.sources.catalog import SOURCES
from gvbsm.files.schema import Data
from gvbsm.studies.definition import read_study
from gvbsm.studies.literature import published_beside, read_literature

PAGE = Path(__file__).parents[2] / "docs" / "published.md"
LITERATURE = read_literature()
CIFAR10 = {"name": "cifar10", "fingerprint": "f", "classes": 10, "image_size": 32}
# What `load_dataset` finds for the lossless set.
IMAGES = {
    "mean": [0.49139967861519607, 0.4821584083946078, 0.4465309144454658],
    "std": [0.24703223246328201, 0.24348512800005556, 0.2615878417279645],
}
# ... and for a JPEG copy of it.
JPEG = {
    "mean": [0.49125038, 0.48209027, 0.44652094],
    "std": [0.24523161, 0.24278155, 0.26062877],
}
ROWS = [
    {"method": "gvbsm", "student": "convnet128", "ipc": 10},
    {"method": "random-soft", "student": "resnet18", "ipc": 10},
    {"method": "teacher", "student": "convnet128", "ipc": None},
]
RESULTS = {
    "rows": ROWS,
    "pictures": {"train": 50_000, "test": 10_000},
    "config": {"method": "gvbsm", "data": {"name": "cifar10", "image_size": None}},
}


def beside(results=RESULTS, data=CIFAR10, images=IMAGES):
    return published_beside(results, Data(**data), images)


def test_the_highest_stands_first_and_only_beside_rows_of_the_run_s_own_method():
    figures = beside()
    assert {figure[:3] for figure in figures} == {("cifar10", "convnet128", 10)}
    assert [(figure.method, figure.top1) for figure in figures[:2]] == [
        ("Inf-Match", 72.5),
        ("NCFM", 71.8),
    ]
    assert figures[1].cells() == (
        "convnet128",
        "NCFM",
        "71.8 ± 0.3",
        "one-label",
        "NCFM (CVPR 2025, table 1; text)",
    )
    accuracies = [figure.top1 for figure in figures]
    assert accuracies == sorted(accuracies, reverse=True)


def test_students_stand_in_the_order_of_the_rows():
    rows = [{**ROWS[0], "student": name, "ipc": 1} for name in ("resnet18", "convnet128")]
    students = [figure.student for figure in beside({**RESULTS, "rows": rows})]
    assert list(dict.fromkeys(students)) == ["resnet18", "convnet128"]


@pytest.mark.parametrize(
    "changes",
    [
        {"results": {**RESULTS, "config": {"method": "gvbsm", "data": {"name": "folder"}}}},
        {"results": {**RESULTS, "config": {"method": "gvbsm", "data": {"name": "npz"}}}},
        {"results": {**RESULTS, "config": {**RESULTS["config"], "ipc_of": {"cat": 11}}}},
        {"results": {**RESULTS, "pictures": {"train": 49_999, "test": 10_000}}},
        {"results": {**RESULTS, "pictures": {"train": 50_000, "test": 9_000}}},
        {"results": {**RESULTS, "pictures": {}}},
        {"results": {**RESULTS, "rows": [{**ROWS[0], "ipc": 7}]}},
        {"results": {**RESULTS, "rows": [{**ROWS[0], "student": "convnet128_d2"}]}},
        {"results": {**RESULTS, "rows": ROWS[1:]}},
        {"data": {**CIFAR10, "image_size": 16}},
        {"data": {**CIFAR10, "classes": 9}},
        {"data": {**CIFAR10, "test_crop": 0.875}},
        {"images": JPEG},
        {"images": {"mean": [0.4914], "std": [0.247]}},
        {"images": {}},
    ],
)
def test_nothing_is_shown_for_other_data_students_or_numbers_of_images(changes):
    """Neither for pictures that only resemble a known set, such as a folder of that name."""
    assert beside(**changes) == []


def test_imagenet_is_known_by_its_number_of_pictures():
    rows = [{"method": "gvbsm", "student": "torchvision/resnet18", "ipc": 10}]
    config = {"method": "gvbsm", "data": {"name": "imagenet-1k"}}
    pictures = {"train": 1_281_167, "test": 50_000}
    data = {"name": "imagenet-1k", "fingerprint": "f", "classes": 1000, "image_size": 224}
    results = {"rows": rows, "config": config, "pictures": pictures}
    assert beside(results, {**data, "test_crop": 0.875})[0].method == "RETA"
    fewer = {**results, "pictures": {**pictures, "train": 1_281_166}}
    assert beside(fewer, data) == []


@pytest.mark.parametrize("figure", LITERATURE.figures, ids=lambda figure: "-".join(figure[:2]))
def test_a_figure_names_what_is_known(figure):
    assert figure.data in LITERATURE.data
    assert figure.data in SOURCES
    check_known(figure.student)
    assert figure.source in LITERATURE.sources
    assert figure.protocol in LITERATURE.protocols
    assert figure.read in ("text", "repository", "abstract", "quoted", "note")
    assert 0 < figure.top1 < 100
    assert figure.std is None or 0 < figure.std < 5


def test_the_protocols_of_the_presets_are_named_as_theirs():
    names = {name for name in preset_names() if name.startswith("protocol-")}
    assert {name.removeprefix("protocol-") for name in names} == {
        "paper",
        "edc",
        "rded",
        "rd3",
        "bps",
    }
    assert {name.removeprefix("protocol-") for name in names} < {*LITERATURE.protocols}


def test_no_figure_is_there_twice():
    keys = [(*figure[:4], figure.source, figure.protocol) for figure in LITERATURE.figures]
    assert len(set(keys)) == len(keys)


def test_every_source_and_protocol_is_used():
    assert {figure.source for figure in LITERATURE.figures} == {*LITERATURE.sources}
    assert {figure.protocol for figure in LITERATURE.figures} == {*LITERATURE.protocols}


@pytest.mark.parametrize("study", ["ipc", "table4-ipc"])
def test_the_paper_s_figures_are_those_of_the_studies(study):
    published = {
        figure[:3]: figure.top1
        for figure in LITERATURE.figures
        if (figure.method, figure.source) == ("G-VBSM", "G-VBSM")
    }
    shared = [figure for figure in read_study(study).paper if figure[1:4] in published]
    assert shared
    assert all(figure.top1 == published[figure[1:4]] for figure in shared)


def tables():
    """The tables of the page: one a data set, a line a figure."""
    for data, figures in groupby(LITERATURE.figures, key=lambda figure: figure.data):
        yield f"### {data}\n\n| IPC | student | method | top-1 % | protocol | source |"
        yield "|---|---|---|---|---|---|"
        for figure in figures:
            yield f"| {figure.ipc} | {' | '.join(figure.cells())} |"
        yield ""


def test_the_page_has_the_figures_of_the_file():
    assert "\n".join(tables()) in PAGE.read_text(encoding="utf-8")


def test_the_page_has_the_protocols_and_the_sources_of_the_file():
    words = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
    for name, text in LITERATURE.protocols.items():
        assert f"* `{name}`: {text}" in words
    for name, source in LITERATURE.sources.items():
        assert f"* {name}: *{source['title']}*, {source['venue']}" in words
