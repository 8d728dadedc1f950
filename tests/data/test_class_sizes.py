"""Sentences on classes of few or very different numbers of training pictures."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.config import Config, ConfigError
from gvbsm.data.class_sizes import (
    ImageCounts,
    class_counts,
    few_pictures,
    image_counts,
    ipc_of_labels,
    settle_ipc,
    uneven_classes,
)


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


NAMES = ("cat", "dog", "deer")


def test_image_counts__of_settings():
    assert image_counts(Config(ipc=4), NAMES) == ImageCounts.even(3, 4)
    assert image_counts(Config(ipc=4, ipc_of={"deer": 9, "cat": 1}), NAMES).of_class == (1, 4, 9)


@pytest.mark.parametrize(
    ("name", "names", "words"),
    [
        (
            "cot",
            NAMES,
            "ipc_of names 'cot', .*; did you mean 'cat'[?] the classes are 'cat', 'dog'",
        ),
        ("deet", ("deep", "deer"), "did you mean 'dee[rp]' or 'dee[rp]'[?]"),
        ("x", NAMES, "no class of the data; the classes are 'cat', 'dog', 'deer'$"),
        ("x", tuple("abcdefghijkl"), r"'i', 'j' and 2 more$"),
    ],
)
def test_image_counts__a_name_that_no_class_has(name, names, words):
    with pytest.raises(ConfigError, match=words) as caught:
        image_counts(Config(ipc_of={name: 2}), names)
    assert "\n" not in str(caught.value)


def test_settle_ipc__known_answers():
    def settled(ipc, **ipc_of):
        config = settle_ipc(Config(ipc=ipc, ipc_of=ipc_of), NAMES)
        return config.ipc, [*config.ipc_of.items()]

    assert settled(4) == (4, [])
    assert settled(4, cat=4) == (4, [])
    assert settled(4, deer=1, cat=2) == (4, [("cat", 2), ("deer", 1)])
    assert settled(4, cat=4, dog=1) == (4, [("dog", 1)])
    assert settled(4, cat=2, dog=2, deer=2) == (2, [])  # `ipc` is of no class
    assert settled(4, cat=1, dog=2, deer=2) == (2, [("cat", 1)])


@given(st.integers(1, 4), st.dictionaries(st.sampled_from(NAMES), st.integers(1, 4)))
def test_settle_ipc__changes_no_number_and_is_done_once(ipc, ipc_of):
    config = Config(ipc=ipc, ipc_of=ipc_of)
    settled = settle_ipc(config, NAMES)
    counts = image_counts(config, NAMES)
    assert image_counts(settled, NAMES) == counts
    assert settle_ipc(settled, NAMES) == settled
    assert settled.ipc in counts.of_class
    assert settled.ipc not in settled.ipc_of.values()


def test_ipc_of_labels__known_answers():
    def entries(*labels):
        return ipc_of_labels(torch.tensor(labels), NAMES)

    assert entries(0, 0, 1, 1, 2, 2) == {"ipc": 2}
    assert entries(0, 1, 2, 2) == {"ipc": 1, "ipc_of": {"deer": 2}}
    assert entries(2, 0, 0) == {"ipc": 2, "ipc_of": {"deer": 1}}  # no image of a dog


def test_uneven_classes__from_ten_times_on():
    assert uneven_classes({"a": 29, "b": 3, "c": 20}) == ""
    assert uneven_classes({"a": 3, "b": 1200, "c": 20}) == (
        "the classes are uneven: 'b' has 1,200 training pictures, 'a' 3"
    )
    assert uneven_classes({"a": 9, "b": 0}) == ""
    assert uneven_classes({"a": 10, "b": 0}) != ""
