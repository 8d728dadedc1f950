"""Selections: as many of each class, none twice, and the pictures that the rule asks for."""

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.data.pictures import DataError
from gvbsm.stages.selection import balanced as balanced_module
from gvbsm.stages.selection import coreset
from gvbsm.stages.selection.balanced import entropy, margin, select_balanced, share_out
from gvbsm.stages.selection.coreset import select_forgetting, select_random

LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1, 1, 0, 0])  # 5 of 0, 4 of 1, 3 of 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(labels, seed, size=3):
    return torch.randn(len(labels), size, generator=generator(seed))


def by_forgetting(features, labels, counts):
    """Forgetting in the form of the others: the first feature is the count of events."""
    return select_forgetting(features[:, 0], labels, counts, generator())


def select_herding(features, *arguments):
    """With features in batches that cut through classes."""
    return coreset.select_herding(torch.split(features, 3), *arguments)


def select_k_center(features, *arguments):
    return coreset.select_k_center(torch.split(features, 3), *arguments)


def balanced(features, *arguments):
    """With the features as logits, too."""
    outputs = [(part, part) for part in torch.split(features, 3)]
    return select_balanced(outputs, *arguments)


BY_FEATURES = [select_herding, select_k_center]


@st.composite
def sets(draw):
    """Features, labels and a number of pictures for each class that it has."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    labels = torch.arange(len(counts)).repeat(max(counts) + draw(st.integers(0, 4)))
    seed = draw(st.integers(0, 10**6))
    labels = labels[torch.randperm(len(labels), generator=generator(seed))]
    features = drawn(labels, seed, size=draw(st.integers(1, 4)))
    if draw(st.booleans()):
        features = features.round()  # many equal ones
    return features, labels, counts


# What holds for all of them


@pytest.mark.parametrize("select", [*BY_FEATURES, balanced, by_forgetting])
@settings(max_examples=40, derandomize=True)
@given(given_set=sets())
def test_right_classes_in_order_and_none_twice(select, given_set):
    features, labels, counts = given_set
    index = select(features, labels, counts)
    expected = [label for label, count in enumerate(counts) for _ in range(count)]
    assert labels[index].tolist() == expected
    assert len(set(index.tolist())) == sum(counts)


@pytest.mark.parametrize("select", [*BY_FEATURES, by_forgetting])
def test_fewer_pictures_are_the_first_of_more(select):
    features = drawn(LABELS, 3)
    three = select(features, LABELS, [3] * 3).view(3, 3)
    for ipc in (1, 2):
        assert torch.equal(select(features, LABELS, [ipc] * 3).view(3, ipc), three[:, :ipc])
    uneven = select(features, LABELS, [3, 1, 2])
    assert torch.equal(uneven, torch.cat([three[0], three[1, :1], three[2, :2]]))


@pytest.mark.parametrize("select", [*BY_FEATURES, by_forgetting])
def test_the_order_of_the_pictures_does_not_matter(select):
    features, order = drawn(LABELS, 5), torch.randperm(12, generator=generator(1))
    chosen = select(features, LABELS, [3] * 3)
    moved = select(features[order], LABELS[order], [3] * 3)
    assert torch.equal(order[moved], chosen)


@pytest.mark.parametrize("select", [*BY_FEATURES, balanced, by_forgetting])
def test_each_class_is_chosen_by_itself(select):
    features = drawn(LABELS, 6)
    other = features.clone()
    other[LABELS == 2] = drawn(LABELS, 7)[LABELS == 2]
    both = [select(of, LABELS, [2] * 3).view(3, 2) for of in (features, other)]
    assert torch.equal(both[0][:2], both[1][:2])


@pytest.mark.parametrize("select", BY_FEATURES)
def test_shifted_turned_and_scaled_features_choose_the_same(select):
    features = drawn(LABELS, 8).double()
    turn = torch.linalg.qr(drawn(torch.zeros(3), 9).double()).Q
    moved = 3 * features @ turn + torch.tensor([100.0, -7.0, 1.0], dtype=torch.float64)
    assert torch.equal(select(moved, LABELS, [3] * 3), select(features, LABELS, [3] * 3))


@pytest.mark.parametrize("select", [*BY_FEATURES, balanced, by_forgetting])
def test_too_few_pictures(select):
    with pytest.raises(DataError, match=r"class 2 has 3 .* its 4 images"):
        select(drawn(LABELS, 0), LABELS, [4] * 3)
    with pytest.raises(DataError, match="class 3 has 0"):
        select(drawn(LABELS, 0), LABELS, [1] * 4)


# Random


@pytest.mark.parametrize("ipc", [1, 2, 3])
def test_balanced_class_by_class_and_without_replacement(ipc):
    for seed in range(20):
        index = select_random(LABELS, [ipc] * 3, generator(seed))
        assert LABELS[index].tolist() == [label for label in range(3) for _ in range(ipc)]
        assert len(set(index.tolist())) == 3 * ipc


def test_reproducible_and_drawn():
    first = select_random(LABELS, [2] * 3, generator())
    torch.manual_seed(9)
    assert torch.equal(select_random(LABELS, [2] * 3, generator()), first)
    seen = [set(select_random(LABELS, [2] * 3, generator(seed)).tolist()) for seed in range(60)]
    assert set().union(*seen) == set(range(12))  # every picture has its chance


def test_every_picture_is_as_likely():
    counts = torch.zeros(12)
    for seed in range(600):
        counts[select_random(LABELS, [1] * 3, generator(seed))] += 1
    for label, members in ((0, 5), (1, 4), (2, 3)):
        share = counts[label == LABELS] / 600
        assert (share - 1 / members).abs().max() < 0.09  # 4 deviations


def test_a_class_of_fewer_pictures_has_the_first_ones():
    index = select_random(LABELS, [1, 3, 2], generator(4))
    assert LABELS[index].tolist() == [0, 1, 1, 1, 2, 2]
    most = select_random(LABELS, [3, 3, 3], generator(4)).view(3, 3)
    assert torch.equal(index, torch.cat([most[0, :1], most[1], most[2, :2]]))


def test_too_few_pictures_to_draw():
    with pytest.raises(DataError, match=r"class 2 has 3 .* its 4 images"):
        select_random(LABELS, [4] * 3, generator())


# Herding


def slow_herding(features, ipc):
    """Algorithm 4 of iCaRL word by word, of one class: all candidate means are formed anew."""
    aim, order = features.mean(dim=0), []
    while len(order) < ipc:
        misses = [
            float("inf") if at in order else float((features[[*order, at]].mean(0) - aim).norm())
            for at in range(len(features))
        ]
        order.append(misses.index(min(misses)))
    return order


def test_herding__known_answer():
    """The mean is 4. First 3 (off by 1); with 3, 6 is best (mean 4.5); with both, 1 (mean 10/3)."""
    features = torch.tensor([[0.0], [3.0], [1.0], [6.0], [10.0]])
    labels = torch.zeros(5, dtype=torch.long)
    assert select_herding(features, labels, [5] * 1).tolist() == [1, 3, 2, 4, 0]


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), size=st.integers(1, 5))
def test_herding__is_the_slow_twin(seed, count, size):
    features, labels = drawn(torch.zeros(count), seed, size), torch.zeros(count, dtype=torch.long)
    expected = slow_herding(features.double(), count)
    found = select_herding(features, labels, [count] * 1).tolist()
    assert found == expected


def test_herding__follows_the_mean_better_than_chance():
    features, labels = drawn(torch.zeros(200), 1, 16), torch.zeros(200, dtype=torch.long)

    def miss(index):
        return float((features[index].mean(dim=0) - features.mean(dim=0)).norm())

    herded = miss(select_herding(features, labels, [10] * 1))
    assert herded < 0.5 * min(
        miss(select_random(labels, [10] * 1, generator(s))) for s in range(20)
    )


# k-center


def slow_k_center(features, ipc):
    """Farthest first, of one class, with a table of all distances."""
    table = torch.cdist(features, features)
    order = [int((features - features.mean(dim=0)).norm(dim=1).argmin())]
    while len(order) < ipc:
        nearest = [min(float(table[at, center]) for center in order) for at in range(len(features))]
        order.append(
            max((at for at in range(len(features)) if at not in order), key=nearest.__getitem__)
        )
    return order


def test_k_center__known_answer():
    """The mean is 3.75, 3.5 nearest to it; 10 is 6.5 from there, 0 3.5, 5 1.5, 1 1 (from 0)."""
    features = torch.tensor([[0.0], [3.0], [1.0], [10.0], [5.0], [3.5]])
    labels = torch.zeros(6, dtype=torch.long)
    assert select_k_center(features, labels, [6] * 1).tolist() == [5, 3, 0, 4, 2, 1]


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), size=st.integers(1, 5))
def test_k_center__is_the_slow_twin(seed, count, size):
    features, labels = drawn(torch.zeros(count), seed, size), torch.zeros(count, dtype=torch.long)
    expected = slow_k_center(features.double(), count)
    assert select_k_center(features, labels, [count] * 1).tolist() == expected


def test_k_center__covers_within_twice_the_best():
    """Checked against all subsets of the class."""
    features = drawn(torch.zeros(12), 2, 2)
    table = torch.cdist(features, features)

    def radius(index):
        return float(table[:, list(index)].min(dim=1).values.max())

    best = min(map(radius, torch.combinations(torch.arange(12), 3).tolist()))
    greedy = radius(select_k_center(features, torch.zeros(12, dtype=torch.long), [3] * 1).tolist())
    assert best <= greedy <= 2 * best


def test_k_center__equal_pictures_are_taken_last():
    features = torch.tensor([[0.0], [0.0], [0.0], [4.0], [-4.0]])
    chosen = select_k_center(features, torch.zeros(5, dtype=torch.long), [5] * 1).tolist()
    assert chosen == [0, 3, 4, 1, 2]


# Forgetting


def test_forgetting__most_events_first():
    events = torch.tensor([1, 5, 0, 2, 9, 0, 3, 7, 8, 1, 6, 0])
    chosen = select_forgetting(events, LABELS, [3] * 3, generator())
    assert chosen.tolist() == [4, 7, 10, 8, 3, 9, 6, 0, 5]


def test_forgetting__equal_counts_are_drawn_and_reproducible():
    events = torch.tensor([0, 2, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1])
    chosen = [select_forgetting(events, LABELS, [2] * 3, generator(seed)) for seed in range(40)]
    assert torch.equal(chosen[3], select_forgetting(events, LABELS, [2] * 3, generator(3)))
    assert {int(index[0]) for index in chosen} == {1}  # forgotten twice
    assert {int(index[1]) for index in chosen} == {4, 7, 10, 11}  # once, as the rest of class 0


# Balanced


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([5, 5], 4, [2, 2]),
        ([8, 1, 1], 5, [4, 1, 0]),  # 4, 0.5 and 0.5: of equal remainders the first cluster's
        ([3, 7], 1, [0, 1]),
        ([2, 9], 11, [2, 9]),
    ],
)
def test_share_out__in_proportion(sizes, count, expected):
    assert share_out(torch.tensor(sizes), count) == expected


def test_share_out__never_more_than_a_cluster_has():
    for seed in range(50):
        sizes = torch.randint(1, 9, (4,), generator=generator(seed))
        for count in range(1, int(sizes.sum()) + 1):
            shares = share_out(sizes, count)
            assert sum(shares) == count
            assert all(0 <= one <= size for one, size in zip(shares, sizes.tolist(), strict=True))
            ideal = [size * count / int(sizes.sum()) for size in sizes.tolist()]
            assert all(abs(one - exact) < 1 for one, exact in zip(shares, ideal, strict=True))


def test_margin__leaves_out_the_highest_entropies():
    entropies = torch.arange(40.0).flip(0)  # picture i has 39 - i
    assert margin(entropies, 2) == [3, 2]  # ranks 36 and 37 of 40
    assert margin(entropies, 6) == [5, 4, 3, 2, 1, 0]
    assert margin(entropies[:3], 2) == [1, 0]
    assert margin(entropies, 0) == []


def test_entropy__known_answers():
    logits = torch.tensor([[0.0, 0.0], [0.0, 200.0], [0.0, math.log(3)]])
    expected = [math.log(2), 0.0, -0.25 * math.log(0.25) - 0.75 * math.log(0.75)]
    assert entropy(logits).tolist() == pytest.approx(expected, rel=1e-6)


def test_balanced__takes_center_and_margin_of_each_cluster():
    """Two far clusters of 21 pictures: in each both the angle and the entropy grow."""
    step = torch.linspace(0.0, 0.2, 21)
    angles = torch.cat([step, 2 + step])
    features = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.linspace(1, 9, 42)[:, None]
    logits = torch.stack([torch.zeros(42), 5 - 20 * torch.cat([step, step])], dim=1)
    chosen = select_balanced([(features, logits)], torch.zeros(42, dtype=torch.long), [4])
    # of each: the one in the middle of the angles, and of the other 20 the 19th by entropy
    assert sorted(chosen.tolist()) == [10, 19, 31, 40]
    labels = torch.zeros(21, dtype=torch.long)
    assert select_balanced([(features[:21], logits[:21])], labels, [1]).tolist() == [10]


def test_balanced__half_as_many_clusters_as_pictures_but_no_more_than_ten(monkeypatch):
    asked, find = [], balanced_module._clusters

    def clusters(features, count):
        asked.append(count)
        return find(features, count)

    monkeypatch.setattr(balanced_module, "_clusters", clusters)
    features = drawn(torch.zeros(60), 4)
    for count in (1, 3, 4, 19, 22, 50):
        chosen = balanced(features, torch.zeros(60, dtype=torch.long), [count])
        assert len(set(chosen.tolist())) == count
    assert asked == [1, 1, 2, 9, 10, 10]


def test_balanced__equal_pictures_are_no_fault(recwarn):
    features = torch.ones(6, 2)
    chosen = select_balanced([(features, features)], torch.zeros(6, dtype=torch.long), [4])
    assert len(set(chosen.tolist())) == 4
    assert not recwarn.list


@pytest.mark.parametrize("choose", [coreset.select_herding, coreset.select_k_center])
def test_features_of_a_class_are_let_go_once_it_is_whole(choose):
    """Of classes in order, at most the batches of the one at hand are alive."""
    alive = []

    def batches():
        for number in range(12):
            batch = drawn(torch.zeros(2), number)
            alive.append(weakref.ref(batch))
            assert sum(ref() is not None for ref in alive) <= 2
            yield batch
            del batch

    labels = torch.arange(4).repeat_interleave(6)
    assert choose(batches(), labels, [2] * 4).shape == (8,)
