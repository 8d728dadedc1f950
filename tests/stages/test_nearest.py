"""The nearest real pictures: of the class, against a search through all of them."""

import pytest
import torch

from gvbsm.method.beyond.retrieval import complexity
from gvbsm.stages.selection import nearest
from gvbsm.stages.selection.nearest import NearestPictures

CPU = torch.device("cpu")


def pixels(pictures):
    """Features that are pixels, so that a picture is nearest to itself."""
    return pictures.flatten(start_dim=1)


def test_nearest__is_the_best_of_all_pictures_of_the_class(data, streamed):
    real = data.normalization.normalize(data.train.images)
    labels = torch.tensor([2, 0, 2, 3])
    generator = torch.Generator().manual_seed(1)
    images = real[[4, 5, 6, 7]] + 0.5 * torch.randn(4, 3, 8, 8, generator=generator)
    start = torch.full_like(images, 9.0) * torch.tensor([1.0, -1.0]).repeat(4)  # far from all
    expected = []
    for image, label in zip(images, labels, strict=True):
        own = real[data.train.labels == label].double()
        fits = [
            float((image.double() / image.double().norm() - o / o.norm()).square().sum())
            for o in own
        ]
        totals = [
            0.9 * fit + 0.1 * float(complexity(o[None])) for fit, o in zip(fits, own, strict=True)
        ]
        expected.append(own[totals.index(min(totals))].float())
    for source in (data, streamed):
        found = NearestPictures(source, pixels, CPU, seed=1)(images, labels, start)
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-6)


def test_nearest__is_the_start_where_that_is_nearer(data, monkeypatch):
    """Also if it is not in the pool, which holds a few pictures."""
    monkeypatch.setattr(nearest, "POOL", 2)
    real = data.normalization.normalize(data.train.images)
    labels = data.train.labels[:8]
    chosen = NearestPictures(data, pixels, CPU, seed=1)(real[:8], labels, real[:8])
    smooth = (complexity(real).max() - complexity(real).min()) * 0.1
    assert float(smooth) < 1.8 * 0.5  # simplicity alone does not decide here
    assert torch.equal(chosen, real[:8])


@pytest.mark.parametrize("seed", [1, 2])
def test_nearest__a_pool_depends_on_seed_and_class_alone(seed, data, monkeypatch):
    monkeypatch.setattr(nearest, "POOL", 3)
    real = data.normalization.normalize(data.train.images)
    far = torch.full_like(real, 9.0) * torch.tensor([1.0, -1.0]).repeat(4)
    labels = data.train.labels
    together = NearestPictures(data, pixels, CPU, seed)(real, labels, far)
    for label in (3, 1):
        own = labels == label
        alone = NearestPictures(data, pixels, CPU, seed)(real[own], labels[own], far[own])
        assert torch.equal(alone, together[own])
        assert len(alone.unique(dim=0)) <= 3


def test_nearest__reads_each_class_once(data):
    asked = []

    def counted(pictures):
        asked.append(len(pictures))
        return pixels(pictures)

    find = NearestPictures(data, counted, CPU, seed=1)
    real = data.normalization.normalize(data.train.images[:4])
    for _ in range(2):
        find(real, data.train.labels[:4], real)
    assert asked == [4, 4, 10, 10, 10, 10, 4, 4]
