"""Corrupted copies of test pictures: of the library, and of folders in the form of CIFAR-10-C."""

import os
import re
import shutil
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from gvbsm.config import ConfigError, Corruption, CorruptionsConfig
from gvbsm.config.settled import corruption_kinds
from gvbsm.data.corrupted.copies import (
    check_corruptions,
    choose_pictures,
    clean_pictures,
    copies_of,
    folder_content,
)
from gvbsm.data.corrupted.library import corrupt
from gvbsm.data.pictures import DataError
from gvbsm.files.tensors import save
from support.corruptions import stand_in

KINDS = get_args(Corruption)[1:]


@pytest.fixture
def folder(data, tmp_path):
    """Corrupted copies, fog and snow: gray values that differ by kind, severity and picture."""
    count = len(data.test)
    labels = np.resize(data.test.labels.numpy(), 5 * count)
    np.save(tmp_path / "labels.npy", labels.astype(np.uint8))
    for number, kind in enumerate(("fog", "snow")):
        rows = np.arange(5 * count, dtype=np.uint8) + 100 * number
        np.save(tmp_path / f"{kind}.npy", np.tile(rows[:, None, None, None], (1, 8, 8, 3)))
    return tmp_path


def test_all_stands_for_the_common_kinds_in_their_order():
    assert len(KINDS) == 15
    assert corruption_kinds(CorruptionsConfig()) == ()
    assert corruption_kinds(CorruptionsConfig(kinds=("all",))) == KINDS
    assert corruption_kinds(CorruptionsConfig(kinds=("fog", "snow", "fog"))) == ("snow", "fog")


