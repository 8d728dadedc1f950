"""The report: its numbers, what it leaves out, its HTML, and how browsers show it."""

import base64
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

import gvbsm
from gvbsm.cli import main
from gvbsm.cli.parsing import parse_run
from gvbsm.config import Config
from gvbsm.config.build import as_config, build_config, to_dict
from gvbsm.config.keys import fields_by_name, merge
from gvbsm.config.paths import data_title
from gvbsm.config.preset_files import read_preset
from gvbsm.config.provenance import Origin
from gvbsm.config.settled import settle_beta_dr
from gvbsm.files.artifacts import ArtifactError, atomic, read_json, write_json
from gvbsm.files.manifest import claim
from gvbsm.files.tensors import load_tensors, save
from gvbsm.reporting.facts import preset_settings, read_run_facts
from gvbsm.reporting.figures.captions import CaptionedFigure
from gvbsm.reporting.figures.images import PictureGrid
from gvbsm.reporting.figures.reading import read_studies
from gvbsm.reporting.figures.style import COLORS, new_figure
from gvbsm.reporting.page import costs, write_page
from gvbsm.reporting.paper_terms import (
    SECTIONS,
    commands,
    preset_words,
    settings_table,
    settings_yaml,
)
from gvbsm.reporting.rendering import duration
from gvbsm.reporting.show import describe
from gvbsm.reporting.studies import find_in_study
from gvbsm.reporting.wording import listed, share
from gvbsm.studies import literature
from gvbsm.studies.literature import DataFacts, Literature, PublishedAccuracy
from support.distilled_files import write_labels
from support.studies import ORIGIN

HOSTILE = '<script>alert("x")</script>'
STUDENT = "convnet128_d2"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "link", "hr", "input", "source", "wbr", "col"}


def spread(*values, std=0.25):
    return {"mean": sum(values) / len(values), "std": std, "values": list(values)}


def row(method, *values, ipc=2, best=None, seconds=65.0):
    top1 = spread(*values)
    return {
        "method": method,
        "student": STUDENT,
        "ipc": ipc,
        "top1": top1,
        "top1_best": best or top1,
        "seconds": seconds,
    }


def trace():
    terms = {"cross_entropy": 1.0, "batchnorm": 2.0, "conv": 3.0, "densification": 0.5}
    return [
        {"step": n, "teacher": "wrn16_2", "densification_gradient": 0.0, **terms} for n in (0, 1)
    ]


def write_run(root, names=("ant", HOSTILE), **changes):
    """A finished work directory on two classes, with known numbers."""
    claim(root / "report")
    config = to_dict(as_config(merge({**read_preset("digits"), "ipc": 2}, changes)))
    config["labels"]["epochs"] = 800  # as settled for four images
    write_json(
        root / "data.json",
        {"name": config["data"]["name"], "fingerprint": "f", "classes": 2, "image_size": 8},
    )
    header = {
        "kind": "images",
        "recipe": {"ipc": 2, "synthesis": {"init": "real"}},
        "method": "gvbsm",
        "class_names": list(names),
        "mean": [0.5],
        "std": [0.25],
        "traces": [trace()],
    }
    images = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    save(
        root / "synthesis" / "images.safetensors",
        {"images": images, "labels": torch.tensor([0, 0, 1, 1])},
        header,
    )
    history = {"epochs": [3, 6], "top1": [99.0, 97.5], "losses": [1.0] * 6}
    for backbone in config["squeeze"]["backbones"]:
        header = {
            "kind": "teacher",
            "recipe": {},
            "backbone": backbone,
            "history": history,
            "class_names": list(names),
        }
        save(root / "squeeze" / f"{backbone}.safetensors", {"weight": torch.zeros(1)}, header)
    write_labels(root / "labels")
    write_json(
        root / "seconds.json",
        {
            "squeeze/wrn16_2": 100.0,
            "statistics": 1.0,
            "synthesis/gvbsm": 7.0,
            "synthesis/sre2l": 5.0,
            "labels/random-1": 2.0,
            f"evaluation/gvbsm/{STUDENT}/0": 60.0,
            f"evaluation/sre2l/{STUDENT}/0": 30.0,
            f"full/{STUDENT}/0": 40.0,
        },
    )
    write_json(
        root / "results.json",
        {
            "rows": [
                row("gvbsm", 61.04, 63.0, best=spread(71.0, 72.0)),
                row("random-soft", 50.0, 51.0, 52.0),
                row("full", 98.06, ipc=None),
            ],
            "seconds": {},
            "pictures": {"train": 1437, "test": 360},
            "config": config,
            "origin": ORIGIN,
            "versions": {
                "gvbsm": gvbsm.__version__,
                "torch": "9.9",
                "device": "cpu",
                "precision": "fp32",
                "threads": "2",
            },
        },
    )
    return root


@pytest.fixture
def workdir(tmp_path):
    return write_run(tmp_path / "mine")


def hostile_gallery(_workdir):
    """One figure of each place and a film, with hostile words, in place of the real ones."""
    grid = PictureGrid({HOSTILE: torch.zeros(1, 2, 1, 8, 8, dtype=torch.uint8)}, [HOSTILE])
    chart = new_figure(1, 0.5)
    chart.text(0, 0, HOSTILE)
    for name, figure, motion in (
        ("images", grid, None),
        ("film", grid, b"GIF89a"),
        ("tsne", chart, None),
    ):
        yield CaptionedFigure(
            name, f"Title {HOSTILE}", f"Caption {HOSTILE}", f'"{HOSTILE}', figure, motion
        )


@pytest.fixture
def plain_gallery(monkeypatch):
    monkeypatch.setattr("gvbsm.reporting.page.gallery", hostile_gallery)


def plain(text):
    """HTML as it is read: no tags, one space for several."""
    return " ".join(re.sub(r"<[^>]*>", "", text).split())


def page_of(workdir, notes=()):
    return write_page(workdir, read_run_facts(workdir), notes).read_text(encoding="utf-8")


@pytest.mark.usefixtures("plain_gallery")
def test_a_held_out_share_is_told_with_the_results_and_is_no_warning(workdir):
    assert "held out" not in page_of(workdir)
    results = read_json(workdir / "results.json")
    share = "0.2 of each class (data.split_seed=0)"
    write_json(workdir / "results.json", {**results, "data": {"held_out": share}})
    told = plain(page_of(workdir))
    assert f"The test pictures were held out of the data: {share}." in told
    assert told.count("held out") == 1


