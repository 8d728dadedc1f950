"""The comparison of sets: cosines by hand, the map of the logits, and what it is made from."""

import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gvbsm.reporting.analysis
from gvbsm.files.tensors import load_tensors, save
from gvbsm.reporting.analysis import (
    analyze,
    analyze_set,
    choose_teacher,
    first_images,
    map_points,
    mean_cosine,
)
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.teachers import save_teacher
from gvbsm.store.workdir import Workspace
from support.toy import CLASSES, CONVNET, WRN

HISTORY = {"epochs": [1], "top1": [50.0], "losses": [1.0]}


@pytest.fixture
def sets(data):
    """Name -> images and labels; the second lacks a class, and has one image of another."""
    test = data.test
    order = test.labels.argsort(stable=True)
    real = test.images[order], test.labels[order]
    few = torch.tensor([0, 1, 4, 8, 9, 10])  # of classes 0, 0, 1, 2, 2, 2
    return {
        "gvbsm": (real[0].flip(3), real[1]),
        "sre2l": (real[0][few], real[1][few]),
        "real": real,
    }


def as_set(data, images, labels):
    return DistilledDataset(images, labels, CLASSES, data.normalization, None, {})


@pytest.fixture
def workdir(tmp_path, data, teachers, sets):
    """A work directory with two teachers, a set, a baseline and real pictures."""
    workspace = Workspace(tmp_path)
    for name, model in teachers.items():
        save_teacher(workspace.teacher(name), model, name, data, HISTORY, {"of": name})
    files = {
        "gvbsm": tmp_path / "synthesis" / "images.safetensors",
        "sre2l": tmp_path / "baselines" / "sre2l" / "synthesis" / "images.safetensors",
        "real": workspace.real,
    }
    for name, (images, labels) in sets.items():
        header = {
            "kind": "images",
            "recipe": {"of": name},
            "method": name,
            "class_names": CLASSES,
            **asdict(data.normalization),
        }
        save(files[name], {"images": images, "labels": labels}, header)
    return tmp_path


# Pure parts


def test_mean_cosine__by_hand():
    # Angles of 90, 45 and 45 degrees, whatever the lengths.
    vectors = torch.tensor([[2.0, 0.0], [0.0, 0.5], [3.0, 3.0]])
    assert mean_cosine(vectors) == pytest.approx((0 + 2 * math.sqrt(0.5)) / 3, abs=1e-12)
    assert mean_cosine(torch.tensor([[1.0, 2.0], [-2.0, -4.0]])) == pytest.approx(-1)
    assert mean_cosine(torch.ones(5, 7)) == pytest.approx(1)
    assert mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])) == pytest.approx(1 / 3)
    assert math.isnan(mean_cosine(torch.ones(1, 3)))
    assert math.isnan(mean_cosine(torch.ones(0, 3)))


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**31))
def test_mean_cosine__is_the_mean_over_all_pairs(count, size, seed):
    vectors = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    pairs = [
        torch.cosine_similarity(vectors[a].double(), vectors[b].double(), dim=0).item()
        for a in range(count)
        for b in range(a)
    ]
    assert mean_cosine(vectors) == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)


def test_first_images__of_each_class():
    labels = torch.tensor([1, 0, 1, 3, 1, 0])
    found = [index.tolist() for index in first_images(labels, 3, 2)]
    assert found == [[1, 5], [0, 2], []]


def test_map__keeps_apart_what_is_apart_and_is_always_the_same():
    generator = torch.Generator().manual_seed(0)
    centers = 50 * torch.eye(3, 6).repeat_interleave(20, dim=0)
    vectors = centers + torch.randn(60, 6, generator=generator)
    points = map_points(vectors)
    assert points.shape == (60, 2)
    assert points.dtype == torch.float32
    assert torch.equal(map_points(vectors), points)
    away = torch.cdist(points, points)
    own = torch.block_diag(*[torch.ones(20, 20)] * 3).bool()
    away.fill_diagonal_(math.inf)
    assert own[torch.arange(60), away.argmin(dim=1)].all()  # the nearest is of the same cluster


@pytest.mark.parametrize("count", [2, 3, 5])
def test_map__of_few_points(count):
    assert map_points(torch.eye(count, 4)).isfinite().all()


def test_map__of_equal_points_is_one_point():
    """As of a teacher that says the same of all pictures: scikit-learn would end the process."""
    assert torch.equal(map_points(torch.ones(5, 4)), torch.zeros(5, 2))


# What a teacher sees


