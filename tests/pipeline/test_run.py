"""Order of the stages and what each asks for; whole runs are in test_end_to_end.py."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import gvbsm.store.batches
from gvbsm import api
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config, build_config, for_method
from gvbsm.config.keys import merge
from gvbsm.config.provenance import origin_of
from gvbsm.engine.device import RunError
from gvbsm.exchange.export import export
from gvbsm.exchange.load import load
from gvbsm.exchange.train import train
from gvbsm.files.artifacts import ArtifactError, read_header, read_json
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method.ensemble import label_batch
from gvbsm.pipeline import evaluated_sets
from gvbsm.pipeline import run as pipeline
from gvbsm.pipeline.teachers import Teachers
from gvbsm.stages import statistics
from gvbsm.store.distilled import load_distilled, load_images, load_labels
from gvbsm.store.film import load_film
from gvbsm.store.label_store import is_normalized
from gvbsm.store.soft_labels import SoftLabels
from gvbsm.store.workdir import Workspace
from support.workdirs import digests, quick_settings, write_arrays

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
    return pipeline.Run(as_config(SETTINGS), tmp_path, quiet=True)


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
        api.run_stage("statistics", other, tmp_path, quiet=True)


def test_run__tells_of_changed_results_before_any_training(run, tmp_path):
    run.squeeze()
    run.write_results()
    results = tmp_path / "results.json"
    results.write_text(results.read_text() + "\n")
    with pytest.raises(ArtifactError, match=r"results\.json is in the way: .* changed since"):
        pipeline.Run(as_config(SETTINGS), tmp_path, quiet=True)


def test_run__chooses_its_forms_while_no_other_run_begins(tmp_path, monkeypatch):
    def choose_forms(*_):
        with pytest.raises(ArtifactError, match="another run is at work"):
            pipeline.Run(as_config(SETTINGS), tmp_path, quiet=True)
        return {}

    monkeypatch.setattr(pipeline, "choose_forms", choose_forms)
    pipeline.Run(as_config(SETTINGS), tmp_path, quiet=True)


def test_run__settles_the_settings_of_its_baselines_once(tmp_path, monkeypatch):
    """Whole settings are parsed for each baseline, which takes long."""
    methods = []

    def settle(config, method):
        methods.append(method)
        return for_method(config, method)

    monkeypatch.setattr(evaluated_sets, "for_method", settle)
    settings = {**SETTINGS, "baselines": {"methods": ["random-hard", "random-soft"]}}
    run = pipeline.Run(as_config(settings), tmp_path, quiet=True)
    for _ in range(2):
        run.write_results()
    assert methods == ["random-hard", "random-soft"]


@pytest.mark.parametrize(
    ("config", "folder"),
    [("digits", "runs/digits"), ("some/my.yaml", "runs/my"), (SETTINGS, "runs/digits")],
)
def test_run__without_a_work_directory_takes_the_usual_one(config, folder, monkeypatch):
    class TakenError(Exception):
        pass

    def take(_config, workdir, _quiet, _data, origin):
        assert origin == origin_of(config)
        raise TakenError(workdir.as_posix())

    settings = as_config(SETTINGS)
    monkeypatch.setattr(api, "as_config", lambda *_: settings)
    monkeypatch.setattr(api, "Run", take)
    with pytest.raises(TakenError, match=f"^{folder}$"):
        api.run(config)


def test_run__that_stops_leaves_no_results_of_earlier_images(run, tmp_path, monkeypatch):
    run.all_stages()
    other = as_config(merge(SETTINGS, {"synthesis": {"iterations": 4}}))
    again = pipeline.Run(other, tmp_path, quiet=True)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train_students", stop)
    with pytest.raises(KeyboardInterrupt):
        again.all_stages()
    results = read_json(tmp_path / "results.json")
    assert results["config"]["synthesis"]["iterations"] == 4
    assert results["rows"] == []


def test_run__settles_the_epochs_that_its_least_steps_need(tmp_path):
    """20 images make one batch, so 7 steps are 7 epochs; those of 7 epochs are not made again."""
    least = {**SETTINGS, "labels": {"epochs": 3, "min_steps": 7}}
    run = pipeline.Run(as_config(least), tmp_path, quiet=True)
    assert run.config.labels.epochs == 7
    for stage in (run.squeeze, run.statistics, run.synthesis, run.labels):
        stage()
    assert load_labels(tmp_path / "labels").epochs == 7
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "labels").iterdir()}
    same = {**SETTINGS, "labels": {"epochs": 7}}
    api.run_stage("labels", same, tmp_path, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "labels").iterdir()} == before


def test_squeeze__each_teacher_is_trained_with_its_own_settings(tmp_path):
    own = {"wrn10_1": {"epochs": 2, "batch_size": 100}}
    squeeze = {**SETTINGS["squeeze"], "backbones": ["convnet8_d1", "wrn10_1"]}
    both = {**SETTINGS, "squeeze": {**squeeze, "settings_of": own}}
    run = pipeline.Run(as_config(both), tmp_path / "both", quiet=True)
    run.squeeze()
    headers = {name: read_header(run.workspace.teacher(name)) for name in squeeze["backbones"]}
    assert {name: header["history"]["epochs"][-1] for name, header in headers.items()} == {
        "convnet8_d1": 1,
        "wrn10_1": 2,
    }
    alone = {**SETTINGS, "squeeze": {**squeeze, "backbones": ["wrn10_1"], **own["wrn10_1"]}}
    same = pipeline.Run(as_config(alone), tmp_path / "alone", quiet=True)
    same.squeeze()
    first, second = (
        load_tensors(made.workspace.teacher("wrn10_1"), "teacher")[0] for made in (run, same)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_stages__one_by_one_are_the_same_as_run(tmp_path):
    for stage in ("squeeze", "statistics", "synthesis", "labels", "evaluation"):
        api.run_stage(stage, SETTINGS, tmp_path / "steps", quiet=True)
    api.run(SETTINGS, tmp_path / "whole", quiet=True)
    steps, whole = (
        sorted((path.relative_to(root), path.read_bytes()) for path in root.rglob("*.safetensors"))
        for root in (tmp_path / "steps", tmp_path / "whole")
    )
    real = Path("real.safetensors")  # with the picture, at the end of a run
    assert steps == [entry for entry in whole if entry[0] != real]
    assert real in dict(whole)


def test_picture_and_results__are_written_while_no_other_run_can_begin(tmp_path, monkeypatch):
    written = []

    def write(*arguments):
        written.append(arguments[0])
        with pytest.raises(ArtifactError, match="another run is at work"):
            Workspace(tmp_path).locked().__enter__()

    monkeypatch.setattr(api, "draw_picture", write)
    api.run(SETTINGS, tmp_path, quiet=True)
    monkeypatch.setattr(pipeline, "write_json", write)
    api.run_stage("squeeze", SETTINGS, tmp_path, quiet=True)
    assert written[1:] == [tmp_path / "results.json"]


@pytest.mark.parametrize("seed", [None, 5])
def test_labels__not_stored_gives_the_same_students(seed, tmp_path):
    """Views of the run's seed, or of the labels' own."""
    labels = {**SETTINGS["labels"], "seed": seed}
    api.run({**SETTINGS, "labels": labels}, tmp_path / "stored", quiet=True)
    api.run({**SETTINGS, "labels": {**labels, "store": False}}, tmp_path / "online", quiet=True)
    assert not (tmp_path / "online" / "labels").exists()
    assert load_labels(tmp_path / "stored" / "labels").epochs == 3
    result = "evaluation/gvbsm-convnet8_d1-0.json"
    stored, online = (read_json(tmp_path / run / result) for run in ("stored", "online"))
    assert stored["losses"] == online["losses"]
    assert stored["top1"] == online["top1"]


LABELS = {False: "labels", True: "labels-normalized"}
TWO = {
    **SETTINGS,
    "squeeze": {**SETTINGS["squeeze"], "backbones": ["convnet8_d1", "wrn10_1"]},
    "evaluation": {**SETTINGS["evaluation"], "students": ["convnet8_d1", "wrn10_1"]},
    "baselines": {"methods": ["random-soft"]},
}


def labeled(how, workdir):
    """Run with settings of the labels: each student's result, by method and student."""
    settings = {**TWO, "labels": {**TWO["labels"], **how}}
    found = api.run(settings, workdir, quiet=True)["rows"]
    return {(row["method"], row["student"]): row["top1"]["values"] for row in found}


