"""The pictures that a run selects: by the right teacher, or by a training that is kept."""

from dataclasses import replace

import pytest
import torch

from gvbsm.backbones.features import teacher_features
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config
from gvbsm.data.loading import plain_batches
from gvbsm.data.starts import Start
from gvbsm.engine import device
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.manifest import claim
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline import run as pipeline
from gvbsm.pipeline import selection
from gvbsm.pipeline.selection import draw_start, keep_start, select_pictures
from gvbsm.stages.selection.balanced import select_balanced
from gvbsm.stages.selection.coreset import select_forgetting, select_herding, select_k_center
from gvbsm.stages.selection.starts import training_losses
from gvbsm.store.recipes import Recipes

SETTINGS = {
    "ipc": 3,
    "data": {"name": "digits"},
    "squeeze": {"backbones": ["convnet8_d1", "wrn10_1"], "epochs": 2, "views": {"crop": "none"}},
    "coreset": {"backbone": "wrn10_1"},
    "baselines": {"methods": []},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = pipeline.Run(as_config(SETTINGS), tmp_path_factory.mktemp("run"), quiet=True)
    made.squeeze()
    return made


def inputs(run, config=None, teachers=None):
    return replace(run.context, config=config or run.config, teachers=teachers or run.teachers)


class Asked(dict):
    """Teachers that note the names that they are asked for."""

    def __init__(self, teachers):
        super().__init__()
        self.teachers, self.names = teachers, []

    def __missing__(self, name):
        self.names.append(name)
        return self.teachers[name]

    def __bool__(self):
        return True


def features_of(run, backbone):
    batches = plain_batches(run.data, run.data.train, 100, run.runtime, 0)
    pictures = (images for images, _ in batches)
    return teacher_features(run.teachers[backbone], pictures, run.runtime).features


@pytest.mark.parametrize(
    ("name", "choose"), [("herding", select_herding), ("k-center", select_k_center)]
)
def test_the_features_are_those_of_the_teacher_that_is_named(run, name, choose):
    labels = run.data.train.labels
    found = select_pictures(inputs(run), name)
    assert torch.equal(found, choose([features_of(run, "wrn10_1")], labels, [3] * 10))
    assert not torch.equal(found, choose([features_of(run, "convnet8_d1")], labels, [3] * 10))


def test_the_progress_of_the_features_knows_its_end(run, monkeypatch):
    bars, begin = [], device.begin
    monkeypatch.setattr(device, "begin", lambda *about: bars.append(begin(*about)) or bars[-1])
    monkeypatch.setattr(selection, "BATCH", 100)
    select_pictures(inputs(run), "herding")
    assert [(bar.total, bar.unit) for bar in bars] == [(15, "batch")]  # of 1,438 pictures


def test_balanced_takes_features_and_logits_of_the_teacher(run):
    batches = plain_batches(run.data, run.data.train, 100, run.runtime, 0)
    pictures = (images for images, _ in batches)
    outputs = teacher_features(run.teachers["wrn10_1"], pictures, run.runtime)
    expected = select_balanced([outputs], run.data.train.labels, [3] * 10)
    assert torch.equal(select_pictures(inputs(run), "balanced"), expected)
    config = replace(run.config, synthesis=replace(run.config.synthesis, init="balanced"))
    start = selection._choose_start(inputs(run, config))
    assert torch.equal(start.pictures[:, 0], expected)


def test_forgetting_is_trained_once_and_kept(run, monkeypatch):
    found = select_pictures(inputs(run), "forgetting")
    path = run.workspace.forgetting("wrn10_1")
    events = load_tensors(path, "forgetting")[0]["events"]
    generator = run.runtime.generator("selection", "forgetting")
    assert torch.equal(found, select_forgetting(events, run.data.train.labels, [3] * 10, generator))
    most = events[found].view(10, 3)
    for label in range(10):
        own = events[run.data.train.labels == label].sort(descending=True).values
        assert torch.equal(most[label], own[:3])

    def record(*_arguments):
        raise AssertionError("nothing is to be trained again")

    monkeypatch.setattr(selection, "record_forgetting", record)
    assert torch.equal(select_pictures(inputs(run), "forgetting"), found)


def test_forgetting_is_recorded_with_the_teacher_s_own_settings(run, monkeypatch):
    seen, record = [], selection.record_forgetting

    def spy(backbone, data, training, *rest):
        seen.append(training)
        record(backbone, data, training, *rest)

    monkeypatch.setattr(selection, "record_forgetting", spy)
    own = {"epochs": 3, "batch_size": 100}
    config = replace(run.config, squeeze=replace(run.config.squeeze, settings_of={"wrn10_1": own}))
    recipes = Recipes(config, run.data.fingerprint, run.runtime.precision)
    select_pictures(replace(inputs(run, config), recipes=recipes), "forgetting")
    (training,) = seen
    assert (training.epochs, training.batch_size) == (3, 100)


def test_draws_are_those_of_the_random_selection_alone(run):
    chosen = inputs(run)
    assert not torch.equal(
        select_pictures(chosen, "random", 0), select_pictures(chosen, "random", 1)
    )
    assert torch.equal(select_pictures(chosen, "herding", 0), select_pictures(chosen, "herding", 1))


def test_features_of_a_teacher_that_is_not_trained(tmp_path):
    fresh = pipeline.Run(as_config(SETTINGS), tmp_path, quiet=True)
    with pytest.raises(ArtifactError, match=r"wrn10_1.*run `gvbsm squeeze "):
        select_pictures(inputs(fresh), "k-center")
    assert len(select_pictures(inputs(fresh), "random")) == 30  # needs none


def test_teachers_of_other_settings_are_refused_by_what_uses_them(run):
    """Else their images and labels would be taken for those of the present settings."""
    synthesis = {"backbones": ["wrn10_1"], "weight_conv": 0.0, "iterations": 1}  # no statistics
    changes = {"squeeze.epochs": 3, "synthesis": synthesis, "labels.backbones": ["convnet8_d1"]}
    later = pipeline.Run(as_config(SETTINGS, changes), run.workdir, quiet=True)
    refused = r"{}.*was made with other settings \(squeeze.epochs: 2 -> 3\); run `gvbsm squeeze "
    with pytest.raises(ArtifactError, match=refused.format("wrn10_1")):
        later.synthesis()
    with pytest.raises(ArtifactError, match=refused.format("convnet8_d1")):
        later.teachers.for_labels(later.config)
    with pytest.raises(ArtifactError, match=refused.format("wrn10_1")):
        select_pictures(inputs(later), "herding")


def test_a_teacher_without_features_is_a_fault_of_the_settings(run):
    headless = torch.nn.Sequential(torch.nn.Flatten())
    with pytest.raises(
        ConfigError, match=r"coreset\.backbone wrn10_1: Sequential has no nn\.Linear"
    ):
        select_pictures(inputs(run, teachers={"wrn10_1": headless}), "herding")


@pytest.mark.parametrize("init", ["herding", "lowest_loss", "crops"])
def test_a_start_is_chosen_once_by_the_right_teachers(run, init, tmp_path):
    synthesis = replace(run.config.synthesis, init=init, backbones=("convnet8_d1",))
    config, asked = replace(run.config, synthesis=synthesis), Asked(run.teachers)

    path, labels = tmp_path / "start.safetensors", run.data.train.labels
    keep_start(inputs(run, config, asked), path, {"toy": 1})
    assert asked.names == ["wrn10_1" if init == "herding" else "convnet8_d1"]
    start = Start(**load_tensors(path, "start")[0])
    assert torch.equal(labels[start.pictures[:, 0]], torch.arange(30) // 3)
    if init == "herding":
        assert torch.equal(start.pictures[:, 0], select_pictures(inputs(run), "herding"))
    if init == "lowest_loss":
        losses = training_losses(run.data, [run.teachers["convnet8_d1"]], run.runtime, 99, 0)
        for label in range(10):
            lowest = losses[labels == label].sort().values[:3]
            assert torch.equal(losses[start.pictures[3 * label : 3 * label + 3, 0]], lowest)
    assert (start.boxes is None) == (init != "crops")
    asked.names.clear()
    keep_start(inputs(run, config, asked), path, {"toy": 1})
    assert asked.names == []  # it is kept


def test_a_file_in_the_place_of_a_start_is_told_before_it_is_chosen(run, tmp_path):
    synthesis = replace(run.config.synthesis, init="herding")
    config, asked = replace(run.config, synthesis=synthesis), Asked(run.teachers)
    claim(tmp_path)
    path = tmp_path / "start.safetensors"
    path.write_bytes(b"of the user")
    with pytest.raises(ArtifactError, match=r"start\.safetensors is in the way"):
        keep_start(inputs(run, config, asked), path, {"toy": 1})
    assert asked.names == []


@pytest.mark.parametrize("init", ["real", "herding", "lowest_loss"])
def test_a_start_of_more_images_than_pictures_uses_them_all_and_again(run, init, tmp_path):
    counts = torch.bincount(run.data.train.labels)
    ipc = int(counts.min()) + 2
    synthesis = replace(run.config.synthesis, init=init)
    config = replace(run.config, ipc=ipc, synthesis=synthesis)
    if init == "real":
        start = draw_start(inputs(run, config), 0)
    else:
        keep_start(inputs(run, config), tmp_path / "start.safetensors", {"toy": 1})
        start = Start(**load_tensors(tmp_path / "start.safetensors", "start")[0])
    labels, smallest = run.data.train.labels, int(counts.argmin())
    assert torch.equal(labels[start.pictures[:, 0]], torch.arange(10 * ipc) // ipc)
    rows = slice(smallest * ipc, (smallest + 1) * ipc)
    members = (labels == smallest).nonzero().flatten()
    assert set(start.pictures[rows, 0].tolist()) == set(members.tolist())
    cut = start.boxes[:, 0, 2] > 0
    assert int(cut[rows].sum()) == 2
    assert int(cut.sum()) == int((ipc - counts).clamp(min=0).sum())


@pytest.mark.parametrize("method", ["random", "herding", "k-center", "balanced", "forgetting"])
def test_a_selection_of_more_images_than_pictures_repeats_them(run, method):
    """Each class gives `ipc` pictures; those of smaller classes come once, and then again."""
    labels, counts = run.data.train.labels, torch.bincount(run.data.train.labels)
    ipc = int(counts.min()) + 2
    pictures = select_pictures(inputs(run, replace(run.config, ipc=ipc)), method)
    assert torch.equal(labels[pictures], torch.arange(10 * ipc) // ipc)
    for label, rows in enumerate(pictures.view(10, ipc)):
        times = torch.bincount(rows, minlength=len(labels))[labels == label]
        assert int(times.max()) == (2 if counts[label] < ipc else 1)
        if counts[label] < ipc:
            assert int(times.min()) == 1
