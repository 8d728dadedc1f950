"""What a run says while it works: bars, log lines, the share of the whole, formats."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import tqdm.notebook

from gvbsm.engine.progress import activity, bars
from gvbsm.engine.progress import log as log_module
from gvbsm.engine.progress.activity import ACTIVITY, PartShare, Schedule
from gvbsm.engine.progress.log import EARLY, JsonFormat, Screen, TextFormat, start_log
from gvbsm.engine.progress.spelling import spell_count, spell_duration
from support.clock import Clock


@pytest.fixture
def clock():
    return Clock()


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def work(clock, steps, seconds, done=0, **options):
    """A loop of steps that take some seconds each."""
    options = {"total": done + steps, "desc": "squeeze resnet18", "unit": "step", **options}
    with bars.Lines(clock, **options) as bar:
        bar.skip(done)
        for _ in range(steps):
            clock.now += seconds
            bar.update()


def test_a_loop_of_less_than_ten_seconds_logs_nothing(clock, caplog):
    with caplog.at_level(logging.INFO, "gvbsm"):
        work(clock, steps=90, seconds=0.1)
    assert lines(caplog) == []


def test_a_long_loop_logs_after_ten_seconds_and_then_once_a_minute(clock, caplog):
    with caplog.at_level(logging.INFO, "gvbsm"):
        work(clock, steps=1200, seconds=0.125)
    told = lines(caplog)
    assert len(told) == 3  # after 10, 70 and 130 of 150 seconds
    assert told[0] == "squeeze resnet18: 80 of 1,200 steps in 10 s, 8 steps/s, 2 min 20 s left"
    assert told[2].endswith("1,040 of 1,200 steps in 2 min 10 s, 8 steps/s, 20 s left")
    facts = caplog.records[0].progress
    assert (facts["part"], facts["done"], facts["total"]) == ("squeeze resnet18", 80, 1200)
    assert facts["seconds_left"] == pytest.approx(140)


def test_steps_of_an_earlier_run_do_not_count_as_fast_ones(clock, caplog):
    with caplog.at_level(logging.INFO, "gvbsm"):
        work(clock, steps=100, seconds=12.5, done=800)
    assert lines(caplog)[0] == (
        "squeeze resnet18: 803 of 900 steps in 38 s, 12 s a step, 20 min left"
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(2.5, "2.5 s an item"), (61, "1 min 1 s an item"), (1234, "21 min an item")],
)
def test_the_log_has_the_duration_of_a_slow_step(seconds, expected, clock, caplog):
    with caplog.at_level(logging.INFO, "gvbsm"):
        work(clock, steps=6, seconds=seconds, unit="item")
    assert f", {expected}, " in lines(caplog)[0]


def test_a_first_step_that_compiles_tells_no_time(clock, caplog):
    with caplog.at_level(logging.INFO, "gvbsm"), bars.Lines(clock, total=500, desc="s") as bar:
        for seconds in (25, *[0.5] * 30):
            clock.now += seconds
            bar.update()
    assert lines(caplog)
    assert not lines(caplog)[0].startswith("s: 1 of")


def test_one_slow_step_of_many_says_nothing_about_the_time_left(clock, caplog):
    options = {"total": 500, "desc": "s", "unit": "step"}
    with caplog.at_level(logging.INFO, "gvbsm"), bars.Lines(clock, **options) as bar:
        for seconds in (85, *[0.5] * 120):
            clock.now += seconds
            bar.update()
    assert lines(caplog)[0] == "s: 1 of 500 steps in 1 min 25 s"
    assert caplog.records[0].progress["seconds_left"] is None
    assert lines(caplog)[1].endswith(" left")


def test_slow_steps_are_told_after_a_minute(clock, caplog):
    with caplog.at_level(logging.INFO, "gvbsm"):
        work(clock, steps=2, seconds=61)
    assert lines(caplog)[0].startswith("squeeze resnet18: 1 of 2 steps in 1 min 1 s")


def test_lines_name_the_part_and_the_share_of_the_whole(clock, caplog, monkeypatch):
    monkeypatch.setattr(bars, "FEWEST_STEPS", 1)
    finished = set()
    planned = {"start-up": 0.0, "squeeze/a": 100.0, "squeeze/b": 300.0}
    monkeypatch.setattr(ACTIVITY, "schedule", Schedule(planned, lambda: finished, clock=clock))
    with caplog.at_level(logging.INFO, "gvbsm"), ACTIVITY.part("squeeze/a", "teacher 1 of 2"):
        work(clock, steps=2, seconds=50.0)
    start = "squeeze resnet18 (teacher 1 of 2): 1 of 2 steps in 50 s, 50 s a step, 50 s left; "
    assert lines(caplog) == [start + "the run: 12 % done, 5 min 50 s left"]
    assert ACTIVITY.title == ""
    finished.add("squeeze/a")
    clock.now += 130  # the first part took 230 seconds instead of 100
    run = ACTIVITY.run_progress()
    assert run.share == pytest.approx(0.25)
    assert run.seconds_left == pytest.approx(300 * (230 + 30) / (100 + 30))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_work_of_an_earlier_run_says_nothing_about_the_speed(elsewhere, clock):
    finished, planned = set(), {"squeeze/a": 1000.0, "squeeze/b": 1000.0}
    others = {"squeeze/a": PartShare(0.6, resumed=0.5)} if elsewhere else {}
    schedule = Schedule(planned, lambda: finished, lambda: others, clock)
    clock.now += 200  # the tenth of the part took 200 seconds instead of 100
    run = schedule.progress({} if elsewhere else {"squeeze/a": PartShare(0.6, resumed=0.5)})
    assert run == (pytest.approx(0.3), pytest.approx(1400 * (200 + 30) / (100 + 30)))
    finished.add("squeeze/a")
    clock.now += 800
    run = schedule.progress({})
    assert run == (pytest.approx(0.5), pytest.approx(1000 * (1000 + 30) / (500 + 30)))


def test_the_part_at_work_knows_what_an_earlier_run_has_done():
    for quiet in (False, True):
        with ACTIVITY.part("labels"), bars.begin(8, "labels", "epoch", quiet) as bar:
            bar.skip(4)
            bar.update(2)
            assert ACTIVITY._running() == {"labels": (0.75, 0.5)}


def test_parts_of_other_processes_count_by_the_share_that_is_done(clock):
    finished, others = set(), {"squeeze/b": PartShare(0.5)}
    planned = {"squeeze/a": 100.0, "squeeze/b": 300.0}
    schedule = Schedule(planned, lambda: finished, lambda: others, clock)
    assert schedule.progress({"squeeze/a": PartShare(0.25)}).share == pytest.approx(
        (25 + 150) / 400
    )
    others["squeeze/a"] = PartShare(0.9)  # what this process knows of its own part is newer
    clock.now += 5
    assert schedule.progress({"squeeze/a": PartShare(0.5)}).share == pytest.approx((50 + 150) / 400)
    finished.add("squeeze/b")
    clock.now += 5
    assert schedule.progress({"squeeze/a": PartShare(0.5)}).share == pytest.approx((50 + 300) / 400)


def test_a_hidden_loop_publishes_the_share_of_its_part_every_few_seconds(clock, monkeypatch):
    published = []
    monkeypatch.setattr(activity.time, "monotonic", clock)
    monkeypatch.setattr(ACTIVITY, "_published_at", clock())
    monkeypatch.setattr(ACTIVITY, "publish", lambda *part: published.append(part))
    with ACTIVITY.part("squeeze/b"), bars.begin(8, "squeeze", "step", quiet=True) as bar:
        bar.update()
        clock.now += 5
        bar.update()
        bar.update()
        clock.now += 5
        bar.update(2)
    assert published == [("squeeze/b", PartShare(0.25)), ("squeeze/b", PartShare(0.625))]


def test_quiet_loops_count_on_for_those_who_stop_them(capsys):
    with bars.begin(5, "labels", "batch", quiet=True) as bar:
        bar.skip(1)
        bar.update()
        assert (ACTIVITY.loop.n, ACTIVITY.loop.total, ACTIVITY.loop.desc) == (2, 5, "labels")
    assert ACTIVITY.loop is None
    with bars.begin(None, "x", "item", True, [1, 2]) as bar:
        assert [(item, bar.n) for item in bar] == [(1, 0), (2, 1)]
    assert (bar.n, bar.total) == (2, 2)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_without_widgets_gets_lines_and_no_warning(monkeypatch, recwarn):
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr(bars, "find_spec", lambda name: None)
    with bars.begin(5, "labels", "batch", quiet=False) as bar:
        assert isinstance(bar, bars.Lines)
    assert not recwarn.list


@pytest.fixture
def notebook(monkeypatch):
    """The kernel of a notebook whose widgets are stand-ins; what replaces each bar."""
    replaced = []

    class Shown:
        def update(self, content, raw):
            replaced.append((content, raw))

    def widgets(*_):
        style = SimpleNamespace(bar_color=None)
        parts = [SimpleNamespace(value=0, bar_style="", style=style) for _ in range(3)]
        layout = SimpleNamespace(visibility="")
        return SimpleNamespace(children=parts, layout=layout, close=lambda: None)

    ipython, own = ModuleType("IPython.display"), "gvbsm.engine.progress.notebook"
    ipython.display = lambda _widgets, display_id: Shown()
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    monkeypatch.setitem(sys.modules, own, None)  # restored to what it was
    del sys.modules[own]
    for module in (bars, log_module):
        monkeypatch.setattr(module, "has_notebook_bars", lambda: True)
    monkeypatch.setattr(tqdm.notebook.tqdm_notebook, "status_printer", staticmethod(widgets))
    return replaced


def test_a_full_bar_of_a_notebook_leaves_nothing(notebook):
    with bars.begin(3, "labels", "batch", quiet=False) as bar:
        bar.update(3)
        assert notebook == []
    assert notebook == [({"text/html": ""}, True)]


def test_a_stopped_bar_of_a_notebook_stays(notebook):
    with bars.begin(3, "labels", "batch", quiet=False) as bar:
        bar.update(2)
    assert notebook == []


def test_a_notebook_gets_lines_without_times_on_its_output(notebook):
    screen = Screen("text")
    assert screen.stream is sys.stdout
    assert screen.formatter is None
    assert isinstance(Screen("json").formatter, JsonFormat)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.04, "0 s"),
        (0.44, "0.4 s"),
        (8.0, "8 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (95, "1 min 35 s"),
        (450, "7 min 30 s"),
        (599.6, "10 min"),
        (2551, "43 min"),
        (3599, "1 h"),
        (11_129, "3 h 5 min"),
        (86_380, "1 d"),
        (187_200, "2 d 4 h"),
        (300_000, "3 d 11 h"),
    ],
)
def test_durations_have_two_or_three_digits_in_at_most_two_units(seconds, text):
    assert spell_duration(seconds) == text


def test_one_is_singular():
    texts = [spell_count(number, unit) for number in (0, 1, 1200) for unit in ("epoch", "batch")]
    assert texts == ["0 epochs", "0 batches", "1 epoch", "1 batch", "1,200 epochs", "1,200 batches"]


def record(**more):
    return logging.makeLogRecord(
        {"msg": "a %s", "args": ("line",), "levelname": "INFO", "created": 0.0, **more}
    )


def test_formats(monkeypatch):
    stamp, _, message = TextFormat().format(record()).partition(" ")
    assert message == "a line"
    entry = json.loads(JsonFormat().format(record(progress={"part": "labels", "done": 3})))
    assert entry == {
        "time": stamp,
        "level": "info",
        "message": "a line",
        "part": "labels",
        "done": 3,
    }


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_no_progress_lines_and_no_times(terminal, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    screen = Screen("text")
    screen.handle(record())
    screen.handle(record(progress={}))
    told = capsys.readouterr().err
    if terminal:
        assert told == "a line\n"
    else:
        assert told == f"{TextFormat().format(record())}\n" * 2


def test_starting_the_log_twice_keeps_early_lines_once(monkeypatch):
    log = logging.getLogger("gvbsm")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "level", log.level)
    monkeypatch.setattr(EARLY, "buffer", [])
    start_log(quiet=False)
    start_log(quiet=False)
    log.info("early")
    assert [line.getMessage() for line in EARLY.buffer] == ["early"]
