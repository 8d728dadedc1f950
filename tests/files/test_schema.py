"""Manifests of strangers: one entry at a time is spoilt, and the set loads or one line names it."""

import shutil
from dataclasses import astuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gvbsm.config import ViewConfig
from gvbsm.data.pictures import DataError
from gvbsm.exchange.export import export
from gvbsm.exchange.load import FACTS, load
from gvbsm.files.artifacts import ArtifactError, read_header, read_json, write_json
from gvbsm.files.schema import (
    AnalysisHeader,
    CheckpointHeader,
    Continual,
    ImagesHeader,
    LabelIndex,
    Results,
    Seconds,
    SetFacts,
    StudentHistory,
    StudyFile,
    checked,
)
from gvbsm.files.tensors import load_tensors, save
from gvbsm.store.plan_codec import plan_fields
from support.distilled_files import write_images, write_labels

MODELS = {
    "folder": SetFacts,
    "hub": SetFacts,
    "index": LabelIndex,
    "hub index": LabelIndex,
    "single": SetFacts,
    "single index": LabelIndex,
    "images": ImagesHeader,
}
SINGLE = {"single": ["facts"], "single index": ["soft_labels"], "images": []}  # where in a header
FIELDS = [list(field) for field in plan_fields(4, 2, ViewConfig(shuffle=2, mixup=0.5))]
MISSING = object()
HOSTILE = [
    MISSING,
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    1e308,
    "",
    "text",
    "\ud800",
    "x" * 100_000,
    "/../../evil",
    [],
    [[]],
    [None],
    ["a", "a"],
    [float("nan")] * 3,
    [10**400] * 3,
    [0, 0, 0],
    ["\ud800", "b"],
    ["\u00e9", "e\u0301"],
    {},
    {"a": {"b": [1]}},
    {"top_k": "/../../evil"},
    {"top_k": 2**70},
    {"bits": 3},
    {"pruning": float("nan")},
]


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """A set of 4 images of 2 x 2 pixels in each form, with labels where a form has them."""
    root = tmp_path_factory.mktemp("forms")
    images = write_images(root / "w")
    write_labels(root / "w" / "labels")
    folder = export(root / "w", "folder", root / "folder", quiet=True)
    single = export(root / "w", "safetensors", root / "single.safetensors", quiet=True)
    hub = export(root / "w", "hub", root / "hub", quiet=True)
    places = {
        "folder": folder,
        "hub": hub,
        "index": root / "w",
        "hub index": hub,
        "single": single,
        "single index": single,
        "images": images,
    }
    expected = load(root / "w", cache=root / "cache")
    return root, places, expected


def nested_paths(content, model, start=()):
    """Paths of all entries that a model names and of all that lie in them, as far as they go."""
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in entries:
        if model is None or name in model.model_fields:
            yield [*start, name]
            if isinstance(value, dict | list):
                yield from nested_paths(value, None, (*start, name))


def spoil(content, path, value):
    """A copy of nested entries in which the one at `path` has another value, or is missing."""
    name, *deeper = path
    if deeper:
        value = spoil(content[name], deeper, value)
    copy = {**content, name: value} if isinstance(content, dict) else [*content]
    if value is MISSING:
        del copy[name]
    elif isinstance(copy, list):
        copy[name] = value
    return copy


def manifest_of(form, source):
    """The file that a form's entries are in, and the entries."""
    if form in SINGLE:
        entries = read_header(source)
        for name in SINGLE[form]:
            entries = entries[name]
        return source, entries
    names = {"index": "labels/index.json", "hub index": "soft_labels/index.json"}
    file = source / names.get(form, FACTS)
    return file, read_json(file)


def write_spoilt(form, source, target, path, value):
    """Copy a set to `target` with one entry spoilt; return what `load` takes and its manifest."""
    if form in SINGLE:
        tensors, header = load_tensors(source, "images" if form == "images" else "distilled")
        target = target.with_suffix(".safetensors")
        save(target, tensors, spoil(header, [*SINGLE[form], *path], value))
        return target, target
    content = spoil(manifest_of(form, source)[1], path, value)
    shutil.copytree(source, target)
    file, _ = manifest_of(form, target)
    file.unlink()
    write_json(file, content)
    return target, file


@pytest.mark.parametrize("form", list(MODELS))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoilt_entry_is_one_line_or_changes_nothing(form, forms, tmp_path, data):
    root, places, expected = forms
    _, entries = manifest_of(form, places[form])
    absent = [[name] for name in MODELS[form].model_fields if name not in entries]
    path = data.draw(st.sampled_from([*nested_paths(entries, MODELS[form]), *absent]))
    value = data.draw(st.sampled_from(HOSTILE))
    folder = tmp_path / str(len([*tmp_path.iterdir()]))
    try:
        source, manifest = write_spoilt(form, places[form], folder, path, value)
    except KeyError:  # what is missing cannot be taken away
        return
    try:
        loaded = load(source, cache=root / "cache")
        if loaded.soft_labels is not None:
            loaded.soft_labels.read(0)
    except (ArtifactError, DataError) as error:
        line = str(error)
        assert line.isprintable()
        assert len(line) < 2000
        assert str(manifest) in line or str(manifest.parent) in line
    else:
        assert torch.equal(loaded.images, expected.images)
        assert torch.equal(loaded.labels, expected.labels)
        assert torch.tensor(astuple(loaded.normalization)).isfinite().all()
        assert len({*loaded.class_names}) == 2


