"""Options for entries of tables, and for settings in them, leave the rest of the table alone."""

import json

import pytest

from gvbsm.cli import main, sweep
from gvbsm.cli.parsing import parse_run
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config
from gvbsm.studies.definition import read_sweep_plan

PRESET = "cifar100-convnet-best"
BEFORE = as_config(PRESET).squeeze.settings_of
CONVNET = "--squeeze.settings_of.convnet128"


def parsed(*options):
    return parse_run("settings", [PRESET, *options]).config


@pytest.mark.parametrize(
    ("options", "airbench", "convnet"),
    [
        ([f"{CONVNET}.epochs", "20"], {}, {"epochs": 20}),
        (
            [f"{CONVNET}.epochs=20", f"{CONVNET}.batch_size", "32"],
            {},
            {"epochs": 20, "batch_size": 32},
        ),
        (
            [f"{CONVNET}.optimizer.lr", "1e-3", "--squeeze.settings_of.airbench.epochs", "5"],
            {"epochs": 5},
            {"optimizer": {**BEFORE["convnet128"]["optimizer"], "lr": 0.001}},
        ),
        (
            [f"{CONVNET}.optimizer.betas", "0.8,0.9"],
            {},
            {"optimizer": {**BEFORE["convnet128"]["optimizer"], "betas": (0.8, 0.9)}},
        ),
    ],
)
def test_a_setting_of_a_teacher_leaves_its_others_and_other_teachers_alone(
    options, airbench, convnet
):
    assert parsed(*options).squeeze.settings_of == {
        "airbench": {**BEFORE["airbench"], **airbench},
        "convnet128": {**BEFORE["convnet128"], **convnet},
    }


def test_an_entry_and_a_table_are_replaced_whole_in_the_order_of_the_options():
    entry = [f"{CONVNET}={json.dumps({'epochs': 3})}"]
    assert parsed(*entry).squeeze.settings_of == {**BEFORE, "convnet128": {"epochs": 3}}
    table = ["--squeeze.settings_of", "{airbench: {epochs: 2}}"]
    assert parsed(*entry, *table).squeeze.settings_of == {"airbench": {"epochs": 2}}
    after = parsed(*table, f"{CONVNET}.epochs", "4").squeeze.settings_of
    assert after == {"airbench": {"epochs": 2}, "convnet128": {"epochs": 4}}


def test_names_with_dots_numbers_and_texts():
    config = parsed(
        *("--evaluation.lr_of", "a=1e-3,b=2", "--evaluation.lr_of.timm/a.v2", "1e-4"),
        *("--synthesis.beta_dr_of.10", "0.4", "--ipc_of.3", "4", "--baselines.sets.x", "/a,b=c"),
        *("--baselines.overrides.sre2l.labels.weights.airbench", "2"),
        *("--baselines.overrides.sre2l.synthesis.iterations", "7"),
    )
    assert config.evaluation.lr_of == {"a": 0.001, "b": 2.0, "timm/a.v2": 0.0001}
    assert config.synthesis.beta_dr_of == {10: 0.4}
    assert config.ipc_of == {"3": 4}
    assert config.baselines.sets == {"x": "/a,b=c"}
    overrides = {"labels": {"weights": {"airbench": 2.0}}, "synthesis": {"iterations": 7}}
    assert config.baselines.overrides == {"sre2l": overrides}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([f"{CONVNET}.epochs", "x"], r"convnet128: squeeze.epochs must be a whole number; found x"),
        ([f"{CONVNET}.epoch", "3"], r"convnet128: there is no setting 'squeeze.epoch'; did you"),
        ([f"{CONVNET}.seed", "3"], r"convnet128: seed cannot differ between teachers"),
        ([f"{CONVNET}.epochs"], r"--squeeze.settings_of needs a value: a table"),
        (["--ipc_of.cat", "x"], r"ipc_of must be a table, such as rare=2,common=20; found"),
    ],
)
def test_faults_are_one_line(options, line):
    with pytest.raises(ConfigError, match=line) as caught:
        parsed(*options)
    assert len(str(caught.value).splitlines()) == 1


def test_points_of_a_study_change_single_entries(tmp_path):
    study = tmp_path / "mine.yaml"
    study.write_text(
        "title: t\nsource: s\naxes: [epochs]\n"
        "grid: {squeeze.settings_of.convnet128.epochs: [1, 2]}\n"
        "base: {squeeze.settings_of.airbench.epochs: 3}\n"
    )
    plan = read_sweep_plan(str(study), PRESET, {}, 1)
    for epochs, point in zip((1, 2), plan.studies[0][1], strict=True):
        found = point.config.squeeze.settings_of
        assert found["convnet128"] == {**BEFORE["convnet128"], "epochs": epochs}
        assert found["airbench"] == {**BEFORE["airbench"], "epochs": 3}


def test_options_of_a_sweep_change_single_entries(monkeypatch, capsys):
    seen = []

    def read(study, preset, options, repeat):
        seen.append((study, preset, options["squeeze"]["settings_of"], repeat))
        raise ConfigError("enough")

    monkeypatch.setattr(sweep, "read_sweep_plan", read)
    argv = ["ladder", PRESET, f"{CONVNET}.epochs", "20", "--repeat", "2"]
    assert main(["sweep", *argv]) == 2
    assert capsys.readouterr().err == "gvbsm: enough\n"
    convnet = {**BEFORE["convnet128"], "epochs": 20}
    assert seen == [("ladder", PRESET, {**BEFORE, "convnet128": convnet}, 2)]