class Tree(HTMLParser):
    """Start tags with their attributes, text, headings; complains of what is not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.headings, self.words, self.cells = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)
        elif tag == "br" and {"td", "th"} & set(self.open):
            self.cells[-1][-1] += " "

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    def row(self, start):
        found = [[" ".join(cell.split()) for cell in cells] for cells in self.cells]
        return next(cells for cells in found if cells[0].startswith(start))

    def measures(self, start):
        """A row of the second table of the results."""
        found = [[" ".join(cell.split()) for cell in cells] for cells in self.cells]
        return [cells for cells in found if cells and cells[0].startswith(start)][1]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A work directory with its report, to be looked at alone."""
    root = write_run(tmp_path_factory.mktemp("reported") / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gvbsm.reporting.page.gallery", hostile_gallery)
        page_of(root, ["Run `gvbsm squeeze` first."])
    return root


@pytest.fixture(scope="module")
def tree(reported):
    return Tree((reported / "report" / "index.html").read_text(encoding="utf-8"))


# Numbers


def test_the_table_holds_the_results(tree):
    own = tree.row("G-VBSM")
    assert own == [
        "G-VBSM this run gvbsm",
        STUDENT,
        "2",
        "62.0 ± 0.2",
        "2",
    ]
    assert tree.row("random real pictures, soft")[3:5] == ["51.0 ± 0.2", "3"]
    assert tree.row("whole set")[1:5] == [STUDENT, "all", "98.1", "1"]
    assert [item.get("class") for item in tree.all("tr")].count("own") == 2  # of both tables
    assert tree.measures("G-VBSM") == ["G-VBSM", STUDENT, "71.5 ± 0.2", "1 min 5 s"]


def test_the_table_has_columns_for_what_was_measured(tmp_path, plain_gallery):
    workdir = write_run(tmp_path / "w", names=("ant", "bee"))
    results = read_json(workdir / "results.json")
    results["rows"][0]["metrics"] = {
        "calibration_error": spread(4.0, 6.0),
        "balanced": spread(55.0, 55.0),
        "corrupted": spread(30.0, 31.0),
        "by_class": [70.0, 40.0],
    }
    write_json(workdir / "results.json", results)
    tree = Tree(page_of(workdir))
    heads = ["top-1 %", "balanced %", "corrupted %", "lowest class, %", "n"]
    assert tree.row("trained on")[3:] == heads
    assert tree.row("G-VBSM")[4:] == ["55.0 ± 0.2", "30.5 ± 0.2", "bee: 40.0", "2"]
    assert tree.row("random real pictures, soft")[4:] == ["", "", "", "3"]
    assert tree.measures("trained on")[2:] == [
        "best epoch %",
        "calibration error %",
        "training time",
    ]
    assert tree.measures("G-VBSM")[2:4] == ["71.5 ± 0.2", "5.0 ± 0.2"]
    assert "15 bins of confidence" in tree.text
    assert "five largest outputs" not in tree.text


def test_a_balanced_accuracy_that_equals_top1_is_no_column_of_the_table(tmp_path, plain_gallery):
    workdir = write_run(tmp_path / "w", names=("ant", "bee"))
    results = read_json(workdir / "results.json")
    own = results["rows"][0]
    by_class = {"calibration_error": spread(4.0, 6.0), "by_class": [70.0, 40.0]}
    own["metrics"] = {**by_class, "balanced": own["top1"]}
    write_json(workdir / "results.json", results)
    tree = Tree(page_of(workdir))
    assert "balanced %" not in tree.row("trained on")
    assert "balanced %" in tree.measures("trained on")


def test_published_accuracies_of_the_same_data_stand_below_the_results(
    workdir, plain_gallery, monkeypatch
):
    """In `show` too; here the data are made a known set."""
    pictures = read_json(workdir / "results.json")["pictures"]
    known = DataFacts(2, pictures["train"], pictures["test"], 8, (0.5,), (0.25,))
    figures = [
        PublishedAccuracy("digits", STUDENT, 2, "one", 77.7, None, "S", 5, "rd3", "text"),
        PublishedAccuracy("digits", STUDENT, 2, "two", 88.8, 0.1, "S", None, "own", "note"),
        PublishedAccuracy("digits", STUDENT, 1, "three", 99.9, 0.1, "S", None, "own", "note"),
    ]
    sources = {"S": {"title": "Title", "venue": "CVPR 2024"}}
    content = Literature({"digits": known}, sources, {}, figures)
    assert "Published" not in plain(page_of(workdir)) + describe(workdir)
    monkeypatch.setattr(literature, "read_literature", lambda: content)
    for text in (re.sub(r"<[^>]*>", " ", page_of(workdir)), describe(workdir)):
        words = " ".join(text.split())
        assert "two 88.8 ± 0.1 own S (CVPR 2024; note)" in words
        assert "one 77.7 rd3 S (CVPR 2024, table 5; text)" in words
        assert words.index("88.8") < words.index("77.7")
        assert "Protocols differ" in words
        assert "99.9" not in words


def test_the_table_has_the_bytes_of_images_and_labels(workdir, plain_gallery):
    assert 'data-head="labels"' not in page_of(workdir)
    results = read_json(workdir / "results.json")
    results["rows"][0] |= {"image_bytes": 2500, "label_bytes": 7_000_000}
    write_json(workdir / "results.json", results)
    page = page_of(workdir)
    assert '<td data-head="images" class="number">2.5 kB</td>' in page
    assert '<td data-head="labels" class="number">7 MB</td>' in page


def test_title_verdict_and_numbers_at_the_top(tree):
    assert "digits: G-VBSM, 2 images per class" in tree.text
    assert "2 classes, 4 images of 8 \N{MULTIPLICATION SIGN} 8 pixels" in tree.text
    assert f"Trained on 4 distilled images, {STUDENT} reaches 62.0 ± 0.2 %" in tree.text
    assert "on all 1,437 pictures, 98.1" in tree.text
    assert "0.28 % of 1,437" in tree.text


def test_warnings_are_in_the_page(tree):
    assert (
        "Warning: These baselines have not been evaluated: random real pictures, hard labels"
        in tree.text
    )
    assert "L_DD had no effect" in tree.text
    assert "`" not in tree.text  # code is marked up
    assert "Run gvbsm squeeze first." in tree.text


def test_time_and_bytes_of_each_stage(tree, reported):
    found = {cost.name: cost for cost in costs(read_run_facts(reported))}
    assert (found["squeeze"].own_seconds, found["squeeze"].seconds) == (100.0, 0.0)
    assert (found["synthesis"].own_seconds, found["synthesis"].seconds) == (7.0, 5.0)
    assert (found["labels"].own_seconds, found["labels"].seconds) == (0.0, 2.0)
    assert (found["evaluation"].own_seconds, found["evaluation"].seconds) == (60.0, 30.0)
    assert (found["full"].own_seconds, found["full"].seconds) == (0.0, 40.0)
    size = (reported / "synthesis" / "images.safetensors").stat().st_size
    assert (found["synthesis"].own, found["synthesis"].baselines) == (size, 0)
    assert tree.row("synthesis")[1:3] == ["7 s", "5 s"]
    assert tree.row("all")[1:3] == ["2 min 48 s", "1 min 17 s"]


def test_time_and_bytes_of_corrupted_pictures(workdir):
    noted = {"corruptions/fog": 6.0, "corruptions/snow": 4.0, "corruptions/teacher/a": 3.0}
    write_json(workdir / "seconds.json", noted)
    save(workdir / "corruptions" / "fog.safetensors", {"images": torch.zeros(1)}, {})
    write_json(workdir / "corruptions" / "teachers" / "a.json", {"top1": [90.0]})
    (cost,) = [cost for cost in costs(read_run_facts(workdir)) if cost.name == "corruptions"]
    assert (cost.own_seconds, cost.seconds) == (10.0, 3.0)
    files = ("fog.safetensors", "teachers/a.json")
    sizes = [(workdir / "corruptions" / name).stat().st_size for name in files]
    assert [cost.own, cost.baselines] == sizes


def test_bytes_of_baselines_are_counted_apart(workdir):
    other = workdir / "baselines" / "sre2l" / "synthesis" / "images.safetensors"
    other.parent.mkdir(parents=True)
    shutil.copy(workdir / "synthesis" / "images.safetensors", other)
    stored = read_run_facts(workdir).stored["synthesis"]
    assert stored.own == stored.baselines == other.stat().st_size
    result = workdir / "baselines" / "full" / f"{STUDENT}-0.json"
    write_json(result, {"top1": [98.0]})
    stored = read_run_facts(workdir).stored["full"]
    assert (stored.own, stored.baselines) == (0, result.stat().st_size)


def test_bytes_of_labels_are_those_of_both_stores(workdir):
    before = read_run_facts(workdir).stored["labels"]
    shutil.copytree(workdir / "labels", workdir / "labels-normalized")
    shutil.copytree(workdir / "labels", workdir / "baselines" / "sre2l" / "labels-normalized")
    stored = read_run_facts(workdir).stored["labels"]
    assert (stored.own, stored.baselines) == (2 * before.own, before.own)
    seconds = {"labels/gvbsm": 2.0, "labels/gvbsm-normalized": 3.0, "labels/random-1": 7.0}
    found = costs(replace(read_run_facts(workdir), seconds=seconds))
    (cost,) = [cost for cost in found if cost.name == "labels"]
    assert (cost.own_seconds, cost.seconds) == (5.0, 7.0)


@pytest.mark.usefixtures("plain_gallery")
def test_whole_set_and_teacher_of_one_network_are_two_rows(workdir):
    """The images are compared with the student on all pictures, not with the teacher."""
    results = read_json(workdir / "results.json")
    results["rows"].append(row("teacher", 96.0, ipc=None))
    write_json(workdir / "results.json", results)
    tree = Tree(page_of(workdir))
    assert tree.row("whole set")[1:5] == [STUDENT, "all", "98.1", "1"]
    assert tree.row("teacher")[1:5] == [STUDENT, "all", "96.0", "1"]
    assert "on all 1,437 pictures, 98.1" in tree.text
    assert "Teacher, top-1" not in tree.text


def test_what_the_sets_of_a_run_cost(workdir):
    results = read_json(workdir / "results.json")
    results["rows"].append(row("random-hard", 70.0))
    labels = read_run_facts(workdir).set_bytes["labels"]
    assert labels > 0
    for entry in results["rows"]:
        if entry["ipc"] is not None:
            stored = labels if entry["method"] == "gvbsm" else 0
            entry |= {"image_bytes": 256, "label_bytes": stored}
    write_json(workdir / "results.json", results)
    tree = Tree(page_of(workdir))
    head = ["set", "student", "top-1 %", "synthesis, s", "bytes", "best for"]
    (start,) = [place for place, cells in enumerate(tree.cells) if cells == head]
    assert tree.cells[start + 1 : start + 4] == [
        ["gvbsm", STUDENT, "62.0 ± 0.2", "7.0", f"{256 + labels:,}", ""],
        ["random-soft", STUDENT, "51.0 ± 0.2", "0.0", "256", ""],
        ["random-hard", STUDENT, "70.0", "0.0", "256", "time, bytes"],
    ]


def test_no_time_leaves_a_cell_empty():
    assert [duration(seconds) for seconds in (0, 0.4, 90_000)] == ["", "0.4 s", "1 d 1 h"]


def test_a_loop_over_soft_labels_is_shown(tree):
    assert "for batch in distilled.loader():" in tree.text


def test_teachers_with_last_and_best_epoch(tree):
    assert tree.row("wrn16_2") == ["wrn16_2", "97.5", "99.0", "6"]


@pytest.mark.usefixtures("plain_gallery")
def test_pretrained_teachers_are_not_called_trained_on_the_pictures(workdir):
    trained = "Networks trained on all real pictures"
    assert f"{trained}. Their" in page_of(workdir)
    paths = sorted((workdir / "squeeze").glob("*.safetensors"))
    sentences = (f"{trained}, but for the pretrained. ", "Networks that were trained elsewhere. ")
    for path, sentence in zip(paths, sentences, strict=True):
        tensors, header = load_tensors(path, "teacher")
        history = {"epochs": [0], "top1": [97.5], "losses": []}
        save(path, tensors, {**header, "history": history})
        assert sentence in page_of(workdir)


def write_continual(folder, methods, steps, average, *, config=None, versions=None):
    """Write continual results of these methods, each with the same accuracies; return the rows."""
    rows = [
        {
            "method": method,
            "student": STUDENT,
            "ipc": 2,
            "seconds": 1.0,
            "steps": steps,
            "average": average,
        }
        for method in methods
    ]
    content = {
        "classes": [1, 2],
        "class_names": ["a", "b"],
        "orders": [[0, 1], [1, 0]],
        "rows": rows,
        "note": HOSTILE,
        "config": config or {},
        "versions": versions or {},
        "origin": ORIGIN,
    }
    write_json(folder / "continual.json", content)
    return rows


def test_continual_results_where_there_are_some(workdir, plain_gallery):
    assert 'id="continual"' not in page_of(workdir)
    steps, average = [spread(99.0, 98.0), spread(40.0)], spread(70.0, 69.0)
    write_continual(workdir, ["gvbsm"], steps, average)
    tree = Tree(page_of(workdir))
    assert ["2", "98.5 ± 0.2", "40.0", "69.5 ± 0.2"] in [
        [" ".join(cell.split()) for cell in cells[2:]] for cells in tree.cells
    ]
    assert "arrive in 2 steps" in tree.text


def test_a_page_is_written_of_text_that_cannot_be_encoded(plain_gallery, tmp_path):
    write_run(tmp_path)
    assert r"half a sign: \ud800" in page_of(tmp_path, ["half a sign: \ud800"])


def test_continual_results_alone_have_a_page(tmp_path):
    steps, average = [spread(99.0, 98.0), spread(40.0, 42.0)], spread(70.0, 69.0)
    rows = write_continual(
        tmp_path,
        ["gvbsm", "random-soft"],
        steps,
        average,
        config=to_dict(Config()),
        versions={"torch": "9.9"},
    )
    text = gvbsm.report(tmp_path).read_text(encoding="utf-8")
    tree = Tree(text)
    check_links(tree)
    assert "<script" not in text
    assert len(tree.all("svg")) == 1
    assert "arrive in 2 steps" in tree.text
    assert ["2", "98.5 ± 0.2", "41.0 ± 0.2", "69.5 ± 0.2"] in [cells[2:] for cells in tree.cells]
    assert (tmp_path / "report" / "figures" / "continual.svg").is_file()
    write_json(tmp_path / "continual.json", {"rows": rows})
    with pytest.raises(ArtifactError, match=r"continual\.json is damaged \(it lacks classes"):
        gvbsm.report(tmp_path)


# What is missing


def test_only_what_is_there_is_told(workdir, monkeypatch):
    monkeypatch.setattr("gvbsm.reporting.page.gallery", lambda _: iter(()))
    for folder in ("squeeze", "synthesis", "labels"):
        shutil.rmtree(workdir / folder)
    (workdir / "seconds.json").unlink()
    results = read_json(workdir / "results.json")
    del results["pictures"]
    write_json(workdir / "results.json", results)
    text = page_of(workdir)
    tree = Tree(text)
    ids = {attributes.get("id") for _, attributes in tree.tags}
    assert not {"images", "figures", "teachers", "continual"} & ids
    assert {"results", "settings", "cost", "reproduce", "use", "cite"} <= ids
    assert "distilled.loader()" not in tree.text
    assert "test-pictures" not in text
    links = {item["href"] for item in tree.all("a") if item["href"].startswith("#")}
    assert links <= {f"#{name}" for name in ids}


def test_a_note_alone_makes_the_section_of_figures(workdir, monkeypatch):
    monkeypatch.setattr("gvbsm.reporting.page.gallery", lambda _: iter(()))
    assert 'id="figures"' in page_of(workdir, ["A note."])


def test_figures_that_are_drawn_no_more_go(workdir, plain_gallery):
    folder = workdir / "report" / "figures"
    for name in ("old.png", "old.pdf", "old.svg"):
        with atomic(folder / name) as temporary:
            temporary.touch()
    for name in ("mine.png", "notes.txt"):
        (folder / name).touch()
    page_of(workdir)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "film.gif",
        "film.png",
        "images.png",
        "mine.png",
        "notes.txt",
        "tsne.svg",
    ]


