"""Artifacts: exact round trips, atomic writes and recipes (damage: test_damage.py)."""

import contextlib
import errno
import json
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.files import artifacts
from gvbsm.files.artifacts import (
    ArtifactError,
    atomic,
    changes,
    fingerprint,
    is_current,
    read_header,
    read_json,
    remove,
    write_json,
)
from gvbsm.files.schema import current_history
from gvbsm.files.tensors import digest, load_tensors, save
from support.artifact_files import RECIPE, leftovers, tensors, write

# Round trips


def test_tensors_and_header_come_back_bit_for_bit(tmp_path):
    path = write(tmp_path / "deep" / "er" / "x.safetensors", note="ü ✓", numbers=[1, 0.1, None])
    found, header = load_tensors(path, "kind")
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert header["recipe"] == RECIPE
    assert (header["note"], header["numbers"]) == ("ü ✓", [1, 0.1, None])
    assert header == read_header(path)
    assert header["format"] == artifacts.FORMAT


def test_views_shared_storage_and_gradients_are_written_as_they_look(tmp_path):
    base = torch.arange(6.0, requires_grad=True).view(2, 3)
    given_tensors = {"a": base, "b": base.T, "c": base[1], "d": base[:, ::2]}
    save(tmp_path / "x.safetensors", given_tensors, {"kind": "k", "recipe": {}})
    found, _ = load_tensors(tmp_path / "x.safetensors", "k")
    assert all(torch.equal(found[name], tensor) for name, tensor in given_tensors.items())


