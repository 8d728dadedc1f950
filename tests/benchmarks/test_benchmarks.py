"""The benchmarks do the work that they time, on tiny networks; no test looks at a time."""

import json
import mmap
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import contests
import forms
import gpu
import memory
import noise
import processes
import race
import scaling
import storage
from gvbsm.config import SynthesisConfig
from gvbsm.engine.averaging import Averaging
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method.beyond.class_matching import ClassMatching
from gvbsm.method.layers import matched_layers
from support.toy import CONVNET, WRN
from timing import limited

BENCHMARKS = Path(race.__file__).parent
SMALL = SynthesisConfig(batch_size=6)

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


def call_main(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


# Steps


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_synthesis__full_is_an_iteration_beside_a_bare_network(name, runtime):
    synthesis = noise.Synthesis(name, SMALL, runtime, classes=5, size=8)
    before = {key: value.clone() for key, value in synthesis.model.state_dict().items()}
    pixels = [synthesis.images.detach().clone()]
    full = synthesis.full(compiled=False)
    for _ in range(3):
        full()
        pixels.append(synthesis.images.detach().clone())
        assert pixels[-1].min() >= 0  # mean 0 and deviation 1: valid pixels are those in [0, 1]
        assert pixels[-1].max() <= 1
    assert all(not torch.equal(one, following) for one, following in pairwise(pixels))
    synthesis.bare()
    assert torch.equal(synthesis.images.detach(), pixels[-1])
    assert synthesis.images.grad is None
    after = synthesis.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(parameter.grad is None for parameter in synthesis.model.parameters())


def test_synthesis__matches_every_layer_of_a_compiled_network(runtime, monkeypatch):
    calls, compiled = [], noise.CompiledObserver
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: function)

    def listening(model, paths, n_p):
        observer = compiled(model, paths, n_p)

        def call(x, layers, groups):
            calls.append((len(x), set(layers), groups))
            return observer(x, layers, groups)

        return call

    monkeypatch.setattr(noise, "CompiledObserver", listening)
    synthesis = noise.Synthesis(WRN, SMALL, runtime, classes=4, size=8, groups=2)
    full = synthesis.full(compiled=True)
    full()
    full()
    layers = matched_layers(synthesis.model)
    assert calls == [(12, {*layers.batchnorm, *layers.conv}, 2)] * 2


def test_synthesis__compares_each_class_where_the_setting_does(runtime, monkeypatch):
    calls, adjust = [], ClassMatching.adjust

    def listening(self, state, teacher, sums, distances):
        calls.append(sums.name)
        return adjust(self, state, teacher, sums, distances)

    monkeypatch.setattr(ClassMatching, "adjust", listening)
    config = SynthesisConfig(batch_size=6, weight_class=0.5)
    full = noise.Synthesis(WRN, config, runtime, classes=3, size=8).full(compiled=False)
    full()
    assert calls == ["channel", "patch"]


@pytest.mark.parametrize("optimizer", contests.OPTIMIZERS)
def test_student__is_a_whole_training_step(optimizer, runtime, monkeypatch):
    """Each step reads stored labels, changes the network and updates its average."""
    updates, update = [], Averaging.update
    monkeypatch.setattr(Averaging, "update", lambda self: updates.append(update(self)))
    (contest,) = contests.students([contests.Student(WRN, 5, optimizer, 8, 2)], 1, runtime)
    limited(contest.steps, 6)
    assert len(updates) == 6
    assert contest.name == f"{WRN} 5 {optimizer}, 8 px"
    contest.bare()