def test_a_pdf_stands_beside_each_svg_where_it_is_asked_for(workdir, plain_gallery):
    write_page(workdir, read_run_facts(workdir), pdf=True)
    names = {path.name for path in (workdir / "report" / "figures").iterdir()}
    assert names == {"film.gif", "film.png", "images.png", "tsne.pdf", "tsne.svg"}


# Sweeps


PUBLISHED = {
    "point": "alpha=0.0",
    "data": "digits",
    "student": STUDENT,
    "ipc": 10,
    "top1": 30.0,
}


def write_study(
    root, name="table1-alpha", done=2, values=((60.0, 60.2), (60.1, 60.3), (40.0, 40.2))
):
    """Three points of a study, some of them done, and random pictures that all have in common."""
    points = [
        {
            "name": f"alpha={alpha}",
            "axes": {"alpha": alpha},
            "folders": [],
            "done": index < done,
            "config": to_dict(Config()),
        }
        for index, alpha in enumerate((0.0, 0.4, 0.8))
    ]

    def line(point, method, values):
        top1 = {**spread(*values), "n": len(values)}
        return {
            "study": name,
            "point": point and point["name"],
            "axes": point["axes"] if point else {},
            "method": method,
            "student": STUDENT,
            "ipc": 10,
            "seeds": [0],
            "top1": top1,
            "top1_best": top1,
            "synthesis_seconds": 1.0,
            "seconds": 1.0,
            "seconds_per_iteration": 0.25 if point else None,
            "image_bytes": 1,
            "label_bytes": 2,
            "recipe": "r",
        }

    rows = [line(p, "gvbsm", top1) for p, top1 in zip(points[:done], values, strict=False)]
    (root / "points").mkdir(parents=True, exist_ok=True)
    write_json(
        root / f"{name}.json",
        {
            "format": 1,
            "study": name,
            "title": "the EMA",
            "source": HOSTILE,
            "axes": ["alpha"],
            "paper": [PUBLISHED, PUBLISHED | {"data": "imagenet-1k", "student": HOSTILE}],
            "points": points,
            "rows": [*rows, line(None, "random-soft", (50.0,))],
            "versions": {"torch": "9.9"},
            "additive": False,
            "origin": ORIGIN,
        },
    )
    return root


