"""Files that are not what they were: each is an `ArtifactError` of one line.

Damage is made with a fixed seed: whatever a byte does, loading returns or raises `ArtifactError`,
and no pickle is ever opened.
"""

import json
import pickle
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gvbsm.cli import main
from gvbsm.files import artifacts
from gvbsm.files.artifacts import ArtifactError, is_current, read_header, read_json, write_json
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics
from gvbsm.store.distilled import load_distilled, load_labels
from gvbsm.store.statistics_codec import load_statistics, pack_statistics
from support.artifact_files import RECIPE, tensors, write
from support.distilled_files import write_images, write_labels
from support.workdirs import quick_settings, write_arrays, write_preset

# Random damage


def one_line(error):
    assert isinstance(error, ArtifactError)
    assert str(error)
    assert "\n" not in str(error)


def attempt(load):
    """What a load gives; an `ArtifactError` must be one line, anything else fails the test."""
    try:
        return load()
    except ArtifactError as error:
        one_line(error)
        return None


def damaged(content, trials, start=0):
    """`content` with one to three bytes from `start` on replaced, and cut at random places."""
    rng = np.random.default_rng(0)
    for _ in range(trials):
        mutated = bytearray(content)
        for place in rng.integers(start, len(content), rng.integers(1, 4)):
            mutated[place] = rng.integers(256)
        yield bytes(mutated)
        yield content[: rng.integers(len(content))]


def loaders(root):
    """A valid file of each kind with the function that reads it."""
    checkpoint = Checkpoint(root / "c.safetensors", RECIPE, 0)
    checkpoint.save(tensors(), {"step": 3})
    statistics = Statistics({"a": Moments(torch.zeros(2), torch.ones(2))}, {})
    save(
        root / "s.safetensors",
        pack_statistics(statistics),
        {"kind": "statistics", "recipe": RECIPE},
    )
    labels = write_labels(root / "labels", epochs=1, shard_epochs=1)
    return {
        "tensors": (write(root / "x.safetensors"), lambda p: load_tensors(p, "kind")),
        "header": (write(root / "h.safetensors"), read_header),
        "current": (write(root / "i.safetensors"), lambda p: is_current(p, RECIPE)),
        "checkpoint": (root / "c.partial.safetensors", lambda _: checkpoint.load()),
        "statistics": (root / "s.safetensors", load_statistics),
        "images": (write_images(root), lambda p: load_distilled(p.parent.parent)),
        "shard": (labels.shards[0].path, lambda p: load_labels(p.parent).read(0)),
        "index": (root / "labels" / "index.json", lambda p: load_labels(p.parent)),
    }


NAMES = ("tensors", "header", "current", "checkpoint", "statistics", "images", "shard", "index")


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_an_artifact_error_or_goes_unnoticed(tmp_path, name):
    path, load = loaders(tmp_path)[name]
    content = path.read_bytes()
    assert load(path)
    started = time.monotonic()
    refused = 0
    for mutated in damaged(content, 150):
        path.write_bytes(mutated)
        refused += not attempt(lambda: load(path))
    assert refused > 75
    assert time.monotonic() - started < 60


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save(path, {"x": torch.arange(3)}, {"kind": "kind", "recipe": RECIPE})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError) as caught:
            load_tensors(path, "kind")
        one_line(caught.value)
        assert not is_current(path, RECIPE)
    path.write_bytes(content)
    assert is_current(path, RECIPE)


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    """Tensors, their names, types and shapes, and the header are all under a checksum."""
    path = tmp_path / "x.safetensors"
    save(path, {"x": torch.arange(3), "half": torch.ones(2, 1).half()}, {"kind": "k", "recipe": {}})
    content = path.read_bytes()
    expected, header = load_tensors(path, "k")
    for place in range(len(content)):
        mutated = bytearray(content)
        mutated[place] ^= 1 << place % 8
        path.write_bytes(mutated)
        if (loaded := attempt(lambda: load_tensors(path, "k"))) is not None:
            assert {
                key: loaded[1].get(key) for key in header
            } == header  # "checksum" may have lost its name
            assert loaded[0].keys() == expected.keys()
            for name, tensor in expected.items():
                assert loaded[0][name].dtype == tensor.dtype
                assert torch.equal(loaded[0][name], tensor)


def test_no_flipped_bit_changes_what_is_read_of_json(tmp_path):
    path, content = tmp_path / "x.json", {"top1": [97.25], "name": "ü", "seen": {"1": None}}
    write_json(path, {**content, "seen": {1: None}})
    whole = path.read_bytes()
    assert read_json(path) == content
    for place in range(len(whole)):
        mutated = bytearray(whole)
        mutated[place] ^= 1 << place % 8
        path.write_bytes(mutated)
        if (found := attempt(lambda: read_json(path))) is not None:
            assert {key: found.get(key) for key in content} == content


def test_files_without_a_checksum_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    header = {"format": 1, "version": "0.1", "kind": "k", "recipe": RECIPE}
    save_file({"x": torch.arange(3)}, path, metadata={artifacts.KEY: json.dumps(header)})
    (tmp_path / "x.json").write_text('{"a": 1}')
    for load in (lambda: load_tensors(path, "k"), lambda: read_json(tmp_path / "x.json")):
        with pytest.raises(ArtifactError, match="does not match its checksum") as caught:
            load()
        one_line(caught.value)
    assert not is_current(path, RECIPE)


