"""Presets with settings for single numbers of images per class: the table `at_ipc` of a file."""

import re
from pathlib import Path

import pytest

import gvbsm
from gvbsm.cli import main
from gvbsm.cli.parsing import parse_run
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config, build_config
from gvbsm.config.preset_files import (
    PRESETS,
    parts_of,
    preset_names,
    read_preset,
    sources,
    usual_workdir,
)
from gvbsm.config.provenance import Origin
from gvbsm.config.yaml_files import read_yaml
from gvbsm.studies.definition import read_sweep_plan
from support.workdirs import quick_settings, write_arrays, write_preset

FIRST = """
ipc: 10
data: {name: digits}
squeeze:
  backbones: [wrn10_1, convnet8_d1]
  settings_of: {wrn10_1: {epochs: 2}}
synthesis: {iterations: 600}
labels: {epochs: 7, views: {mixup: 1.0}}
at_ipc:
  1: {synthesis: {iterations: 11}, labels: {views: {mixup: 0.0}}, squeeze: {settings_of: {}}}
  50: {synthesis: {iterations: 55}}
"""
SECOND = "labels: {epochs: 8}\nat_ipc: {1: {labels: {epochs: 9}, seed: 4}}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.yaml").write_text(FIRST)
    (tmp_path / "second.yaml").write_text(SECOND)
    return tmp_path


def test_a_plus_in_the_path_of_a_file_joins_nothing(folder, capsys):
    (folder / "c++").mkdir()
    (folder / "c++" / "my+own.yaml").write_text(SECOND)
    name = "digits+c++/my+own.yaml+random-soft"
    assert parts_of(name) == ["digits", "c++/my+own.yaml", "random-soft"]
    assert parts_of("digitz+c++/none.yaml") == ["digitz", "c", "", "/none.yaml"]
    assert read_preset(name, 10)["labels"]["epochs"] == 8
    assert main(["settings", "c++/my+own.yaml", "--changed"]) == 0
    assert "epochs: 8  # default: 1000; from my+own.yaml\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("preset", "folder"),
    [
        ("digits", "digits"),
        ("a/my.yaml", "my"),
        ("my.yaml+random-soft", "my+random-soft"),
        ("digits+a/my.yml", "digits+my"),
        ("a/x.yaml+b/y.yaml", "x+y"),
    ],
)
def test_presets_that_are_joined_have_a_folder_of_their_own(preset, folder):
    assert usual_workdir(preset) == Path("runs", folder)
    assert usual_workdir(preset, "sweep-") == Path("runs", f"sweep-{folder}")


def short(config):
    return config.ipc, config.synthesis.iterations, config.labels.epochs, config.labels.views.mixup


@pytest.mark.parametrize(
    ("ipc", "expected"),
    [(None, (10, 600, 7, 1)), (1, (1, 11, 7, 0)), (50, (50, 55, 7, 1)), (2, (2, 600, 7, 1))],
)
def test_an_entry_is_laid_over_the_file_at_its_number_alone(ipc, expected):
    changes = {} if ipc is None else {"ipc": ipc}
    argv = ["first.yaml"] if ipc is None else ["first.yaml", "--ipc", str(ipc)]
    found = as_config("first.yaml", changes)
    assert short(found) == expected
    assert found == parse_run("run", argv).config
    assert found == as_config({"preset": "first.yaml", **changes})
    assert found.squeeze.settings_of == ({} if ipc == 1 else {"wrn10_1": {"epochs": 2}})


def test_a_later_file_comes_before_the_table_of_an_earlier_one():
    config = as_config("first.yaml+second.yaml", {"ipc": 1})
    assert short(config) == (1, 11, 9, 0)
    assert config.seed == 4
    assert short(as_config("second.yaml+first.yaml", {"ipc": 1})) == (1, 11, 7, 0)
    assert as_config("first.yaml+second.yaml", {"ipc": 50}).labels.epochs == 8


def test_the_number_may_be_that_of_a_later_file(folder):
    (folder / "one.yaml").write_text("ipc: 1\n")
    assert as_config("first.yaml+one.yaml") == as_config("first.yaml", {"ipc": 1})
    assert read_preset("first.yaml", 1)["ipc"] == 10  # the number is the caller's


def test_an_explicit_setting_comes_before_the_table():
    argv = ["first.yaml", "--ipc=50", "--synthesis.iterations", "600", "--ipc", "1"]
    parsed = parse_run("run", argv)
    assert short(parsed.config) == (1, 600, 7, 0)
    assert parsed.origin == Origin("first.yaml", ("ipc", "synthesis.iterations"))
    assert as_config("first.yaml", {"ipc": 1, "synthesis.iterations": 600}) == parsed.config
    assert parse_run("run", ["first.yaml", "--ipc", "1"]).origin == Origin("first.yaml", ("ipc",))


