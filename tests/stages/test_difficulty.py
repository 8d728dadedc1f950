"""The difficulty of the training pictures: one pass, however the pictures are read and batched."""

import copy

import pytest
import torch

from gvbsm.config import ConfigError
from gvbsm.engine.device import RunError
from gvbsm.method.beyond.difficulty_groups import PictureDistances, ranks_in_class
from gvbsm.stages.selection import difficulty as stage
from gvbsm.stages.selection.difficulty import measure_difficulty
from support.toy import CONVNET, IMAGE, WRN


@pytest.mark.parametrize("batch", [40, 7])
def test_difficulty__is_the_rank_by_the_teachers_with_batchnorm(
    batch, teachers, data, streamed, runtime, monkeypatch
):
    """Of pictures in memory and in files."""
    monkeypatch.setattr(stage, "BATCH", batch)
    shown = data.normalization.normalize(data.train.images)
    expected = ranks_in_class(PictureDistances(teachers[WRN], IMAGE)(shown), data.train.labels)
    for pictures in (data, streamed):
        found = measure_difficulty(teachers, pictures, runtime)
        assert torch.equal(found, expected.double())
    assert sorted(found[data.train.labels == 2].tolist()) == list(range(10))


def test_difficulty__of_two_teachers_is_their_mean_rank(teachers, data, runtime):
    changed = copy.deepcopy(teachers[WRN])
    for name, buffer in changed.named_buffers():
        if name.endswith("running_mean"):
            buffer += 2.0
    alone = [
        measure_difficulty({"one": model}, data, runtime) for model in (teachers[WRN], changed)
    ]
    assert not torch.equal(*alone)
    both = measure_difficulty({"one": teachers[WRN], "two": changed}, data, runtime)
    assert torch.equal(both, (alone[0] + alone[1]) / 2)


def test_difficulty__without_batchnorm_is_refused(teachers, data, runtime):
    with pytest.raises(ConfigError, match=rf"none of {CONVNET} has such layers; match another"):
        measure_difficulty({CONVNET: teachers[CONVNET]}, data, runtime)


def test_difficulty__that_is_not_finite_names_the_teacher(teachers, data, runtime):
    teachers[WRN].get_parameter("stem.weight").data[:] = 1e38
    with pytest.raises(RunError, match=rf"not finite by {WRN}: its activations overflow"):
        measure_difficulty(teachers, data, runtime)


def test_difficulty__smaller_parts_give_the_same(teachers, data, runtime):
    whole = measure_difficulty(teachers, data, runtime)

    def full(_module, given):
        if len(given[0]) > 9:
            raise torch.OutOfMemoryError

    teachers[WRN].get_submodule("stem").register_forward_pre_hook(full)
    assert torch.equal(measure_difficulty(teachers, data, runtime), whole)
