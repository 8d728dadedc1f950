"""Random selection: as many of each class, none twice, the same again for the same seed."""

import pytest
import torch

from gvbsm.coreset import gather_images, select_random
from gvbsm.pictures import DataError

LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1, 1, 0, 0])  # 5 of 0, 4 of 1, 3 of 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ipc", [1, 2, 3])
def test_balanced_class_by_class_and_without_replacement(ipc):
    for seed in range(20):
        index = select_random(LABELS, 3, ipc, generator(seed))
        assert LABELS[index].tolist() == [label for label in range(3) for _ in range(ipc)]
        assert len(set(index.tolist())) == 3 * ipc


def test_reproducible_and_drawn():
    first = select_random(LABELS, 3, 2, generator())
    torch.manual_seed(9)
    assert torch.equal(select_random(LABELS, 3, 2, generator()), first)
    seen = [set(select_random(LABELS, 3, 2, generator(seed)).tolist()) for seed in range(60)]
    assert set().union(*seen) == set(range(12))  # every picture has its chance


def test_every_picture_is_as_likely():
    counts = torch.zeros(12)
    for seed in range(600):
        counts[select_random(LABELS, 3, 1, generator(seed))] += 1
    for label, members in ((0, 5), (1, 4), (2, 3)):
        share = counts[label == LABELS] / 600
        assert (share - 1 / members).abs().max() < 0.09  # 4 deviations


def test_too_few_pictures():
    with pytest.raises(DataError, match=r"class 2 has 3 .* ipc=4"):
        select_random(LABELS, 3, 4, generator())
    with pytest.raises(DataError, match="class 3 has 0"):
        select_random(LABELS, 4, 1, generator())


def test_gathered_images_are_the_chosen_ones(data, streamed):
    index = select_random(data.train.labels, 4, 3, generator())
    chosen = gather_images(data, index)
    assert chosen.dtype == torch.uint8
    for picture, position in zip(chosen, index.tolist(), strict=True):
        assert torch.equal(picture, data.train.images[position])
    assert torch.equal(gather_images(streamed, index), chosen)