@pytest.fixture
def study_figures(monkeypatch):
    def gallery(_workdir):
        for name in ("study-table1-alpha", "study-table1-alpha-cost", "study-table1", "images"):
            yield CaptionedFigure(name, f"Title of {name}", "Caption", "Alt", new_figure(1, 0.5))

    monkeypatch.setattr("gvbsm.reporting.studies.gallery", gallery)
    monkeypatch.setattr("gvbsm.reporting.page.gallery", gallery)


def test_a_study_s_table_has_bytes_where_points_differ_in_them(tmp_path, study_figures):
    path = write_study(tmp_path / "sweep") / "table1-alpha.json"
    assert "label bytes" not in gvbsm.report(path.parent).read_text(encoding="utf-8")
    content = read_json(path)
    content["rows"][0]["label_bytes"] = 1234567
    write_json(path, content)
    text = gvbsm.report(path.parent).read_text(encoding="utf-8")
    assert "label bytes" in text
    assert "1,234,567" in text


def test_a_sweep_has_a_page_of_its_own(tmp_path, study_figures):
    root = write_study(write_study(tmp_path / "sweep"), "table1", done=3)
    text = gvbsm.report(root).read_text(encoding="utf-8")
    tree = Tree(text)
    check_links(tree)
    assert "<script" not in text
    assert tree.row("alpha=0.0") == [
        "alpha=0.0",
        "gvbsm",
        STUDENT,
        "10",
        "60.1 ± 0.2",
        "2",
        "250",
        "30.0",
    ]
    assert tree.row("every point")[1:] == ["random-soft", STUDENT, "10", "50.0", "1", "", ""]
    (head,) = [cells for cells in tree.cells if "ms / iteration" in cells][:1]
    assert head[-1] == "the paper"
    other = f"the paper: {HOSTILE}, imagenet-1k, 10 images per class"
    assert ["point", other] in tree.cells
    assert tree.cells[tree.cells.index(["point", other]) + 1] == ["alpha=0.0", "30.0"]
    assert "2 of 3 points are done" in tree.text
    assert text.count("points are done") == 1
    assert (
        "the best point is alpha=0.4. Within two standard deviations of it: alpha=0.0." in tree.text
    )
    first, second = re.split(r'<h3 id="study-2">', text)
    assert "Title of study-table1-alpha<" in first  # which begins as the other's name does
    assert "Title of study-table1-alpha-cost<" in first
    assert "Title of study-table1<" not in first
    assert second.count("Title of study-") == 1


