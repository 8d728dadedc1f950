"""Machine matters: seeds that belong to a purpose, devices, precision, progress, finite losses."""

import hashlib
import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gvbsm.engine.device import (
    RunError,
    Runtime,
    check_finite,
    derived_seed,
    generator_for,
    get_random_state,
    keep_memory,
    resolve_runtime,
    seeded,
    set_random_state,
)
from gvbsm.engine.launch import Launch
from gvbsm.engine.processes import Processes

CPU = torch.device("cpu")


def draw(generator):
    return torch.randint(2**62, (8,), generator=generator).tolist()


# Seeds


def test_a_seed_is_the_hash_of_its_path():
    digest = hashlib.sha256(b"7/squeeze/resnet18/3").digest()
    assert derived_seed(7, "squeeze", "resnet18", 3) == int.from_bytes(digest[:8], "big") // 2
    assert 0 <= derived_seed(0) < 2**63


def test_generators_are_reproducible_and_differ_for_every_path():
    paths = [(), ("a",), ("b",), ("a", 0), ("a", 1), ("a", "views"), ("views", "a"), ("a", 0, 1)]
    drawn = {(seed, path): draw(generator_for(seed, *path)) for seed in (0, 1) for path in paths}
    assert len(set(map(tuple, drawn.values()))) == len(drawn)
    for (seed, path), numbers in drawn.items():
        assert draw(generator_for(seed, *path)) == numbers
        assert draw(Runtime(CPU, "fp32", seed).generator(*path)) == numbers


def test_neighbouring_seeds_give_independent_numbers():
    rows = torch.stack(
        [torch.randn(256, generator=generator_for(0, "step", step)) for step in range(64)]
    )
    correlation = torch.corrcoef(rows) - torch.eye(64)
    assert float(correlation.abs().max()) < 5 / 256**0.5  # 5 deviations over 2016 pairs
    assert float(rows.mean().abs()) < 5 / rows.numel() ** 0.5


def test_a_generator_neither_reads_nor_moves_the_global_one():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = draw(generator_for(3, "x"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert draw(generator_for(3, "x")) == first


def test_seeded_is_reproducible_and_gives_back_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(0, "weights"):
        first = nn.Linear(4, 4).weight.detach().clone()
    assert torch.equal(torch.rand(3), expected)
    with seeded(0, "weights"):
        again = nn.Linear(4, 4).weight.detach().clone()
    with seeded(0, "others"):
        other = nn.Linear(4, 4).weight.detach().clone()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_state_brings_dropout_back_to_where_it_was():
    with seeded(0, "dropout"):
        torch.rand(3)
        state = get_random_state(CPU)
        expected = torch.rand(5)
        set_random_state(CPU, state)
        assert torch.equal(torch.rand(5), expected)


def fail_inside():
    with seeded(0, "weights"):
        torch.rand(3)
        raise KeyError("x")


def test_seeded_gives_back_the_global_generator_after_a_failure():
    state = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(torch.get_rng_state(), state)


# Device and precision


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


# Finite losses


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_check_finite_names_the_work_the_value_and_the_cure(value):
    with pytest.raises(RunError, match=f"squeeze resnet18.*{value}.*lower the rate") as caught:
        check_finite(torch.tensor(float(value)), "squeeze resnet18", "lower the rate")
    assert "\n" not in str(caught.value)


def test_check_finite_lets_numbers_pass():
    for value in (0.0, -1e38, 1e-45):
        check_finite(torch.tensor(value), "x", "y")


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
