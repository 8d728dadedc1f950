"""The exported script trains without gvbsm, on the batches that the loader gives."""

import ast
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gvbsm.config import LabelsConfig, LabelStorageConfig, ViewConfig
from gvbsm.exchange.export import export
from gvbsm.exchange.load import load
from gvbsm.exchange.plain_script import choose_network, plain_script
from gvbsm.files.artifacts import read_header
from support.labeled_sets import write_labeled_set

CUTMIX = ViewConfig(crop="pad", padding=1, flip=True, cutmix=1.0)
RESIZED = ViewConfig(tiles=2, flip=True, cutmix=1.0, mixup=1.0, shuffle=2, roll=3)
BLACK = ViewConfig(crop="pad", padding=2, flip=False, border="black")

FIRST = """
import sys, torch
sys.modules["gvbsm"] = None  # an import of it fails
import train_plain
epochs = [list(train_plain.batches(epoch)) for epoch in range(3)]
torch.save(epochs, "batches.pt")
"""


@pytest.fixture
def labeled(data, teachers, runtime, tmp_path):
    """Call it to label a set; its work directory."""

    def write(views=CUTMIX, evaluation=None, **settings):
        config = LabelsConfig(**{"epochs": 4, "full_batch_up_to": 0, "views": views, **settings})
        evaluation = {"batch_size": 3, "students": ["convnet8_d1"], **(evaluation or {})}
        return write_labeled_set(tmp_path / "w", data, teachers, runtime, config, **evaluation)

    return write


def written(workdir, form, out):
    """Export a set; its folder, with the script in it."""
    if form == "hub":
        pytest.importorskip("datasets")
    target = out / "set.safetensors" if form == "safetensors" else out / "set"
    export(workdir, form, target, quiet=True)
    if form != "safetensors":
        return target
    (out / "train_plain.py").write_text(read_header(target)["train_plain.py"])
    return out


def check_width(folder):
    """No line of the script is wide."""
    assert max(map(len, (folder / "train_plain.py").read_text().splitlines())) <= 100


def python(folder, *words):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CASES = {
    "cutmix": {},
    "resized, mixup, shuffled, rolled": {"views": RESIZED},
    "black border": {"views": BLACK},
    "pruned": {"storage": LabelStorageConfig(pruning=2)},
    "8 bits, the largest": {"storage": LabelStorageConfig(top_k=2, bits=8)},
    "the largest": {"storage": LabelStorageConfig(top_k=1)},
    "one batch": {"full_batch_up_to": 8},
}


def compare(folder, source, mixed=False):
    """The script's batches of three epochs equal the loader's."""
    check_width(folder)
    python(folder, "-c", FIRST)
    epochs = torch.load(folder / "batches.pt", weights_only=True)
    distilled = load(source)
    for number, batches in enumerate(epochs):
        expected = list(distilled.batches(number))
        assert len(batches) == len(expected) > 0
        for (views, soft, hard), batch in zip(batches, expected, strict=True):
            assert torch.equal(soft, batch.logits)
            assert torch.allclose(views, batch.views, atol=1e-5)
            if not mixed:
                assert torch.equal(hard, batch.labels)
                continue
            shares = torch.zeros_like(hard)
            rows = torch.arange(len(hard))
            shares[rows, batch.labels] += batch.kept
            shares[rows, batch.partners] += 1 - batch.kept
            assert torch.allclose(hard, shares, atol=1e-6)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_its_batches_are_those_of_the_loader(settings, labeled, tmp_path):
    folder = written(labeled(**settings), "folder", tmp_path)
    compare(folder, tmp_path / "w")


@pytest.mark.parametrize("form", ["hub", "safetensors"])
def test_every_form_has_the_same_batches(form, labeled, tmp_path):
    compare(written(labeled(views=RESIZED), form, tmp_path), tmp_path / "w")


def test_mixed_hard_labels_have_both_classes(labeled, tmp_path):
    workdir = labeled(views=RESIZED, evaluation={"hard_target": "mixed"})
    compare(written(workdir, "folder", tmp_path), workdir, mixed=True)


def test_an_epoch_in_several_files_is_read_as_a_whole(labeled, tmp_path, monkeypatch):
    monkeypatch.setattr("gvbsm.stages.labels.SHARD_BYTES", 1)
    workdir = labeled(batch_size=3)
    assert load(workdir).soft_labels.shards_per_epoch == 3
    compare(written(workdir, "folder", tmp_path), workdir)


