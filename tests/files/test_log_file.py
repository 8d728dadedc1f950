"""The log file of a work directory: appended to, and never in place of another file."""

import json
import logging
import re

import pytest

from gvbsm.engine.progress import log as log_module
from gvbsm.engine.progress.log import EARLY
from gvbsm.files.log_file import NAME, log_file
from gvbsm.files.manifest import claim, files_made

log = logging.getLogger("gvbsm")


@pytest.fixture
def folder(tmp_path, caplog):
    claim(tmp_path)
    caplog.set_level(logging.INFO, "gvbsm")
    return tmp_path


def messages(folder):
    return [line.partition(" ")[2] for line in (folder / NAME).read_text().splitlines()]


def test_runs_append_their_lines_with_times(folder, monkeypatch):
    monkeypatch.setattr(log, "handlers", [EARLY])
    monkeypatch.setattr(EARLY, "buffer", [])
    log.info("before the file is open")
    with log_file(folder):
        log.info("first run")
    with log_file(folder):
        log.info("second run")
    assert messages(folder)[1:] == ["before the file is open", "first run", "second run"]
    for line in (folder / NAME).read_text().splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line)
    assert files_made(folder) == []  # its content changes, so it is no finished file


def test_the_file_holds_what_ended_a_run(folder):
    with pytest.raises(ValueError, match="broken"), log_file(folder):
        raise ValueError("broken")
    assert messages(folder)[-1] == "ended by ValueError: broken"
    log.info("after the run")
    assert messages(folder)[-1] == "ended by ValueError: broken"


@pytest.mark.parametrize("content", [b"", b"my own log\n"])
def test_a_file_of_the_user_is_left_alone(content, folder, caplog):
    (folder / NAME).write_bytes(content)
    with log_file(folder):
        log.info("a line")
    assert (folder / NAME).read_bytes() == content
    (warning,) = [line for line in caplog.records if line.levelno == logging.WARNING]
    assert warning.getMessage().endswith(
        f"{NAME} is in the way: gvbsm did not write it, so this run has no log file"
    )


def test_a_log_that_another_file_replaced_is_left_alone(folder):
    with log_file(folder):
        pass
    (folder / NAME).write_text("my own log\n")
    with log_file(folder):
        log.info("a line")
    assert (folder / NAME).read_text() == "my own log\n"


def test_a_link_is_not_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    (folder / NAME).symlink_to(elsewhere)
    with log_file(folder):
        log.info("a line")
    assert not elsewhere.exists()


def test_a_quiet_run_has_no_log_file(folder, caplog):
    caplog.set_level(logging.WARNING, "gvbsm")
    with log_file(folder):
        log.info("a line")
    assert not (folder / NAME).exists()


def test_json_lines(folder, monkeypatch):
    monkeypatch.setattr(log_module, "log_style", lambda: "json")
    with log_file(folder):
        log.info("a line", extra={"progress": {"done": 1}})
    entries = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    assert (entries[-1]["message"], entries[-1]["done"]) == ("a line", 1)
