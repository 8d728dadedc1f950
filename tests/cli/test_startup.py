"""What commands import: those that compute nothing do without torch, which takes seconds.

Each command runs in a process of its own, which lists the libraries that it has imported.
"""

import json
import shlex
import subprocess
import sys

import pytest

from gvbsm.cli import main
from support.picture_files import write_npz

HEAVY = {"torch", "torchvision", "timm", "matplotlib", "sklearn", "huggingface_hub", "accelerate"}
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
    return ["npz", "--data-root", str(path), "--workdir", str(folder / "w"), *TINY]


@pytest.fixture(scope="module")
def workdir(run_arguments):
    """The finished work directory."""
    assert main(["run", *run_arguments]) == 0
    return run_arguments[run_arguments.index("--workdir") + 1]


def call(*argv):
    """Run a command in a process; return its output and the heavy libraries that it imported."""
    command = [sys.executable, "-c", PROGRAM, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return done.stdout, HEAVY & {*modules}


def test_show_does_without_torch(workdir):
    output, heavy = call("show", workdir)
    assert heavy == set()
    assert "squeeze: convnet8_d1" in output
    assert "labels: 2 epochs" in output
    assert "random-hard" in output
