"""One's own network on the command line, in processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gvbsm.cli import main
from gvbsm.files.artifacts import read_header

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, pictures):
        return self.head(self.norm(self.conv(pictures)).relu().mean((2, 3)))
"""
OPTIONS = """
digits --ipc 1 --device cpu --threads 1 --workdir w --quiet --squeeze.epochs 1 --squeeze.tests 1
--synthesis.iterations 3 --labels.epochs 2 --labels.min_steps 0 --evaluation.seeds 1
--evaluation.tests 1 --baselines.methods
"""
QUICK = OPTIONS.split()


@pytest.fixture
def gvbsm(tmp_path):
    """Run a command in the folder; return its output. It must end with the code."""

    def run(*argv, code=0):
        command = [sys.executable, "-m", "gvbsm", *argv]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
        )
        assert done.returncode == code, done.stderr
        return done

    return run


def test_a_network_of_one_s_own_is_teacher_and_student(gvbsm, tmp_path):
    code = tmp_path / "net.py"
    code.write_text(NET)
    networks = ["--squeeze.backbones", "net.py:Net", "--evaluation.students", "net.py:Net"]
    gvbsm("run", *QUICK, "", *networks)
    results = json.loads((tmp_path / "w/results.json").read_text())
    assert [(row["method"], row["student"]) for row in results["rows"]] == [("gvbsm", "net.py:Net")]
    teacher = tmp_path / "w/squeeze/net.py-Net.safetensors"
    first = teacher.read_bytes()
    assert "squeeze: net.py:Net" in gvbsm("show", "w").stdout

    # a directory that names code does not run it; the user's command does
    analysis = tmp_path / "w/report/analysis.safetensors"
    analysis.unlink()
    left_out = "net.py-Net.safetensors is left out: the code of net.py:Net is not run"
    assert left_out in gvbsm("report", "w").stderr
    assert not analysis.exists()
    assert gvbsm("report", "w", "--networks", "net.py:Net").stderr == ""
    assert analysis.exists()

    gvbsm("train", "w", "--model", "net.py:Net", "--labels.epochs", "1", "--quiet")
    assert (tmp_path / "runs/train/net.py-Net.safetensors").is_file()
    gvbsm("export", "w", "--to", "folder", "--out", "out", "--quiet")
    to_onnx = ["export", "runs/train/net.py-Net.safetensors", "--to", "onnx", "--out", "model"]
    assert "the code of net.py:Net is not run" in gvbsm(*to_onnx, code=2).stderr
    gvbsm(*to_onnx, "--networks", "net.py:Net")
    assert (tmp_path / "model" / "model.onnx").is_file()

    code.write_text(NET.replace("4, 3,", "4, 5,"))
    line = gvbsm("report", "w", "--networks=net.py:Net").stderr
    assert "is left out: it was made by another version of net.py:Net" in line
    gvbsm("squeeze", *QUICK, "", *networks)
    assert teacher.read_bytes() != first


def test_the_loss_term_of_the_docs(gvbsm, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs/own_parts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    code = next(block for block in blocks if "def smooth" in block)
    (tmp_path / "smooth.py").write_text(code)
    networks = ["--squeeze.backbones", "convnet8_d1", "--evaluation.students", "convnet8_d1"]
    quick = [*QUICK, "", *networks]
    gvbsm("run", *quick, "--synthesis.extra=smooth.py:smooth")
    images = tmp_path / "w/synthesis/images.safetensors"
    first, header = images.read_bytes(), read_header(images)
    assert header["recipe"]["extra"]["weight"] == 1.0
    assert len(header["recipe"]["extra"]["code"]) == 20
    assert header["traces"][0][0]["extra"] > 0

    monkeypatch.chdir(tmp_path)
    assert main(["synthesis", *quick, "--synthesis.extra=smooth.py:confident"]) == 0
    assert images.read_bytes() != first
    assert main(["synthesis", *quick]) == 0
    assert "extra" not in read_header(images)["recipe"]
    assert main(["run", *quick, "--synthesis.extra=smooth.py:sharp"]) == 2
    line = "gvbsm: smooth.py:sharp: there is no sharp; it has confident, smooth\n"
    assert capsys.readouterr().err.endswith(line)
    assert main(["run", *quick, "--synthesis.extra=smooth"]) == 2
    assert "synthesis.extra must name a function as file.py:function" in capsys.readouterr().err


def test_a_network_of_a_package_beside_a_set_of_another_method(gvbsm, tmp_path, monkeypatch):
    (tmp_path / "a_package.py").write_text(NET)
    info = tmp_path / "a_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gvbsm.backbones]\ngnet = a_package:Net\n")
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "dm.npz", train_images=images, train_labels=np.arange(10))
    networks = ["--squeeze.backbones", "gnet", "--evaluation.students", "gnet"]
    table = gvbsm("run", *QUICK, "", *networks, "--baselines.sets", "dm=dm.npz").stdout
    assert [line.split()[:2] for line in table.splitlines()[2:4]] == [
        ["gvbsm", "gnet"],
        ["dm", "gnet"],
    ]
    recipe = read_header(tmp_path / "w/squeeze/gnet.safetensors")["recipe"]
    assert len(recipe["code"]) == 20
    page = (tmp_path / "w/report/index.html").read_text(encoding="utf-8")
    assert "--baselines.sets dm=PATH" in page


def test_a_fault_of_one_s_own_network_is_one_line(gvbsm, tmp_path):
    (tmp_path / "net.py").write_text("import no_such_library\n")
    line = gvbsm("run", *QUICK, "", "--evaluation.students=net.py:Net", code=2).stderr
    expected = "ModuleNotFoundError: No module named 'no_such_library' (net.py, line 1)"
    assert line == f"gvbsm: net.py:Net cannot be imported: {expected}\n"
    assert not (tmp_path / "w/squeeze").exists()
