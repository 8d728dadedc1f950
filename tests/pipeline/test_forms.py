"""Which work is raced, what is kept of a race, and that its outcome reaches the artifacts."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gvbsm.backbones import build_backbone
from gvbsm.backbones.cost import multiply_adds
from gvbsm.config.build import build_config
from gvbsm.engine.forms import Form, Forms
from gvbsm.engine.forms.race import CANDIDATES, Trial
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.files.plugins import admit
from gvbsm.pipeline.evaluated_sets import evaluated_sets
from gvbsm.pipeline.forms import choice, compiling
from gvbsm.pipeline.forms.choice import RaceTask, choose_forms, coming_trials
from gvbsm.pipeline.forms.compiling import CompileCost, CompileTask, compile_form
from gvbsm.pipeline.forms.machine_cache import MachineCache

TASK = RaceTask(4, (3, 8, 8))
LONG, SHORT = 10**9, 100
DATA = SimpleNamespace(train=range(10**7), class_names=tuple("abcd"), channels=3, image_size=8)


@pytest.fixture
def races(monkeypatch, tmp_path):
    """Races whose winner is bf16 without timing; the keys are the networks that raced."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    raced = []

    def race(network, work, shape, runtime):
        raced.append((type(network).__name__, work.__name__.strip("_")))
        return [Trial(form.name, 1.0 / number, 1.0) for number, form in enumerate(CANDIDATES, 1)]

    monkeypatch.setattr(choice, "race", race)
    return raced


def test_choose__races_once_a_machine_and_only_long_work(races, runtime):
    assert TASK.choose("convnet8_d1", "training", SHORT, runtime) is None
    assert races == []
    assert TASK.choose("convnet8_d1", "training", LONG, runtime) == Form("bf16", "channels-last")
    assert TASK.choose("convnet8_d1", "training", LONG, runtime) == Form("bf16", "channels-last")
    assert races == [("Sequential", "training")]
    TASK.choose("convnet8_d1", "pixels", LONG, runtime)
    TASK.choose("wrn10_1", "pixels", LONG, runtime)
    assert len(races) == 3


def test_races_and_trials_of_a_network_of_one_s_own_are_those_of_its_present_file(
    races, trials, runtime, tmp_path
):
    file = tmp_path / "own.py"
    name = f"{file}:net"
    for count in (1, 2):
        body = f"    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))  # {count}"
        file.write_text(f"from torch import nn\n\n\ndef net(classes):\n{body}\n")
        admit([name])
        for _ in range(2):
            TASK.choose(name, "training", LONG, runtime)
            assert compiled_form(401, runtime, name).compiled
        assert (len(races), len(trials)) == (count, count)


def test_choose__goes_on_without_its_cache(races, runtime, tmp_path):
    cache = tmp_path / "home" / ".cache" / "gvbsm"
    for content in ('{"a": [1]}', "no JSON", '{"checksum": 1}'):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "forms.json").write_text(content)
        assert TASK.choose("convnet8_d1", "training", LONG, runtime) is not None
    (cache / "forms.json").unlink()
    cache.rmdir()
    cache.write_text("a file in the way")
    assert TASK.choose("convnet8_d1", "training", LONG, runtime) is not None
    assert len(races) == 4


