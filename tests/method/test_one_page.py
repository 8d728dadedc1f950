"""The example of one page: it runs, learns, and stays one page."""

import re
import subprocess
import sys
from pathlib import Path

from support.launch import environment

PAGE = Path(__file__).parents[2] / "examples" / "one_page.py"


def test_the_example_of_one_page_runs():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90
    done = subprocess.run(
        [sys.executable, str(PAGE)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    numbers = [[*map(float, re.findall(r"([\d.]+) %", line))] for line in done.stdout.splitlines()]
    teachers, distilled, random = [row for row in numbers if row]
    assert min(teachers) > 97
    assert distilled[0] > 90  # ten images; chance is 10 %
    assert random[0] > 80
