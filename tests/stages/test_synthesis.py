"""Synthesis: the loop, its groups, stops at any moment, valid pixels and untouched teachers."""

import io
import itertools
import logging
import math
from contextlib import ExitStack, nullcontext
from dataclasses import astuple, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore

from gvbsm.config import OptimizerConfig, SynthesisConfig, ViewConfig
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.data.starts import Start
from gvbsm.engine.device import RunError, Runtime
from gvbsm.engine.forms import Forms
from gvbsm.engine.launch import Launch
from gvbsm.engine.processes import Processes
from gvbsm.engine.progress.bars import Bar
from gvbsm.files.artifacts import read_header
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method import synthesis as loop
from gvbsm.method.beyond.late_starts import late_begins
from gvbsm.method.capture import HookedObserver
from gvbsm.method.groups import group_indices, make_stack
from gvbsm.method.statistics import Statistics
from gvbsm.method.synthesis import begin_synthesis, descend, step_terms
from gvbsm.stages.selection.nearest import NearestPictures
from gvbsm.stages.synthesis import (
    GPU_IMAGES,
    _groups_at_once,
    optimize_stack,
    synthesize_set,
)
from gvbsm.stages.synthesis_task import SynthesisTask
from gvbsm.store.distilled import images_header
from gvbsm.store.film import frame_steps
from support.toy import CONVNET, IMAGE, N_P, WRN, StoppedError, of_classes, stop_after

PLAIN = ViewConfig(crop="none", flip=False)
CONFIG = SynthesisConfig(
    iterations=8,
    batch_size=6,
    optimizer=OptimizerConfig(name="adam", lr=0.2, betas=(0.5, 0.9)),
    views=ViewConfig(crop="resized", scale=(0.3, 1.0), roll=3),
    densification="scaled",
)
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
INDEX = torch.tensor([0, 1, 2, 3, 4, 6])  # of a set of three images a class
TERMS = ("cross_entropy", "batchnorm", "conv", "densification")


def alone(number, labels):
    """A group by itself."""
    return make_stack((number,), labels, torch.device("cpu"))


def task_of(config, targets, data, ipc=3, initial=None):
    """The task of images that start from real pictures, or from noise."""
    statistics = {}
    if config.weight_class or config.difficulty_groups:
        for target in targets:
            by_class = of_classes(target.model, data, N_P)
            by_group = of_classes(target.model, data, N_P, torch.arange(len(data.train)) % ipc)
            statistics[target.name] = Statistics({}, {}, *by_class, *by_group)
    start = Start(initial[:, None]) if isinstance(initial, torch.Tensor) else initial
    return SynthesisTask(config, targets, statistics, data, ImageCounts.even(4, ipc), N_P, start)


@pytest.fixture
def group(targets_for, data, runtime, tmp_path):
    """Call it to optimize a group of six images of three classes: uint8 images and trace."""

    def run(config, number=3, targets=None, runtime=runtime, path=tmp_path / "group"):
        start = torch.randn(len(LABELS), *IMAGE, generator=runtime.generator("start"))
        task = task_of(config, targets_for(config) if targets is None else targets, data)
        checkpoint = Checkpoint(path, {"toy": 1}, runtime.checkpoint_seconds)
        with runtime.progress(1, "", "") as bar:
            images, work = optimize_stack(
                task, alone(number, LABELS), INDEX, start, runtime, checkpoint, bar
            )
        return images, work.traces[0]

    return run


def test_loop__is_adam_with_cosine_decay_average_and_clamp(group, targets_for, data, runtime):
    config = replace(CONFIG, iterations=5)
    found, trace = group(config)
    images = torch.randn(6, *IMAGE, generator=runtime.generator("start"))
    m = v = torch.zeros_like(images)
    low, high = (
        torch.tensor([(edge - a) / b for a, b in zip(*astuple(data.normalization), strict=True)])
        for edge in (0, 1)
    )
    targets, stack = targets_for(config), alone(3, LABELS)
    bounds = data.normalization.bounds()
    state = begin_synthesis(images, bounds, stack, targets, config)
    for step in range(5):
        state.images, state.step = images.requires_grad_(), step
        terms = step_terms(state, stack, targets, config, runtime)
        assert terms.teacher == trace[step]["teacher"]
        for term in TERMS:
            value = getattr(terms, term).sum().item()
            assert trace[step][term] == pytest.approx(value, rel=1e-4, abs=1e-6), (step, term)
        (gradient,) = torch.autograd.grad(terms.loss(config).sum(), images)
        m, v = 0.5 * m + 0.5 * gradient, 0.9 * v + 0.1 * gradient**2
        lr = 0.2 * (1 + math.cos(math.pi * step / 5)) / 2
        mean, root = m / (1 - 0.5 ** (step + 1)), (v / (1 - 0.9 ** (step + 1))).sqrt()
        images = images.detach() - lr * mean / (root + 1e-8)
        images = images.clamp(low[:, None, None], high[:, None, None])
        state.averages[terms.teacher] |= terms.averages
    expected = (images * torch.tensor(data.normalization.std)[:, None, None]).double()
    expected = (
        expected + torch.tensor(data.normalization.mean, dtype=torch.float64)[:, None, None]
    ) * 255
    assert (found.double() - expected).abs().max() < 0.6  # rounded to the nearest grey level
    assert (expected.round() == 255).any()  # some have met the clamp