def test_labels__each_student_learns_from_those_of_its_logit_normalization(tmp_path):
    own = {"logit_normalization": True, "logit_normalization_of": {"wrn10_1": False}}
    both = labeled(own, tmp_path / "both")
    alone = {
        value: labeled({"logit_normalization": value}, tmp_path / str(value))
        for value in (True, False)
    }
    for method, student in both:
        value = student != "wrn10_1"
        assert both[method, student] == alone[value][method, student]
        name = f"evaluation/{method}-{student}-0.json"
        folder = Path() if method == "gvbsm" else Path("baselines/random-0")
        losses = [
            read_json(tmp_path / run / folder / name)["losses"] for run in ("both", str(value))
        ]
        assert losses[0] == losses[1]
    for folder in (Path(), Path("baselines/random-0")):
        for value, labels in ((True, "labels"), (False, "labels-plain")):
            mine = load_labels(tmp_path / "both" / folder / labels)
            theirs = load_labels(tmp_path / str(value) / folder / "labels")
            assert is_normalized(mine) is value
            assert torch.equal(mine.read(1)["logits"], theirs.read(1)["logits"])
    assert labeled({**own, "store": False}, tmp_path / "online") == both
    assert load_distilled(tmp_path / "both", False).soft_labels.directory.name == "labels-plain"
    with pytest.raises(ArtifactError, match="holds no soft labels without logit normalization"):
        load_distilled(tmp_path / "True", False)


