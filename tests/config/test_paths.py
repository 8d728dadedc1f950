"""Paths of users: `~` wherever a path is taken, and no home folder at all."""

import logging
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm.cli import main
from gvbsm.config import ConfigError, paths
from gvbsm.config.paths import cache_folder, user_path
from support.launch import environment
from support.workdirs import write_arrays, write_files

TINY = [
    "--squeeze.backbones=[convnet8_d1]",
    "--squeeze.epochs=1",
    "--squeeze.tests=1",
    "--device=cpu",
    "--quiet",
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_tests_and_the_commands_they_start_have_a_cache_of_their_own(tmp_path_factory):
    program = "from gvbsm.config.paths import cache_folder; print(cache_folder())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    for folder in (cache_folder(), Path(done.stdout.strip())):
        assert folder.is_relative_to(tmp_path_factory.getbasetemp())


def test_a_home_folder_is_expanded_in_commands_and_settings(home, capsys):
    write_arrays(home / "data.npz")
    (home / "mine.yaml").write_text("data: {name: npz, root: ~/data.npz}\n")
    assert main(["squeeze", "digits+~/mine.yaml", "--workdir", "~/w", *TINY]) == 0
    assert main(["show", "~/w"]) == 0
    assert "data, 4 classes" in capsys.readouterr().out  # the name of the file
    assert (home / "w" / "squeeze" / "convnet8_d1.safetensors").is_file()
    assert not list(home.parent.glob("~*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["squeeze", "digits", "--workdir", "~no_such_user/w", *TINY],
        ["squeeze", "npz", "--data-root", "~no_such_user/data.npz", "--workdir", "w", *TINY],
        ["run", "~no_such_user/mine.yaml"],
        ["sweep", "~no_such_user/mine.yaml", "digits"],
        ["sweep", "table1-alpha", "digits", "--workdir", "~no_such_user/w"],
        ["show", "~no_such_user/w"],
        ["report", "~no_such_user/w"],
        ["train", "~no_such_user/w", "--model", "convnet8_d1"],
        ["export", "~no_such_user/w", "--to", "folder", "--out", "x"],
        ["export", "w", "--to", "folder", "--out", "~no_such_user/x"],
    ],
)
def test_a_home_folder_of_nobody_is_one_line(arguments, home, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "~no_such_user/" in err


@pytest.fixture
def homeless(monkeypatch):
    """A user number that the system knows nothing of, without HOME."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_the_cache_is_a_temporary_one(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(paths.atexit, "register", lambda *_arguments, **_options: None)
    monkeypatch.setattr(paths.tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    paths._temporary_folder.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert cache_folder() == cache_folder() == tmp_path / "gvbsm-"
    paths._temporary_folder.cache_clear()
    assert ["no home folder" in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(ConfigError, match=r"^~/x begins with a home folder"):
        user_path("~/x")


def test_without_a_home_folder_a_run_is_made_and_leaves_nothing_behind(tmp_path):
    root, scratch = write_files(tmp_path / "img"), tmp_path / "scratch"
    scratch.mkdir()
    program = "import os, pwd, sys\nfrom gvbsm.cli import main\n"
    program += "def unknown(number): raise KeyError(number)\npwd.getpwuid = unknown\n"
    program += "del os.environ['HOME']\nsys.exit(main(sys.argv[1:]))\n"
    one_process = ["--processes", "1", "--data.workers", "0"]  # each of them would import torch
    arguments = ["squeeze", "folder", "--data-root", root, "--data.in_memory", "false"]
    arguments += [*one_process, *TINY]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments), "--workdir", str(tmp_path / "w")],
        env=environment(TMPDIR=str(scratch)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(scratch.glob("gvbsm-*"))


def test_an_export_takes_no_folder_that_the_caller_stands_in(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "..", "../here"):
        assert main(["export", "w", "--to", "folder", "--out", out, "--overwrite"]) == 2
        assert "is the current folder, or holds it" in capsys.readouterr().err
    assert Path.cwd().is_dir()
    assert os.listdir(tmp_path) == ["here"]  # noqa: PTH208