def test_each_cell_of_a_table_that_stacks_names_its_column(tmp_path, study_figures):
    """On narrow screens, where the head is hidden."""
    path = write_study(tmp_path / "sweep") / "table1-alpha.json"
    content = read_json(path)
    content["rows"][0]["label_bytes"] = 1234567
    write_json(path, {**content, "additive": True})
    text = gvbsm.report(path.parent).read_text(encoding="utf-8")
    tables = re.findall(r'<table class="results">(.*?)</table>', text, flags=re.S)
    assert len(tables) == 2  # of the points, and of their costs
    for table in tables:
        head, *rows = re.findall(r"<tr.*?</tr>", table, flags=re.S)
        heads = re.findall(r"<th.*?>(.*?)</th>", head.replace(">IPC<", ">images per class<"))[1:]
        for cells in rows:
            assert re.findall(r'<td data-head="(.*?)"', cells) == heads
            assert cells.count("<td") == len(heads)


def test_the_gain_of_each_point_stands_in_an_additive_study(tmp_path, study_figures):
    path = write_study(tmp_path / "sweep", done=3) / "table1-alpha.json"
    assert "gain" not in gvbsm.report(path.parent).read_text(encoding="utf-8")
    write_json(path, {**read_json(path), "additive": True})
    text = gvbsm.report(path.parent).read_text(encoding="utf-8")
    tree = Tree(text)
    (head,) = [cells for cells in tree.cells if "gain" in cells]
    gain = head.index("gain")
    assert head[gain - 1] == "top-1 %"
    found = [tree.row(f"alpha={alpha}")[gain] for alpha in (0.0, 0.4, 0.8)]
    # two students of deviation 0.25 at each point: sqrt(2 * 0.25 ** 2 / 2) = 0.25
    assert found == ["", "+0.1 ± 0.2", "\N{MINUS SIGN}20.1 ± 0.2"]
    assert tree.row("every point")[gain] == ""  # random pictures are no point
    assert "Each point adds its settings to those of the points before" in tree.text


def test_a_study_names_its_preset(tmp_path, study_figures):
    path = write_study(tmp_path / "sweep") / "table1-alpha.json"
    assert "All points vary" not in gvbsm.report(path.parent).read_text(encoding="utf-8")
    origin = {"preset": "cifar10+sre2l", "changed": ["ipc", "seed"]}
    write_json(path, {**read_json(path), "origin": origin})
    text = plain(gvbsm.report(path.parent).read_text(encoding="utf-8"))
    words = "the preset cifar10+sre2l, 2 settings changed by the user: ipc, seed."
    assert words in text


def test_studies_beside_a_run_are_told_in_its_report(workdir, study_figures):
    write_study(workdir)
    shutil.rmtree(workdir / "squeeze")
    tree = Tree(gvbsm.report(workdir).read_text(encoding="utf-8"))
    check_links(tree)
    assert "Studies" in tree.text
    assert tree.row("alpha=0.4")[4] == "60.2 ± 0.2"
    assert tree.text.count("Title of study-table1-alpha ") == 1


def test_a_slow_iteration_is_told_without_an_exponent(tmp_path, study_figures):
    path = write_study(tmp_path / "sweep") / "table1-alpha.json"
    content = read_json(path)
    content["rows"][0]["seconds_per_iteration"] = 1.3824
    write_json(path, content)
    tree = Tree(gvbsm.report(path.parent).read_text(encoding="utf-8"))
    assert tree.row("alpha=0.0")[6] == "1,382"
    assert tree.row("alpha=0.4")[6] == "250"


def test_students_alone_and_points_that_stand_out(tmp_path):
    root = write_study(tmp_path, done=3, values=((60.0,), (70.0,), (80.0,)))
    (study,) = read_studies(root)
    assert [finding.name for finding in find_in_study(study)] == ["single"]


def test_a_baseline_that_is_better_than_points_is_told(tmp_path):
    root = write_study(tmp_path, done=3, values=((60.0, 60.2), (48.0, 48.2), (40.0, 40.2)))
    (study,) = read_studies(root)
    rival, *_ = find_in_study(study)  # random pictures have 50.0 at every point
    assert (rival.name, rival.level) == ("rival", "warning")
    assert rival.text == (
        "Random real pictures with the same soft labels do better than the images at 2 of 3 points "
        "of the study, by 1.9 to 9.9 percentage points. Here the distilled images bring no more "
        "than real pictures."
    )
    assert rival.advice.startswith("Compare the points only with each other. ")


def test_points_of_several_students_are_counted_as_pairs(tmp_path):
    root = write_study(tmp_path, done=3, values=((60.0, 60.2), (48.0, 48.2), (40.0, 40.2)))
    (study,) = read_studies(root)
    twice = [{**row, "student": name} for row in study.rows for name in (STUDENT, "resnet18")]
    rival, *_ = find_in_study(study._replace(rows=twice))
    assert "at 4 of 6 pairs of a point and a student of the study" in rival.text


@pytest.mark.parametrize("method", ["gvbsm-hard", "random-unaugmented"])
def test_other_labels_of_the_images_and_students_without_views_are_no_rivals(method, tmp_path):
    root = write_study(tmp_path, done=3, values=((60.0, 60.2), (48.0, 48.2), (40.0, 40.2)))
    (study,) = read_studies(root)
    renamed = {"random-soft": method}
    rows = [{**row, "method": renamed.get(row["method"], row["method"])} for row in study.rows]
    assert method in {row["method"] for row in rows}
    found = [finding.name for finding in find_in_study(study._replace(rows=rows))]
    assert "rival" not in found


def test_a_sweep_without_results(tmp_path, capsys):
    (tmp_path / "points").mkdir()
    assert main(["report", str(tmp_path)]) == 2
    assert "no results of a study yet" in capsys.readouterr().err


