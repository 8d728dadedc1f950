"""No file that gvbsm did not make is ever replaced or removed, whatever is run."""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from gvbsm.cli import main
from gvbsm.files import manifest
from gvbsm.files.artifacts import ArtifactError, atomic, remove, remove_all, write_json
from gvbsm.files.manifest import (
    claim,
    content_of,
    files_made,
    is_claimed,
    is_listed,
    record,
    root_of,
)
from support.workdirs import quick_settings, write_arrays, write_preset

# The list


def test_claim__new_empty_and_own_folders_alone(tmp_path):
    claim(tmp_path / "new" / "deep")
    assert is_claimed(tmp_path / "new" / "deep")
    (tmp_path / "empty").mkdir()
    claim(tmp_path / "empty")
    (tmp_path / "empty" / "mine").touch()
    claim(tmp_path / "empty")  # it has a manifest
    (tmp_path / "full").mkdir()
    for name in "dcba":
        (tmp_path / "full" / name).touch()
    with pytest.raises(FileExistsError, match=r"^'a', 'b', 'c', \.\.\.$"):
        claim(tmp_path / "full")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == list("abcd")


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_files_that_a_system_puts_into_a_folder_leave_it_empty_and_stay(name, tmp_path):
    (tmp_path / name).write_text("of the system")
    claim(tmp_path)
    assert is_claimed(tmp_path)
    assert (tmp_path / name).read_text() == "of the system"
    assert files_made(tmp_path) == []


def test_a_file_is_listed_with_its_content_and_not_with_another(tmp_path):
    claim(tmp_path)
    path = tmp_path / "deep" / "x.txt"
    for text in ("first", "again"):
        with atomic(path) as temporary:
            temporary.write_text(text)
    assert files_made(tmp_path) == [path]
    path.write_text("first")  # as it was written once
    assert is_listed(path, tmp_path)
    path.write_text("fir5t")
    assert not is_listed(path, tmp_path)
    remove(path)
    assert path.read_text() == "fir5t"
    with pytest.raises(ArtifactError, match=r"x\.txt is in the way.*move it away"), atomic(path):
        pass
    path.unlink()
    path.symlink_to(tmp_path / "else")
    (tmp_path / "else").write_text("first")
    assert not is_listed(path, tmp_path)


def test_many_files_are_removed_by_one_reading_of_the_list(tmp_path, monkeypatch):
    claim(tmp_path)
    own = [tmp_path / f"{number}.json" for number in range(5)]
    for path in own:
        write_json(path, {"x": 1})
    own[1].write_text("of the user")
    (tmp_path / "mine.json").touch()
    read, listed_contents = [], manifest.listed_contents
    monkeypatch.setattr(manifest, "listed_contents", lambda r: read.append(r) or listed_contents(r))
    assert remove_all([*own, tmp_path, tmp_path / "mine.json"]) == [own[0], *own[2:]]
    assert read == [tmp_path]
    assert {path.name for path in tmp_path.glob("*.json")} == {"1.json", "mine.json"}


def test_the_list_moves_with_its_folder(tmp_path):
    claim(tmp_path / "a")
    write_json(tmp_path / "a" / "x.json", {"x": 1})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert files_made(tmp_path / "b") == [tmp_path / "b" / "x.json"]
    assert root_of(tmp_path / "b" / "y" / "z") == tmp_path / "b"
    assert root_of(tmp_path / "c" / "z") is None


def test_a_file_is_listed_before_it_takes_its_name(tmp_path, monkeypatch):
    claim(tmp_path)
    path, listed = tmp_path / "x.json", []
    replace = type(path).replace

    def watched(source, target):
        listed.append(content_of(source) in manifest.listed_contents(tmp_path)["x.json"])
        return replace(source, target)

    monkeypatch.setattr(type(path), "replace", watched)
    write_json(path, {"x": 1})
    assert listed == [True]


def test_broken_lines_of_a_manifest_hide_nothing_else(tmp_path):
    claim(tmp_path)
    (tmp_path / "x").write_text("x")
    lines = ["[" * 5000, "null", '{"name": 1}', '{"name": "x", "size": "1", "crc32": 1}', '{"na']
    with (tmp_path / manifest.NAME).open("a") as file:
        file.write("\n".join(lines) + "\n")
    record(tmp_path, {tmp_path / "x": content_of(tmp_path / "x")})
    assert files_made(tmp_path) == [tmp_path / "x"]


