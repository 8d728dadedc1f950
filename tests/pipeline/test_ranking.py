"""Ranking networks: known correlations, equal pictures of the early stop, and the command."""

import re

import pytest

from gvbsm.cli import main
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.pipeline import ranking
from gvbsm.pipeline.budget import choice
from gvbsm.pipeline.checks.ranking import FEWEST
from gvbsm.pipeline.ranking import (
    agreement,
    compare,
    correlation,
    early_epochs,
    early_settings,
    run_ranking,
)
from gvbsm.pipeline.results import spread
from gvbsm.pipeline.tables import format_ranking
from gvbsm.store.workdir import Workspace
from support.workdirs import quick_settings, write_arrays

MODELS = ("convnet4_d1", "convnet8_d1", "convnet8_d2")


def test_the_example_of_the_help_names_enough_networks(capsys):
    assert main(["rank", "--help"]) == 0
    models = re.search(r"^example: .* --models (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert len({*models[1].split(",")}) >= FEWEST


def test_correlations_of_known_orders():
    """One swap of neighbors among four: Spearman 1 - 6*2/(4*15), Kendall 5 of 6 pairs less 1."""
    found = correlation([1, 2, 4, 3], [10, 20, 30, 40])
    assert found == {"spearman": pytest.approx(0.8), "kendall": pytest.approx(4 / 6)}
    assert correlation([3, 2, 1], [1, 2, 3])["kendall"] == pytest.approx(-1)
    assert correlation([1, 1, 1], [1, 2, 3]) == {"spearman": None, "kendall": None}


def test_agreement_is_of_the_means_and_of_each_seed():
    reference = {"a": [10.0, 10.0], "b": [20.0, 20.0], "c": [30.0, 30.0]}
    scores = {"a": [1.0, 3.0], "b": [2.0, 2.0], "c": [9.0, 1.0]}
    found = agreement(scores, reference)
    assert found["spearman"] == pytest.approx(0.75**0.5)  # of the means 2, 2, 5, with their tie
    assert found["by_seed"]["spearman"]["values"] == pytest.approx([1, -1])


def test_the_reference_is_compared_by_seed_with_the_others_alone():
    """Seed 0 has the reverse order of seeds 1 and 2; with itself in the mean it would agree."""
    reference = {"a": [90.0, 10.0, 10.0], "b": [50.0, 20.0, 20.0], "c": [10.0, 30.0, 30.0]}
    found = agreement(reference, reference, of_itself=True)
    assert (found["spearman"], found["kendall"]) == (None, None)
    assert found["by_seed"]["kendall"]["values"] == pytest.approx([-1, -1, -1])
    single = agreement({"a": [1.0], "b": [2.0]}, {"a": [1.0], "b": [2.0]}, of_itself=True)
    assert single["by_seed"] == {"spearman": None, "kendall": None}


def test_rows_are_compared_by_method():
    def row(method, student, *values):
        return {"method": method, "student": student, "top1": spread([*values]), "seconds": 2.0}

    rows = [row("gvbsm", name, value) for name, value in zip("abc", (3.0, 2.0, 1.0), strict=True)]
    rows += [row("full", name, value) for name, value in zip("abc", (1.0, 2.0, 3.0), strict=True)]
    first, last = compare(rows)
    assert (first["method"], first["spearman"], first["seconds"]) == ("gvbsm", -1, 6.0)
    assert (last["method"], last["spearman"]) == ("full", None)


def test_the_early_stop_sees_as_many_pictures_as_a_student_of_the_set():
    config = as_config("digits", {"ipc": 1, "labels": {"epochs": 800}})
    assert early_epochs(config, 10, 1438) == 6  # 8,000 pictures are 5.56 epochs
    assert early_epochs(config, 10, 10**6) == 1


def test_the_early_stop_is_not_tested_on_corrupted_pictures():
    """A ranking has no place for these tests, whose copies would be made a second time."""
    tested = as_config("digits", {"evaluation": {"corruptions": {"kinds": ["fog"]}}})
    early = early_settings(tested, 6)
    assert (early.baselines.full_epochs, early.evaluation.corruptions.kinds) == (6, ())
    assert early_settings(as_config("digits"), 6) == early


def test_too_few_networks_are_told_before_settings_are_measured_for_a_budget(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(choice, "choose_settings", None)
    command = ["rank", "digits", "--budget", "20m", "--workdir", str(tmp_path / "w")]
    assert main([*command, "--models", "convnet4_d1,convnet8_d1"]) == 2
    assert "at least 3 different networks" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["random-soft", "herding-hard", "gvbsm-hard"])
def test_a_baseline_in_the_place_of_the_distilled_set_is_refused(method, tmp_path):
    settings = {"preset": "digits", "method": method, "baselines": {"methods": []}}
    settings["evaluation"] = {"students": [*MODELS]}
    with pytest.raises(ConfigError, match=f"distilled set .* got method={method}"):
        run_ranking(settings, tmp_path / "w", quiet=True)
    assert not (tmp_path / "w").exists()


def test_a_file_in_the_place_of_the_ranking_is_told_before_any_training(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.claim()
    workspace.ranking.write_text("of the user")
    with pytest.raises(ArtifactError, match=r"rank\.json is in the way"):
        run_ranking(
            {"preset": "digits", "evaluation": {"students": [*MODELS]}}, tmp_path, quiet=True
        )
    assert not (tmp_path / "squeeze").exists()


def write_json_in_locked_folder(path, content):
    with (
        pytest.raises(ArtifactError, match="another run is at work"),
        Workspace(path.parent).locked(),
    ):
        pass
    write_json(path, content)


def test_the_command_ranks_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranking, "write_json", write_json_in_locked_folder)
    data = {"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))}
    settings = quick_settings(data)
    settings["evaluation"] |= {"students": list(MODELS), "seeds": 2}
    settings["baselines"] = {"full_epochs": 2}
    first = run_ranking(settings, tmp_path / "w", quiet=True)
    assert read_json(tmp_path / "w" / "rank.json") == first
    methods = ["gvbsm", "random-soft", "full", "early"]
    assert [item["method"] for item in first["agreement"]] == methods
    assert {(row["method"], row["student"]) for row in first["rows"]} == {
        (method, model) for method in methods for model in MODELS
    }
    assert all(len(row["top1"]["values"]) == 2 for row in first["rows"])
    early = sorted((tmp_path / "w" / "early" / "baselines" / "full").glob("*.json"))
    assert len(early) == 6
    assert read_json(early[0])["epochs"][-1] == first["epochs"]["early"]
    early[0].unlink()
    again = run_ranking(settings, tmp_path / "w", quiet=True)
    first["epochs"] = {"early": 1, "full": 2}
    assert "`early`: 1 epoch on all pictures; `full`: 2 epochs" in format_ranking(first)
    assert [row["top1"] for row in again["rows"]] == [row["top1"] for row in first["rows"]]
    with pytest.raises(ConfigError, match="at least 3 different networks, got convnet4_d1"):
        run_ranking(
            {**settings, "evaluation": {"students": ["convnet4_d1"]}}, tmp_path / "x", quiet=True
        )
    assert not (tmp_path / "x").exists()
    assert main(["rank", "digits", "--models", "convnet4_d1,convnet8_d1"]) == 2
    assert "--models A,B,C" in capsys.readouterr().err
