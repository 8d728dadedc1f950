"""Trackers are told what the files hold, and are asked for nothing."""

from dataclasses import replace

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gvbsm.config import Config, ConfigError
from gvbsm.engine import trackers as module
from gvbsm.engine.device import RunError
from gvbsm.engine.trackers import check_trackers, tracking

# torch and tensorboard use what newer releases of others call outdated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BOARD = replace(Config(), trackers=("tensorboard",))


def scalars(folder):
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tracking__without_trackers_nobody_listens(tmp_path):
    with tracking(Config(), tmp_path) as log:
        assert log is None
    assert list(tmp_path.iterdir()) == []


def test_tracking__tensorboard_holds_what_was_told(tmp_path):
    with tracking(BOARD, tmp_path) as log:
        log("squeeze resnet", {"loss": 2.5}, 1)
        log("squeeze resnet", {"loss": 1.5, "top1": 50.0}, 2)
    found = scalars(tmp_path / "logs" / "gvbsm")
    assert found["squeeze resnet/loss"] == [(1, 2.5), (2, 1.5)]
    assert found["squeeze resnet/top1"] == [(2, 50.0)]


def test_tracking__settings_lie_beside_the_values(tmp_path):
    with tracking(replace(BOARD, ipc=7), tmp_path):
        pass
    (settings,) = (tmp_path / "logs").rglob("hparams.yml")
    text = settings.read_text()
    assert "ipc: 7" in text
    assert "synthesis.alpha: 0.8" in text


class FakeTracker:
    """Keeps its arguments and what it is told, as W&B and Trackio would."""

    requires_logging_directory = False

    def __init__(self, project, **options):
        self.name, self.options, self.told, self.finished = "wandb", options, [], False

    def start(self):
        pass

    def store_init_configuration(self, values):
        assert values["labels.epochs"] == Config().labels.epochs

    def log(self, values, step=None):
        self.told.append((values, step))

    def finish(self):
        self.finished = True


def test_tracking__others_count_their_own_steps(tmp_path, monkeypatch):
    """W&B refuses steps that go back, and every series begins at one again."""
    made = []
    monkeypatch.setitem(
        LOGGER_TYPE_TO_CLASS,
        "wandb",
        lambda *arguments, **options: made.append(FakeTracker(*arguments, **options)) or made[-1],
    )
    with tracking(replace(Config(), trackers=("wandb",)), tmp_path / "mine") as log:
        log("evaluation a", {"top1": 3.0}, 9)
        assert not made[0].finished
    assert made[0].options == {"name": "mine", "dir": str(tmp_path / "mine")}
    assert made[0].told == [({"evaluation a/top1": 3.0, "evaluation a/step": 9}, None)]
    assert made[0].finished


class Failing(FakeTracker):
    """Its own process, with which it talks, is killed after the first values."""

    def log(self, values, step=None):
        if self.told:
            raise BrokenPipeError(32, "Broken pipe\nand more")
        super().log(values, step)

    def finish(self):
        raise RuntimeError("the service is gone")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_tracking__a_run_goes_on_without_one_that_fails(count, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Failing)
    both = replace(BOARD, trackers=("wandb", "tensorboard"))
    with tracking(both, tmp_path) as log:
        for step in range(count):
            log("squeeze resnet", {"loss": 2.5}, step)
    if count:
        found = scalars(tmp_path / "logs" / "gvbsm")
        assert [step for step, _ in found["squeeze resnet/loss"]] == list(range(count))
    (note,) = [record.getMessage() for record in caplog.records]
    reason = "[Errno 32] Broken pipe" if count > 1 else "the service is gone"
    assert note == f"tracker wandb has failed; the run continues without it: {reason}"


def test_tracking__a_fault_of_the_run_is_not_a_trackers(tmp_path):
    with pytest.raises(KeyError), tracking(BOARD, tmp_path):
        raise KeyError


def test_tracking__one_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    def fail(*_arguments):
        raise OSError("no login\nand more")

    monkeypatch.setattr(module, "_open", fail)
    with pytest.raises(RunError, match=r"^tracker tensorboard cannot be opened: no login$"):
        tracking(BOARD, tmp_path).__enter__()


def test_check__names_what_is_missing(monkeypatch):
    check_trackers(())
    check_trackers(("tensorboard",))
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(ConfigError, match="'wandb', which needs wandb: pip install wandb"):
        check_trackers(("tensorboard", "wandb"))
