"""The gallery: which figures a work directory's files allow, what is said of them, and faults."""

import io
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from gvbsm.backbones import build_backbone
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.reporting.figures.gallery import gallery
from gvbsm.reporting.figures.images import PictureGrid
from gvbsm.store.film import Film, save_film
from support.studies import HISTORY, STUDENT, TEACHER, Maker, study_row, write_study


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path)


@pytest.fixture(scope="module")
def items(tmp_path_factory, data, runtime):
    """The figures of a work directory with everything, by name."""
    maker = Maker(tmp_path_factory.mktemp("full"))
    recipe = maker.images("gvbsm", traces=[maker.trace()])
    maker.images("random", "baselines/random-0")
    maker.images("real", file="real.safetensors")
    maker.film(recipe)
    eye = torch.eye(4, dtype=torch.int64) * 9
    eye[0, 1] = 1
    maker.student("gvbsm", 0, 60.0, confusion=eye.tolist())
    maker.student("gvbsm", 1, 62.0, confusion=eye.tolist())
    maker.student("random-hard", 0, 50.0, "baselines/random-0")
    maker.results(gvbsm=[60.0, 62.0], random_hard=[50.0], full=[70.0])
    maker.teacher(data, runtime)
    maker.analysis()
    maker.continual()
    return drawn(maker.folder)


def drawn(folder):
    return {item.name: item for item in gallery(folder)}


def test_the_confusion_matrix_is_of_the_run_s_own_students(maker):
    """The files of gvbsm-hard lie beside those of gvbsm, and their names come first."""
    for method, counts in (("gvbsm-hard", 1), ("gvbsm", 9)):
        matrix = (torch.eye(4, dtype=torch.int64) * counts).tolist()
        maker.student(method, 0, 60.0, confusion=matrix)
    maker.images("gvbsm")
    maker.results(gvbsm=[60.0], gvbsm_hard=[60.0])
    caption = drawn(maker.folder)[f"confusion-{STUDENT}"].caption
    assert caption.startswith("Students of gvbsm (n = 1")


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert drawn(tmp_path) == {}
    assert drawn(tmp_path / "not there") == {}


def test_a_whole_work_directory_gives_every_figure_in_the_order_of_reading(items):
    assert list(items) == [
        "images",
        "images-more",
        "images-sets",
        "film",
        "methods",
        f"confusion-{STUDENT}",
        f"students-{STUDENT}",
        "continual",
        "cosine",
        "tsne",
        "losses",
        "teachers",
        "statistics",
    ]
    for item in items.values():
        assert item.title
        assert len(item.alt) < 120
        assert re.match(r"[A-Z].*[.]$", item.caption), item.caption
        if not isinstance(item.figure, PictureGrid):
            assert item.figure.get_size_inches()[0] < 6  # readable on a phone
    assert len({item.title for item in items.values()}) == len(items)


def test_captions_say_what_is_shown_and_of_how_many(items):
    assert items["images"].caption.startswith(
        "Each class has 3 images of 6 beside 3 real pictures; all 4 classes."
    )
    assert "The first 6 of 6 images per class" in items["images-more"].caption
    assert "of random (random: real pictures)" in items["images-sets"].caption
    assert "start (noise)" in items["film"].caption
    assert "those after 0, 5 and 90 steps" in items["film"].caption
    assert "up to 2 for each method" in items["methods"].caption
    confusion = items[f"confusion-{STUDENT}"].caption
    assert "n = 2" in confusion
    assert "10 % of ant classified as $bee_2" in confusion
    assert "2 random orders" in items["continual"].caption
    assert "Teachers know it all." in items["continual"].caption
    assert "gvbsm 91.0 %, real 100.0 %" in items["cosine"].caption
    assert "8 images of 4 classes" in items["tsne"].caption
    assert "of 1 batch of images" in items["losses"].caption


def test_the_film_moves(items):
    assert [name for name, item in items.items() if item.motion] == ["film"]
    with Image.open(io.BytesIO(items["film"].motion)) as film:
        assert film.n_frames == 3