# HTML


def test_ids_are_unique_and_every_link_has_its_target(tree):
    check_links(tree)


def check_links(tree):
    ids = [attributes["id"] for _, attributes in tree.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tree.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            if name in attributes:
                assert attributes[name] in ids
    inside = [item["href"] for item in tree.all("a") if item["href"].startswith("#")]
    assert len(inside) > 4
    assert {link[1:] for link in inside} <= set(ids)


def test_nothing_is_loaded_from_outside(tree, reported):
    text = (reported / "report" / "index.html").read_text()
    for tag, attributes in tree.tags:
        assert tag not in ("script", "iframe", "link", "object", "embed", "base", "foreignobject")
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")
        if not (href := attributes.get("href", "#")).startswith(("#", "data:application/yaml")):
            assert tag == "a"
            assert href.startswith("https://")
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    assert not re.search(r"url\(|@import|@font-face", style)
    assert "default-src 'none'" in text


def test_headings_images_tables_and_language(tree):
    assert tree.headings[0] == 1
    assert tree.headings.count(1) == 1
    for before, after in zip(tree.headings, tree.headings[1:], strict=False):
        assert after <= before + 1
    assert all(item["alt"] for item in tree.all("img"))
    assert len(tree.all("img")) == 3  # two grids of one strip, and the moving one
    assert [item["aria-label"] for item in tree.all("svg")] == [f'"{HOSTILE}']
    assert len(tree.all("caption")) == len(tree.all("table"))
    assert {item.get("scope") for item in tree.all("th")} == {"row", "col", "rowgroup"}
    assert tree.all("html") == [{"lang": "en"}]
    assert any(item.get("name") == "viewport" for item in tree.all("meta"))
    assert [name for name, _ in tree.tags].count("main") == 1


def test_hostile_words_are_text(tree, reported):
    text = (reported / "report" / "index.html").read_text()
    assert "<script" not in text
    assert f"ant, {HOSTILE}" in tree.text
    assert f"Caption {HOSTILE}" in tree.text
    assert tree.all("img")[0]["alt"] == f"2 images of {HOSTILE}, {HOSTILE}"


def test_figures_are_inside_and_beside(tree, reported):
    folder = reported / "report" / "figures"
    assert b"<svg" in (folder / "tsne.svg").read_bytes()
    assert (folder / "images.png").read_bytes().startswith(b"\x89PNG")
    moving = tree.tags.index(("details", {"class": "screen"}))  # shown when asked for alone
    assert tree.tags[moving + 2][1]["src"].startswith("data:image/gif")


def test_the_images_come_first_then_the_result_then_the_rest(tree):
    ids = [item["id"] for item in tree.all("section")]
    assert ids[:4] == ["images", "results", "warnings", "figures"]
    folded = [item for item, _ in tree.tags].count("details")
    assert folded >= 5  # among others the settings


def test_every_color_of_a_figure_has_one_in_both_schemes(reported):
    text = (reported / "report" / "index.html").read_text()
    light, dark = text.partition("@media (prefers-color-scheme: dark)")[::2]
    for name in COLORS:
        assert f"--figure-{name}:" in light
        assert f"--figure-{name}:" in dark


# Settings and commands


def test_every_term_is_a_setting():
    known = fields_by_name()
    keys = [term.key for terms in SECTIONS.values() for term in terms]
    assert set(keys) <= known.keys()
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("data", "title"),
    [
        ({"name": "digits", "root": None}, "digits"),
        ({"name": "cifar10", "root": "/data/sets/cifar"}, "cifar10"),
        ({"name": "folder", "root": "/data/my birds/"}, "my birds"),
        ({"name": "folder", "root": "birds"}, "birds"),
        ({"name": "folder", "root": "birds/code/.."}, "birds"),
        ({"name": "npz", "root": "/data/my.birds.npz"}, "my.birds"),
        ({"name": "folder", "root": None}, "folder"),
        ({"name": "folder", "root": "birds", "title": "My birds"}, "My birds"),
        ({"name": "folder", "root": "birds", "title": " My\n birds\x1b\n"}, "My birds"),
        ({"name": "folder", "root": "birds", "title": "\n"}, "birds"),
        ({"name": "folder", "root": "my\nbirds"}, "my birds"),
        ({"name": "memory", "root": None}, "pictures in memory"),
        ({"name": "webdataset", "root": "birds-{000..012}.tar"}, "webdataset"),
    ],
)
def test_a_title_names_the_data(data, title):
    assert data_title({"data": data}) == title


def test_the_page_of_an_image_folder_is_titled_by_the_folder(tmp_path, plain_gallery):
    workdir = write_run(tmp_path / "w", data={"name": "folder", "root": "/data/birds"})
    assert "<title>birds: G-VBSM, 2 images per class</title>" in page_of(workdir)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(4, 1437, "0.28 %"), (30, 9, "333 %"), (997, 1000, "100 %"), (9.96, 100, "10 %")],
)
def test_a_share_has_no_exponent(part, whole, text):
    assert share(part, whole) == text


def test_names_in_a_sentence():
    assert [listed(names) for names in ((), "a", "ab", {"a": 1, "b": 2, "c": 3})] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_settings_tell_where_they_differ_from_the_preset(tmp_path, plain_gallery):
    workdir = write_run(tmp_path / "w", synthesis={"iterations": 60, "init": "noise"})
    tree = Tree(page_of(workdir))
    (cells,) = [c for c in tree.cells if "synthesis.iterations" in c[0]]
    assert [" ".join(cell.split()) for cell in cells[1:]] == ["60", "200"]
    (cells,) = [c for c in tree.cells if "synthesis.alpha" in c[0]]
    assert cells[0].strip().startswith("\N{GREEK SMALL LETTER ALPHA}")
    assert cells[1:] == ["0.8", ""]
    assert "3 of the settings below differ from it" in tree.text  # ipc too


def named(workdir, preset, *changed):
    """The work directory with an origin in its results."""
    path = workdir / "results.json"
    write_json(path, {**read_json(path), "origin": {"preset": preset, "changed": changed}})
    return workdir


def test_the_head_names_the_preset_and_lists_what_was_changed(tmp_path, plain_gallery):
    workdir = write_run(tmp_path / "w", synthesis={"iterations": 60})
    assert 'class="recipe"' not in page_of(workdir)  # settings from Python name no preset
    named(workdir, "digits+digits-short", "synthesis.iterations", "synthesis.init")
    results = read_json(workdir / "results.json")
    results["config"]["labels"]["epochs"] = 200
    write_json(workdir / "results.json", results)
    text = page_of(workdir)
    Tree(text)
    head = plain(text.partition("<nav")[0])
    assert "Preset digits+digits-short, 2 settings changed by the user" in head
    assert "synthesis.iterations: 60 (preset: 200) synthesis.init: real (preset: noise)" in head
    assert "Compared with the preset digits+digits-short." in plain(text)
    assert "gvbsm run digits+digits-short" in text
    # the preset is a short one, which is still told
    assert "Settings are below those of the preset digits: " in plain(text)
    assert "labels.epochs 200 of 800" in plain(text)
    text = page_of(named(workdir, "digits"))
    assert "Preset digits, no setting changed by the user" in plain(text)


