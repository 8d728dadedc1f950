"""DD-Ranking's configuration, and teachers that answer there as they do here.

Its own package is not needed: what it does is restated from ddranking 0.2.0.
"""

import json
import math
import subprocess
import sys

import pytest
import torch
import torchvision
import yaml
from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.config import (
    ConfigError,
    EvaluationConfig,
    HardPhaseConfig,
    LabelsConfig,
    OptimizerConfig,
    ViewConfig,
)
from gvbsm.config.keys import flat_keys
from gvbsm.engine.optimizers import schedule
from gvbsm.exchange.ddranking import (
    check_scorable,
    configuration,
    inexpressible,
    known_set,
    teacher_name,
    teacher_state,
    write_teachers,
)
from gvbsm.exchange.export import export
from gvbsm.files.artifacts import ArtifactError, write_json
from gvbsm.files.tensors import load_tensors, save
from support.distilled_files import write_images

# What its `get_dataset` normalizes CIFAR with.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def facts_of(dataset="cifar10", classes=10, size=32, mean=MEAN, std=(0.247, 0.2435, 0.2616)):
    return {
        "dataset": dataset,
        "class_names": [str(n) for n in range(classes)],
        "image_size": size,
        "channels": 3,
        "ipc": 2,
        "images": 2 * classes,
        "mean": list(mean),
        "std": list(std),
    }


