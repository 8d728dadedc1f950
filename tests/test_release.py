"""The check of a release: versions that agree, wheels that are whole, and the lowest libraries."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml

from gvbsm._version import __version__

ROOT = Path(__file__).parents[1]


def script(name):
    """A script of `.ci` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release, versions = script("release"), script("versions")
PROJECT = versions.read_project(ROOT)


def test_all_files_name_the_version():
    assert set(release.read_versions(ROOT).values()) == {__version__}


def test_a_tag_of_another_commit_and_other_versions_are_refused(tmp_path, monkeypatch):
    tag = f"v{__version__}"
    assert release.check_versions([], []) == __version__
    assert release.check_versions([tag], [tag]) == __version__
    with pytest.raises(SystemExit, match="tag of another commit"):
        release.check_versions([tag], [])
    for name in release.read_versions(ROOT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    changed = (tmp_path / "CHANGELOG.md").read_text().replace(f"## [{__version__}]", "## [9.0.0]")
    (tmp_path / "CHANGELOG.md").write_text(changed)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"several versions.*9\.0\.0"):
        release.check_versions([], [])


def test_a_wheel_without_presets_or_templates_is_found():
    package = ROOT / "src" / "gvbsm"
    names = {f"gvbsm/{path.relative_to(package)}" for path in package.rglob("*") if path.is_file()}
    assert release.missing_files(names, ROOT) == []
    lacking = {"gvbsm/config/presets/digits.yaml", "gvbsm/py.typed"}
    assert release.missing_files(names - lacking, ROOT) == sorted(lacking)


def test_nothing_advises_to_install_extras_from_an_index():
    """The package is not on an index; a checkout has its extras as `.[hub]`."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Dockerfile"]
    files += [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".yaml", ".j2")]
    advising = [
        path
        for path in files
        if "install" in (text := path.read_text("utf-8"))
        and any(f"install {quote}gvbsm" in text for quote in ("", "'", '"'))
    ]
    assert advising == []


def test_lower_bounds_are_those_of_the_libraries_and_of_nested_extras():
    project = {
        "name": "p",
        "dependencies": ["numpy>=1.26", "jsonargparse[signatures]>=4.49"],
        "optional-dependencies": {"a": ["onnx>=1.19"], "b": ["p[a]", "pytest>=8"], "c": ["x>=1"]},
    }
    bounds = {"numpy": "1.26", "jsonargparse": "4.49", "pytest": "8", "onnx": "1.19"}
    assert versions.lower_bounds(project, "b") == bounds
    for unbounded in ("numpy", "numpy<3", "numpy>=1.26,<3"):
        with pytest.raises(SystemExit, match="should be library>=version"):
            versions.lower_bounds({**project, "dependencies": [unbounded]}, "b")


def test_every_library_that_users_and_tests_need_has_a_lower_bound():
    bounds = versions.lower_bounds(PROJECT, "test")
    assert {"torch", "timm", "accelerate", "onnx", "pytest"} <= bounds.keys()


def test_pages_image_and_workflow_name_the_lowest_versions():
    python, bounds = versions.lowest_python(PROJECT), versions.lower_bounds(PROJECT, "test")
    for name in ("README.md", "docs/install.md"):
        assert f"{python} or newer" in (ROOT / name).read_text("utf-8"), name
    image = (ROOT / "Dockerfile").read_text("utf-8")
    assert dict(re.findall(r'"(torch\w*)>=([\d.]+)"', image)) == {
        name: bounds[name] for name in ("torch", "torchvision")
    }
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "packages.yml").read_text("utf-8"))
    rows = workflow["jobs"]["install"]["strategy"]["matrix"]["include"]
    assert {row["python"] for row in rows if row["versions"] == "lowest"} == {python}
    newest = {row["python"] for row in rows if row["versions"] == "newest"}
    assert all(tuple(map(int, version.split("."))) > (3, 11) for version in newest)
    assert {row["package"] for row in rows} == {"*.whl", "*.tar.gz"}


def test_a_package_is_tried_alone_before_it_gets_what_the_tests_need(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(versions, "call", lambda command, folder: commands.append(command))
    wheel = tmp_path / "p-1-py3-none-any.whl"
    versions.try_package(wheel, "python3", ["torch==2.9"], tmp_path, ["tests/config"])
    assert (tmp_path / "constraints.txt").read_text() == "torch==2.9\n"
    install, version, run, install_tests, _, tests = (list(map(str, c)) for c in commands[1:])
    assert install[-3:] == ["-c", str(tmp_path / "constraints.txt"), str(wheel)]
    assert version[-1] == "--version"
    assert run[1:3] == ["run", "digits"]
    assert install_tests == [*install[:-1], f"{wheel}[test]"]
    assert tests[-1] == "tests/config"


def test_a_python_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match=r"no python3\.0; name it with --python"):
        versions.find_python("3.0")


def test_a_python_that_the_user_names_is_found_from_other_folders(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert versions.named_python("bin/python3") == str(tmp_path / "bin" / "python3")
    with pytest.raises(SystemExit, match="bin/none cannot be run; name an executable of Python"):
        versions.named_python("bin/none")


def test_the_tests_of_the_lowest_versions_exist():
    assert all((ROOT / name).exists() for name in versions.TESTS)
