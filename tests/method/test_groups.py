"""Groups: which images are optimized together, and which of them are of one class."""

import torch
from hypothesis import given, settings

from gvbsm.method.groups import class_rows, make_stack
from support.strategies import labeled_batches

CPU = torch.device("cpu")
bounded = settings(derandomize=True, max_examples=25)


@bounded
@given(labeled_batches())
def test_class_rows__each_class_of_several_images_is_in_its_group_once(drawn):
    labels, groups = drawn
    batch = len(labels) // groups
    expected = set()
    for group in range(groups):
        own = range(group * batch, (group + 1) * batch)
        for label in range(5):
            images = tuple(i for i in own if labels[i] == label)
            if len(images) > 1:
                expected.add((group, images))
    blocks = class_rows(labels, groups).same_size
    found = [
        (group, tuple(sorted(members)))
        for block in blocks
        for group, members in zip(block.group.tolist(), block.images.tolist(), strict=True)
    ]
    assert len(found) == len(set(found))
    assert set(found) == expected
    sizes = [block.images.shape[1] for block in blocks]
    assert len(sizes) == len(set(sizes))  # one block a size: as few calls of the solver as may be
    assert all(part.dtype == torch.int64 for block in blocks for part in block)


def test_class_rows__classes_of_one_size_known_answer():
    labels = torch.tensor([7, 7, 3, 3, 3, 1, 7, 3, 7, 3, 3, 1])
    twos, threes = class_rows(labels, 2).same_size
    assert twos.images.tolist() == [[0, 1], [6, 8]]
    assert threes.images.tolist() == [[2, 3, 4], [7, 9, 10]]
    assert twos.group.tolist() == threes.group.tolist() == [0, 1]


def test_class_rows__known_answer():
    labels = torch.tensor([2, 0, 0, 2, 2, 1, 1, 1, 3, 3])
    rows = class_rows(labels, 2)
    assert rows.group.tolist() == [0, 0, 1, 1]
    assert rows.label.tolist() == [0, 2, 1, 3]
    assert rows.size.tolist() == [2, 3, 3, 2]
    assert rows.share.tolist() == [0.5] * 4
    assert rows.row.tolist() == [1, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert class_rows(torch.tensor([4, 4, 1, 0]), 2).share.tolist() == [1, 0.5, 0.5]


def test_make_stack__known_answer():
    """Two groups of four: classes 5, 5, 2, 2 and 2, 2, 2, 9; class 2 is in both, each by itself."""
    stack = make_stack([4, 7], torch.tensor([5, 5, 2, 2, 2, 2, 2, 9]), CPU)
    assert stack.numbers == (4, 7)
    assert (stack.groups, stack.batch) == (2, 4)
    assert stack.labels.tolist() == [5, 5, 2, 2, 2, 2, 2, 9]
    twos, threes = stack.classes.same_size
    assert sorted(twos.images.tolist()) == [[0, 1], [2, 3]]
    assert twos.group.tolist() == [0, 0]
    assert threes.images.tolist() == [[4, 5, 6]]
    assert threes.group.tolist() == [1]


def test_make_stack__all_of_it_is_on_the_device():
    stack = make_stack((0,), torch.tensor([0, 0, 0, 1, 1, 2]), torch.device("meta"))
    rows = stack.classes
    tensors = [stack.labels, rows.row, rows.group, rows.label, rows.size, rows.share]
    tensors += [part for same_size in rows.same_size for part in same_size]
    assert len(tensors) == 10
    assert all(tensor.is_meta for tensor in tensors)
