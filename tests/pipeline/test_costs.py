"""Costs are timed once a machine, in the forms of the run, and kept."""

from dataclasses import replace

import pytest
import torch

from gvbsm.config import ViewConfig
from gvbsm.config.build import as_config
from gvbsm.engine.forms import Form, Forms
from gvbsm.pipeline.forms.machine_cache import MachineCache
from gvbsm.pipeline.planning import costs
from gvbsm.pipeline.planning.costs import MeasuredCosts
from gvbsm.pipeline.planning.estimate import plan_settings
from gvbsm.pipeline.planning.timing_task import TimingTask, picture_seconds
from gvbsm.pipeline.planning.work import Work

NET = "convnet8_d1"
STEP = Work("training", NET, 4, 8, (("optimizer", "sgd"), ("averaged", False)))


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Works that are timed, each of which takes 2 seconds a picture."""
    monkeypatch.setenv("HOME", str(tmp_path))
    works = []
    timings = {task: lambda _task, work: works.append(work) or 2.0 for task in costs.TIMINGS}
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
        {"weight_conv": 0.0, "weight_batchnorm": 0.0, "weight_densification": 0.0},
        {"loop": "original", "optimizer": {"name": "sgd"}},
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
    plan = plan_settings(as_config(settings), data, MeasuredCosts(TimingTask(data, runtime)))
    drawn = torch.rand(1)
    assert all(
        part.seconds > 0 for part in plan.parts if part.key not in ("synthesis/random-soft",)
    )
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # planning draws no random numbers of the run


def test_picture_seconds__extrapolates_what_takes_long():
    sizes = []

    def times(steps, size):
        sizes.append(size)
        return [9.0] + [0.5 + 0.1 * size] * (steps - 1)  # the first step is not counted

    assert picture_seconds(times, 100) == pytest.approx((0.5 + 0.1 * 100) / 100)
    assert max(sizes) < 100
    assert picture_seconds(times, 2) == pytest.approx(0.7 / 2)
    assert picture_seconds(lambda steps, size: [0.001] * steps, 10) == pytest.approx(0.0001)