def test_labels__export_and_train_take_those_of_the_student_or_those_asked_for(tmp_path):
    labeled({"logit_normalization_of": {"wrn10_1": True}}, workdir := tmp_path / "run")
    stores = {value: load_labels(workdir / name) for value, name in LABELS.items()}
    for form in ("hub", "safetensors"):
        for asked, value in ((None, False), (False, False), (True, True)):
            out = tmp_path / f"{form}-{asked}.safetensors"
            export(workdir, form, out, logit_normalization=asked, quiet=True)
            found = load(out, cache=tmp_path / "cache")
            wanted = stores[value].read(2)["logits"]
            assert torch.equal(found.soft_labels.read(2)["logits"], wanted)
            assert found.header["settings"]["labels"]["logit_normalization"] is value
            with pytest.raises(ArtifactError, match="holds no soft labels with"):
                load(out, tmp_path / "cache", not value)
    for student, value in (("wrn10_1", True), ("convnet8_d1", False), ("convnet16_d1", False)):
        results = [
            train(source, student, tmp_path / f"{student}-{number}.safetensors", quiet=True)
            for number, source in enumerate((workdir, tmp_path / f"hub-{value}.safetensors"))
        ]
        assert results[0]["losses"] == results[1]["losses"]


def test_labels__a_store_that_no_student_needs_is_not_made(tmp_path):
    own = dict.fromkeys(TWO["evaluation"]["students"], True)
    labeled({"logit_normalization_of": own}, tmp_path)
    assert not (tmp_path / "labels").exists()
    assert is_normalized(load_distilled(tmp_path).soft_labels) is True