TRAININGS = {
    "adamw": {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}},
    "sgd, warm-up": {"loss": "kl", "optimizer": {"name": "sgd", "warmup": 0.3, "zeta": 2.0}},
    "muon, average": {"optimizer": {"name": "muon", "lr": 0.005}, "ema": 0.9},
    "constant": {"optimizer": {"name": "adam", "schedule": "constant"}},
    "ssrs": {"optimizer": {"name": "adamw", "schedule": "ssrs"}},
    "cosine": {"loss": "cosine", "hard_target": "mixed"},
    "torchvision": {"students": ["resnet18"], "optimizer": {"lr": 0.01}},
    "hard": {"loss": "hard"},
}


@pytest.mark.parametrize("evaluation", TRAININGS.values(), ids=TRAININGS.keys())
def test_it_trains_and_tests(evaluation, labeled, data, tmp_path):
    folder = written(labeled(epochs=2, evaluation=evaluation), "folder", tmp_path)
    for index, label in enumerate(data.test.labels.tolist()):
        path = tmp_path / "real" / data.class_names[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.test.images[index].permute(1, 2, 0).numpy()).save(path)
    check_width(folder)
    printed = python(folder, "train_plain.py", "../real", "--epochs", "2", "--seed", "1")
    assert printed.startswith("top-1: ")
    assert 0 <= float(printed.split()[1]) <= 100
    state = torch.load(folder / "student.pt", weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


@pytest.mark.parametrize("target", ["base", "mixed"])
@pytest.mark.parametrize("loss", ["mse_gt", "kl", "cosine"])
def test_its_loss_is_that_of_the_loader(loss, target, labeled):
    evaluation = {"loss": loss, "hard_target": target, "temperature": 2.0}
    distilled = load(labeled(evaluation=evaluation))
    loader = distilled.loader()
    batch = next(iter(loader))
    outputs = torch.linspace(-1, 2, batch.logits.numel()).view_as(batch.logits).sin()
    hard = batch.labels
    if target == "mixed" and loss != "kl":  # whose script leaves hard labels alone
        own, partner = (F.one_hot(labels, 4) for labels in (batch.labels, batch.partners))
        hard = torch.lerp(partner.float(), own.float(), batch.kept[:, None])
    tree = ast.parse(plain_script(distilled, "folder"))
    (formula,) = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "loss"
    ]
    names = {"outputs": outputs, "soft": batch.logits, "hard": hard, "F": F, "CLASSES": 4}
    of_script = eval(ast.unparse(formula), names)
    assert float(of_script) == pytest.approx(float(loader.loss(outputs, batch)), rel=1e-5)


def test_it_trains_on_hard_labels_if_there_are_no_soft_ones(labeled, tmp_path):
    export(labeled(), "folder", tmp_path / "set", soft_labels=False, quiet=True)
    python(tmp_path / "set", "train_plain.py", "--epochs", "2")
    assert (tmp_path / "set" / "student.pt").is_file()
    assert "soft" not in (tmp_path / "set" / "train_plain.py").read_text()


@pytest.mark.parametrize(
    ("students", "size", "expected"),
    [
        (["resnet18", "convnet128_d2"], 8, "convnet128_d2"),
        (["convnet64"], 32, "convnet64"),
        (["timm/resnet18", "resnet50"], 32, "resnet50"),
        (["torchvision/resnet18"], 224, "torchvision/resnet18"),
        (["timm/vit"], 32, ""),
        (["convnet8_d3"], 4, ""),  # too deep for these pixels
        (["convnet8_d999999999999", f"convnet{'9' * 5000}", "convnet0_d0"], 32, ""),
    ],
)
def test_its_network_is_one_of_the_students(students, size, expected, labeled):
    distilled = load(labeled())
    distilled.header["settings"]["evaluation"]["students"] = students
    object.__setattr__(distilled, "images", distilled.images.new_zeros(8, 3, size, size))
    network = choose_network(distilled)
    assert network.student == expected
    assert (network.convnet is None) == (expected in ("resnet50", "torchvision/resnet18"))


