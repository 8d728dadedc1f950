"""Sets of the baseline curriculum: some of the run's images, and real pictures beside them."""

from dataclasses import replace

import pytest
import torch

from gvbsm import api
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config, for_method
from gvbsm.data.pictures import Split, write_image
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline import run as pipeline
from gvbsm.pipeline.selected_sets import check_curriculum, keep_selected
from gvbsm.pipeline.selection import forgetting_events
from gvbsm.stages.selection.curriculum import FilterTraining
from gvbsm.stages.selection.forgetting import classified_rightly
from gvbsm.store.image_set import ImageSet

SETTINGS = {
    "ipc": 5,
    "data": {"name": "digits"},
    "squeeze": {"backbones": ["convnet8_d1"], "epochs": 2, "views": {"crop": "none"}},
    "synthesis": {"iterations": 1, "init": "real"},
    "labels": {"epochs": 2},
    "evaluation": {"students": ["convnet8_d1"], "seeds": 1, "tests": 1},
    "coreset": {"distilled_share": 0.4, "curricula": 2},
    "baselines": {"methods": ["curriculum-hard", "curriculum-soft"]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = pipeline.Run(as_config(SETTINGS), tmp_path_factory.mktemp("run"), quiet=True)
    return begun(made)


def begun(run):
    run.squeeze()
    run.statistics()
    run.synthesis()
    return run


def set_of(run, name="curriculum"):
    return ImageSet(for_method(run.config, "curriculum-soft"), run.workdir / name)


def kept(run, image_set):
    image_set.images.parent.mkdir(parents=True, exist_ok=True)
    keep_selected(run.context, image_set, run.recipes.images(image_set))
    return load_tensors(image_set.images, "images")[0]


@pytest.fixture
def asked(monkeypatch):
    """Let filters be wrong about every third picture; the sets that they are trained on."""
    sets = []

    def wrong(training, number, task):
        sets.append((number, task.labels.tolist(), task.images))
        return torch.arange(len(training.data.train)) % 3 == number

    monkeypatch.setattr(FilterTraining, "classified_wrong", wrong)
    return sets


def test_the_set_begins_with_the_first_images_of_each_class(run, asked):
    images = kept(run, set_of(run, "first"))
    own = load_tensors(ImageSet(run.config, run.workdir).images, "images")[0]
    assert images["labels"].tolist() == sorted(5 * list(range(10)))
    for label in range(10):
        of_class = images["images"][images["labels"] == label]
        assert torch.equal(of_class[:2], own["images"][own["labels"] == label][:2])


def test_the_others_are_what_the_filter_gets_wrong_and_the_teacher_right(run, asked):
    data, images = run.data, kept(run, set_of(run, "others"))
    events = forgetting_events(run.context)
    known = classified_rightly(run.teachers["convnet8_d1"], data, run.runtime)
    taken = []
    for image, label in zip(images["images"], images["labels"], strict=True):
        same = (data.train.images == image).flatten(1).all(dim=1)
        taken.append((int(label), same.nonzero().flatten().tolist()))
    for label in range(10):
        rows = [found for of, found in taken if of == label][2:]
        for number, (row, count) in enumerate(((rows[:2], 2), (rows[2:], 1))):
            candidates = known & (torch.arange(len(data.train)) % 3 == number)
            least = events[candidates & (data.train.labels == label)].sort().values[:count]
            assert all(any(candidates[index] for index in found) for found in row)
            assert sorted(int(events[found[0]]) for found in row) == least.tolist()


def test_each_filter_is_trained_on_the_set_as_it_is(run, asked):
    images = kept(run, set_of(run, "growing"))["images"].view(10, 5, -1)
    numbers, labels, sets = zip(*asked, strict=True)
    assert numbers == (0, 1)
    assert labels[0] == sorted(2 * list(range(10)))
    assert sorted(labels[1]) == sorted(4 * list(range(10)))
    assert torch.equal(sets[0].flatten(1), images[:, :2].flatten(0, 1))
    assert torch.equal(sets[1][20:].flatten(1), images[:, 2:4].flatten(0, 1))


def test_pictures_on_disk_are_selected_as_those_in_memory_are(run, asked, tmp_path):
    expected = kept(run, set_of(run, "kept"))
    paths = tuple(tmp_path / f"{number}.png" for number in range(len(run.data.train)))
    for path, picture in zip(paths, run.data.train.images, strict=True):
        write_image(path, picture)
    streamed = replace(run.data, train=Split(run.data.train.labels, paths=paths))
    again = pipeline.Run(run.config, run.workdir, quiet=True, data=streamed)
    found = kept(again, set_of(again, "streamed"))
    assert torch.equal(found["labels"], expected["labels"])
    assert torch.equal(found["images"], expected["images"])


def test_a_small_class_gives_its_pictures_again_at_last(run, asked):
    """Class 3 has two pictures for three places: each comes once before one comes again."""
    labels = run.data.train.labels
    two = (labels == 3).nonzero().flatten()[:2]
    rows = torch.cat([(labels != 3).nonzero().flatten(), two])
    train = Split(labels[rows], run.data.train.images[rows])
    fewer = replace(run.data, train=train, fingerprint="fewer")
    small = begun(pipeline.Run(run.config, run.workdir.parent / "small", quiet=True, data=fewer))
    images = kept(small, set_of(small))
    real = images["images"][images["labels"] == 3][2:]
    times = [
        int((real == picture).flatten(1).all(dim=1).sum())
        for picture in train.images[train.labels == 3]
    ]
    assert sorted(times) == [1, 2]


def test_images_of_other_settings_are_not_taken(run, asked):
    changed = replace(run.config, synthesis=replace(run.config.synthesis, iterations=2))
    other = pipeline.Run(changed, run.workdir, quiet=True, data=run.data)
    with pytest.raises(ArtifactError, match="synthesis"):
        kept(other, set_of(other, "stale"))


def test_a_run_evaluates_the_set_with_hard_and_with_soft_labels(tmp_path):
    results = api.run(as_config(SETTINGS), tmp_path, quiet=True)
    rows = {row["method"]: row for row in results["rows"]}
    assert [*rows] == ["gvbsm", "curriculum-hard", "curriculum-soft"]
    assert rows["curriculum-hard"]["label_bytes"] == 0 < rows["curriculum-soft"]["label_bytes"]
    folder = tmp_path / "baselines" / "curriculum" / "synthesis"
    assert [path.name for path in folder.iterdir()] == ["images.safetensors"]
    before = (folder / "images.safetensors").stat().st_mtime_ns
    api.run(as_config(SETTINGS), tmp_path, quiet=True)
    assert (folder / "images.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"method": "curriculum-soft", "baselines": {"methods": []}},
            "cannot be the run's own method: name it in --baselines",
        ),
        ({"ipc": 1}, "curriculum-hard takes 0.4 of a class's images .* raise --ipc"),
    ],
)
def test_what_curriculum_needs_is_checked_beforehand(run, changes, line):
    config = as_config(SETTINGS, changes)
    with pytest.raises(ConfigError, match=line):
        check_curriculum(config, config.baselines.methods, run.data)
    check_curriculum(as_config(SETTINGS), ["curriculum-soft"], run.data)
    check_curriculum(as_config(SETTINGS, {"ipc": 1}), ["random-soft"], run.data)
