"""torchvision's sets by name: constructors of every kind, and insides of every kind."""

import gzip
import inspect

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat
from torch.utils.data import Dataset

from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from gvbsm.data.sources import torchvision as torchvision_sets
from gvbsm.data.sources.torchvision import SETS
from support.picture_files import draw, reds


def test_every_set_takes_its_arguments():
    for name, halves in SETS.items():
        parameters = inspect.signature(getattr(torchvision.datasets, name).__init__).parameters
        taken = set(parameters)
        if any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
            taken |= {"train", "download"}  # handed on to MNIST's
        wanted = {key for half in halves if half is not None for key in half}
        downloads = name not in torchvision_sets._NOT_DOWNLOADED
        assert wanted | ({"download"} if downloads else set()) <= taken, name


def write_idx(path, values):
    head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + values.astype(np.uint8).tobytes())
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))


def test_mnist_as_its_files_lie(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {}
    for word, count in (("train", 20), ("t10k", 10)):
        pictures[word] = rng.integers(0, 256, (count, 28, 28))
        raw = tmp_path / "MNIST" / "raw"
        write_idx(raw / f"{word}-images-idx3-ubyte", pictures[word])
        write_idx(raw / f"{word}-labels-idx1-ubyte", np.arange(count) % 10)
    data = load_dataset("torchvision/MNIST", tmp_path)
    assert (data.channels, data.image_size, data.class_names[3]) == (1, 28, "3 - three")
    assert np.array_equal(data.train.images[:, 0].numpy(), pictures["train"])
    assert np.array_equal(data.test.images[:, 0].numpy(), pictures["t10k"])
    assert data.test.labels.tolist() == list(range(10))


def test_svhn_as_its_files_lie(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pictures = {}
    for word, count in (("train", 12), ("test", 11)):
        pictures[word] = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = np.arange(count)[:, None] % 10 + 1  # 10 stands for the digit 0
        savemat(tmp_path / f"{word}_32x32.mat", {"X": pictures[word], "y": labels})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    data = load_dataset("torchvision/SVHN", tmp_path)
    assert (data.channels, data.image_size) == (3, 32)
    assert data.class_names == tuple("0123456789")
    assert np.array_equal(data.train.images.numpy(), pictures["train"].transpose(3, 2, 0, 1))
    assert data.test.labels.tolist() == [*range(1, 10), 0, 1]


def test_a_set_of_files_is_streamed_in_their_order(tmp_path):
    """EuroSAT: class folders without a test split."""
    for label, name in enumerate(("Forest", "River")):
        for index in range(4):
            draw(
                tmp_path / "eurosat" / "2750" / name / f"{name}_{index}.jpg", seed=4 * label + index
            )
    data = load_dataset(
        "torchvision/EuroSAT", tmp_path, val_fraction=0.25, in_memory=False, cache_dir=tmp_path
    )
    assert data.class_names == ("Forest", "River")
    assert (len(data.train), len(data.test)) == (6, 2)
    assert all(
        path.name.startswith(data.class_names[label])
        for path, label in zip(data.train.paths, data.train.labels.tolist(), strict=True)
    )
    assert list(data.train.paths) == sorted(data.train.paths)


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("Caltech101", "caltech101/101_ObjectCategories", "image_{number:04d}.jpg"),
        ("Caltech256", "caltech256/256_ObjectCategories", "{label:03d}_{number:04d}.jpg"),
    ],
)
def test_caltech_is_a_set_of_files(name, folder, file, tmp_path):
    """torchvision would open them in whatever format Pillow knows, PostScript among them."""
    (tmp_path / folder / "BACKGROUND_Google").mkdir(parents=True)
    names = ("001.ant", "002.bee")
    for label, kind in enumerate(names, start=1):
        for number in range(1, 5):
            place = tmp_path / folder / kind / file.format(label=label, number=number)
            draw(place, seed=10 * label + number)
    if name == "Caltech256":
        (tmp_path / folder / "BACKGROUND_Google").rmdir()
    data = load_dataset(f"torchvision/{name}", tmp_path, in_memory=False, cache_dir=tmp_path)
    assert data.class_names == names
    for split in (data.train, data.test):
        for path, label in zip(split.paths, split.labels.tolist(), strict=True):
            assert path.is_file()
            assert path.parent.name == names[label]
    postscript = data.train.paths[0]
    postscript.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n" + bytes(99))
    with pytest.raises(DataError, match=r"cannot read .*jpg: cannot identify image file"):
        load_dataset(f"torchvision/{name}", tmp_path, cache_dir=tmp_path)


class Fake(Dataset):
    """A set that is neither arrays nor files: each picture is asked for."""

    def __init__(self, root, split, download=False):
        assert not download
        self.count, self.offset = (12, 0) if split == "train" else (5, 100)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError
        return Image.new("RGB", (8, 8), (index + self.offset, 7, 90)), torch.tensor(index % 2)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "Fake", Fake, raising=False)
    monkeypatch.setitem(SETS, "Fake", ({"split": "train"}, {"split": "test"}))


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_set_that_gives_pictures_alone(in_memory, tmp_path):
    data = load_dataset("torchvision/Fake", tmp_path, in_memory=in_memory, cache_dir=tmp_path)
    assert (data.class_names, data.channels, data.image_size) == (("0", "1"), 3, 8)
    assert reds(data.train) == list(range(12))
    assert reds(data.test) == list(range(100, 105))
    assert data.train.labels.tolist() == [0, 1] * 6
    assert in_memory or str(data.test.paths[3]) == "Fake test[3]"


class FakeArrays:
    """Arrays whose labels have more columns than the class, as QMNIST's."""

    def __init__(self, root, train, download=False):
        self.data = torch.arange(4 * 64, dtype=torch.uint8).view(4, 8, 8)
        self.targets = torch.tensor([[0, 7], [1, 8], [1, 9], [0, 9]])


def test_labels_with_more_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "QMNIST", FakeArrays)
    data = load_dataset("torchvision/QMNIST", tmp_path)
    assert (data.train.labels.tolist(), data.class_names) == ([0, 1, 1, 0], ("0", "1"))


@pytest.mark.usefixtures("fake")
def test_faults(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="did you mean torchvision/SVHN"):
        load_dataset("torchvision/SVNH", tmp_path)
    with pytest.raises(DataError, match="name one, as in torchvision/SVHN"):
        load_dataset("torchvision")
    with pytest.raises(DataError, match="lacks the name"):
        load_dataset("torchvision/")
    with pytest.raises(DataError, match=r"did you mean .torchvision/NAME"):
        load_dataset("torchvison/SVHN")
    with pytest.raises(DataError, match=r"cannot read torchvision/MNIST in .*not found"):
        load_dataset("torchvision/MNIST", tmp_path)

    def refuse(*_arguments, **_options):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(torchvision.datasets, "KMNIST", refuse)
    with pytest.raises(DataError, match=r"no route to host; if its files are here, pass .*root$"):
        load_dataset("torchvision/KMNIST", cache_dir=tmp_path)