def test_of_a_file_s_settings_the_preset_s_values_are_not_told(tmp_path, plain_gallery):
    workdir = named(write_run(tmp_path / "w"), "mine.yaml", "ipc")
    tree = Tree(page_of(workdir))
    head = plain(page_of(workdir).partition("<nav")[0])
    assert "Preset mine.yaml, 1 setting changed by the user ipc: 2" in head
    assert "(preset:" not in head
    assert "Compared with the preset digits." in tree.text
    assert "gvbsm run digits" in tree.text


@pytest.mark.parametrize(
    ("preset", "method", "words"),
    [
        ("cifar10", "gvbsm", "cifar10, the paper's table 9"),
        ("cifar10+sre2l", "sre2l", "cifar10+sre2l, the paper's table 9"),
        ("cifar10-small", "gvbsm", "cifar10-small"),
        ("cifar10+cifar10-small", "gvbsm", "cifar10+cifar10-small"),
        ("gone", "gvbsm", "cifar10, the paper's table 9"),  # of another version
        (None, "sre2l", "cifar10+sre2l, the paper's table 9"),
    ],
)
def test_what_settings_are_compared_with(preset, method, words):
    config = {"data": {"name": "cifar10"}, "method": method}
    assert preset_words(config, Origin(preset)) == words


NAMES = tuple(map(str, range(10)))


def test_epochs_that_follow_from_the_size_of_the_set_are_no_change():
    config = build_config(merge(read_preset("digits"), {"ipc": 2, "labels": {"epochs": 800}}))
    preset = preset_settings(to_dict(config), class_names=NAMES)
    assert preset["labels"]["epochs"] == 800
    rows = [value for _, rows in settings_table(to_dict(config), preset) for value in rows]
    assert [value.term.key for value in rows if value.preset is not None] == ["ipc"]


CHANGES = [
    ("digits", {}),
    ("digits", {"ipc": 3}),
    (
        "digits",
        {
            "synthesis": {
                "iterations": 7,
                "views": {"flip": True},
                "optimizer": {"betas": [0.1, 0.2]},
            }
        },
    ),
    (
        "tiny-imagenet",
        {"evaluation": {"lr_of": {"resnet18": 0.5}}, "synthesis": {"backbones": ["wrn16_2"]}},
    ),
    ("cifar10", {"method": "sre2l", "baselines": {"methods": []}, "threads": 3}),
    ("imagenet-1k", {"squeeze": {"weights_dir": "WEIGHTS"}, "evaluation": {"micro_batch": 64}}),
    ("imagenet-1k", {"squeeze": {"weights_dir": "WEIGHTS", "weights_classes": "CLASSES"}}),
    ("imagenet-1k", {"ipc": 50}),
    ("cifar10", {"baselines": {"methods": ["teacher"], "sets": {"dm": "PATH", "dc": "PATH"}}}),
    (
        "cifar10",
        {"baselines": {"methods": ["teacher"]}, "data": {"workers": 0}, "labels": {"epochs": 300}},
    ),
]


@pytest.mark.parametrize(("preset", "changes"), CHANGES)
def test_both_commands_give_the_same_settings_again(preset, changes, tmp_path, monkeypatch):
    method = changes.get("method")
    name = f"{preset}+{method}" if method else preset
    config = build_config(merge(read_preset(name), {**changes, "seed": 5}))
    if preset != "digits":
        config = build_config(merge(to_dict(config), {"data": {"root": "DIR"}}))
    settings = to_dict(settle_beta_dr(config))  # as results hold them
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text(settings_yaml(settings), encoding="utf-8")
    for command in commands(settings, preset_settings(settings, class_names=NAMES), "a b"):
        program, verb, *argv = shlex.split(command.replace("\\\n", " "))
        assert (program, verb) == ("gvbsm", "run")
        again = parse_run(verb, argv)
        assert str(again.workdir) == "runs/a b"
        assert to_dict(settle_beta_dr(again.config)) == settings


def test_the_command_starts_from_the_preset_that_is_named():
    origin = Origin("digits+digits-short", ("ipc",))
    settings = to_dict(build_config({**read_preset(origin.preset), "ipc": 3}))
    preset = preset_settings(settings, class_names=NAMES, origin=origin)
    settings["labels"] = preset["labels"]  # epochs are settled by the size of the set
    command = commands(settings, preset, "w", origin)[1]
    assert command == "gvbsm run digits+digits-short \\\n  --ipc 3 \\\n  --workdir runs/w"
    _, verb, *argv = shlex.split(command.replace("\\\n", " "))
    again = parse_run(verb, argv)
    assert again.origin == origin
    assert to_dict(again.config)["synthesis"] == settings["synthesis"]


def test_no_command_lets_a_budget_choose_the_settings_of_own_pictures():
    """`gvbsm run own` would: it fits what is not given, and so what is as in the preset."""
    origin = Origin("own", ("data.root",))
    settings = to_dict(build_config(merge(read_preset("own"), {"squeeze": {"epochs": 9}})))
    preset = preset_settings(settings, class_names=NAMES, origin=origin)
    assert preset is not None
    assert len(commands(settings, preset, "w", origin)) == 1


def test_pictures_from_python_have_a_call_and_no_command():
    origin = Origin("digits", ("data.name",))
    given = {"squeeze": {"pretrained": True, "weights_dir": "/home/me"}, "data": {"name": "memory"}}
    settings = to_dict(build_config(merge(read_preset("digits"), given)))
    preset = preset_settings(settings, class_names=NAMES, origin=origin)
    (call,) = commands(settings, preset, "a b", origin)
    more = '**{"squeeze.weights_dir": "WEIGHTS"}'
    assert call == f'gvbsm.run("settings.yaml", "runs/a b", data=(X, y), {more})'


def test_the_settings_file_does_not_tell_of_this_machine(tmp_path, plain_gallery):
    workdir = write_run(tmp_path / "secret-place", data={"name": "npz", "root": "/home/me/x.npz"})
    results = read_json(workdir / "results.json")
    text = page_of(workdir)
    assert "/home/me" not in text
    assert str(tmp_path) not in text
    (link,) = [item for item in Tree(text).all("a") if item.get("download") == "settings.yaml"]
    (tmp_path / "s.yaml").write_bytes(base64.b64decode(link["href"].partition(",")[2]))
    assert "/home/me" not in (tmp_path / "s.yaml").read_text()
    results["config"]["data"]["root"] = None
    assert to_dict(as_config(str(tmp_path / "s.yaml"))) == results["config"]
    assert "--data-root DIR" in text