def test_labels_of_a_single_file_that_lack_an_image_are_damage_of_this_file(forms, tmp_path):
    """Its labels are unpacked elsewhere, and the user knows this file alone."""
    root, places, _ = forms
    first_image = ["fields", 0, 1]  # the least image, by which the others are counted
    form = "single index"
    file, _ = write_spoilt(form, places[form], tmp_path / "set", first_image, -1)
    with pytest.raises(ArtifactError, match="soft_labels lack an image in epoch 0") as caught:
        load(file, cache=root / "cache")
    assert str(caught.value).startswith(f"{file} is damaged")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"epochs": 5 * 10**8}, "epochs should be less than or equal to 1000000, found 500000000"),
        ({"epochs": 10**30}, "epochs should be less than or equal to"),
        ({"kept": [0, 5]}, "each below 5"),
        ({"kept": [2, 1]}, "should rise"),
        ({"storage": {"top_k": "/../../evil"}}, "storage.top_k should be a valid integer, found"),
        ({"storage": {"top_k": 2}}, "storage.top_k should be less than the 2 classes"),
        ({"storage": {"bits": 4}}, "storage.bits should be 8 or 16, found 4"),
        ({"shard_images": 0}, "shard_images should be greater than or equal to 1, found 0"),
        ({"images": 10**9, "shard_images": 1, "shard_epochs": 1}, "at most 1000000 shards"),
        ({"fields": FIELDS[:4]}, "fields should begin with image, crop top"),
        ({"fields": [*FIELDS, ["other", 0, 1]]}, "fields should begin with image, crop top"),
        ({"fields": [["image", 0, 99]]}, "fields.0.2 should be less than or equal to 32"),
        ({"recipe": "\x1b[31m"}, r"recipe should be a valid dictionary, found '\\x1b"),
    ],
)
def test_an_index_of_labels_is_checked(entries, message, tmp_path):
    index = {
        "layout": 2,
        "recipe": {},
        "epochs": 5,
        "images": 4,
        "classes": 2,
        "kept": "all",
        "batch": 4,
        "storage": {"top_k": None, "bits": 16, "pruning": 1.0},
        "fields": FIELDS,
        "shard_epochs": 2,
        "shard_images": 4,
    }
    assert checked(LabelIndex, index, tmp_path).fields == [*map(tuple, FIELDS)]
    with pytest.raises(ArtifactError, match=message) as caught:
        checked(LabelIndex, index | entries, tmp_path / "index.json")
    assert str(caught.value).startswith(f"{tmp_path}/index.json is damaged")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["pictures", "skipped", "notes"])
@pytest.mark.parametrize("value", [None, 7, "x", [[1]], {"train": "x"}])
def test_results_that_a_page_cannot_show_are_refused(name, value, tmp_path):
    with pytest.raises(ArtifactError, match=rf"results.json is damaged \({name}"):
        checked(
            Results,
            {"rows": [], "origin": {"preset": None, "changed": []}, name: value},
            tmp_path / "results.json",
        )


def test_several_students_have_a_deviation(tmp_path):
    score = {"mean": 50.0, "std": None, "values": [50.0, 50.0]}
    row = {"method": "m", "student": "s", "ipc": 1, "top1": score, "top1_best": score, "seconds": 1}
    content = {"rows": [row], "origin": {"preset": None, "changed": []}}
    with pytest.raises(ArtifactError, match="std should be a number beside several values"):
        checked(Results, content, tmp_path / "results.json")


SCORE = {"mean": 50.0, "std": None, "values": [50.0]}
WHOLE = {
    Continual: {
        "classes": [1, 2],
        "orders": [[0, 1]],
        "note": "",
        "origin": {"preset": None, "changed": []},
        "rows": [{"method": "m", "student": "s", "ipc": 1, "steps": [SCORE] * 2, "average": SCORE}],
    },
    StudyFile: {
        "study": "a",
        "title": "b",
        "source": "c",
        "axes": ["x"],
        "additive": False,
        "paper": [],
        "origin": {"preset": None, "changed": []},
        "versions": {},
        "points": [{"name": "p", "axes": {}, "folders": ["f"], "config": {}, "done": True}],
        "rows": [
            {
                "point": None,
                "method": "m",
                "student": "s",
                "ipc": None,
                "top1": SCORE,
                "image_bytes": None,
                "label_bytes": 1,
                "seconds_per_iteration": None,
                "seconds": None,
                "synthesis_seconds": 1.0,
            }
        ],
    },
    StudentHistory: {"recipe": {}, "epochs": [1], "top1": [5.0], "losses": [1.0]},
    Seconds: {"seconds": {"squeeze/a": 1.5, "squeeze/b": None}},
    AnalysisHeader: {"recipe": {}, "sets": ["a"], "teacher": "t", "accuracy": {"a": 5.0}},
    CheckpointHeader: {
        "recipe": {},
        "state": {"step": 3, "history": {"epochs": [], "top1": [], "losses": []}, "part": 4},
    },
    Results: {
        "rows": [],
        "config": {},
        "versions": {"torch": "2"},
        "seconds": {"labels": 1.0},
        "origin": {"preset": None, "changed": ["ipc"]},
        "data": {
            "pictures": {"train": {"a": 1}},
            "formats": {},
            "left_out": {},
            "assumed": [],
            "value_range": [0, 255],
        },
    },
}


