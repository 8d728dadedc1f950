"""Manifests of strangers: one entry at a time is spoilt, and the set loads or one line names it."""

import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gvbsm.artifacts import ArtifactError, load_tensors, read_json, save, write_json
from gvbsm.config import ViewConfig
from gvbsm.epochs import plan_fields
from gvbsm.exchange import FACTS, load
from gvbsm.exports import export
from gvbsm.pictures import DataError
from gvbsm.schema import Facts, ImagesHeader, LabelIndex, Results, checked
from test_distilled import write_images, write_labels

MODELS = {"folder": Facts, "index": LabelIndex, "single": Facts, "images": ImagesHeader}
FIELDS = [list(field) for field in plan_fields(4, 2, ViewConfig(shuffle=2, mixup=0.5))]
MISSING = object()
HOSTILE = [
    MISSING, None, True, -1, 0, 2**63, 10**400, 1.5, float("nan"), float("inf"), 1e308, "", "text",
    "\ud800", "x" * 100_000, "/../../evil", [], [[]], [None], ["a", "a"], [float("nan")] * 3,
    [10**400] * 3, [0, 0, 0], ["\ud800", "b"], ["\u00e9", "e\u0301"], {}, {"a": {"b": [1]}},
    {"top_k": "/../../evil"}, {"top_k": 2**70}, {"bits": 3}, {"pruning": float("nan")},
]  # fmt: skip


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """A set of 4 images of 2 x 2 pixels in each form, with labels where a form has them."""
    root = tmp_path_factory.mktemp("forms")
    images = write_images(root / "w")
    write_labels(root / "w" / "labels")
    folder = export(root / "w", "folder", root / "folder", quiet=True)
    single = export(root / "w", "safetensors", root / "single.safetensors", quiet=True)
    places = {"folder": folder, "index": root / "w", "single": single, "images": images}
    expected = load(root / "w", cache=root / "cache")
    return root, places, expected


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


def write_spoilt(form, source, target, path, value):
    """Copy a set to `target` with one entry spoilt; return what `load` takes and its manifest."""
    if form in ("single", "images"):
        tensors, header = load_tensors(source, "distilled" if form == "single" else "images")
        whole = ["facts", *path] if form == "single" else path
        target = target.with_suffix(".safetensors")
        save(target, tensors, spoil(header, whole, value))
        return target, target
    shutil.copytree(source, target)
    manifest = target / (FACTS if form == "folder" else "labels/index.json")
    content = spoil(read_json(manifest), path, value)
    manifest.unlink()
    write_json(manifest, content)
    return target, manifest


@pytest.mark.parametrize("form", list(MODELS))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_spoilt_entry_is_one_line_or_changes_nothing(form, forms, tmp_path, data):
    root, places, expected = forms
    name = data.draw(st.sampled_from(sorted(MODELS[form].model_fields)))
    value = data.draw(st.sampled_from(HOSTILE))
    folder = tmp_path / str(len([*tmp_path.iterdir()]))
    try:
        source, manifest = write_spoilt(form, places[form], folder, [name], value)
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
        assert torch.tensor([loaded.mean, loaded.std]).isfinite().all()
        assert len({*loaded.class_names}) == 2


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
        "recipe": {}, "epochs": 5, "images": 4, "classes": 2, "kept": "all", "batch": 4,
        "storage": {"top_k": None, "bits": 16, "pruning": 1.0}, "fields": FIELDS,
        "shard_epochs": 2, "shard_images": 4,
    }  # fmt: skip
    assert checked(LabelIndex, index, tmp_path).fields == [*map(tuple, FIELDS)]
    with pytest.raises(ArtifactError, match=message) as caught:
        checked(LabelIndex, index | entries, tmp_path / "index.json")
    assert str(caught.value).startswith(f"{tmp_path}/index.json is damaged")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["pictures", "skipped", "notes"])
@pytest.mark.parametrize("value", [None, 7, "x", [[1]], {"train": "x"}])
def test_results_that_a_page_cannot_show_are_refused(name, value, tmp_path):
    with pytest.raises(ArtifactError, match=rf"results.json is damaged \({name}"):
        checked(Results, {"rows": [], name: value}, tmp_path / "results.json")


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
