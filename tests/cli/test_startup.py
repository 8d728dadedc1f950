"""What commands import: stages what they use, and those that compute nothing not even torch.

Each command runs in a process of its own, which lists the libraries that it has imported.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gvbsm.cli import main
from gvbsm.cli.finished import Completion
from gvbsm.cli.parsing import parse_run
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.pipeline.tables import format_table
from gvbsm.store.workdir import Workspace
from support.picture_files import write_npz

HEAVY = {
    "accelerate",
    "datasets",
    "huggingface_hub",
    "matplotlib",
    "pandas",
    "scipy",
    "sklearn",
    "timm",
    "torch",
    "torchvision",
}
TINY = shlex.split(
    "--squeeze.backbones [convnet8_d1] --squeeze.epochs 1 --squeeze.tests 1 "
    "--synthesis.iterations 2 --labels.epochs 2 --evaluation.tests 1 "
    "--evaluation.students [convnet8_d1] --evaluation.seeds 1 --ipc 2 "
    "--device cpu --data.workers 0 --baselines.methods [random-hard,teacher] --quiet"
)
PROGRAM = """
import json, sys
from gvbsm.cli import main
code = main(sys.argv[1:])
modules = sorted({name.partition(".")[0] for name in sys.modules})
print("\\n" + json.dumps([code, modules]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def run_arguments(tmp_path_factory):
    """Arguments of a run that takes a second, on twelve pictures; its work directory is `w`."""
    folder = tmp_path_factory.mktemp("startup")
    path = folder / "tiny.npz"
    write_npz(path, count=12, channels=1)
    time.sleep(2.1)  # newer pictures are not noted: their next change might not show
    return ["npz", "--data-root", str(path), "--workdir", str(folder / "w"), *TINY]


@pytest.fixture(scope="module")
def workdir(run_arguments):
    """The finished work directory."""
    assert main(["run", *run_arguments]) == 0
    return run_arguments[run_arguments.index("--workdir") + 1]


def call(*argv, expected=0, libraries=HEAVY):
    """Run a command in a process; return its output, and which of the libraries it imported."""
    command = [sys.executable, "-c", PROGRAM, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == expected, done.stderr
    return done.stdout, libraries & {*modules}


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["list", "presets"]])
def test_help_imports_neither_torch_nor_the_schemas_of_files(argv):
    output, imported = call(*argv, libraries={*HEAVY, "pydantic"})
    assert imported == set()
    assert "gvbsm" in output


def test_a_stage_imports_only_what_it_uses(tmp_path):
    """A stage on a ConvNet uses torch: no library of networks, of pictures or of figures."""
    command = ["squeeze", "digits", "--workdir", tmp_path, *TINY, "--precision", "fp32"]
    _, heavy = call(*command)
    assert heavy == {"torch"}
    assert (tmp_path / "squeeze" / "convnet8_d1.safetensors").is_file()


def test_show_does_without_torch(workdir):
    output, heavy = call("show", workdir)
    assert heavy == set()
    assert "squeeze: convnet8_d1" in output
    assert "labels: 2 epochs" in output
    assert "random-hard" in output


def test_a_damaged_work_directory_is_refused_without_torch(tmp_path):
    (tmp_path / "results.json").write_text("{")
    assert call("show", tmp_path, expected=2)[1] == set()


@pytest.mark.parametrize("verb", ["run", "squeeze", "synthesis", "labels", "evaluation"])
def test_a_finished_work_directory_needs_no_torch(workdir, run_arguments, verb):
    files = {path: path.stat().st_mtime_ns for path in Path(workdir).rglob("*") if path.is_file()}
    output, heavy = call(verb, *run_arguments)
    assert heavy == set()
    assert {path: path.stat().st_mtime_ns for path in files if path.name != ".lock"} == {
        path: time for path, time in files.items() if path.name != ".lock"
    }
    if verb == "run":
        rows = read_json(Path(workdir, "results.json"))["rows"]
        assert output.startswith(format_table(rows))
        assert output.endswith(f"report:        {Path(workdir, 'report', 'index.html')}\n")


@pytest.fixture
def copied(workdir, run_arguments, tmp_path):
    """A work directory of its own with its pictures, and the arguments of its run."""
    arguments = [*run_arguments]
    arguments[2], arguments[4] = str(tmp_path / "tiny.npz"), str(tmp_path / "w")
    shutil.copy(run_arguments[2], arguments[2])
    shutil.copytree(workdir, arguments[4])
    return arguments


@pytest.fixture
def finish(copied, monkeypatch):
    """Note that a verb has ended in the copied directory, whose files are new."""
    monkeypatch.setattr("gvbsm.files.state.SETTLED_NS", 0)

    def note(verb):
        completion = completion_of(verb, copied)
        completion.freeze()
        completion.note()
        assert completion_of(verb, copied).is_noted()

    return note


def completion_of(verb, arguments):
    config, workdir, _, origin, *_ = parse_run(verb, [*arguments])
    return Completion(verb, config, workdir, origin)


def keep_size_and_time(path):
    """Change a byte of a file, and set the times of its content back."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "pictures": lambda folder: keep_size_and_time(folder / "tiny.npz"),
    "a teacher": lambda folder: keep_size_and_time(folder / "w/squeeze/convnet8_d1.safetensors"),
    "a shard": lambda folder: (folder / "w/labels/shard-00000.safetensors").unlink(),
    "results": lambda folder: (folder / "w/results.json").unlink(),
    "report": lambda folder: keep_size_and_time(folder / "w/report/index.html"),
    "note": lambda folder: keep_size_and_time(folder / "w/finished.json"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_noticed(copied, finish, tmp_path, change):
    finish("run")
    CHANGES[change](tmp_path)
    assert not completion_of("run", copied).is_noted()


@pytest.mark.parametrize("setting", ["--ipc=3", "--seed=1", "--precision=bf16", "--threads=1"])
def test_a_changed_setting_is_noticed(copied, finish, setting):
    finish("run")
    assert not completion_of("run", [*copied, setting]).is_noted()


def test_another_library_is_noticed(copied, finish, monkeypatch):
    finish("run")
    monkeypatch.setattr("gvbsm.cli.finished.version", lambda _: "0")
    assert not completion_of("run", copied).is_noted()


def test_a_stage_is_noted_without_those_that_follow(copied, finish):
    (Path(copied[4]) / "finished.json").unlink()
    finish("squeeze")
    assert not completion_of("run", copied).is_noted()
    assert not completion_of("labels", copied).is_noted()
    finish("labels")
    assert completion_of("squeeze", copied).is_noted()


def test_new_files_make_the_report_of_a_run_outdated(copied, finish):
    finish("run")
    write_json(Path(copied[4]) / "continual.json", {})
    finish("continual")
    assert not completion_of("run", copied).is_noted()
    assert completion_of("labels", copied).is_noted()


def test_files_that_change_after_the_verb_are_not_noted(copied, finish, tmp_path):
    finish("run")
    completion = completion_of("run", [*copied, "--seed=1"])
    completion.freeze()
    (tmp_path / "w/squeeze/convnet8_d1.safetensors").unlink()
    completion.note()
    assert not completion_of("run", [*copied, "--seed=1"]).is_noted()


def test_pictures_that_change_during_the_verb_are_noticed(copied, finish, tmp_path):
    completion = completion_of("run", copied)
    keep_size_and_time(tmp_path / "tiny.npz")
    completion.freeze()
    completion.note()
    assert not completion_of("run", copied).is_noted()


def test_settings_with_code_of_the_user_are_never_noted(copied, finish):
    finish("run")
    own = [*copied, "--evaluation.students", "[net.py:Net]"]
    completion = completion_of("run", own)
    completion.freeze()
    completion.note()
    assert not completion_of("run", own).is_noted()


def test_a_directory_at_work_is_refused(copied, finish):
    finish("run")
    workspace = Workspace(Path(copied[4]))
    with workspace.locked(), pytest.raises(ArtifactError, match="another run is at work"):
        completion_of("run", copied).is_noted()
