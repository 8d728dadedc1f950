"""What a run costs beforehand: arithmetic with costs that are made up."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from gvbsm.backbones.cost import weight_bytes
from gvbsm.config.build import build_config
from gvbsm.engine.machine import limits
from gvbsm.pipeline.evaluated_sets import evaluated_sets
from gvbsm.pipeline.planning.estimate import ALONE, REPORT_SECONDS, START_SECONDS, plan_run
from gvbsm.pipeline.planning.plan import Plan, PlannedPart
from gvbsm.pipeline.planning.process_plan import ProcessPlan

A, B, STUDENT = "wrn10_1", "convnet8_d1", "convnet8_d2"
BASE = {
    "ipc": 3,
    "squeeze": {"backbones": [A, B], "epochs": 5, "batch_size": 10, "tests": 2},
    "synthesis": {"iterations": 1000, "batch_size": 4},
    "labels": {"epochs": 20, "batch_size": 2, "full_batch_up_to": 0},
    "evaluation": {"students": [STUDENT], "seeds": 2, "batch_size": 3, "tests": 1},
    "baselines": {"methods": []},
}
DATA = SimpleNamespace(
    train=range(50), test=range(8), class_names=("x", "y"), channels=3, image_size=8
)
CONSTANT = START_SECONDS + REPORT_SECONDS


def nothing(_work):
    return 0.0


def only(task, seconds=1.0):
    """Costs of one kind of work alone."""
    return lambda work: seconds if work.task == task else 0.0


def planned(costs, processes=ALONE, made=(), data=DATA, **settings):
    config = build_config({**BASE, **settings})
    return plan_run(config, list(evaluated_sets(config, Path())), data, costs, processes, made)


def seconds_by_key(plan):
    return {part.key: part.seconds for part in plan.parts if part.seconds and "/" in part.key}


def test_plan__counts_the_pictures_of_every_part():
    assert seconds_by_key(planned(only("training"))) == {
        f"squeeze/{A}": 5 * 50,
        f"squeeze/{B}": 5 * 50,
        f"evaluation/gvbsm/{STUDENT}/0": 6 * 20,
        f"evaluation/gvbsm/{STUDENT}/1": 6 * 20,
    }
    assert seconds_by_key(planned(only("testing"))) == {
        f"squeeze/{A}": 2 * 8,
        f"squeeze/{B}": 2 * 8,
        f"evaluation/gvbsm/{STUDENT}/0": 8,
        f"evaluation/gvbsm/{STUDENT}/1": 8,
    }
    assert seconds_by_key(planned(only("pixels"))) == {"synthesis/gvbsm": 6 * 1000}
    assert seconds_by_key(planned(only("labeling"))) == {"labels/gvbsm": 2 * 6 * 20}
    assert planned(only("recording")).seconds_of("statistics") == 2 * 50
    assert planned(only("real views")).seconds_of("statistics") == 50  # once for all teachers


def test_plan__asks_for_the_cost_at_the_batches_of_the_run():
    batches = set()
    planned(lambda work: batches.add((work.task, work.network, work.batch)) or 1.0)
    assert {
        ("training", A, 10),
        ("training", STUDENT, 3),
        ("pixels", B, 4),
        ("labeling", A, 2),
        ("recording", A, 256),
        ("set batches", "", 3),
    } <= batches


def test_plan__asks_for_the_cost_at_a_batch_of_all_images_if_they_are_fewer():
    batches = set()
    planned(
        lambda work: batches.add((work.task, work.network, work.batch)) or 1.0,
        labels={**BASE["labels"], "batch_size": 25},
        evaluation={**BASE["evaluation"], "batch_size": 25},
    )
    images = 6
    assert {("training", STUDENT, images), ("set batches", "", images)} <= batches
    assert {("labeling", A, images), ("label store", "", images)} <= batches


def test_plan__logs_the_terms_of_few_iterations():
    def costs(work):
        return float(dict(work.settings).get("logged", False))

    assert planned(costs).seconds_of("synthesis/gvbsm") == pytest.approx(6 * 110)
    short = planned(costs, synthesis={"iterations": 50}).seconds_of("synthesis/gvbsm")
    assert short == 6 * 50
    long = planned(costs, synthesis={"iterations": 4000}).seconds_of("synthesis/gvbsm")
    assert long == 0  # too few to be timed


def test_plan__of_labels_that_are_not_stored_adds_them_to_the_students():
    labels = {**BASE["labels"], "store": False, "batch_size": 3}
    plan = planned(only("labeling"), labels=labels)
    assert seconds_by_key(plan) == {
        f"evaluation/gvbsm/{STUDENT}/{seed}": 2 * 6 * 20 for seed in range(2)
    }


def test_plan__adds_the_filters_of_a_curriculum():
    """4 images of a class, 2 of them distilled: filters see sets of 4, and then of 6 images."""
    methods = ["forgetting-soft", "curriculum-soft", "curriculum-hard"]
    settings = {
        "ipc": 4,
        "coreset": {"distilled_share": 0.5, "curricula": 2},
        "baselines": {"methods": methods},
        "labels": {**BASE["labels"], "batch_size": 3},
    }
    key = "synthesis/curriculum-soft"
    plan = planned(only("training"), **settings)
    assert plan.seconds_of(key) == (4 + 6) * 20
    assert plan.seconds_of("synthesis/forgetting-soft") == 5 * 50  # counted there alone
    assert planned(only("labeling"), **settings).seconds_of(key) == 2 * (4 + 6) * 20
    # The teacher sees the pictures once, each filter once; it is tested as a student is, too.
    assert planned(only("testing"), **settings).seconds_of(key) == 50 + 2 * 50 + 8 * (4 + 6) / 8


def test_plan__adds_baselines():
    methods = ["random-hard", "random-soft", "forgetting-hard", "herding-soft", "full", "teacher"]
    baselines = {"methods": methods, "draws": 2, "full_epochs": 7}
    plan = planned(only("training"), baselines=baselines)
    assert plan.seconds_of(f"full/{STUDENT}/1") == 7 * 50
    assert plan.seconds_of(f"evaluation/random-hard/{STUDENT}/1") == 6 * 20
    assert plan.seconds_of("forgetting") == plan.seconds_of("synthesis/forgetting-hard") == 5 * 50
    forgetting = 5 * 50  # within the selection: counted once
    trained = 2 * 5 * 50 + 5 * 2 * 6 * 20 + 2 * 7 * 50
    assert plan.seconds == pytest.approx(CONSTANT + trained + forgetting)
    tested = planned(only("testing"), baselines=baselines)
    assert tested.seconds_of(f"full/{STUDENT}/0") == 8  # tested as a student, not as a teacher
    assert tested.seconds_of("synthesis/herding-soft") == 50
    keys = [part.key for part in plan.parts]
    assert {"labels/random-soft", "labels/random-1"} < set(keys)
    assert "synthesis/random-soft" not in keys  # it has the pictures of random-hard


CORRUPTED = {"kinds": ["fog", "snow"], "severities": [1, 5, 3], "pictures": 6}


def with_corruptions(costs, methods, **corruptions):
    evaluation = {**BASE["evaluation"], "corruptions": CORRUPTED | corruptions}
    return planned(costs, evaluation=evaluation, baselines={"methods": methods})


def test_plan__counts_copies_of_test_pictures_and_the_tests_on_them():
    copies = with_corruptions(only("corrupting"), ["teacher", "full"])
    assert seconds_by_key(copies) == {"corruptions/fog": 3 * 6, "corruptions/snow": 3 * 6}
    nbytes = {part.key: part.nbytes for part in copies.parts}
    assert nbytes["corruptions/fog"] == 3 * 6 * 3 * 8 * 8
    # 2 kinds at 3 severities, and the 6 pictures as they are
    more = 7 * 6
    tested = with_corruptions(only("testing"), ["teacher", "full"])
    plain = planned(only("testing"), baselines={"methods": ["teacher", "full"]})
    for key in (f"evaluation/gvbsm/{STUDENT}/1", f"full/{STUDENT}/0"):
        assert tested.seconds_of(key) == plain.seconds_of(key) + more
    assert tested.seconds_of(f"squeeze/{A}") == plain.seconds_of(f"squeeze/{A}")
    assert tested.seconds_of(f"corruptions/teacher/{A}") == 8 + more
    assert all(
        "teacher" not in key for key in seconds_by_key(with_corruptions(only("testing"), []))
    )


def test_plan__of_few_test_pictures_and_of_copies_that_are_there():
    few = with_corruptions(only("corrupting"), [], pictures=1000)
    assert few.seconds_of("corruptions/fog") == 3 * 8
    read = with_corruptions(only("corrupting"), ["teacher"], folder="CIFAR-10-C")
    assert (seconds_by_key(read), read.seconds) == ({}, CONSTANT)
    keys = {part.key for part in read.parts if part.key.startswith("corruptions")}
    assert keys == {f"corruptions/teacher/{name}" for name in (A, B)}


def test_plan__of_several_processes_deals_networks_and_shares_images():
    processes = ProcessPlan(2)
    plan = planned(only("training"), processes)
    assert plan.seconds == pytest.approx(CONSTANT + 5 * 50 + 6 * 20)
    assert plan.seconds_of(f"squeeze/{A}") == 5 * 50
    assert sum(part.wall_seconds for part in plan.parts if part.group == "teachers") == 5 * 50
    # three groups of at most two, four and four images: the last round has one process
    assert planned(only("pixels"), ProcessPlan(2), ipc=5).seconds_of(
        "synthesis/gvbsm"
    ) == pytest.approx(10 * 1000 * 2 / 3)


def test_plan__gives_all_cores_to_the_teachers_that_are_needed():
    needed = {"synthesis": {**BASE["synthesis"], "backbones": [A]}, "labels": {"backbones": [A]}}
    plan = planned(
        only("training"), ProcessPlan(4, shares_cores=True), **needed, baselines={"methods": []}
    )
    assert plan.seconds_of(f"squeeze/{A}") == pytest.approx(5 * 50 / 4**0.7)


def test_processes__give_the_cores_of_idle_processes_to_the_others():
    assert ProcessPlan(4, shares_cores=True).shared(8.0, 1) == pytest.approx(8 / 4**0.7)
    assert ProcessPlan(4).shared(8.0, 1) == 8
    assert ProcessPlan(4, shares_cores=True).shared(8.0, 4) == 2
    assert ProcessPlan(2).dealt([5.0, 1.0, 1.0, 1.0]) == 5
    assert ProcessPlan(2).shared(8.0, 0) == 0


def test_plan__counts_what_is_made_in_words():
    teacher = {"backbones": [A], "epochs": 1, "batch_size": 10, "tests": 2}
    plan = planned(nothing, squeeze=teacher, baselines={"methods": ["random-hard"]})
    what = {part.key: part.what for part in plan.parts}
    assert what[f"squeeze/{A}"] == f"{A}, 1 epoch"
    assert what["statistics"] == "of 1 teacher"
    assert what["synthesis/gvbsm"] == "6 images, 1,000 iterations"
    assert what["synthesis/random-hard"] == "6 real pictures of random-hard"
    assert what["labels/gvbsm"] == "20 epochs of 6 images"


def test_processes_take_threads_only_where_they_share_the_cores(monkeypatch):
    monkeypatch.setattr(limits, "usable_cores", lambda: 8)
    assert ProcessPlan(3, shares_cores=True).threads == 2
    assert ProcessPlan(3).threads is None


def test_plan__counts_nothing_for_what_is_made():
    made = {f"squeeze/{A}", "statistics", "labels/gvbsm"}
    plan, whole = planned(lambda _: 1.0, made=made), planned(lambda _: 1.0)
    assert {part.key for part in plan.parts if part.is_made} == made
    assert plan.seconds == whole.seconds - sum(map(whole.seconds_of, made))
    assert plan.nbytes == whole.nbytes


def test_plan__counts_bytes():
    plan = planned(nothing)
    nbytes = {part.key: part.nbytes for part in plan.parts}
    assert nbytes[f"squeeze/{A}"] == weight_bytes(A, 2, 8, 3) > 10_000
    assert nbytes["synthesis/gvbsm"] == 6 * 192 + 2 * 12 * 192
    assert 6 * 20 * 4 < nbytes["labels/gvbsm"] < 6 * 20 * 40  # two logits of two bytes, and a view
    assert plan.nbytes == sum(nbytes.values())


def test_plan__counts_the_bytes_of_sets_that_are_copied_and_no_time():
    plan = planned(lambda _: 1.0, baselines={"methods": [], "sets": {"dm": "dm.npz"}})
    part = next(part for part in plan.parts if part.key == "synthesis/dm")
    assert (part.what, part.group) == ("6 copied images of dm", "baselines")
    assert (part.nbytes, part.seconds, part.wall_seconds, part.memory) == (6 * 192, 0, 0, None)


def test_plan__asks_for_the_memory_of_the_works_of_each_part():
    """A step of the network takes 100 bytes, each other work 1."""
    sizes = {"training": 100}
    config = build_config({**BASE, "baselines": {"methods": ["random-hard"]}})
    sets, made = list(evaluated_sets(config, Path())), (f"squeeze/{A}",)
    plan = plan_run(
        config,
        sets,
        DATA,
        nothing,
        made=made,
        memory=lambda works: sum(sizes.get(work.task, 1) for work in works),
    )
    memory = {part.key: part.memory for part in plan.parts}
    assert memory[f"squeeze/{A}"] is None
    # a step, views, and two works of a test
    assert memory[f"squeeze/{B}"] == memory[f"evaluation/gvbsm/{STUDENT}/0"] == 100 + 1 + 2
    assert memory["statistics"] == 1 + 2  # views, and two networks
    assert memory["start-up"] is memory["synthesis/random-hard"] is None
    assert plan.memory == plan.to_dict()["memory"] == 103
    assert planned(nothing).memory is None


def test_plan__of_late_starts_and_of_stages():
    late = {**BASE["synthesis"], "rounds": 2, "init": "real"}
    assert (
        planned(only("pixels"), synthesis=late, ipc=4).seconds_of("synthesis/gvbsm")
        == 8 * 1000 * 3 / 4
    )
    sides = []
    stages = {"stages": 2, "stage_sizes": [4, 8], "weight_conv": 0.0}
    planned(
        lambda work: sides.append((work.task, work.side)) or 0.0,
        synthesis={**BASE["synthesis"], **stages},
    )
    assert {side for task, side in sides if task == "pixels"} == {4, 8}


def test_plan__measures_the_difficulty_of_pictures_once_and_by_one_process():
    grouped = {**BASE["synthesis"], "loop": "original", "difficulty_groups": True}
    start = {**BASE["synthesis"], "init": "group_back"}
    baselines = {"methods": ["sre2l"]}  # which has the same start
    found = {}
    for name, synthesis in (("groups", grouped), ("start", start), ("both", grouped | start)):
        plan = planned(only("recording"), ProcessPlan(2), synthesis=synthesis, baselines=baselines)
        keys = ("statistics", "synthesis/gvbsm", "synthesis/sre2l")
        found[name] = [*map(plan.seconds_of, keys)]
    passed, measured = 2 * 50, 2 * 50  # the pass of the statistics has one chunk
    assert found == {
        "groups": [passed + measured, 0, 0],
        "start": [passed, measured, 0],
        "both": [passed + measured, 0, 0],
    }


def test_plan__of_retrieval_reads_pools_in_each_process_and_compares_images_at_borders():
    stages = {"init": "real", "stages": 3, "residual": 0.5, "residual_source": "nearest"}
    for processes, count in ((ALONE, 1), (ProcessPlan(2), 2)):
        plan = planned(
            only("testing"), processes, synthesis={**BASE["synthesis"], "batch_size": 1, **stages}
        )
        compared = 2 * 2 * 6  # images and starts, at two borders
        assert plan.seconds_of("synthesis/gvbsm") == 50 + compared / count
    large = SimpleNamespace(**{**vars(DATA), "train": range(5000)})
    plan = planned(only("testing"), data=large, synthesis={**BASE["synthesis"], **stages})
    assert plan.seconds_of("synthesis/gvbsm") == 2 * 300 + compared


def test_plan__in_one_line_and_as_json():
    parts = (
        PlannedPart("squeeze/a", "teachers", "a, 5 epochs", 60.0, 60.0, 100),
        PlannedPart("labels/gvbsm", "labels", "", 0.5, 0.5, 10),
        PlannedPart("evaluation/gvbsm/s/0", "students", "", 240.0, 120.0),
    )
    plan, now = Plan(parts, 2), datetime(2026, 1, 31, 23, 59)
    line = "3 min: teachers 1 min, students 2 min; done at 00:02 tomorrow"
    assert plan.summary(now) == line
    assert plan.seconds_of("evaluation/gvbsm/s/0") == 240
    assert plan.seconds_of("nothing") == 0
    assert plan.to_dict()["bytes"] == 110
    assert plan.to_dict()["parts"][0]["key"] == "squeeze/a"
    longer = Plan((replace(parts[0], wall_seconds=3e5),)).summary(now)
    assert longer == "3 d 11 h: teachers 3 d 11 h; done at 11:19 in 4 days"


def test_plan__adds_up_the_parts_of_one_key():
    draws = [PlannedPart("synthesis/random-soft", "baselines", "", s, s) for s in (1.0, 2.0)]
    assert Plan(tuple(draws)).wall_seconds == {"synthesis/random-soft": 3.0}


def test_plan__with_trials_of_compiling_before_all_else():
    plan = planned(nothing)
    tried = plan.with_trials({A: 20.0, B: 50.0})
    assert tried.seconds == plan.seconds + 70
    assert tried.parts[1:] == plan.parts
    assert (tried.parts[0].key, tried.parts[0].what) == (
        "compiling",
        f"trial of compiling {A}, {B}",
    )
    assert plan.with_trials({}) == plan