@pytest.fixture
def whole(targets_for, teachers, data, runtime, tmp_path):
    """Call it to make the whole set of 4 classes x 3 images: images, labels, traces and film.

    With `stop` it is stopped after so many passes of the loop; those that record the statistics by
    class or group are not counted.
    """

    def run(
        config,
        folder="whole",
        runtime=runtime,
        names=(CONVNET, WRN),
        initial=None,
        ipc=3,
        nearest=None,
        stop=None,
    ):
        task = task_of(config, targets_for(config, names), data, ipc, initial)
        task = replace(task, nearest=nearest)
        header = images_header("gvbsm", {"toy": 1}, data)
        with nullcontext() if stop is None else stop_after(stop, *teachers.values()):
            path = tmp_path / folder / "images.safetensors"
            groups = synthesize_set(task, runtime, path, header)
        images = groups.draft.read("images", torch.arange(4 * ipc))
        traces = [read_header(path)["trace"] for path in groups.paths]
        return images, groups.labels, traces, groups.film()

    return run


@pytest.fixture
def assert_resumes(whole, checkpoint_every):
    """Call it to make a set that is stopped again and again, and to compare it with another.

    Args of the call: the settings, the set as `whole` gives it, after how many passes each stop
    comes, every how many steps a checkpoint is saved, and what else `whole` takes.
    """

    def check(config, expected, stops, every=1, **of):
        checkpoint_every(every)
        for stop in stops:
            with pytest.raises(StoppedError):
                whole(config, "stopped", stop=stop, **of)
        images, labels, traces, film = whole(config, "stopped", **of)
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])
        assert traces == expected[2]
        assert all(map(torch.equal, film, expected[3]))

    return check


def test_finished_groups_are_counted_once_by_several_processes(whole, runtime):
    class Team(Processes):
        """Two processes that one test plays one after the other."""

        def same(self, decide):
            return decide()

        def barrier(self, meanwhile=None):
            pass

    whole(CONFIG)
    store = HashStore()
    for rank in (0, 1):
        whole(CONFIG, runtime=replace(runtime, processes=Team(Launch(rank, 2, rank), store)))
    assert store.add("skipped-1", 0) == 2 * 8  # groups x iterations
    assert store.add("done-1", 0) == 0


# Groups


def test_groups__known_answers():
    def groups(*arguments):
        return [index.tolist() for index in group_indices(*arguments)]

    # Figure 4: 3 classes of 2 images, class-major; the original loop takes one of each class.
    assert groups(ImageCounts.even(3, 2), 3, "original") == [[0, 2, 4], [1, 3, 5]]
    assert groups(ImageCounts.even(3, 2), 2, "reorder") == [[0, 1], [2, 3], [4, 5]]
    assert groups(ImageCounts.even(3, 2), 4, "reorder") == [[0, 1, 2, 3], [4, 5]]
    assert groups(ImageCounts.even(3, 2), 4, "original") == [
        [0, 2, 4],
        [1, 3, 5],
    ]  # never two images of a class
    assert groups(ImageCounts.even(3, 2), 2, "original") == [[0, 2], [4], [1, 3], [5]]
    assert (
        groups(ImageCounts.even(2, 1), 50, "reorder")
        == groups(ImageCounts.even(2, 1), 50, "original")
        == [[0, 1]]
    )
    # 2 classes of 3 images, of which the last of each begins late
    late = torch.tensor([0, 0, 7] * 2)
    assert groups(ImageCounts.even(2, 3), 3, "reorder", late) == [[0, 1, 3], [4], [2, 5]]
    assert groups(ImageCounts.even(2, 3), 3, "original", late) == [[0, 3], [1, 4], [2, 5]]
    # classes of 3, 1 and 2 images
    uneven = ImageCounts((3, 1, 2))
    assert groups(uneven, 4, "reorder") == [[0, 1, 2, 3], [4, 5]]
    assert groups(uneven, 4, "original") == [[0, 3, 4], [1, 5], [2]]
    late = torch.tensor([0, 0, 7, 0, 0, 7])
    assert groups(uneven, 3, "reorder", late) == [[0, 1, 3], [4], [2, 5]]
    assert groups(uneven, 3, "original", late) == [[0, 3, 4], [1], [5], [2]]


@settings(max_examples=60, derandomize=True)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(1, 9),
    st.sampled_from(["reorder", "original"]),
    st.integers(1, 3),
)
def test_groups__hold_each_image_once_by_class_and_start(of_class, batch_size, loop, rounds):
    counts = ImageCounts(tuple(of_class))
    begins = late_begins(SynthesisConfig(iterations=30, rounds=rounds), counts)
    groups = group_indices(counts, batch_size, loop, begins)
    assert sorted(torch.cat(groups).tolist()) == list(range(counts.total))
    for index in groups:
        labels = counts.labels[index].tolist()
        assert len(index) <= batch_size
        assert labels == sorted(labels)
        assert len(begins[index].unique()) == 1
        assert loop == "reorder" or len(set(labels)) == len(labels)


def test_log__hears_the_mean_terms_at_the_iterations_of_all_groups(whole, runtime):
    told = []
    config = replace(CONFIG, batch_size=3, groups=2)  # two pairs of groups
    listening = replace(runtime, log=lambda *what: told.append(what))
    _, _, traces, _ = whole(config, runtime=listening)
    steps = [row["step"] for row in traces[0]]
    pairs = (0, 2 * config.iterations)
    assert [step for _, _, step in told] == [start + 2 * step for start in pairs for step in steps]
    series, values, _ = told[1]
    assert series == "synthesis"
    for name in TERMS:
        assert values[name] == pytest.approx((traces[0][1][name] + traces[1][1][name]) / 2)


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_groups__labels_go_with_their_images(loop, whole, data):
    """Without steps of any size, what comes out is what went in, each at its own place."""
    still = OptimizerConfig(name="adam", lr=1e-9)
    initial = torch.tensor([7, 3, 12, 9, 0, 1, 30, 31, 2, 39, 20, 21])
    config = replace(CONFIG, loop=loop, batch_size=5, iterations=1, optimizer=still)
    images, labels, traces, _ = whole(config, initial=initial)
    assert torch.equal(images, data.train.images[initial])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len(traces) == 3


