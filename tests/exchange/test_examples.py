"""The examples for other libraries train on the batches of the loader."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gvbsm.backbones import build_backbone
from gvbsm.config import LabelsConfig, ViewConfig
from gvbsm.data.datasets import load_dataset
from gvbsm.exchange.load import load
from support.labeled_sets import write_labeled_set
from support.toy import CONVNET

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def workdir(data, teachers, runtime, tmp_path):
    """Eight images with soft labels of four epochs, in batches of three."""
    views = ViewConfig(crop="pad", padding=1, flip=True, cutmix=1.0)
    labels = LabelsConfig(epochs=4, full_batch_up_to=0, views=views)
    return write_labeled_set(tmp_path / "w", data, teachers, runtime, labels, batch_size=3)


def example(name):
    """Import an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def watched(model, views):
    model.register_forward_pre_hook(lambda _, inputs: views.append(inputs[0].clone()))
    return model


def assert_are_those_of(views, workdir, epochs):
    distilled = load(workdir)
    expected = [batch.views for epoch in range(epochs) for batch in distilled.batches(epoch)]
    assert len(views) == len(expected)
    assert all(torch.equal(view, other) for view, other in zip(views, expected, strict=True))


def test_timm(workdir, monkeypatch):
    module, views = example("timm_training"), []
    build = module.create_model
    monkeypatch.setattr(module, "create_model", lambda *a, **b: watched(build(*a, **b), views))
    model, loss = module.train(workdir, "test_resnet")
    assert_are_those_of(views, workdir, epochs=4)
    assert 16 * 0.5 < loss < 16 * 3  # of four classes at a temperature of 4, untrained: 16 log 4
    assert bool(torch.isfinite(model.eval()(torch.zeros(1, 3, 8, 8))).all())