def test_choose__leaves_torchs_random_numbers_as_they_are(runtime, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for kind in ("training", "pixels", "inference"):
        TASK.choose("wrn10_1", kind, LONG, runtime)
    assert torch.equal(torch.rand(4), expected)
    assert len(read_json(tmp_path / ".cache" / "gvbsm" / "forms.json")) == 3


CONFIG = {
    "squeeze": {"backbones": ["convnet8_d1"]},
    "evaluation": {"students": ["convnet8_d1"]},
    "baselines": {"methods": []},
}


def chosen(tmp_path, runtime, **settings):
    config = build_config({**CONFIG, "synthesis": {"compile": "never"}, **settings})
    sets = evaluated_sets(config, tmp_path)
    return choose_forms(config, sets, DATA, runtime, tmp_path / "forms.json")


def test_choose_forms__keeps_the_choice_of_a_work_directory(races, runtime, tmp_path, monkeypatch):
    first = chosen(tmp_path, runtime)
    assert set(first["convnet8_d1"]) >= {"training"}
    monkeypatch.setenv("HOME", str(tmp_path / "other machine"))
    monkeypatch.setattr(choice, "race", lambda *_: pytest.fail("raced again"))
    assert chosen(tmp_path, runtime) == first


def test_choose_forms__races_for_the_stages_that_are_run(races, runtime, tmp_path):
    config = build_config({**CONFIG, "synthesis": {"compile": "never", "iterations": 10**6}})
    path = tmp_path / "forms.json"

    def choose(*stages):
        table = choose_forms(config, evaluated_sets(config, tmp_path), DATA, runtime, path, stages)
        return set(table.get("convnet8_d1", {}))

    assert choose("squeeze") == {"training"}
    assert choose("synthesis") == {"training", "pixels"}
    assert [work for _, work in races] == ["training", "hooked_pixels"]


def test_choose_forms__leaves_a_fixed_precision_alone(races, runtime, tmp_path):
    assert chosen(tmp_path, runtime, precision="bf16") == {}
    assert races == []
    assert not (tmp_path / "forms.json").exists()


@pytest.fixture
def trials(monkeypatch):
    """Compiling halves the time of a batch, which is 1 s, and takes 100 s; the networks tried."""
    tried = []

    def try_once(_network, task, *_):
        tried.append(task.name)
        return CompileCost(eager=1.0, compiled=0.5, compiling=60.0, loading=40.0)

    monkeypatch.setattr(compiling, "timed", lambda *_: 1.0)
    monkeypatch.setattr(compiling, "try_compiling", try_once)
    return tried


def compiled_form(batches, runtime, name="convnet8_d1"):
    network = build_backbone(name, 4, 8).eval().requires_grad_(False)
    task = CompileTask("pixels", name, (2, 3, 8, 8), batches)
    return compile_form(Form("fp32"), network, task, runtime)


def test_compile_form__tries_once_and_then_weighs_cost_and_saving(races, trials, runtime):
    assert not compiled_form(249, runtime).compiled  # too short for a trial
    assert trials == []
    assert compiled_form(401, runtime) == Form("fp32", None, compiled=True)
    assert trials == ["convnet8_d1"]
    assert not compiled_form(200, runtime).compiled  # saves 100 s for 100 s
    assert compiled_form(201, runtime).compiled
    assert trials == ["convnet8_d1"]


def test_coming_trials__until_the_run_has_made_them(races, trials, runtime, tmp_path):
    """Planning compiles nothing; it takes the time of earlier trials where there are any."""

    def settled(name):
        named = {"squeeze": {"backbones": [name]}, "evaluation": {"students": [name]}}
        config = build_config({**CONFIG, **named, "synthesis": {"iterations": 10**6}})
        return config, list(evaluated_sets(config, tmp_path)), DATA

    def coming(name, path):
        table = choose_forms(*settled(name), runtime, path, keep=False)
        planned = replace(runtime, forms=Forms(table))
        return coming_trials(*settled(name), planned, path)

    path, usual = tmp_path / "forms.json", compiling.TRIAL_SECONDS
    assert coming("convnet8_d1", path) == {"convnet8_d1": usual["training"] + usual["pixels"]}
    assert trials == []
    choose_forms(*settled("convnet8_d1"), runtime, path)
    assert trials == ["convnet8_d1"] * 2
    assert coming("convnet8_d1", path) == {}
    assert coming("convnet8_d1", tmp_path / "other.json") == {}  # the machine has tried
    assert coming("wrn10_1", path) == {"wrn10_1": 60.0 + 60.0}


def test_coming_trials__of_work_that_is_too_short(races, trials, runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "timed", lambda *_: 1e-9)
    config = build_config(CONFIG)
    sets, path = list(evaluated_sets(config, tmp_path)), tmp_path / "forms.json"
    table = choose_forms(config, sets, DATA, runtime, path, keep=False)
    assert table["convnet8_d1"]
    planned = replace(runtime, forms=Forms(table))
    assert coming_trials(config, sets, DATA, planned, path) == {}


def test_cost__counts_the_loading_of_every_network():
    cost = CompileCost(eager=1.0, compiled=0.5, compiling=60.0, loading=4.0)
    assert cost.pays(201, networks=10)
    assert not cost.pays(201, networks=11)
    assert not CompileCost(1.0, 1.1, 0.0, 0.0).pays(10**9, 1)


def test_compile_form__goes_on_without_a_network_that_cannot_be_compiled(
    races, runtime, monkeypatch, caplog
):
    def broken(network, in_form, on_failure):
        on_failure("no compiler")
        return compiling.hooked_pixels(network, in_form)

    monkeypatch.setattr(compiling, "timed", lambda *_: 1.0)
    monkeypatch.setitem(compiling.COMPILED, "pixels", broken)
    assert not compiled_form(10**6, runtime).compiled
    assert "pixels of convnet8_d1 is not compiled: no compiler" in caplog.text


@pytest.fixture
def failures(races, monkeypatch, tmp_path):
    """A compiler that fails, `c++` on the search path; a name for each trial."""
    tried = []

    def broken(network, in_form, on_failure):
        tried.append("pixels")
        on_failure("no headers")
        return compiling.hooked_pixels(network, in_form)

    monkeypatch.setattr(compiling, "timed", lambda *_: 1.0)
    monkeypatch.setitem(compiling.COMPILED, "pixels", broken)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "c++")
    (tmp_path / "c++").touch(0o755)
    return tried