def their_convnet(depth, classes, size):
    """`utils/networks.py`: ConvNet with instancenorm and avgpooling, width 128."""
    layers, channels = [], 3
    for _ in range(depth):
        layers += [nn.Conv2d(channels, 128, 3, padding=1), nn.GroupNorm(128, 128)]
        layers += [nn.ReLU(inplace=True), nn.AvgPool2d(2, 2)]
        channels = 128
    model = nn.Module()
    model.features = nn.Sequential(*layers)
    model.classifier = nn.Linear(128 * (size // 2**depth) ** 2, classes)
    model.forward = lambda x: model.classifier(model.features(x).flatten(1))
    return model


def their_resnet(classes):
    """`utils/model.py`: torchvision's ResNet-18 with a small stem at 32 and 64 pixels."""
    model = torchvision.models.resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return model


@pytest.mark.parametrize("backbone", ["convnet128", "convnet128_d2", "resnet18"])
def test_a_teacher_answers_there_as_here(backbone):
    """The padded border is the one place where it does not: here it repeats the pixels beside."""
    mean = (0.45, 0.5, 0.55)
    facts = facts_of(mean=mean)
    torch.manual_seed(0)
    ours = build_backbone(backbone, 10, 32).eval()
    depth = 2 if backbone.endswith("d2") else 3
    theirs = (their_resnet(10) if backbone == "resnet18" else their_convnet(depth, 10, 32)).eval()
    for model in (ours, theirs):
        next(m for m in model.modules() if isinstance(m, nn.Conv2d)).padding_mode = "replicate"
    theirs.load_state_dict(teacher_state(backbone, ours.state_dict(), facts))
    pixels = torch.rand(2, 3, 32, 32)
    normal = torchvision.transforms.functional.normalize
    with torch.no_grad():
        here = ours(normal(pixels, mean, facts["std"]))
        there = theirs(normal(pixels, MEAN, STD))
    assert torch.allclose(here, there, atol=2e-4)


def test_names():
    small, large = facts_of(), facts_of("imagenet-1k", 1000, 224)
    found = {name: teacher_name(name, small) for name in ("convnet128", "convnet128_d4", "wrn16_2")}
    assert found == {"convnet128": "ConvNet-3", "convnet128_d4": "ConvNet-4", "wrn16_2": None}
    assert teacher_name("resnet50", small) == "ResNet-50-BN"
    assert teacher_name("torchvision/resnet18", small) is None  # its stem is another at 32 pixels
    assert teacher_name("torchvision/resnet18", large) == "ResNet-18-BN"
    assert teacher_name("resnet18", large) is None
    assert teacher_name("convnet64", small) is None
    assert known_set(facts_of("torchvision/CIFAR10")).name == "CIFAR10"
    for wrong in (facts_of("digits"), facts_of("cifar10", 9)):
        with pytest.raises(ConfigError, match=r"DD-Ranking scores CIFAR10 \(10 classes\).*folder"):
            known_set(wrong)


def test_sets_of_uneven_classes_are_not_scored():
    check_scorable(facts_of())
    with pytest.raises(
        ConfigError, match="this one has 2 to 5 images per class; export --to folder"
    ):
        check_scorable({**facts_of(), "ipc_of": {"a": 5}})


def test_configuration():
    labels = LabelsConfig(epochs=7, views=ViewConfig(crop="pad", padding=3, cutmix=0.5))
    evaluation = EvaluationConfig(gamma=0.1, optimizer=OptimizerConfig(name="adamw", lr=0.002))
    found = configuration(facts_of(), ["ResNet-18-BN"], labels, evaluation)
    assert (found["dataset"], found["num_epochs"], found["ipc"]) == ("CIFAR10", 7, 2)
    assert (found["soft_label_mode"], found["soft_label_criterion"]) == ("M", "mse_gt")
    assert found["loss_fn_kwargs"] == {"mse_weight": 1.0, "ce_weight": 0.1}
    assert (found["lr_scheduler"], found["optimizer"]) == ("cosineannealing", "adamw")
    assert (found["data_aug_func"], found["aug_params"]) == ("cutmix", {"beta": 0.5})
    # every transform is built as `load_transforms_from_yaml` does
    for item in found["custom_train_trans"]:
        arguments = item.get("args", [])
        kind = getattr(torchvision.transforms, item["name"])
        assert kind(**arguments) if isinstance(arguments, dict) else kind(*arguments)
    assert found["custom_train_trans"][-1]["args"] == {"mean": list(MEAN), "std": list(STD)}
    assert yaml.safe_load(yaml.safe_dump(found)) == found
    assert found["custom_train_trans"][0]["args"]["fill"] > 100
    black = LabelsConfig(views=ViewConfig(crop="pad", border="black"))
    assert configuration(facts_of(), [], black, evaluation)["custom_train_trans"][0] == {
        "name": "RandomCrop",
        "args": {"size": 32, "padding": 4, "fill": 0},
    }
    plain = LabelsConfig(views=ViewConfig(crop="resized", flip=False))
    other = configuration(facts_of(), [], plain, EvaluationConfig(loss="kl", temperature=4.0))
    assert other["loss_fn_kwargs"] == {"temperature": 4.0, "scale_loss": False}
    assert (other["data_aug_func"], other["soft_label_criterion"]) == (None, "kl")
    names = [item["name"] for item in other["custom_train_trans"]]
    assert names == ["RandomResizedCrop", "ToTensor", "Normalize"]


@pytest.mark.parametrize(
    ("optimizer", "name", "missing"),
    [
        (OptimizerConfig(), "cosineannealing", []),
        (OptimizerConfig(zeta=2.0), "cosine", []),
        (OptimizerConfig(zeta=1.5), "cosineannealing", ["zeta=1.5"]),
        (OptimizerConfig(schedule="ssrs", zeta=2.0), "step", ["schedule=ssrs", "zeta=2.0"]),
        (OptimizerConfig(schedule="constant"), "step", []),
    ],
)
def test_schedules(optimizer, name, missing):
    evaluation = EvaluationConfig(optimizer=optimizer)
    found = configuration(facts_of(), [], LabelsConfig(epochs=7), evaluation)
    assert found["lr_scheduler"] == name
    settings = inexpressible(LabelsConfig(), evaluation)
    assert settings == [f"evaluation.optimizer.{setting}" for setting in missing]
    theirs = {  # `get_lr_scheduler`, of epochs; "step" is never reached
        "step": lambda _: 1.0,
        "cosine": lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / 7 / 2)),
        "cosineannealing": lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / 7)),
    }[found["lr_scheduler"]]
    same = [schedule(optimizer, n, 7) for n in range(7)] == pytest.approx(
        list(map(theirs, range(7)))
    )
    assert same == (not missing)


def test_an_optimizer_that_it_does_not_know_is_its_nearest():
    evaluation = EvaluationConfig(optimizer=OptimizerConfig(name="muon", lr=0.003))
    found = configuration(facts_of(), [], LabelsConfig(), evaluation)
    assert found["optimizer"] == "adamw"
    assert inexpressible(LabelsConfig(), evaluation) == ["evaluation.optimizer.name=muon"]


