"""The plan of a real run beside what the run notes, and what planning leaves alone."""

import json
import sys

import pytest
import torch
from PIL import Image

import gvbsm
from gvbsm.cli import main
from gvbsm.config import ConfigError, DataConfig
from gvbsm.config.build import as_config
from gvbsm.config.fields import replaced
from gvbsm.data.datasets import survey_dataset
from gvbsm.data.epochs import settle
from gvbsm.files.artifacts import read_json
from gvbsm.pipeline.budget import prediction
from gvbsm.pipeline.budget.prediction import Prediction
from gvbsm.pipeline.evaluated_sets import evaluated_sets
from gvbsm.pipeline.planning import planner
from gvbsm.pipeline.planning.process_plan import ProcessPlan
from gvbsm.pipeline.run import Run
from support.workdirs import digests, quick_settings, write_arrays, write_preset


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home without measurements, which the tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


def write_pictures(folder, side):
    """Two classes of five pictures of noise."""
    generator = torch.Generator().manual_seed(0)
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            picture = torch.randint(256, (side, side, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(picture.numpy()).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    settings = quick_settings({"name": "npz", "root": str(write_arrays(folder / "toy.npz"))})
    settings["baselines"]["methods"].append("full")
    settings["baselines"] |= {"draws": 2, "full_epochs": 1}
    settings["checkpoint_seconds"] = 60
    return str(write_preset(folder / "toy.yaml", settings))


@pytest.fixture(scope="module")
def finished(preset, tmp_path_factory):
    """A work directory of a run, which was too short for a plan."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    gvbsm.run(preset, workdir, quiet=True)
    return workdir


@pytest.fixture
def planned(home, preset, tmp_path):
    return gvbsm.plan(preset, tmp_path / "nothing", quiet=True)


def test_plan__has_the_keys_that_a_run_notes(planned, finished):
    noted = read_json(finished / "seconds.json").keys() - {"checksum"}
    keys = {part.key for part in planned.parts}
    assert keys == noted | {"start-up", "report"}
    assert {"forgetting", "labels/random-1", "full/convnet8_d1/1"} < keys
    timed = [part for part in planned.parts if part.group in ("teachers", "students", "labels")]
    assert timed
    assert all(part.seconds > 0 for part in timed)


def test_plan__of_a_finished_run_counts_nothing_and_changes_nothing(home, preset, finished):
    before, listed = digests(finished), sorted(finished.rglob("*"))
    torch.manual_seed(3)
    plan = gvbsm.plan(preset, finished, quiet=True)
    drawn = torch.rand(2)
    assert [part.key for part in plan.parts if not part.is_made] == ["start-up", "report"]
    assert digests(finished) == before
    assert sorted(finished.rglob("*")) == listed
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), drawn)
    more = gvbsm.plan(preset, finished, quiet=True, **{"evaluation.seeds": 3})
    assert more.seconds_of("evaluation/gvbsm/convnet8_d1/2") > 0
    assert more.seconds_of("evaluation/gvbsm/convnet8_d1/1") == 0


def test_plan__of_a_begun_run_knows_a_set_that_is_not_copied_yet(home, preset, finished):
    sets = {"baselines.sets": {"other": "of_another_method.npz"}}
    plan = gvbsm.plan(preset, finished, quiet=True, **sets)
    left = {part.key for part in plan.parts if not part.is_made} - {"start-up", "report"}
    trainings = {f"evaluation/other/convnet8_d1/{seed}" for seed in range(2)}
    assert left == {"synthesis/other", "labels/other", *trainings}


def test_prediction__of_a_budget_is_the_plan_of_its_settings(home, preset, tmp_path, runtime):
    config = as_config(preset)
    predict = Prediction(survey_dataset(config.data), runtime, ProcessPlan(), tmp_path / "w")
    for settings in (config, replaced(config, {"evaluation": {"seeds": 3}})):
        planned = gvbsm.plan(settings, tmp_path / "w", quiet=True)
        assert predict(settings) == pytest.approx(planned.seconds)
    assert planned.seconds > gvbsm.plan(config, tmp_path / "w", quiet=True).seconds


def test_prediction__races_and_times_each_side_once(home, preset, tmp_path, runtime, monkeypatch):
    sides = []

    def in_raced_forms(config, sets, data, runtime, workdir):
        sides.append(data.image_size)
        return runtime

    monkeypatch.setattr(prediction, "in_raced_forms", in_raced_forms)
    config = as_config(preset)
    predict = Prediction(survey_dataset(config.data), runtime, ProcessPlan(), tmp_path / "w")
    for side in (8, 16, 8):
        predict(replaced(config, {"data": {"image_size": side}}))
    assert sides == [8, 16]


class TimedError(Exception):
    """The networks would be timed now."""


def test_prediction__streams_files_where_the_run_does(home, tmp_path, runtime, monkeypatch):
    streamed = []

    def measured_costs(_config, data, _runtime):
        streamed.append(data.train.images is None)
        raise TimedError

    monkeypatch.setattr(prediction, "in_raced_forms", lambda *given: given[3])
    monkeypatch.setattr(prediction, "measured_costs", measured_costs)
    folder = write_pictures(tmp_path / "small", side=8)
    for limit in (2**31, 0):
        monkeypatch.setattr("gvbsm.data.datasets.MEMORY_LIMIT", limit)
        for in_memory in (None, True, False):
            data = {"name": "folder", "root": str(folder), "in_memory": in_memory}
            config = as_config(quick_settings(data))
            listed = survey_dataset(config.data)
            with pytest.raises(TimedError):
                Prediction(listed, runtime, ProcessPlan(), tmp_path / "w")(config)
    assert streamed == [False, False, True, True, False, True]


def test_a_survey_tells_files_apart_so_that_their_times_are_not_taken_for_others(tmp_path):
    marks = [
        survey_dataset(DataConfig(name="folder", root=str(write_pictures(tmp_path / name, side))))
        for name, side in (("small", 8), ("large", 64), ("again", 8))
    ]
    small, large, again = (data.fingerprint for data in marks)
    assert small == again != large
    arrays = DataConfig(name="npz", root=str(write_arrays(tmp_path / "toy.npz")))
    assert survey_dataset(arrays).fingerprint == ""


def test_plan__makes_no_work_directory(planned, tmp_path):
    assert list(tmp_path.iterdir()) == []


def test_run__plans_what_is_left_if_that_is_long(home, preset, finished, monkeypatch):
    run = Run(as_config(preset, {"evaluation.seeds": 3}), finished, quiet=True)
    assert run.plan is None  # short
    monkeypatch.setattr(planner, "is_long", lambda *_: True)
    run = Run(as_config(preset, {"evaluation.seeds": 3}), finished, quiet=True)
    left = {part.key for part in run.plan.parts if not part.is_made and "/" in part.key}
    assert left
    assert all(key.endswith(("/2", "random-2")) for key in left)
    assert run.plan.seconds_of("start-up") == 0


def test_run__goes_on_where_nothing_can_be_timed(home, preset, finished, monkeypatch, caplog):
    def fail(*_arguments):
        raise RuntimeError("a network of one's own")

    monkeypatch.setattr(planner, "is_long", lambda *_: True)
    monkeypatch.setattr(planner, "plan_run", fail)
    assert Run(as_config(preset), finished, quiet=True).plan is None
    assert "the time of the run is not known beforehand: a network of one's own" in caplog.text


def test_run__ends_before_its_teachers_where_the_user_s_loss_term_fails(
    home, preset, tmp_path, monkeypatch
):
    monkeypatch.setattr(planner, "is_long", lambda *_: True)
    file = tmp_path / "term.py"
    file.write_text("def term(state):\n    return state.images.sum()\n")
    config = as_config(preset, {"synthesis.extra": f"{file}:term"})
    with pytest.raises(ConfigError, match="must return a tensor"):
        Run(config, tmp_path / "w", quiet=True).all_stages()
    assert not (tmp_path / "w" / "squeeze").exists()


def test_is_long__by_pictures_and_arithmetic(data, tmp_path):
    def length(epochs):
        settings = {"squeeze": {"backbones": ["wrn10_1"], "epochs": epochs}, "ipc": 1}
        changed = {"labels": {"epochs": 1}, "synthesis": {"iterations": 1}}
        config = settle(as_config({**settings, **changed}), data.class_names)
        return planner.is_long(config, list(evaluated_sets(config, tmp_path)), data, "cpu")

    assert not length(1)
    assert length(10**6)


def test_verb__prints_a_table_or_json(home, preset, capsys, tmp_path):
    command = ["plan", preset, "--workdir", str(tmp_path / "w"), "--quiet"]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "convnet8_d1 on random-hard" in table
    assert "done at:" in table
    assert main([*command, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    if sys.platform == "linux":
        assert "\nmemory: " in table
        peaks = [part["memory"] for part in plan["parts"] if part["memory"] is not None]
        assert plan["memory"] == max(peaks) > 10**7
    assert plan["seconds"] == pytest.approx(
        sum(part["wall_seconds"] for part in plan["parts"]), 0.01
    )
    assert plan["processes"] == 1
    assert main(["plan", preset, "--evaluation.students", "convnetx"]) == 2
    assert "convnetx" in capsys.readouterr().err
