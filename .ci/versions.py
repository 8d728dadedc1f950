"""Install the package with the lowest or the newest versions that it supports, and try it.

    make lowest    # the lowest Python and the lower bounds of pyproject.toml
    make newest    # the Python that runs this, and the newest libraries
    python .ci/versions.py lowest --python /opt/python3.11/bin/python --package dist/NAME.whl

A new virtual environment gets the package without extras and runs the first command of the README,
shortened. Then it gets the extra `test` and runs a part of the tests. PyTorch takes 6 GB of the
folder of temporary files (`TMPDIR`) where the index has only its form for GPUs.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TEST = "test"  # the extra that the tests need
RUN = (
    "run digits --squeeze.epochs 1 --synthesis.iterations 5 --labels.epochs 10 "
    "--labels.min_steps 0 --evaluation.seeds 1 --baselines.methods random-soft --quiet"
)  # the first command of the README, shortened
TESTS = (  # what depends most on the libraries: settings, files, tensors, exchange, figures
    "tests/config",
    "tests/files",
    "tests/method",
    "tests/store",
    "tests/exchange",
    "tests/reporting/test_figures_drawn.py",
    "tests/reporting/test_gallery.py",
)
OLD = ("-W", "ignore::DeprecationWarning")  # what old libraries use is deprecated in newer ones


def read_project(root: Path) -> dict[str, Any]:
    """Return the section `project` of pyproject.toml.

    Args:
        root: The folder of the repository.
    """
    content = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(content["project"])


def lowest_python(project: Mapping[str, Any]) -> str:
    """Return the lowest Python that a project supports, such as `3.11`."""
    return str(project["requires-python"]).removeprefix(">=")


def lower_bounds(project: Mapping[str, Any], extra: str) -> dict[str, str]:
    """Return the lower bound of each library that a project and one of its extras need.

    Args:
        project: The section `project` of pyproject.toml.
        extra: The extra; it may name other extras as `NAME[extra,...]`.

    Raises:
        SystemExit: If a requirement is not `library>=version`.
    """
    bounds = {}
    pending = [*project["dependencies"], f"{project['name']}[{extra}]"]
    while pending:
        requirement = pending.pop(0)
        match = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?(?:>=([\w.]+))?", requirement)
        if match and match[1] == project["name"]:
            for name in match[2].split(","):
                pending += project["optional-dependencies"][name]
        elif match and match[3]:
            bounds[match[1]] = match[3]
        else:
            raise SystemExit(f"versions: {requirement!r} should be library>=version")
    return bounds


def find_python(version: str) -> str:
    """Return the executable of a version of Python, such as `3.11`."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    if (found := shutil.which(f"python{version}")) is None:
        raise SystemExit(f"versions: there is no python{version}; name it with --python")
    return found


def named_python(name: str) -> str:
    """Return the whole path of an executable that the user names: commands run in other folders."""
    if (found := shutil.which(name)) is None:
        raise SystemExit(f"versions: {name} cannot be run; name an executable of Python")
    return str(Path(found).absolute())  # a link into a virtual environment stays what it is


def call(command: Sequence[str | Path], folder: Path) -> None:
    """Run a command, without this shell's `PYTHONPATH`; end if it fails."""
    print("+", shlex.join(map(str, command)), flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if code:
        raise SystemExit(f"versions: {command[0]} failed with exit code {code}")


def build_wheel(folder: Path) -> Path:
    """Build a wheel of the repository into a folder."""
    call([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def try_package(
    package: Path, python: str, constraints: Sequence[str], folder: Path, tests: Sequence[str]
) -> None:
    """Install a package in a new environment, run its command, and then tests of the repository.

    Args:
        package: A wheel or an sdist.
        python: The executable of Python.
        constraints: Lines of a constraints file of pip.
        folder: An empty folder for the environment and all that is written.
        tests: Arguments of pytest; none leaves out the tests and the extra that they need.
    """
    listed = folder / "constraints.txt"
    listed.write_text("\n".join([*constraints, ""]), encoding="utf-8")
    call([python, "-m", "venv", folder / "venv"], folder)
    scripts = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    install = [scripts / "python", "-m", "pip", "install", "-q", "--no-cache-dir", "-c", listed]
    call([*install, package], folder)
    call([scripts / "gvbsm", "--version"], folder)
    call([scripts / "gvbsm", *shlex.split(RUN)], folder)
    if tests:
        call([*install, f"{package}[{TEST}]"], folder)
        call([scripts / "python", "-m", "pip", "list"], folder)
        call([scripts / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], ROOT)


def main() -> None:
    """Try the package with the versions that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", choices=("lowest", "newest"))
    parser.add_argument("--package", type=Path, help="a wheel or an sdist; else one is built")
    parser.add_argument("--python", help="the executable of Python")
    parser.add_argument("--no-tests", action="store_true", help="only the README's command")
    asked = parser.parse_args()
    project = read_project(ROOT)
    python = named_python(asked.python) if asked.python else None
    constraints: list[str] = []
    tests = TESTS
    if asked.versions == "lowest":
        tests = (*OLD, *TESTS)
        python = python or find_python(lowest_python(project))
        constraints = [f"{name}=={bound}" for name, bound in lower_bounds(project, TEST).items()]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        package = (asked.package or build_wheel(folder)).resolve()
        if asked.no_tests:
            tests = ()
        try_package(package, python or sys.executable, constraints, folder, tests)


if __name__ == "__main__":
    main()
