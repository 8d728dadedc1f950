"""Commands and code in README and docs: they parse, and what the how-to pages show works."""

import ast
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import gvbsm
from gvbsm.cli import main
from gvbsm.cli.help import VERBS
from gvbsm.cli.lists import with_lists
from gvbsm.cli.parsing import SETTINGS_VERBS, long_option, parse_run
from gvbsm.config.build import settings_parser
from gvbsm.config.preset_files import preset_names
from gvbsm.studies.definition import read_study, study_names

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
HOW_TO = ROOT / "docs" / "how-to"


class Block(NamedTuple):
    language: str
    text: str


def blocks(page):
    """The fenced blocks of a page, those in lists too."""
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
    return [Block(*found[1:]) for found in fence.findall(page.read_text(encoding="utf-8"))]


def commands(page):
    """The arguments of each `gvbsm` command in the blocks of a page, without its comment."""
    for block in blocks(page):
        if block.language == "":
            for line in re.sub(r" \\\n\s*", " ", block.text).splitlines():
                command = re.search(r"(?:^ *|&& |-m |--module |srun .*?)gvbsm ([a-z-].*)", line)
                if command:
                    yield shlex.split(re.split(r" [>|&] ", command[1])[0], comments=True)


COMMANDS = {shlex.join(argv): page for page in PAGES for argv in commands(page)}


def options(argv):
    return [argument.partition("=")[0] for argument in argv if argument.startswith("--")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_page_is_one_that_gvbsm_takes(command, capsys):
    verb, *rest = argv = shlex.split(command)
    if verb == "--version":
        return
    assert verb in VERBS
    if "--help" in rest or verb in ("list", "show"):
        assert main(argv if "--help" in rest or verb == "list" else [verb, "--help"]) == 0
    elif verb in SETTINGS_VERBS and verb != "rank":
        first = rest[0].replace("+METHOD-hard", "")  # a placeholder of docs/studies.md
        is_known = set(first.split("+")) <= set(preset_names())
        assert is_known or re.fullmatch(
            r"[A-Z]+|\w+\.yaml|[A-Z]+\.npz|pictures|toy|\w+/\w+", first
        ), first
        assert parse_run(verb, [first if is_known else "digits", *rest[1:]]) is not None
    elif verb == "sweep":
        for study in rest[0].split("+"):
            assert study in ("all", *study_names()) or study.endswith(".yaml")
        given = with_lists([long_option(argument) for argument in rest[2:]])
        parser = settings_parser("gvbsm sweep")
        for name in ("--workdir", "--repeat"):
            parser.add_argument(name, type=str)
        parser.parse_args(given, defaults=False)
    else:
        main([verb, "--help"])
        main(["run", "--help", "all"])  # rank takes all settings, and its help shows some
        known = capsys.readouterr().out
        assert [name for name in options(rest) if long_option(name) not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_a_page_is_python(page):
    """And what it takes from gvbsm is there."""
    for block in blocks(page):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "gvbsm":
                    assert node.attr in dir(gvbsm), node.attr


def code_of(page, language="python"):
    return [block.text for block in blocks(HOW_TO / page) if block.language == language]


def test_the_network_of_the_how_to_page_can_be_built(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(code_of("own_network.md")[0])
    monkeypatch.chdir(tmp_path)
    network = gvbsm.build_backbone("net.py:Net", classes=7, image_size=8, channels=1)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


def test_the_study_of_the_how_to_page_is_a_study(tmp_path, monkeypatch):
    (tmp_path / "smooth.yaml").write_text(code_of("own_loss.md", "yaml")[0])
    monkeypatch.chdir(tmp_path)
    assert [variant.name for variant in read_study("smooth.yaml").variants] == ["without", "with"]


def test_the_loss_of_the_how_to_page_is_that_of_the_guide():
    guide = (ROOT / "docs" / "own_parts.md").read_text(encoding="utf-8")
    docstring, function = code_of("own_loss.md")[0].split("\n\n\n")
    assert docstring in guide
    assert function.partition("    return")[0] in guide


def test_the_commands_of_pages_are_found():
    """Also those of several lines, after `&&`, in lists, and behind a launcher."""
    assert len(COMMANDS) > 90
    assert "run digits --processes 4" in COMMANDS
    assert COMMANDS["sweep alternatives digits-best --threads 1 --workdir runs/idea"].stem == (
        "CONTRIBUTING"
    )
    assert "run digits --workdir /scratch/digits" in COMMANDS