def test_no_path_of_this_machine_is_told(tmp_path, plain_gallery):
    settings = {
        "data": {"name": "npz", "root": "/home/me/x.npz"},
        "evaluation": {"corruptions": {"kinds": ["fog"], "folder": "/home/me/CIFAR-10-C"}},
        "baselines": {"sets": {"dm": "/home/me/dm"}},
    }
    path = write_run(tmp_path / "w", **settings) / "results.json"
    changed = ["evaluation.corruptions.folder", "baselines.sets"]
    write_json(path, {**read_json(path), "origin": {"preset": "digits", "changed": changed}})
    text = page_of(path.parent)
    assert "/home/me" not in text
    tree = Tree(text)
    assert "folder</code>: CORRUPTED <span" in text
    assert "sets</code>: dm <span" in text
    assert text.count("--evaluation.corruptions.folder CORRUPTED") == 2  # in both commands
    assert text.count("--baselines.sets dm=PATH") == 2
    (link,) = [item for item in tree.all("a") if item.get("download") == "settings.yaml"]
    assert b"/home/me" not in base64.b64decode(link["href"].partition(",")[2])


def test_the_lines_for_python_work(tree, reported, monkeypatch):
    text = (reported / "report" / "index.html").read_text()
    code = re.search(r"<code>(import gvbsm.*?)</code>", text, re.S).group(1)
    monkeypatch.chdir(reported.parent)
    names = {}
    exec(code.replace("&#34;", '"'), names)
    assert names["distilled"].images.shape == (4, 1, 8, 8)
    assert len(names["pictures"]) == 4
    assert names["batch"].logits.shape[1] == 2


def test_a_data_set_without_a_preset_is_compared_with_none():
    settings = to_dict(Config())
    settings["data"]["name"] = "elsewhere"
    assert preset_settings(settings, class_names=NAMES) is None
    assert len(commands(settings, None, "w")) == 1


# The command


def test_networks_may_be_named_by_their_classes(tmp_path):
    with pytest.raises(ArtifactError, match="is not a work directory"):
        gvbsm.report(tmp_path, networks=[Tree])


def test_report_of_what_holds_no_results(tmp_path, capsys):
    def fault(*argv):
        code = main(["report", *map(str, argv)])
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        return code, line

    assert fault(tmp_path) == (
        2,
        f"gvbsm: {tmp_path} is not a work directory of gvbsm (no data.json in it)",
    )
    assert fault(tmp_path / "none")[0] == 2
    write_json(tmp_path / "data.json", {"name": "digits", "classes": 2, "image_size": 8})
    code, line = fault(tmp_path)
    assert (code, "holds no results yet; run `gvbsm run PRESET" in line) == (2, True)
    write_json(tmp_path / "results.json", {"rows": []})
    assert "no results yet" in fault(tmp_path)[1]
    write_json(tmp_path / "results.json", {"rows": [{"method": "gvbsm"}]})
    code, line = fault(tmp_path)
    assert (code, "it lacks rows.0.student" in line) == (2, True)
    (tmp_path / "results.json").write_text("{")
    assert "cannot be read" in fault(tmp_path)[1]
    for argv in ((), (tmp_path, tmp_path), ("--quite", tmp_path), ("--quite",)):
        assert "gvbsm report DIR" in fault(*argv)[1]
    assert not (tmp_path / "report").exists()


def test_report_from_the_command_and_from_python(workdir, monkeypatch, capsys):
    shutil.rmtree(workdir / "squeeze")
    path = workdir / "report" / "index.html"
    assert main(["report", str(workdir), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    text = path.read_text(encoding="utf-8")
    assert "The features of the sets are not compared" in text
    tree = Tree(text)
    assert len(tree.all("svg")) == 2  # of the real gallery: accuracies and losses
    assert all(item["alt"] for item in tree.all("img"))
    assert gvbsm.report(workdir) == path
    assert path.read_text(encoding="utf-8") == text
    with pytest.raises(ArtifactError, match="not a work directory"):
        gvbsm.report(workdir / "squeeze")


# In a browser


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(workdir, plain_gallery, tmp_path, scheme):
    """Fits a phone of 360 pixels, in both schemes, with type of 16 pixels and good contrast."""
    page = page_of(workdir)
    probe = """<script>
      const seen = element => getComputedStyle(element);
      const frame = document.querySelector("iframe");
      frame.onload = () => {
        const inner = frame.contentDocument, root = inner.documentElement;
        const sizes = [...inner.querySelectorAll("p, td, th, li, a, code, figcaption, summary")]
          .map(element => parseFloat(seen(element).fontSize));
        document.title = JSON.stringify({
          width: frame.contentWindow.innerWidth, needed: root.scrollWidth,
          page: seen(inner.body).backgroundColor, text: seen(inner.body).color,
          card: seen(inner.querySelector(".card")).backgroundColor,
          figure: seen(inner.querySelector(".card text")).fill,
          muted: seen(inner.querySelector(".subtitle")).color,
          link: seen(inner.querySelector("nav a")).color, smallest: Math.min(...sizes),
        });
      };
      frame.srcdoc = new TextDecoder().decode(
        Uint8Array.from(atob("%s"), letter => letter.charCodeAt(0)));
    </script>"""
    head = f"<!DOCTYPE html><meta charset=utf-8><meta name=color-scheme content={scheme}>"
    frame = '<title></title><iframe width="360" height="800" style="border:0"></iframe>'
    holder = tmp_path / "holder.html"
    holder.write_text(head + frame + probe % base64.b64encode(page.encode()).decode())
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        f"--blink-settings=preferredColorScheme={1 if scheme == 'light' else 0}",
        "--virtual-time-budget=5000",
        "--dump-dom",
        holder.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    found = json.loads(re.search(r"<title>(.*?)</title>", done.stdout).group(1))
    assert found["width"] == 360
    assert found["needed"] <= 360
    assert found["smallest"] >= 16
    assert (luminance(found["page"]) > 0.5) == (scheme == "light")
    assert (luminance(found["card"]) > 0.5) == (scheme == "light")
    assert contrast(found["figure"], found["card"]) >= 4.5
    for name in ("text", "muted", "link"):
        assert contrast(found[name], found["page"]) >= 4.5, name


def luminance(color):
    """Relative luminance by WCAG 2.2."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    dark, light = sorted(map(luminance, (first, second)))
    return (light + 0.05) / (dark + 0.05)