def test_see__is_the_slow_way(data, sets, teachers, runtime):
    images, labels = sets["sre2l"]
    for model in teachers.values():
        found = analyze_set(as_set(data, images, labels), model, runtime, "toy")
        features = []
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
        hook = linear.register_forward_pre_hook(lambda _, seen, kept=features: kept.append(seen[0]))
        logits = torch.cat([model(data.normalization.normalize(one[None])) for one in images])
        hook.remove()
        pixels = list(data.normalization.normalize(images).flatten(1)[:, None])
        torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.labels, labels)
        right = (logits.argmax(dim=1) == labels).tolist()
        assert found.accuracy == pytest.approx(100 * sum(right) / 6)
        for vectors, mine in ((features, found.cosine), (pixels, found.pixel_cosine)):
            pairs = {0: [(0, 1)], 2: [(3, 4), (3, 5), (4, 5)]}
            for label, of_class in pairs.items():
                cosines = [torch.cosine_similarity(vectors[a], vectors[b]) for a, b in of_class]
                assert mine[label] == pytest.approx(float(sum(cosines)) / len(cosines), abs=1e-5)
            assert mine.isnan().tolist() == [False, True, False, True]  # one image, and none


def test_see__is_bounded(data, sets, teachers, runtime, monkeypatch):
    monkeypatch.setattr(gvbsm.reporting.analysis, "MOST_CLASSES", 3)
    monkeypatch.setattr(gvbsm.reporting.analysis, "MOST_IMAGES", 2)
    found = analyze_set(as_set(data, *sets["real"]), teachers[CONVNET], runtime, "toy")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.cosine.isnan().tolist() == [False, False, False, True]


# The file


def test_analysis__compares_all_sets(workdir, data, sets, teachers, runtime):
    path = analyze(workdir, quiet=True)
    assert path == workdir / "report" / "analysis.safetensors"
    tensors, header = load_tensors(path, "analysis")
    assert header["sets"] == ["gvbsm", "sre2l", "real"]
    assert header["teacher"] == CONVNET
    for name, given_set in sets.items():
        seen = analyze_set(as_set(data, *given_set), teachers[CONVNET], runtime, name)
        assert header["accuracy"][name] == seen.accuracy
        for key, expected in (("cosine", seen.cosine), ("pixel_cosine", seen.pixel_cosine)):
            torch.testing.assert_close(tensors[f"{key}/{name}"], expected, equal_nan=True)
    counts = [16, 6, 16]
    assert tensors["tsne/points"].shape == (sum(counts), 2)
    assert tensors["tsne/points"].isfinite().all()
    assert tensors["tsne/set"].bincount().tolist() == counts
    assert torch.equal(tensors["tsne/labels"], torch.cat([labels for _, labels in sets.values()]))


def test_analysis__the_map_shows_the_first_classes(workdir, monkeypatch):
    monkeypatch.setattr(gvbsm.reporting.analysis, "MAP_CLASSES", 2)
    tensors, _ = load_tensors(analyze(workdir, quiet=True), "analysis")
    assert tensors["tsne/labels"].unique().tolist() == [0, 1]
    assert tensors["tsne/set"].bincount().tolist() == [8, 3, 8]
    assert not tensors["cosine/real"].isnan().any()


def test_analysis__is_made_again_only_if_a_set_or_the_teacher_is_another(workdir, data, teachers):
    def made():
        return analyze(workdir, quiet=True).stat().st_mtime_ns

    def is_new():
        nonlocal last
        before, last = last, made()
        return last != before

    last = made()
    assert not is_new()
    workspace = Workspace(workdir)
    tensors, header = load_tensors(workspace.real, "images")
    save(workspace.real, tensors, {**header, "recipe": {"of": "others"}})
    assert is_new()
    save_teacher(workspace.teacher(WRN), teachers[WRN], WRN, data, HISTORY, {"of": "another"})
    assert not is_new()  # it is not the one that looks
    save_teacher(workspace.teacher(CONVNET), teachers[CONVNET], CONVNET, data, HISTORY, {"of": 1})
    assert is_new()
    (workdir / "baselines" / "sre2l" / "synthesis" / "images.safetensors").unlink()
    assert is_new()


def test_analysis__takes_resnet18_if_there_is_one(tmp_path):
    def paths(*names):
        for name in names:
            history = {"epochs": [1], "top1": [50.0], "losses": [1.0]}
            header = {"kind": "teacher", "recipe": {}, "backbone": name, "history": history}
            save(tmp_path / name.replace("/", "--"), {}, header)
        return [tmp_path / name.replace("/", "--") for name in names]

    assert choose_teacher(paths("convnet128", "resnet18", "wrn16_2")).name == "resnet18"
    assert choose_teacher(paths("convnet128", "timm/resnet18")).name == "timm--resnet18"
    assert choose_teacher(paths("wrn16_2", "resnet180", "xresnet18")).name == "wrn16_2"


def test_analysis__none_where_there_is_nothing_to_compare(workdir, teachers, data, monkeypatch):
    for name in teachers:
        Workspace(workdir).teacher(name).unlink()
    assert analyze(workdir, quiet=True) is None
    assert analyze(workdir / "elsewhere", quiet=True) is None
    assert not (workdir / "report").exists()


def test_analysis__a_network_without_features_is_told(workdir, monkeypatch, caplog):
    def no_classifier(*_arguments):
        raise ValueError("it has no nn.Linear")

    monkeypatch.setattr(gvbsm.reporting.analysis, "teacher_features", no_classifier)
    assert analyze(workdir, quiet=True) is None
    assert "not compared by their features: it has no nn.Linear" in caplog.text