def test_a_set_of_one_image_a_class_is_one_figure(maker):
    maker.images("gvbsm", ipc=1)
    items = drawn(maker.folder)
    assert list(items) == ["images"]
    assert list(items["images"].figure.groups) == ["distilled"]


def test_a_sample_of_the_first_classes_alone_stands_in_their_rows(maker, monkeypatch):
    monkeypatch.setattr("gvbsm.reporting.figures.gallery.SHOWN_CLASSES", 2)
    maker.images("gvbsm")
    maker.images("real", file="real.safetensors", ipc=10, classes=2)
    for images in drawn(maker.folder)["images"].figure.groups.values():
        first, second = images
        assert {*first.flatten().tolist()} == {0}
        assert {*second.flatten().tolist()} == {60}


def test_random_pictures_stand_in_for_real_ones(maker):
    maker.images("gvbsm", ipc=2)
    maker.images("random", "baselines/random-0", ipc=2)
    items = drawn(maker.folder)
    assert list(items) == ["images"]  # they are shown once
    assert list(items["images"].figure.groups) == ["distilled", "real"]


def test_a_run_of_random_pictures_has_no_losses(maker):
    maker.images("random", ipc=2)
    maker.images("real", ipc=2, file="real.safetensors")
    items = drawn(maker.folder)
    assert list(items) == ["images"]
    assert list(items["images"].figure.groups) == ["random", "real"]


def test_one_image_a_class_stands_beside_two_real_pictures(maker):
    maker.images("gvbsm", ipc=1)
    maker.images("real", ipc=10, file="real.safetensors")
    (item,) = drawn(maker.folder).values()
    assert [len(images[0]) for images in item.figure.groups.values()] == [1, 2]
    assert item.caption.startswith("Each class has 1 image beside 2 real pictures;")


def test_a_film_of_other_images_is_not_shown(maker):
    maker.images("gvbsm")
    maker.film({"of": "older images"})
    assert "film" not in drawn(maker.folder)


def test_students_beyond_the_seeds_of_the_settings_do_not_count(maker):
    """An earlier run had three students, two of them with the same accuracy."""
    matrix = (torch.eye(4, dtype=torch.int64) * 9).tolist()
    for seed in range(3):
        maker.student("gvbsm", seed, 62.0, confusion=matrix)
    maker.images("gvbsm")
    maker.results(gvbsm=[62.0, 62.0])
    path = maker.folder / "results.json"
    write_json(path, {**read_json(path), "config": {"evaluation": {"seeds": 2}}})
    caption = drawn(maker.folder)[f"confusion-{STUDENT}"].caption
    assert caption.startswith("Students of gvbsm (n = 2,")


def test_students_of_earlier_settings_do_not_count(maker):
    maker.images("gvbsm")
    maker.student("gvbsm", 0, 60.0)
    maker.student("gvbsm", 1, 99.0)  # the results know nothing of it
    maker.student("sre2l", 0, 60.0)
    maker.results(gvbsm=[60.0])
    item = drawn(maker.folder)[f"students-{STUDENT}"]
    assert "of 1 student, " in item.caption
    lines = [line for line in item.figure.axes[1].lines if line.get_label() == "gvbsm"]
    assert [line.get_ydata().tolist() for line in lines] == [[40, 60]]
    assert "sre2l" not in item.alt


def test_no_pairs_no_similarity(maker):
    maker.images("gvbsm", ipc=1)
    maker.analysis(math.nan)
    assert "cosine" not in drawn(maker.folder)
    assert "tsne" in drawn(maker.folder)


def test_similarity_of_the_first_classes_alone_says_so(maker, monkeypatch):
    maker.images("gvbsm", ipc=2)
    maker.analysis()
    assert "50 images of each class. Each dot" in drawn(maker.folder)["cosine"].caption
    monkeypatch.setattr("gvbsm.reporting.figures.gallery.MOST_CLASSES", 3)
    caption = drawn(maker.folder)["cosine"].caption
    assert "of each class, of the first 3 of 4 classes. Each dot is a class" in caption


def test_a_single_set_with_pairs_has_no_similarity_to_compare(maker):
    maker.images("gvbsm", ipc=1)
    maker.analysis(gvbsm=math.nan)
    assert "cosine" not in drawn(maker.folder)