def test_compile_form__keeps_that_a_network_cannot_be_compiled(failures, runtime, caplog):
    caplog.set_level("INFO", "gvbsm")
    for _ in range(2):  # as runs in two work directories
        assert compiled_form(10**6, runtime) == Form("fp32")
    assert len(failures) == 1
    cache = MachineCache(runtime)
    assert f"failed: no headers; remove {cache.path} to try again" in caplog.text
    assert cache.containing(" pixels compiled ") == []
    compiled_form(10**6, runtime, "wrn10_1")
    assert len(failures) == 2  # another network may compile


def test_compile_form__tries_again_with_another_compiler_or_torch(
    failures, runtime, monkeypatch, tmp_path
):
    changes = [
        lambda: None,
        lambda: (tmp_path / "c++").write_text("a newer one"),
        lambda: monkeypatch.setenv("CXX", "clang++"),
        lambda: monkeypatch.setenv("TORCHINDUCTOR_FREEZING", "1"),
        lambda: monkeypatch.setattr(torch, "__version__", "99.0"),
    ]
    for number, change in enumerate(changes, start=1):
        change()
        for _ in range(2):
            compiled_form(10**6, runtime)
        assert len(failures) == number


def test_compile_form__tries_again_after_a_day(failures, runtime, monkeypatch):
    """The disk may have been full."""
    begin = time.time()
    for hours, trials in ((0, 1), (23, 1), (25, 2), (26, 2)):
        monkeypatch.setattr(time, "time", lambda hours=hours: begin + 3600 * hours)
        compiled_form(10**6, runtime)
        assert len(failures) == trials


def test_trial_seconds__are_none_where_the_compiler_has_failed(failures, runtime):
    def seconds():
        task = CompileTask("pixels", "convnet8_d1", (2, 3, 8, 8), 10**6)
        network = build_backbone("convnet8_d1", 4, 8).eval().requires_grad_(False)
        return compiling.trial_seconds(Form("fp32"), lambda: network, task, runtime)

    assert seconds() == compiling.TRIAL_SECONDS["pixels"]
    compiled_form(10**6, runtime)
    assert seconds() == 0.0


def test_compile_form__refuses_a_compiled_network_that_computes_something_else(
    races, runtime, monkeypatch, caplog
):
    def wrong(network, in_form, _on_failure):
        step = compiling.hooked_pixels(network, in_form)
        return lambda pictures: -step(pictures)

    monkeypatch.setattr(compiling, "timed", lambda *_: 1.0)
    monkeypatch.setitem(compiling.COMPILED, "pixels", wrong)
    assert not compiled_form(10**6, runtime).compiled
    assert "cosine of -1.00" in caplog.text


def test_choose_forms__compiles_training_channels_last(races, trials, runtime, tmp_path):
    table = chosen(tmp_path, runtime)
    assert table["convnet8_d1"]["training"] == "bf16 channels-last compiled"
    assert trials == ["convnet8_d1"]


def test_choose_forms__compiles_in_a_fixed_precision(races, trials, runtime, tmp_path):
    settings = {"precision": "fp32", "synthesis": {"compile": "auto", "iterations": 10**6}}
    table = chosen(tmp_path, runtime, **settings)
    assert table == {"convnet8_d1": {"pixels": "fp32 compiled"}}
    assert races == []
    assert chosen(tmp_path, runtime, precision="fp32") == {"convnet8_d1": {}}  # compile: never


@pytest.mark.parametrize(
    "content",
    [{}, {"forms": {"tpu": {}}}, {"forms": {"cpu": {"a": {"training": "fp8"}}}}, {"forms": [1]}],
)
def test_choose_forms__refuses_a_damaged_file(content, races, runtime, tmp_path):
    write_json(tmp_path / "forms.json", content)
    with pytest.raises(ArtifactError, match=r"forms\.json"):
        chosen(tmp_path, runtime)
    (tmp_path / "forms.json").write_text(json.dumps(content)[:-1])
    with pytest.raises(ArtifactError, match=r"forms\.json"):
        chosen(tmp_path, runtime)


def test_multiply_adds__of_a_convnet():
    # conv3x3 of 3 to 8 channels at 8 x 8, then 8 * 4 * 4 inputs to 4 logits
    assert multiply_adds("convnet8_d1", 4, 8, 3) == 8 * 8 * 9 * 3 * 8 + 8 * 4 * 4 * 4
