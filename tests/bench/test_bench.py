"""The measurements' mechanics on tiny networks; no test looks at what a measurement says."""

import json
import mmap
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from gvbsm import cli
from gvbsm.bench import memory, run_bench, synthesis
from gvbsm.bench.predictions import SIZES, format_bench
from gvbsm.bench.processes import IPC, ITERATIONS, measure_processes
from gvbsm.bench.synthesis import Bench
from gvbsm.bench.timing import CLEAR_REFS, compare, high_water
from gvbsm.cli import main
from gvbsm.config import BenchConfig
from gvbsm.config.build import as_config
from gvbsm.files.artifacts import read_json
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method import synthesis as loop
from gvbsm.method.beyond.class_matching import ClassMatching
from gvbsm.method.layers import matched_layers
from support.toy import CONVNET, WRN


@pytest.fixture
def clock(monkeypatch):
    """Call it with a name and seconds for some work that takes them in turn, and their record."""
    now, done = [100.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work(name, *seconds):
        left = iter(seconds)

        def run():
            done.append(name)
            now[0] += next(left)

        return run

    work.done = done
    return work


@pytest.fixture
def small(monkeypatch):
    """Both settings with two tiny networks, small pictures and no compiler."""

    def preset(name):
        config = as_config(name)
        return replace(
            config,
            ipc=2,
            squeeze=replace(config.squeeze, backbones=(CONVNET, WRN), batch_size=8),
            statistics=replace(config.statistics, n_p=3),
            synthesis=replace(config.synthesis, batch_size=6, iterations=5),
        )

    monkeypatch.setitem(SIZES, "imagenet-1k", (5, 100, 8, "imagenet-1k"))
    monkeypatch.setattr("gvbsm.bench.synthesis.as_config", preset)
    monkeypatch.setattr("gvbsm.bench.stages.as_config", preset)
    monkeypatch.setattr("gvbsm.bench.predictions.as_config", preset)
    monkeypatch.setattr("gvbsm.bench.synthesis.STUDENT", CONVNET)
    monkeypatch.setattr("gvbsm.bench.stages.STUDENT", CONVNET)
    monkeypatch.setattr("gvbsm.bench.storage.STUDENT", CONVNET)
    monkeypatch.setattr("gvbsm.bench.stages.STEPS", 2)
    monkeypatch.setattr("gvbsm.bench.stages.FILES", 3)
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: function)


# Pairs


def test_compare__known_answer(clock, runtime):
    """The first round, in which all is loaded, does not count; ratios are taken round by round."""
    bare = clock("bare", 50.0, 1.0, 2.0, 4.0)
    full = clock("full", 90.0, 1.5, 5.0, 4.0)
    pair = compare(bare, full, 3, runtime)
    assert vars(pair) == {"bare": 2.0, "full": 4.0, "ratio": 1.5, "low": 1.0, "high": 2.5}


def test_compare__alternates_the_order(clock, runtime):
    compare(clock("bare", *[1.0] * 6), clock("full", *[1.0] * 6), 5, runtime)
    rounds = [tuple(clock.done[index : index + 2]) for index in range(0, 12, 2)]
    assert all(set(pair) == {"bare", "full"} for pair in rounds)
    assert all(first != second for first, second in pairwise(rounds))
    assert rounds[1] == ("bare", "full")


def test_compare__a_thing_with_itself(clock, runtime):
    work = clock("bare", *[2.0] * 6)
    pair = compare(work, work, 2, runtime)
    assert (pair.bare, pair.full, pair.ratio) == (2.0, 2.0, 1.0)


# One network


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_full__is_an_iteration_beside_a_bare_network(name, small, runtime):
    measured = Bench("imagenet-1k", name, runtime)
    assert measured.images.shape == (6, 3, 8, 8)
    before = {key: value.clone() for key, value in measured.model.state_dict().items()}
    seen = [measured.images.detach().clone()]
    full = measured.full()
    for _ in range(3):
        full()
        seen.append(measured.images.detach().clone())
        assert seen[-1].min() >= 0  # mean 0 and deviation 1: valid pixels are those in [0, 1]
        assert seen[-1].max() <= 1
        assert not any(module._forward_pre_hooks for module in measured.model.modules())
    assert all(not torch.equal(one, following) for one, following in pairwise(seen))
    measured.bare()
    assert torch.equal(measured.images.detach(), seen[-1])
    assert measured.images.grad is None
    after = measured.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(p.grad is None for p in measured.model.parameters())