def test_labels__a_second_store_goes_when_the_table_is_emptied_and_foreign_files_stay(
    tmp_path, caplog
):
    labeled({"logit_normalization_of": {"wrn10_1": True}}, tmp_path)
    one = {**TWO, "labels": {**TWO["labels"], "logit_normalization_of": {"wrn10_1": True}}}
    one["evaluation"] = {**TWO["evaluation"], "students": ["convnet8_d1"]}
    api.run(one, tmp_path, quiet=True)  # the table still names the store
    second = tmp_path / "labels-normalized"
    shards = sorted(second.glob("shard-*"))
    assert load_labels(second).missing() == []
    changed = shards[0].read_bytes() + b" "
    shards[0].write_bytes(changed)  # it is no longer what gvbsm wrote
    first = {path: path.read_bytes() for path in (tmp_path / "labels").iterdir()}
    caplog.set_level("INFO", "gvbsm")
    labeled({}, tmp_path)
    assert [path.name for path in second.iterdir()] == [shards[0].name]
    assert shards[0].read_bytes() == changed
    assert not (tmp_path / "baselines" / "random-0" / "labels-normalized").exists()
    assert {path: path.read_bytes() for path in (tmp_path / "labels").iterdir()} == first
    removed = [line for line in caplog.messages if "which no setting names" in line]
    assert [line.partition(":")[0] for line in removed] == ["labels gvbsm", "labels random-soft"]
    before = len(caplog.messages)
    labeled({}, tmp_path)
    assert "which no setting names" not in " ".join(caplog.messages[before:])


def test_labels__of_two_kinds_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    own = {"logit_normalization_of": {"wrn10_1": True}}
    write, done = SoftLabels.write, []

    def write_one(store, *args):
        if done:
            raise KeyboardInterrupt
        write(store, *args)
        done.append(store.directory)

    labeled(own, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(SoftLabels, "write", write_one)
        with pytest.raises(KeyboardInterrupt):
            labeled(own, tmp_path / "stopped")
    assert [path.name for path in done] == ["labels"]
    labeled(own, tmp_path / "stopped")
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    "how",
    [{}, {"batchnorm": "batch", "weights": {"wrn10_1": 3.0}}],
    ids=["running", "batch"],
)
def test_a_small_set_in_small_batches_learns_from_stored_labels_as_from_online_ones(
    how, tmp_path, monkeypatch
):
    """Ten images in batches of five; of one work directory, so that the teachers are the same."""
    settings = merge(
        SETTINGS,
        {
            "ipc": 1,
            "method": "random-soft",
            "squeeze": {"backbones": ["wrn10_1", "convnet8_d1"]},
            "labels": {"batch_size": 5, "full_batch_up_to": 0, **how},
            "evaluation": {"batch_size": 5},
        },
    )
    sizes, seen = [], gvbsm.store.batches.view_batch

    def view_batch(images, plan, index, *rest):
        sizes.append(len(index))
        return seen(images, plan, index, *rest)

    monkeypatch.setattr(gvbsm.store.batches, "view_batch", view_batch)
    found = []
    for store in (True, False):
        api.run(merge(settings, {"labels": {"store": store}}), tmp_path, quiet=True)
        assert (tmp_path / "labels").exists() == store
        result = tmp_path / "evaluation" / "random-soft-convnet8_d1-0.json"
        found.append(result.read_bytes())
        if store:
            assert load_labels(tmp_path / "labels").batch == 5
            result.unlink()
            shutil.rmtree(tmp_path / "labels")
    assert found[0] == found[1]
    assert sizes == 2 * [30]  # two trainings; the batches of their three epochs at once


