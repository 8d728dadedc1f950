"""The first word of a command: a preset, a settings file, or pictures; anything else is refused."""

import os
import shutil
import subprocess

import pytest

from gvbsm.cli import main
from gvbsm.cli.first_word import read_first_word
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config
from gvbsm.config.keys import merge
from gvbsm.config.preset_files import read_preset
from gvbsm.files.manifest import claim


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder of one's own, in which commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preset_and_a_settings_file(folder):
    (folder / "digits").mkdir()  # a preset takes precedence over a folder
    assert read_first_word("digits")[:2] == ("digits", read_preset("digits"))
    (folder / "my.yaml").write_text("ipc: 3\n")
    start = read_first_word("digits+my.yaml")
    assert (start.preset, start.settings["ipc"], str(start.workdir)) == (
        "digits+my.yaml",
        3,
        "runs/digits+my",
    )


@pytest.mark.parametrize(
    ("path", "kind", "workdir"),
    [("birds.v1", "folder", "birds.v1"), ("./digits", "folder", "digits"), ("a/b.npz", "npz", "b")],
)
def test_pictures_start_from_the_preset_of_own_pictures(folder, path, kind, workdir):
    place = folder / path
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"") if kind == "npz" else place.mkdir()
    start = read_first_word(path)
    assert (start.preset, str(start.workdir)) == ("own", f"runs/{workdir}")
    data = {"name": kind, "root": str(place.relative_to(folder))}
    assert start.settings == merge(read_preset("own"), {"data": data})


def test_pictures_at_or_above_the_working_directory_are_named_by_it(folder, monkeypatch):
    assert str(read_first_word(".").workdir) == f"runs/{folder.name}"
    (folder / "code").mkdir()
    monkeypatch.chdir(folder / "code")
    for word in ("..", "../", "../code/.."):
        assert str(read_first_word(word).workdir) == f"runs/{folder.name}"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("", "the name of the pictures or preset is empty; . is the current folder"),
        ("digitz", "there is no preset 'digitz', and no file or folder of that name; did you mean"),
        ("digits+sre2", "there is no preset 'sre2'; did you mean sre2l"),
        ("none.yaml", "there is no settings file none.yaml"),
        ("birds/train", "there is no file or folder birds/train, and no preset of that name"),
        ("birds.npz", "there is no file or folder birds.npz"),
        ("a.txt", "a.txt is neither a preset, a settings file (.yaml), a folder of pictures nor"),
        ("made", "made is a work directory; to continue its run: gvbsm run PRESET --workdir made"),
    ],
)
def test_anything_else_gets_one_clear_line(folder, word, line):
    (folder / "a.txt").write_text("text")
    claim(folder / "made")
    (folder / "made" / "data.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        read_first_word(word)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_the_printed_settings_are_a_settings_file(folder, capsys):
    command = ["settings", "digits", "--ipc", "3", "--labels.weights", "wrn16_2=2"]
    assert main(command) == 0
    text = capsys.readouterr().out
    (folder / "my.yaml").write_text(text)
    changes = {"ipc": 3, "labels": {"weights": {"wrn16_2": 2.0}}}
    assert as_config("my.yaml") == as_config({"preset": "digits", **changes})
    first, *lines = text.splitlines()
    assert first == "# Made by: gvbsm settings digits --ipc 3 --labels.weights wrn16_2=2"
    assert "ipc: 3  # default: 10; from the command" in lines
    assert main([*command, "--changed"]) == 0
    fewer = capsys.readouterr().out.splitlines()
    assert {*fewer[1:]} < {*lines}
    assert "seed: 0" not in fewer
    assert main(["settings", "my.yaml", "--workdir", "w"]) == 2
    assert "there is no setting 'workdir'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_command_of_several_lines_is_one_comment_of_the_printed_settings(folder, capsys):
    title = "Birds of\nPeru's \\ \x1b[1m\u2028é"
    command = ["settings", "digits", "--data.title", title, "--data.root", "caf\udce9"]
    assert main([*command, "--changed"]) == 0
    text = capsys.readouterr().out
    (folder / "my.yaml").write_text(text)
    assert as_config("my.yaml").data.title == title
    words = text.partition("\n")[0].removeprefix("# Made by: gvbsm ")
    script = f"printf '%s\\0' {words}"
    read = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert read.split(b"\0")[:-1] == [os.fsencode(word) for word in (*command, "--changed")]
