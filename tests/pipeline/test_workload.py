"""How many pictures each network is called on."""

from types import SimpleNamespace

import pytest

from gvbsm.config.build import build_config
from gvbsm.pipeline.evaluated_sets import evaluated_sets
from gvbsm.pipeline.workload import STAGES, workload

BASE = {
    "ipc": 3,
    "squeeze": {"backbones": ["a", "b"], "epochs": 5},
    "synthesis": {"iterations": 100},
    "labels": {"epochs": 20},
    "evaluation": {"students": ["s"], "seeds": 4},
    "baselines": {"methods": []},
}
DATA = SimpleNamespace(train=range(50), class_names=("x", "y"))


def counted(tmp_path, stages=STAGES, **settings):
    config = build_config({**BASE, **settings})
    return dict(workload(config, evaluated_sets(config, tmp_path), DATA, stages))


def test_workload__counts_every_stage(tmp_path):
    assert counted(tmp_path) == {
        ("a", "training"): 5 * 50,
        ("b", "training"): 5 * 50,
        ("a", "pixels"): 6 * 100 // 2,  # an iteration takes one of the two teachers
        ("b", "pixels"): 6 * 100 // 2,
        ("a", "inference"): 6 * 20,
        ("b", "inference"): 6 * 20,
        ("s", "training"): 6 * 20 * 4,
    }


def test_workload__counts_the_images_of_each_class(tmp_path):
    counts = counted(tmp_path, ipc_of={"y": 10})
    assert counts["a", "pixels"] == 13 * 100 // 2
    assert counts["a", "inference"] == 13 * 20
    assert counts["s", "training"] == 13 * 20 * 4


def test_workload__adds_the_baselines(tmp_path):
    methods = ["random-hard", "random-soft", "full"]
    baselines = {"methods": methods, "draws": 2, "full_epochs": 7}
    counts = counted(tmp_path, baselines=baselines)
    assert counts["s", "training"] == 3 * 6 * 20 * 4 + 7 * 50 * 4
    assert counts["a", "inference"] == 6 * 20 + 2 * 6 * 20  # own labels, and of two random sets
    assert counts["a", "pixels"] == 6 * 100 // 2  # selections optimize no pixels


def test_workload__counts_images_that_two_methods_share_once(tmp_path):
    counts = counted(tmp_path, baselines={"methods": ["gvbsm-hard"]})
    assert counts["a", "pixels"] == 6 * 100 // 2
    assert counts["s", "training"] == 2 * 6 * 20 * 4


def test_workload__counts_labels_that_are_not_stored_for_each_student(tmp_path):
    labels = {"epochs": 20, "store": False}
    assert counted(tmp_path, labels=labels)["a", "inference"] == 6 * 20 * 4
    evaluation = {**BASE["evaluation"], "hard_phase": {"share": 0.75}}
    phased = counted(tmp_path, labels=labels, evaluation=evaluation)
    assert phased["a", "inference"] == 6 * 5 * 4  # the hard phase labels no views
    assert phased["s", "training"] == 6 * 20 * 4
    pruned = {"epochs": 20, "storage": {"pruning": 4}}
    assert counted(tmp_path, labels=pruned)["a", "inference"] == 6 * 5


def test_workload__leaves_out_teachers_that_are_not_trained(tmp_path):
    squeeze = {"backbones": ["timm/a"], "pretrained": True, "epochs": 5}
    assert ("timm/a", "training") not in counted(tmp_path, squeeze=squeeze)


@pytest.mark.parametrize(
    ("stages", "pairs"),
    [
        (["squeeze"], {("a", "training"), ("b", "training")}),
        (["statistics"], {("a", "pixels"), ("b", "pixels")}),
        (["synthesis"], {("a", "pixels"), ("b", "pixels")}),
        (["labels"], {("a", "inference"), ("b", "inference")}),
        (["evaluation"], {("s", "training")}),
    ],
)
def test_workload__of_a_stage_counts_its_networks_alone(stages, pairs, tmp_path):
    assert set(counted(tmp_path, stages)) == pairs
    labels = {"epochs": 20, "store": False}
    online = set(counted(tmp_path, stages, labels=labels))
    labeling = {("a", "inference"), ("b", "inference")}
    assert online == (pairs | labeling if stages == ["evaluation"] else pairs - labeling)