@pytest.mark.parametrize("optimizer", contests.OPTIMIZERS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bare_training__changes_all_parameters(optimizer, memory_format, runtime):
    model = noise.network(WRN, runtime, size=32).to(memory_format=memory_format)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    contests.bare_step(model, optimizer, torch.randn(4, 3, 32, 32), runtime)()
    pairs = zip(before, model.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in pairs)


def test_contests__of_the_other_stages_do_their_work(runtime):
    kinds = [
        *contests.squeeze([CONVNET], 8, runtime),
        *contests.statistics([CONVNET, WRN], runtime),
        *contests.labels([CONVNET, WRN], runtime),
        *contests.synthesis([CONVNET], [False], runtime),
    ]
    assert [contest.stage for contest in kinds] == ["squeeze", "statistics", "labels", "synthesis"]
    for contest in kinds:
        limited(contest.steps, 2)
        contest.bare()


def test_network__is_the_same_each_time(runtime):
    first, second = (noise.network(WRN, runtime).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


# Commands


def test_race__prints_a_row_for_each_contest_and_writes_the_figures(monkeypatch, capsys, tmp_path):
    path = tmp_path / "race.json"
    options = ["--rounds", 1, "--seconds", 0, "--backbones", CONVNET, "--compiled", "--json", path]
    students = ["--students", CONVNET, "--batches", 5, 7, "--optimizers", "sgd", "--profile"]
    call_main(race, monkeypatch, *options, *students)
    rows = json.loads(path.read_text())["rows"]
    names = [(row["stage"], row["name"]) for row in rows]
    assert names == [
        ("squeeze", CONVNET),
        ("statistics", "all teachers"),
        ("synthesis", CONVNET),
        ("labels", "all teachers"),
        ("student", f"{CONVNET} 5 sgd"),
        ("student", f"{CONVNET} 7 sgd"),
    ]
    out = capsys.readouterr().out
    for stage, name in names:
        assert f"{stage}, {name}" in out
    assert out.count("operation") == len(names)  # the head of a profile


def test_race__all_takes_every_student_batch_and_optimizer():
    options = race.options_of(["--all"])
    assert options.students == contests.STUDENTS
    assert options.batches == contests.BATCHES
    assert options.optimizers == list(contests.OPTIMIZERS)
    assert options.compiled == options.backbones == contests.BACKBONES


def test_scaling__slope_of_a_power():
    assert scaling.slope({5: 50.0, 10: 100.0, 40: 400.0}) == pytest.approx(1)
    assert scaling.slope({2: 7.0, 4: 7.0}) == pytest.approx(0)
    assert scaling.slope({16: 3.0 * 16**2, 32: 3.0 * 32**2}, power=2) == pytest.approx(1)


def test_scaling__measures_all_stages_and_draws_them(monkeypatch, capsys, tmp_path):
    growth = {"classes": (2, 3), "ipc": (2, 3), "side": (8, 12), "backbones": (1, 2)}
    monkeypatch.setattr(scaling, "BASE", scaling.Extent(2, 2, 8, 1))
    monkeypatch.setattr(scaling, "GROWTH", growth)
    figure, path = tmp_path / "scaling.svg", tmp_path / "scaling.json"
    call_main(scaling, monkeypatch, "--rounds", 1, "--figure", figure, "--json", path)
    out = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in out.splitlines()[3:]] == [
        f"| {stage}" for stage in scaling.STAGES
    ]
    assert figure.read_text().count("<svg") == 1
    seconds = json.loads(path.read_text())["seconds"]
    assert all(min(costs.values()) > 0 for growth in seconds.values() for costs in growth.values())


def test_storage__fewer_bits_take_fewer_bytes(monkeypatch, capsys, tmp_path):
    for name, size in (("IMAGES", 30), ("CLASSES", 20), ("SIZE", 8), ("EPOCHS", 2), ("ROUNDS", 1)):
        monkeypatch.setattr(storage, name, size)
    monkeypatch.setattr(storage, "NETWORK", CONVNET)
    path = tmp_path / "storage.json"
    call_main(storage, monkeypatch, "--json", path)
    figures = json.loads(path.read_text())
    sizes = [row["bytes"] for row in figures["schemes"].values()]
    assert all(size < sizes[0] for size in sizes[1:])  # the first keeps everything
    assert capsys.readouterr().out.count(" written ") == len(sizes)


def test_processes__rates_are_of_the_median_round(monkeypatch):
    rounds = {1: iter([8.0, 80.0, 7.0]), 2: iter([4.0, 4.0, 0.1])}
    started = []

    def seconds(number, *_options):
        started.append(number)
        return next(rounds[number])

    monkeypatch.setattr(processes, "seconds_of", seconds)
    images = 10 * processes.IPC * processes.ITERATIONS
    assert processes.measure([1, 2], "cpu", "fp32") == {1: images / 8, 2: images / 4}
    assert started == [2, 1, 1, 2, 2, 1]  # in turns


@pytest.mark.parametrize("section", sorted({*gpu.SECTIONS} - {"side-by-side"}))
def test_gpu__each_section_prints_rows_with_tiny_sizes(section, capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: function)
    monkeypatch.setattr(gpu.compiled, "KEEP_LAYOUT", {})
    gpu.main([section, "--smoke"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows
    assert all(line.endswith(" |") for line in rows)


def test_gpu__a_network_without_enough_memory_does_not_end_the_section(capsys, monkeypatch):
    work = gpu.iteration

    def full(setting, name, *arguments):
        if name == WRN:
            raise torch.OutOfMemoryError("full")
        return work(setting, name, *arguments)

    monkeypatch.setattr(gpu, "iteration", full)
    gpu.main(["images", "--smoke"])
    rows = capsys.readouterr().out.splitlines()
    assert [f"{WRN}, bf16" in row for row in rows if "out of memory" in row] == [True, False]
    assert sum(f"{CONVNET}, " in row and "of the peak" in row for row in rows) == 3


def test_gpu_script__goes_on_after_a_section_that_fails():
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment["SECTIONS"] = "no-such-section side-by-side"
    script = [BENCHMARKS / "gpu.sh", "--smoke"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[0].startswith("| no-such-section | failed")
    assert [row.split()[1] for row in rows[1:]] == ["1", "2"]  # processes


# Memory


@linux
def test_peak__counts_what_was_allocated_and_freed_but_no_mapped_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save(path, {"x": torch.ones(40_000_000, dtype=torch.uint8)}, {"kind": "toy", "recipe": {}})
    with memory.peak() as highest:
        assert int(load_tensors(path, "toy")[0]["x"].max()) == 1
        mapped = highest()
        # Of the system's own, since torch may hand out memory that the process has kept.
        with mmap.mmap(-1, 40_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
            for _ in range(40):
                held.write(bytes(1_000_000))
            while highest() < 39e6:  # until the watcher has looked
                assert held[0] == 0
    assert mapped < 20e6


@linux
def test_growth__each_stage_does_its_work_for_each_extent(monkeypatch):
    done = []

    def here(stage, extent, folder):
        memory.prepare(stage, extent, folder)  # as `alone` does
        done.append((stage, extent))
        return memory.peak_of(stage, extent, folder)

    monkeypatch.setattr(memory, "alone", here)
    monkeypatch.setattr(memory, "SIZE", 8)
    base = memory.Extent(2, 2, 1)
    figures = memory.measure_growth({"ipc": (2, 3), "epochs": (2,)}, base)
    assert len(done) == 9
    assert done[:3] == [(stage, base) for stage in ("assembly", "labels", "evaluation")]
    assert done[3:6] == [(stage, memory.Extent(2, 3, 1)) for stage, _ in done[:3]]
    table = memory.format_growth(figures)
    assert "2 classes, 2 ipc, 1 epochs" in table
    assert [line.split()[:2] for line in table.splitlines()[2:]] == [
        [stage, name]
        for stage in ("assembly", "labels", "evaluation")
        for name in ("ipc", "epochs")
    ]


@linux
def test_growth__each_figure_is_of_a_process_of_its_own(tmp_path):
    assert memory.alone("assembly", memory.Extent(2, 3, 1), tmp_path) < 50
    assert len(load_tensors(tmp_path / "assembled.safetensors", "images")[0]["images"]) == 6


def test_forms__prints_a_row_for_each_kind_of_work(monkeypatch, capsys):
    arguments = (CONVNET, "--size", "8", "--device", "cpu", "--compile", "2")
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: function)
    call_main(forms, monkeypatch, *arguments)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| conv")]
    assert [row.split("|")[1].strip() for row in rows] == [
        f"{CONVNET}, {kind}" for kind in ("training", "pixels", "inference")
    ]
    assert all("(1.000)" in row for row in rows)  # float32 beside float64
    assert [" instead of " in row for row in rows] == [True, True, False]
