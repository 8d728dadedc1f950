"""Sentences on classes of few or very different numbers of training pictures."""

import torch

from gvbsm.data.class_sizes import class_counts, few_pictures, uneven_classes


def test_class_counts__classes_without_pictures_count_0():
    assert class_counts(torch.tensor([1, 1, 0]), ("a", "b", "c")) == {"a": 1, "b": 2, "c": 0}


def test_few_pictures__names_the_smallest_class():
    counts = {"a": 10, "b": 3, "c": 4}
    assert few_pictures(counts, 3) == ""
    assert few_pictures(counts, 4).startswith(
        "1 of 3 classes has fewer training pictures than the 4 images of a class ('b' has 3): "
    )
    assert few_pictures(counts, 5).startswith("2 of 3 classes have fewer")


def test_uneven_classes__from_ten_times_on():
    assert uneven_classes({"a": 29, "b": 3, "c": 20}) == ""
    assert uneven_classes({"a": 3, "b": 1200, "c": 20}) == (
        "the classes are uneven: 'b' has 1,200 training pictures, 'a' 3"
    )
    assert uneven_classes({"a": 9, "b": 0}) == ""
    assert uneven_classes({"a": 10, "b": 0}) != ""