def test_equal_content_gives_equal_files(tmp_path):
    first, second = (write(tmp_path / f"{name}.safetensors") for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_json_round_trip(tmp_path):
    content = {"a": [1, 0.1, None, "ü"], "b": {"c": True}}
    write_json(tmp_path / "x" / "y.json", content)
    assert read_json(tmp_path / "x" / "y.json") == content
    for text in ("", "{", "[1]", '"x"', "\xff"):
        (tmp_path / "y.json").write_text(text, encoding="latin-1")
        with pytest.raises(ArtifactError, match=r"y\.json is damaged"):
            read_json(tmp_path / "y.json")
    with pytest.raises(ArtifactError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


# Checksums


def test_digest_is_of_all_that_a_tensor_is_and_of_no_more():
    given_tensors = tensors()
    backwards = dict(reversed(given_tensors.items()))
    assert digest(given_tensors) == digest(backwards)
    strided = {**given_tensors, "images": given_tensors["images"].transpose(2, 3).contiguous()}
    strided["images"] = strided["images"].transpose(2, 3)
    assert digest(given_tensors) == digest(strided)
    changed = [
        {"labels": torch.arange(4).flip(0)},
        {"labels": torch.arange(4).to(torch.int32)},
        {"labels": torch.arange(4).view(2, 2)},
        {"empty": torch.zeros(3, 0)},
        {"double": torch.tensor([torch.pi, float("inf"), 0.0], dtype=torch.float64)},
        {"more": torch.zeros(0)},
    ]
    others = [digest({**given_tensors, **change}) for change in changed]
    assert len({digest(given_tensors), *others}) == len(changed) + 1
    assert digest({}) == "00000000"


# Atomic writes


def rewrite(path):
    save(path, {"y": torch.zeros(1)}, {"kind": "kind", "recipe": {}})


def stop_inside(path):
    with atomic(path) as temporary:
        temporary.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("how", ["fsync", "replace", "body", "interrupt"])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, how):
    path = write(tmp_path / "x.safetensors")
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise KeyboardInterrupt if how == "interrupt" else OSError(errno.ENOSPC, "full")

    if how == "replace":
        monkeypatch.setattr(Path, "replace", fail)
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt if how == "interrupt" else OSError):
        (stop_inside if how == "body" else rewrite)(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == ["x.safetensors"]


@contextlib.contextmanager
def small_disk():
    """No file may grow beyond 20 kB (Python ignores SIGXFSZ, so a write fails with EFBIG).

    It is no fixture: pytest's own output may be such a file, and grows between test and teardown.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path):
    write_json(tmp_path / "x.json", {"old": 1})
    words = r"^cannot write .*x\.json \(.*\); what was there is kept"
    with small_disk(), pytest.raises(OSError, match=words):
        write_json(tmp_path / "x.json", {"x": ["x" * 1000] * 100})
    assert read_json(tmp_path / "x.json") == {"old": 1}
    (tmp_path / "x.json").unlink()
    assert leftovers(tmp_path) == []
    words = r"^cannot write .*x\.safetensors .*command goes on"
    with small_disk(), pytest.raises(OSError, match=words):
        save(tmp_path / "x.safetensors", {"x": torch.zeros(9999)}, {"kind": "k", "recipe": {}})
    assert leftovers(tmp_path) == []


def test_the_name_is_on_the_disk_too(tmp_path, monkeypatch):
    """A renamed file may be lost in a power cut until its folder is synced, after the rename."""
    events, sync, replace = [], os.fsync, Path.replace

    def told_sync(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def told_replace(path, target):
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", told_sync)
    monkeypatch.setattr(Path, "replace", told_replace)
    write(tmp_path / "x.safetensors")
    assert events == ["file", "rename", "folder"]


def test_others_may_read_a_file_as_far_as_the_user_lets_them(tmp_path):
    old = os.umask(0o027)
    try:
        write(tmp_path / "x.safetensors")
        write_json(tmp_path / "x.json", {})
    finally:
        os.umask(old)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_nobody_sees_half_a_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    with atomic(path) as temporary:
        assert path.parent in temporary.parents  # one file system, so the rename is one step
        temporary.write_text("{")
        assert read_json(path) == {"old": 1}
        temporary.write_text('{"new": 2}')
    assert path.read_text() == '{"new": 2}'
    assert leftovers(tmp_path) == ["x.json"]


# Recipes


def test_is_current(tmp_path):
    path = tmp_path / "x.safetensors"
    assert not is_current(path, RECIPE)
    write(path)
    assert is_current(path, json.loads(json.dumps(RECIPE)))
    assert not is_current(path, {**RECIPE, "seed": 1})
    assert not is_current(path, {**RECIPE, "more": None})


def test_changes_names_each_entry_with_both_values():
    new = {"stage": "test", "seed": 1, "synthesis": {"alpha": 0.8, "backbones": ["a"]}, "x": {}}
    assert changes(RECIPE, new) == [
        "seed: 0 -> 1",
        'synthesis.backbones: ["a", "b"] -> ["a"]',
        "x: null -> {}",
    ]
    assert changes(RECIPE, RECIPE) == []


values = st.recursive(
    st.integers(0, 2) | st.booleans() | st.just("a"),
    lambda leaf: st.dictionaries(st.sampled_from("ab"), leaf, max_size=2),
    max_leaves=5,
)
recipes = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@settings(derandomize=True)
@given(recipes, recipes)
def test_no_changes_means_the_same_recipe_and_fingerprint(old, new):
    same = json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
    assert (fingerprint(old) == fingerprint(new)) == same
    if old != new:
        assert changes(old, new)
    assert len(changes(old, new)) == len(changes(new, old))


def test_a_fingerprint_is_stable_and_knows_no_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    assert fingerprint({}) == "44136fa355b3678a1146"  # sha256 of "{}"


def test_a_folder_in_the_place_of_a_file_is_told_and_kept(tmp_path):
    (tmp_path / "x.json" / "inside").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"x\.json is a folder where a file belongs"):
        write_json(tmp_path / "x.json", {})
    with pytest.raises(ArtifactError, match=r"x\.json is a folder where a file belongs"):
        remove(tmp_path / "x.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["x.json", "inside"]


def test_a_student_s_history_is_current_whole_or_told_to_be_damaged(tmp_path):
    path = tmp_path / "student.json"
    assert current_history(path, RECIPE) is None
    history = {"epochs": [1], "top1": [50.0], "losses": [1.0]}
    write_json(path, {"recipe": RECIPE, **history})
    assert current_history(path, RECIPE) == {"recipe": RECIPE, **history}
    assert current_history(path, {**RECIPE, "seed": 1}) is None
    write_json(path, {"recipe": RECIPE, "epochs": [1], "losses": [1.0]})
    with pytest.raises(ArtifactError, match=r"student\.json is damaged \(it lacks top1\)"):
        current_history(path, RECIPE)
