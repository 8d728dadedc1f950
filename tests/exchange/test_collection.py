"""Collections: sets and teachers of finished runs, an index, and checksums that hold."""

import hashlib
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gvbsm.backbones import build_backbone
from gvbsm.cli import main
from gvbsm.config import ConfigError
from gvbsm.config.build import build_config, to_dict
from gvbsm.config.keys import PATH_WORDS, path_settings
from gvbsm.data.datasets import DATASETS
from gvbsm.exchange import collection, hub
from gvbsm.exchange.card import terms_of
from gvbsm.exchange.collection import check_sums, collect, push
from gvbsm.exchange.load import load
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.files.manifest import NAME as MANIFEST
from gvbsm.files.tensors import load_tensors, save
from gvbsm.pipeline.results import spread
from gvbsm.store.distilled import load_distilled
from gvbsm.store.teachers import save_teacher
from support.distilled_files import write_images, write_labels

pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NETWORK, SECRET = "convnet8_d1", "/secret"
DATA = SimpleNamespace(class_names=("class 0", "class 1"), image_size=2, channels=3)
HISTORY = {"epochs": [1, 2], "top1": [90.0, 80.0], "losses": [1.0, 0.5]}


def write_teacher(workdir, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_backbone(NETWORK, 2, 2)
    path = workdir / "squeeze" / f"{NETWORK}.safetensors"
    save_teacher(path, model, NETWORK, DATA, HISTORY, {"stage": "squeeze", "seed": seed})
    return path


def finished(workdir, seed=0, methods=("gvbsm", "random-soft"), **changes):
    """A run with results, images, labels and a teacher; runs of one seed have the same teacher."""
    path = write_images(workdir)
    tensors, header = load_tensors(path, "images")
    save(path, tensors, {**header, "dataset": "digits"})
    write_labels(workdir / "labels")
    write_teacher(workdir, seed)
    settings = {
        "ipc": 2,
        "data": {"name": "digits", "root": SECRET},
        "squeeze": {"backbones": [NETWORK]},
        "evaluation": {"corruptions": {"kinds": ["fog"], "folder": f"{SECRET}/C"}},
        "baselines": {"sets": {"dm": f"{SECRET}/dm"}},
    }
    config = to_dict(build_config(settings | changes))
    row = {"student": NETWORK, "ipc": 2, "top1": spread([50.0, 60.0]), "seconds": 1.0}
    rows = [{**row, "method": method, "top1_best": row["top1"]} for method in methods]
    origin = {"preset": "digits", "changed": ["ipc", *path_settings()]}
    content = {"rows": rows, "config": config, "versions": {"torch": "2"}, "origin": origin}
    write_json(workdir / "results.json", {**content, "pictures": {"train": 9}})
    return workdir


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "w")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with one teacher, and one with another and without random pictures."""
    root = tmp_path_factory.mktemp("runs")
    return [
        finished(root / "one"),
        finished(root / "two"),
        finished(root / "three", seed=1, methods=["gvbsm"]),
    ]


@pytest.fixture(scope="module")
def collected(runs, tmp_path_factory):
    return collect(runs, tmp_path_factory.mktemp("out") / "sets", quiet=True)


def visible(folder):
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {file.as_posix() for file in files if not file.name.startswith(".")}


def test_each_set_is_loaded_as_its_run(collected, runs):
    for run in runs:
        first, again = load_distilled(run), load(collected / run.name)
        assert torch.equal(again.images, first.images)
        assert torch.equal(again.labels, first.labels)
        for epoch in range(5):
            expected, rows = first.soft_labels.read(epoch), again.soft_labels.read(epoch)
            assert all(torch.equal(rows[name], expected[name]) for name in expected)
        assert len(next(iter(again.loader())).labels) == 4


def test_a_teacher_of_several_sets_is_there_once(collected, runs):
    teachers = {name for name in visible(collected) if name.startswith("teachers/")}
    files = {f"teachers/{name}/{NETWORK}.safetensors" for name in ("one", "three")}
    assert teachers == files | {"teachers/one/README.md", "teachers/three/README.md"}
    for run in (runs[0], runs[2]):
        copy = collected / "teachers" / run.name / f"{NETWORK}.safetensors"
        assert copy.read_bytes() == (run / "squeeze" / copy.name).read_bytes()
    index = (collected / "README.md").read_text()
    (row,) = re.findall(r"^\| two \| 4 \|.*$", index, re.MULTILINE)
    assert "(teachers/one/convnet8_d1.safetensors)" in row


def test_the_checksums_are_of_all_files(collected):
    sums = dict(
        reversed(line.split("  ")) for line in (collected / "SHA256SUMS").read_text().splitlines()
    )
    assert sums.keys() == visible(collected) - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((collected / name).read_bytes()).hexdigest() == digest
    if (program := shutil.which("sha256sum")) is not None:
        command = [program, "--check", "--strict", "--quiet", "SHA256SUMS"]
        subprocess.run(command, cwd=collected, check=True)


def test_the_index_has_sizes_accuracies_and_commands(collected):
    _, head, text = (collected / "README.md").read_text().split("---\n", 2)
    configs = yaml.safe_load(head)["configs"]
    assert [config["config_name"] for config in configs] == ["one", "two", "three"]
    for config in configs:
        (files,) = config["data_files"]
        assert len(list(collected.glob(files["path"]))) == 1
    measured, unmeasured = "55.0 ± 7.1 (n = 2)", "not measured"
    for name, random in (("one", measured), ("three", unmeasured)):
        cells = f"digits | 2 | {NETWORK} | **{measured}** | {random} | {unmeasured} |"
        assert f"| [{name}]({name}/README.md) | {cells}" in text
    table = (collected / "one" / "data" / "train-00000-of-00001.parquet").stat().st_size
    labels = sum(path.stat().st_size for path in (collected / "one" / "soft_labels").iterdir())
    kilobytes = [f"{size / 1000:.3g} kB" for size in (table, labels)]
    assert f"| one | 4 | 2 x 2 x 3 | {' | '.join(kilobytes)} |" in text
    command = (
        "gvbsm run one/settings.yaml --data-root DIR --evaluation.corruptions.folder CORRUPTED"
    )
    assert f"{command} --baselines.sets dm=PATH --workdir runs/one" in text.splitlines()
    assert "- one: preset `digits`, ipc 2.\n" in text
    assert "UCI's Optical Recognition" in text


def test_the_settings_are_those_of_the_run_without_paths(collected, runs):
    for run in runs:
        settings = yaml.safe_load((collected / run.name / "settings.yaml").read_text())
        config = read_json(run / "results.json")["config"]
        config["data"]["root"] = config["evaluation"]["corruptions"]["folder"] = None
        config["baselines"]["sets"] = {}
        assert to_dict(build_config(settings)) == config
    for name in visible(collected):
        assert SECRET.encode() not in (collected / name).read_bytes(), name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digits", "UCI states CC BY 4.0"),
        ("cifar100", "names no license"),
        ("tiny-imagenet", "non-commercial research and education alone"),
        ("imagenette", "names Apache-2.0. ImageNet's terms of access allow non-commercial"),
        ("imagenet-1k", "non-commercial research and education alone"),
        ("npz", "These terms are unknown here."),
    ],
)
def test_a_card_says_what_sources_state_of_the_terms_and_else_that_they_are_unknown(name, said):
    text = terms_of({"dataset": name, "title": "mine"}, "the images are derived from")
    assert text.startswith("Not settled here: the images are derived from the pictures of mine, ")
    assert said in text
    assert ("unknown" in text) == (name == "npz")


def test_every_data_set_of_a_name_has_a_sentence_on_its_terms():
    named = {name for name in DATASETS if name not in ("folder", "npz", "webdataset", "hub")}
    assert all("unknown" not in terms_of({"dataset": name}, "of") for name in named)


def test_the_command_has_a_word_for_each_path():
    assert {*PATH_WORDS, "baselines.sets"} == {*path_settings()}


def test_the_library_datasets_reads_a_set_by_its_name(collected, tmp_path):
    import datasets

    table = datasets.load_dataset(str(collected), "two", split="train", cache_dir=str(tmp_path))
    assert table["label"] == [0, 0, 1, 1] or list(table["label"]) == [0, 0, 1, 1]
    assert table.features["label"].names == ["class 0", "class 1"]


def test_the_card_of_teachers_states_their_training_and_its_code_runs(collected, monkeypatch):
    folder = collected / "teachers" / "one"
    card = (folder / "README.md").read_text()
    assert f"| {NETWORK} | 80.0 | 90.0 | 2 | " in card
    assert "seed: 0" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(folder)
    names = {"pixels": torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)}
    exec(code, names)
    model = build_backbone(NETWORK, 2, 2).eval()
    model.load_state_dict(load_file(folder / f"{NETWORK}.safetensors"))
    normal = load(collected / "one").normalization
    with torch.no_grad():
        expected = model(normal.normalize(names["pixels"]))
    assert torch.allclose(names["logits"], expected, atol=1e-6)


def test_the_folder_of_the_user_s_code_is_not_collected(tmp_path):
    own = f"{SECRET}/net.py:Net"
    run = finished(tmp_path / "w", squeeze={"backbones": [own]})
    results = read_json(run / "results.json")
    changed = {**results["origin"], "changed": ["squeeze.backbones"]}
    write_json(run / "results.json", {**results, "origin": changed})
    write_labels(run / "labels", recipe={"labels": {"backbones": [own]}})
    path = run / "squeeze" / f"{NETWORK}.safetensors"
    tensors, header = load_tensors(path, "teacher")
    recipe = {**header["recipe"], "backbone": own, "code": "1a2b"}
    save(path, tensors, {**header, "backbone": own, "recipe": recipe})
    out = collect([run], tmp_path / "sets", quiet=True)
    for file in [file for file in out.rglob("*") if file.is_file()]:
        assert SECRET.encode() not in file.read_bytes(), file.name
    copy = out / "teachers" / "w" / "net.py-Net.safetensors"  # as squeeze.weights_dir looks for it
    again, shown = load_tensors(copy, "teacher")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert (shown["backbone"], shown["recipe"]["code"]) == ("net.py:Net", "1a2b")
    assert 'squeeze.backbones \\["net.py:Net"\\]' in (out / "README.md").read_text()


def without_accuracy(run):
    results = read_json(run / "results.json")
    rows = [row for row in results["rows"] if row["method"] != "gvbsm"]
    write_json(run / "results.json", {**results, "rows": rows})


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (
            lambda run: (run / "results.json").unlink(),
            r"no finished run: there is no .*results",
        ),
        (without_accuracy, "has no accuracy of gvbsm; finish the run first"),
        (lambda run: next((run / "labels").glob("shard-*")).unlink(), "lacks 1 of 3 files of lab"),
        (lambda run: shutil.rmtree(run / "synthesis"), r"there is no .*images\.safetensors"),
    ],
)
def test_what_is_not_finished_is_refused_before_anything_is_written(breaks, message, run, tmp_path):
    breaks(run)
    with pytest.raises(ArtifactError, match=message):
        collect([run], tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["teachers", "a b", "-x", "ä"])
def test_a_name_that_is_none_of_a_set_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="cannot give a set its name"):
        collect([tmp_path / name], tmp_path / "out")


def test_two_runs_of_one_name_and_none_at_all_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="would be one set 'w'; rename one"):
        collect([tmp_path / "a" / "w", tmp_path / "b" / "w"], tmp_path / "out")
    with pytest.raises(ConfigError, match="at least one work directory"):
        collect([], tmp_path / "out")


def test_an_older_collection_is_replaced_only_if_asked_and_what_fails_leaves_it(
    run, tmp_path, monkeypatch
):
    out = collect([run], tmp_path / "out", quiet=True)
    before = {name: (out / name).read_bytes() for name in visible(out)}
    with pytest.raises(ConfigError, match="is there already; pass --overwrite"):
        collect([run], out, quiet=True)
    with monkeypatch.context() as patch:  # a disk that gives back something else
        patch.setattr(collection, "load", lambda path: load(run if path == run else other))
        other = finished(tmp_path / "other")
        write_images(other, ipc=1)
        shutil.rmtree(other / "labels")
        with pytest.raises(ArtifactError, match="does not hold what was written"):
            collect([run], out, overwrite=True, quiet=True)
    assert {name: (out / name).read_bytes() for name in visible(out)} == before
    collect([other], out, overwrite=True, quiet=True)
    assert not (out / "w").exists()
    assert len(load(out / "other")) == 2


def test_a_run_is_not_replaced_by_its_collection(run):
    (run / MANIFEST).touch()  # as a run does
    before = visible(run)
    with pytest.raises(ConfigError, match="w holds a run, which no export replaces"):
        collect([run], run, overwrite=True, quiet=True)
    assert visible(run) == before


def test_damage_does_not_travel(run, tmp_path):
    path = run / "squeeze" / f"{NETWORK}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=NETWORK):
        collect([run], tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_only_what_was_collected_is_pushed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "upload", lambda folder, name: f"{folder.name} to {name}")
    out = collect([run], tmp_path / "out", quiet=True)
    assert push(out, "user/name") == "out to user/name"
    (out / "notes.txt").touch()
    with pytest.raises(ArtifactError, match=r"notes\.txt is not in SHA256SUMS"):
        push(out, "user/name")
    (out / "notes.txt").unlink()
    card = (out / "w" / "README.md").read_text()
    (out / "w" / "README.md").write_text(card.replace("55.0", "95.0"))
    with pytest.raises(ArtifactError, match=r"README\.md was changed"):
        push(out, "user/name")
    (out / "w" / "README.md").unlink()
    with pytest.raises(ArtifactError, match=r"README\.md is missing"):
        push(out, "user/name")
    with pytest.raises(ArtifactError, match="is no collection"):
        check_sums(run)


def test_a_set_of_a_collection_is_loaded_from_the_hub(collected, tmp_path, monkeypatch):
    asked = []

    def download(name, folder):
        asked.append((name, folder))
        shutil.copytree(collected / folder, tmp_path / "hub" / "snapshots" / "1" / folder)
        return tmp_path / "hub" / "snapshots" / "1"

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.chdir(tmp_path)
    again = load("user/name/two")
    assert asked == [("user/name", "two")]
    assert torch.equal(again.images, load(collected / "two").images)
    (tmp_path / "user").mkdir()
    for wrong in ("user/name/two", "user/name/..", "a/b/c/d"):
        with pytest.raises(ArtifactError, match="user/name/set of a collection"):
            load(wrong)
    assert len(asked) == 1


def test_the_command_collects(run, tmp_path, monkeypatch, capsys):
    arguments = ["collect", "w", "--out", "sets", "--quiet"]
    command = [sys.executable, "-m", "gvbsm", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "sets"
    check_sums(tmp_path / "sets")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
