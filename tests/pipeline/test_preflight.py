"""What must fail before any long work."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gvbsm.cli import main
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config, build_config
from gvbsm.data.pictures import DataError, Split
from gvbsm.engine.launch import Launch
from gvbsm.engine.processes import Processes
from gvbsm.exchange.train import train
from gvbsm.files.artifacts import ArtifactError, read_json
from gvbsm.pipeline.preflight import (
    check_alike,
    check_continual,
    check_feasible,
    check_owner,
    check_replicas,
    log_small_classes,
)
from gvbsm.store.workdir import Workspace
from support.distilled_files import save_images
from support.picture_files import draw_tree


def config(**settings):
    base = {"squeeze": {"backbones": ["wrn10_1"]}, "evaluation": {"students": ["convnet8_d1"]}}
    return build_config(base | settings)


def test_check_feasible__a_sound_run_passes(data):
    check_feasible(config(ipc=10), data)


@pytest.mark.parametrize("section", ["squeeze", "evaluation"])
def test_check_feasible__an_unknown_backbone_names_the_nearest(data, section):
    key = {"squeeze": "backbones", "evaluation": "students"}[section]
    with pytest.raises(ConfigError, match="resnet18"):
        check_feasible(config(**{section: {key: ["resnt18"]}}), data)


@pytest.mark.parametrize("name", ["torchvision/alexnet", "torchvision/vit_b_16"])
@pytest.mark.parametrize("role", ["teacher", "student", "continual student", "trained alone"])
def test_a_network_that_is_built_but_fails_on_the_pictures_is_refused(role, name, data, tmp_path):
    data = replace(data, image_size=32)

    def begin():
        if role == "teacher":
            check_feasible(config(squeeze={"backbones": ["wrn10_1", name]}), data)
        elif role == "student":
            check_feasible(config(evaluation={"students": [name]}), data)
        elif role == "continual student":
            check_continual(config(continual={"students": [name], "steps": 2}), data)
        else:
            images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
            path = tmp_path / "synthesis" / "images.safetensors"
            save_images(path, "gvbsm", {}, images, torch.arange(4), data)
            train(tmp_path, name, tmp_path / "student.safetensors", quiet=True)

    with pytest.raises(ConfigError) as caught:
        begin()
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{name} cannot be trained on pictures of 32 x 32 pixels (")
    assert ("too small" if "alexnet" in name else "Expected 224 but got 32") in line


ALONE = {"batch_size": 1}
ODD = {"batch_size": 5, "micro_batch": 2}
EVEN = {"batch_size": 4, "micro_batch": 2}


@pytest.mark.parametrize(
    ("teacher", "squeeze", "student", "evaluation", "section"),
    [
        ("wrn10_1", ALONE, "convnet8_d1", {}, "squeeze"),
        ("wrn10_1", ODD, "convnet8_d1", {}, "squeeze"),
        ("convnet8_d1", {}, "wrn10_1", ALONE, "evaluation"),
        ("convnet8_d1", {}, "wrn10_1", ODD, "evaluation"),
        ("convnet8_d1", ALONE, "wrn10_1", {}, "squeeze"),  # as the baseline `full` trains it
        ("convnet8_d1", ALONE, "convnet8_d1", ALONE, None),  # it has no BatchNorm
        ("wrn10_1", EVEN, "wrn10_1", EVEN, None),
    ],
)
def test_check_feasible__batchnorm_of_a_single_pixel(
    teacher, squeeze, student, evaluation, section, data
):
    settings = config(
        ipc=2,
        squeeze={"backbones": [teacher], **squeeze},
        evaluation={"students": [student], **evaluation},
        labels={"full_batch_up_to": 1},
        baselines={"methods": ["full"]},
    )
    train = data.train.select(torch.arange(20))
    data = replace(data, image_size=4, train=train)  # the last map of wrn10_1 has one pixel
    if section is None:
        check_feasible(settings, data)
        return
    words = rf"^{section}\.batch_size and micro_batch leave one picture at once: wrn10_1 .* one by"
    with pytest.raises(ConfigError, match=words) as caught:
        check_feasible(settings, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "table", "value"),
    [
        ("squeeze", "settings_of", {"epochs": 3}),
        ("evaluation", "lr_of", 0.1),
        ("labels", "logit_normalization_of", True),
    ],
)
def test_check_feasible__a_table_of_networks_that_do_not_exist(data, section, table, value):
    who = {
        "squeeze": {"backbones": ["wrn10_1"]},
        "labels": {},
        "evaluation": {"students": ["convnet8_d1"]},
    }
    for name in ("wrn10_l", "timm/resnet18.a1_in2k", "torchvision/resnet19"):
        given = {**who[section], table: {name: value}}
        with pytest.raises(ConfigError, match=rf"^{section}\.{table}: unknown backbone '{name}'"):
            check_feasible(config(**{section: given}), data)
    for name in ("wrn40_9", "timm/resnet18.a1_in1k", "torchvision/resnet18"):  # take no part
        check_feasible(config(**{section: {**who[section], table: {name: value}}}), data)


def test_check_feasible__a_backbone_too_deep_for_the_pictures(data):
    with pytest.raises(ConfigError, match=r"8"):
        check_feasible(config(squeeze={"backbones": ["convnet8_d5"]}), data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet18", "have 1000 classes, the data set 4; .*--squeeze.pretrained false"),
        ("timm/efficientnet_b0", "have 1000 classes, the data set 4"),
        ("wrn10_1", "wrn10_1 has no pretrained weights"),
    ],
)
def test_check_feasible__pretrained_teachers_that_do_not_fit(data, name, message):
    squeeze = {"backbones": [name], "pretrained": True}
    with pytest.raises(ConfigError, match=message):
        check_feasible(config(squeeze=squeeze), data)
    check_feasible(config(squeeze={**squeeze, "pretrained": False}), data)


def test_check_feasible__pretrained_teachers_that_fit(data):
    """Students have no such weights and need none."""
    squeeze = {"backbones": ["torchvision/resnet18", "timm/resnet18"], "pretrained": True}
    names = tuple(map(str, range(1000)))
    settings = config(squeeze=squeeze, baselines={"methods": ["sre2l"]})
    check_feasible(settings, replace(data, class_names=names))


def test_pretrained_teachers_of_other_classes_end_a_run_before_any_work(
    tmp_path, capsys, monkeypatch
):
    """In one line, and without a work directory."""

    def download(*_arguments, **_options):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    root, workdir = draw_tree(tmp_path / "tree"), tmp_path / "w"
    argv = ["run", "imagenet-1k", "--data-root", str(root), "--workdir", str(workdir)]
    assert main([*argv, "--ipc", "1", "--device", "cpu", "--data.workers", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("gvbsm: the pretrained weights of torchvision/resnet18 have 1000 classes")
    assert "the data set 2" in err
    assert not workdir.exists()


def test_check_feasible__ipc_larger_than_a_class(data):
    check_feasible(config(ipc=11), data)
    for init in ("real", "herding", "lowest_loss", "crops"):  # pictures are used again
        check_feasible(config(ipc=11, baselines={"methods": []}, synthesis={"init": init}), data)


def test_check_feasible__a_start_of_tiles_takes_more_crops(data):
    def start(ipc, tiles):
        crops = {"init": "crops", "crop_tiles": tiles}
        return config(ipc=ipc, baselines={"methods": []}, synthesis=crops)

    check_feasible(start(50, 1), data)  # five crops of each of ten pictures
    check_feasible(start(12, 2), data)
    words = r"=crops: 52 crops of class .* \(13 images of 4 crops\), .* 5 of a .* has 10 training"
    with pytest.raises(DataError, match=words):
        check_feasible(start(13, 2), data)
    with pytest.raises(ConfigError, match=r"crop_tiles is 2, which does not divide .* of 9 pixels"):
        check_feasible(start(2, 2), replace(data, image_size=9))


def test_check_feasible__difficulty_groups_need_pictures_and_batchnorm(data):
    def grouped(ipc=10, backbones=("wrn10_1",), **settings):
        synthesis = {"difficulty_groups": True, "loop": "original"}
        squeeze = {"backbones": list(backbones)}
        return config(ipc=ipc, squeeze=squeeze, synthesis=synthesis, **settings)

    check_feasible(grouped(), data)
    check_feasible(grouped(backbones=("convnet8_d1", "wrn10_1")), data)
    few = replace(data.train, labels=torch.tensor([0] * 37 + [1, 2, 3]))
    check_feasible(grouped(), replace(data, train=few))  # some groups of small classes are empty
    with pytest.raises(DataError, match=r"into 11 groups .* more than 10 training pictures; lower"):
        check_feasible(grouped(11), data)
    with pytest.raises(ConfigError, match=r"divides each class .* leave it out, or ipc_of"):
        check_feasible(grouped(ipc_of={"cat": 3}), data)
    with pytest.raises(ConfigError, match=r"none of convnet8_d1 has such layers"):
        check_feasible(grouped(backbones=("convnet8_d1",)), data)
    start = config(squeeze={"backbones": ["convnet8_d1"]}, synthesis={"init": "group_back"})
    with pytest.raises(ConfigError, match=r"none of convnet8_d1 has such layers"):
        check_feasible(start, data)
    uneven = config(ipc=2, ipc_of={"cat": 12}, synthesis={"init": "group_front"})
    check_feasible(uneven, data)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("random-soft", {"labels": {"views": {"shuffle": 3}}}, r"shuffle must divide .* got 3$"),
        ("random-soft", {"labels": {"storage": {"top_k": 9}}}, r"top_k keeps 9 logits"),
        ("random-soft", {"evaluation": {"students": ["convnet8_d5"]}}, r"8"),
        ("random-soft", {"evaluation": {"lr_of": {"resnt18": 1.0}}}, r"lr_of: unknown backbone"),
        (
            "sre2l",
            {"synthesis": {"stages": 2, "stage_sizes": [4, 6]}},
            r"must end with .* \[4, 6\]$",
        ),
        ("sre2l", {"synthesis": {"init": "crops", "crop_tiles": 2}}, r"44 crops of class"),
        ("sre2l", {"synthesis": {"extra": "no.py:term"}}, r"no\.py cannot be read"),
    ],
)
def test_check_feasible__settings_of_a_baseline_alone(data, name, settings, message):
    def of_baseline(methods):
        baselines = {"methods": methods, "overrides": {name: settings}}
        return config(ipc=11, baselines=baselines, continual={"methods": []})

    few = replace(data.train, labels=torch.tensor([0] * 13 + [1] * 13 + [2] * 9 + [3] * 5))
    with pytest.raises(ConfigError, match=rf"^baselines\.overrides\.{name}: .*{message}"):
        check_feasible(of_baseline([name]), replace(data, train=few))
    check_feasible(of_baseline(["herding-soft"]), replace(data, train=few))


def test_check_feasible__a_baseline_alone_starts_by_difficulty(data):
    """It is measured by the teachers of the run, of which one has BatchNorm."""

    def starting(backbones):
        overrides = {"sre2l": {"synthesis": {"init": "group_front"}}}
        baselines = {"methods": ["sre2l"], "overrides": overrides}
        return config(squeeze={"backbones": backbones}, baselines=baselines)

    check_feasible(starting(["convnet8_d1", "wrn10_1"]), data)
    with pytest.raises(ConfigError, match=r"overrides\.sre2l: .* none of convnet8_d1 has such"):
        check_feasible(starting(["convnet8_d1"]), data)


def test_check_feasible__sides_that_images_pass_on_the_way(data):
    def sized(sizes, names=("wrn10_1",), chosen=None):
        synthesis = {"stages": len(sizes), "stage_sizes": sizes, "backbones": chosen}
        return config(ipc=1, squeeze={"backbones": list(names)}, synthesis=synthesis)

    check_feasible(sized([6, 10, 8]), data)
    with pytest.raises(ConfigError, match=r"must end with the pictures' side of 8 .* \[8, 6\]$"):
        check_feasible(sized([8, 6]), data)
    both = ("wrn10_1", "convnet8_d1")
    with pytest.raises(ConfigError, match="convnet8_d1 takes pictures of 8 pixels alone, not of 6"):
        check_feasible(sized([6, 8], both), data)
    check_feasible(sized([8, 8], both), data)
    check_feasible(sized([6, 8], both, ["wrn10_1"]), data)
    larger = replace(data, image_size=224)
    with pytest.raises(ConfigError, match="deit_tiny_patch16_224 takes pictures of 224") as error:
        check_feasible(sized([192, 224], ["timm/deit_tiny_patch16_224"]), larger)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("selection", ["random", "herding", "k-center", "forgetting"])
def test_check_feasible__real_pictures_of_a_class_that_has_none(data, selection):
    """A selection may be larger than a class, but not of nothing."""
    settings = config(ipc=11, baselines={"methods": ["teacher", f"{selection}-soft"]})
    check_feasible(settings, data)
    last = data.train.labels < 3
    split = replace(data.train, labels=data.train.labels[last], images=data.train.images[last])
    message = f"^{selection}-soft: a training picture of each class is needed, but .* has none"
    with pytest.raises(DataError, match=message):
        check_feasible(settings, replace(data, train=split))
    started = config(ipc=1, baselines={"methods": []}, synthesis={"init": "real"})
    with pytest.raises(DataError, match=r"^synthesis\.init=real: a training picture"):
        check_feasible(started, replace(data, train=split))


def test_log_small_classes__one_line_for_each_cause(data, runtime, caplog):
    def logged(ipc, kept):
        caplog.clear()
        split = Split(data.train.labels[kept], data.train.images[kept])
        log_small_classes(config(ipc=ipc), replace(data, train=split), runtime)
        return [record.getMessage() for record in caplog.records]

    everything = torch.ones(len(data.train), dtype=torch.bool)
    assert logged(10, everything) == []
    assert len(logged(11, everything)) == 1
    one_left = (data.train.labels > 0) | (torch.arange(len(data.train)) == 0)
    few, uneven = logged(2, one_left)
    name = data.class_names[0]
    assert few.startswith("1 of 4 classes has fewer")
    assert f"({name!r} has 1 for 2)" in few
    assert uneven.startswith("the classes are uneven")
    assert uneven.endswith(f"{name!r} 1")


NEAREST = {"init": "real", "stages": 2, "residual": 0.5, "residual_source": "nearest"}


@pytest.mark.parametrize(
    ("selection", "synthesis"),
    [("herding", {}), ("k-center", {}), ("balanced", {}), ("random", NEAREST)],
)
def test_check_feasible__a_teacher_without_features(data, selection, synthesis):
    squeeze = {"backbones": ["wrn10_1", "torchvision/squeezenet1_1"]}
    larger = replace(data, image_size=64)

    def settings(backbone, method):
        return config(
            ipc=1,
            squeeze=squeeze,
            coreset={"backbone": backbone},
            baselines={"methods": [method]},
            synthesis=synthesis,
        )

    with pytest.raises(ConfigError, match=r"coreset\.backbone torchvision/squeezenet1_1: .*Linear"):
        check_feasible(settings("torchvision/squeezenet1_1", f"{selection}-hard"), larger)
    check_feasible(settings("wrn10_1", f"{selection}-hard"), larger)
    if not synthesis:
        check_feasible(settings("torchvision/squeezenet1_1", "forgetting-hard"), larger)


def test_check_continual__a_sound_protocol_passes(data):
    check_continual(config(continual={"steps": 4, "students": ["convnet8_d1"]}), data)
    check_continual(config(ipc=1, continual={"steps": 2}), data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"continual": {"steps": 5}}, "steps is 5, but there are 4 classes; take at most 4"),
        ({"continual": {"steps": 4}, "ipc": 1}, "has a single image"),
        ({"continual": {"steps": 2, "students": ["resnt18"]}}, "resnet18"),
        ({"continual": {"steps": 2}, "method": "sre2l", "baselines": {"methods": []}}, "itself"),
    ],
)
def test_check_continual__what_cannot_succeed(data, settings, message):
    with pytest.raises((ConfigError, DataError), match=message):
        check_continual(config(**settings), data)


def test_check_continual__a_selection_of_a_class_without_pictures(data):
    kept = data.train.labels != 2
    split = Split(data.train.labels[kept], data.train.images[kept])
    settings = config(ipc=11, continual={"steps": 2, "methods": ["herding-hard"]})
    check_continual(settings, data)
    with pytest.raises(DataError, match="herding-hard: a training picture of each class"):
        check_continual(settings, replace(data, train=split))


def test_check_continual__a_teacher_without_features(data):
    def settings(method):
        squeeze = {"backbones": ["wrn10_1", "torchvision/squeezenet1_1"]}
        return config(
            ipc=1,
            squeeze=squeeze,
            coreset={"backbone": "torchvision/squeezenet1_1"},
            continual={"steps": 2, "methods": [method]},
        )

    larger = replace(data, image_size=64)
    with pytest.raises(ConfigError, match=r"coreset\.backbone torchvision/squeezenet1_1: .*Linear"):
        check_continual(settings("herding-soft"), larger)
    check_continual(settings("random-soft"), larger)


def test_check_continual__a_class_without_test_pictures(data):
    kept = data.test.labels != 2
    test = replace(data.test, labels=data.test.labels[kept], images=data.test.images[kept])
    with pytest.raises(DataError, match="'cat' has no test pictures"):
        check_continual(config(continual={"steps": 2}), replace(data, test=test))


def test_check_owner__a_work_directory_keeps_to_its_data(data, tmp_path):
    check_owner(tmp_path, data)
    check_owner(tmp_path, data)
    with pytest.raises(ArtifactError, match="other data"):
        check_owner(tmp_path, replace(data, fingerprint="another"))


def test_check_owner__nothing_is_written_beside_another_run(data, tmp_path):
    with (
        Workspace(tmp_path).locked(),
        pytest.raises(ArtifactError, match="another run is at work"),
    ):
        check_owner(tmp_path, data)
    assert not (tmp_path / "data.json").exists()


def test_check_owner__the_crop_of_test_pictures_is_recorded(data, tmp_path):
    cropped = replace(data, test_crop=0.875)
    for _ in range(2):
        check_owner(tmp_path, cropped)
    assert read_json(tmp_path / "data.json")["test_crop"] == 0.875


def test_check_owner__a_file_is_no_work_directory(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="is a file"):
        check_owner(tmp_path / "file", data)
    with pytest.raises(ArtifactError, match=rf"{tmp_path / 'file'} is a file"):
        check_owner(tmp_path / "file" / "below", data)


def test_check_owner__a_place_that_may_not_be_written_to_is_told(data, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path)
    with pytest.raises(ArtifactError, match="cannot be written to; give another --workdir"):
        check_owner(tmp_path / "runs" / "mine", data)
    assert not list(tmp_path.iterdir())


def test_networks_that_are_trained_together__must_have_a_batchnorm_that_can_be(data, runtime):
    settings = {
        "squeeze": {"backbones": ["convnet8_d1"], "parallel": "pictures"},
        "evaluation": {"students": ["timm/efficientnet_b0"], "parallel": "pictures"},
    }
    config = as_config(settings)
    check_replicas(config, data, runtime)  # one process alone trains each as it is
    two = replace(runtime, processes=Processes(Launch(1, 2, 1)))
    with pytest.raises(
        ConfigError, match=r"evaluation\.parallel=pictures: timm/efficientnet_b0: Ba"
    ):
        check_replicas(config, data, two)
    cut = replace(config, squeeze=replace(config.squeeze, parallel="pictures", micro_batch=4))
    check_replicas(cut, data, runtime)
    with pytest.raises(ConfigError, match=r"squeeze\.micro_batch and squeeze\.parallel=pictures"):
        check_replicas(cut, data, two)
    own = {name: {"micro_batch": 4} for name in cut.squeeze.backbones[:1]}
    cut = replace(cut, squeeze=replace(cut.squeeze, micro_batch=None, settings_of=own))
    with pytest.raises(ConfigError, match=r"squeeze\.micro_batch and squeeze\.parallel=pictures"):
        check_replicas(cut, data, two)
    apart = replace(config.evaluation, parallel="networks")
    check_replicas(replace(config, evaluation=apart), data, two)
    whole = replace(config.baselines, methods=("full",))  # it takes the batches of squeeze
    squeeze = replace(config.squeeze, parallel="networks", micro_batch=4)
    cut = replace(config, squeeze=squeeze, baselines=whole)
    with pytest.raises(ConfigError, match=r"squeeze\.micro_batch and evaluation\.parallel=pict"):
        check_replicas(cut, data, two)


def test_settings_of_all_processes__are_compared_without_those_of_a_machine(data, runtime):
    said = []

    class Us(Processes):
        def agree(self, what):
            said.append(what)

    for settings in ({}, {"threads": 3, "data": {"workers": 5}}, {"labels": {"epochs": 9}}):
        check_alike(as_config(settings), data, replace(runtime, processes=Us()))
    assert said[0] == said[1]
    assert {key for key in said[0] if said[0][key] != said[2][key]} == {"labels.epochs"}
    assert said[0]["pictures"] == data.fingerprint


def test_corrupted_sets_of_all_processes__are_compared_by_their_content(data, runtime, tmp_path):
    said = []

    class Us(Processes):
        def agree(self, what):
            said.append(what)

    runtime = replace(runtime, processes=Us())
    for name, level in (("one", 7), ("same", 7), ("other", 8)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "fog.npy", np.full((80, 8, 8, 3), level, np.uint8))
        corruptions = {"kinds": ["fog"], "folder": str(tmp_path / name)}
        check_alike(as_config({"evaluation": {"corruptions": corruptions}}), data, runtime)
    assert said[0] == said[1]
    assert {key for key in said[0] if said[0][key] != said[2][key]} == {"corrupted pictures"}
