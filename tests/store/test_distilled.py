"""A distilled set comes back as it was written, with the labels that belong to it."""

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from gvbsm.files.artifacts import ArtifactError, fingerprint, read_json, write_json
from gvbsm.files.schema import PACKED
from gvbsm.files.tensors import load_tensors, save
from gvbsm.store.distilled import (
    is_whole,
    load_distilled,
    load_images,
    load_labels,
    stored_bytes,
)
from gvbsm.store.label_codec import pack_rows, unpack_rows
from support.distilled_files import RECIPE, save_images, write_images, write_labels


def test_labels_are_read_by_epoch(tmp_path):
    written = write_labels(tmp_path / "labels", epochs=5, shard_epochs=2)
    labels = load_labels(tmp_path / "labels")
    assert labels == written
    assert (labels.epochs, labels.images, labels.classes, labels.kept) == (5, 4, 2, (0, 1, 2, 3, 4))
    assert len(list(labels.directory.glob("shard-*"))) == 3
    assert labels.nbytes() == sum(p.stat().st_size for p in labels.directory.glob("shard-*"))
    for epoch in (4, 0, 3, 1, 2):
        found = labels.read(epoch)
        assert found["logits"].shape == (4, 2)
        assert found["logits"].dtype == torch.float16
        assert bool((found["logits"] == epoch).all())
        assert bool((found["boxes"] == epoch).all())
        assert found["order"].tolist() == [3, 2, 1, 0]
    assert is_whole(labels.directory, RECIPE)
    assert not is_whole(labels.directory, {**RECIPE, "seed": 1})
    labels.shards[1].path.unlink()
    assert not is_whole(labels.directory, RECIPE)
    fresh = load_labels(tmp_path / "labels")
    assert fresh.read(1)["boxes"][0, 0] == 1
    with pytest.raises(ArtifactError, match=r"shard-00001.*1 of 3 shards"):
        fresh.read(2)


@pytest.mark.parametrize(("name", "value"), [("image", 0), ("image", 4), ("partner", 5)])
def test_views_of_no_image_of_the_set_are_refused(name, value, tmp_path):
    store = write_labels(tmp_path)
    path = store.shards[0].path
    tensors, header = load_tensors(path, "labels")
    table = unpack_rows(tensors["views"], store.fields)
    table[0, PACKED.index(name)] = value
    save(path, {**tensors, "views": pack_rows(table, store.fields)}, header)
    with pytest.raises(ArtifactError, match="epoch 0 should have each of 4 images once"):
        load_labels(tmp_path).epoch(0)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (3, "layout 3, .*up to 2: upgrade"),
        *((layout, "layout should be 2, found") for layout in (0, -1, 1, True, "2", [2], None)),
    ],
)
def test_another_layout_is_refused(layout, message, tmp_path):
    labels = write_labels(tmp_path / "labels")
    index = read_json(labels.directory / "index.json")
    write_json(labels.directory / "index.json", {**index, "layout": layout})
    with pytest.raises(ArtifactError, match=message):
        load_labels(labels.directory)


def test_distilled_set(tmp_path):
    write_images(tmp_path)
    found = load_distilled(tmp_path)
    assert (found.ipc, found.soft_labels, found.class_names) == (2, None, ("class 0", "class 1"))
    assert found.images.dtype == torch.uint8
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.header["method"] == "gvbsm"
    labels = write_labels(tmp_path / "labels")
    assert load_distilled(tmp_path).soft_labels == labels
    with pytest.raises(ArtifactError, match="images"):
        load_distilled(tmp_path / "elsewhere")


def test_labels_of_images_that_were_made_again_are_left_out(tmp_path, caplog):
    recipe = load_images(write_images(tmp_path)).header["recipe"]
    write_labels(tmp_path / "labels", recipe={**RECIPE, "images": fingerprint(recipe)})
    assert load_distilled(tmp_path).soft_labels is not None
    write_labels(tmp_path / "labels", recipe={**RECIPE, "images": fingerprint({"seed": 1})})
    assert load_distilled(tmp_path).soft_labels is None
    assert "labels are left out: they are of images that have been made again" in caplog.text


def test_images_per_class_of_a_sample_are_those_of_its_classes(tmp_path):
    found = load_images(write_images(tmp_path, ipc=3, classes=4))
    first = found.labels < 2
    sample = replace(found, images=found.images[first], labels=found.labels[first])
    assert (found.ipc, sample.ipc) == (3, 3)


def test_stored_bytes(tmp_path):
    assert stored_bytes(tmp_path) == {"images": 0, "labels": 0}
    write_images(tmp_path)
    assert stored_bytes(tmp_path) == {"images": 4 * 3 * 2 * 2, "labels": 0}
    labels = write_labels(tmp_path / "labels")
    shards = sum(path.stat().st_size for path in (tmp_path / "labels").glob("shard-*"))
    assert labels.nbytes() == shards
    assert stored_bytes(tmp_path) == {"images": 4 * 3 * 2 * 2, "labels": shards}
    assert stored_bytes(tmp_path, soft=False) == {"images": 4 * 3 * 2 * 2, "labels": 0}
    (tmp_path / "labels" / "index.json").unlink()  # of shards that are half-done
    assert stored_bytes(tmp_path)["labels"] == 0


def test_the_data_set_is_normalized_by_the_real_pictures(tmp_path):
    write_images(tmp_path)
    found = load_distilled(tmp_path)
    data = found.dataset()
    assert len(data) == 4
    for index in range(4):
        image, label = data[index]
        pixels = found.images[index].numpy().astype(np.float64) / 255
        mean, std = (np.array(part)[:, None, None] for part in astuple(found.normalization))
        np.testing.assert_allclose(image.numpy(), (pixels - mean) / std, rtol=1e-5, atol=1e-6)
        assert image.dtype == torch.float32
        assert (type(label), label) == (int, int(found.labels[index]))
    images, targets = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert images.shape == (4, 3, 2, 2)
    assert targets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("method", "stored"), [("gvbsm", "gvbsm"), ("k-center-hard", "k-center"), ("real", "real")]
)
def test_save_images__a_selection_is_one_set_whatever_its_labels(method, stored, data, tmp_path):
    """Rows with hard and with soft labels share their pictures."""
    path, (images, labels) = tmp_path / "x.safetensors", (data.test.images[:4], torch.arange(4))
    save_images(path, method, RECIPE, images, labels, data, [[{"step": 0}]])
    found = load_images(path)
    assert torch.equal(found.images, images)
    assert torch.equal(found.labels, labels)
    assert (found.class_names, found.normalization) == (data.class_names, data.normalization)
    assert found.header["method"] == stored
    assert found.header["traces"] == [[{"step": 0}]]
    assert found.soft_labels is None
