"""Presets: all of them build, name what exists, and hold the rows of the paper's tables 7, 8 and 9.

The rows are written out here from the paper, independently of the YAML files.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.config import LabelsConfig, ViewConfig
from gvbsm.config.build import build_config, for_method, squeeze_of, to_dict
from gvbsm.config.keys import merge
from gvbsm.config.preset_files import PRESETS, preset_names, preset_summaries, read_preset
from gvbsm.data.datasets import DATASETS
from gvbsm.data.epochs import settle_epochs
from gvbsm.data.pixels import Normalization
from gvbsm.engine.seeds import seeded
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.stages.distilled_training import fit_student
from gvbsm.store.batches import Labeler, StudentTask

DATA = ["cifar10", "cifar100", "digits", "folder", "imagenet-1k", "npz", "tiny-imagenet"]
DATA += ["webdataset", "hub"]
OWN = ["own"]  # fitted to the pictures and to a time budget
SELECTIONS = ("random", "herding", "k-center", "balanced", "forgetting", "curriculum")
OVERLAYS = ["sre2l", "gvbsm-hard", "gvbsm-unaugmented", "random-unaugmented"]
OVERLAYS += [f"{how}-{labels}" for how in SELECTIONS for labels in ("hard", "soft")]
PROTOCOLS = ["protocol-bps", "protocol-edc", "protocol-paper", "protocol-rd3", "protocol-rded"]
SRE2L = ["sre2l-cifar100", "sre2l-imagenet-1k", "sre2l-tiny-imagenet"]  # its own recipes
REDUCED = ["cheap-teachers", "cifar10-small", "digits-short", "figure10", *PROTOCOLS, *SRE2L]
BEST = {f"{name}-best": name for name in ("cifar10", "cifar100", "digits", "imagenet-1k")}
BEST |= {"tiny-imagenet-best": "tiny-imagenet", "imagenette-best": None}  # which the paper lacks
BEST |= {f"{name}-convnet-best": name for name in ("cifar10", "cifar100")}
MEASURED = ("cifar10-best", "cifar10-convnet-best", "cifar100-convnet-best", "digits-best")
FILES = sorted(PRESETS.glob("*.y*ml"))  # studies: test_studies.py

FIVE = {"resnet18", "convnet128", "mobilenet_v2_x0_5", "wrn16_2", "shufflenet_v2_x0_5"}
FOUR = {
    "torchvision/resnet18",
    "torchvision/mobilenet_v2",
    "torchvision/efficientnet_b0",
    "torchvision/shufflenet_v2_x0_5",
}

# Table -> phase -> setting -> value. "x.crop" is RandomCrop (pad) or RandomResizedCrop (resized).
TABLES = {
    "imagenet-1k": {  # table 7
        "squeeze": {
            "optimizer.name": "sgd",
            "optimizer.lr": 0.1,
            "optimizer.momentum": 0.9,
            "batch_size": 256,
            "epochs": 100,
            "views.crop": "resized",
        },
        "synthesis": {
            "optimizer.name": "adam",
            "optimizer.lr": 0.1,
            "optimizer.betas": (0.5, 0.9),
            "batch_size": 40,
            "iterations": 4000,
            "views.crop": "resized",
            "beta_dr": 0.4,
            "beta_dr_of": {10: 0.0},  # appendix A
        },
        "labels": {
            "batch_size": 1024,
            "epochs": 300,
            "views.crop": "resized",
            "views.cutmix": 1.0,
        },
        "evaluation": {
            "optimizer.name": "adamw",
            "optimizer.lr": 0.001,
            "optimizer.betas": (0.9, 0.999),
            "loss": "mse_gt",
            "gamma": 0.1,
            "batch_size": 1024,
        },
        "statistics": {"n_p": 16},
    },
    "tiny-imagenet": {  # table 8
        "squeeze": {
            "optimizer.name": "sgd",
            "optimizer.lr": 0.1,
            "optimizer.momentum": 0.9,
            "batch_size": 128,
            "epochs": 50,
            "views.crop": "pad",
            "views.flip": True,
        },
        "synthesis": {
            "optimizer.name": "adam",
            "optimizer.lr": 0.05,
            "optimizer.betas": (0.5, 0.9),
            "batch_size": 50,
            "iterations": 4000,
            "views.crop": "resized",
            "beta_dr": 0.4,
        },
        "labels": {
            "batch_size": 128,
            "epochs": 100,
            "views.crop": "resized",
            "views.cutmix": 1.0,
        },
        "evaluation": {
            "optimizer.name": "sgd",
            "optimizer.lr": 0.1,
            "lr_of": {"resnet18": 0.2},
            "optimizer.momentum": 0.9,
            "loss": "mse_gt",
            "gamma": 0.1,
            "batch_size": 128,
            "students": ("resnet18", "resnet50", "resnet101"),
        },
        "statistics": {"n_p": 4},
    },
}
SMALL = {  # table 9, what CIFAR-10 and CIFAR-100 share
    "squeeze": {
        "optimizer.name": "sgd",
        "optimizer.lr": 0.05,
        "optimizer.momentum": 0.9,
        "batch_size": 64,
        "views.crop": "pad",
        "views.flip": True,
    },
    "synthesis": {
        "optimizer.name": "adam",
        "optimizer.lr": 0.05,
        "optimizer.betas": (0.5, 0.9),
        "batch_size": 50,
        "iterations": 4000,
        "views.crop": "resized",
        "beta_dr": 0.4,
    },
    "labels": {
        "batch_size": 64,
        "full_batch_up_to": 100,  # "64 or |S| (|S| <= 100)"
        "epochs": 1000,
        "views.crop": "resized",
        "views.cutmix": 1.0,
    },
    "evaluation": {
        "loss": "mse_gt",
        "gamma": 0.15,
        "batch_size": 64,
        "students": ("convnet128", "resnet18"),
    },
    "statistics": {"n_p": 4},
}
TABLES["cifar10"] = {
    **SMALL,
    "squeeze": {**SMALL["squeeze"], "epochs": 5},
    "evaluation": {
        **SMALL["evaluation"],
        "optimizer.name": "adamw",
        "optimizer.lr": 0.001,
        "optimizer.betas": (0.9, 0.999),
    },
}
TABLES["cifar100"] = {
    **SMALL,
    "squeeze": {**SMALL["squeeze"], "epochs": 50},
    "evaluation": {
        **SMALL["evaluation"],
        "optimizer.name": "sgd",
        "optimizer.lr": 0.1,
        "optimizer.momentum": 0.9,
    },
}
TABLE_7_STUDENTS = {
    "torchvision/resnet18",
    "torchvision/resnet50",
    "torchvision/resnet101",
    "torchvision/mobilenet_v2",
    "timm/swin_tiny_patch4_window7_224",
    "timm/deit_tiny_patch16_224",
}


def value_at(settings, dotted):
    for key in dotted.split("."):
        settings = getattr(settings, key)
    return settings


@cache
def preset(name):
    return build_config(read_preset(name))


def test_all_files_are_found_and_offered():
    assert len(FILES) == 46
    found = sorted(path.stem for path in FILES)
    assert found == preset_names() == sorted([*DATA, *OWN, *OVERLAYS, *REDUCED, *BEST])
    assert all(path.suffix == ".yaml" for path in FILES)


def test_a_preset_says_what_it_is_for_and_whether_it_stands_alone():
    summaries = list(preset_summaries())
    kinds = {"recipe": [*DATA, *OWN, *BEST], "baseline": OVERLAYS, "overlay": REDUCED}
    for kind, names in kinds.items():
        assert {item.name for item in summaries if item.kind == kind} == {*names}
    texts = {item.name: item.text for item in summaries}
    assert texts["folder"].startswith("Your own pictures, one folder per class")
    for text in texts.values():
        assert 20 < len(text) < 200
        assert not re.search(r"gvbsm run|#|[.:]$", text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_opens_with_a_comment_that_holds_its_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    opening = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert opening, "no comment at the top"
    name = path.stem if path.stem in {*DATA, *OWN, *BEST} else rf"[a-z0-9+-]+\+{path.stem}"
    if path.stem.startswith("curriculum"):  # a baseline alone
        name = rf".* --baselines.methods [a-z,-]*{path.stem}"
    assert re.search(rf"^#\s+gvbsm (run|continual) {name}( |$)", "\n".join(opening), re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_short_lined_and_names_no_key_twice(path):
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 110

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    assert isinstance(yaml.load(path.read_text(encoding="utf-8"), Strict), dict)


@pytest.mark.parametrize("name", DATA)
def test_every_data_preset_builds_for_its_data(name):
    config = preset(name)
    assert (config.method, config.data.name) == ("gvbsm", name)
    assert config.data.name in DATASETS
    assert config.data.workers is None  # a number would be of some machine
    assert set(config.baselines.methods) == {"random-hard", "random-soft", "sre2l", "teacher"}


@pytest.mark.parametrize("name", BEST)
def test_best_presets_are_of_the_paper_s_data_and_say_what_was_not_measured(name):
    config = preset(name)
    if BEST[name] is not None:
        paper = preset(BEST[name])
        assert (config.ipc, config.data) == (paper.ipc, paper.data)
        assert {*config.evaluation.students} <= {*paper.evaluation.students}
        assert config.evaluation.seeds == paper.evaluation.seeds
    assert config.data.name in DATASETS
    assert {"random-soft", "teacher"} <= {*config.baselines.methods}
    assert config.synthesis.init != "noise"
    assert config.evaluation.batch_size == config.labels.batch_size
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    assert ("NOT measured here" in text) == (name not in MEASURED)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", DATA)
def test_every_overlay_joins_every_data_preset(name, overlay):
    config = preset(f"{name}+{overlay}")
    base = preset(name)
    assert (config.method, config.baselines.methods) == (overlay, ())
    assert (config.data, config.squeeze, config.ipc) == (base.data, base.squeeze, base.ipc)
    if overlay == "sre2l":
        assert config.synthesis.backbones == config.labels.backbones == base.squeeze.backbones[:1]
        assert name == "digits" or "resnet18" in config.synthesis.backbones[0]
        assert (config.synthesis.loop, config.evaluation.loss) == ("original", "kl")
        assert not config.synthesis.alpha
        assert not config.synthesis.weight_conv
        assert not config.synthesis.weight_densification
        assert config.synthesis.weight_batchnorm
    else:
        assert config.synthesis == base.synthesis
        if overlay.endswith("-unaugmented"):
            assert (config.labels.store, config.labels.backbones) == (False, base.labels.backbones)
            views = config.labels.views
            assert (views.crop, views.flip, views.cutmix, views.mixup) == ("none", False, 0, 0)
        else:
            assert config.labels == base.labels
        assert config.evaluation.loss == ("hard" if overlay.endswith("-hard") else "mse_gt")


FREE = {  # what a protocol leaves to the run
    "evaluation": ("students", "seeds", "tests", "parallel", "seed"),
    "labels": ("backbones", "store", "storage", "seed"),
}
OTHER = {  # a run that differs from the defaults in all that a protocol is about
    "data": {"name": "cifar10"},
    "squeeze": {"backbones": ["resnet18", "convnet128"]},
    "labels": {
        "epochs": 7,
        "min_steps": 900,
        "batch_size": 13,
        "full_batch_up_to": 77,
        "views": {
            "crop": "pad",
            "padding": 3,
            "ratio": [0.9, 1.1],
            "flip": False,
            "roll": 3,
            "mixup": 0.7,
            "shuffle": 4,
            "tiles": 2,
            "per_sample": False,
        },
        "logit_normalization": True,
        "logit_normalization_of": {"resnet18": False},
        "temperature": 3.0,
        "weights": {"resnet18": 2.0},
        "batchnorm": "batch",
    },
    "evaluation": {
        "loss": "hard",
        "gamma": 0.7,
        "temperature": 5.0,
        "hard_target": "mixed",
        "hard_phase": {"share": 0.3, "smoothing": 0.5},
        "batch_size": 13,
        "micro_batch": 5,
        "optimizer": {"name": "muon", "lr": 0.3, "weight_decay": 0.2, "warmup": 0.1, "zeta": 3.0},
        "lr_of": {"resnet18": 0.2},
        "ema": 0.5,
    },
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_judges_sets_of_any_recipe_alike(protocol):
    """All settings of labels and students are its own, but those without effect under it."""
    found = []
    for base in (read_preset("cifar10"), read_preset("cifar10-best"), OTHER):
        config = build_config(merge(base, read_preset(protocol)))
        unread = ("gamma", "hard_target") if config.evaluation.loss == "kl" else ("temperature",)
        free = {**FREE, "evaluation": (*FREE["evaluation"], *unread)}
        settings = {section: to_dict(getattr(config, section)) for section in free}
        for section, names in free.items():
            for name in names:
                del settings[section][name]
        del settings["labels"]["views"]["padding"]  # read with crop=pad
        del settings["evaluation"]["optimizer"]["momentum"]  # read by sgd and muon
        del settings["evaluation"]["hard_phase"]["smoothing"]  # read with a share
        found.append(settings)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("protocol", "labels", "evaluation", "zeta"),
    [
        ("paper", (1000, 64, 0.08, None), ("mse_gt", 64, 0.0), 1),
        ("edc", (300, 100, 0.5, None), ("mse_gt", 100, 0.99), 2),
        ("bps", (500, 16, 0.1, ("resnet18",)), ("kl", 16, 0.0), 2),
        ("rded", (300, 50, 0.5, ("resnet18",)), ("kl", 50, 0.0), 2),
        ("rd3", (400, 50, 0.5, ("resnet18",)), ("kl", 50, 0.0), 1),
    ],
)
def test_a_protocol_has_the_values_of_its_source(protocol, labels, evaluation, zeta):
    config = preset(f"cifar10+protocol-{protocol}")
    section, views = config.labels, config.labels.views
    assert (section.epochs, section.batch_size, views.scale[0], section.backbones) == labels
    assert (views.crop, views.flip, views.cutmix) == ("resized", True, 1.0)
    assert views.shuffle == (2 if protocol == "rded" else 0)
    students = config.evaluation
    assert (students.loss, students.batch_size, students.ema) == evaluation
    assert students.gamma == {"paper": 0.15, "edc": 0.025}.get(protocol, students.gamma)
    assert (students.optimizer.name, students.optimizer.lr) == ("adamw", 0.001)
    assert students.optimizer.zeta == zeta
    assert config.baselines == preset("cifar10").baselines


@pytest.mark.parametrize(
    ("overlay", "teacher", "images", "students"),
    [
        ("sre2l-cifar100", (200, 128, 0.1), (1000, 0.25, 0.01, 4), (400, 128, 30.0, "adamw")),
        ("sre2l-tiny-imagenet", (50, 256, 0.2), (4000, 0.1, 1.0, 4), (100, 256, 20.0, "sgd")),
        ("sre2l-imagenet-1k", None, (4000, 0.25, 0.01, 32), (300, 1024, 20.0, "adamw")),
    ],
)
def test_sre2l_s_own_recipe_has_the_values_of_its_code(overlay, teacher, images, students):
    config = preset(f"{overlay.removeprefix('sre2l-')}+sre2l+{overlay}")
    squeeze, synthesis, evaluation = config.squeeze, config.synthesis, config.evaluation
    (network,) = squeeze.backbones
    assert network.endswith("resnet18")
    assert synthesis.backbones == config.labels.backbones == evaluation.students == (network,)
    if teacher is None:
        assert squeeze.pretrained
    else:
        assert (squeeze.epochs, squeeze.batch_size, squeeze.optimizer.lr) == teacher
    assert (config.method, synthesis.loop, synthesis.init) == ("sre2l", "original", "noise")
    optimizer, views = synthesis.optimizer, synthesis.views
    terms = (synthesis.iterations, optimizer.lr, synthesis.weight_batchnorm, views.roll)
    assert (terms, views.per_sample, synthesis.batch_size) == (images, False, 100)
    assert not synthesis.weight_conv + synthesis.weight_densification + synthesis.alpha
    kind = (evaluation.batch_size, evaluation.temperature, evaluation.optimizer.name)
    assert (config.labels.epochs, *kind) == students
    assert (evaluation.loss, config.labels.batch_size) == ("kl", evaluation.batch_size)


def test_the_reduced_cifar10_is_less_of_the_same_and_says_so():
    text = (PRESETS / "cifar10-small.yaml").read_text(encoding="utf-8")
    assert text.startswith("# REDUCED")
    whole, small = preset("cifar10"), preset("cifar10+cifar10-small")
    assert set(small.squeeze.backbones) == set(whole.squeeze.backbones) - {"resnet18"}
    with torch.device("meta"):  # SRe2L takes the first
        first = build_backbone(small.squeeze.backbones[0], 10, 32)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in first.modules())
    for dotted in ("squeeze.epochs", "synthesis.iterations", "labels.epochs"):
        assert value_at(small, dotted) < value_at(whole, dotted)
    assert (small.ipc, small.data, small.baselines) == (whole.ipc, whole.data, whole.baselines)
    assert small.evaluation.seeds == whole.evaluation.seeds


def test_cheap_teachers_change_who_teaches_and_the_iterations_alone():
    whole, cheap = preset("cifar10-best"), preset("cifar10-best+cheap-teachers")
    assert set(cheap.squeeze.backbones) < set(whole.squeeze.backbones)
    assert cheap.squeeze.epochs < whole.squeeze.epochs
    assert cheap.squeeze.settings_of == {}  # both are trained alike
    assert set(cheap.labels.backbones) < set(cheap.squeeze.backbones)
    labels = replace(
        cheap.labels, backbones=whole.labels.backbones, batchnorm=whole.labels.batchnorm
    )
    synthesis = replace(cheap.synthesis, iterations=whole.synthesis.iterations)
    assert replace(cheap, squeeze=whole.squeeze, labels=labels, synthesis=synthesis) == whole


def test_cheap_teachers_leave_nothing_of_the_strong_ones_at_one_image_per_class():
    one = build_config({**read_preset("cifar10-best+cheap-teachers", 1), "ipc": 1})
    assert one == replace(preset("cifar10-best+cheap-teachers"), ipc=1)


def test_teachers_of_cifar10_best_are_those_that_were_measured():
    squeeze = preset("cifar10-best").squeeze
    teachers = {name: squeeze_of(squeeze, name) for name in squeeze.backbones}
    found = {
        name: (
            t.epochs,
            t.batch_size,
            t.optimizer.lr,
            t.optimizer.momentum,
            t.optimizer.weight_decay,
            t.views.crop,
        )
        for name, t in teachers.items()
    }
    assert found == {  # docs/recipe.md
        "resnet18": (10, 256, 0.01, 0.95, 0.01, "pad"),
        "wrn16_2": (24, 256, 0.01, 0.95, 0.01, "resized"),
        "airbench": (5, 128, 0.01, 0.9, 0.02, "pad"),
        "convnet128": (8, 64, 0.005, 0.95, 0.01, "pad"),
    }
    assert {t.optimizer.name for t in teachers.values()} == {"muon"}


@pytest.mark.parametrize(
    ("name", "section"), [(name, section) for name in sorted(TABLES) for section in TABLES[name]]
)
def test_values_are_the_paper_s(name, section):
    config = getattr(preset(name), section)
    found = {key: value_at(config, key) for key in TABLES[name][section]}
    assert found == TABLES[name][section]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_backbones_loss_weights_and_labels_are_the_paper_s(name):
    config = preset(name)
    assert set(config.squeeze.backbones) == (FOUR if name == "imagenet-1k" else FIVE)
    # the same teachers for synthesis and labels ("The Consistency of Backbone")
    assert config.synthesis.backbones is config.labels.backbones is None
    # appendix A, "The Weights of the Loss Function"
    synthesis = config.synthesis
    assert synthesis.weight_cross_entropy == synthesis.weight_densification == 1.0
    assert synthesis.weight_batchnorm == synthesis.weight_conv == 0.01
    assert (synthesis.loop, synthesis.backbone_order, synthesis.init) == (
        "reorder",
        "uniform",
        "noise",
    )
    assert (synthesis.densification, synthesis.tau) == ("exact", 4.0)
    # labels and students see the same batches
    assert config.labels.batch_size == config.evaluation.batch_size


def test_students_of_imagenet_are_among_table_7_s():
    students = preset("imagenet-1k").evaluation.students
    assert "torchvision/resnet18" in students
    assert set(students) <= TABLE_7_STUDENTS


def test_sre2l_knows_what_its_paper_states():
    evaluation = preset("cifar10+sre2l").evaluation
    assert (evaluation.loss, evaluation.temperature) == ("kl", 20.0)


def test_digits_has_five_students_and_draws():
    config = preset("digits")
    assert (config.evaluation.students, config.evaluation.seeds) == (("convnet128_d2",), 5)
    assert config.baselines.draws == 5
    assert not config.squeeze.views.flip
    assert not config.synthesis.views.flip
    assert not config.labels.views.flip


@pytest.mark.parametrize(("ipc", "epochs"), [(1, 800), (10, 200), (50, 200)])
def test_digits_has_800_steps_at_least(ipc, epochs):
    config = preset("digits")
    labels = settle_epochs(config.labels, 10 * ipc, config.evaluation.batch_size)
    assert (config.labels.min_steps, labels.epochs) == (800, epochs)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet-1k", "tiny-imagenet"])
def test_presets_of_the_paper_have_its_epochs_for_sets_of_any_size(name):
    assert preset(name).labels.min_steps == 0


@pytest.mark.parametrize("name", DATA)
def test_every_named_backbone_exists(name):
    config = preset(name)
    size = DATASETS[name].source.image_size or config.data.image_size or 32
    text = Path(PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    in_comments = re.findall(r"(?:torchvision|timm)/\w+", text)
    named = {*config.squeeze.backbones, *config.evaluation.students, *in_comments}
    assert {*config.evaluation.lr_of} <= {*config.evaluation.students}
    assert {*config.squeeze.settings_of} <= {*config.squeeze.backbones}
    with torch.device("meta"):
        for backbone in sorted(named):
            model = build_backbone(backbone, 10, size, DATASETS[name].source.channels or 3)
            assert next(model.parameters()).is_meta


def test_sre2l_has_its_own_weight_of_the_matching_on_tiny_imagenet_alone():
    """Appendix A: 1.0 there, 0.01 elsewhere."""
    for name in TABLES:
        weight = for_method(preset(name), "sre2l").synthesis.weight_batchnorm
        assert weight == (1.0 if name == "tiny-imagenet" else 0.01), name


# Every loss trains under every preset's own optimizer: no factor of a loss may hide in it


class _Table(Labeler):
    """Soft labels of a toy, an image's whatever its view."""

    def __init__(self, count, size, labels, runtime, logits):
        super().__init__(count, size, labels, runtime, None, [])
        self.table = logits

    def joined(self, epochs):
        count = len(self.table)
        stored = SimpleNamespace(logits=lambda index, _device: self.table[index % count])
        return super().joined(epochs)[0], stored


