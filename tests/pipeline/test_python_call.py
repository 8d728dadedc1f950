"""`gvbsm.run` as people call it: presets with changes, pictures, networks of their own."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gvbsm
from gvbsm import ConfigError, DataError, api
from gvbsm.config import Config
from gvbsm.config.build import as_config
from gvbsm.config.provenance import UNKNOWN, Origin
from gvbsm.pipeline.budget import choice, mirror
from gvbsm.pipeline.preflight import check_owner

QUICK = {
    "squeeze": {"backbones": ["convnet8_d1"], "epochs": 1, "tests": 1, "views": {"crop": "none"}},
    "synthesis": {"iterations": 2, "batch_size": 10},
    "labels": {"epochs": 2, "min_steps": 0, "views": {"crop": "none"}},
    "evaluation": {"students": ["convnet8_d1"], "seeds": 1, "tests": 1},
    "baselines": {"methods": []},
}
X = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
Y = np.arange(12) % 2


class Net(nn.Module):
    """A network with one convolution."""

    def __init__(self, classes, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(4, classes)

    def forward(self, pictures):
        return self.head(self.conv(pictures).relu().mean((2, 3)))


@pytest.fixture
def called(monkeypatch):
    """Run nothing: the arguments of `Run` that a call leads to."""

    class StopError(Exception):
        pass

    def call(*arguments, **named):
        calls = []

        def stop(*given):
            calls.append(given)
            raise StopError

        monkeypatch.setattr(api, "Run", stop)
        with pytest.raises(StopError):
            gvbsm.run(*arguments, **named)
        return calls[0]

    return call


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["digits"], {"ipc": 2, "synthesis": {"iterations": 7}}),
        (["digits"], {"ipc": 2, "synthesis.iterations": 7}),
        ([{"preset": "digits", "ipc": 2, "synthesis.iterations": 7}], {}),
        ([{"preset": "digits", "ipc": 3}], {"ipc": 2, "synthesis": {"iterations": 7}}),
    ],
)
def test_a_preset_with_changes(called, arguments, named):
    config, workdir, _, data, origin = called(*arguments, **named)
    assert (config.ipc, config.synthesis.iterations, config.synthesis.batch_size) == (2, 7, 50)
    assert (str(workdir), data) == ("runs/digits", None)
    assert origin == Origin("digits", ("ipc", "synthesis.iterations"))


def test_settings_with_changes(called):
    config, workdir, _, _, origin = called(Config(), ipc=1, data={"image_size": 16})
    assert (config.ipc, config.data.name, config.data.image_size) == (1, "digits", 16)
    assert (str(workdir), origin) == ("runs/digits", UNKNOWN)
    assert called({"data": {"name": "cifar10"}})[0].data.name == "cifar10"


def test_pictures_in_settings_keep_their_size(called):
    for given in ({"data": (X, Y)}, {"data": {"train": (X, Y), "test": (X[:4], Y[:4])}}):
        config, workdir, _, data, _ = called({**given, "ipc": 2})
        assert (config.data.name, config.ipc, data.image_size) == ("memory", 2, 8)
        assert str(workdir) == "runs/memory"
    assert len(called({"data": (X, Y), "data.val_fraction": 0.5})[3].test) == 6


def test_pictures_with_a_preset_get_its_size(called):
    config, workdir, _, data, _ = called("folder", data=(X, Y))
    assert (config.data.name, data.image_size, str(workdir)) == ("memory", 64, "runs/folder")


@pytest.mark.parametrize(
    ("arguments", "named", "error", "words"),
    [
        ([], {}, ConfigError, r"name a preset, as in gvbsm\.run\('digits'\), or pass data"),
        (["digits"], {"data": 5}, DataError, r"data is an int: expected \(X, y\)"),
        (["digits"], {"icp": 5}, ConfigError, r"no setting 'icp'; did you mean ipc"),
        ([{"preset": 5}], {}, ConfigError, r"preset must be the name of a preset, found 5"),
        (["digits"], {"evaluation.students": [lambda: 0]}, ConfigError, r"<lambda> of"),
        ([(X, Y)], {}, ConfigError, r"found a tuple; pictures are passed as gvbsm\.run"),
        ([X], {"ipc": 1}, ConfigError, r"found a ndarray; pictures are passed as"),
        ([Path("my.yaml")], {}, ConfigError, r"there is no settings file my\.yaml"),
        ([Path("pictures")], {}, ConfigError, r"no preset 'pictures', and no file or folder"),
        (["my/pictures"], {}, ConfigError, r"there is no file or folder my/pictures"),
        ([], {"data": (X, Y), "budget": 60}, ConfigError, r"a duration such as .*, found 60"),
    ],
)
def test_a_fault_is_one_line(arguments, named, error, words):
    with pytest.raises(error, match=words) as caught:
        gvbsm.run(*arguments, **named)
    assert "\n" not in str(caught.value)


def test_a_whole_run_with_tensors_and_a_class(tmp_path):
    pictures = TensorDataset(torch.from_numpy(X)[:, None].float() / 255, torch.from_numpy(Y))
    settings = {**QUICK, "evaluation": {**QUICK["evaluation"], "students": [Net]}}
    results = gvbsm.run(settings, tmp_path / "w", True, data=pictures, ipc=1)
    assert [row["student"] for row in results["rows"]] == [f"{__name__}:Net"]
    assert gvbsm.load(tmp_path / "w").images.shape == (2, 1, 8, 8)
    assert gvbsm.build_backbone(Net, 2, 8, 1)(torch.zeros(1, 1, 8, 8)).shape == (1, 2)
    history = gvbsm.train(tmp_path / "w", Net, tmp_path / "net.safetensors", quiet=True)
    assert history["model"] == f"{__name__}:Net"
    with pytest.raises(gvbsm.ArtifactError, match="belongs to other data"):
        gvbsm.run(settings, tmp_path / "w", True, data=(255 - X, Y), ipc=1)


def test_tab_completion_lists_the_public_names():
    assert dir(gvbsm) == sorted(gvbsm.__all__)
    assert {"run", "load", "train", "report"} <= set(dir(gvbsm))


@pytest.fixture
def quick_choice(monkeypatch, tmp_path):
    """A folder with pictures in mine.npz, for which settings are chosen in no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mirror, "PASSES", 30)
    monkeypatch.setattr(choice, "Prediction", lambda *_: lambda config: config.labels.epochs)
    np.savez("mine.npz", train_images=X, train_labels=Y, test_images=X, test_labels=Y)


