"""Check a release: clean tree, agreeing versions, built files, and the wheel in a new environment.

    make release            # checks, and prints what would be published
    make release PUBLISH=1  # then tags the commit, pushes the tag and uploads the files

Needs `build`, and `twine` to check and upload: pip install build twine
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]


def read_versions(root: Path) -> dict[str, str]:
    """Return the version that each file names; an empty one if it names none.

    Args:
        root: The folder of the repository.
    """
    patterns = {
        "src/gvbsm/_version.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (\S+)$",
        "CHANGELOG.md": r"^## \[(\d[^\]]*)\]",  # the newest release is first
    }
    versions = {}
    for name, pattern in patterns.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        versions[name] = match[1] if match else ""
    return versions


def missing_files(names: Collection[str], root: Path) -> list[str]:
    """Return the files of the package that a wheel lacks.

    Args:
        names: Names of the files in the wheel.
        root: The folder of the repository.
    """
    package = root / "src" / "gvbsm"
    files = [path for path in package.rglob("*") if path.is_file()]
    needed = [path for path in files if "__pycache__" not in path.parts]
    return sorted({f"gvbsm/{path.relative_to(package).as_posix()}" for path in needed} - {*names})


def call(command: Sequence[str | Path], folder: Path = ROOT) -> str:
    """Run a command and return its output; end the check if it fails."""
    print("+", shlex.join(map(str, command)), flush=True)
    done = subprocess.run(command, cwd=folder, check=False, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        print(done.stdout)
        raise SystemExit(f"release: {command[0]} failed with exit code {done.returncode}")
    return done.stdout


def check_versions(tags: Collection[str], at_commit: Collection[str]) -> str:
    """Return the version on which all files agree.

    Args:
        tags: All tags.
        at_commit: Those of the present commit.
    """
    versions = read_versions(ROOT)
    if len(set(versions.values())) > 1:
        raise SystemExit(f"release: the files name several versions: {versions}")
    version = versions["CHANGELOG.md"]
    tag = f"v{version}"
    if tag in tags and tag not in at_commit:
        raise SystemExit(f"release: {tag} is the tag of another commit; raise the version")
    return version


def build(folder: Path) -> list[Path]:
    """Build wheel and sdist into a folder, and check them."""
    if find_spec("build") is None:
        raise SystemExit("release: build is missing: pip install build")
    call([sys.executable, "-m", "build", "--outdir", folder])
    files = sorted(folder.iterdir())
    (wheel,) = (path for path in files if path.suffix == ".whl")
    with zipfile.ZipFile(wheel) as archive:
        if missing := missing_files(archive.namelist(), ROOT):
            raise SystemExit(f"release: {wheel.name} lacks {', '.join(missing)}")
    if find_spec("twine") is None:
        print("twine is missing: the files are not checked by it")
    else:
        call([sys.executable, "-m", "twine", "check", "--strict", *files])
    return files


def try_wheel(wheel: Path) -> None:
    """Install a wheel in a new environment with the newest libraries, and run its command."""
    options = ["newest", "--no-tests", "--package", wheel]
    call([sys.executable, ROOT / ".ci" / "versions.py", *options])


def main() -> None:
    """Check, and publish if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--publish", action="store_true", help="tag, push and upload")
    publish = parser.parse_args().publish
    if changed := call(["git", "status", "--porcelain"]):
        raise SystemExit(f"release: commit or remove first:\n{changed}")
    tags = call(["git", "tag"]).split()
    version = check_versions(tags, call(["git", "tag", "--points-at", "HEAD"]).split())
    with tempfile.TemporaryDirectory() as temporary:
        files = build(Path(temporary) / "dist")
        try_wheel(next(path for path in files if path.suffix == ".whl"))
        tag = f"v{version}"
        commands: list[Sequence[str | Path]] = [
            ["git", "tag", "--annotate", tag, "--message", f"Release {version}"],
            ["git", "push", "origin", tag],
            [sys.executable, "-m", "twine", "upload", *files],
        ]
        for command in commands[tag in tags :]:
            if publish:
                call(command)
            else:
                print("would run:", shlex.join(map(str, command)))


if __name__ == "__main__":
    main()
