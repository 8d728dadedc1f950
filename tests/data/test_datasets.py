"""Data sets: size, channels, mean, std and fingerprint of each, in memory and streamed."""

import json
import os
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import transforms

from gvbsm.data.datasets import DATASETS, LIBRARIES, load_dataset
from gvbsm.data.loading import plain_batches
from gvbsm.data.pictures import DataError, read_image
from gvbsm.data.sources.catalog import SOURCES
from support.picture_files import draw, draw_classes, draw_tree, write_npz


@pytest.fixture
def tree(tmp_path):
    return draw_tree(tmp_path / "tree")


def test_registry():
    expected = ["digits", "cifar10", "cifar100", "tiny-imagenet", "imagenette", "imagenet-1k"]
    expected += ["folder", "npz", "webdataset", "hub"]
    assert list(DATASETS) == expected
    assert {*DATASETS} < {*SOURCES}
    assert {name for name in SOURCES if "/" in name} == {"hub/USER/NAME", "torchvision/NAME"}
    assert {name.partition("/")[0] for name in SOURCES if "/" in name} == {*LIBRARIES}


def test_digits_are_those_of_scikit_learn():
    data, digits = load_dataset("digits"), load_digits()
    pictures = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    expected = sorted(zip(digits.target.tolist(), map(bytes, pictures), strict=True))
    splits = (data.train, data.test)
    assert expected == sorted(
        (label, bytes(picture))
        for split in splits
        for label, picture in zip(split.labels.tolist(), split.images.numpy(), strict=True)
    )
    assert data.class_names == tuple(map(str, digits.target_names))


def test_digits():
    data = load_dataset("digits")
    assert (data.channels, data.image_size, len(data.class_names)) == (1, 8, 10)
    assert len(data.train) + len(data.test) == 1797
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.max() == 255
    pixels = data.train.images.numpy() / 255
    assert data.normalization.mean == pytest.approx([pixels.mean()], abs=1e-12)
    assert data.normalization.std == pytest.approx([pixels.std()], abs=1e-12)
    assert load_dataset("digits", image_size=16).test.images.shape[1:] == (1, 16, 16)


def test_folder_in_memory_and_streamed_agree(tree, tmp_path):
    kept = load_dataset("folder", tree)
    streamed = load_dataset("folder", tree, in_memory=False, cache_dir=tmp_path)
    assert kept.class_names == ("cat", "dog")
    assert (kept.channels, kept.image_size, len(kept.train), len(kept.test)) == (3, 8, 7, 3)
    for a, b in ((kept.train, streamed.train), (kept.test, streamed.test)):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.images, torch.stack([read_image(path, 3) for path in b.paths]))
    pixels = kept.train.images.numpy().astype(np.float64) / 255
    for data in (kept, streamed):
        assert data.normalization.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-12)
        assert data.normalization.std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-12)


def test_folder_chooses_channels_and_size(tmp_path):
    grey = draw_classes(tmp_path / "grey", {"a": 3, "b": 3}, mode="L", size=(12, 10))
    data = load_dataset("folder", grey)
    assert (data.channels, data.image_size) == (1, 10)
    draw(grey / "a" / "color.png", size=(300, 400))
    for name in ("c", "d", "e"):
        draw(grey / "b" / f"{name}.png", size=(20, 14))
    for seed in range(4):  # whichever side the one color picture falls on
        data = load_dataset("folder", grey, split_seed=seed)
        assert (data.channels, data.image_size) == (3, 10)
    assert load_dataset("folder", grey, image_size=5).train.images.shape[1:] == (3, 5, 5)
    large = draw_classes(tmp_path / "large", {"a": 2, "b": 2}, size=(300, 260))
    draw(large / "a" / "other.png", size=(400, 390))
    draw(large / "b" / "other.png", size=(401, 390))
    assert load_dataset("folder", large).image_size == 224


def test_progress_wraps_the_decoding(tree):
    totals = []
    load_dataset("folder", tree, progress=lambda items: totals.append(len(items)) or items)
    assert totals == [7, 3]


def test_crop__test_pictures_are_those_of_torchvision_and_training_pictures_are_whole(
    tmp_path, runtime
):
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            pixels = torch.randint(256, (30, 40, 3), generator=generator).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / split / name / "1.png")
    whole, kept, lying = (
        load_dataset("folder", tmp_path, image_size=14, test_crop=crop, in_memory=memory)
        for crop, memory in ((1.0, True), (0.875, True), (0.875, False))
    )
    published = transforms.Compose(
        [transforms.PILToTensor(), transforms.Resize(16), transforms.CenterCrop(14)]
    )
    files = sorted((tmp_path / "val").rglob("*.png"))
    expected = torch.stack([published(Image.open(file)) for file in files])
    assert (kept.test.images.int() - expected.int()).abs().max() <= 1  # another memory layout
    assert torch.equal(kept.train.images, whole.train.images)
    streamed = torch.cat([part for part, _ in plain_batches(lying, lying.test, 2, runtime, 0)])
    assert torch.equal(streamed, lying.normalization.normalize(kept.test.images))
    one = lying.test.select(torch.tensor([1]))
    ((picture, _),) = plain_batches(lying, one, 2, runtime, 0)
    assert torch.equal(picture, streamed[1:])
    assert kept.fingerprint != whole.fingerprint