def _learned(config, lr, runtime, tmp_path):
    """Share of 40 random images of 10 classes that a small student knows after 120 steps."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 4, 4), dtype=torch.uint8, generator=generator)
    classes = torch.arange(10).repeat(4)
    logits = 8 * F.one_hot(classes, 10) + torch.randn(40, 10, generator=generator)
    labels = LabelsConfig(epochs=60, views=ViewConfig(crop="none", flip=False))
    with seeded(0, "toy"):
        student = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
        )
    normalization = Normalization((0.5,) * 3, (0.29,) * 3)
    pictures = normalization.normalize(images)
    task = StudentTask(
        images,
        classes,
        _Table(40, 4, labels, runtime, logits),
        normalization,
        replace(config, batch_size=20, optimizer=replace(config.optimizer, lr=lr)),
        replace(labels, full_batch_up_to=0),
    )
    fit_student(student, task, "toy", None, runtime, Checkpoint(tmp_path / "student", {}, 3600))
    with torch.no_grad():
        return (student.eval()(pictures).argmax(1) == classes).float().mean().item()


@pytest.mark.parametrize("name", [*DATA, *BEST])
def test_every_loss_and_baseline_learns_with_the_optimizer_of_the_preset(name, runtime, tmp_path):
    config = build_config(read_preset(name))
    rivals = [item for item in config.baselines.methods if item != "teacher"]
    settings = [for_method(config, rival).evaluation for rival in rivals]
    settings += [
        replace(config.evaluation, loss=loss) for loss in ("mse_gt", "kl", "cosine", "hard")
    ]
    different = [item for index, item in enumerate(settings) if item not in settings[:index]]
    for number, evaluation in enumerate(different):
        for lr in {evaluation.optimizer.lr, *evaluation.lr_of.values()}:
            share = _learned(evaluation, lr, runtime, tmp_path / f"{number}-{lr}")
            assert share > 0.8, (evaluation.loss, lr)