def test_a_line_that_a_power_cut_left_incomplete_does_not_hide_the_next_one(tmp_path):
    claim(tmp_path)
    with (tmp_path / manifest.NAME).open("ab") as file:
        file.write(b'{"name": "x.json", "si')
    for number in range(2):
        write_json(tmp_path / "y.json", {"number": number})  # the second replaces the first
    assert files_made(tmp_path) == [tmp_path / "y.json"]


def test_a_line_that_does_not_fit_on_the_disk_is_an_error_and_no_file_is_made(
    tmp_path, monkeypatch
):
    claim(tmp_path)
    path, listing = tmp_path / "x.json", tmp_path / manifest.NAME
    opened = type(path).open

    class FullDisk(io.FileIO):
        def write(self, content):
            return super().write(content[:20])  # as the system does where 20 bytes are left

    def short(self, mode="r", **options):
        return (
            FullDisk(self, mode)
            if self == listing and "a" in mode
            else opened(self, mode, **options)
        )

    with monkeypatch.context() as patched:
        patched.setattr(type(path), "open", short)
        with pytest.raises(OSError, match="No space left on device"):
            write_json(path, {"x": 1})
    assert not path.exists()
    write_json(path, {"x": 2})
    assert files_made(tmp_path) == [path]


def test_each_process_has_a_list_and_all_are_read(tmp_path, monkeypatch):
    claim(tmp_path)
    names = {"WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        write_json(tmp_path / f"{rank}.json", {})
    assert [path.name for path in files_made(tmp_path)] == ["0.json", "1.json"]
    assert len(list(tmp_path.glob(".gvbsm-files*.jsonl"))) == 2


# All verbs


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    data = {"name": "npz", "root": str(write_arrays(folder / "toy.npz"))}
    settings = quick_settings(data, baselines={"methods": ["random-soft", "forgetting-hard"]})
    settings["evaluation"]["seeds"] = 1
    settings["continual"] = {"steps": 2, "orders": 1, "epochs": 2, "students": ["convnet8_d1"]}
    return write_preset(folder / "toy.yaml", settings)


@pytest.fixture(scope="module")
def finished(preset, tmp_path_factory):
    """A finished run with its report."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", str(preset), "--workdir", str(workdir), "--quiet"]) == 0
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def contents(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def put(paths):
    """Files of the user's, and what they hold."""
    paths = list(paths)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"mine: {path.name}")
    return {path: path.read_text() for path in paths}


def assert_kept(mine):
    assert {path: path.read_text() for path in mine} == mine


def test_a_run_makes_no_file_that_it_does_not_list(finished):
    roots = {finished, finished / "report"}
    made = {path for root in roots for path in files_made(root)}
    there = {path for path in finished.rglob("*") if path.is_file()}
    unlisted = {path.name for path in there - made}
    assert unlisted == {manifest.NAME, ".lock"}


def test_a_folder_of_other_things_is_refused_by_every_verb(preset, finished, tmp_path, capsys):
    """The user's files lie wherever a run, its report or an export has ever put one."""
    places = [path.relative_to(finished) for path in finished.rglob("*") if path.is_file()]
    mine = put(tmp_path / "home" / place for place in places if manifest.NAME not in place.name)
    mine |= put([tmp_path / "home" / name for name in ("gvbsm.json", ".X.tmp/mine", "labels/n")])
    before, home = contents(tmp_path), str(tmp_path / "home")
    export = ["export", str(finished), "--out", home, "--overwrite", "--to"]
    for command in (
        *(
            [verb, str(preset), "--workdir", home]
            for verb in ("run", "squeeze", "statistics", "synthesis", "labels", "continual")
        ),
        ["sweep", "table1-alpha", str(preset), "--workdir", home],
        *([*export, form] for form in ("folder", "hub", "dd-ranking")),
        ["report", home],
    ):
        assert main([*command, "--quiet"]) == 2, command
        assert len(capsys.readouterr().err.splitlines()) == 1, command
    assert contents(tmp_path) == before
    assert_kept(mine)


