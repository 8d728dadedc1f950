"""The benchmarks' clock: what counts in a race, and when it ends."""

from itertools import count

import pytest
import torch

from timing import WARMUP, Cost, Limits, Ratio, limited, race, repeated

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Call it with a name and seconds for a piece of work that takes them in turn, and its record.

    A second of CPU time lasts two of wall time.
    """
    now, done = [100.0], []
    monkeypatch.setattr("time.process_time", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: 2 * now[0])

    def work(name, *seconds):
        left = iter(seconds)

        def run():
            done.append(name)
            now[0] += next(left)

        return run

    work.done = done
    return work


def test_race__divides_a_step_by_the_bare_steps_around_it(clock):
    """The first steps, in which all is loaded, do not count, but the bare step behind them does."""
    full = clock("full", *[90.0] * WARMUP, 3.0, 6.0, 8.0)
    bare = clock("bare", *[50.0] * (WARMUP - 1), 1.0, 2.0, 4.0, 4.0)
    pair = race(repeated(full), bare, 1, Limits(rounds=3, seconds=0.0), CPU)
    assert pair.cpu == pair.wall == Ratio(median=2.0, low=2.0, high=2.0)
    assert pair.full == Cost(cpu=6.0, wall=12.0)
    assert pair.bare == Cost(cpu=4.0, wall=8.0)
    assert pair.rounds == 3


def test_race__quartiles_of_the_ratios(clock):
    full = clock("full", *[1.0] * WARMUP, 1.0, 2.0, 3.0, 4.0, 50.0)
    bare = clock("bare", *[1.0] * (WARMUP + 5))
    pair = race(repeated(full), bare, 1, Limits(rounds=5, seconds=0.0), CPU)
    assert pair.cpu == Ratio(median=3.0, low=2.0, high=4.0)


def test_race__spreads_what_is_done_for_several_steps(clock):
    """Every third step prepares the two behind it; of the periods the first does not count."""
    full = clock("full", *[9.0] * 3, 7.0, 1.0, 1.0, 12.0, 0.0, 0.0)
    bare = clock("bare", *[5.0] * 2, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0)
    pair = race(repeated(full), bare, 3, Limits(rounds=2, seconds=0.0), CPU)
    assert pair.cpu == Ratio(median=3.0, low=3.0, high=3.0)
    assert pair.full == Cost(cpu=3.5, wall=7.0)
    assert pair.rounds == 2


def test_race__takes_turns(clock):
    works = (clock("full", *[1.0] * 9), clock("bare", *[1.0] * 9))
    race(repeated(works[0]), works[1], 1, Limits(rounds=4, seconds=0.0), CPU)
    assert clock.done == ["full", "bare"] * (WARMUP + 4)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 2), (13.0, 5), (1e9, 16)])
def test_race__goes_on_until_its_time_is_over_within_bounds(clock, seconds, rounds):
    """A round takes two seconds of wall time; the first two rounds do not count."""
    full, bare = clock("full", *[0.5] * 99), clock("bare", *[0.5] * 99)
    assert race(repeated(full), bare, 1, Limits(rounds=2, seconds=seconds), CPU).rounds == rounds


def test_race__steps_that_end_early_are_an_error(clock):
    with pytest.raises(RuntimeError, match="ended before"):
        race(lambda after: after(), clock("bare", 1.0), 1, Limits(rounds=2, seconds=0.0), CPU)


def test_limited__does_so_many_steps_and_calls_after_each():
    numbers, calls = count(), []
    limited(repeated(lambda: next(numbers)), 3, lambda: calls.append("after"))
    assert next(numbers) == len(calls) == 3
    with pytest.raises(RuntimeError, match="ended before"):
        limited(lambda after: after(), 2)
