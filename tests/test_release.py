"""The check of a release: versions that agree, and wheels that are whole."""

import importlib.util
from pathlib import Path

import pytest

from gvbsm._version import __version__

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)


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
