"""Files of a synthesis: the set that groups become, and what is kept after a kill or damage."""

import json
import logging
import math
import os

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gvbsm.data.class_sizes import ImageCounts
from gvbsm.files.artifacts import ArtifactError, DamagedError
from gvbsm.files.manifest import claim
from gvbsm.method.groups import group_indices
from gvbsm.method.synthesis import TERMS, Iteration
from gvbsm.stages import group_files
from gvbsm.stages.group_files import (
    Groups,
    has_group_files,
    longest_trace,
    remove_group_files,
    trace_row,
)
from gvbsm.store.distilled import images_header, load_images
from gvbsm.store.film import frame_steps, is_filmed
from support.distilled_files import save_images
from support.toy import StoppedError

COUNTS, ITERATIONS, SHAPE = ImageCounts.even(4, 3), 6, (3, 8, 8)
IMAGES = torch.randint(256, (12, *SHAPE), generator=torch.Generator().manual_seed(1)).byte()
RECIPE = {"toy": 1}


def trace_of(group):
    return [{"step": group, "teacher": "a", **dict.fromkeys(TERMS, 0.1)}]


@pytest.fixture
def opened(data, tmp_path):
    """Call it for the groups of 4 classes x 3 images, as a new process sees them."""

    def open_groups(loop="reorder", recipe=RECIPE):
        indices = group_indices(COUNTS, 5, loop)
        header = images_header("gvbsm", recipe, data)
        path = tmp_path / "images.safetensors"
        traces = [longest_trace([0], ["a"], TERMS)] * len(indices)
        return Groups(path, header, indices, COUNTS, ITERATIONS, SHAPE, traces)

    return open_groups


def save_group(groups, group):
    index = groups.indices[group]
    frames = IMAGES[index[is_filmed(index, COUNTS)]][:, None]
    film = frames.repeat(1, len(frame_steps(ITERATIONS)), 1, 1, 1)
    groups.save(group, IMAGES[index], film, trace_of(group))


def save_all(groups):
    for group in groups.missing():
        save_group(groups, group)
    return groups


def flip_byte(path, position):
    """Change one byte of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def flip_image(groups, position):
    """Change one byte of the image at a position of the set."""
    pixels = math.prod(SHAPE)
    size = groups.draft.path.stat().st_size  # the images come last
    flip_byte(groups.draft.path, size - (12 - position) * pixels + 5)


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_finish__the_set_is_that_of_save_images(loop, opened, data, tmp_path):
    groups = opened(loop)
    assert groups.missing() == [0, 1, 2]
    for group in (2, 0, 1):
        save_group(groups, group)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    assert torch.equal(groups.labels, labels)
    groups.finish()
    whole = tmp_path / "whole.safetensors"
    save_images(whole, "gvbsm", RECIPE, IMAGES, labels, data, list(map(trace_of, range(3))))
    streamed, expected = load_images(groups.path), load_images(whole)
    assert torch.equal(streamed.images, expected.images)
    assert torch.equal(streamed.labels, expected.labels)
    without_checksum = {"checksum": None}
    assert streamed.header | without_checksum == expected.header | without_checksum
    assert not groups.draft.path.exists()


@pytest.mark.parametrize("name", ["images", "film", "group-00001"])
def test_missing__a_file_of_the_user_is_told_before_any_group_is_made(name, opened, tmp_path):
    claim(tmp_path)
    (tmp_path / f"{name}.safetensors").write_bytes(b"of the user")
    with pytest.raises(ArtifactError, match=f"{name}.safetensors is in the way"):
        opened().missing()


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_film__is_that_of_each_class_s_first_image(loop, opened):
    film = save_all(opened(loop)).film()
    assert film.labels.tolist() == [0, 1, 2, 3]
    assert film.steps.tolist() == frame_steps(ITERATIONS)
    assert torch.equal(film.frames[:, 0], IMAGES[::3])


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_missing__a_kill_between_images_and_group_file_costs_that_group(loop, opened, monkeypatch):
    groups = opened(loop)
    save_group(groups, groups.missing()[0])

    def killed(*_arguments):
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(group_files, "save", killed)
        with pytest.raises(StoppedError):
            save_group(groups, 1)
    assert torch.equal(groups.draft.read("images", groups.indices[1]), IMAGES[groups.indices[1]])
    again = opened(loop)
    assert again.missing() == [1, 2]
    save_all(again).finish()
    assert torch.equal(load_images(again.path).images, IMAGES)


def test_save__images_are_on_the_disk_before_the_group_file_is(opened, monkeypatch):
    groups, events = opened(), []
    groups.missing()
    monkeypatch.setattr(os, "fsync", lambda _handle: events.append("synced"))
    monkeypatch.setattr(group_files, "save", lambda *_: events.append("saved"))
    save_group(groups, 0)
    assert events == ["synced", "saved"]


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_missing__a_group_whose_images_are_damaged_is_made_again(loop, opened, caplog):
    groups = save_all(opened(loop))
    flip_image(groups, int(groups.indices[1][2]))
    again = opened(loop)
    with caplog.at_level(logging.WARNING, "gvbsm"):
        assert again.missing() == [1]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the images of batch 1 in ")
    save_all(again).finish()
    assert torch.equal(load_images(again.path).images, IMAGES)


def test_finish__refuses_damage_that_came_after_the_check(opened):
    groups = save_all(opened())
    assert opened().missing() == []
    flip_image(groups, 7)
    with pytest.raises(ArtifactError, match=r"draft is damaged \(row 7 of `images`.*again$"):
        groups.finish()
    assert not groups.path.exists()


def test_missing__all_groups_if_the_draft_is_lost_or_the_recipe_is_another(opened, caplog):
    groups = save_all(opened())
    assert opened(recipe={"toy": 2}).missing() == [0, 1, 2]
    groups.draft.path.unlink()
    assert opened().missing() == [0, 1, 2]
    assert not caplog.records


def test_group_file__if_damaged_is_refused_and_made_again_once_it_is_gone(opened):
    groups = save_all(opened())
    path = groups.paths[1]
    flip_byte(path, path.stat().st_size - 1)
    with pytest.raises(DamagedError, match=r"group-00001\.safetensors is damaged"):
        groups.film()
    path.unlink()
    assert opened().missing() == [1]


def test_missing__refuses_a_truncated_group_file_before_any_work(opened):
    groups = save_all(opened())
    groups.paths[2].write_bytes(groups.paths[2].read_bytes()[:20])
    with pytest.raises(
        ArtifactError, match=r"group-00002\.safetensors is in the way.*move it away"
    ):
        opened().missing()


def test_remove_group_files__leaves_the_set_and_files_of_others(opened, tmp_path):
    groups = save_all(opened())
    (tmp_path / "group-photo.safetensors").write_text("mine")
    assert has_group_files(groups.path, RECIPE)
    assert not has_group_files(groups.path, {"toy": 2})
    remove_group_files(groups.path)
    assert [path.name for path in tmp_path.iterdir()] == ["group-photo.safetensors"]
    assert not has_group_files(groups.path, RECIPE)


@given(value=st.floats(), gradient=st.floats())
@example(value=-math.ulp(0.0), gradient=-1.7976931348623157e308)
def test_longest_trace__no_values_take_more_space(value, gradient):
    values = {name: [value] for name in TERMS}
    steps, nothing = [0, 9, 3999], torch.empty(0)
    trace = [trace_row(Iteration(s, "wrn16_2", nothing, values, [gradient]), 0) for s in steps]
    longest = longest_trace(steps, ["resnet", "wrn16_2", "a"], TERMS)
    assert len(json.dumps(trace)) <= len(json.dumps(longest))