@pytest.mark.parametrize(("side", "given"), [(8, 32), (20, 40), (32, 32), (40, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_enlarged_for_the_library_and_reduced(
    side, given, channels, monkeypatch
):
    """A library that changes nothing gives the picture back, to the bit."""

    def unchanged(image):
        return np.repeat(image, 3 // image.shape[2], axis=2)

    calls = stand_in(monkeypatch, unchanged)
    picture = torch.randint(256, (channels, side, side), dtype=torch.uint8)
    assert torch.equal(corrupt(picture, "fog", 3, seed=0), picture)
    ((image, severity, kind, options),) = calls
    assert (image.shape, image.dtype) == ((given, given, channels), np.uint8)
    assert (severity, kind, options) == (3, "fog", {})


def test_the_seed_decides_and_numpys_generator_stays_as_it_was(monkeypatch):
    stand_in(monkeypatch)
    picture = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    for kind in ("gaussian_noise", "glass_blur"):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        first, again, other = (corrupt(picture, kind, 1, seed) for seed in (0, 0, 1))
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert not torch.equal(corrupt(picture, "fog", 1, 0), corrupt(picture, "snow", 1, 0))


@pytest.mark.filterwarnings("ignore")  # of the library
@pytest.mark.parametrize("kind", KINDS)
def test_the_library_gives_the_same_copy_again(kind):
    pytest.importorskip("imagecorruptions", reason="imagecorruptions-imaug is not installed")
    generator = torch.Generator().manual_seed(0)
    for channels, side in ((1, 8), (3, 32)):
        picture = torch.randint(256, (channels, side, side), generator=generator).to(torch.uint8)
        mild, again, strong = (corrupt(picture, kind, severity, 5) for severity in (1, 1, 5))
        assert torch.equal(mild, again)
        assert (mild.shape, mild.dtype) == (picture.shape, torch.uint8)
    distances = [float((copy - picture.float()).square().mean()) for copy in (mild, strong)]
    assert min(distances) > 0
    if kind != "frost":  # whose strength is that of a random photograph of ice, too
        assert distances[0] < distances[1]


def test_a_missing_library_is_told(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    check_corruptions(CorruptionsConfig(), data)
    with pytest.raises(ConfigError, match=r"pip install 'gvbsm\[corruptions\]'"):
        check_corruptions(CorruptionsConfig(kinds=("fog",)), data)


def test_copies_name_what_made_them_whatever_is_installed_now(data, tmp_path):
    for kind, source in (("fog", "library 2"), ("snow", "library 1")):
        header = {"kind": "corrupted", "recipe": {}, "source": source}
        save(tmp_path / kind, {"images": torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)}, header)
    config = CorruptionsConfig(("fog", "snow"))
    copies = copies_of(config, data, 0, lambda kind: tmp_path / kind)
    assert copies.source() == "library 1, library 2"


def test_few_pictures_are_all_chosen_and_of_more_a_fixed_part():
    assert choose_pictures(7, 10, seed=0).tolist() == list(range(7))
    chosen = choose_pictures(1000, 100, seed=0)
    assert torch.equal(chosen, choose_pictures(1000, 100, seed=0))
    assert torch.equal(chosen, chosen.unique())
    assert len(chosen) == 100
    assert not torch.equal(chosen, choose_pictures(1000, 100, seed=1))


def test_pictures_on_disk_are_decoded_as_those_in_memory(data, streamed, runtime):
    index = torch.tensor([1, 5, 6])
    in_memory = clean_pictures(data, index, runtime, 0)
    assert torch.equal(in_memory, data.test.images[index])
    assert torch.equal(clean_pictures(streamed, index, runtime, 0), in_memory)


def test_a_folder_is_read_by_severity_and_picture(data, folder):
    config = CorruptionsConfig(("snow", "fog"), (2, 5), pictures=6, folder=str(folder))
    check_corruptions(config, data)
    copies = copies_of(config, data, 0, path_of=None)
    assert (copies.kinds, copies.source()) == (("snow", "fog"), folder.name)
    count = len(data.test)
    for kind, offset in (("fog", 0), ("snow", 100)):
        splits = [*copies.splits(kind, data)]
        assert len(splits) == 2
        for severity, split in zip((2, 5), splits, strict=True):
            expected = (offset + count * (severity - 1) + copies.index).to(torch.uint8)
            assert split.images.shape == (6, 3, 8, 8)
            assert torch.equal(split.images, expected.view(-1, 1, 1, 1).expand(6, 3, 8, 8))
            assert torch.equal(split.labels, data.test.labels[copies.index])


def rewrite(path, array):
    """Write an array of as many bytes, with times that differ however fast this is."""
    before = path.stat()
    np.save(path, array)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


def test_a_folder_is_known_by_the_copies_that_are_tested(data, folder, tmp_path):
    config = CorruptionsConfig(("fog",), (2, 5), pictures=6, folder=str(folder))
    content = folder_content(config, 0)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert folder_content(replace(config, folder=str(moved)), 0) == content
    others = [
        replace(config, kinds=("snow",)),
        replace(config, severities=(5, 2)),
        replace(config, pictures=7),
    ]
    assert len({content, folder_content(config, 1), *(folder_content(c, 0) for c in others)}) == 5

    count, index = len(data.test), choose_pictures(len(data.test), 6, 0).tolist()
    path, whole = folder / "fog.npy", np.load(folder / "fog.npy")
    left_out = next(number for number in range(count) if number not in index)
    for row, is_tested in (
        (2 * count + index[0], False),  # severity 3
        (count + left_out, False),  # severity 2
        (count + index[0], True),
        (4 * count + index[-1], True),
    ):
        changed = whole.copy()
        changed[row, 3, 4, 1] += 1
        rewrite(path, changed)
        assert (folder_content(config, 0) != content) == is_tested, row
    rewrite(path, whole)
    assert folder_content(config, 0) == content
    rewrite(folder / "snow.npy", np.zeros_like(whole))
    assert folder_content(config, 0) == content


def test_copies_that_are_made_have_no_folder_that_is_known():
    assert folder_content(CorruptionsConfig(("fog",)), 0) is None
    assert folder_content(CorruptionsConfig(), 0) is None


def test_labels_of_one_severity_will_do(data, folder):
    np.save(folder / "labels.npy", data.test.labels.numpy())
    check_corruptions(CorruptionsConfig(("fog",), folder=str(folder)), data)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("snow", None, "there is no .*snow.npy"),
        ("snow", b"text", "snow.npy cannot be read as an array"),
        ("snow", np.zeros((5 * 16, 8, 8, 3)), "snow.npy must be uint8 .*, found float64"),
        ("snow", np.zeros((16, 8, 8, 3), np.uint8), r"uint8 \[80, 8, 8, 3\], found .* \[16, 8"),
        ("snow", np.array([{}]), "cannot be read as an array"),  # of Python's objects
        ("snow", b"", "snow.npy cannot be read as an array"),
        ("labels", b"PK\x03\x04 an archive", "labels.npy cannot be read as an array"),
        ("labels", np.zeros(80, np.int64), "its labels are not those of the 16 test pictures of"),
        ("labels", np.zeros(17, np.int64), "labels are not those"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(data, folder, name, content, line):
    path = folder / f"{name}.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DataError, match=line):
        check_corruptions(CorruptionsConfig(("snow",), folder=str(folder)), data)


def test_a_folder_that_is_not_there_is_refused(data, tmp_path):
    config = CorruptionsConfig(("fog",), folder=str(tmp_path / "none"))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none'} is not a folder")):
        check_corruptions(config, data)
