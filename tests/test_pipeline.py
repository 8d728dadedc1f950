"""Order of the stages and what each asks for; whole runs are in test_end_to_end.py."""

import pytest
import torch

from gvbsm import pipeline
from gvbsm.artifacts import ArtifactError, load_labels, read_header
from gvbsm.runtime import RunError

SETTINGS = {
    "ipc": 2,
    "data": {"name": "digits"},
    "squeeze": {"backbones": ["convnet8_d1"], "epochs": 1, "views": {"crop": "none"}},
    "synthesis": {"iterations": 3, "batch_size": 10},
    "labels": {"epochs": 3},
    "evaluation": {"students": ["convnet8_d1"], "seeds": 1, "tests": 1},
    "baselines": {"methods": []},
}


@pytest.fixture
def run(tmp_path):
    return pipeline.Run(pipeline.as_config(SETTINGS), tmp_path, quiet=True)


@pytest.mark.parametrize(
    ("stage", "before"),
    [
        ("statistics", "squeeze"),
        ("synthesis", "squeeze"),
        ("labels", "synthesis"),
        ("evaluation", "synthesis"),
    ],
)
def test_stage__says_which_stage_must_come_first(run, stage, before):
    if before == "synthesis":
        run.squeeze()
        run.statistics()
    with pytest.raises(ArtifactError, match=f"run `gvbsm {before} "):
        getattr(run, stage)()


def test_stage__tells_what_differs_if_its_input_was_made_otherwise(run, tmp_path):
    run.squeeze()
    other = {**SETTINGS, "squeeze": {**SETTINGS["squeeze"], "epochs": 2}}
    with pytest.raises(ArtifactError, match=r"squeeze\.epochs: 1 -> 2"):
        pipeline.run_stage("statistics", other, tmp_path, quiet=True)


def test_run__settles_the_epochs_that_its_least_steps_need(tmp_path):
    """20 images make one batch, so 7 steps are 7 epochs; those of 7 epochs are not made again."""
    least = {**SETTINGS, "labels": {"epochs": 3, "min_steps": 7}}
    run = pipeline.Run(pipeline.as_config(least), tmp_path, quiet=True)
    assert run.config.labels.epochs == 7
    for stage in (run.squeeze, run.statistics, run.synthesis, run.labels):
        stage()
    assert load_labels(tmp_path / "labels").epochs == 7
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "labels").iterdir()}
    same = {**SETTINGS, "labels": {"epochs": 7}}
    pipeline.run_stage("labels", same, tmp_path, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "labels").iterdir()} == before


def test_stages__one_by_one_are_the_same_as_run(tmp_path):
    for stage in ("squeeze", "statistics", "synthesis", "labels", "evaluation"):
        pipeline.run_stage(stage, SETTINGS, tmp_path / "steps", quiet=True)
    pipeline.run(SETTINGS, tmp_path / "whole", quiet=True)
    steps, whole = (
        sorted((path.relative_to(root), path.read_bytes()) for path in root.rglob("*.safetensors"))
        for root in (tmp_path / "steps", tmp_path / "whole")
    )
    assert steps == whole


def test_labels__not_stored_gives_the_same_students(tmp_path):
    online = {**SETTINGS, "labels": {**SETTINGS["labels"], "store": False}}
    stored = pipeline.run(SETTINGS, tmp_path / "stored", quiet=True)
    unstored = pipeline.run(online, tmp_path / "online", quiet=True)
    assert not (tmp_path / "online" / "labels").exists()
    assert load_labels(tmp_path / "stored" / "labels").epochs == 3
    assert stored["rows"][0]["top1"] == unstored["rows"][0]["top1"]


def test_random_hard__alone_trains_no_teacher(tmp_path):
    settings = {**SETTINGS, "method": "random-hard", "evaluation": {
        **SETTINGS["evaluation"], "loss": "hard"}}  # fmt: skip
    results = pipeline.run(settings, tmp_path, quiet=True)
    assert [row["method"] for row in results["rows"]] == ["random-hard"]
    assert not (tmp_path / "squeeze").exists()


def test_draws__students_train_on_different_selections(tmp_path):
    settings = {
        **SETTINGS,
        "evaluation": {**SETTINGS["evaluation"], "seeds": 3},
        "baselines": {"methods": ["random-hard"], "draws": 2},
    }
    pipeline.run(settings, tmp_path, quiet=True)
    results = sorted(path.relative_to(tmp_path).as_posix()
                     for path in tmp_path.rglob("random-hard-*.json"))  # fmt: skip
    assert results == [
        "baselines/random-0/evaluation/random-hard-convnet8_d1-0.json",
        "baselines/random-0/evaluation/random-hard-convnet8_d1-2.json",
        "baselines/random-1/evaluation/random-hard-convnet8_d1-1.json",
    ]


def test_images__hold_the_trace_of_the_terms(run, tmp_path):
    run.squeeze()
    run.statistics()
    run.synthesis()
    traces = read_header(tmp_path / "synthesis" / "images.safetensors")["traces"]
    assert [len(trace) for trace in traces] == [3, 3]
    assert set(traces[0][0]) >= {"step", "teacher", "densification", "densification_gradient"}
    assert not list(tmp_path.rglob("group-*"))


def test_diverged_training__is_a_run_error_and_loses_nothing(tmp_path):
    wild = {**SETTINGS, "squeeze": {**SETTINGS["squeeze"], "optimizer": {"lr": 1e30}}}
    with pytest.raises(RunError, match="learning rate"):
        pipeline.run(wild, tmp_path, quiet=True)
    assert torch.is_grad_enabled()
