"""Pictures from Python code: their forms, sizes, kinds and labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from gvbsm.config import DataConfig
from gvbsm.data.datasets import read_dataset
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.memory import InMemory

X = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
Y = np.arange(12) % 3


class Listed(Dataset):
    """Map-style, of pairs."""

    def __init__(self, pairs, classes=None):
        self.pairs = pairs
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def read(given, **settings):
    config = DataConfig(name="memory", **settings)
    return read_dataset(config, pictures=InMemory.of(given))


def test_arrays_of_each_layout_are_the_same_data():
    tensor = torch.from_numpy(X).permute(0, 3, 1, 2)
    forms = (
        (X, Y),
        [X, Y.tolist()],
        (tensor, torch.from_numpy(Y)),
        (tensor.float() / 255, torch.from_numpy(Y)),
        {"train": (X, Y)},
        TensorDataset(tensor, torch.from_numpy(Y)),
        Listed([(image.float() / 255, int(label)) for image, label in zip(tensor, Y, strict=True)]),
        Listed([(Image.fromarray(image), label) for image, label in zip(X, Y, strict=True)]),
        {"train": Listed(list(zip(X, Y, strict=True)))},
        ([*X], Y.tolist()),
        ([Image.fromarray(image) for image in X], Y),
        list(zip(X, Y, strict=True)),
        Listed([{"image": image, "label": label} for image, label in zip(X, Y, strict=True)]),
    )
    sets = [read(form) for form in forms]
    assert {data.fingerprint for data in sets} == {sets[0].fingerprint}
    data = sets[0]
    assert (data.class_names, data.channels, data.image_size) == (("0", "1", "2"), 3, 8)
    assert (len(data.train), len(data.test)) == (9, 3)  # at least one of each class is held out
    pixels = {image.numpy().tobytes() for image in torch.cat([data.train.images, data.test.images])}
    assert pixels == {image.numpy().tobytes() for image in tensor.contiguous()}
    assert read((X, (Y + 1) % 3)).fingerprint != data.fingerprint


def test_test_pictures_of_one_s_own():
    one = read((X, Y, X[:3], Y[:3]))
    other = read({"train": (X, Y), "test": (X[:3], Y[:3])})
    assert one.fingerprint == other.fingerprint
    assert (len(one.train), len(one.test)) == (12, 3)
    mixed = read({"train": (X, Y), "test": Listed(list(zip(X[:3], Y[:3], strict=True)))})
    assert mixed.fingerprint == one.fingerprint


def test_lists():
    pairs = list(zip(X, Y, strict=True))
    assert len(read({"train": pairs, "test": pairs[:4]}).test) == 4
    assert len(read(([*X], Y, [*X[:3]], Y[:3])).test) == 3
    assert len(read(pairs[:1] * 2 + pairs[1:2] * 2).train) == 2  # four pairs are no (X, y, X, y)


def test_a_table_of_hugging_face():
    """It has a shape, rows that are mappings, and names in the type of a column."""
    table = Listed([{"id": 7, "img": image, "fine_label": 0} for image in X])
    table.pairs[1::2] = [{**row, "fine_label": 1} for row in table.pairs[1::2]]
    table.shape, table.features = (12, 3), {"fine_label": SimpleNamespace(names=["ant", "bee"])}
    data = read({"train": table, "test": table})
    assert data.class_names == ("ant", "bee")
    assert data.test.labels.tolist() == [0, 1] * 6


def test_words_and_names_of_classes():
    words = np.array(["cat", "ant", "bee"])[Y]
    data = read((X, words, X[:1], np.array(["bee"])))
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.labels[:3].tolist() == [2, 0, 1]
    assert data.test.labels.tolist() == [1]
    pairs = list(zip(X, Y.tolist(), strict=True))
    named = Listed(pairs, ["one", "two", "three"])
    assert read(named).class_names == ("one", "two", "three")
    assert read(Subset(named, range(9))).class_names == ("one", "two", "three")


def test_words_in_an_array_of_objects():
    """As pandas holds them."""
    words = np.array(["cat", "ant", "bee"], dtype=object)[Y]
    assert read((X, words)).class_names == ("ant", "bee", "cat")


def test_pixels_of_any_memory_layout_are_the_same_pictures():
    """OpenCV's BGR turned to RGB has a stride below 0, and networks give bfloat16."""
    plain = read(Listed(list(zip(X, Y, strict=True))))
    turned = np.ascontiguousarray(X[..., ::-1])[..., ::-1]
    assert read(Listed(list(zip(turned, Y, strict=True)))).fingerprint == plain.fingerprint
    halves = np.array([0, 1], dtype=np.uint8)[X // 128]  # exact in bfloat16
    bf16 = torch.from_numpy(halves).permute(0, 3, 1, 2).bfloat16()
    expected = read((halves * 255, Y)).fingerprint
    assert read((bf16, Y)).fingerprint == expected
    assert read(Listed(list(zip(bf16, Y, strict=True)))).fingerprint == expected


def test_gray_pictures_and_several_sizes():
    assert read((X[..., 0], Y)).channels == 1
    gray = [(Image.fromarray(image[..., 0]), int(label)) for image, label in zip(X, Y, strict=True)]
    assert read(Listed(gray)).channels == 1
    large = [(np.zeros((20, 30, 3), np.uint8), label) for label in range(3)]
    data = read(Listed(gray + large))
    assert (data.channels, data.image_size) == (3, 8)  # the median short side
    assert read(Listed(gray + large), image_size=16).train.images.shape[1:] == (3, 16, 16)
    cropped = read(Listed(gray + large), image_size=16, test_crop=0.5)
    assert cropped.test.images.shape[1:] == (3, 16, 16)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (X, r"data is a ndarray: expected \(X, y\), "),
        ({"train": (X, Y), "tests": 1}, r"data is a dict: expected"),
        ("path", r"data is a str: expected"),
        ((X,), r"data is a tuple"),
        (((X, Y), (X, Y)), r"data is a tuple"),
        ([], r"data of train holds no pictures"),
        ([X[0]], r"picture 0 of data of train is a ndarray: expected \(image, label\)"),
        (
            Listed([{"pixels": X[0], "label": 0}]),
            r"picture 0 .* the entries pixels, label: exp",
        ),
        ((X, Y, X), r"data is a tuple"),
        ((X, Y[:3]), r"train has 12 images but 3 labels"),
        (
            {"train": (X, Y[:3]), "test": Listed([(X[0], 0)])},
            r"train has 12 images but 3 labels",
        ),
        ((X, Y / 2), r"y of train must be integers or words \[N\], found float64"),
        ((X, np.eye(12)), r"y of train must be integers or words"),
        ((X[0, 0, 0], Y), r"X of train must be \[N,H,W\]"),
        ((X / 50.0 - 1, Y), r"images of data are float64 from -1 to 4.1: expected 0 to 255"),
        (Listed([(X[0], 0), X]), r"picture 1 of data of train is a ndarray: expected \(image, l"),
        (Listed([(X[0], 0), (X[0] - 0.5, 1)]), r"picture 1 of data of train is float64 from -0.5"),
        (
            Listed([(X[0].astype(np.uint16) * 257, 0)]),
            r"train is uint16 from \d+ to 6\d+: expected",
        ),
        (Listed([(X[0] * 1j, 0)]), r"picture 0 of data of train is a ndarray: expected a picture"),
        (Listed([("a.png", 0)]), r"picture 0 of data of train is a str: expected a picture of P"),
        (Listed([({"x": X[0]}, 0)]), r"picture 0 of data of train is a dict: expected a picture"),
        (Listed([([[1, 2], [3]], 0)]), r"picture 0 of data of train is a list: expected a pict"),
        (Listed([(X[0], b"\xff")]), r"a label of data of train is b'.xff': expected"),
        ((X, np.array([*"abc", None], dtype=object)[Y + 1]), r"a label of train is None: expected"),
        (Listed([(X[0], 0.5)]), r"a label of data of train is 0.5: expected an integer or a word"),
        (Listed([(np.zeros((4, 4, 5)), 0)]), r"has the shape \(4, 4, 5\): expected \(C,H,W\), "),
        (Listed([]), r"data of train holds no pictures"),
        ((X, Y * 0), r"only one class"),
    ],
)
def test_a_fault_is_one_line(given, words):
    with pytest.raises(DataError, match=words) as caught:
        read(given)
    assert "\n" not in str(caught.value)


def test_pictures_that_change_at_random_are_refused():
    """As those of torchvision's Datasets with a transform for training."""

    class Flipped(Listed):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image.flip(2) if torch.rand(()) < 0.5 else image, label

    pairs = list(zip(torch.from_numpy(X).permute(0, 3, 1, 2), Y, strict=True))
    torch.manual_seed(0)
    with pytest.raises(DataError, match=r"picture \d+ of data of train is another one each time"):
        read(Flipped(pairs))


def test_pictures_that_were_passed_cannot_be_read_again():
    with pytest.raises(DataError, match=r"came from Python code: pass them as gvbsm\.run\(data="):
        read_dataset(DataConfig(name="memory"))