def test_teachers_that_were_not_trained_here_have_no_curves(maker, data, runtime, monkeypatch):
    monkeypatch.setitem(HISTORY, "losses", [])
    maker.teacher(data, runtime, statistics=False)
    assert drawn(maker.folder) == {}


def test_layers_stand_in_the_order_of_the_network(items):
    means = items["statistics"].figure.axes[0]
    places = {
        line.get_label(): line.get_xdata().tolist()
        for line in means.lines
        if line.get_label().endswith("mean")
    }
    layers = [
        "BatchNorm" if isinstance(module, torch.nn.BatchNorm2d) else "convolution"
        for module in build_backbone(TEACHER, 4, 8).modules()
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Conv2d))
    ]
    for kind in ("BatchNorm", "convolution"):
        expected = [index for index, layer in enumerate(layers) if layer == kind]
        assert places[f"{kind}, mean"] == expected
    assert layers != sorted(layers)


# Sweeps


def test_a_study_over_a_number_is_a_curve(tmp_path):
    rows = [study_row(f"alpha={x}", "gvbsm", 50.0, 52.0 + x, axes={"alpha": x}) for x in (0.0, 0.8)]
    rows.append(study_row(None, "full", 90.0, stored=(None, None)))
    published = {"data": "imagenet-1k", "student": "torchvision/resnet18", "ipc": 10, "top1": 31.9}
    paper = [{**published, "point": "alpha=0.8"}, {**published, "point": "later"}]
    write_study(tmp_path, "table1", ["alpha"], rows, paper)
    items = drawn(tmp_path)
    assert list(items) == ["study-table1"]
    item = items["study-table1"]
    assert item.title == "What helps"
    for words in (
        "against alpha (digits, 10 images per class)",
        "Means of 2 students",
        "the same at all points: full.",
        "the paper's accuracies (table 1); its legend names data set",
    ):
        assert words in item.caption
    assert "hollow" not in item.caption
    ours, theirs = item.figure.axes
    assert ours.containers[0].lines[0].get_xdata().tolist() == [0, 0.8]
    assert theirs.lines[0].get_xdata().tolist() == [0.8]  # a point that is done
    assert theirs.lines[0].get_label() == ("the paper: resnet18, imagenet-1k, 10 images per class")


def test_a_study_of_the_paper_s_data_says_so(tmp_path):
    rows = [study_row("alpha=0.8", "gvbsm", 50.0, 52.0, axes={"alpha": 0.8})]
    beside = {"data": "digits", "student": STUDENT, "ipc": 10, "top1": 31.9, "point": "alpha=0.8"}
    write_study(tmp_path, "table1", ["alpha"], rows, [beside])
    caption = drawn(tmp_path)["study-table1"].caption
    assert "(table 1), of the same data set, student and images per class." in caption


def test_a_study_of_variants_is_strips_and_costs(tmp_path):
    rows = [
        study_row(name, "gvbsm", 50.0, seconds=seconds, axes={"step": name})
        for name, seconds in (("one", 0.1), ("two", 0.2))
    ]
    rows.append(study_row("one", "random-hard", 20.0, axes={"step": "one"}))
    write_study(tmp_path, "figure5", ["step"], rows)
    items = drawn(tmp_path)
    assert list(items) == ["study-figure5", "study-figure5-cost"]
    assert "hollow marks: trained with hard labels" in items["study-figure5"].caption
    assert "paper" not in items["study-figure5"].caption
    (axes,) = items["study-figure5-cost"].figure.axes
    assert axes.containers[0].lines[0].get_xdata().tolist() == [100, 200]


def test_points_of_other_students_and_images_per_class_are_drawn_and_told(tmp_path):
    rows = [
        study_row(name, "gvbsm", 50.0, seconds=seconds, axes={"step": name})
        for name, seconds in (("one", 0.1), ("two", 0.2))
    ]
    rows[1]["student"] = "resnet18"
    write_study(tmp_path, "students", ["step"], rows)
    path = tmp_path / "students.json"
    assert "(digits, 10 images per class)" in drawn(tmp_path)["study-students"].caption
    content = read_json(path)
    content["points"][1]["config"]["ipc"] = 1
    write_json(path, content)
    items = drawn(tmp_path)
    assert "point of the study (digits). " in items["study-students"].caption
    numbers = [axes.texts[0].get_text() for axes in items["study-students-cost"].figure.axes]
    assert numbers == ["1", "2"]


