"""Merged sets: every image keeps its views and labels; classes are matched by name."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import gvbsm.exchange.train
from gvbsm.cli import main
from gvbsm.config import ConfigError, LabelsConfig, LabelStorageConfig, ViewConfig
from gvbsm.config.build import build_config, to_dict
from gvbsm.data.pixels import Normalization
from gvbsm.exchange.export import export
from gvbsm.exchange.load import load
from gvbsm.exchange.merge import merge, merged_classes, pooled
from gvbsm.exchange.merged_labels import with_all_classes
from gvbsm.exchange.train import train
from gvbsm.files.artifacts import write_json
from gvbsm.stages.labels import LabelTask, generate_labels
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.training_settings import recorded_settings
from support.distilled_files import save_images
from support.toy import CONVNET

VIEWS = ViewConfig(crop="pad", padding=1, flip=True, cutmix=1.0)
LABELS = LabelsConfig(epochs=3, views=VIEWS, full_batch_up_to=0, batch_size=4)


class Outputs(nn.Module):
    """Some outputs of a network, in another order."""

    def __init__(self, network, classes):
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, x):
        return self.network(x)[:, self.classes]


@pytest.fixture
def client(data, teachers, runtime, tmp_path):
    """Call it with a name, classes and pictures to write a set with soft labels of its classes."""

    def write(name, classes, picked, labels=LABELS, **changes):
        order = [n for c in classes for n in picked if int(data.train.labels[n]) == c]
        hard = torch.tensor([classes.index(int(data.train.labels[n])) for n in order])
        names = tuple(data.class_names[c] for c in classes)
        own, folder = replace(data, class_names=names, **changes), tmp_path / name
        images, path = data.train.images[order], folder / "synthesis" / "images.safetensors"
        save_images(path, "gvbsm", {"ipc": 1}, images, hard, own)
        recipe = {"stage": "labels", "labels": to_dict(labels), "evaluation": {"batch_size": 4}}
        task = LabelTask(images, len(classes), labels, data.normalization)
        networks = [Outputs(network, classes) for network in teachers.values()]
        generate_labels(task, networks, runtime, folder / "labels", recipe)
        return folder

    return write


def place_of(image, images):
    """Number of an image in a set that has it once."""
    (place,) = [n for n, other in enumerate(images) if torch.equal(image, other)]
    return place


def assert_kept(merged, part, epoch, part_epoch):
    """Each image of a part has in the merged set the label, view, partner and logits it had."""
    now, before = merged.soft_labels.read(epoch), part.soft_labels.read(part_epoch)
    columns = [merged.class_names.index(name) for name in part.class_names]
    others = [n for n in range(len(merged.class_names)) if n not in columns]
    for number, image in enumerate(part.images):
        place = place_of(image, merged.images)
        names = [merged.class_names[merged.labels[place]], part.class_names[part.labels[number]]]
        assert names[0] == names[1]
        for name in {"boxes", "flips", "rolls", "mix_boxes"}:
            assert torch.equal(now[name][place], before[name][number]), name
        partner = merged.images[now["partners"][place].long()]
        assert torch.equal(partner, part.images[before["partners"][number].long()])
        logits = before["logits"][number]
        assert torch.equal(now["logits"][place][columns], logits)
        assert bool((now["logits"][place][others] == logits.min()).all())


def test_images_keep_views_partners_and_labels(client, tmp_path):
    """One client has other classes in another order, other counts, and fewer epochs."""
    first = client("a", [0, 1, 2], [0, 1, 2, 4, 8, 12])
    second = client("b", [3, 1], [3, 5, 7, 9], replace(LABELS, epochs=2))
    out = merge([first, second], tmp_path / "m", quiet=True)
    merged, parts = load(out), [load(first), load(second)]
    assert merged.class_names == ("ant", "bee", "cat", "dog")
    assert len(merged) == 10
    assert bool((merged.labels.diff() >= 0).all())
    assert merged.soft_labels.epochs == 3
    orders = [merged.soft_labels.read(epoch)["order"] for epoch in range(3)]
    assert not torch.equal(orders[0], orders[1])
    for epoch in range(3):
        assert_kept(merged, parts[0], epoch, epoch)
        assert_kept(merged, parts[1], epoch, epoch % 2)


def test_compressed_labels_of_the_same_classes_are_copied(client, tmp_path):
    storage = LabelStorageConfig(top_k=2, bits=8)
    labels = replace(LABELS, storage=storage)
    folders = [client("a", [0, 1, 2, 3], range(8), labels)]
    folders += [client("b", [0, 1, 2, 3], range(8, 16), labels)]
    merged, parts = load(merge(folders, tmp_path / "m", quiet=True)), map(load, folders)
    assert merged.soft_labels.storage == storage
    for part in parts:
        places = [place_of(image, merged.images) for image in part.images]
        for epoch in range(3):
            now, before = (item.soft_labels.epoch(epoch)[1] for item in (merged, part))
            copied, original = now.encoded(torch.tensor(places)), before.encoded(torch.arange(8))
            assert copied.keys() == original.keys()
            assert all(torch.equal(copied[name], original[name]) for name in original)


def test_compressed_labels_of_other_classes_are_stored_as_they_decode(client, tmp_path):
    labels = replace(LABELS, storage=LabelStorageConfig(top_k=2))
    folders = [client("a", [0, 1, 2], [0, 1, 2], labels), client("b", [1, 2, 3], [5, 6, 7])]
    merged, part = load(merge(folders, tmp_path / "m", quiet=True)), load(folders[0])
    assert merged.soft_labels.storage == LabelStorageConfig()
    decoded = part.soft_labels.read(1)["logits"]
    expected = torch.cat([decoded, decoded.amin(dim=1, keepdim=True)], dim=1)
    places = [place_of(image, merged.images) for image in part.images]
    assert torch.equal(merged.soft_labels.read(1)["logits"][places].float(), expected)


def test_a_pruned_store_gives_its_stored_epochs(client, tmp_path):
    pruned = replace(LABELS, epochs=6, storage=LabelStorageConfig(pruning=3.0))
    folders = [client("a", [0, 1, 2, 3], range(8), pruned)]
    folders += [client("b", [0, 1, 2, 3], range(8, 16), pruned)]
    merged = load(merge(folders, tmp_path / "m", quiet=True))
    assert (merged.soft_labels.epochs, merged.soft_labels.kept) == (6, (0, 1))
    for part in map(load, folders):
        for epoch, stored in enumerate(part.soft_labels.kept):
            assert_kept(merged, part, epoch, stored)
    assert len(list(merged.batches(5))) == 4


def test_the_normalization_that_counts_is_that_of_the_labels(client, tmp_path):
    changes = {"logit_normalization_of": {CONVNET: True}}  # of labels of its own, as a run has them
    normalized = replace(LABELS, logit_normalization=True)
    folders = [client("a", [0, 1], [0, 1], normalized), client("b", [2, 3], [2, 3])]
    folders.append(client("c", [2, 3], [6, 7], normalized))
    for folder in (folders[0], folders[2]):
        config = to_dict(build_config({"labels": {**to_dict(LABELS), **changes}}))
        content = {"rows": [], "config": config, "versions": {}}
        content |= {"origin": {"preset": None, "changed": []}}
        write_json(folder / "results.json", content)
    with pytest.raises(ConfigError, match=r"labels\.logit_normalization of .*b is False, of .*a"):
        merge(folders[:2], tmp_path / "m", quiet=True)
    merged = load(merge(folders[::2], tmp_path / "m", quiet=True))
    labels = recorded_settings(merged)["labels"]
    assert (labels["logit_normalization"], labels["logit_normalization_of"]) == (True, {})


def test_the_folder_of_a_client_s_code_is_left_out(client, tmp_path):
    folders = [client("a", [0, 1], [0, 1]), client("b", [2, 3], [2, 3])]
    for folder in folders:
        config = to_dict(build_config({"evaluation": {"lr_of": {"/secret/net.py:Net": 7.0}}}))
        content = {"rows": [], "config": config, "origin": {"preset": None, "changed": []}}
        write_json(folder / "results.json", {**content, "versions": {}})
    out = merge(folders, tmp_path / "m", quiet=True)
    assert recorded_settings(load(out))["evaluation"]["lr_of"] == {"net.py:Net": 7.0}
    assert not any(b"secret" in path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_unknown_classes_get_the_smallest_logit_of_the_row():
    logits = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    expected = torch.tensor([[-2.0, -2.0, 1.0], [4.0, 3.0, 3.0]])
    assert torch.equal(with_all_classes(logits, torch.tensor([2, 0]), 3), expected)


def test_classes_are_sorted_if_those_of_each_set_are():
    assert merged_classes([("b", "d"), ("a", "b")]) == ("a", "b", "d")
    assert merged_classes([("d", "b"), ("a", "b")]) == ("d", "b", "a")


def test_pooled_normalization_is_that_of_all_pixels():
    generator = torch.Generator().manual_seed(0)
    sets = [torch.rand(count, 3, 50, 50, generator=generator) ** 2 for count in (2, 6)]

    def normal(pixels):
        return Normalization(
            tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3)).tolist())
        )

    parts = [
        DistilledDataset(pixels, torch.zeros(len(pixels)), (), normal(pixels), None, {})
        for pixels in sets
    ]
    merged, expected = pooled(parts), normal(torch.cat(sets))
    assert merged.mean == pytest.approx(expected.mean, abs=1e-5)
    assert merged.std == pytest.approx(expected.std, abs=1e-4)
    assert pooled(parts[:1] * 2) is parts[0].normalization


def test_show_train_and_export_take_it(client, data, tmp_path, monkeypatch, capsys):
    folders = [client("a", [0, 1, 2], [0, 1, 2, 4]), client("b", [1, 2, 3], [5, 6, 7])]
    monkeypatch.setattr(gvbsm.exchange.train, "load_data", lambda *_: data)
    out = str(tmp_path / "m")
    assert main(["merge", *map(str, folders), "--out", out, "--quiet"]) == 0
    assert main(["show", out]) == 0
    shown = capsys.readouterr().out
    assert "toy, 4 classes, 8 px" in shown
    assert "gvbsm, 1 to 2 images per class" in shown
    assert "labels: 3 epochs" in shown
    given = {"device": "cpu", "evaluation": {"tests": 1}, "data": {"name": "toy"}}
    first = train(out, CONVNET, tmp_path / "s.safetensors", given, quiet=True)
    assert len(first["losses"]) == 3
    for form in ("folder", "safetensors"):
        name = export(out, form, tmp_path / f"e.{form}", quiet=True)
        weights = tmp_path / f"{form}.safetensors"
        again = train(name, CONVNET, weights, given, quiet=True)
        assert again["losses"] == first["losses"]


def test_with_hard_labels_alone_the_settings_stay(client, tmp_path):
    folders = [client("a", [0, 1], [0, 1]), client("b", [2, 3], [2, 3])]
    merged = load(merge(folders, tmp_path / "m", soft_labels=False, quiet=True))
    assert merged.soft_labels is None
    assert merged.header["settings"]["labels"]["views"] == to_dict(VIEWS)
    assert merged.labels.tolist() == [0, 1, 2, 3]


def test_sets_that_do_not_fit_are_refused(client, data, tmp_path):
    first = client("a", [0, 1], [0, 1])
    smaller = data.train.images[:2, :, :4, :4].contiguous()
    other = replace(data, image_size=4)
    path = tmp_path / "small" / "synthesis" / "images.safetensors"
    save_images(path, "gvbsm", {"ipc": 1}, smaller, torch.tensor([0, 1]), other)
    bare = tmp_path / "bare" / "synthesis" / "images.safetensors"
    save_images(bare, "gvbsm", {"ipc": 1}, data.train.images[:2], torch.tensor([0, 1]), data)
    by_batch = replace(LABELS, batchnorm="batch")
    for second, message in (
        (tmp_path / "small", r"images of \[3, 4, 4\] .* distill both at one size"),
        (tmp_path / "bare", "bare has no soft labels and others have: pass --soft_labels false"),
        (client("views", [2, 3], [2, 3], replace(LABELS, views=ViewConfig())), "labels.views of"),
        (client("hot", [2, 3], [2, 3], replace(LABELS, temperature=2.0)), "labels.temperature of"),
        (client("batch", [2, 3], [2, 3], by_batch), "labels.batchnorm=running"),
        (first, "named twice"),
        (f"{first}/", "named twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            merge([first, second], tmp_path / "m", quiet=True)
        assert not (tmp_path / "m").exists()
    with pytest.raises(ConfigError, match="at least two sets"):
        merge([first], tmp_path / "m")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="did not export"):
        merge([first, second], tmp_path / "m", overwrite=True)
