"""Pretrained networks whose weights have more classes than the data, or another order of them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file

from gvbsm.backbones import build_backbone
from gvbsm.backbones.output_names import OutputNames
from gvbsm.backbones.pretrained import Pretrained
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config
from gvbsm.files.network_names import file_stem
from gvbsm.pipeline.preflight import check_feasible
from gvbsm.pipeline.run import Run
from gvbsm.stages.squeeze import squeeze_teacher
from gvbsm.stages.supervised import PictureTraining
from gvbsm.store.teachers import load_teacher, save_teacher
from support.launch import environment
from support.toy import WRN

WNIDS = ("n03888257", "n01440764", "n02102040")  # outputs 701, 0 and 217
OUTPUTS = [701, 0, 217]
SHUFFLE = "torchvision/shufflenet_v2_x0_5"


def logits(model, size=64, channels=3):
    pictures = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(pictures)


def written(name, classes, folder, size=64):
    """A network with drawn weights, and the file of them."""
    torch.manual_seed(5)
    model = build_backbone(name, classes, size)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / f"{file_stem(name)}.safetensors")
    return model


@pytest.mark.parametrize(
    "name",
    [
        SHUFFLE,
        "torchvision/squeezenet1_1",  # classifies by a convolution
        "torchvision/densenet121",
        "timm/tf_efficientnet_lite0",
        "timm/deit_tiny_distilled_patch16_224",  # two classifiers
        "wrn10_1",
    ],
)
def test_the_logits_are_those_of_the_data_s_classes(name, tmp_path):
    whole = written(name, 1000, tmp_path)
    pretrained = Pretrained(name, WNIDS, 64, 3, tmp_path)
    pretrained.check()
    model = pretrained.build()
    torch.testing.assert_close(logits(model), logits(whole)[:, OUTPUTS])
    twin = build_backbone(name, 3, 64)
    twin.load_state_dict(model.state_dict())  # as a teacher's file is read
    assert torch.equal(logits(twin), logits(model))


def test_published_weights_of_torchvision_are_cut(monkeypatch):
    source = torchvision.models.shufflenet_v2_x0_5()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url",
        lambda *_arguments, **_options: source.state_dict(),
    )
    model = Pretrained(SHUFFLE, WNIDS, 64, 3).build()
    torch.testing.assert_close(logits(model), logits(source)[:, OUTPUTS])


def test_published_weights_of_timm_are_cut(monkeypatch):
    create, source = timm.create_model, timm.create_model("resnet10t").eval()

    def offline(name, pretrained, **options):
        model = create(name, pretrained=False, **options)
        if pretrained:
            model.load_state_dict(source.state_dict())
        return model

    monkeypatch.setattr(timm, "create_model", offline)
    model = Pretrained("timm/resnet10t", WNIDS, 64, 3).build()
    torch.testing.assert_close(logits(model), logits(source)[:, OUTPUTS])


def test_as_many_classes_under_other_names_keep_the_outputs_order(tmp_path):
    whole = written("wrn10_1", 4, tmp_path)
    model = Pretrained("wrn10_1", ("a", "b", "c", "d"), 64, 3, tmp_path).build()
    assert torch.equal(logits(model), logits(whole))


@pytest.mark.parametrize(
    ("classes", "fault"),
    [
        (("a", "b", "x", "y"), None),
        (("a", "both", "x", "d"), None),  # may be the second or the third
        (("b", "a", "x", "y"), "'x' and 1 more are not among them"),
        (("both", "a", "c", "d"), "'both' may be b or c"),
    ],
)
def test_other_names_keep_the_outputs_order_unless_a_known_one_says_otherwise(
    classes, fault, tmp_path, monkeypatch
):
    known = OutputNames("its file", ("a", "b", "c", "d"), {"both": (1, 2)})
    monkeypatch.setattr(Pretrained, "_names_with_weights", lambda *_: known)
    whole = written("wrn10_1", 4, tmp_path)
    pretrained = Pretrained("wrn10_1", classes, 64, 3, tmp_path)
    if fault is None:
        assert torch.equal(logits(pretrained.build()), logits(whole))
        return
    with pytest.raises(ValueError, match=fault):
        pretrained.check()


def test_a_list_of_names_orders_and_chooses_the_outputs(tmp_path):
    whole = written("wrn10_1", 4, tmp_path)
    names = tmp_path / "classes.txt"
    names.write_text("d\nc\nb\na\n")
    for classes, outputs in ((("a", "b", "c", "d"), [3, 2, 1, 0]), (("a", "c"), [3, 1])):
        model = Pretrained("wrn10_1", classes, 64, 3, tmp_path, names).build()
        torch.testing.assert_close(logits(model), logits(whole)[:, outputs])
    with pytest.raises(ValueError, match="have 4 classes, the data set 2; 'e' is not among them"):
        Pretrained("wrn10_1", ("a", "e"), 64, 3, tmp_path, names).check()
    with pytest.raises(ValueError, match="have 4 classes, the data set 2; the names of theirs are"):
        Pretrained("wrn10_1", ("a", "c"), 64, 3, tmp_path).check()
    names.write_text("d\nc\nb\n")
    with pytest.raises(ValueError, match=r"names 3 classes, but .* of wrn10_1 have 4"):
        Pretrained("wrn10_1", ("b", "c"), 64, 3, tmp_path, names).check()


def test_weights_that_do_not_fit_are_told_by_their_tensors(tmp_path):
    written("wrn10_1", 4, tmp_path)
    (tmp_path / "wrn10_1.safetensors").rename(tmp_path / "resnet18.safetensors")
    with pytest.raises(ValueError, match=r"resnet18 for 2 classes in .* do not fit.*missing"):
        Pretrained("resnet18", ("a", "b"), 64, 3, tmp_path).check()


EXAMPLE = Path(__file__).parents[2] / "examples" / "convert_weights.py"


def test_the_example_converts_weights_of_other_names_and_normalization(tmp_path):
    """The stem's outputs for a picture that is normalized as each expects it are the same."""
    torch.manual_seed(6)
    source = timm.create_model("tf_efficientnet_lite0", num_classes=5).eval()
    source.bn1.running_mean.normal_()
    state = {f"old.{number}": value for number, value in enumerate(source.state_dict().values())}
    torch.save({"state_dict": state}, tmp_path / "old.pth")
    argv = [str(tmp_path / "old.pth"), "timm/tf_efficientnet_lite0", str(tmp_path / "weights")]
    options = ["--classes", "5", "--mean", "0.5", "0.4", "0.3", "--std", "0.5", "0.6", "0.7"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *argv, *options],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = tuple("abcde")
    model = Pretrained("timm/tf_efficientnet_lite0", names, 64, 3, tmp_path / "weights").build()
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))

    def stem(network, mean, std):
        mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        with torch.no_grad():
            return network.eval().bn1(network.conv_stem((picture - mean) / std))

    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(
        stem(model, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))[inside],
        stem(source, (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))[inside],
    )