@pytest.mark.filterwarnings("ignore")  # of the library
def test_hugging_face_trainer(workdir, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    module, views = example("huggingface_trainer"), []
    model = watched(build_backbone(CONVNET, 4, 8), views)
    trainer = module.train(workdir, model, tmp_path / "out")
    assert_are_those_of(views, workdir, epochs=4)
    assert trainer.state.global_step == 12


@pytest.mark.filterwarnings("ignore")  # of the library
def test_accelerate_prepares_the_loader(workdir):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    loader = accelerate.Accelerator(cpu=True).prepare(load(workdir).loader())
    views = [batch.views for _ in range(2) for batch in loader]
    assert_are_those_of(views, workdir, epochs=2)


@pytest.mark.parametrize("concentration", [0.1, 10.0])
def test_federated_clients_share_all_pictures(concentration):
    module, labels = example("federated"), torch.arange(600).remainder(6).numpy()
    parts = module.split_by_class(labels, 3, concentration, seed=0)
    assert sorted(index for part in parts for index in part) == list(range(600))
    counts = [torch.from_numpy(labels[part]).bincount(minlength=6) for part in parts]
    assert all(int((count > 0).sum()) >= 2 for count in counts)
    assert all(bool(((count == 0) | (count >= module.FEWEST)).all()) for count in counts)
    if concentration < 1:
        assert any(bool((count == 0).any()) for count in counts)


def test_federated_averaging_weights_clients_by_their_pictures():
    """A client with all pictures beside one with a single picture: nearly that client alone."""
    data, module = load_dataset("digits"), example("federated")
    everything = range(len(data.train))
    (alone,), nbytes = module.federated_averaging(data, [everything], 1, seed=0)
    (beside,), both = module.federated_averaging(data, [everything, [0]], 1, seed=0)
    assert alone > 50  # percent after one epoch; a tenth is chance
    assert abs(alone - beside) < 5
    assert both == 2 * nbytes


def bright_halves(root, count, seed):
    """Write gray pictures of 8 pixels, bright on the left (`a`) or the right (`b`); return both."""
    pixels = np.random.default_rng(seed).integers(0, 100, (2, count, 8, 8), dtype=np.uint8)
    pixels[0, :, :, :4] += 100
    pixels[1, :, :, 4:] += 100
    for name, pictures in zip("ab", pixels, strict=True):
        (root / name).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(root / name / f"{number:02}.png")
    return pixels.reshape(-1, 8, 8), np.arange(2).repeat(count)


def test_plain_comparison_judges_images_whatever_their_form(tmp_path, capsys):
    module = example("plain_comparison")
    bright_halves(tmp_path / "real", 20, seed=0)
    bright_halves(tmp_path / "test", 10, seed=1)
    images, labels = bright_halves(tmp_path / "folder", 2, seed=2)
    np.savez(tmp_path / "bytes.npz", x=images, y=labels)
    shares = (images / 255).astype(np.float32)[:, None]
    np.savez(tmp_path / "floats.npz", train_images=shares, train_labels=labels, test_labels=labels)
    np.savez(tmp_path / "wrong.npz", x=images, y=1 - labels)
    sets = {name: tmp_path / name for name in ("folder", "bytes.npz", "floats.npz", "wrong.npz")}
    rows = module.compare(tmp_path / "real", tmp_path / "test", sets, seeds=1, steps=20)
    found = {(name, kind): accuracies for name, kind, accuracies in rows}
    assert [len(accuracies) for accuracies in found.values()] == [1] * 10
    for kind in ("hard", "soft"):
        same = [found[name, kind] for name in ("folder", "bytes.npz", "floats.npz")]
        assert same[0] == same[1] == pytest.approx(same[2])
        assert min(*same[0], *found["random", kind]) > 90
    assert max(found["wrong.npz", "hard"]) < 10  # the labels are read, not guessed
    assert min(found["wrong.npz", "soft"]) > 50  # those of the teacher outweigh them
    np.savez(tmp_path / "scaled.npz", x=shares - 0.5, y=labels)
    with pytest.raises(SystemExit, match="undo the normalization"):
        module.compare(tmp_path / "real", tmp_path / "test", {"s": tmp_path / "scaled.npz"})
    np.savez(tmp_path / "one.npz", x=images[:1], y=labels[:1])
    sets = {"folder": tmp_path / "folder", "one": tmp_path / "one.npz"}
    with pytest.raises(SystemExit, match="differ in shape or number"):
        module.compare(tmp_path / "real", tmp_path / "test", sets)
    assert "teacher, trained on all 40 pictures: 100.0 %" in capsys.readouterr().out


def test_plain_comparison_reads_pictures_as_gvbsm_does(tmp_path):
    """Upright, 16 bits as 8, white where they are clear; hidden files are left out."""
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    folder = tmp_path / "a"
    folder.mkdir()
    Image.fromarray(gray).save(folder / "0.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(folder / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # to be turned by 180 degrees
    Image.fromarray(gray[::-1, ::-1]).save(folder / "2.png", exif=exif)
    alpha = np.uint8(255) * (gray < 128)
    Image.fromarray(np.stack([gray, alpha], axis=2), "LA").save(folder / "3.png")
    (folder / ".DS_Store").write_bytes(b"0")
    pictures, _ = example("plain_comparison").read_folder(tmp_path, ["a"], (1, 8))
    over_white = torch.from_numpy(np.where(gray < 128, gray, 255).astype(np.uint8)) / 255
    assert torch.equal(pictures[3, 0], over_white)
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])


def test_plain_comparison_draws_as_many_of_each_class_and_anew_with_each_seed():
    draw, labels = example("plain_comparison").draw, torch.arange(90) % 3
    like = torch.tensor([0, 0, 2, 2, 2])
    first, second = (draw(labels, like, seed) for seed in (0, 1))
    assert labels[first].tolist() == labels[second].tolist() == [0, 0, 2, 2, 2]
    assert first.tolist() != second.tolist()
    assert len(set(first.tolist())) == 5
    assert draw(labels, like, 0).tolist() == first.tolist()