@pytest.mark.parametrize(
    ("model", "path", "value", "message"),
    [
        (Continual, ["rows", 0, "steps", 0, "mean"], 101.0, "rows.0.steps.0.mean should be less"),
        (Continual, ["rows", 0, "steps"], [SCORE], "rows.0.steps should be 2, one a step"),
        (Continual, ["orders"], [], "orders should have at least 1"),
        (StudyFile, ["points", 0, "done"], "yes", "points.0.done should be a valid boolean"),
        (StudyFile, ["rows", 0, "label_bytes"], -1, "rows.0.label_bytes should be greater"),
        (StudyFile, ["rows", 0, "seconds"], float("nan"), "rows.0.seconds should be a finite"),
        (StudentHistory, ["top1"], [], "top1 should have at least 1"),
        (StudentHistory, ["confusion"], [[0.5]], "confusion.0.0 should be a valid integer"),
        (
            StudentHistory,
            ["metrics"],
            {"calibration_error": 101.0, "by_class": []},
            "metrics.calibration_error should be less",
        ),
        (
            StudentHistory,
            ["metrics"],
            {"calibration_error": 1.0, "by_class": [None, -1.0]},
            "metrics.by_class.1 should be greater",
        ),
        (Seconds, ["seconds", "squeeze/a"], "x", "seconds.squeeze/a should be a valid number"),
        (AnalysisHeader, ["accuracy", "a"], [], "accuracy.a should be a valid number"),
        (CheckpointHeader, ["state", "step"], -1, "state.step should be greater"),
        (CheckpointHeader, ["state", "history", "losses"], [None], "state.history.losses.0"),
        (CheckpointHeader, ["state", "part"], 0, "state.part should be greater"),
        (Results, ["origin"], 3, "origin should be a valid dictionary"),
        (Results, ["origin", "changed"], "ipc", "origin.changed should be a valid list"),
        (Results, ["seconds", "labels"], "1", "seconds.labels should be a valid number"),
        (Results, ["data", "formats"], [], "data.formats should be a valid dictionary"),
        (Results, ["versions"], {"torch": 2}, "versions.torch should be a valid string"),
    ],
)
def test_a_nested_entry_that_does_not_fit_is_named(model, path, value, message, tmp_path):
    checked(model, WHOLE[model], tmp_path / "file")
    with pytest.raises(ArtifactError, match=f"is damaged .{message}") as caught:
        checked(model, spoil(WHOLE[model], path, value), tmp_path / "file")
    assert str(caught.value).startswith(f"{tmp_path}/file")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"labels": torch.tensor([0, 0, 1, 2])}, "must be 0 to 1, found 2"),
        ({"labels": torch.tensor([0, 0, 1, -1])}, "must be 0 to 1, found -1"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels should be torch.int64 \(4,\)"),
        ({"labels": torch.zeros(4)}, r"found torch.float32 \(4,\)"),
        ({"images": torch.zeros(4, 3, 2, 2)}, "images should be torch.uint8"),
        ({"images": torch.zeros(4, 3, 2, dtype=torch.uint8)}, r"found torch.uint8 \(4, 3, 2\)"),
        ({"images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8)}, r"\(N, 3, side, side\)"),
        ({"images": torch.zeros(4, 3, 2, 3, dtype=torch.uint8)}, r"\(N, 3, side, side\)"),
        ({"images": torch.zeros(0, 3, 2, 2, dtype=torch.uint8)}, "N of at least 1"),
        ({"images": None}, "lacks images or labels"),
    ],
)
def test_the_tensors_of_a_file_of_images_are_checked(tensors, message, forms, tmp_path):
    whole, header = load_tensors(forms[1]["images"], "images")
    whole = {name: part for name, part in {**whole, **tensors}.items() if part is not None}
    save(tmp_path / "i.safetensors", whole, header)
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "i.safetensors")


def test_pixels_of_a_single_file_that_rot_are_noticed_at_every_load(forms, tmp_path):
    _, places, _ = forms
    for soft, name in ((True, "soft"), (False, "hard")):
        path = tmp_path / f"{name}.safetensors"
        export(places["index"], "safetensors", path, soft_labels=soft, quiet=True)
        load(path, cache=tmp_path / "cache")  # the cache is warm now
        content = bytearray(path.read_bytes())
        pixels = content.rindex(bytes(range(48)))  # of `write_images`
        content[pixels + 5] ^= 0x80
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="do not match their checksum"):
            load(path, cache=tmp_path / "cache")
