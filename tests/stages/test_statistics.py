"""Statistics: the moments of everything that each convolution saw, however it was batched."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from gvbsm.config import StatisticsConfig, SynthesisConfig, ViewConfig
from gvbsm.data.loading import view_batches
from gvbsm.engine.device import RunError
from gvbsm.engine.launch import Launch
from gvbsm.engine.processes import Processes
from gvbsm.engine.progress.bars import Bar
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method.layers import matched_layers
from gvbsm.method.matching import make_teacher
from gvbsm.stages.statistics import CHUNK, StatisticsTask, add_chunks, record_chunks
from gvbsm.store.statistics_codec import pack_statistics, unpack_statistics
from support.toy import (
    CONVNET,
    FIRST,
    IMAGE,
    N_P,
    WRN,
    StoppedError,
    direct_statistics,
    of_classes,
    stop_after,
)

PLAIN = ViewConfig(crop="none", flip=False)
VIEWS = ViewConfig(crop="resized", scale=(0.3, 1.0), roll=2)


class Wide(nn.Module):
    """A network in float64 for pictures in float32, so that rounding is out of the way."""

    def __init__(self, model):
        super().__init__()
        self.model = model.double()

    def forward(self, x):
        return self.model(x.double())


def recorded(models, data, runtime, path, views=PLAIN, parts=None, **settings):
    """Statistics of the training pictures by teacher, whose chunks' files are in `path`."""
    config = StatisticsConfig(**({"n_p": N_P, "batch_size": 16} | settings))
    told = {"of": list(models), "seed": runtime.seed, "views": asdict(views), **settings}
    recipe = json.loads(json.dumps(told))  # as recipes are
    task = StatisticsTask(config, views, path, recipe, parts=parts or {})
    chunks = record_chunks(models, data, task, runtime)
    sizes = {name: int(numbers.max()) + 1 for name, numbers in task.parts.items()}
    found = add_chunks(chunks, list(models), sizes)
    for chunk in chunks:
        chunk.unlink()
    return found


def flat(statistics, path):
    return [*statistics.channel[path], *statistics.patch[path]]


def assert_close(found, expected, rtol):
    """Relative to what a statistic measures: means to the layer's spread, variances to themselves.

    Args:
        found: Module path -> four statistics.
        expected: Likewise.
        rtol: Largest relative error.
    """
    assert found.keys() == expected.keys()
    for path, theirs in expected.items():
        spread = float(theirs[3].mean().sqrt() + theirs[2].abs().max())
        for ours, other, scale in zip(found[path], theirs, (1, 0, 1, 0), strict=True):
            assert ours.dtype == torch.float64
            assert ours.shape == other.shape
            torch.testing.assert_close(ours, other, rtol=rtol, atol=rtol * spread * scale)


def same(ours, theirs):
    """Whether two sets of statistics are equal bit for bit."""
    ours, theirs = pack_statistics(ours), pack_statistics(theirs)
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )


def as_table(statistics):
    return {path: flat(statistics, path) for path in statistics.channel}


