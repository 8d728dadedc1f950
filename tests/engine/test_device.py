"""The device, precision, memory, cores and progress bars."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gvbsm.engine.device import RunError, Runtime, keep_memory, resolve_runtime
from gvbsm.engine.forms import Forms
from gvbsm.engine.launch import Launch
from gvbsm.engine.processes import Processes

CPU = torch.device("cpu")


def test_resolve_runtime_on_the_cpu():
    runtime = resolve_runtime("cpu", "auto", 3, 5.0, quiet=True)
    assert runtime == Runtime(CPU, "fp32", 3, 5.0, quiet=True)
    assert resolve_runtime("cpu", "bf16", 0, 60.0, quiet=False).precision == "bf16"


def test_auto_takes_a_gpu_where_there_is_one():
    runtime = resolve_runtime("auto", "fp32", 0, 60.0, quiet=True)
    assert runtime.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["tpu", "", "cuda:x", "cuda:99", "cpu cuda", "meta"])
def test_a_device_that_is_not_there_is_told_in_one_line(device):
    with pytest.raises(RunError, match=f"device '{device}' is not available") as caught:
        resolve_runtime(device, "auto", 0, 60.0, quiet=True)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_without_a_gpu_is_told_in_one_line():
    with pytest.raises(RunError, match="device 'cuda' is not available") as caught:
        resolve_runtime("cuda", "auto", 0, 60.0, quiet=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_autocast(precision, dtype):
    layer = nn.Linear(2, 2)
    with Runtime(CPU, precision, 0).autocast():
        assert layer(torch.ones(1, 2)).dtype == getattr(torch, dtype)
    assert layer(torch.ones(1, 2)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_the_precisions_are_those_of_the_forms_of_single_networks():
    table = {"a": {"training": "bf16 compiled"}, "b": {"training": "fp32", "pixels": "bf16"}}
    assert Runtime(CPU, "fp32", 0).precisions == "fp32"
    assert Runtime(CPU, "fp32", 0, forms=Forms({"a": table["a"]})).precisions == "bf16"
    assert Runtime(CPU, "fp32", 0, forms=Forms(table)).precisions == "bf16, fp32"


def test_place_keeps_values_and_takes_channels_last_where_it_helps():
    def is_last(model):
        return model[0].weight.is_contiguous(memory_format=torch.channels_last)

    for precision, norm, last in (
        ("fp32", nn.BatchNorm2d(8), False),
        ("bf16", nn.BatchNorm2d(8), True),
        ("bf16", nn.GroupNorm(2, 8), False),
    ):
        model = nn.Sequential(nn.Conv2d(4, 8, 3), norm)
        before = model[0].weight.detach().clone()
        placed = Runtime(CPU, precision, 0).place(model)
        assert is_last(placed) == last
        assert torch.equal(placed[0].weight, before)


# Memory


def test_keep_memory_asks_glibc_to_keep_what_is_freed(monkeypatch):
    """M_MMAP_MAX (-4), M_TRIM_THRESHOLD (-1) and M_TOP_PAD (-2) of mallopt(3), as C ints."""
    asked, opened = {}, []
    library = SimpleNamespace(mallopt=asked.__setitem__)
    monkeypatch.setattr("ctypes.CDLL", lambda name: opened.append(name) or library)
    keep_memory()
    assert opened == [None]
    assert asked == {-4: 0, -1: 2**31 - 1, -2: 64 * 2**20}


@pytest.mark.parametrize("error", [OSError, TypeError, None])
def test_keep_memory_does_nothing_where_there_is_no_glibc(error, monkeypatch):
    def library(_name):
        if error is not None:
            raise error("no such library")
        return SimpleNamespace()  # a C library without mallopt

    monkeypatch.setattr("ctypes.CDLL", library)
    keep_memory()
    assert resolve_runtime("cpu", "auto", 3, 5.0, quiet=True).device == CPU


def test_memory_is_kept_on_the_cpu_alone(monkeypatch):
    kept = []
    monkeypatch.setattr("gvbsm.engine.device.keep_memory", lambda: kept.append(True))
    resolve_runtime("cpu", "fp32", 0, 60.0, quiet=True)
    assert kept == [True]
    with pytest.raises(RunError):
        resolve_runtime("cuda:99", "fp32", 0, 60.0, quiet=True)
    assert kept == [True]


# Progress


def test_progress_is_silent_where_there_is_no_terminal(capsys):
    for quiet in (True, False):
        runtime = Runtime(CPU, "fp32", 0, quiet=quiet)
        with runtime.progress(3, "squeeze", "step") as bar:
            bar.update(2)
            bar.set_postfix(loss=1.0)
        assert list(runtime.track(range(3), "reading")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_has_name_and_rate_unless_quiet(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for quiet in (True, False):
        runtime = Runtime(CPU, "fp32", 0, quiet=quiet)
        with runtime.progress(3, "squeeze resnet18", "step") as bar:
            bar.update(3)
        assert list(runtime.track([1], "reading pictures")) == [1]
        out, err = capsys.readouterr()
        assert out == ""
        assert ("squeeze resnet18" in err) == ("reading pictures" in err) == (not quiet)


# Processes that decode pictures


@pytest.mark.parametrize(
    ("cores", "here", "expected"), [(16, 1, 16), (16, 4, 4), (15, 4, 3), (2, 4, 1), (1, 1, 1)]
)
def test_processes_of_a_machine_share_the_cores_that_they_may_use(
    monkeypatch, cores, here, expected
):
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    us = Processes(Launch(0, 8, 0, here))
    runtime = resolve_runtime("cpu", "fp32", 0, 60.0, quiet=True, processes=us)
    assert runtime.workers(None) == expected
    assert [runtime.workers(chosen) for chosen in (0, 5)] == [0, 5]
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert runtime.workers(None) == 999 // here


def test_several_processes__take_a_gpu_each_and_the_first_alone_shows_progress(monkeypatch):
    def runtime(rank, device="cpu"):
        us = Processes(Launch(rank, 3, rank))
        return resolve_runtime(device, "fp32", 0, 60.0, quiet=False, processes=us)

    assert [runtime(rank).quiet for rank in range(3)] == [False, True, True]
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    devices = [str(runtime(rank, "cuda").device) for rank in range(2)]
    assert devices == list(map(str, taken)) == ["cuda:0", "cuda:1"]
    assert str(runtime(2, "cuda:0").device) == "cuda:0"  # all share it
    with pytest.raises(RunError, match="process 2 would take cuda:2, but there are 2 GPUs"):
        runtime(2, "cuda")


@pytest.mark.parametrize(("visible", "device"), [(1, "cuda:0"), (4, "cuda:2")])
def test_a_process_of_slurm_takes_the_gpu_that_it_alone_sees(visible, device, monkeypatch):
    """With --gpus-per-task each sees one; without, it takes the one of its number."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    us = Processes(Launch(2, 4, 2, 4, ("node", 1)))
    assert str(resolve_runtime("cuda", "fp32", 0, 60.0, True, processes=us).device) == device