def test_files_put_beside_those_of_a_run_are_kept(preset, workdir, tmp_path):
    """In every folder, under names that are like those of gvbsm's own."""
    folders = {path.parent for path in workdir.rglob("*") if path.is_file()}
    names = (
        "thesis.pdf",
        "plot.png",
        "my film.gif",
        "shard-of-glass.txt",
        "group-photo.safetensors",
        "chunk-1",
        "x.partial.safetensors",
        ".X.tmp/mine",
        ".gvbsm-mine.tmp/mine",
        "seconds-1.json",
    )
    mine = put(folder / name for folder in sorted(folders) for name in names)
    at = ["--workdir", str(workdir), "--quiet"]
    for command in (
        ["run", str(preset), "--seed", "1", *at],
        ["labels", str(preset), "--seed", "1", "--compress", "--labels.storage.top_k", "2", *at],
        ["continual", str(preset), "--seed", "1", *at],
        ["report", str(workdir), "--quiet"],
    ):
        assert main(command) == 0, command
        assert_kept(mine)


@pytest.mark.parametrize(
    "name",
    [
        "squeeze/wrn10_1.safetensors",
        "synthesis/images.safetensors",
        "labels/index.json",
        "evaluation/gvbsm-convnet8_d1-0.json",
        "seconds.json",
    ],
)
def test_a_file_that_was_exchanged_stops_the_run_before_it_is_replaced(
    name, preset, workdir, capsys
):
    mine = put([workdir / name])
    command = ["run", str(preset), "--workdir", str(workdir), "--seed", "1", "--quiet"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name.rpartition("/")[2] in line
    assert "move it away" in line
    assert_kept(mine)


@pytest.mark.parametrize("name", ["report/figures", "labels", "squeeze"])
def test_nothing_is_written_or_removed_through_a_link(name, preset, workdir, tmp_path, capsys):
    mine = put(tmp_path / "Pictures" / file for file in ("a.png", "b.pdf", "c.gif", "shard-0.tmp"))
    shutil.rmtree(workdir / name)
    (workdir / name).symlink_to(tmp_path / "Pictures")
    command = ["run", str(preset), "--workdir", str(workdir), "--quiet"]
    assert main(command) == 2
    assert "leads out of" in capsys.readouterr().err
    assert_kept(mine)
    assert sorted(path.name for path in (tmp_path / "Pictures").iterdir()) == sorted(
        path.name for path in mine
    )


def test_train_replaces_no_file(finished, workdir, tmp_path, capsys):
    exported = tmp_path / "set"
    assert main(["export", str(finished), "--to", "folder", "--out", str(exported), "--quiet"]) == 0
    command = ["train", str(exported), "--model", "convnet8_d1", "--threads", "1", "--quiet"]
    command += ["--labels.epochs", "1", "--out"]
    mine = put([tmp_path / "model.json", tmp_path / "other.safetensors"])
    before = contents(workdir)
    for out in ("model.safetensors", "other.safetensors", "run/results.safetensors"):
        assert main([*command, str(tmp_path / out)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert_kept(mine)
    assert contents(workdir) == before
    for _ in range(2):  # the second finds its own
        assert main([*command, str(tmp_path / "own.safetensors")]) == 0


def test_a_sweep_heals_once_a_damaged_file_is_moved_away(preset, tmp_path, capsys):
    study = tmp_path / "study.yaml"
    points = {str(seed): {"evaluation.seed": seed} for seed in range(3)}
    axes = {"title": "t", "source": "none", "axes": ["seed"], "points": points}
    study.write_text(yaml.safe_dump(axes))
    command = ["sweep", str(study), str(preset), "--workdir", str(tmp_path / "s"), "--quiet"]
    assert main(command) == 0
    folders = sorted((tmp_path / "s" / "points").iterdir())
    shared, *others = (folder / "squeeze" / "wrn10_1.safetensors" for folder in folders)
    assert all(shared.samefile(other) for other in others)
    with shared.open("rb+") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"XXXX")
    for folder in folders:
        shutil.rmtree(folder / "synthesis")
        shutil.rmtree(folder / "evaluation")
    moved = 0
    while main(command) != 0:
        (line,) = capsys.readouterr().err.splitlines()
        damaged = Path(line.removeprefix("gvbsm: ").partition(" is ")[0])
        damaged.rename(damaged.with_suffix(".damaged"))
        moved += 1
    assert 0 < moved <= len(folders)  # once for each point that had it, at most
    assert json.loads((tmp_path / "s" / "study.json").read_text())["rows"]
