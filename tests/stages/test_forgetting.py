"""What was forgotten is counted rightly, and is the same after a stop."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.config import OptimizerConfig, SqueezeConfig, ViewConfig
from gvbsm.engine.device import RunError
from gvbsm.files.artifacts import read_header
from gvbsm.files.tensors import load_tensors
from gvbsm.stages.selection import forgetting
from gvbsm.stages.selection.forgetting import (
    classified_rightly,
    count_forgetting,
    record_forgetting,
)
from support.toy import CONVNET, WRN, StoppedError, keep_built

CONFIG = SqueezeConfig(
    epochs=5,
    batch_size=16,
    optimizer=OptimizerConfig(name="adam", lr=0.01),
    views=ViewConfig(crop="pad", padding=1, flip=False),
)
RECIPE = {"stage": "forgetting"}


def recorded(data, runtime, path, config=CONFIG, recipe=RECIPE, backbone=WRN):
    record_forgetting(backbone, data, config, runtime, path, recipe)
    return path


def test_count__known_answer():
    """Pictures: always right; forgotten once; twice; learnt late; never right; lost for good."""
    right = torch.tensor(
        [[1, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]]
    )
    assert count_forgetting(right.bool()).tolist() == [0, 1, 2, 0, 4, 1]


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=7))
def test_count__is_the_slow_twin_and_never_learnt_is_most(rows):
    right = torch.tensor(rows)
    events = count_forgetting(right).tolist()
    for picture, found in enumerate(events):
        seen = [row[picture] for row in rows]
        if not any(seen):
            assert found == len(rows)
            continue
        assert found == sum(a and not b for a, b in itertools.pairwise(seen))
        assert found < len(rows)


def test_rightly_classified_pictures_are_told_in_their_order(teachers, data, streamed, runtime):
    pictures = data.normalization.normalize(data.train.images)
    expected = teachers[WRN](pictures).argmax(dim=1) == data.train.labels
    assert int(expected.sum()) > 0
    teachers[WRN].train()
    for source in (data, streamed):
        assert torch.equal(classified_rightly(teachers[WRN], source, runtime), expected)
    swapped = replace(data.train, labels=(data.train.labels + expected.long()) % 4)
    assert not classified_rightly(teachers[WRN], replace(data, train=swapped), runtime).any()


def test_the_file_tells_what_the_network_knew_after_each_epoch(
    data, runtime, tmp_path, monkeypatch
):
    (seen, looked) = ([], classified_rightly)

    def look(*arguments):
        seen.append(looked(*arguments))
        return seen[-1]

    monkeypatch.setattr(forgetting, "classified_rightly", look)
    models = keep_built(monkeypatch, forgetting)
    path = recorded(data, runtime, tmp_path / "events.safetensors")
    events = load_tensors(path, "forgetting")[0]["events"]
    assert len(seen) == 5
    assert torch.equal(events, count_forgetting(torch.stack(seen)))
    assert torch.equal(seen[-1], looked(models[0], data, runtime))
    history = read_header(path)["history"]
    assert history["epochs"] == [1, 2, 3, 4, 5]
    assert history["top1"] == [100 * float(right.float().mean()) for right in seen]
    assert history["top1"][-1] > 50  # of the training pictures; chance is 25
    assert list(tmp_path.iterdir()) == [path]  # neither a checkpoint nor an epoch is left behind


def test_stopped_at_any_point_it_ends_in_the_same_file(data, runtime, tmp_path, monkeypatch):
    expected = recorded(data, runtime, tmp_path / "whole.safetensors").read_bytes()
    path, often = tmp_path / "events.safetensors", replace(runtime, checkpoint_seconds=0)
    parts = tmp_path / "events"
    for calls in (0, 2, 3, 4, 5, 1):  # an epoch is 3 steps and a look
        with monkeypatch.context() as patch:
            keep_built(patch, forgetting, calls=calls)
            with pytest.raises(StoppedError):
                recorded(data, often, path)
        assert not path.exists()
    done = sorted(file.name for file in parts.iterdir())
    assert done[0] == "epoch-00000.safetensors"
    assert len(done) > 1
    assert recorded(data, often, path).read_bytes() == expected
    assert not parts.exists()


def test_without_an_epoch_s_file_it_starts_again_to_the_same_end(
    data, runtime, tmp_path, monkeypatch
):
    expected = recorded(data, runtime, tmp_path / "whole.safetensors").read_bytes()
    path, often = tmp_path / "events.safetensors", replace(runtime, checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        keep_built(patch, forgetting, calls=9)  # two epochs, and a step of the third
        with pytest.raises(StoppedError):
            recorded(data, often, path)
    (tmp_path / "events" / "epoch-00000.safetensors").unlink()
    assert recorded(data, often, path).read_bytes() == expected


def test_epochs_of_other_settings_are_not_taken(data, runtime, tmp_path, monkeypatch):
    path, often = tmp_path / "events.safetensors", replace(runtime, checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        keep_built(patch, forgetting, calls=13)
        with pytest.raises(StoppedError):
            recorded(data, often, path)
    assert len(list((tmp_path / "events").iterdir())) == 3
    shorter, other = replace(CONFIG, epochs=2), {"stage": "forgetting", "epochs": 2}
    found = recorded(data, often, path, shorter, other).read_bytes()
    fresh = recorded(data, runtime, tmp_path / "fresh.safetensors", shorter, other)
    assert found == fresh.read_bytes()
    assert not (tmp_path / "events").exists()  # of the third epoch, too, nothing is left behind


def test_the_seed_decides(data, runtime, tmp_path):
    files = [
        recorded(data, run, tmp_path / f"{index}.safetensors", backbone=CONVNET).read_bytes()
        for index, run in enumerate((runtime, runtime, replace(runtime, seed=8)))
    ]
    assert files[0] == files[1] != files[2]


def test_a_wild_rate_is_a_run_error(data, runtime, tmp_path):
    wild = replace(CONFIG, optimizer=OptimizerConfig(name="sgd", lr=1e30))
    with pytest.raises(RunError, match=f"forgetting {WRN}: the loss became .*learning rate"):
        recorded(data, runtime, tmp_path / "events.safetensors", wild)
