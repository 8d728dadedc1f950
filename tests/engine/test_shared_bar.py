"""The progress of a loop that several processes share."""

from collections import Counter

import pytest

from gvbsm.engine.progress import bars
from gvbsm.engine.progress.activity import PartShare
from gvbsm.engine.progress.shared import SECONDS, SharedBar, SharedParts
from support.clock import Clock


@pytest.fixture
def team():
    """Two shared bars of 100 steps, what process 0 shows, and their clock."""
    numbers, clock = Counter(), Clock()

    def add(name, count):
        numbers[name] += count
        return numbers[name]

    shown = [bars.begin(100, "labels", "batch", quiet=True) for _ in range(2)]
    yield [SharedBar(bar, add, lambda _: None, clock) for bar in shown], shown[0], clock
    for bar in reversed(shown):
        bar.close()


def test_the_first_bar_shows_the_steps_of_both(team):
    (first, other), shown, clock = team
    other.update(30)
    first.update(2)
    assert shown.n == 0  # the processes talk now and then alone
    clock.now += SECONDS
    other.update(5)
    first.update(1)
    assert shown.n == 38
    assert (first.n, other.n) == (3, 35)


def test_skipped_steps_are_counted_apart(team):
    (first, other), shown, clock = team
    skipped, update = [], shown.skip
    shown.skip = lambda count: (skipped.append(count), update(count))
    clock.now += SECONDS
    other.skip(40)
    first.update(1)
    assert (skipped, shown.n) == ([40], 41)


def test_steps_that_are_taken_back_leave_those_of_the_other(team):
    (first, other), shown, clock = team
    clock.now += SECONDS
    other.update(10)
    first.update(20)
    clock.now += SECONDS
    first.update(-20)
    assert (shown.n, first.n) == (10, 0)


def test_the_end_of_the_block_tells_all_steps(team):
    (first, other), shown, _ = team
    with other:
        other.update(60)
    with first:
        first.update(40)
    assert shown.n == 100


def test_the_first_bar_shows_the_steps_of_the_other_while_it_waits(team):
    (first, other), shown, clock = team
    seen = []

    def barrier(meanwhile):
        for _ in range(3):
            clock.now += SECONDS
            other.update(10)
            meanwhile()
            seen.append(shown.n)

    first._barrier = barrier
    with first, other:
        pass
    assert seen == [10, 20, 30]


def test_the_block_waits_for_the_others_unless_it_fails():
    calls = []
    bar = bars.begin(1, "labels", "batch", quiet=True)
    shared = SharedBar(bar, lambda *_: calls.append("add") or 0, lambda _: calls.append("barrier"))
    with pytest.raises(KeyError), shared:
        raise KeyError
    assert calls == []
    with shared:
        pass
    assert calls == ["add", "add", "barrier", "add", "add"]


def test_parts__the_share_published_last_is_read():
    numbers = Counter()

    def add(name, count):
        numbers[name] += count
        return numbers[name]

    first, other = SharedParts(add), SharedParts(add)
    other.publish("squeeze/b", PartShare(0.5))
    other.publish("squeeze/b", PartShare(0.25, 0.125))  # its next loop
    assert first.read(["squeeze/a", "squeeze/b"]) == {
        "squeeze/a": (0, 0),
        "squeeze/b": (0.25, 0.125),
    }
    first.publish("squeeze/b", PartShare(1.0))  # they share this part
    assert first.read(["squeeze/b"]) == {"squeeze/b": (1.0, 0.125)}
