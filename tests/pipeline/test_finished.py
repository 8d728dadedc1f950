"""Whether a work directory holds all that a command makes."""

import pytest

import gvbsm
from gvbsm.config.build import build_config
from gvbsm.config.keys import merge, nest
from gvbsm.pipeline.continual import run_continual
from gvbsm.pipeline.finished import is_finished
from support.workdirs import quick_settings, write_arrays

STAGES = ("squeeze", "statistics", "synthesis", "labels", "evaluation")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Settings, and the work directory of `run` and `continual` with them."""
    folder = tmp_path_factory.mktemp("finished")
    settings = quick_settings(
        {"name": "npz", "root": str(write_arrays(folder / "toy.npz"))},
        baselines={"methods": ["random-soft", "teacher", "full"], "full_epochs": 1},
        continual={"steps": 2, "orders": 1, "epochs": 1, "min_steps": 1, "methods": []},
    )
    gvbsm.run(settings, folder / "w", quiet=True)
    run_continual(settings, folder / "w", quiet=True)
    return settings, folder / "w"


@pytest.mark.parametrize("verb", ["run", "continual", *STAGES])
def test_a_directory_is_finished_for_every_verb_but_a_new_one_is_not(verb, finished, tmp_path):
    settings, workdir = finished
    assert is_finished(verb, build_config(settings), workdir)
    assert not is_finished(verb, build_config(settings), tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "verbs"),
    [
        ("squeeze.epochs", 4, {"run", "continual", *STAGES}),
        ("statistics.passes", 2, {"run", "continual", *STAGES} - {"squeeze"}),
        ("synthesis.iterations", 13, {"run", "continual", "synthesis", "labels", "evaluation"}),
        ("evaluation.seeds", 3, {"run", "continual", "evaluation"}),
        ("baselines.full_epochs", 2, {"run", "continual"}),
        ("threads", 2, set()),
    ],
)
def test_a_changed_setting_leaves_work_for_the_verbs_that_depend_on_it(key, value, verbs, finished):
    settings, workdir = finished
    config = build_config(merge(settings, nest(key, value)))
    unfinished = {
        verb for verb in ("run", "continual", *STAGES) if not is_finished(verb, config, workdir)
    }
    assert unfinished == verbs


def test_damaged_results_are_not_finished(finished):
    settings, workdir = finished
    path = workdir / "data.json"
    content = path.read_bytes()
    try:
        path.write_text("{")
        assert not is_finished("run", build_config(settings), workdir)
    finally:
        path.write_bytes(content)
