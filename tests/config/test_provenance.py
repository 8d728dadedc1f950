"""Where settings came from: the preset and what the command line changed, told by every verb."""

import json

import pytest

from gvbsm import api
from gvbsm.cli import main
from gvbsm.cli.parsing import parse_run
from gvbsm.config import Config
from gvbsm.config.build import as_config, settings_parser
from gvbsm.config.preset_files import preset_names
from gvbsm.config.provenance import UNKNOWN, Origin, origin_of
from gvbsm.files.artifacts import read_json, write_json
from gvbsm.pipeline.continual import run_continual
from support.workdirs import quick_settings, write_arrays, write_preset


@pytest.mark.parametrize(
    ("argv", "preset", "changed"),
    [
        (["digits"], "digits", ()),
        (["cifar10+random-soft", "--ipc", "1"], "cifar10+random-soft", ("ipc",)),
        (["digits", "--ipc", "1", "--synthesis.init=real"], "digits", ()),  # the preset's values
        (
            ["digits", "--synthesis.iterations", "7", "--seed=3", "--ipc=2", "--seed", "0"],
            "digits",
            ("ipc", "synthesis.iterations"),
        ),
        (["digits", "--labels.views.scale", "[0.5, 1.0]"], "digits", ("labels.views.scale",)),
        (["digits", "--squeeze.backbones=[wrn10_1]"], "digits", ("squeeze.backbones",)),
        (
            [
                "digits",
                "--data-root",
                "x",
                "--device=cpu",
                "--threads",
                "1",
                "--quiet",
                "--workdir",
                "w",
                "--evaluation.parallel",
                "pictures",
            ],
            "digits",
            (),
        ),
    ],
)
def test_what_a_command_line_changes(argv, preset, changed):
    assert parse_run("run", argv).origin == Origin(preset, changed)


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_alone_changes_nothing_and_is_what_it_is(preset):
    parsed = parse_run("run", [preset])
    assert parsed.origin == Origin(preset)
    assert parsed.config == as_config(preset)


def test_a_command_is_read_by_one_parser_and_its_preset_once(monkeypatch):
    made, read = [], []

    def parser(program):
        made.append(settings_parser(program))
        for name in ("parse_object", "parse_args"):
            parse = getattr(made[0], name)
            monkeypatch.setattr(
                made[0], name, lambda *a, parse=parse, name=name: read.append(name) or parse(*a)
            )
        return made[0]

    monkeypatch.setattr("gvbsm.cli.parsing.settings_parser", parser)
    assert parse_run("run", ["digits", "--ipc", "3"]).origin == Origin("digits", ("ipc",))
    assert (len(made), read) == (1, ["parse_object", "parse_args"])


def test_sre2l_and_the_label_command_change_nothing_by_themselves():
    assert parse_run("run", ["cifar10+sre2l"]).origin == Origin("cifar10+sre2l")
    assert parse_run("labels", ["digits", "--compress"]).origin == Origin("digits")


def test_of_a_file_the_name_alone_is_told(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("ipc: 3\n")
    origin = parse_run("run", [f"digits+{path}", "--ipc", "4"]).origin
    assert origin == Origin("digits+mine.yaml", ("ipc",))
    assert not origin.is_packaged
    assert Origin("digits+sre2l").is_packaged
    assert not UNKNOWN.is_packaged
    assert origin_of(str(path)) == Origin("mine.yaml")
    assert origin_of({"ipc": 1}) == origin_of(Config()) == UNKNOWN


def test_what_is_told_and_read_again():
    origin = Origin("digits", ("ipc", "seed"))
    assert Origin.read(json.loads(json.dumps({"origin": origin.as_json()}))) == origin
    assert Origin.read({"origin": UNKNOWN.as_json()}) == UNKNOWN
    assert str(origin) == "digits, 2 settings changed by the user"
    assert str(Origin("digits", ("ipc",))) == "digits, 1 setting changed by the user"
    assert (str(Origin("digits")), str(UNKNOWN)) == ("digits", "")
    for damaged in ({}, {"origin": None}, {"origin": {"preset": "digits"}}):
        with pytest.raises((KeyError, TypeError)):
            Origin.read(damaged)


@pytest.fixture
def preset(tmp_path):
    data = {"name": "npz", "root": str(write_arrays(tmp_path / "four.npz"))}
    settings = quick_settings(data, baselines={"methods": []})
    settings["continual"] = {"methods": [], "orders": 1, "steps": 2, "epochs": 2}
    settings["squeeze"] |= {"backbones": ["convnet8_d1"], "epochs": 1, "tests": 1}
    settings["checkpoint_seconds"] = 60
    return write_preset(tmp_path / "quick.yaml", settings)


def test_results_name_the_last_command_s_and_nothing_is_made_again(
    preset, tmp_path, capsys, monkeypatch
):
    """What is told changes no recipe: another origin with the same settings keeps all files."""
    monkeypatch.setattr("gvbsm.reporting.report", lambda *_arguments: "a page")
    workdir = tmp_path / "w"
    command = [str(preset), "--workdir", str(workdir), "--quiet"]
    assert main(["run", *command, "--ipc", "1"]) == 0
    line = "preset:        quick.yaml, 1 setting changed by the user"
    assert line in capsys.readouterr().out
    told = read_json(workdir / "results.json")["origin"]
    assert told == {"preset": "quick.yaml", "changed": ["ipc"]}
    assert main(["show", str(workdir)]) == 0
    assert "\npreset: quick.yaml, 1 setting" in capsys.readouterr().out

    made = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.safetensors")}
    config = parse_run("run", [*command, "--ipc", "1"]).config
    api.run_stage("evaluation", config, workdir, quiet=True)
    assert read_json(workdir / "results.json")["origin"] == UNKNOWN.as_json()
    assert main(["evaluation", *command, "--ipc=1"]) == 0
    assert read_json(workdir / "results.json")["origin"] == told
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_classes_in_steps_name_it_too(preset, tmp_path, capsys):
    workdir = tmp_path / "w"
    assert main(["continual", str(preset), "--workdir", str(workdir), "--quiet"]) == 0
    assert "\npreset:  quick.yaml\n" in capsys.readouterr().out
    assert read_json(workdir / "continual.json")["origin"] == {
        "preset": "quick.yaml",
        "changed": [],
    }
    assert main(["show", str(workdir)]) == 0
    assert capsys.readouterr().out.endswith("\npreset: quick.yaml\n")
    assert run_continual(str(preset), workdir, quiet=True)["origin"]["preset"] == "quick.yaml"


def test_a_damaged_origin_is_one_line(tmp_path, capsys):
    write_json(tmp_path / "data.json", {"name": "npz", "classes": 2, "image_size": 8})
    write_json(tmp_path / "results.json", {"rows": [], "origin": 3})
    assert main(["show", str(tmp_path)]) == 2
    assert "results.json is damaged (origin should be a valid dictionary" in capsys.readouterr().err