def test_variants_of_equal_cost_have_no_figure_of_it(tmp_path):
    rows = [study_row(n, "gvbsm", 50.0, seconds=0.1, axes={"loss": n}) for n in ("kl", "mse")]
    write_study(tmp_path, "loss", ["loss"], rows)
    assert list(drawn(tmp_path)) == ["study-loss"]


def test_variants_that_store_other_bytes_have_a_figure_of_it(tmp_path):
    rows = [
        study_row(name, "gvbsm", 50.0, stored=(100, labels), axes={"storage": name})
        for name, labels in (("all", 5000), ("pool", 300), ("online", 0))
    ]
    rows.append(study_row("all", "random-hard", 20.0, stored=(100, 0), axes={"storage": "all"}))
    pool = study_row("pool", "random-soft", 40.0, stored=(100, 300), axes={"storage": "pool"})
    write_study(tmp_path, "storage", ["storage"], [*rows, pool])
    items = drawn(tmp_path)
    assert list(items) == ["study-storage", "study-storage-bytes", "study-storage-pareto"]
    assert "Marks without a number are random pictures" in items["study-storage-bytes"].caption
    (axes,) = items["study-storage-bytes"].figure.axes
    found = [container.lines[0].get_xdata().tolist() for container in axes.containers]
    assert sorted(found) == [[400], [5100, 400, 100]]
    assert axes.get_xscale() == "log"


STAGES = ("SRe2L", "+DD", "+GSM")


def write_stages(folder, ends, starts=(0, 0, 0), method="gvbsm", names=STAGES):
    """A study of points whose films have these grey levels at their starts and ends."""
    rows = [study_row(name, method, 50.0, axes={"stage": name}) for name in names]
    write_study(folder, "figure1", ["stage"], rows)
    for name, start, end in zip(names, starts, ends, strict=False):
        point = Maker(folder / "points" / name)
        point.film(point.images(method), start, end)
    return drawn(folder)


def test_the_images_of_a_study_stand_side_by_side_after_their_common_start(tmp_path):
    items = write_stages(tmp_path, ends=(40, 80, 120), starts=(9, 9, 9))
    assert list(items) == ["study-figure1-images", "study-figure1"]
    item = items["study-figure1-images"]
    grid = item.figure
    assert grid.rows == ["$bee_2", "a dog of the larger kind, brown"]
    assert list(grid.groups) == ["start", "SRe2L", "+DD", "+GSM"]
    levels = [[int(image.unique()) for image in images] for images in grid.groups.values()]
    assert levels == [[9, 9], [40, 40], [80, 80], [120, 120]]
    assert all(image.shape == (1, 3, 8, 8) for image in grid.groups["+DD"])
    assert item.caption == (
        "The first image of 2 classes after the last iteration at each point of the study (digits, "
        "10 images per class). On the left is the start of all of them."
    )
    assert item.title == "What helps: the images"


def test_no_point_s_name_hides_the_common_start(tmp_path):
    names = ("start", "common start", "end")
    item = write_stages(tmp_path, ends=(40, 80, 120), starts=(9, 9, 9), names=names)
    groups = item["study-figure1-images"].figure.groups
    assert list(groups) == ["common common start", *names]
    assert [int(images[0].unique()) for images in groups.values()] == [9, 40, 80, 120]


def test_points_with_the_same_images_share_a_column(tmp_path):
    item = write_stages(tmp_path, ends=(40, 40, 120))["study-figure1-images"]
    assert list(item.figure.groups) == ["start", "SRe2L", "+GSM"]
    assert item.caption.endswith(" SRe2L and +DD have the same images.")


def test_other_starts_are_not_shown_as_one(tmp_path):
    item = write_stages(tmp_path, ends=(40, 80, 120), starts=(0, 0, 7))["study-figure1-images"]
    assert list(item.figure.groups) == ["SRe2L", "+DD", "+GSM"]
    assert item.caption.endswith(" Their starts differ.")


