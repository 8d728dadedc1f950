"""Classes: numbers and words of files become labels, and keep their identity."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.data.classes import (
    MOST_CLASSES,
    class_name,
    labels_of,
    matched_by_place,
    number_classes,
    renumbered,
)
from gvbsm.data.pictures import DataError

numbers = st.lists(st.integers(0, 10**20), min_size=1, max_size=20)
letters = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
words = st.lists(st.text(letters, min_size=1, max_size=3), min_size=1, max_size=20)


@given(numbers | words)
def test_labels_name_the_classes_of_the_files(values):
    """Against NumPy, whose `unique` also numbers values in ascending order."""
    classes = number_classes(values, None, "set")
    unique, expected = np.unique(np.array(values, dtype=object), return_inverse=True)
    labels = labels_of(values, classes, "test")
    assert labels == expected.tolist()
    assert classes.names == tuple(str(value) for value in unique)
    assert [classes.names[label] for label in labels] == [str(value) for value in values]
    counted = isinstance(values[0], str) or unique.tolist() == list(range(len(unique)))
    assert bool(classes.notes) != counted


@given(st.permutations(["ant", "bee", "cat", "dog"]), st.integers(0, 3))
def test_a_list_of_names_gives_the_order(names, place):
    by_word = number_classes(["bee", "cat"], names, "set")
    assert by_word.names[by_word.label_of["bee"]] == "bee"
    by_number = number_classes([0, place], names, "set")
    assert by_number.names[by_number.label_of[place]] == names[place]
    assert by_number.names == by_word.names == tuple(names)


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ([1, "a"], None, "set are numbers and words, such as 1 and 'a'"),
        ([0, -1], None, "number -1: classes count from 0"),
        ([0, 2], ["a", "b"], "not the class 2 of a picture: expected numbers from 0 to 1"),
        (["c"], ["a", "b"], "names 2 classes, but not the class 'c'"),
        ([0], ["a", "a"], "names the class 'a' twice"),
        ([0], ["a", ""], "a class without a name"),
        (["a" * 256], None, "the class 'aaaaaaaaaaaaaaaaaaaa'... of 256 characters"),
        ([10**300, 0], None, "of 301 characters"),
        (["a\x1b[2J"], None, r"'a\\x1b\[2J', with control characters"),
        (["\ud800"], None, r"'\\ud800', with control characters"),
        (range(MOST_CLASSES + 1), None, "100001 different values"),
    ],
)
def test_faults_are_named(values, names, message):
    with pytest.raises(DataError, match=message):
        number_classes(values, names, "set")


def test_a_class_without_training_pictures_is_named():
    classes = number_classes([5, 7], None, "set")
    with pytest.raises(DataError, match=r"test has pictures of classes .*: 6; known are 5, 7"):
        labels_of([5, 6], classes, "test")


def test_class_name_is_text_without_marks():
    assert class_name(b"\xef\xbb\xbfcaf\xc3\xa9 ") == class_name("cafe\u0301") == "caf\u00e9"


def test_renumbered__labels_name_the_same_classes_in_another_order():
    labels = torch.tensor([0, 2, 1, 1])
    names, order = ("ant", "bee", "cat"), ("cat", "ant", "bee")
    found = renumbered(labels, names, order)
    assert [order[label] for label in found] == [names[label] for label in labels]
    assert renumbered(labels, names, ("cat", "ant", "dog")) is None
    assert renumbered(labels, names, ("cat", "ant")) is None


def test_matched_by_place__numbers_are_in_ascending_order_however_folders_list_them():
    words, folders = ("cat", "ant", "dog", "bee"), ("0", "1", "10", "2")
    labels = torch.tensor([2, 3, 0, 1])
    assert [words[label] for label in matched_by_place(labels, folders, words)] == [
        *["bee", "dog"],
        *["cat", "ant"],
    ]
    back = matched_by_place(matched_by_place(labels, folders, words), words, folders)
    assert torch.equal(back, labels)
    assert matched_by_place(labels, folders, ("000", "001", "002", "010")).tolist() == [3, 2, 0, 1]
    assert torch.equal(matched_by_place(labels, words, ("1", "2", "3", "4")), labels)
    assert torch.equal(matched_by_place(labels, words, ("a1", "a2", "a10", "a3")), labels)