def test_groups__noise_is_of_an_image_whatever_its_group(whole, data, runtime):
    """The loops group images in other ways; without steps of any size the starts come out."""
    still = OptimizerConfig(name="adam", lr=1e-9)
    config = replace(CONFIG, iterations=1, optimizer=still)
    starts = [
        whole(replace(config, loop=loop, batch_size=size), f"{loop}-{size}")[0]
        for loop, size in (("original", 4), ("reorder", 5), ("reorder", 12))
    ]
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])
    drawn = torch.randn(IMAGE, generator=runtime.generator("noise", 7))
    shown = data.normalization.denormalize(drawn[None], config.rounding)
    assert torch.equal(starts[0][7:8], shown)
    assert len({image.numpy().tobytes() for image in starts[0]}) == 12


def test_groups__each_depends_on_itself_alone(whole, targets_for, data, runtime, tmp_path):
    config = replace(CONFIG, batch_size=6, beta_dr=0.5)
    images, labels, traces, _ = whole(config)
    other, _, _, _ = whole(replace(config, batch_size=3), "by-class")
    assert not torch.equal(images[:3], other[:3])  # fewer companions: other statistics
    checkpoint = Checkpoint(tmp_path / "alone", {}, 3600)
    task = task_of(config, targets_for(config), data)
    start = task.start(torch.arange(6, 12), runtime)
    with runtime.progress(1, "", "") as bar:
        made, work = optimize_stack(
            task, alone(1, labels[6:]), torch.arange(6, 12), start, runtime, checkpoint, bar
        )
    assert torch.equal(made, images[6:])
    assert work.traces == [traces[1]]
    (tmp_path / "whole" / "group-00001.safetensors").unlink()  # made again, beside the first
    again, _, more, _ = whole(config)
    assert torch.equal(again, images)
    assert more == traces


def test_groups__finished_ones_are_not_made_again(whole, teachers):
    expected = whole(CONFIG)
    with stop_after(0, *teachers.values()):
        found = whole(CONFIG)
    assert torch.equal(found[0], expected[0])
    assert found[2] == expected[2]


def assert_same_set(ours, theirs):
    """Equal sets but for the rounding of float32 sums, which batches of other sizes add otherwise.

    A pixel may end at the next grey level: 1 of 100 at most. The terms agree to 1e-3.
    """
    for mine, other in ((ours[0], theirs[0]), (ours[3].frames, theirs[3].frames)):
        off = (mine.int() - other.int()).abs()
        assert off.max() <= 1
        assert (off > 0).double().mean() <= 1e-2
    assert all(map(torch.equal, ours[3][1:], theirs[3][1:]))
    assert torch.equal(ours[1], theirs[1])
    for trace, other in zip(ours[2], theirs[2], strict=True):
        assert [row["step"] for row in trace] == [row["step"] for row in other]
        for row, wanted in zip(trace, other, strict=True):
            assert row["teacher"] == wanted["teacher"]
            for term in (*TERMS, "densification_gradient"):
                assert row[term] == pytest.approx(wanted[term], rel=1e-3, abs=1e-5), term


SHORT = 12  # iterations, before rounding grows: 30 of some seeds end 23 grey levels apart


@pytest.fixture
def seven_groups(whole):
    """Call it with a number of groups at once: 20 images in six groups of 3 and one of 2."""

    def run(groups, folder=None, **settings):
        config = replace(CONFIG, batch_size=3, iterations=SHORT, beta_dr=0.5, groups=groups)
        return whole(replace(config, **settings), folder or f"by-{groups}", ipc=5)

    return run


@pytest.mark.parametrize("at_once", [None, 2, 4, 99])
def test_groups__share_passes_and_stay_what_they_are_alone(at_once, seven_groups, teachers):
    expected, sizes = seven_groups(1), []
    with ExitStack() as hooks:
        for model in teachers.values():
            hooks.enter_context(
                model.register_forward_pre_hook(lambda _, seen: sizes.append(len(seen[0])))
            )
        found = seven_groups(at_once)
    assert len(found[2]) == 7
    assert_same_set(found, expected)
    # six groups of 3, and the smaller one, which shares no pass; 1 is a look at a network
    stacks = {None: [3] * 6, 2: [6] * 3, 4: [12, 6], 99: [18]}[at_once]
    assert [size for size in sizes if size > 1] == [n for n in (*stacks, 2) for _ in range(SHORT)]