def test_full__matches_every_layer_in_every_iteration(small, runtime, monkeypatch):
    asked, compiled = [], synthesis.CompiledObserver

    def listening(model, paths, n_p):
        observer = compiled(model, paths, n_p)

        def call(x, wanted, groups):
            asked.append((len(x), set(wanted), groups))
            return observer(x, wanted, groups)

        return call

    monkeypatch.setattr("gvbsm.bench.synthesis.CompiledObserver", listening)
    measured = Bench("cifar10", WRN, runtime, groups=2)
    full = measured.full()
    full()
    full()
    layers = matched_layers(measured.model)
    assert asked == [(12, {*layers.batchnorm, *layers.conv}, 2)] * 2


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_full__compares_each_class_where_the_setting_does(name, small, runtime, monkeypatch):
    asked, adjust = [], ClassMatching.adjust

    def listening(self, state, teacher, seen, distances):
        asked.append((seen.name, len(state.averages[teacher.name][seen.name].mean)))
        return adjust(self, state, teacher, seen, distances)

    monkeypatch.setattr(ClassMatching, "adjust", listening)
    measured = Bench("imagenet-1k", name, runtime, groups=2)
    measured.config = replace(measured.config, weight_class=0.5)
    before, full = measured.images.detach().clone(), measured.full()
    full()
    full()
    assert asked == [("channel", 2), ("patch", 2)] * 2  # both levels of two groups, twice
    assert not torch.equal(measured.images.detach(), before)
    layers, found = matched_layers(measured.model), measured.statistics()
    assert set(found.class_channel) == {*layers.conv, *layers.batchnorm}
    assert set(found.class_patch) >= set(layers.conv)
    for path in layers.conv:
        for table, of_class in (
            (found.channel, found.class_channel),
            (found.patch, found.class_patch),
        ):
            expected = torch.stack([table[path].mean] * 5)
            torch.testing.assert_close(of_class[path].mean, expected)


def test_bench__groups_have_the_same_classes(small, runtime):
    measured = Bench("cifar10", CONVNET, runtime, groups=3, batch=4)
    assert measured.stack.numbers == (0, 1, 2)
    assert measured.stack.labels.tolist() == [0, 0, 1, 1] * 3
    assert measured.forward().shape == (12, 10)
    assert not measured.forward().requires_grad


