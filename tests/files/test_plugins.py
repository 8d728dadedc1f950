"""Code of users: what is loaded, when it runs, and what it is called with."""

import os
import sys

import pytest

from gvbsm.config import ConfigError
from gvbsm.files.plugins import NotAdmittedError, admit, called_by_name, plugin, source_digest


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "parts.py"
    path.write_text("from pathlib import Path\nPath('ran').touch()\ndef one():\n    return 1\n")
    return path


def test_code_that_is_not_admitted_does_not_run(file):
    with pytest.raises(NotAdmittedError, match=r"parts\.py:two is not run"):
        plugin("parts.py:two")
    assert not (file.parent / "ran").exists()


def test_admitted_code_is_loaded_and_an_edited_file_again(file):
    admit(["parts.py:one", "resnet18"])
    first = plugin("parts.py:one")
    assert first.value() == 1
    admit(["parts.py:one"])
    assert plugin("parts.py:one") is first
    before = file.stat().st_mtime_ns
    file.write_text("def one():\n    return 2\n")
    os.utime(file, ns=(before, before))  # an edit within the resolution of the clock
    admit(["parts.py:one"])
    assert plugin("parts.py:one").value() == 2
    assert plugin("parts.py:one").digest != first.digest
    assert not list(file.parent.glob("__pycache__"))


def test_a_module_counts_with_the_file_that_defines_the_attribute(tmp_path, monkeypatch):
    package = tmp_path / "a_package_of_parts"
    package.mkdir()
    (package / "__init__.py").write_text("from a_package_of_parts.inner import Part\n")
    inner = package / "inner.py"
    inner.write_text("class Part:\n    class Small:\n        pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    admit(["a_package_of_parts:Part", "a_package_of_parts.inner:Part.Small"])
    part = plugin("a_package_of_parts:Part")
    assert part.value.__name__ == "Part"
    assert part.digest == plugin("a_package_of_parts.inner:Part.Small").digest
    inner.write_text("class Part: pass\n")  # python keeps the loaded module, and so its digest
    admit(["a_package_of_parts:Part"])
    assert plugin("a_package_of_parts:Part") is part
    assert source_digest(part.value, "x") != part.digest


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("parts.py:", r"should be module:attribute or path/to/file\.py:attribute"),
        (":one", r"should be module:attribute"),
        ("parts.py:two", r"there is no two; it has Path, one"),
        ("parts.py:number", r"is an int: expected a class or a function"),
        ("none.py:one", r"none\.py cannot be read \(No such file"),
        ("no-module:one", r"no-module is neither the name of a module nor a \.py file"),
        ("no_such_module:one", r"cannot be imported: ModuleNotFoundError: No module named"),
        ("broken.py:one", r"broken\.py:one cannot be imported: SyntaxError"),
        ("leaves.py:one", r"cannot be imported: SystemExit"),
    ],
)
def test_a_fault_is_one_line(file, name, words):
    file.write_text("from pathlib import Path\ndef one(): ...\nnumber = 1\n")
    (file.parent / "broken.py").write_text("def one(:\n")
    (file.parent / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(ConfigError, match=words) as caught:
        admit([name])
    assert len(str(caught.value).splitlines()) == 1


def test_a_class_without_a_file_counts_with_its_cell(monkeypatch):
    import linecache
    import types

    cell = "class Cell:\n    def forward(self):\n        return 1\n"
    module = types.ModuleType("a_notebook")
    exec(compile(cell, "<cell 1>", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "a_notebook", module)
    with pytest.raises(ConfigError, match="no source that can be read; put it into a"):
        admit(["a_notebook:Cell"])
    monkeypatch.setitem(linecache.cache, "<cell 1>", (len(cell), None, [cell], "<cell 1>"))
    admit(["a_notebook:Cell"])
    assert plugin("a_notebook:Cell").value is module.Cell


def test_a_function_is_given_what_it_takes_by_name(file):
    file.write_text("def one(b, c=3):\n    return b, c\ndef two(x, b): ...\ndef three(a, /): ...\n")
    admit([f"parts.py:{name}" for name in ("one", "two", "three")])
    assert called_by_name("parts.py:one", ("a", "b"))(a=1, b=2) == (2, 3)
    words = r"parts\.py:two needs the argument\(s\) x; it is given those of a, b that it takes"
    with pytest.raises(ConfigError, match=words):
        called_by_name("parts.py:two", ("a", "b"))
    with pytest.raises(ConfigError, match=r"needs the argument\(s\) a"):
        called_by_name("parts.py:three", ("a", "b"))
