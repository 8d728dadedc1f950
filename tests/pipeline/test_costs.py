"""Costs are timed once a machine, in the forms of the run, and kept."""

import sys
from dataclasses import replace

import pytest
import torch

from gvbsm.backbones.cost import weight_bytes
from gvbsm.config import ConfigError, ViewConfig
from gvbsm.config.build import as_config
from gvbsm.data.epochs import settle
from gvbsm.engine.forms import Form, Forms
from gvbsm.files.plugins import admit
from gvbsm.pipeline.evaluated_sets import evaluated_sets
from gvbsm.pipeline.forms.machine_cache import MachineCache
from gvbsm.pipeline.planning import costs
from gvbsm.pipeline.planning.costs import MeasuredCosts
from gvbsm.pipeline.planning.estimate import plan_run
from gvbsm.pipeline.planning.timing_task import TimingTask, picture_cost
from gvbsm.pipeline.planning.work import Cost, Work
from support.corruptions import stand_in

NET = "convnet8_d1"
STEP = Work("training", NET, 4, 8, (("optimizer", "sgd"), ("averaged", False)))


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Works that are timed, each of which takes 2 seconds a picture."""
    monkeypatch.setenv("HOME", str(tmp_path))
    works = []
    timings = {
        task: lambda _task, work, _memory: works.append(work) or Cost(2.0, 1000 * work.batch)
        for task in costs.TIMINGS
    }
    monkeypatch.setattr(costs, "TIMINGS", timings)
    return works


def test_costs__are_timed_once_a_machine(timed, data, runtime):
    measured = MeasuredCosts(TimingTask(data, runtime))
    assert [measured(STEP), measured(STEP), MeasuredCosts(TimingTask(data, runtime))(STEP)] == [
        2
    ] * 3
    assert timed == [STEP]
    measured(STEP._replace(batch=5))
    assert len(timed) == 2


def test_costs__of_code_of_one_s_own_are_those_of_its_present_file(timed, data, runtime, tmp_path):
    file = tmp_path / "own.py"
    net, term = f"{file}:Net", f"{file}:term"
    works = [STEP._replace(network=net), STEP._replace(settings=(("extra", term),))]
    for version in range(2):
        file.write_text(f"class Net: ...\n\n\ndef term(): return {version}\n")
        admit([net, term])
        for work in works * 2:
            MeasuredCosts(TimingTask(data, runtime))(work)
    assert timed == works * 2


def test_costs__are_those_of_the_form_of_the_run(timed, data, runtime):
    MeasuredCosts(TimingTask(data, runtime))(STEP)
    in_bf16 = replace(runtime, forms=Forms({NET: {"training": "bf16"}}))
    MeasuredCosts(TimingTask(data, in_bf16))(STEP)
    assert len(timed) == 2
    compiled = replace(runtime, forms=Forms({NET: {"training": "fp32 compiled"}}))
    row = [0.4, 0.1, 30.0, 2.0]  # a batch takes a fourth of the time
    MachineCache(runtime).put(f"{NET} training compiled fp32 4 3 8 8", [row])
    assert MeasuredCosts(TimingTask(data, compiled))(STEP) == 0.5


def test_compiled_networks_are_timed_in_the_layout_that_is_usual_without(data, runtime):
    task = TimingTask(data, runtime)
    form = Form("bf16", "channels-last", compiled=True)
    assert task.quiet(runtime.in_form(form)).form == ("bf16", None, False)
    eager = form._replace(compiled=False)
    assert task.quiet(runtime.in_form(eager)).form == eager


def test_costs__of_files_are_those_of_a_data_set(timed, data, streamed, runtime):
    views = Work("real views", "", 4, 8, (("views", ViewConfig()),))
    for pictures in (data, streamed, replace(streamed, fingerprint="other")):
        MeasuredCosts(TimingTask(pictures, runtime, workers=2))(views)
    assert len(timed) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"init": "real", "rounds": 2, "weight_class": 0.5, "weight_flatness": 1.0},
        {"init": "crops", "crop_tiles": 2, "weight_absorption": 1.0},
        {"weight_conv": 0.0, "weight_batchnorm": 0.0, "weight_densification": 0.0},
        {"loop": "original", "optimizer": {"name": "sgd"}, "difficulty_groups": True},
    ],
)
def test_costs__of_every_work_of_a_run_can_be_timed(changes, data, runtime, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = {
        "ipc": 2,
        "squeeze": {"backbones": ["wrn10_1", NET], "epochs": 1, "batch_size": 8},
        "synthesis": {"batch_size": 4, "iterations": 8, **changes},
        "labels": {"epochs": 2, "storage": {"top_k": 2, "bits": 8}},
        "evaluation": {"students": [NET], "ema": 0.9, "optimizer": {"name": "muon"}},
        "baselines": {"methods": ["herding-hard", "random-soft"]},
    }
    torch.manual_seed(1)
    measured = MeasuredCosts(TimingTask(data, runtime))
    config = settle(as_config(settings), data.class_names)
    sets = list(evaluated_sets(config, tmp_path))
    plan = plan_run(config, sets, data, measured, memory=measured.memory)
    drawn = torch.rand(1)
    assert all(
        part.seconds > 0 for part in plan.parts if part.key not in ("synthesis/random-soft",)
    )
    without = ("start-up", "synthesis/random-soft")
    if sys.platform == "linux":
        assert all(part.memory > 10**7 for part in plan.parts if part.key not in without)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # planning draws no random numbers of the run


def test_corrupted_copies_are_timed_after_a_first_call(runtime, data, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    calls = stand_in(monkeypatch)
    settings = (("kind", "fog"), ("severities", (2, 5)))
    measured = MeasuredCosts(TimingTask(data, runtime))
    assert 0 < measured(Work("corrupting", "", 1, 8, settings)) < 10
    assert [(severity, kind) for _, severity, kind, _ in calls] == [(2, "fog"), (5, "fog")] * 2
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ConfigError, match="needs the package imagecorruptions-imaug"):
        measured(Work("corrupting", "", 1, 16, settings))


class Linear:
    """Memory of a step: a number of bytes, and more for each picture of the latest batch."""

    def __init__(self, sizes):
        self.sizes = sizes

    def begin(self):
        pass

    def taken(self):
        return 1000 + 10 * self.sizes[-1]


def test_picture_cost__extrapolates_what_takes_long():
    sizes = []

    def times(steps, size):
        sizes.append(size)
        return [9.0] + [0.5 + 0.1 * size] * (steps - 1)  # the first step is not counted

    large = picture_cost(times, 100, Linear(sizes))
    assert large == pytest.approx(((0.5 + 0.1 * 100) / 100, 1000 + 10 * 100))
    assert max(sizes) < 100
    assert picture_cost(times, 2, Linear(sizes)) == pytest.approx((0.7 / 2, 1020))
    quick = picture_cost(lambda steps, size: [0.001] * steps, 10, Linear([4]))
    assert quick == pytest.approx((0.0001, 1040))


def test_picture_cost__without_known_memory(monkeypatch):
    monkeypatch.setattr(Linear, "taken", lambda _: None)
    assert picture_cost(lambda steps, size: [0.001] * steps, 10, Linear([])).nbytes is None


def test_memory__of_the_largest_step_beside_all_weights(timed, data, runtime, monkeypatch):
    """5 networks' worth of weights never adds up with 2 peaks: one network works at a time."""
    monkeypatch.setattr(costs, "memory_in_use", lambda _device: 10**6)
    measured = MeasuredCosts(TimingTask(data, runtime))
    weights = {name: weight_bytes(name, 4, 8, 3) for name in (NET, "wrn10_1")}
    large, small = STEP._replace(batch=10**4), STEP._replace(network="wrn10_1", batch=1)
    assert measured.memory([]) == 10**6 + costs.REPORT_BYTES
    assert measured.memory([STEP]) == 10**6 + max(weights[NET], 4000)
    both = 10**6 + 10**7 + weights["wrn10_1"]
    assert measured.memory([large, small, STEP]) == both
    loading = Work("set batches", "", 5, 8, (("images", 7),))
    assert measured.memory([large, small, loading]) == both + 5000 + 7 * 3 * 8 * 8
    monkeypatch.setattr(costs, "memory_in_use", lambda _device: None)
    assert MeasuredCosts(TimingTask(data, runtime)).memory([STEP]) is None