def test_bench__is_the_same_network_each_time(small, runtime):
    first, again = (Bench("cifar10", WRN, runtime).model.state_dict() for _ in range(2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())


# Memory

linux = pytest.mark.skipif(not CLEAR_REFS.exists(), reason="no high-water mark here")


@linux
def test_high_water__sees_what_was_taken_and_is_gone(runtime):
    size = 64 * 2**20
    taken = torch.ones(size // 4)
    del taken  # an earlier peak does not count
    with high_water(runtime) as peak:
        few = torch.ones(2**20)  # 4 MiB
        before = peak()
        del few
        taken = torch.ones(size // 4)
        del taken
        assert peak() > 0.9 * size
    assert before < 0.5 * size


@linux
@pytest.mark.parametrize("kind", ["bare", "full"])
def test_peak__is_that_of_two_iterations(kind, small, runtime, monkeypatch):
    calls = []
    monkeypatch.setattr(Bench, "bare", lambda self: calls.append(("bare", len(self.images))))
    step = loop.descend

    def descend(loss, terms, state):
        calls.append(("full", len(state.images)))
        step(loss, terms, state)

    monkeypatch.setattr(loop, "descend", descend)
    assert synthesis._peak_of("cifar10", CONVNET, runtime, kind, torch.get_num_threads()) >= 0
    assert calls == [(kind, 2), (kind, 2), (kind, 6), (kind, 6)]  # the first ones load all


# All of it


def test_run_bench__numbers_of_all_parts(small, monkeypatch, tmp_path):
    for name, size in (("IMAGES", 30), ("CLASSES", 20), ("SIZE", 8), ("EPOCHS", 2)):
        monkeypatch.setattr(f"gvbsm.bench.storage.{name}", size)
    monkeypatch.setattr(
        "gvbsm.bench.synthesis.CLEAR_REFS", tmp_path / "none"
    )  # not Linux: no memory
    found = run_bench(BenchConfig(repeats=1, groups=(1, 3), device="cpu", threads=1))
    assert json.loads(json.dumps(found)) == found
    assert found["repeats"] == 1
    pair = {"bare", "full", "ratio", "low", "high"}
    for name in ("cifar10", "imagenet-1k"):
        part = found["synthesis"][name]
        assert list(part["backbones"]) == [CONVNET, WRN]
        for row in part["backbones"].values():
            assert row.keys() == pair | {"forward", "images"}
            assert row["images"] == 6
            assert all(value > 0 for value in row.values())
        totals = [sum(row[key] for row in part["backbones"].values()) for key in ("full", "bare")]
        assert part["sum"]["ratio"] == pytest.approx(totals[0] / totals[1])
        assert part["memory"] == {"backbone": CONVNET, "bare": None, "full": None, "ratio": None}
    for stage in ("labels", "evaluation", "squeeze", "pooling"):
        assert found[stage].keys() == pair
    rates = found["data"]["pictures_per_second"]
    assert rates.keys() == {"memory", "files"}
    assert min(rates.values()) > 0
    storage = found["storage"]
    assert (storage["network"], storage["labels_per_second"] > 0) == (CONVNET, True)
    sizes = [row["bytes"] for row in storage["schemes"].values()]
    assert all(size < sizes[0] for size in sizes[1:])  # the first keeps everything
    for row in storage["schemes"].values():
        for work in ("write", "read"):
            assert row[work].keys() == pair | {"labels_per_second"}
    assert found["groups"]["backbone"] == CONVNET
    assert list(found["groups"]["images_per_second"]) == ["1", "3"]
    assert set(found["predictions"]) == set(SIZES)
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["processor"]
    assert "None" not in format_bench(found)


def test_run_bench__imagenet_alone_has_no_stages(small, monkeypatch):
    bytes_ = {"bare": 2, "full": 3}
    monkeypatch.setattr("gvbsm.bench.synthesis._peak", lambda *arguments: bytes_[arguments[3]])
    found = run_bench(BenchConfig(settings=("imagenet-1k",), repeats=1, device="cpu", threads=1))
    assert found.keys() == {"synthesis", "predictions", "devices", "machine", "repeats"}
    assert found["synthesis"].keys() == found["predictions"].keys() == {"imagenet-1k"}
    memory = found["synthesis"]["imagenet-1k"]["memory"]
    assert memory == {"backbone": CONVNET, "bare": 2, "full": 3, "ratio": 1.5}
    assert "peak memory, " in format_bench(found)


# The command


@pytest.fixture
def asked(monkeypatch):
    """What `gvbsm bench` would have measured."""
    seen = []
    monkeypatch.setattr(
        "gvbsm.bench.run_bench", lambda config: seen.append(config) or {"fake": [1, 2]}
    )
    monkeypatch.setattr("gvbsm.bench.predictions.format_bench", lambda found: f"text of {found}")
    return seen


def test_command__measures_all_unless_told(asked, capsys):
    assert main(["bench"]) == 0
    assert asked == [BenchConfig()]
    assert capsys.readouterr() == ("text of {'fake': [1, 2]}\n", "")


def test_command__takes_settings_and_writes_the_numbers(asked, capsys, tmp_path):
    path = tmp_path / "numbers.json"
    options = ["--repeats", "2", "--groups", "[1,8]", "--settings=[imagenet-1k]", "--threads", "1"]
    assert main(["bench", *options, "--device", "cpu", "--json", str(path)]) == 0
    assert asked == [
        BenchConfig(("imagenet-1k",), 2, (1, 8), device="cpu", threads=1, json=str(path))
    ]
    assert read_json(path) == {"fake": [1, 2]}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--repeats", "0"], "repeats"),
        (["--repeats", "few"], "repeats"),
        (["--groups", "[]"], "groups"),
        (["--groups", "[2,0]"], "groups"),
        (["--processes", "[1,0]"], "processes"),
        (["--settings", "[digits]"], "digits"),
        (["--settigns", "[cifar10]"], "settigns"),
        (["cifar10"], "cifar10"),
        (["--precision", "fp8"], "fp8"),
    ],
)
def test_command__a_fault_is_one_line(argv, word, asked, capsys):
    assert main(["bench", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("gvbsm: ")
    assert word in err
    assert asked == []


def test_command__help_tells_every_setting(asked, capsys):
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    for name in vars(BenchConfig()):
        assert f"--{name}" in out
    assert asked == []
    assert "bench" in cli.VERBS


# Memory


linux = pytest.mark.skipif(not CLEAR_REFS.exists(), reason="reads Linux's /proc")


@linux
def test_peak__sees_what_was_allocated_and_is_gone_but_no_mapped_file(tmp_path):
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
    found = memory.measure_growth({"ipc": (2, 3), "epochs": (2,)}, base)
    assert len(done) == 9
    assert done[:3] == [(stage, base) for stage in ("assembly", "labels", "evaluation")]
    assert done[3:6] == [(stage, memory.Extent(2, 3, 1)) for stage, _ in done[:3]]
    table = memory.format_growth(found)
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


def test_command__measures_memory_if_asked(asked, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(memory, "measure_growth", lambda: {"growth": {}, "base": {"ipc": 3}})
    path = tmp_path / "numbers.json"
    assert main(["bench", "--memory", "true", "--json", str(path)]) == 0
    assert "3 ipc" in capsys.readouterr().out
    assert json.loads(path.read_text())["base"] == {"ipc": 3}
    assert asked == []


def test_processes__rates_are_of_the_median_round(monkeypatch):
    rounds = {1: iter([8.0, 80.0, 7.0]), 2: iter([4.0, 4.0, 0.1])}
    started = []

    def seconds(number, _config):
        started.append(number)
        return next(rounds[number])

    monkeypatch.setattr("gvbsm.bench.processes._seconds", seconds)
    found = measure_processes(BenchConfig(processes=(1, 2), repeats=3))
    done = 10 * IPC * ITERATIONS
    assert found["images_per_second"] == {"1": done / 8, "2": done / 4}
    assert started == [2, 1, 1, 2, 2, 1]  # in turns
