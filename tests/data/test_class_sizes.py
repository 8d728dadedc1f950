"""Sentences on classes of few or very different numbers of training pictures."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.data.class_sizes import ImageCounts, class_counts, few_pictures, uneven_classes


def test_class_counts__classes_without_pictures_count_0():
    assert class_counts(torch.tensor([1, 1, 0]), ("a", "b", "c")) == {"a": 1, "b": 2, "c": 0}


def test_few_pictures__names_the_class_that_lacks_most():
    counts = {"a": 10, "b": 3, "c": 4}
    assert few_pictures(counts, [3, 3, 3]) == ""
    assert few_pictures(counts, [10, 3, 4]) == ""
    assert few_pictures(counts, [4, 4, 4]).startswith(
        "1 of 3 classes has fewer training pictures than images ('b' has 3 for 4): "
    )
    assert few_pictures(counts, [5, 5, 5]).startswith("2 of 3 classes have fewer")
    assert "('a' has 10 for 40)" in few_pictures(counts, [40, 4, 4])


def test_image_counts__known_answers():
    counts = ImageCounts((3, 1, 2))
    assert (counts.classes, counts.total) == (3, 6)
    assert counts.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert counts.firsts.tolist() == [0, 3, 4]
    assert counts.ranks.tolist() == [0, 1, 2, 0, 0, 1]
    assert ImageCounts.even(2, 3) == ImageCounts((3, 3))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_image_counts__of_any_numbers(of_class):
    counts = ImageCounts(tuple(of_class))
    pairs = [(label, rank) for label, count in enumerate(of_class) for rank in range(count)]
    assert [*zip(counts.labels.tolist(), counts.ranks.tolist(), strict=True)] == pairs
    assert counts.total == len(pairs)
    assert [pairs[first] for first in counts.firsts] == [
        (label, 0) for label in range(len(of_class))
    ]


def test_uneven_classes__from_ten_times_on():
    assert uneven_classes({"a": 29, "b": 3, "c": 20}) == ""
    assert uneven_classes({"a": 3, "b": 1200, "c": 20}) == (
        "the classes are uneven: 'b' has 1,200 training pictures, 'a' 3"
    )
    assert uneven_classes({"a": 9, "b": 0}) == ""
    assert uneven_classes({"a": 10, "b": 0}) != ""
