"""The verb `list`: everything that a command can name, from the registries themselves."""

import re

import pytest

from gvbsm.backbones import BACKBONES
from gvbsm.backbones.cost import Size
from gvbsm.cli import main
from gvbsm.config.preset_files import preset_names
from gvbsm.data.sources.catalog import SOURCES
from gvbsm.studies.definition import study_names


@pytest.mark.parametrize(
    ("what", "names"),
    [("presets", preset_names()), ("data", list(SOURCES)), ("studies", study_names())],
)
def test_a_list_has_a_line_for_each_name(what, names, capsys):
    assert main(["list", what]) == 0
    text = capsys.readouterr().out
    listed = re.findall(r"^  (\S+)", text, re.MULTILINE)
    assert sorted(listed) == sorted(names)
    assert max(map(len, text.splitlines())) <= 100


def test_networks_are_listed_with_their_size(capsys, monkeypatch):
    sizes = {name: Size(1_234_000, 56e6, place) for place, name in enumerate(BACKBONES, 1)}
    monkeypatch.setattr("gvbsm.backbones.cost.size_of", lambda name, side: sizes[name])
    assert main(["list", "backbones"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in BACKBONES:
        (row,) = [row for row in rows if row[:1] == [name]]
        assert row[1:4] == ["1.23", "56", str(sizes[name].smallest)]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "gvbsm list backbones|presets|data|studies takes one of these, got none"),
        (["preset"], "got preset; did you mean presets?"),
        (["data", "presets"], "got data presets"),
    ],
)
def test_anything_else_is_refused_in_one_line(argv, words, capsys):
    assert main(["list", *argv]) == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1
    assert line.rstrip("; \n") == line.rstrip("\n")  # no sentence ends in its middle
