"""The examples for other libraries train on the batches of the loader."""

import importlib.util
from pathlib import Path

import pytest
import torch

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
