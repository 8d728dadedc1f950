"""The film's steps and images, and whose film it is; how it is taken is in test_synthesis.py."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.data.class_sizes import ImageCounts
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.tensors import load_tensors, save
from gvbsm.store.film import Film, frame_steps, is_filmed, load_film, save_film
from support.artifact_files import RECIPE
from support.distilled_files import write_images

FILM = Film(
    torch.arange(2 * 3 * 3 * 2 * 2, dtype=torch.uint8).view(2, 3, 3, 2, 2),
    torch.tensor([0, 1, 5]),
    torch.arange(2),
)


def test_frame_steps__known_answers():
    # 1024 ** (1 / 10) is 2
    assert frame_steps(1024) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert frame_steps(4000)[-3:] == [761, 1745, 4000]
    assert frame_steps(1) == [0, 1]
    assert frame_steps(2) == [0, 1, 2]


@given(st.integers(1, 10**6))
def test_frame_steps__from_start_to_end_ever_further_apart(iterations):
    steps = frame_steps(iterations)
    assert (steps[0], steps[1], steps[-1]) == (0, 1, iterations)
    assert len(steps) <= 12
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    assert min(gaps) >= 1
    assert all(b >= a - 1 for a, b in itertools.pairwise(gaps))  # but for rounding


def test_is_filmed__the_first_image_of_ten_classes():
    def filmed(classes, ipc):
        counts = ImageCounts.even(classes, ipc)
        return is_filmed(torch.arange(counts.total), counts).nonzero().flatten().tolist()

    assert filmed(12, 3) == [*range(0, 30, 3)]
    assert filmed(1000, 1) == [*range(10)]
    assert filmed(4, 2) == [0, 2, 4, 6]  # as many classes as there are
    uneven = ImageCounts((3, 1, 2))
    assert is_filmed(torch.tensor([5, 0, 3, 4]), uneven).tolist() == [False, True, True, True]


def test_film__round_trip(tmp_path):
    path = write_images(tmp_path)
    recipe = load_tensors(path, "images")[1]["recipe"]
    save_film(path.parent, FILM, recipe)
    found = load_film(tmp_path)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, FILM, strict=True))


def test_film__of_other_images_is_none(tmp_path):
    path = write_images(tmp_path)
    assert load_film(tmp_path) is None  # as in a directory from before there were films
    save_film(path.parent, FILM, RECIPE)
    assert load_film(tmp_path) is None


def test_film__damaged(tmp_path):
    path = write_images(tmp_path)
    film = path.with_name("film.safetensors")
    recipe = load_tensors(path, "images")[1]["recipe"]
    save(film, {"frames": FILM.frames}, {"kind": "film", "recipe": recipe})
    with pytest.raises(ArtifactError, match=r"film\.safetensors is damaged.*steps"):
        load_film(tmp_path)