def test_a_study_with_the_same_images_everywhere_or_without_films_shows_none(tmp_path):
    assert list(write_stages(tmp_path / "same", ends=(40, 40, 40))) == ["study-figure1"]
    assert list(write_stages(tmp_path / "one", ends=(40,))) == ["study-figure1"]


def test_points_of_other_sizes_have_no_images_side_by_side(tmp_path):
    write_stages(tmp_path, ends=(40, 80, 120))
    point = Maker(tmp_path / "points" / "+GSM")
    frames = torch.zeros(2, 2, 3, 4, 4, dtype=torch.uint8)
    film = Film(frames, torch.tensor([0, 90]), torch.tensor([1, 3]))
    save_film(point.folder / "synthesis", film, point.images("gvbsm"))
    assert list(drawn(tmp_path)) == ["study-figure1"]


def test_images_per_class_are_drawn_against_bytes_too(tmp_path):
    rows = [
        study_row(f"ipc={n}", method, 50.0, axes={"ipc": n}, stored=(n * 100, labels))
        for n in (1, 10, 50)
        for method, labels in (("gvbsm", n * 1000), ("random-hard", 0))
    ]
    rows.append(study_row(None, "full", 90.0, stored=(None, None)))
    write_study(tmp_path, "ipc", ["ipc"], rows)
    items = drawn(tmp_path)
    assert list(items) == ["study-ipc", "study-ipc-bytes", "study-ipc-pareto"]
    (axes,) = items["study-ipc-bytes"].figure.axes
    curves = [container.lines[0].get_xdata().tolist() for container in axes.containers]
    assert curves == [[1100, 11000, 55000], [100, 1000, 5000]]
    assert "images per class)" not in items["study-ipc"].caption


def test_a_damaged_study_is_named_and_other_files_are_left_alone(tmp_path):
    write_study(tmp_path, "loss", ["loss"], [study_row("kl", "gvbsm", 50.0, axes={"loss": "kl"})])
    write_json(tmp_path / "mine.json", {"rows": 3})
    assert list(drawn(tmp_path)) == ["study-loss"]
    write_json(tmp_path / "loss.json", {"study": "loss"})
    with pytest.raises(ArtifactError, match=r"loss\.json is damaged \(it lacks title"):
        drawn(tmp_path)


# Faults


@pytest.fixture
def small(maker, data, runtime):
    """One file of each kind; what is drawn before a fault is found is little."""
    maker.student("gvbsm", 0)
    maker.results(gvbsm=[60.0])
    maker.teacher(data, runtime)
    maker.analysis()
    maker.continual()
    return maker


@pytest.mark.parametrize(
    "name",
    [
        "results.json",
        "continual.json",
        f"evaluation/gvbsm-{STUDENT}-0.json",
        "report/analysis.safetensors",
        f"squeeze/{TEACHER}.safetensors",
        f"statistics/{TEACHER}.safetensors",
    ],
)
def test_a_damaged_file_is_named(small, name):
    path = small.folder / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match=re.escape(path.name)):
        list(gallery(small.folder))


@pytest.mark.parametrize("name", ["synthesis/images", "synthesis/film", "real"])
def test_a_damaged_set_is_named(maker, name):
    maker.film(maker.images("gvbsm", ipc=1))
    maker.images("real", ipc=1, file="real.safetensors")
    path = maker.folder / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match=re.escape(path.name)):
        list(gallery(maker.folder))


@pytest.mark.parametrize(
    "name",
    [
        "results.json",
        "continual.json",
        f"evaluation/gvbsm-{STUDENT}-0.json",
    ],
)
@pytest.mark.parametrize("content", [{}, {"rows": 3}, {"rows": [{"method": "gvbsm"}]}])
def test_a_file_of_another_form_is_named(small, name, content):
    write_json(small.folder / name, content)
    with pytest.raises(
        ArtifactError, match=rf"{Path(name).name} is damaged \((it lacks|\w+ should)"
    ):
        list(gallery(small.folder))
