"""Synthesis: the loop, its groups, stops at any moment, valid pixels and untouched teachers."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from conftest import CONVNET, N_P, WRN, StoppedError, stop_after
from gvbsm.artifacts import Checkpoint, read_header
from gvbsm.config import OptimizerConfig, SynthesisConfig, ViewConfig
from gvbsm.pictures import normalize
from gvbsm.runtime import RunError
from gvbsm.synthesis import (
    choose_teacher,
    group_indices,
    step_terms,
    synthesize,
    synthesize_group,
)

PLAIN = ViewConfig(crop="none", flip=False)
CONFIG = SynthesisConfig(
    iterations=8,
    batch_size=6,
    optimizer=OptimizerConfig(name="adam", lr=0.2, betas=(0.5, 0.9)),
    views=ViewConfig(crop="resized", scale=(0.3, 1.0), roll=3),
    densification="scaled",
)
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
TERMS = ("cross_entropy", "batchnorm", "conv", "densification")


@pytest.fixture
def group(targets_for, data, runtime, tmp_path):
    """Call it to optimise a group of six images of three classes: uint8 images and trace."""

    def run(config, number=3, targets=None, runtime=runtime, path=tmp_path / "group"):
        shape = (len(LABELS), 3, 8, 8)
        start = torch.randn(shape, generator=runtime.generator("start"))
        targets = targets_for(config) if targets is None else targets
        checkpoint = Checkpoint(path, {"toy": 1}, runtime.checkpoint_seconds)
        with runtime.progress(1, "", "") as bar:
            return synthesize_group(
                number, LABELS, start, targets, config, N_P, (data.mean, data.std), runtime,
                checkpoint, bar,
            )  # fmt: skip

    return run


def test_loop__is_adam_with_cosine_decay_average_and_clamp(group, targets_for, data, runtime):
    config = replace(CONFIG, iterations=5)
    found, trace = group(config)
    images = torch.randn(6, 3, 8, 8, generator=runtime.generator("start"))
    m = v = torch.zeros_like(images)
    low, high = (
        torch.tensor([(edge - a) / b for a, b in zip(data.mean, data.std, strict=True)])
        for edge in (0, 1)
    )
    state = {}
    for step in range(5):
        images.requires_grad_()
        terms = step_terms(
            images, LABELS, targets_for(config), state, config, N_P, step,
            runtime.generator("synthesis", 3, step), runtime,
        )  # fmt: skip
        assert terms.teacher == trace[step]["teacher"]
        for term in TERMS:
            value = getattr(terms, term).item()
            assert trace[step][term] == pytest.approx(value, rel=1e-4, abs=1e-6), (step, term)
        (gradient,) = torch.autograd.grad(terms.loss(config), images)
        m, v = 0.5 * m + 0.5 * gradient, 0.9 * v + 0.1 * gradient**2
        lr = 0.2 * (1 + math.cos(math.pi * step / 5)) / 2
        mean, root = m / (1 - 0.5 ** (step + 1)), (v / (1 - 0.9 ** (step + 1))).sqrt()
        images = images.detach() - lr * mean / (root + 1e-8)
        images = images.clamp(low[:, None, None], high[:, None, None])
        state = {**state, **terms.changed}
    expected = (images * torch.tensor(data.std)[:, None, None]).double()
    expected = (expected + torch.tensor(data.mean, dtype=torch.float64)[:, None, None]) * 255
    assert (found.double() - expected).abs().max() < 0.6  # rounded to the nearest grey level
    assert (expected.round() == 255).any()  # some have met the clamp


@pytest.fixture
def whole(targets_for, data, runtime, tmp_path):
    """Call it to make the whole set of 4 classes x 3 images: images, labels and traces."""

    def run(config, folder="whole", runtime=runtime, names=(CONVNET, WRN), initial=None):
        return synthesize(
            4, 3, initial, targets_for(config, names), config, N_P, data, runtime,
            tmp_path / folder, {"toy": 1},
        )  # fmt: skip

    return run


# Groups


def test_groups__known_answers():
    def groups(*arguments):
        return [index.tolist() for index in group_indices(*arguments)]

    # Figure 4: 3 classes of 2 images, class-major; the original loop takes one of each class.
    assert groups(3, 2, 3, "original") == [[0, 2, 4], [1, 3, 5]]
    assert groups(3, 2, 2, "reorder") == [[0, 1], [2, 3], [4, 5]]
    assert groups(3, 2, 4, "reorder") == [[0, 1, 2, 3], [4, 5]]
    assert groups(3, 2, 4, "original") == [[0, 2, 4, 1], [3, 5]]
    assert groups(2, 1, 50, "reorder") == groups(2, 1, 50, "original") == [[0, 1]]


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_groups__labels_go_with_their_images(loop, whole, data):
    """Without steps of any size, what comes out is what went in, each at its own place."""
    still = OptimizerConfig(name="adam", lr=1e-9)
    initial = data.test.images[:12]
    config = replace(CONFIG, loop=loop, batch_size=5, iterations=1, optimizer=still)
    images, labels, traces = whole(config, initial=initial)
    assert torch.equal(images, initial)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len(traces) == 3


def test_groups__each_depends_on_itself_alone(whole, targets_for, data, runtime, tmp_path):
    config = replace(CONFIG, batch_size=6, beta_dr=0.5)
    images, labels, traces = whole(config)
    other, _, _ = whole(replace(config, batch_size=3), "by-class")
    assert not torch.equal(images[:3], other[:3])  # fewer companions: other statistics
    start = torch.randn(6, 3, 8, 8, generator=runtime.generator("noise", 1))
    checkpoint = Checkpoint(tmp_path / "alone", {}, 3600)
    with runtime.progress(1, "", "") as bar:
        alone, trace = synthesize_group(
            1, labels[6:], start, targets_for(config), config, N_P, (data.mean, data.std),
            runtime, checkpoint, bar,
        )  # fmt: skip
    assert torch.equal(alone, images[6:])
    assert trace == traces[1]
    (tmp_path / "whole" / "group-00001.safetensors").unlink()  # made again, beside the first
    again, _, more = whole(config)
    assert torch.equal(again, images)
    assert more == traces


def test_groups__finished_ones_are_not_made_again(whole, teachers):
    expected = whole(CONFIG)
    with stop_after(0, *teachers.values()):
        found = whole(CONFIG)
    assert torch.equal(found[0], expected[0])
    assert found[2] == expected[2]


def test_seed_decides(whole, runtime):
    images = whole(CONFIG)[0]
    torch.manual_seed(11)
    assert torch.equal(whole(CONFIG, "again")[0], images)
    assert not torch.equal(whole(CONFIG, "other", replace(runtime, seed=8))[0], images)


# Teachers


def test_teachers__uniform_draws_and_turns(runtime):
    generators = [runtime.generator("choice", step) for step in range(600)]
    drawn = [choose_teacher(3, step, "uniform", g) for step, g in enumerate(generators)]
    assert set(drawn) == {0, 1, 2}
    assert all(160 < drawn.count(index) < 240 for index in range(3))  # 3.5 deviations
    repeats = sum(a == b for a, b in itertools.pairwise(drawn))
    assert 150 < repeats < 250  # a draw does not look at the one before
    turns = [choose_teacher(3, step, "round_robin", g) for step, g in enumerate(generators)]
    assert turns == [0, 1, 2] * 200


def test_teachers__take_their_turns_in_the_loop(group):
    _, trace = group(replace(CONFIG, backbone_order="round_robin"))
    assert [row["teacher"] for row in trace] == [CONVNET, WRN] * 4
    _, trace = group(replace(CONFIG, iterations=12))
    names = [row["teacher"] for row in trace]
    assert set(names) == {CONVNET, WRN}
    assert names != [CONVNET, WRN] * 6


def test_teachers__are_left_as_they_were(group, teachers):
    before = {
        name: {key: value.clone() for key, value in model.state_dict().items()}
        for name, model in teachers.items()
    }
    group(replace(CONFIG, backbone_order="round_robin"))
    for name, model in teachers.items():
        after = model.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before[name].items())
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())
        assert not any(module._forward_pre_hooks for module in model.modules())


# Stops


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_stopped_and_resumed_groups_are_bit_identical(
    every, kind, whole, teachers, checkpoint_every
):
    optimizer = replace(CONFIG.optimizer, name=kind, lr=0.2 if kind == "adam" else 5.0)
    config = replace(CONFIG, beta_dr=0.5, optimizer=optimizer)
    images, _, traces = whole(config)
    checkpoint_every(every)
    for calls in (0, 5, 3, 1, 4):  # two groups of eight: also at the first one's end
        with stop_after(calls, *teachers.values()), pytest.raises(StoppedError):
            whole(config, "stopped")
    found, _, again = whole(config, "stopped")
    assert torch.equal(found, images)
    assert again == traces


def test_stopped_groups_go_on_where_they_were(whole, teachers, runtime):
    often, calls = replace(runtime, checkpoint_seconds=0), []
    with stop_after(4, teachers[WRN]), pytest.raises(StoppedError):
        whole(CONFIG, runtime=often, names=[WRN])
    with teachers[WRN].register_forward_pre_hook(lambda *_: calls.append(1)):
        whole(CONFIG, runtime=often, names=[WRN])
    assert len(calls) == 2 * 8 - 4


# Pixels and trace


def test_pixels_are_valid_after_every_step(whole, data, runtime, monkeypatch):
    kept, save = [], Checkpoint.save

    def spy(self, tensors, state):
        kept.append(tensors["images"].detach().clone())
        save(self, tensors, state)

    monkeypatch.setattr(Checkpoint, "save", spy)
    images, _, _ = whole(CONFIG, runtime=replace(runtime, checkpoint_seconds=0))
    assert len(kept) == 2 * 7
    mean, std = (torch.tensor(part)[:, None, None] for part in (data.mean, data.std))
    pixels = torch.stack(kept) * std + mean
    assert pixels.min() == pytest.approx(0, abs=1e-6)  # some are on the bounds, none beyond
    assert pixels.max() == pytest.approx(1, abs=1e-6)
    assert images.dtype == torch.uint8
    assert images.shape == (12, 3, 8, 8)
    shifted = normalize(images, data.mean, data.std) * std + mean  # a round trip of the last step
    assert torch.equal((shifted * 255).round().to(torch.uint8), images)
    last = torch.cat([kept[6], kept[13]]) * std + mean
    step = (shifted - last).abs()  # one Adam step at the end of the cosine, and the rounding
    assert step.max() < 0.2 * 0.05 * 2 * float(std.max()) + 0.5 / 255


def test_trace__densification_acts_in_the_first_steps(group):
    config = replace(CONFIG, iterations=15, views=PLAIN)
    _, trace = group(config)
    assert [row["step"] for row in trace] == list(range(15))
    for row in trace[:10]:
        assert row["densification"] > 0
        assert row["densification_gradient"] > 1e-4
    _, exact = group(replace(config, densification="exact"))  # numerically zero nearly always
    assert exact[-1]["densification"] < trace[-1]["densification"]
    _, off = group(replace(config, weight_densification=0.0))
    assert all(row["densification"] == row["densification_gradient"] == 0 for row in off)


def test_trace__is_thinned_out_and_kept(whole, tmp_path):
    config = replace(CONFIG, iterations=230, views=PLAIN)
    _, _, traces = whole(config, names=[CONVNET])
    steps = [row["step"] for row in traces[0]]
    assert steps[:12] == [*range(10), 10, 12]  # every second after the first ten
    assert steps[-1] == 229
    header = read_header(tmp_path / "whole" / "group-00001.safetensors")
    assert header["trace"] == traces[1]
    assert {"step", "teacher", "densification_gradient", *TERMS} == traces[0][0].keys()


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_loss_decreases(name, whole):
    config = replace(CONFIG, iterations=60, views=PLAIN, beta_dr=0.0)
    _, _, traces = whole(config, names=[name])
    for trace in traces:
        for term in ("cross_entropy", "conv") + ("batchnorm",) * (name == WRN):
            assert trace[-1][term] < 0.6 * trace[0][term], term


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_divergence_names_the_group(group, teachers):
    teachers[CONVNET].get_parameter("classifier.bias").data[0] = math.nan
    with pytest.raises(RunError, match=r"^synthesis of batch 3: .*nan.*synthesis\.optimizer\.lr$"):
        group(CONFIG)


def test_divergence_is_one_clear_line(group, teachers):
    """And no warning of torch's before it, which is given once a process unless asked for."""
    teachers[CONVNET].get_parameter("classifier.bias").data[0] = math.nan
    torch.set_warn_always(True)
    try:
        with pytest.raises(RunError):
            group(CONFIG)
    finally:
        torch.set_warn_always(False)