def test_out_of_memory__a_batch_is_cut_unless_batchnorm_goes_by_it(tmp_path, monkeypatch):
    class Small(nn.Module):
        def forward(self, pictures):
            if len(pictures) > 2:
                raise torch.OutOfMemoryError
            return pictures.flatten(1)[:, :10]

    monkeypatch.setattr(Teachers, "__getitem__", lambda *_: Small())
    pictures = torch.rand(4, 1, 8, 8)
    for how in ("running", "batch"):
        settings = build_config(merge(SETTINGS, {"labels": {"batchnorm": how}}))
        run = pipeline.Run(settings, tmp_path, quiet=True)
        teachers = run.teachers.for_labels(settings)
        if how == "running":
            found = label_batch(pictures, teachers, settings.labels, run.runtime)
            assert torch.equal(found, pictures.flatten(1)[:, :10].half())
        else:
            with pytest.raises(RunError, match=r"labels\.batchnorm=batch needs all views"):
                label_batch(pictures, teachers, settings.labels, run.runtime)


def test_labels__are_converted_when_only_their_storage_changes(tmp_path, monkeypatch):
    """Without teachers, to the store that is made directly, and so to the same students."""
    api.run(SETTINGS, tmp_path / "converted", quiet=True)
    packed = merge(SETTINGS, {"labels": {"storage": {"pruning": 3.0, "top_k": 2, "bits": 8}}})
    direct = api.run(packed, tmp_path / "direct", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Teachers, "for_labels", None)
        api.run_stage("labels", packed, tmp_path / "converted", quiet=True)
    made, converted = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "labels").iterdir()}
        for name in ("direct", "converted")
    )
    assert made == converted
    results = api.run(packed, tmp_path / "converted", quiet=True)
    assert results["rows"][0]["top1"] == direct["rows"][0]["top1"]
    with pytest.raises(ArtifactError, match="cannot be converted: they hold 1 of 3 epochs"):
        api.run_stage("labels", SETTINGS, tmp_path / "direct", quiet=True, convert_only=True)
    shard = next((tmp_path / "direct" / "labels").glob("shard-*"))
    shard.unlink()
    with pytest.raises(ArtifactError, match="run `gvbsm labels"):
        api.run_stage("evaluation", packed, tmp_path / "direct", quiet=True)
    api.run_stage("labels", packed, tmp_path / "direct", quiet=True)
    assert shard.read_bytes() == converted[shard.name]


def test_top_k_must_leave_some_classes_out(tmp_path):
    settings = merge(SETTINGS, {"labels": {"storage": {"top_k": 10}}})
    with pytest.raises(ConfigError, match=r"top_k keeps 10 logits.* there are 10 classes"):
        pipeline.Run(build_config(settings), tmp_path, quiet=True)


def test_random_hard__alone_trains_no_teacher(tmp_path):
    evaluation = {**SETTINGS["evaluation"], "loss": "hard"}
    settings = {**SETTINGS, "method": "random-hard", "evaluation": evaluation}
    results = api.run(settings, tmp_path, quiet=True)
    assert [row["method"] for row in results["rows"]] == ["random-hard"]
    assert not (tmp_path / "squeeze").exists()


def test_gvbsm_hard__trains_on_the_run_s_own_images_with_hard_labels_alone(tmp_path):
    """The same as a run whose own students get the hard labels; nothing is synthesized twice."""
    both = {**SETTINGS, "baselines": {"methods": ["random-hard", "gvbsm-hard"]}}
    rows = {row["method"]: row for row in api.run(both, tmp_path / "both", quiet=True)["rows"]}
    assert list(rows) == ["gvbsm", "random-hard", "gvbsm-hard"]
    evaluation = {**SETTINGS["evaluation"], "loss": "hard", "hard_target": "mixed"}
    hard = {**SETTINGS, "evaluation": evaluation}
    (row,) = api.run(hard, tmp_path / "hard", quiet=True)["rows"]
    files = [tmp_path / name / "evaluation" for name in ("both", "hard")]
    trained = read_json(files[0] / "gvbsm-hard-convnet8_d1-0.json")
    assert trained == read_json(files[1] / "gvbsm-convnet8_d1-0.json")
    assert trained["losses"] != read_json(files[0] / "gvbsm-convnet8_d1-0.json")["losses"]
    assert rows["gvbsm-hard"]["top1"] == row["top1"]
    assert {row["image_bytes"] for row in rows.values()} == {20 * 8 * 8}
    labels = load_labels(tmp_path / "both" / "labels").nbytes()
    assert [row["label_bytes"] for row in rows.values()] == [labels, 0, 0]
    assert [path.name for path in (tmp_path / "both" / "baselines").iterdir()] == ["random-0"]