def test_a_path_of_pictures_gets_settings_that_fit_the_budget(called, quick_choice):
    given = {"squeeze.backbones": ["convnet8_d1"], "labels.backbones": ["convnet8_d1"]}
    config, workdir, _, pictures, origin = called("mine.npz", budget="5m", ipc=2, **given)
    assert (config.data.name, config.data.image_size, str(workdir)) == ("npz", 8, "runs/mine")
    assert pictures is None
    assert origin.preset == "own"
    assert (config.ipc, config.squeeze.backbones) == (2, ("convnet8_d1",))
    assert 0.8 * 270 < config.labels.epochs <= 270  # 90 % of the budget, at a second an epoch
    assert called("mine.npz", budget="5m", ipc=2, **given)[0] == config  # kept in runs/mine


def test_pictures_alone_get_settings_that_fit_the_budget(called, quick_choice):
    config, workdir, _, data, origin = called(data=(X, Y), budget="5m", ipc=2)
    assert (config.data.name, config.ipc, config.data.image_size) == ("memory", 2, 8)
    assert (data.image_size, len(data.train), str(workdir)) == (8, 10, "runs/memory")
    assert (origin.preset, config.synthesis.init) == ("own", "herding")
    assert 0.8 * 270 < config.labels.epochs <= 270  # 90 % of the budget, at a second an epoch
    assert called(data=(X, Y), budget="5m", ipc=2)[0] == config  # kept in runs/memory
    kept = Path("runs/memory/settings.yaml")
    assert kept.read_text().startswith('# Run it: gvbsm.run("FILE.yaml", data=(X, y))\n')
    again, workdir, *_ = called(str(kept), "runs/again", data=(X, Y))
    assert (again, str(workdir)) == (config, "runs/again")


def test_a_call_shows_what_it_chooses_and_reads(called, quick_choice, monkeypatch, capsys):
    log = logging.getLogger("gvbsm")
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a program without a log of its own
    monkeypatch.setattr(log, "handlers", [])
    level = log.level
    try:
        called(data=(X, Y + 1), budget="5m", ipc=2)
    finally:
        log.setLevel(level)
    shown = capsys.readouterr().err
    for words in ("flips are ", "of 5 min (effort ", "data memory: 1 channel, 8 px", "(1, 2)"):
        assert words in shown


