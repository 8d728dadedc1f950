"""The notebooks of the examples run from top to bottom, and are kept without outputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.launch import environment

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=240, kernel_name="python3").execute()
nbformat.write(book, "done.ipynb")
"""


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    for cell in cells(path):
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == (
            [],
            None,
        )


@pytest.mark.parametrize(
    ("name", "words", "pictures"),
    [("first_hour", "random-soft", 1), ("method_in_pictures", "deep", 4)],
)
def test_a_notebook_runs_from_top_to_bottom(tmp_path, name, words, pictures):
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package)
    command = [sys.executable, "-c", RUN, str(NOTEBOOKS / f"{name}.ipynb")]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    outputs = [
        output for cell in cells(tmp_path / "done.ipynb") for output in cell.get("outputs", ())
    ]
    assert words in json.dumps(outputs)
    assert json.dumps(outputs).count("image/png") >= pictures  # as data, or within HTML