# A teacher that gvbsm saved names its classes


def configured(folder, **squeeze):
    given = {"backbones": [WRN], "pretrained": True, "weights_dir": str(folder), **squeeze}
    return as_config({"squeeze": given, "baselines": {"methods": []}})


@pytest.fixture
def folder(teachers, data, tmp_path):
    folder = tmp_path / "weights"
    save_teacher(folder / f"{WRN}.safetensors", teachers[WRN], WRN, data, {}, {"stage": "x"})
    return folder


def some_classes(data, kept):
    """The pictures of some classes alone, numbered in the order of `kept`."""

    def split(whole):
        rows = torch.isin(whole.labels, torch.tensor(kept)).nonzero().flatten()
        chosen = whole.select(rows)
        return replace(chosen, labels=torch.tensor([kept.index(i) for i in chosen.labels.tolist()]))

    names = tuple(data.class_names[index] for index in kept)
    return replace(data, class_names=names, train=split(data.train), test=split(data.test))


@pytest.mark.parametrize("kept", [[2, 0], [3, 2, 1, 0]])
def test_a_teacher_of_more_classes_is_squeezed_to_the_data_s(
    kept, folder, data, teachers, runtime, tmp_path
):
    config, subset = configured(folder).squeeze, some_classes(data, kept)
    path = tmp_path / "teacher.safetensors"
    squeeze_teacher(PictureTraining("squeeze", WRN, config), subset, runtime, path, {"stage": "x"})
    pictures = subset.normalization.normalize(subset.test.images)
    expected = teachers[WRN](pictures)[:, kept]
    torch.testing.assert_close(load_teacher(path, subset, runtime)(pictures), expected)


def test_preflight__names_the_class_that_the_teacher_lacks(folder, data):
    check_feasible(configured(folder), some_classes(data, [1, 3]))
    strangers = replace(some_classes(data, [1, 3]), class_names=("bee", "wasp"))
    with pytest.raises(ConfigError, match=rf"{WRN} have 4 classes, the data set 2; 'wasp' is not"):
        check_feasible(configured(folder), strangers)


def test_recipe__is_that_of_the_names_in_the_list_not_of_its_place(folder, data, tmp_path):
    def recipe(path):
        config = configured(folder, weights_classes=None if path is None else str(path))
        return Run(config, tmp_path / "run", quiet=True, data=data).recipes.teacher(WRN)

    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    first.write_text("ant\nbee\ncat\ndog\n")
    second.write_text("ant\nbee\ncat\ndog")
    assert recipe(first) == recipe(second) != recipe(None)
    second.write_text("bee\nant\ncat\ndog\n")
    assert recipe(first) != recipe(second)
    assert "weights_classes" not in recipe(first)["squeeze"]
