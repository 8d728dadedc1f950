"""Train a network on a distilled set: students, filters of a selection, and any network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor, nn

from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import Keeper, Training, TrainingHistory, fit, shared_step
from gvbsm.engine.out_of_memory import Step
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.store.batches import Batch, StudentTask


def fit_student(
    model: nn.Module,
    task: StudentTask,
    name: str,
    test: Callable[[nn.Module], float] | None,
    runtime: Runtime,
    keeper: Keeper,
    team: Processes = ALONE,
) -> TrainingHistory:
    """Train a network on a set; resume from the checkpoint if there is one.

    Args:
        model: The network, on its device; trained in place. With `task.config.ema` it ends with
            the averaged parameters.
        task: The set, its labels and the settings.
        name: Name of the training, for progress and errors.
        test: As in `engine.fit.fit`; None tests nothing.
        runtime: Device, precision, seed, progress.
        keeper: Saves the state of the unfinished training.
        team: Processes that train the network together, each on its rows of every batch. Views and
            labels are drawn for the whole batch.

    Raises:
        RunError: If the training diverges, or memory runs out.
    """

    def batches(epoch: int, start: int) -> Iterator[Step]:
        for batch in task.batches_from(epoch, start, runtime):
            count = len(batch.labels)
            loss = partial(_loss, batch.rows(team.rows(count)), task, runtime)
            yield shared_step(team, count, loss)

    config = task.config
    training = Training(
        name=name,
        section="evaluation",
        epochs=task.labels_config.epochs,
        steps=task.steps,
        tests=config.tests,
        optimizer=config.optimizer,
        micro_batch=config.micro_batch,
        ema=config.ema,
    )
    return fit(model, batches, test, training, runtime, keeper, team)


def _loss(batch: Batch, task: StudentTask, runtime: Runtime, net: nn.Module, rows: slice) -> Tensor:
    batch = batch.rows(rows)
    with runtime.autocast():
        logits = net(batch.views)
    return task.loss(logits.float(), batch)