@pytest.mark.parametrize("value", ["x", "-1", "1.5", ""])
def test_what_is_no_number_has_its_usual_message(value, capsys):
    assert main(["settings", "first.yaml", f"--ipc={value}"]) == 2
    assert re.fullmatch(r"gvbsm: .*\bipc must be .*\n", capsys.readouterr().err)


def test_printed_settings_name_their_place_and_are_read_back(folder, capsys):
    command = ["first.yaml+second.yaml", "--ipc", "1", "--data.image_size=16"]
    assert main(["settings", *command]) == 0
    text = capsys.readouterr().out
    lines = [line.strip() for line in text.splitlines()]
    for line in (
        "ipc: 1  # default: 10; from the command",
        "image_size: 16  # default: null; from the command",
        "iterations: 11  # default: 4000; from first.yaml, at_ipc 1",
        "epochs: 9  # default: 1000; from second.yaml, at_ipc 1",
        "backbones: [wrn10_1, convnet8_d1]  # default: [resnet18, convnet128, "
        "mobilenet_v2_x0_5, wrn16_2, shufflenet_v2_x0_5]; from first.yaml",
    ):
        assert line in lines
    (folder / "plain.yaml").write_text(text)
    assert as_config("plain.yaml") == parse_run("run", command).config
    assert "at_ipc:" not in text
    assert sources("first.yaml+second.yaml")["labels.epochs"] == "second.yaml"


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("3", "mine.yaml, at_ipc must map images per class to settings, found 3"),
        ("{ten: {}}", "mine.yaml, at_ipc must name numbers of images per class, found 'ten'"),
        ("{0: {}}", "mine.yaml, at_ipc must name numbers of images per class, found 0"),
        ("{true: {}}", "mine.yaml, at_ipc must name numbers of images per class, found True"),
        ("{1: 2}", "mine.yaml, at_ipc 1 must be a mapping of settings, found 2"),
        ("{1: {ipc: 2}}", "mine.yaml, at_ipc 1 sets ipc, which chooses the entry; leave it out"),
        ("{2: {synthesis: {iteration: 1}}}", "mine.yaml, at_ipc 2: there is no setting"),
    ],
)
def test_a_faulty_table_is_one_line_whatever_the_number(table, fault, folder):
    (folder / "mine.yaml").write_text(f"at_ipc: {table}\n")
    with pytest.raises(ConfigError) as caught:
        read_preset("mine.yaml")
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


def test_a_value_of_a_table_is_checked_as_any_other(folder):
    (folder / "mine.yaml").write_text("at_ipc: {1: {synthesis: {iterations: many}}}\n")
    assert as_config("mine.yaml").synthesis.iterations == 4000
    with pytest.raises(ConfigError, match=r"synthesis\.iterations must be a whole number"):
        as_config("mine.yaml", {"ipc": 1})


def test_a_study_over_images_per_class_reads_each_entry():
    plan = read_sweep_plan("ipc", "first.yaml", {"labels": {"epochs": 5}})
    ((_, points),) = plan.studies
    assert [short(point.config)[:3] for point in points] == [(1, 11, 5), (10, 600, 5), (50, 55, 5)]
    ((_, points),) = read_sweep_plan("table1-alpha", "first.yaml", {"ipc": 1}).studies
    assert {point.config.synthesis.iterations for point in points} == {11}


@pytest.mark.parametrize("name", preset_names())
def test_every_entry_of_the_presets_builds_and_differs(name):
    for ipc in read_yaml(PRESETS / f"{name}.yaml").get("at_ipc", {}):
        config = build_config({**read_preset(name, ipc), "ipc": ipc})
        assert config != build_config({**read_preset(name, 7), "ipc": ipc})
        assert config.labels.batch_size == config.evaluation.batch_size


def test_a_run_from_python_and_its_report_know_the_table(folder):
    data = {"name": "npz", "root": str(write_arrays(folder / "four.npz"))}
    settings = quick_settings(data, baselines={"methods": []})
    settings["squeeze"] |= {"backbones": ["convnet8_d1"], "epochs": 1, "tests": 1}
    settings["ipc"], settings["at_ipc"] = 2, {1: {"synthesis": {"iterations": 2}}}
    write_preset(folder / "quick.yaml", settings)
    results = gvbsm.run("quick.yaml", "w", quiet=True, ipc=1)
    assert results["config"]["synthesis"]["iterations"] == 2
    assert results["origin"] == {"preset": "quick.yaml", "changed": ["ipc"]}