def test_pictures_alone_have_the_usual_budget(called, quick_choice, monkeypatch):
    monkeypatch.setitem(choice.BUDGETS, "cpu", 200.0)
    assert called(data=(X, Y), ipc=2)[0].labels.epochs <= 180


def test_pictures_alone_are_resized_to_the_side_that_is_chosen(called, quick_choice):
    large = np.random.default_rng(0).integers(0, 256, (12, 80, 80, 3), dtype=np.uint8)
    config, _, _, data, _ = called(data=(large, Y), budget="5m", ipc=2)
    assert config.data.image_size == data.image_size == 32
    config, _, _, data, _ = called(data=(large, Y), budget="5m", ipc=2, **{"data.image_size": 16})
    assert config.data.image_size == data.image_size == 16


def test_settings_of_other_pictures_whose_run_never_began_are_not_taken(called, quick_choice):
    large = np.random.default_rng(0).integers(0, 256, (12, 80, 80, 3), dtype=np.uint8)
    assert called(data=(X, Y), budget="5m", ipc=2)[0].data.image_size == 8
    config, _, _, data, _ = called(data=(large, Y), budget="5m", ipc=2)
    assert config.data.image_size == data.image_size == 32


def test_other_pictures_are_refused_before_settings_are_chosen(called, quick_choice, monkeypatch):
    data = called(data=(X, Y), budget="5m", ipc=2)[3]
    check_owner(Path("runs/memory"), data)  # as the run does that begins
    kept = Path("runs/memory/budget.json").read_text()
    monkeypatch.setattr(choice, "Prediction", None)
    with pytest.raises(gvbsm.ArtifactError, match="runs/memory belongs to other data"):
        gvbsm.run(data=(255 - X, Y), budget="6m", ipc=2)
    assert Path("runs/memory/budget.json").read_text() == kept


def test_a_budget_makes_any_preset_smaller(called, quick_choice):
    for pictures in ({}, {"data": (X, Y), "workdir": "runs/arrays"}):
        config = called("digits", budget="100s", **pictures)[0]
        assert config.labels.epochs <= 90 < as_config("digits").labels.epochs


def test_a_budget_keeps_what_a_mapping_lays_over_its_preset(called, quick_choice):
    given = {"preset": "digits", "squeeze": {"epochs": 7}, "ipc": 2}
    config = called(given, budget="100s")[0]
    assert (config.squeeze.epochs, config.ipc) == (7, 2)
    assert config.labels.epochs <= 90
    assert called({**given, "ipc": 3}, budget="100s")[0].ipc == 3  # in the same work directory


def test_teachers_that_are_given_also_label(called, quick_choice):
    given = {"squeeze.backbones": ["convnet8_d1", "convnet128"]}
    labels = called("mine.npz", budget="5m", ipc=10, **given)[0].labels
    assert (labels.backbones, labels.batchnorm) == (("convnet128",), "running")


def test_a_budget_leaves_the_epochs_that_forgetting_needs(called, quick_choice):
    given = {"baselines.methods": ["forgetting-soft"]}
    config = called("digits", budget="5s", **given)[0]
    assert (config.squeeze.epochs, config.coreset.epochs) == (1, 2)
    longer = called("digits", "runs/longer", budget="5s", **given, **{"coreset.epochs": 5})[0]
    assert longer.coreset.epochs == 5


def test_a_settings_file_may_be_a_path(called, quick_choice):
    Path("my.yaml").write_text("data: {name: digits}\n")
    config, workdir, _, _, origin = called(Path("my.yaml"), ipc=2)
    assert (config.data.name, config.ipc, str(workdir)) == ("digits", 2, "runs/my")
    assert origin == Origin("my.yaml", ("ipc",))


def test_settings_are_chosen_again_when_their_file_has_changed(called, quick_choice):
    file = Path("my.yaml")
    for ipc in (1, 1, 2):
        file.write_text(f"data: {{name: digits}}\nipc: {ipc}\n")
        assert called(str(file), budget="100s")[0].ipc == ipc


@pytest.mark.parametrize("named", [{"data": (X, Y)}, {"data.name": "digits"}])
def test_a_budget_needs_a_preset_or_a_path(named, quick_choice):
    with pytest.raises(ConfigError, match="a budget needs a preset, or the path of a folder"):
        gvbsm.run(named, budget="5m")