@pytest.mark.parametrize("source", ["gvbsm", "random"])
def test_unaugmented_rows__have_the_labels_of_the_images_as_they_are(tmp_path, source):
    """The same as a run whose own images get such labels; no label is stored."""
    method = f"{source}-unaugmented"
    rows = {
        row["method"]: row
        for row in api.run(
            {**SETTINGS, "baselines": {"methods": [method]}}, tmp_path / "both", quiet=True
        )["rows"]
    }
    assert list(rows) == ["gvbsm", method]
    still = {"crop": "none", "flip": False, "cutmix": 0.0, "shuffle": 0, "roll": 0, "mixup": 0.0}
    labels = {**SETTINGS["labels"], "store": False, "views": still}
    own = "gvbsm" if source == "gvbsm" else "random-soft"
    alone = {**SETTINGS, "method": own, "labels": labels}
    (row,) = api.run(alone, tmp_path / "alone", quiet=True)["rows"]
    assert rows[method]["top1"] == row["top1"]
    assert rows[method]["label_bytes"] is None
    folder = tmp_path / "both" / ("" if source == "gvbsm" else "baselines/random-0")
    assert (folder / "labels").exists() == (source == "gvbsm")  # those of gvbsm's own students


def test_gvbsm_hard__alone_makes_the_images_and_no_soft_label(tmp_path):
    settings = for_method(as_config(SETTINGS), "gvbsm-hard")
    assert [row["method"] for row in api.run(settings, tmp_path, quiet=True)["rows"]] == [
        "gvbsm-hard"
    ]
    images = read_header(tmp_path / "synthesis" / "images.safetensors")
    assert images["method"] == images["recipe"]["method"] == "gvbsm"
    assert not (tmp_path / "labels").exists()


SELECTED = [
    f"{how}-{kind}"
    for how in ("random", "herding", "k-center", "forgetting")
    for kind in ("hard", "soft")
]


