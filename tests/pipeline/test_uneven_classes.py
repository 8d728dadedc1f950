"""Another number of images for single classes (`ipc_of`): whole runs, files, tables, refusals."""

import json
import os
import subprocess
import sys
import time

import pytest

import gvbsm
from gvbsm.cli import main
from gvbsm.files.artifacts import read_header
from gvbsm.store.distilled import load_images
from gvbsm.store.workdir import Workspace
from support.workdirs import digests, quick_settings, rows_without_times, write_preset

COUNTS = (1, 2, 2, 2, 2, 2, 2, 5, 2, 2)  # images of the digits 0 to 9
OPTIONS = ("--ipc_of.0", "1", "--ipc_of.7", "5")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """The digits at two images per class, with settings that take seconds."""
    baselines = {"methods": ["random-hard", "random-soft", "sre2l", "teacher", "herding-hard"]}
    settings = quick_settings({"name": "digits"}, processes=1, baselines=baselines)
    settings["squeeze"]["epochs"] = settings["evaluation"]["seeds"] = 1
    return write_preset(tmp_path_factory.mktemp("preset") / "few.yaml", settings)


def start(preset, workdir):
    command = [sys.executable, "-m", "gvbsm", "run", str(preset), "--workdir", str(workdir)]
    return subprocess.Popen(
        [*command, *OPTIONS, "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def end(process):
    output, errors = process.communicate(timeout=550)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def finished(preset, tmp_path_factory):
    """A work directory of one uninterrupted run, and what the run printed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, end(start(preset, workdir))


@pytest.mark.timeout(600)
def test_every_set_has_the_numbers_of_its_classes(finished):
    workdir, output = finished
    paths = Workspace(workdir).image_sets()
    assert {"gvbsm", "random", "sre2l", "herding"} <= paths.keys()
    for name in paths.keys() - {"real"}:
        images = load_images(paths[name])
        assert images.counts == COUNTS, name
        assert images.labels.tolist() == sorted(images.labels.tolist())
        recipe = read_header(paths[name])["recipe"]
        assert (recipe["ipc"], recipe["ipc_of"]) == (2, {"0": 1, "7": 5})
    labels = gvbsm.load(workdir).soft_labels
    assert labels.images == sum(COUNTS)
    rows = json.loads((workdir / "results.json").read_text())["rows"]
    of_sets = [row for row in rows if row["method"] != "teacher"]
    assert {(row["ipc"], *row["ipc_of"].items()) for row in of_sets} == {(2, ("0", 1), ("7", 5))}
    assert [row.get("ipc_of") for row in rows if row["method"] == "teacher"] == [None, None]
    assert "1 to 5" in output


@pytest.mark.timeout(600)
def test_what_is_shown_names_the_range(finished, capsys):
    workdir, _ = finished
    main(["show", str(workdir)])
    assert "synthesis: gvbsm, 1 to 5 images per class, " in capsys.readouterr().out
    page = gvbsm.report(workdir).read_text()
    assert "1 to 5 images per class" in page
    assert "22 images of 8" in page
    assert "Each class has up to 3 images of 1 to 5 beside" in page


@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_to_the_same_files(finished, preset, tmp_path):
    reference, _ = finished
    workdir = tmp_path / "killed"
    for stage in ("synthesis", "labels"):
        process = start(preset, workdir)
        while process.poll() is None and not list(workdir.glob(f"{stage}/*")):
            time.sleep(0.005)
        process.kill()
        process.communicate()
    end(start(preset, workdir))
    assert digests(workdir) == digests(reference)
    assert rows_without_times(workdir) == rows_without_times(reference)


@pytest.mark.timeout(600)
def test_a_call_from_python_finds_all_done_in_any_spelling(finished, preset):
    workdir, _ = finished
    before = digests(workdir)
    spelled = {0: 1, "3": 2, "7": 5}  # the digit 3 has `ipc` images anyhow
    results = gvbsm.run(str(preset), workdir, quiet=True, ipc_of=spelled)
    assert digests(workdir) == before
    assert results["config"]["ipc_of"] == {"0": 1, "7": 5}
    assert "| gvbsm | convnet8\\_d1 | 1 to 5 |" in results.to_markdown()
    assert {row["ipc_of"] for row in results.tidy() if "ipc_of" in row} == {"0=1,7=5"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("form", ["folder", "safetensors"])
def test_exports_hold_all_images(form, finished, tmp_path):
    workdir, _ = finished
    out = tmp_path / ("set" if form == "folder" else "set.safetensors")
    gvbsm.export(workdir, form, out, quiet=True)
    loaded, own = gvbsm.load(out), gvbsm.load(workdir)
    assert (loaded.counts, loaded.ipc) == (COUNTS, 2)
    assert loaded.images.equal(own.images)
    assert loaded.header["ipc_of"] == {"0": 1, "7": 5}


@pytest.mark.timeout(600)
def test_another_number_is_named_as_what_has_changed(finished, preset, capsys):
    workdir, _ = finished
    command = ["labels", str(preset), "--workdir", str(workdir), "--quiet"]
    with pytest.raises(SystemExit) as caught:
        sys.exit(main([*command, "--ipc_of.0", "3", "--ipc_of.7", "5"]))
    assert caught.value.code != 0
    assert "ipc_of.0: 1 -> 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--ipc_of.77", "2"],
            "ipc_of names '77', which is no class of the data; did you mean '7'",
        ),
        (["--ipc_of.7", "0"], "ipc_of.7 must be positive, got 0"),
        (["--ipc_of.7", "-1"], "ipc_of.7 must be positive, got -1"),
        (["--ipc_of", "7=many"], "ipc_of must be a table, such as rare=2,common=20; found many"),
        (["--ipc_of", "7"], "--ipc_of takes name=value,other=value, found '7'"),
        (["--ipc_of", "{yes: 2}"], "ipc_of names a class True, which is not text; write its name"),
    ],
)
def test_faults_end_with_one_line_before_any_work(options, words, preset, tmp_path, capsys):
    workdir = tmp_path / "none"
    with pytest.raises(SystemExit) as caught:
        sys.exit(main(["run", str(preset), "--workdir", str(workdir), "--quiet", *options]))
    assert caught.value.code != 0
    errors = capsys.readouterr().err
    assert words in errors
    assert len(errors.splitlines()) == 1
    assert not workdir.exists()