def test_fingerprint_follows_the_data(tree, tmp_path):
    def prints(root):
        return tuple(
            load_dataset("folder", root, in_memory=m, cache_dir=tmp_path / "c").fingerprint
            for m in (True, False)
        )

    first = prints(tree)
    for path in tree.rglob("*.png"):
        os.utime(path, (1, 1))
    tree = tree.rename(tmp_path / "moved")
    assert prints(tree) == first
    victim = tree / "val" / "dog" / "000.png"
    picture = Image.open(victim).convert("RGB")
    red, green, blue = picture.getpixel((3, 3))
    picture.putpixel((3, 3), (red ^ 1, green, blue))
    picture.save(victim)
    pixel = prints(tree)
    assert pixel[0] != first[0]
    draw(tree / "train" / "dog" / "new.png", seed=9)
    added = prints(tree)
    assert added[0] != pixel[0]
    assert added[1] != pixel[1]


def test_mean_and_std_of_a_streamed_set_are_cached(tree, tmp_path):
    def load():
        return load_dataset("folder", tree, in_memory=False, cache_dir=tmp_path / "cache")

    truth = load()
    (file,) = (tmp_path / "cache").rglob("*.*")
    assert file.name == f"{truth.fingerprint}.json"
    file.write_text(json.dumps({"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "range": [0, 255]}))
    assert load().normalization.mean == (0.1, 0.2, 0.3)
    for broken in ("{", "[]", '{"mean": [1], "std": [1]}', '{"mean": [0,0,0], "std": [0,1,1]}'):
        file.write_text(broken)
        assert load().normalization == truth.normalization
        assert json.loads(file.read_text())["std"] == list(truth.normalization.std)


def test_a_cache_that_cannot_be_written_is_done_without(tree, tmp_path):
    (tmp_path / "file").write_text("")
    data = load_dataset("folder", tree, in_memory=False, cache_dir=tmp_path / "file")
    assert len(data.normalization.mean) == 3


def test_tiny_imagenet_as_class_folders(tree):
    assert load_dataset("tiny-imagenet", tree).image_size == 64


def test_imagenet_streams_with_the_usual_constants(tree):
    data = load_dataset("imagenet-1k", tree)
    assert len(data.train.paths) == 7
    assert (data.image_size, data.normalization.mean, data.normalization.std[0]) == (
        224,
        (0.485, 0.456, 0.406),
        0.229,
    )
    assert load_dataset("imagenet-1k", tree, in_memory=True, image_size=6).train.paths is None


def test_grey_arrays(tmp_path):
    data = load_dataset("npz", write_npz(tmp_path / "a.npz", channels=0))
    assert data.train.images.shape == (6, 1, 8, 8)
    assert data.class_names == ("0", "1")
    flat = np.full((6, 8, 8), 51, dtype=np.uint8)
    data = load_dataset("npz", write_npz(tmp_path / "a.npz", channels=0, train_images=flat))
    assert astuple(data.normalization) == ((pytest.approx(0.2),), (1 / 255,))


def test_a_broken_picture_in_a_folder_is_named(tree, tmp_path):
    (tree / "val" / "dog" / "000.png").write_text("text")
    with pytest.raises(DataError, match=r"dog.000\.png"):
        load_dataset("folder", tree)
    (tree / "train" / "cat" / "002.png").write_text("text")
    for in_memory in (True, False):
        with pytest.raises(DataError, match=r"cat.002\.png"):
            load_dataset("folder", tree, in_memory=in_memory, cache_dir=tmp_path)


def test_faults_of_settings_are_named(tree):
    with pytest.raises(DataError, match="'cifar10'"):
        load_dataset("cifar-10")
    with pytest.raises(DataError, match=r"zzz.*choose from digits"):
        load_dataset("zzz")
    with pytest.raises(DataError, match=r"val_fraction.*1\.5"):
        load_dataset("digits", val_fraction=1.5)
    for crop in (0, -0.5, 1.01, float("nan")):
        with pytest.raises(DataError, match=rf"`test_crop` must be in \(0, 1\], got {crop}"):
            load_dataset("digits", test_crop=crop)
    with pytest.raises(DataError, match=r"image_size.*0"):
        load_dataset("folder", tree, image_size=0)
    with pytest.raises(DataError, match="`unreadable` must be stop or skip, got 'omit'"):
        load_dataset("folder", tree, unreadable="omit")
    with pytest.raises(TypeError, match="image_sice"):
        load_dataset("folder", tree, image_sice=8)
    for name in ("folder", "npz", "tiny-imagenet", "imagenet-1k"):
        with pytest.raises(DataError, match=r"--data\.root"):
            load_dataset(name)


@pytest.mark.skipif("GVBSM_DATA" not in os.environ, reason="GVBSM_DATA names no folder")
def test_real_data():
    root = Path(os.environ["GVBSM_DATA"])
    data = load_dataset("cifar10", root / "cifar10")
    assert (len(data.train), len(data.test), data.image_size) == (50_000, 10_000, 32)
    assert data.normalization.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)
    assert data.normalization.std == pytest.approx((0.247, 0.2435, 0.2616), abs=4e-3)