def test_selections__a_row_each_and_one_set_of_pictures_for_both_kinds_of_labels(tmp_path):
    settings = {
        **SETTINGS,
        "evaluation": {**SETTINGS["evaluation"], "seeds": 2},
        "coreset": {"epochs": 2},
        "baselines": {"methods": SELECTED, "draws": 2},
    }
    results = api.run(settings, tmp_path, quiet=True)
    assert [row["method"] for row in results["rows"]] == ["gvbsm", *SELECTED]
    assert all(len(row["top1"]["values"]) == 2 for row in results["rows"])
    files = sorted(tmp_path.glob("baselines/*/synthesis/images.safetensors"))
    folders = [path.parts[-3] for path in files]
    assert folders == ["forgetting", "herding", "k-center", "random-0", "random-1"]
    images = [load_images(path).images for path in files]
    for position, one in enumerate(images):
        assert one.shape == (20, 1, 8, 8)
        assert not any(torch.equal(one, other) for other in images[:position])
    assert [read_header(path)["method"] for path in files[:3]] == folders[:3]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    api.run(settings, tmp_path, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before


def test_forgetting_hard__alone_trains_one_network_and_no_teacher(tmp_path):
    settings = as_config({**SETTINGS, "coreset": {"epochs": 2}})
    results = api.run(for_method(settings, "forgetting-hard"), tmp_path, quiet=True)
    assert [row["method"] for row in results["rows"]] == ["forgetting-hard"]
    assert not (tmp_path / "squeeze").exists()
    names = [path.name for path in (tmp_path / "forgetting").iterdir()]
    assert names == ["convnet8_d1.safetensors"]


def test_herding__names_the_stage_that_must_come_first(tmp_path):
    settings = for_method(as_config(SETTINGS), "herding-hard")
    with pytest.raises(ArtifactError, match="run `gvbsm squeeze "):
        api.run_stage("synthesis", settings, tmp_path, quiet=True)


def test_draws__students_train_on_different_selections(tmp_path):
    settings = {
        **SETTINGS,
        "evaluation": {**SETTINGS["evaluation"], "seeds": 3},
        "baselines": {"methods": ["random-hard"], "draws": 2},
    }
    api.run(settings, tmp_path, quiet=True)
    files = tmp_path.rglob("random-hard-*.json")
    results = sorted(path.relative_to(tmp_path).as_posix() for path in files)
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


def test_images__their_work_files_go_also_after_a_kill_at_the_end(run, tmp_path):
    run.squeeze()
    run.statistics()
    run.synthesis()
    folder = tmp_path / "synthesis"
    finished = ["film.safetensors", "images.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == finished
    header = read_header(folder / "images.safetensors")
    group = {"kind": "group", "recipe": header["recipe"], "trace": [], "checksums": []}
    other = {**group, "recipe": {"ipc": 99}}
    save(folder / "group-00000.safetensors", {}, other)  # other settings, to go on with
    run.synthesis()
    assert len(list(folder.iterdir())) == 3
    save(folder / "group-00001.safetensors", {}, group)
    run.synthesis()
    assert sorted(path.name for path in folder.iterdir()) == finished


def test_statistics__their_chunks_go_also_after_a_kill_at_the_end(run, tmp_path, monkeypatch):
    def kill(_):
        raise KeyboardInterrupt

    run.squeeze()
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "remove_all", kill)
        with pytest.raises(KeyboardInterrupt):
            run.statistics()
    folder, other = tmp_path / "statistics", "chunk-00099.partial.safetensors"
    assert list(folder.glob("chunk-*"))
    recipe = {"recipe": {"of": [{"seed": 99}]}}
    save(folder / other, {}, {"kind": "chunk", "recipe": recipe})  # other settings, to go on with
    run.statistics()
    assert [path.name for path in folder.glob("chunk-*")] == [other]


def test_images__lie_beside_their_film(run, tmp_path):
    run.squeeze()
    run.statistics()
    run.synthesis()
    film, images = load_film(tmp_path), load_distilled(tmp_path).images
    assert film.labels.tolist() == list(range(10))
    assert film.steps.tolist() == [0, 1, 2, 3]
    assert torch.equal(film.frames[:, -1], images[::2])
    api.run_stage("synthesis", {**SETTINGS, "method": "random-hard"}, tmp_path, quiet=True)
    assert load_film(tmp_path) is None  # the selected pictures were not formed


def test_diverged_training__is_a_run_error_and_loses_nothing(tmp_path):
    wild = {**SETTINGS, "squeeze": {**SETTINGS["squeeze"], "optimizer": {"lr": 1e30}}}
    with pytest.raises(RunError, match="learning rate"):
        api.run(wild, tmp_path, quiet=True)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("loss", ["mse_gt", "hard"])
def test_seeds__each_stage_draws_from_its_own_and_from_no_other(tmp_path, loss):
    """What another run's seed would have drawn is drawn from a section's of the same value."""
    arrays = {"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))}
    base = quick_settings(arrays, baselines={"methods": []})
    base["synthesis"] |= {"init": "real", "iterations": 2}
    base["labels"]["epochs"] = 3
    base["evaluation"] |= {"loss": loss, "seeds": 1}

    def files(name, changes):
        run = pipeline.Run(as_config(merge(base, changes)), tmp_path / name, quiet=True)
        run.all_stages()
        return {file: digest for file, digest in digests(tmp_path / name).items() if "/" in file}

    later = {section: {"seed": 1} for section in ("synthesis", "labels", "evaluation")}
    plain, first = files("plain", {}), files("first", later)
    assert files("second", {"seed": 1, "squeeze": {"seed": 0}}) == first
    differ = {name.partition("/")[0] for name in plain if plain[name] != first[name]}
    stored = {"labels"} if loss != "hard" else set()
    assert differ == {"synthesis", "evaluation", *stored}
    last = files("last", {"evaluation": {"seed": 1}})
    assert {name.partition("/")[0] for name in plain if plain[name] != last[name]} == {"evaluation"}


def test_seeds__a_baseline_draws_from_its_own(tmp_path):
    """What a run of these seeds would have drawn for it."""
    arrays = {"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))}
    base = quick_settings(arrays, baselines={"methods": ["sre2l"]})
    base["synthesis"]["iterations"] = 2
    base["labels"]["epochs"] = 3
    base["evaluation"]["seeds"] = 1

    def files(name, changes):
        run = pipeline.Run(as_config(merge(base, changes)), tmp_path / name, quiet=True)
        run.all_stages()
        found = digests(tmp_path / name).items()
        return {file: digest for file, digest in found if file.startswith("baselines/sre2l/")}

    seeds = {section: {"seed": 1} for section in ("synthesis", "labels", "evaluation")}
    of_baseline = files("baseline", {"baselines": {"overrides": {"sre2l": seeds}}})
    assert of_baseline
    assert of_baseline == files("all", seeds)


@pytest.mark.parametrize("init", ["lowest_loss", "crops"])
def test_synthesis__starts_from_chosen_pictures(tmp_path, init):
    """Without steps of any size the images are the start, by teachers that are loaded for it."""
    arrays = {"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))}
    settings = quick_settings(arrays, baselines={"methods": []})
    settings["synthesis"] |= {"init": init, "iterations": 1, "optimizer": {"lr": 1e-9}}
    run = pipeline.Run(as_config(settings), tmp_path / "w", quiet=True)
    run.squeeze()
    run.statistics()
    run.synthesis()
    made = load_distilled(tmp_path / "w").images
    if init == "lowest_loss":
        real = run.data.train.images
        for image, label in zip(made, torch.arange(len(made)) // run.config.ipc, strict=True):
            same = (real == image).flatten(1).all(dim=1)
            assert label in run.data.train.labels[same]
    assert len(made.unique(dim=0)) == len(made)
    assert not list((tmp_path / "w" / "synthesis").glob("start*"))


@pytest.mark.parametrize("conv", [0.01, 0.0])
def test_synthesis__all_that_is_beyond_the_paper_at_once(tmp_path, conv):
    """Statistics by class are recorded where they are asked for, without convolutions too."""
    arrays = {"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))}
    settings = quick_settings(arrays, baselines={"methods": []})
    settings["synthesis"] |= {
        "init": "real",
        "iterations": 4,
        "stages": 2,
        "residual": 0.5,
        "residual_source": "nearest",
        "weight_class": 0.5,
        "weight_flatness": 0.25,
        "weight_absorption": 0.5,
        "weight_conv": conv,
    }
    run = pipeline.Run(as_config(settings), tmp_path / "w", quiet=True)
    run.squeeze()
    run.statistics()
    run.synthesis()
    traces = read_header(tmp_path / "w" / "synthesis" / "images.safetensors")["traces"]
    assert all("flatness" in row for trace in traces for row in trace)
    tensors = [
        load_tensors(path, "statistics")[0]
        for path in (tmp_path / "w" / "statistics").glob("*.safetensors")
    ]
    assert all(any("/class_channel/" in key for key in found) for found in tensors)
    again = as_config(merge(settings, {"synthesis": {"weight_class": 0.25}}))
    fresh = pipeline.Run(again, tmp_path / "w", quiet=True)
    fresh.synthesis()  # another weight takes the same statistics
