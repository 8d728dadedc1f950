"""`show`: a work directory in words, from headers alone, and one line for what it cannot read."""

import pytest
import torch

from gvbsm.files.artifacts import ArtifactError, read_header, read_json, write_json
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.files.sizes import byte_count
from gvbsm.files.tensors import load_tensors, save
from gvbsm.reporting.show import describe
from gvbsm.store.distilled import load_labels
from support.distilled_files import write_images, write_labels

DATA = {"name": "digits", "fingerprint": "f", "classes": 2, "image_size": 8}


def spread(*values):
    return {"mean": sum(values) / len(values), "std": 1.25, "values": list(values)}


RESULTS = {
    "rows": [
        {
            "method": "gvbsm",
            "student": "convnet128",
            "ipc": 2,
            "seconds": 1.0,
            "top1": spread(60.0, 62.5),
            "top1_best": spread(70.0, 70.0),
        },
        {
            "method": "full",
            "student": "resnet18",
            "ipc": None,
            "seconds": 1.0,
            "top1": spread(98.04),
            "top1_best": spread(99.06),
        },
    ],
    "origin": {"preset": None, "changed": []},
}


def write_teacher(path, backbone, top1):
    history = {"epochs": [1, 2], "top1": [10.0, top1], "losses": [1.0, 0.5]}
    header = {"kind": "teacher", "recipe": {}, "backbone": backbone, "history": history}
    save(path, {"weight": torch.zeros(1)}, header)


@pytest.fixture
def workdir(tmp_path):
    """Every kind of file, written as the stages write them, with known numbers."""
    root = tmp_path / "w"
    write_json(root / "data.json", DATA)
    write_teacher(root / "squeeze" / "resnet18.safetensors", "resnet18", 98.04)
    write_teacher(root / "squeeze" / "timm--x.safetensors", "timm/x", 50.0)
    header = {"kind": "statistics", "recipe": {}, "backbone": "resnet18"}
    save(root / "statistics" / "resnet18.safetensors", {}, header)
    history = {"epochs": [1, 2, 3], "top1": [10.0, 20.0, 30.04], "losses": [1.0, 0.5, 0.4]}
    header = {"kind": "forgetting", "recipe": {}, "backbone": "timm/y", "history": history}
    save(root / "forgetting" / "timm--y.safetensors", {}, header)
    for folder in (root, root / "baselines" / "random-0"):
        write_images(folder, ipc=2, classes=2)
        write_labels(folder / "labels", epochs=5)
        write_json(folder / "evaluation" / "gvbsm-convnet128-0.json", {"top1": [1.0]})
    write_json(root / "results.json", RESULTS)
    return root


def test_everything_that_is_there_is_told(workdir):
    lines = describe(workdir).splitlines()
    assert lines[0] == f"{workdir}: digits, 2 classes, 8 px"
    assert "squeeze: resnet18, 98.0 % on the test pictures" in lines
    assert "squeeze: timm/x, 50.0 % on the test pictures" in lines
    assert "statistics: resnet18" in lines
    assert "forgetting: timm/y, 3 epochs, 30.0 % of the training pictures" in lines
    size = byte_count((workdir / "synthesis" / "images.safetensors").stat().st_size)
    assert f"synthesis: gvbsm, 2 images per class, {size}" in lines
    label_size = byte_count(load_labels(workdir / "labels").nbytes())
    assert any(line.startswith("baselines/random-0: ") for line in lines)
    assert sum(line.strip() == f"labels: 5 epochs, {label_size}" for line in lines) == 2
    assert sum(line.strip() == "evaluation: gvbsm-convnet128-0" for line in lines) == 2
    assert not any("half-done" in line for line in lines)
    cells = [line.split() for line in lines[-2:]]
    assert cells[0][:4] == ["gvbsm", "convnet128", "2", "61.2"]  # 61.25, to even
    assert cells[1][:4] == ["full", "resnet18", "all", "98.0"]