@pytest.mark.parametrize("n_p", [1, 3, 4, 16])  # 3: partial last patches of 8, 4 and 2 pixels
@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_equal_to_a_direct_computation(name, n_p, teachers, data, runtime, tmp_path):
    model = Wide(teachers[name])
    found = recorded({name: model}, data, runtime, tmp_path, n_p=n_p)[name]
    pictures = data.normalization.normalize(data.train.images)
    assert_close(as_table(found), direct_statistics(model, pictures, n_p), rtol=1e-10)
    assert set(found.channel) == set(found.patch) == set(matched_layers(model).conv)
    side = -(-8 // n_p)  # the first convolution sees the picture itself
    assert next(iter(found.patch.values())).mean.shape == (side, side)


@pytest.mark.parametrize("views", [VIEWS, ViewConfig(crop="pad", border="black")])
def test_float32_networks_and_random_views(views, teachers, data, runtime, tmp_path):
    found = recorded(teachers, data, runtime, tmp_path, views=views)
    ((pictures, _),) = view_batches(data, views, [torch.arange(40)], runtime, ("statistics", 0))
    for name, model in teachers.items():
        assert_close(as_table(found[name]), direct_statistics(model, pictures, N_P), rtol=1e-6)


@pytest.mark.parametrize(
    "batch_size",
    [
        5,
        16,
        40,
        1,
        13,
    ],
)
def test_batch_size_does_not_matter(batch_size, teachers, data, runtime, tmp_path):
    expected = recorded(teachers, data, runtime, tmp_path, views=VIEWS, batch_size=20)
    found = recorded(teachers, data, runtime, tmp_path, views=VIEWS, batch_size=batch_size)
    for name in teachers:
        assert_close(as_table(found[name]), as_table(expected[name]), rtol=1e-6)


def test_passes_are_other_views_of_the_same_pictures(teachers, data, runtime, tmp_path):
    model = Wide(teachers[CONVNET])
    found = recorded({CONVNET: model}, data, runtime, tmp_path, views=VIEWS, passes=2)
    pictures = [
        next(view_batches(data, VIEWS, [torch.arange(40)], runtime, ("statistics", index)))[0]
        for index in range(2)
    ]
    assert not torch.equal(*pictures)
    assert_close(
        as_table(found[CONVNET]), direct_statistics(model, torch.cat(pictures), N_P), rtol=1e-10
    )


def test_several_teachers_at_once_are_each_alone(teachers, data, runtime, tmp_path):
    together = recorded(teachers, data, runtime, tmp_path, views=VIEWS)
    assert list(together) == [CONVNET, WRN]
    for name, model in teachers.items():
        alone = recorded({name: model}, data, runtime, tmp_path, views=VIEWS)
        assert same(together[name], alone[name])


SMALL = {"views": VIEWS, "batch_size": 2, "passes": 2}  # 2 passes of 20 batches: 16 + 4


def test_stopped_and_resumed_are_identical(teachers, data, runtime, tmp_path, monkeypatch):
    expected = recorded(teachers, data, runtime, tmp_path, **SMALL)
    for calls in (CHUNK + 2, 5, 3):  # in the second chunk, in the third, and once more there
        with stop_after(calls, teachers[WRN]), pytest.raises(StoppedError):
            recorded(teachers, data, runtime, tmp_path, **SMALL)
    left, steps = [], []
    monkeypatch.setattr(Bar, "update", lambda _, count=1: steps.append(count))
    with teachers[CONVNET].register_forward_pre_hook(lambda _, seen: left.append(len(seen[0]))):
        found = recorded(teachers, data, runtime, tmp_path, **SMALL)
    assert left == [1] + [2] * 20  # a look at the network, and the second pass
    assert steps == [1] * 20  # what was recorded before says nothing about the rate
    for name in teachers:
        assert same(found[name], expected[name])


@pytest.mark.parametrize("most", [9, 1])
def test_out_of_memory__smaller_parts_give_the_same(most, teachers, data, runtime, tmp_path):
    models = {name: Wide(model) for name, model in teachers.items()}
    whole = recorded(models, data, runtime, tmp_path)

    def full(_module, given):
        if len(given[0]) > most:
            raise torch.OutOfMemoryError

    layer = models[WRN].get_submodule("model.stem")  # in the middle of the pass
    layer.register_forward_pre_hook(full)
    cut = recorded(models, data, runtime, tmp_path)
    for name in models:
        assert_close(as_table(cut[name]), as_table(whole[name]), rtol=1e-12)


def test_chunks_of_other_settings_are_not_taken(teachers, data, runtime, tmp_path):
    expected = recorded(teachers, data, runtime, tmp_path, **SMALL, n_p=2)
    for other in ({"batch_size": 4}, {"n_p": 4}):
        with stop_after(CHUNK + 2, teachers[WRN]), pytest.raises(StoppedError):
            recorded(teachers, data, runtime, tmp_path, **(SMALL | {"n_p": 2} | other))
        found = recorded(teachers, data, runtime, tmp_path, **SMALL, n_p=2)
        assert all(same(found[name], expected[name]) for name in teachers)


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_the_chunks_and_change_no_bit(world, teachers, data, runtime, tmp_path):
    expected = recorded(teachers, data, runtime, tmp_path, **SMALL)
    config = StatisticsConfig(n_p=N_P, batch_size=2, passes=2)

    class Told(Processes):
        """One of several, who is told what is missing as all were at first."""

        def same(self, decide):
            return list(range(4))

    batches = 0
    for rank in reversed(range(world)):
        one = replace(runtime, processes=Told(Launch(rank, world, rank)))
        seen = []
        with teachers[WRN].register_forward_pre_hook(lambda _, x, to=seen: to.append(len(x[0]))):
            paths = record_chunks(teachers, data, StatisticsTask(config, VIEWS, tmp_path, {}), one)
        batches += seen.count(2)
        assert len(seen) - 1 in {2: (20,), 3: (16, 4, 20), 7: (0, 4, 16)}[world]
    assert batches == 40
    found = add_chunks(paths, list(teachers))
    assert all(same(found[name], expected[name]) for name in teachers)


def test_networks_are_left_as_they_were(teachers, data, runtime, tmp_path):
    before = {
        name: {key: value.clone() for key, value in model.state_dict().items()}
        for name, model in teachers.items()
    }
    recorded(teachers, data, runtime, tmp_path)
    with stop_after(1, teachers[WRN]), pytest.raises(StoppedError):
        recorded(teachers, data, runtime, tmp_path)
    for name, model in teachers.items():
        assert not any(
            module._forward_pre_hooks or module._forward_hooks for module in model.modules()
        )
        after = model.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before[name].items())