UNTOLD = {
    "labels": {
        "views": {"tiles": 2, "roll": 1, "per_sample": False, "shuffle": 2, "mixup": 0.5},
        "logit_normalization": True,
        "temperature": 2.0,
        "weights": {"mine": 2.0},
        "batchnorm": "batch",
    },
    "evaluation": {
        "hard_target": "mixed",
        "micro_batch": 8,
        "lr_of": {"resnet18": 0.5},
        "ema": 0.9,
        "optimizer": {"name": "muon", "schedule": "ssrs", "zeta": 2.0, "warmup": 0.1},
    },
}


def test_settings_without_a_name_there_are_listed():
    assert inexpressible(LabelsConfig(), EvaluationConfig()) == []
    assert (
        inexpressible(LabelsConfig(views=ViewConfig(shuffle=1)), EvaluationConfig(loss="kl")) == []
    )
    for loss in ("hard", "cosine"):
        settings = inexpressible(LabelsConfig(), EvaluationConfig(loss=loss))
        assert settings == [f"evaluation.loss={loss}"]
    phased = EvaluationConfig(hard_phase=HardPhaseConfig(share=0.5))
    assert inexpressible(LabelsConfig(), phased) == ["evaluation.hard_phase.share=0.5"]
    constant = EvaluationConfig(optimizer=OptimizerConfig(schedule="constant"))
    assert inexpressible(LabelsConfig(), constant) == []
    mixed = EvaluationConfig(loss="kl", hard_target="mixed")  # which kl does not read
    assert inexpressible(LabelsConfig(), mixed) == []


def test_batches_are_those_of_the_run():
    few, many = (LabelsConfig(full_batch_up_to=most) for most in (19, 20))  # of 20 images
    evaluation = EvaluationConfig(batch_size=5)
    for labels, size in ((few, 5), (many, 20)):
        assert configuration(facts_of(), [], labels, evaluation)["syn_batch_size"] == size


def test_teachers_lie_where_they_are_looked_for(tmp_path):
    facts, files = facts_of(), {}
    for name in ("convnet128_d2", "wrn10_1"):
        files[name] = tmp_path / f"{name}.safetensors"
        state = build_backbone(name, 10, 32).state_dict()
        header = {"kind": "teacher", "recipe": {}, "class_names": facts["class_names"]}
        save(files[name], state, header)
    assert write_teachers(tmp_path / "t", files, facts) == ["ConvNet-2"]
    found = torch.load(tmp_path / "t" / "CIFAR10" / "ConvNet-2" / "ckpt_best.pt", weights_only=True)
    their_convnet(2, 10, 32).load_state_dict(found)
    with pytest.raises(ArtifactError, match="other classes"):
        write_teachers(tmp_path / "u", files, {**facts, "class_names": ["x"] * 10})


def test_the_export(tmp_path, caplog):
    write_images(tmp_path / "w", ipc=1, classes=10)
    path = tmp_path / "w" / "synthesis" / "images.safetensors"
    tensors, header = load_tensors(path, "images")
    save(path, tensors, {**header, "dataset": "cifar10"})
    out = export(tmp_path / "w", "dd-ranking", tmp_path / "e", quiet=True)
    assert "w holds no teachers, by which DD-Ranking labels" in caplog.text
    assert "none of the teachers' networks" not in caplog.text
    assert "no such settings" not in caplog.text
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["dataset"], config["teacher_model_names"]) == ("CIFAR10", [])
    folder = torchvision.datasets.ImageFolder(out / "images")
    assert [label for _, label in folder.samples] == list(range(10))
    assert json.loads((out / "gvbsm.json").read_text())["form"] == "dd-ranking"
    # a run with all that it has no names for
    batches = {"batch_size": 64, "full_batch_up_to": 100}
    settings = {**UNTOLD, "labels": {**UNTOLD["labels"], **batches}}
    write_json(
        tmp_path / "w" / "results.json",
        {"config": settings, "rows": [], "origin": {"preset": None, "changed": []}},
    )
    caplog.clear()
    export(tmp_path / "w", "dd-ranking", tmp_path / "e", quiet=True, overwrite=True)
    (line,) = [text for text in caplog.messages if "no such settings" in text]
    assert "\n" not in line
    for name in flat_keys(UNTOLD):
        assert f"{name}=" in line, name
    assert "labels.weights={'mine': 2.0}, labels.batchnorm=batch" in line
    command = [sys.executable, "-m", "py_compile", str(out / "score.py")]
    assert subprocess.run(command, check=False).returncode == 0