def test_one_s_own_data_have_their_name(workdir):
    config = {"data": {"name": "folder", "root": "/data/my birds"}}
    write_json(workdir / "results.json", RESULTS | {"config": config})
    assert describe(workdir).startswith(f"{workdir}: my birds, 2 classes, 8 px\n")


def test_half_done_work_is_told_with_its_step(workdir):
    Checkpoint(workdir / "squeeze" / "wrn16_2.safetensors", {}, 0).save({}, {"step": 17})
    nested = workdir / "baselines" / "sre2l" / "synthesis" / "group-0001.safetensors"
    Checkpoint(nested, {}, 0).save({}, {"step": 3})
    text = describe(workdir)
    assert "half-done: squeeze/wrn16_2.partial.safetensors, step 17" in text
    assert "half-done: baselines/sre2l/synthesis/group-0001.partial.safetensors, step 3" in text
    assert "squeeze: wrn16_2" not in text


def test_a_directory_that_was_only_begun(tmp_path):
    write_json(tmp_path / "data.json", DATA)
    assert describe(tmp_path) == f"{tmp_path}: digits, 2 classes, 8 px"


def test_tensors_are_not_read(workdir, monkeypatch):
    def forbidden(*_args):
        raise AssertionError("show reads headers alone")

    monkeypatch.setattr("gvbsm.files.tensors.load_tensors", forbidden)
    assert describe(workdir)


@pytest.mark.parametrize("where", ["empty", "missing", "file"])
def test_what_is_no_work_directory(tmp_path, where):
    path = tmp_path / where
    if where == "empty":
        path.mkdir()
    elif where == "file":
        path.write_text("x")
    with pytest.raises(ArtifactError, match=f"{where} is not a work directory") as caught:
        describe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "data.json",
        "results.json",
        "continual.json",
        "squeeze/resnet18.safetensors",
        "statistics/resnet18.safetensors",
        "synthesis/images.safetensors",
        "labels/index.json",
    ],
)
@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_file_is_named_in_one_line(workdir, name, content):
    (workdir / name).write_text(content)
    with pytest.raises(ArtifactError, match=name.rpartition("/")[2]) as caught:
        describe(workdir)
    assert "\n" not in str(caught.value)


def test_control_characters_of_a_file_do_not_reach_the_terminal(workdir):
    write_json(workdir / "data.json", {**DATA, "name": "a\x1b[31m\x07b\rc"})
    assert describe(workdir).splitlines()[0] == f"{workdir}: a [31m b c, 2 classes, 8 px"


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("squeeze/resnet18.safetensors", {"history": {"epochs": [], "top1": []}}, "history.top1"),
        ("squeeze/resnet18.safetensors", {"history": [1]}, "history should be"),
        ("squeeze/resnet18.safetensors", {"backbone": 3}, "backbone should be a valid string"),
        ("forgetting/timm--y.safetensors", {"history": {"top1": ["x"]}}, "history"),
        ("statistics/resnet18.safetensors", {"backbone": None}, "backbone should be"),
        ("synthesis/images.safetensors", {"method": {}}, "method should be a valid string"),
        ("data.json", {"classes": "many"}, "classes should be a valid integer, found 'many'"),
        ("results.json", {"rows": [{"method": "m"}]}, "it lacks rows.0.student"),
        ("results.json", {"rows": 3}, "rows should be a valid list, found 3"),
    ],
)
def test_a_forged_entry_is_one_line(file, entries, message, workdir):
    path = workdir / file
    if path.suffix == ".json":
        write_json(path, {**read_json(path), **entries})
    else:
        header = read_header(path)
        tensors, header = load_tensors(path, header["kind"])
        save(path, tensors, {**header, **entries})
    with pytest.raises(ArtifactError, match=message) as caught:
        describe(workdir)
    assert str(caught.value).startswith(f"{path} is damaged")
    assert str(caught.value).isprintable()
