"""What only a GPU shows: numbers are the CPU's, and a run in bf16 ends and keeps what is done."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gvbsm.backbones import build_backbone
from gvbsm.cli import main
from gvbsm.config import OptimizerConfig, SynthesisConfig, ViewConfig
from gvbsm.data.epochs import draw_plan, view_batch
from gvbsm.engine.averaging import Averaging
from gvbsm.engine.optimizers import make_optimizer
from gvbsm.method.capture import HookedObserver
from gvbsm.method.fast.compiled import CompiledObserver
from gvbsm.method.groups import make_stack
from gvbsm.method.matching import make_teacher
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics
from gvbsm.method.synthesis import TERMS, begin_synthesis, step_terms
from support.toy import CONVNET, IMAGE, N_P, WRN
from support.workdirs import digests, quick_settings, rows_without_times, write_arrays, write_preset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SYNTHESIS = SynthesisConfig(
    views=ViewConfig(crop="resized", scale=(0.3, 1.0), roll=3), densification="scaled"
)


@pytest.fixture
def gpu(runtime):
    return replace(runtime, device=torch.device("cuda"))


@pytest.fixture(autouse=True)
def _same_arithmetic(monkeypatch):
    """cuDNN takes TF32 for convolutions unless told: three digits, where the CPU has seven."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_views__are_the_cpus(crop, data, runtime, gpu):
    views = ViewConfig(crop=crop, padding=2, roll=3, cutmix=1.0, mixup=1.0, shuffle=2)
    images, normalization = data.train.images, data.normalization
    plan = draw_plan(len(images), 8, views, 5, runtime)
    index = plan.order[:16]
    ours = view_batch(images, plan, index, normalization, gpu)
    assert ours.is_cuda
    theirs = view_batch(images, plan, index, normalization, runtime)
    torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_training__moves_networks_and_averages_as_the_cpu_does(optimizer, teachers, data):
    config = OptimizerConfig(name=optimizer, lr=0.01, momentum=0.9, weight_decay=0.1)
    pictures = torch.randn(12, *IMAGE, generator=torch.Generator().manual_seed(3))
    moved = []
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(teachers[WRN]).train().requires_grad_(True).to(device)
        solver = make_optimizer(config, list(model.parameters()), 0.01)
        average = Averaging(model, 0.5)
        for _ in range(3):
            solver.zero_grad()
            labels = torch.arange(12, device=device) % len(data.class_names)
            F.cross_entropy(model(pictures.to(device)), labels).backward()
            solver.step()
            average.update()
        moved.append([*model.cpu().parameters(), *average.network.cpu().parameters()])
    for ours, theirs in zip(*moved, strict=True):
        # Adam divides by the gradient's size: where that is rounding, so is the step.
        off = (ours - theirs).abs()
        assert off.max() <= 2 * 3 * 0.01
        assert off.median() <= 1e-5


@pytest.mark.parametrize("name", [CONVNET, WRN])
@pytest.mark.parametrize("compiled", [False, True])
def test_sums__of_watched_networks_are_the_cpus(name, compiled, teachers):
    model = teachers[name]
    pictures = torch.randn(12, *IMAGE, generator=torch.Generator().manual_seed(4))
    paths = [path for path, layer in model.named_modules() if isinstance(layer, torch.nn.Conv2d)]
    observer = HookedObserver(model, paths, N_P)
    logits, expected = observer(pictures, paths, 3)
    model = copy.deepcopy(model).cuda()
    if compiled:
        found, sums = CompiledObserver(model, paths, N_P)(pictures.cuda(), paths, 3)
    else:
        observer = HookedObserver(model, paths, N_P)
        found, sums = observer(pictures.cuda(), paths, 3)
    torch.testing.assert_close(found.cpu(), logits, rtol=1e-3, atol=1e-4)
    for path in paths:
        for ours, theirs in zip(sums[path], expected[path], strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-3)


def test_synthesis__terms_and_gradient_are_the_cpus(teachers, statistics, runtime, gpu):
    start = torch.randn(6, *IMAGE, generator=torch.Generator().manual_seed(5))
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    found = []
    for place in (runtime, gpu):
        model = copy.deepcopy(teachers[WRN]).to(place.device)
        channel, patch = {}, {}
        for path, values in statistics[WRN].items():
            on = [value.to(place.device) for value in values]
            channel[path], patch[path] = Moments(*on[:2]), Moments(*on[2:])
        target = make_teacher(WRN, model, Statistics(channel, patch), SYNTHESIS, N_P, IMAGE)
        stack = make_stack((0,), labels, place.device)
        edges = torch.tensor(-math.inf), torch.tensor(math.inf)
        state = begin_synthesis(start.to(place.device), edges, stack, [target], SYNTHESIS)
        terms = step_terms(state, stack, [target], SYNTHESIS, place)
        terms.loss(SYNTHESIS).sum().backward()
        values = [getattr(terms, name).detach().cpu() for name in TERMS]
        found.append([*values, state.images.grad.cpu()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-4)


def test_run__in_bf16_learns_and_keeps_what_is_done(tmp_path):
    data = {"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))}
    settings = quick_settings(
        data,
        device="cuda",
        labels={"epochs": 120, "views": {"scale": [0.6, 1.0], "flip": False, "cutmix": 1.0}},
        evaluation={
            "students": ["convnet16_d2"],
            "tests": 1,
            "ema": 0.9,
            "optimizer": {"name": "muon", "lr": 0.005, "momentum": 0.95},
        },
        baselines={"methods": ["random-soft", "sre2l"]},
    )
    preset, workdir = write_preset(tmp_path / "toy.yaml", settings), tmp_path / "run"
    command = ["run", str(preset), "--workdir", str(workdir)]
    assert main(command) == 0
    rows = rows_without_times(workdir)
    assert {row["method"] for row in rows} == {"gvbsm", "random-soft", "sre2l"}
    assert min(row["top1"]["mean"] for row in rows) > 50  # of four classes
    before = digests(workdir)
    assert main(command) == 0
    assert digests(workdir) == before


def test_networks__of_all_kinds_train_in_bf16(gpu):
    runtime = replace(gpu, precision="bf16")
    for name in ("resnet18", "convnet128", "airbench", "wrn16_2", "mobilenet_v2_x0_5"):
        model = runtime.place(build_backbone(name, 10, 32, 3))
        with runtime.autocast():
            logits = model(torch.randn(4, 3, 32, 32, device="cuda"))
        F.cross_entropy(logits.float(), torch.arange(4, device="cuda")).backward()
        trained = [p for p in model.parameters() if p.requires_grad]  # airbench's first is not
        assert all(bool(torch.isfinite(p.grad).all()) for p in trained)