def test_a_damaged_tensor_shows_when_it_is_loaded_and_the_header_alone_is_still_read(tmp_path):
    path = write(tmp_path / "x.safetensors")
    mutated = bytearray(path.read_bytes())
    mutated[-1] ^= 1
    path.write_bytes(mutated)
    assert is_current(path, RECIPE)  # reads no tensors
    with pytest.raises(ArtifactError, match=r"x\.safetensors is damaged") as caught:
        load_tensors(path, "kind")
    one_line(caught.value)


def test_a_damaged_checkpoint_is_told_and_the_work_begins_anew(tmp_path, caplog):
    checkpoint = Checkpoint(tmp_path / "c.safetensors", RECIPE, 0)
    checkpoint.save({"x": torch.arange(3)}, {"step": 1})
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (whole[:-1] + b"\xff", whole[:-5], b""):
        path.write_bytes(content)
        assert checkpoint.load() is None
    assert "starts over" in caplog.text
    path.write_bytes(whole)
    assert checkpoint.load()[1] == {"step": 1}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000])
def test_json_that_is_made_to_break_readers_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"x\.json") as caught:
        read_json(tmp_path / "x.json")
    one_line(caught.value)
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={artifacts.KEY: text})
    with pytest.raises(ArtifactError, match=r"x\.safetensors") as caught:
        read_header(path)
    one_line(caught.value)


def test_json_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(artifacts.JSON_LIMIT + 1)  # takes no room on the disk
    with pytest.raises(ArtifactError, match="larger than 64 MiB"):
        read_json(path)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63 - 1, 2**64 - 1])
def test_an_absurd_length_of_the_header_is_refused(tmp_path, length):
    path = write(tmp_path / "x.safetensors")
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ArtifactError, match="damaged") as caught:
        load_tensors(path, "kind")
    one_line(caught.value)
    assert not is_current(path, RECIPE)


@pytest.mark.parametrize("shape", [[2**62], [2**40, 2**40], [10**9], [-1]])
def test_an_absurd_shape_is_refused_before_memory_is_taken(tmp_path, shape):
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": {artifacts.KEY: "{}"}, "x": tensor}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ArtifactError, match="damaged") as caught:
        load_tensors(path, "kind")
    one_line(caught.value)


class Trap:
    """Would make a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# A full disk


@pytest.mark.parametrize("limit", [600, 9_000])
def test_run__on_a_full_disk_names_the_file_and_goes_on_when_there_is_room(
    tmp_path, monkeypatch, capsys, limit
):
    """No file may grow beyond the limit: JSON, checkpoints, teachers or pictures meet it first."""
    monkeypatch.setattr("gvbsm.reporting.report", lambda workdir, quiet: workdir)
    data = {"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))}
    settings = quick_settings(data, baselines={"methods": []}, checkpoint_seconds=0.5)
    preset = write_preset(tmp_path / "toy.yaml", settings)
    workdir = tmp_path / "run"
    command = ["run", str(preset), "--workdir", str(workdir), "--quiet"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 1
    assert line.startswith(f"gvbsm: cannot write {workdir}/")
    assert line.endswith("the same command goes on")
    assert not list(workdir.rglob("*.tmp"))
    assert main(command) == 0


# Foreign, newer and incomplete files


@pytest.mark.parametrize("content", ["pickle", "torch", "npz", "text", "foreign", "folder"])
def test_foreign_files_are_refused_and_no_pickle_is_opened(tmp_path, content):
    path, trap = tmp_path / "x.safetensors", tmp_path / "sprung"
    if content == "pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
    elif content == "torch":
        torch.save({"x": Trap(trap)}, path)
    elif content == "npz":
        with path.open("wb") as file:
            np.savez(file, x=np.array([Trap(trap)], dtype=object), allow_pickle=True)
    elif content == "text":
        path.write_text("hello")
    elif content == "foreign":
        save_file({"x": torch.zeros(1)}, path, metadata={"other": "program"})
    else:
        path.mkdir()
    for load in (read_header, lambda p: load_tensors(p, "kind")):
        with pytest.raises(ArtifactError, match=r"x\.safetensors") as caught:
            load(path)
        one_line(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize("text", ["", "1", "null", "[]", "{}", '"format"', '{"format": "x"}', "{"])
def test_a_header_that_is_not_ours_is_refused(tmp_path, text):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={artifacts.KEY: text})
    for load in (read_header, lambda p: is_current(p, RECIPE), lambda p: load_tensors(p, "kind")):
        with pytest.raises(ArtifactError, match="not written by gvbsm"):
            load(path)


@pytest.mark.parametrize("missing", ["class_names", "mean", "std"])
def test_a_header_that_lacks_an_entry_is_refused(tmp_path, missing):
    path = write_images(tmp_path)
    found, header = load_tensors(path, "images")
    save(path, found, {key: value for key, value in header.items() if key != missing})
    with pytest.raises(ArtifactError):
        load_distilled(tmp_path)


def test_a_newer_format_names_both_sides(tmp_path):
    path = write(tmp_path / "x.safetensors", format=artifacts.FORMAT + 1, version="9.8")
    for load in (read_header, lambda p: is_current(p, RECIPE), lambda p: load_tensors(p, "kind")):
        with pytest.raises(ArtifactError, match=r"format 2 of gvbsm 9\.8.*up to format 1: upgrade"):
            load(path)


def test_another_kind_names_both_sides(tmp_path):
    path = write(tmp_path / "x.safetensors", kind="teacher")
    with pytest.raises(ArtifactError, match="holds 'teacher', expected 'images'"):
        load_tensors(path, "images")


@pytest.mark.parametrize("text", ["{}", '{"epochs": 1}', "[]", "nonsense", '{"epochs": "many"}'])
def test_a_damaged_label_index_is_named(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"index\.json"):
        load_labels(tmp_path)
