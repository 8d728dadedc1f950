"""Groups of a synthesis: the set they make up, whatever order they lie in."""

import pytest
import torch

from gvbsm.files.artifacts import save
from gvbsm.stages.group_files import Groups
from gvbsm.stages.synthesis import group_indices
from gvbsm.store.distilled import save_images, stream_images
from gvbsm.store.film import frame_steps, is_filmed


@pytest.fixture
def made(tmp_path):
    """Call it to write groups of 4 classes x 3 images: groups and images."""

    def write(loop, batch=5, filmed=True):
        images = torch.randint(256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(1))
        images = images.to(torch.uint8)
        groups = Groups(tmp_path, tuple(group_indices(4, 3, batch, loop)), 3, 6)
        frames = images[:, None].repeat(1, len(frame_steps(6)), 1, 1, 1)
        for number, (index, path) in enumerate(zip(groups.indices, groups.paths, strict=True)):
            tensors = {"images": images[index]}
            if filmed:
                tensors["film"] = frames[index[is_filmed(index, 3)]]
            save(path, tensors, {"kind": "group", "recipe": {}, "trace": [{"step": number}]})
        return groups, images

    return write


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_set_is_put_together_by_position(made, loop, data, tmp_path):
    groups, images = made(loop)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    assert torch.equal(groups.labels, labels)
    assert groups.traces() == [[{"step": 0}], [{"step": 1}], [{"step": 2}]]
    streamed, whole = tmp_path / "streamed.safetensors", tmp_path / "whole.safetensors"
    traces = groups.traces()
    stream_images(streamed, "gvbsm", {}, groups.labels, groups.images(), data, traces)
    save_images(whole, "gvbsm", {}, images, labels, data, traces)
    assert streamed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_film__is_that_of_each_class_s_first_image(made, loop):
    groups, images = made(loop)
    film = groups.film()
    assert film.labels.tolist() == [0, 1, 2, 3]
    assert film.steps.tolist() == frame_steps(6)
    assert torch.equal(film.frames[:, 0], images[::3])


def test_film__none_where_groups_have_none(made):
    groups, _ = made("reorder", filmed=False)
    assert groups.film() is None
