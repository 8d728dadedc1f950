"""Which students are trained, with what, and what is told of them."""

import logging

import pytest

from gvbsm.config.build import as_config
from gvbsm.engine.processes import ALONE
from gvbsm.pipeline.context import RunContext
from gvbsm.pipeline.evaluated_sets import EvaluatedSet
from gvbsm.pipeline.training.students import train_students
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.store.image_set import ImageSet
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace
from support.distilled_files import save_images

SETTINGS = {
    "ipc": 2,
    "labels": {"epochs": 2, "store": False},
    "evaluation": {"students": ["convnet8_d1"], "seeds": 2, "tests": 1},
    "baselines": {"methods": []},
}


@pytest.fixture
def trained(data, runtime, teachers, tmp_path, caplog):
    """Call it with settings to train the students of a set; gives what asked for labels and log."""
    caplog.set_level(logging.INFO, "gvbsm")

    def train(**evaluation):
        caplog.clear()
        settings = {**SETTINGS, "evaluation": {**SETTINGS["evaluation"], **evaluation}}
        config, asked = as_config(settings), []
        recipes, image_set = Recipes(config, "toy", "fp32"), ImageSet(config, tmp_path)
        images, labels = data.train.images[:8], data.train.labels[:8]
        save_images(image_set.images, "gvbsm", recipes.images(image_set), images, labels, data)
        workspace = Workspace(tmp_path)

        class Asked:
            def for_labels(self, of):
                asked.append(of.method)
                return list(teachers.values())

        seeds = range(config.evaluation.seeds)
        team = Teamwork(workspace, ALONE)
        context = RunContext(config, data, runtime, recipes, Asked(), team)
        train_students([EvaluatedSet(image_set, seeds)], context)
        times = sorted(workspace.seconds())
        return asked, [record.getMessage() for record in caplog.records], times

    return train


def test_missing_students__are_trained_once_timed_and_told(trained, tmp_path):
    asked, told, times = trained()
    assert asked == ["gvbsm"] * 2  # the teachers label as each of the two is trained
    assert [line.rpartition(":")[0] for line in told] == [
        "evaluation gvbsm, convnet8_d1, seed 0",
        "evaluation gvbsm, convnet8_d1, seed 1",
    ]
    assert times == ["evaluation/gvbsm/convnet8_d1/0", "evaluation/gvbsm/convnet8_d1/1"]
    assert trained()[:2] == ([], [])
    assert len(trained(seeds=3)[1]) == 1
    (tmp_path / "evaluation" / "gvbsm-convnet8_d1-1.json").unlink()
    assert trained()[1][0].startswith("evaluation gvbsm, convnet8_d1, seed 1: ")


def test_hard_labels__ask_no_teacher(trained):
    asked, told, _ = trained(loss="hard")
    assert asked == []
    assert len(told) == 2