def test_groups__many_at_once_on_a_gpu_and_one_on_the_cpu(runtime):
    def at_once(device, batch_size, groups=None):
        machine = replace(runtime, device=torch.device(device))
        return _groups_at_once(replace(CONFIG, batch_size=batch_size, groups=groups), machine, 99)

    assert at_once("cpu", 50) == 1
    assert at_once("cpu", 50, groups=7) == at_once("cuda", 50, groups=7) == 7
    assert at_once("cuda", GPU_IMAGES // 4) == 4
    assert at_once("cuda", GPU_IMAGES + 1) == 1


@pytest.fixture
def compiled(monkeypatch):
    """Networks that would be compiled, and the sizes of the passes that they were used for."""
    sizes = {}

    def compiled_observer(model, paths, n_p, _on_failure):
        mine = sizes.setdefault(id(model), [])
        observer = HookedObserver(model, paths, n_p)

        def listening(x, wanted, groups):
            mine.append(len(x))
            return observer(x, wanted, groups)

        return listening

    monkeypatch.setattr("gvbsm.stages.synthesis.CompiledObserver", compiled_observer)
    return sizes


@pytest.mark.parametrize(("at_once", "size", "stacks"), [(1, 3, 6), (2, 6, 3), (4, 12, 1)])
def test_compiled_networks__serve_passes_of_one_size(at_once, size, stacks, seven_groups, compiled):
    """Each further size would be compiled for again: the odd groups at the end are not worth it."""
    expected = seven_groups(at_once, "plain")
    assert not compiled
    found = seven_groups(at_once, "compiled", compile="always")
    assert len(compiled) == 2  # one for each teacher
    assert sorted(itertools.chain(*compiled.values())) == [size] * SHORT * stacks
    assert torch.equal(found[0], expected[0])
    assert found[2] == expected[2]


@pytest.mark.parametrize(
    ("choice", "form", "count"),
    [
        ("auto", "fp32 compiled", 1),
        ("auto", "fp32", 0),
        ("always", "fp32", 2),
        ("never", "fp32 compiled", 0),
    ],
)
def test_compiled_networks__are_those_whose_form_says_so(
    choice, form, count, whole, compiled, runtime
):
    forms = Forms({WRN: {"pixels": form}})
    whole(replace(CONFIG, compile=choice), runtime=replace(runtime, forms=forms))
    assert len(compiled) == count


def test_seed_decides(whole, runtime):
    images = whole(CONFIG)[0]
    torch.manual_seed(11)
    assert torch.equal(whole(CONFIG, "again")[0], images)
    assert not torch.equal(whole(CONFIG, "other", replace(runtime, seed=8))[0], images)


# Teachers


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


# Stages


STAGED = replace(CONFIG, stages=3, residual=0.25, init="real")
START = torch.tensor([7, 3, 12, 9, 0, 1, 30, 31, 2, 39, 20, 21])


def test_stages__mix_the_start_in_and_begin_without_moments(whole, data, monkeypatch):
    """Seen at each step: the pixels before and after it, and how often the moments were updated."""
    seen = []

    def spy(loss, terms, state):
        before, solver = state.images.detach().clone(), state.solver
        descend(loss, terms, state)
        count = int(solver.state_dict()["state"][0]["step"])
        seen.append((before, state.images.detach().clone(), count, solver.param_groups[0]["lr"]))

    monkeypatch.setattr(loop, "descend", spy)
    whole(STAGED, initial=START)
    start = data.normalization.normalize(data.train.images[START[:6]])  # the first group's
    assert [row[2] for row in seen[:8]] == [1, 2, 1, 2, 3, 1, 2, 3]
    assert torch.equal(seen[0][0], start)
    for step in range(1, 8):
        before = seen[step - 1][1]
        mixed = 0.75 * before + 0.25 * start if step in (2, 5) else before
        assert torch.allclose(seen[step][0], mixed, atol=1e-6)
    rates = [0.2 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert [row[3] for row in seen[:8]] == pytest.approx(rates)  # one schedule over all


def test_stages__are_resumed_and_shared_as_ever(whole, assert_resumes):
    config = replace(STAGED, batch_size=3, beta_dr=0.5, groups=2)
    expected = whole(config, initial=START)
    assert_same_set(whole(replace(config, groups=1), "alone", initial=START), expected)
    stops = (2, 3, 1, 2, 3)  # at the end of a stage, in it and behind it
    assert_resumes(config, expected, stops, initial=START)


def test_nearest__is_mixed_in_in_place_of_the_start_and_resumed(
    whole, data, assert_resumes, monkeypatch
):
    """At another side than the pictures' too, where images are compared at theirs."""
    seen, mixed = [], []

    def features(pictures):
        return pictures.flatten(start_dim=1).cpu()

    class Spy(NearestPictures):
        def __call__(self, images, labels, start):
            mixed.append((images, labels, super().__call__(images, labels, start)))
            return mixed[-1][2]

    def spy(loss, terms, state):
        before = state.images.detach().clone()
        descend(loss, terms, state)
        seen.append((before, state.images.detach().clone()))

    monkeypatch.setattr(loop, "descend", spy)
    config = replace(STAGED, residual_source="nearest", stage_sizes=(8, 6, 8), iterations=6)
    of = {"names": [WRN], "initial": START}
    find = Spy(data, features, torch.device("cpu"), seed=5)
    whole(config, nearest=find, **of)
    assert [len(images) for images, _, _ in mixed] == [6] * 4  # two groups, two borders
    assert mixed[0][1].tolist() == [0, 0, 0, 1, 1, 1]
    for border, step in enumerate((2, 4)):
        images, _, real = mixed[border]
        at_8 = F.interpolate(seen[step - 1][1], (8, 8), mode="bilinear", antialias=True)
        assert torch.allclose(images, at_8)
        sides = [
            F.interpolate(pixels, seen[step][0].shape[2:], mode="bilinear", antialias=True)
            for pixels in (seen[step - 1][1], real)
        ]
        assert torch.allclose(seen[step][0], 0.75 * sides[0] + 0.25 * sides[1], atol=1e-6)
    monkeypatch.undo()
    config = replace(config, batch_size=3, groups=2)
    expected = whole(config, "pairs", nearest=find, **of)
    assert_same_set(whole(replace(config, groups=1), "alone", nearest=find, **of), expected)
    assert_resumes(config, expected, (2, 3, 1), nearest=find, **of)


SIZED = replace(STAGED, stage_sizes=(6, 10, 8))


def test_sides__images_are_brought_to_that_of_each_stage(whole, data, monkeypatch):
    seen = []

    def spy(loss, terms, state):
        before = state.images.detach().clone()
        descend(loss, terms, state)
        seen.append((before, state.images.detach().clone()))

    monkeypatch.setattr(loop, "descend", spy)
    images, _, traces, film = whole(SIZED, names=[WRN], initial=START)
    start = data.normalization.normalize(data.train.images[START[:6]])
    assert [len(before[0, 0]) for before, _ in seen[:8]] == [6, 6, 10, 10, 10, 8, 8, 8]
    resized = {
        side: F.interpolate(start, (side, side), mode="bilinear", antialias=True)
        for side in (6, 8, 10)
    }
    assert torch.equal(seen[0][0], resized[6])
    for step, side in ((2, 10), (5, 8)):
        before = F.interpolate(seen[step - 1][1], (side, side), mode="bilinear", antialias=True)
        mixed = 0.75 * before + 0.25 * resized[side]
        torch.testing.assert_close(seen[step][0], mixed, rtol=0, atol=1e-6)
    assert images.shape == (12, *IMAGE)
    assert torch.equal(film.frames[:, -1], images[::3])
    start = F.interpolate(resized[6][::3], (8, 8), mode="bilinear")  # as it is at the first side
    assert torch.equal(film.frames[:2, 0], data.normalization.denormalize(start))
    assert all(row["conv"] > 0 for row in traces[0])


def test_sides__of_the_pictures_alone_change_nothing(whole):
    plain = whole(STAGED, "plain", initial=START)
    sized = whole(replace(STAGED, stage_sizes=(8, 8, 8)), "sized", initial=START)
    assert torch.equal(sized[0], plain[0])
    assert sized[2] == plain[2]


def test_sides__noise_is_drawn_at_the_first(whole, monkeypatch):
    seen = []

    def spy(state, *rest):
        seen.append(state.images.detach().clone())
        return step_terms(state, *rest)

    monkeypatch.setattr(loop, "step_terms", spy)
    sizes = replace(CONFIG, stages=2, stage_sizes=(32, 8))
    assert whole(sizes, names=[WRN])[0].shape == (12, *IMAGE)
    assert seen[0].shape[2:] == (32, 32)
    assert seen[0].std() == pytest.approx(1, abs=0.03)  # of noise, not of noise that was resized


@pytest.mark.parametrize("weight_class", [0.0, 0.5])
def test_sides__are_resumed_and_shared_as_ever(weight_class, whole, assert_resumes):
    more = {"weight_flatness": 0.25, "weight_class": weight_class, "batch_size": 2, "rounds": 3}
    config = replace(SIZED, **more, beta_dr=0.5, groups=2)
    of = {"names": [WRN], "initial": START}
    expected = whole(config, **of)
    assert_same_set(whole(replace(config, groups=1), "alone", **of), expected)
    stops = (1, 2, 2, 1, 4, 5)  # on both sides of a stage's end, and in late groups
    assert_resumes(config, expected, stops, **of)


# Late starts

LATE = replace(CONFIG, rounds=3, init="real", batch_size=2, beta_dr=0.5)


def test_rounds__late_images_take_part_from_their_start_on(whole, data, monkeypatch):
    """Four classes of three images: two groups a round, which begin at steps 0, 2 and 5 of 8."""
    seen = {}

    def spy(state, stack, *rest):
        seen.setdefault(stack.numbers, []).append((state.step, state.images.detach().clone()))
        return step_terms(state, stack, *rest)

    monkeypatch.setattr(loop, "step_terms", spy)
    images, _, traces, film = whole(LATE, initial=START)
    for group, steps in seen.items():
        begin = (0, 2, 5)[group[0] // 2]
        assert [step for step, _ in steps] == [*range(begin, 8)]
        places = torch.tensor([0, 3]) + group[0] // 2 + group[0] % 2 * 6
        start = data.normalization.normalize(data.train.images[START[places]])
        assert torch.equal(steps[0][1], start)
        assert [row["step"] for row in traces[group[0]]] == [*range(begin, 8)]
    changes = (images.int() - data.train.images[START].int()).abs().double().mean(dim=(1, 2, 3))
    by_round = changes.view(4, 3).mean(dim=0)
    assert by_round[0] > by_round[1] > by_round[2] > 1
    assert torch.equal(film.frames[:, 0], data.train.images[START[::3]])
    assert torch.equal(film.frames[:, -1], images[::3])


def test_rounds__late_groups_follow_the_end_of_the_one_schedule(whole, monkeypatch):
    rates = []

    def spy(loss, terms, state):
        rates.append(state.solver.param_groups[0]["lr"])
        descend(loss, terms, state)

    monkeypatch.setattr(loop, "descend", spy)
    whole(LATE, initial=START)
    steps = [*range(8)] * 2 + [*range(2, 8)] * 2 + [*range(5, 8)] * 2
    expected = [0.2 * (1 + math.cos(math.pi * step / 8)) / 2 for step in steps]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_rounds__groups_are_resumed_and_stay_what_they_are_alone(loop, whole, assert_resumes, bars):
    config = replace(LATE, loop=loop, groups=2, stages=2, residual=0.25, weight_flatness=0.25)
    expected = whole(config, initial=START)
    assert (bars[-1].n, bars[-1].total) == (2 * (8 + 6 + 3), 2 * (8 + 6 + 3))
    assert_same_set(whole(replace(config, groups=1), "alone", initial=START), expected)
    assert_same_set(whole(replace(config, groups=9), "stacked", initial=START), expected)
    assert_resumes(config, expected, (3, 7, 4, 2), initial=START)
    assert (bars[-1].n, bars[-1].total) == (2 * (8 + 6 + 3), 2 * (8 + 6 + 3))


BY_CLASS = replace(CONFIG, weight_class=0.5, weight_densification=0.0, iterations=4)


def test_classes__change_the_images_and_groups_stay_apart(whole, assert_resumes):
    config = replace(BY_CLASS, batch_size=3, beta_dr=0.5, loop="original")
    expected = whole(replace(config, groups=2))
    assert_same_set(whole(config, "alone"), expected)
    assert not torch.equal(whole(replace(config, weight_class=0.0), "without")[0], expected[0])
    assert_resumes(replace(config, groups=2), expected, (3, 2, 1))


def test_absorption__draws_tiles_to_their_anchors_and_is_resumed(whole, assert_resumes):
    """By this term alone, and beside the others."""
    only = {f"weight_{term}": 0.0 for term in TERMS}
    config = replace(CONFIG, **only, weight_absorption=1.0, views=PLAIN, iterations=40)
    boxes = torch.tensor([0, 0, 8, 8]).expand(12, 4, 4)
    tiled = Start(torch.arange(48).view(12, 4) % 40, boxes)
    traces = whole(config, "alone", names=[WRN], initial=tiled)[2]
    for trace in traces:
        assert trace[-1]["absorption"] < 0.9 * trace[0]["absorption"]
    config = replace(CONFIG, weight_absorption=1.0, batch_size=3, groups=2)
    expected = whole(config, initial=tiled)
    assert_same_set(whole(replace(config, groups=1), "single", initial=tiled), expected)
    assert_resumes(config, expected, (4, 7, 1), initial=tiled)


GROUPED = replace(CONFIG, loop="original", difficulty_groups=True, iterations=6)


def test_difficulty_groups__change_the_images_and_batches_stay_apart(whole, assert_resumes):
    """Images of a class begin late, too, so that the groups of images have other numbers."""
    config = replace(GROUPED, batch_size=3, beta_dr=0.5, weight_class=0.3, rounds=2, init="real")
    expected = whole(replace(config, groups=2), initial=START)
    assert_same_set(whole(config, "alone", initial=START), expected)
    without = whole(replace(config, difficulty_groups=False), "without", initial=START)
    assert not torch.equal(without[0], expected[0])
    assert_resumes(replace(config, groups=2), expected, (3, 2, 1), initial=START)


def test_difficulty_groups__image_k_is_matched_with_group_k(whole, monkeypatch):
    """Two batches a group, in every iteration and at another side of the pictures."""
    seen = []

    def spy(state, stack, teachers, *rest):
        seen.append((stack.numbers, [t.levels["channel"].target.mean.clone() for t in teachers]))
        return step_terms(state, stack, teachers, *rest)

    monkeypatch.setattr(loop, "step_terms", spy)
    config = replace(GROUPED, batch_size=2, groups=3, stages=2, stage_sizes=(6, 8))
    whole(config, names=[WRN])
    targets = dict(pair for numbers, (means,) in seen for pair in zip(numbers, means, strict=True))
    assert len(seen) == 2 * 6
    assert sorted(targets) == list(range(6))
    for number in range(6):
        first = 2 * (number // 2)  # the first batch of its group
        assert torch.equal(targets[number], targets[first])
    assert len({float(row.sum()) for row in targets.values()}) == 3


def test_flatness__the_copy_follows_and_is_resumed(whole, assert_resumes, monkeypatch):
    config = replace(STAGED, weight_flatness=0.25, flatness_decay=0.7, batch_size=3, groups=2)
    seen = []

    def spy(state, *rest):
        seen.append((state.images.detach().clone(), state.copies["flatness"].clone()))
        return step_terms(state, *rest)

    monkeypatch.setattr(loop, "step_terms", spy)
    expected = whole(config, initial=START)
    start = copy = seen[0][0]
    for step in range(1, 8):  # the pixels before a step are those after the last one, but for mixes
        now = seen[step][0]
        if step in (2, 5):
            copy = 0.75 * (0.7 * copy + 0.3 * (now - 0.25 * start) / 0.75) + 0.25 * start
        else:
            copy = 0.7 * copy + 0.3 * now
        assert torch.allclose(seen[step][1], copy, atol=1e-5), step
    assert_same_set(whole(replace(config, groups=1), "alone", initial=START), expected)
    assert_resumes(config, expected, (2, 3, 1), initial=START)
    assert expected[2][0][0]["flatness"] == 0 < expected[2][0][1]["flatness"]


# Stops


@pytest.mark.parametrize(
    ("every", "kind", "groups"),
    [(1, "adam", 1), (3, "adam", 1), (1, "sgd", 1), (3, "sgd", 1), (1, "adam", 2), (3, "sgd", 2)],
)
def test_stopped_and_resumed_groups_are_bit_identical(every, kind, groups, whole, assert_resumes):
    optimizer = replace(CONFIG.optimizer, name=kind, lr=0.2 if kind == "adam" else 5.0)
    config = replace(CONFIG, beta_dr=0.5, optimizer=optimizer, batch_size=6 // groups)
    config = replace(config, groups=groups)
    expected = whole(config)
    stops = (0, 5, 3, 1, 4)  # two stacks of eight steps: also at the first one's end
    assert_resumes(config, expected, stops, every)
    film = expected[3]
    assert film.frames.shape[:2] == (4, len(film.steps))


def test_stopped_groups_go_on_where_they_were(whole, teachers, runtime):
    often, calls = replace(runtime, checkpoint_seconds=0), []
    with stop_after(4, teachers[WRN]), pytest.raises(StoppedError):
        whole(CONFIG, runtime=often, names=[WRN])
    with teachers[WRN].register_forward_pre_hook(lambda _, seen: calls.append(len(seen[0]))):
        whole(CONFIG, runtime=often, names=[WRN])
    assert len([size for size in calls if size > 1]) == 2 * 8 - 4


def test_stopped_groups_may_go_on_with_others_at_once(whole, teachers, runtime, tmp_path):
    """What is finished is kept, half-done work of other stacks is not mistaken for one's own."""
    config = replace(CONFIG, batch_size=3, beta_dr=0.5)
    expected = whole(config)
    often = replace(runtime, checkpoint_seconds=0)
    for groups, calls in ((2, 12), (1, 5), (3, 3)):
        with stop_after(calls, *teachers.values()), pytest.raises(StoppedError):
            whole(replace(config, groups=groups), "stopped", often)
    assert_same_set(whole(replace(config, groups=4), "stopped", often), expected)
    assert len(list((tmp_path / "stopped").iterdir())) == 4 + 1  # groups, and the draft


# Memory


@pytest.fixture
def memory(teachers):
    """Call it with the images that fit into one pass; `after` passes, later ones need more."""
    hooks = ExitStack()

    def limit(images, after=0):
        passes = itertools.count()

        def check(_module, arguments):
            count = len(arguments[0])
            if count > images and next(passes) >= after:
                raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

        for model in teachers.values():
            hooks.enter_context(model.register_forward_pre_hook(check))

    with hooks:
        yield limit


@pytest.fixture
def bars(monkeypatch):
    """Every progress bar that is shown, as on a terminal."""
    made = []

    def progress(self, total, name, unit):
        made.append(Bar(total=total, desc=name, unit=unit, file=io.StringIO()))
        return made[-1]

    monkeypatch.setattr(Runtime, "progress", progress)
    return made


FOUR = replace(CONFIG, batch_size=3, beta_dr=0.5, groups=4)


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize(("fits", "groups"), [(6, [2]), (3, [2, 1]), (11, [2]), (5, [2, 1])])
def test_memory__too_many_groups_at_once_are_halved(
    fits, groups, after, whole, memory, bars, caplog, runtime, tmp_path
):
    expected = whole(replace(FOUR, groups=groups[-1]), "expected")
    memory(fits, after)
    with caplog.at_level(logging.WARNING, "gvbsm"):
        found = whole(FOUR, "halved", replace(runtime, checkpoint_seconds=0))
    assert torch.equal(found[0], expected[0])
    assert found[2] == expected[2]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(groups)
    for line, before, now in zip(told, (4, *groups), groups, strict=False):
        assert f"{before} groups at once" in line
        assert line.endswith(f"going on with {now}")
    assert (bars[-1].n, bars[-1].total) == (4 * 8, 4 * 8)
    assert len(list((tmp_path / "halved").iterdir())) == 4 + 1  # groups, and the draft


def test_memory__what_does_not_fit_alone_is_one_clear_line(whole, memory):
    memory(2)
    with pytest.raises(
        RunError, match=r"^out of memory with 3 images.*synthesis\.batch_size"
    ) as error:
        whole(replace(FOUR, groups=1))
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_memory__halving_ends_there_too(whole, memory, caplog):
    memory(2)
    with caplog.at_level(logging.WARNING, "gvbsm"), pytest.raises(RunError, match="out of memory"):
        whole(FOUR)
    assert len(caplog.records) == 2


def test_progress__counts_what_was_done_before(whole, teachers, bars, runtime):
    often = replace(runtime, checkpoint_seconds=0)
    config = replace(FOUR, groups=2)
    with stop_after(11, *teachers.values()), pytest.raises(StoppedError):
        whole(config, runtime=often)
    assert bars[-1].n == 2 * 11
    moments = []
    with teachers[WRN].register_forward_pre_hook(lambda *_: moments.append(bars[-1].n)):
        whole(config, runtime=often)
    assert moments[0] >= 2 * 8  # the first stack, whose files are there
    assert (bars[-1].n, bars[-1].total) == (4 * 8, 4 * 8)


# Pixels and trace


def test_pixels_are_valid_after_every_step(whole, data, runtime, monkeypatch):
    kept, save = [], Checkpoint.save

    def spy(self, tensors, state):
        kept.append(tensors["images"].detach().clone())
        save(self, tensors, state)

    monkeypatch.setattr(Checkpoint, "save", spy)
    images, _, _, _ = whole(CONFIG, runtime=replace(runtime, checkpoint_seconds=0))
    assert len(kept) == 2 * 7
    mean, std = (
        torch.tensor(part)[:, None, None]
        for part in (data.normalization.mean, data.normalization.std)
    )
    pixels = torch.stack(kept) * std + mean
    assert pixels.min() == pytest.approx(0, abs=1e-6)  # some are on the bounds, none beyond
    assert pixels.max() == pytest.approx(1, abs=1e-6)
    assert images.dtype == torch.uint8
    assert images.shape == (12, 3, 8, 8)
    shifted = data.normalization.normalize(images) * std + mean  # a round trip of the last step
    assert torch.equal((shifted * 255).round().to(torch.uint8), images)
    last = torch.cat([kept[6], kept[13]]) * std + mean
    step = (shifted - last).abs()  # one Adam step at the end of the cosine, and the rounding
    assert step.max() < 0.2 * 0.05 * 2 * float(std.max()) + 0.5 / 255


def test_pixels__truncated_they_are_of_the_level_below(whole):
    nearest, _, _, _ = whole(CONFIG, "nearest")
    truncated, _, _, film = whole(replace(CONFIG, rounding="truncate"), "truncated")
    darker = nearest.int() - truncated.int()
    assert set(darker.unique().tolist()) == {0, 1}
    inside = (truncated > 0) & (truncated < 255)
    assert darker[inside].double().mean() == pytest.approx(0.5, abs=0.08)
    assert torch.equal(film.frames[:, -1], truncated[::3])


def test_pixels__images_have_no_black_border(whole):
    """They are padded when they are normalized, unlike the pictures that they are matched with."""
    padded = replace(CONFIG, views=ViewConfig(crop="pad", padding=2))
    black = replace(padded, views=replace(padded.views, border="black"))
    assert torch.equal(whole(black, "black")[0], whole(padded, "mean")[0])


# Film


@pytest.mark.parametrize("loop", ["reorder", "original"])
def test_film__shows_each_class_from_the_start_to_the_end(loop, whole, data):
    initial = torch.tensor([7, 3, 12, 9, 0, 1, 30, 31, 2, 39, 20, 21])
    config = replace(CONFIG, loop=loop, batch_size=5, iterations=40)
    images, _, _, film = whole(config, initial=initial)
    assert film.labels.tolist() == [0, 1, 2, 3]
    assert film.steps.tolist() == frame_steps(40)
    assert film.frames.shape == (4, len(film.steps), *IMAGE)
    assert film.frames.dtype == torch.uint8
    assert torch.equal(film.frames[:, 0], data.train.images[initial[::3]])
    assert torch.equal(film.frames[:, -1], images[::3])


def test_film__a_frame_is_what_a_shorter_run_ends_with(whole):
    """With a constant learning rate, so that the steps do not depend on how many follow."""
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, schedule="constant"))
    film = whole(replace(config, iterations=20), "long")[3]
    for frame, step in list(enumerate(film.steps.tolist()))[1::3]:
        images = whole(replace(config, iterations=step), f"until-{step}")[0]
        assert torch.equal(film.frames[:, frame], images[::3]), step


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
    _, _, traces, _ = whole(config, names=[CONVNET])
    steps = [row["step"] for row in traces[0]]
    assert steps[:12] == [*range(10), 10, 12]  # every second after the first ten
    assert steps[-1] == 229
    header = read_header(tmp_path / "whole" / "group-00001.safetensors")
    assert header["trace"] == traces[1]
    assert {"step", "teacher", "densification_gradient", *TERMS} == traces[0][0].keys()


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_loss_decreases(name, whole):
    config = replace(CONFIG, iterations=60, views=PLAIN, beta_dr=0.0)
    _, _, traces, _ = whole(config, names=[name])
    for trace in traces:
        for term in ("cross_entropy", "conv") + ("batchnorm",) * (name == WRN):
            assert trace[-1][term] < 0.6 * trace[0][term], term


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_divergence_names_the_group(group, teachers):
    teachers[CONVNET].get_parameter("classifier.bias").data[0] = math.nan
    line = r"^synthesis of batch 3: the loss became nan at iteration 0, first in layer classifier "
    with pytest.raises(RunError, match=line + rf"of {CONVNET}; lower synthesis\.optimizer\.lr$"):
        group(CONFIG)


def test_pixels_that_are_not_finite_are_never_kept(
    group, runtime, monkeypatch, checkpoint_every, tmp_path
):
    """The gradient of step 3 breaks; a checkpoint is due at each second step."""
    expected, trace = group(CONFIG, path=tmp_path / "whole")
    checkpoint_every(2)
    calls = itertools.count()

    def breaking(loss, terms, state):
        descend(loss, terms, state)
        if next(calls) == 3:
            state.images.data[0, 0, 0, 0] = math.nan

    monkeypatch.setattr(loop, "descend", breaking)
    line = r"^synthesis of batch 3: the pixels are no longer finite after 4 iterations; lower"
    with pytest.raises(RunError, match=line):
        group(CONFIG)
    monkeypatch.undo()
    again, retraced = group(CONFIG)  # goes on from the checkpoint of step 2
    assert torch.equal(again, expected)
    assert retraced == trace


def test_pixels_that_break_between_checkpoints_are_named_at_the_next_look(group, monkeypatch):
    def breaking(loss, terms, state):
        descend(loss, terms, state)
        state.images.data[0, 0, 0, 0] = math.nan

    monkeypatch.setattr(loop, "descend", breaking)
    with pytest.raises(RunError, match="no longer finite after 1 iterations"):
        group(CONFIG)  # the eigenvalues of L_DD are the first to notice
    with pytest.raises(RunError, match="nan at iteration 1, first in the pixels"):
        group(replace(CONFIG, weight_densification=0.0))
    with pytest.raises(RunError, match="no longer finite after 1 iterations"):
        group(replace(CONFIG, iterations=1))


def test_divergence_is_one_clear_line(group, teachers):
    """And no warning of torch's before it, which is given once a process unless asked for."""
    teachers[CONVNET].get_parameter("classifier.bias").data[0] = math.nan
    torch.set_warn_always(True)
    try:
        with pytest.raises(RunError):
            group(CONFIG)
    finally:
        torch.set_warn_always(False)