@pytest.mark.parametrize("loss", ["mse_gt", "cosine"])
def test_it_is_short_and_holds_no_text_of_others(loss, labeled):
    distilled = load(labeled(evaluation={"loss": loss}))
    hostile = 'x"""\nimport os  # '
    object.__setattr__(distilled, "class_names", (hostile, "b", "c", "d"))
    distilled.header.update(dataset=hostile, title=hostile, method=hostile)
    text = plain_script(distilled, "folder")
    ast.parse(text)
    assert "import os" not in text
    assert len(text.splitlines()) <= 80


def test_it_says_that_it_has_no_hard_phase(labeled, tmp_path, caplog):
    phase = {"hard_phase": {"share": 0.5}}
    folder = written(labeled(evaluation=phase), "folder", tmp_path)
    assert "evaluation.hard_phase" in caplog.text
    text = (folder / "train_plain.py").read_text()
    assert "# The students of the run also had epochs with hard labels" in text
    caplog.clear()
    text = plain_script(load(labeled(evaluation={**phase, "loss": "hard"})), "folder")
    assert "evaluation.hard_phase" not in caplog.text + text


def test_it_says_which_views_it_does_not_draw_without_stored_labels(labeled, caplog):
    plain_script(load(labeled(views=RESIZED)), "folder")
    plain_script(load(labeled(evaluation={"loss": "hard"})), "folder")
    assert "labels.views" not in caplog.text
    plain_script(load(labeled(views=RESIZED, evaluation={"loss": "hard"})), "folder")
    without = "without labels.views.tiles and labels.views.roll and labels.views.shuffle, which"
    assert without in caplog.text


BATCHES = """
import torch, train_plain
train_plain.images[:] = 1
torch.save([next(train_plain.batches(0)), train_plain.BLACK], "batch.pt")
"""


@pytest.mark.parametrize("target", ["base", "mixed"])
def test_with_hard_labels_its_border_and_classes_are_those_of_the_settings(
    target, labeled, tmp_path
):
    views = ViewConfig(crop="pad", padding=4, flip=False, border="black", cutmix=1.0)
    workdir = labeled(views=views, evaluation={"loss": "hard", "hard_target": target})
    folder = written(workdir, "folder", tmp_path)
    python(folder, "-c", BATCHES)
    (pictures, hard), black = torch.load(folder / "batch.pt", weights_only=True)
    normal = load(workdir).normalization
    expected = [-mean / std for mean, std in zip(normal.mean, normal.std, strict=True)]
    assert black == pytest.approx(expected)
    outside = (pictures != 1).any(1)
    assert outside.any()
    assert torch.allclose(pictures.permute(0, 2, 3, 1)[outside], torch.tensor(black))
    assert hard.is_floating_point() == (target == "mixed")


def test_what_cannot_be_trained_or_tested_is_said_before_the_training(labeled, tmp_path):
    folder = written(labeled(epochs=2), "folder", tmp_path)
    for words, fault in (
        (["--epochs", "3"], "error: there are soft labels for 2 epochs"),
        (["nowhere"], "nowhere/ant"),
    ):
        command = [sys.executable, "train_plain.py", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode
        assert fault in done.stderr
        assert not (folder / "student.pt").exists()


def test_its_test_pictures_are_upright(labeled, data, tmp_path):
    folder = written(labeled(), "folder", tmp_path)
    real = tmp_path / "real"
    real.mkdir()
    upright = Image.fromarray(data.test.images[0].permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(real / "a.png", exif=exif)
    upright.save(real / "b.png")
    for place in (real, folder / "ant"):
        (place / ".DS_Store").write_bytes(b"\0")  # as macOS leaves it in folders that were opened
    code = "import torch, train_plain as t; x, _ = t.load([t.Path('../real')]); print(x[0] - x[1])"
    assert set(python(folder, "-c", f"{code}; assert torch.equal(x[0], x[1])"))


def test_its_numbers_are_those_of_the_settings(labeled, tmp_path):
    folder = written(
        labeled(evaluation={"gamma": 0.7, "optimizer": {"lr": 0.03}}), "folder", tmp_path
    )
    text = (folder / "train_plain.py").read_text()
    assert "SIZE, CLASSES, EPOCHS, BATCH, STEPS = 8, 4, 4, 3, 3" in text
    assert "+ 0.7 * F.cross_entropy" in text
    assert "lr=0.03" in text
    assert json.loads((folder / "gvbsm.json").read_text())["labels"]["epochs"] == 4