def test_seed_decides_the_views(teachers, data, runtime, tmp_path):
    models = {CONVNET: teachers[CONVNET]}
    first = recorded(models, data, runtime, tmp_path, views=VIEWS)[CONVNET]
    again = recorded(models, data, runtime, tmp_path, views=VIEWS)[CONVNET]
    other = recorded(models, data, replace(runtime, seed=8), tmp_path, views=VIEWS)[CONVNET]
    assert same(first, again)
    assert not same(first, other)


def _through_a_file(statistics, tmp_path):
    path = tmp_path / "statistics.safetensors"
    save(path, pack_statistics(statistics), {"kind": "statistics", "recipe": {}})
    return unpack_statistics(load_tensors(path, "statistics")[0])


def test_file_round_trip_keeps_the_values(teachers, data, runtime, tmp_path):
    found = recorded(teachers, data, runtime, tmp_path)[WRN]
    assert same(_through_a_file(found, tmp_path), found)


def test_file_round_trip_keeps_the_first_layer(teachers, data, runtime, tmp_path):
    """The first layer is weighed tenfold: it must be the one that sees the image."""
    found = _through_a_file(recorded(teachers, data, runtime, tmp_path)[WRN], tmp_path)
    target = make_teacher(WRN, teachers[WRN], found, SynthesisConfig(), N_P, IMAGE)
    assert target.conv[0] == FIRST[WRN]


def test_what_is_not_finite_stops_the_run_and_is_never_kept(teachers, data, runtime, tmp_path):
    whole = recorded(teachers, data, runtime, tmp_path / "whole")
    weight = teachers[WRN].get_parameter("stem.weight").data
    kept = weight.clone()
    weight[:] = 1e38
    with pytest.raises(RunError, match=rf"^statistics of {WRN}: the \w+ moments of layer .*lower"):
        recorded(teachers, data, runtime, tmp_path)
    weight[:] = kept
    again = recorded(teachers, data, runtime, tmp_path)
    for name, found in again.items():
        for layer in found.channel:
            pairs = zip(flat(found, layer), flat(whole[name], layer), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("batch_size", [3, 16])
@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_parts__equal_to_a_direct_computation(
    name, batch_size, teachers, data, runtime, tmp_path, monkeypatch
):
    """Spread between pictures included, over chunks that lack some parts; and of all together."""
    monkeypatch.setattr("gvbsm.stages.statistics.CHUNK", 2)
    order = data.train.labels.argsort(stable=True)
    split = replace(data.train, labels=data.train.labels[order], images=data.train.images[order])
    data, model = replace(data, train=split), Wide(teachers[name])
    # three groups of 20, 15 and 5 pictures; the last one lies in the last pictures alone
    groups = torch.tensor([0, 1, 0] * 10 + [1] * 5 + [2] * 5)
    parts = {"class": split.labels, "group": groups}
    found = recorded({name: model}, data, runtime, tmp_path, parts=parts, batch_size=batch_size)[
        name
    ]
    pictures = data.normalization.normalize(data.train.images)
    assert_close(as_table(found), direct_statistics(model, pictures, N_P), rtol=1e-10)
    by_class, by_group = (of_classes(model, data, N_P, numbers) for numbers in parts.values())
    tables = (found.class_channel, found.class_patch, found.group_channel, found.group_patch)
    for ours, theirs in zip(tables, (*by_class, *by_group), strict=True):
        assert ours.keys() == theirs.keys()
        for path, moments in theirs.items():
            for mine, other in zip(ours[path], moments, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
    assert len(found.class_channel) > len(found.channel) or name == CONVNET
    alone = recorded({name: model}, data, runtime, tmp_path, parts={"group": groups})[name]
    assert alone.class_channel == {}
    assert_close(as_table(alone), as_table(found), rtol=1e-12)
