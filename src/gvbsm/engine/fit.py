"""Train a network step by step: schedule, tests, checkpoints; for teachers and students alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gvbsm.config import OptimizerConfig
from gvbsm.engine.averaging import Averaging
from gvbsm.engine.device import RunError, Runtime
from gvbsm.engine.finite import check_finite, first_not_finite
from gvbsm.engine.forms.compiled import CompiledNetwork
from gvbsm.engine.optimizers import (
    make_optimizer,
    pack_optimizer,
    schedule,
    set_lr,
    unpack_optimizer,
    with_prefix,
    without_prefix,
)
from gvbsm.engine.out_of_memory import MicroBatches, Step
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.engine.replicas import replicate
from gvbsm.engine.seeds import derived_seed, get_random_state, seeded, set_random_state


@dataclass(frozen=True)
class TrainingHistory:
    """Losses and test accuracies of a training.

    Attributes:
        epochs: Epochs after which the test accuracy was measured.
        top1: Test accuracy in percent after each of these.
        losses: Mean training loss of every epoch.
    """

    epochs: list[int]
    top1: list[float]
    losses: list[float]


class Keeper(Protocol):
    """Stores the state of an unfinished training, as `files.checkpoint.Checkpoint` does."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and the state of the last checkpoint, or None if there is none."""

    def due(self) -> bool:
        """Return whether it is time for the next checkpoint."""

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint; `state` is JSON-like."""


@dataclass(frozen=True)
class Training:
    """The settings of one training.

    Attributes:
        name: What is trained, for progress, errors and the randomness of dropout.
        section: The section of the settings that it belongs to, for errors.
        epochs: Number of epochs.
        steps: Steps in an epoch.
        tests: Number of tests, evenly spread over the epochs; the last follows the last epoch.
        optimizer: Optimizer, learning rate and schedule.
        micro_batch: Most images of a batch in one forward pass; None is all of them.
        ema: Decay of the moving average of the parameters (`averaging.Averaging`), which is tested
            and kept in place of the parameters; 0 is off.
    """

    name: str
    section: str
    epochs: int
    steps: int
    tests: int
    optimizer: OptimizerConfig
    micro_batch: int | None = None
    ema: float = 0.0


def fit(
    model: nn.Module,
    batches: Callable[[int, int], Iterator[Step]],
    test: Callable[[nn.Module], float] | None,
    training: Training,
    runtime: Runtime,
    keeper: Keeper | None,
    team: Processes = ALONE,
) -> TrainingHistory:
    """Train a network to the last epoch, resuming from the checkpoint if there is one.

    The processes of a `team` train it together: each computes the loss of its rows of a batch
    (`shared_step`), and all end with the same network. Process 0 writes the checkpoints.

    Args:
        model: The network; trained in place.
        batches: `batches(epoch, start)` yields an epoch's steps, from step `start` on, and may go
            on with those of later epochs. It must depend on its arguments alone, so that a resumed
            run sees the same batches.
        test: Returns a network's top-1 accuracy in percent; None tests nothing.
        training: Length, tests and optimizer.
        runtime: Seeds, precision, progress.
        keeper: Stores the checkpoints; None keeps none.
        team: The processes that train the network together.

    Raises:
        RunError: If the loss is no longer finite, or memory runs out.
        ProcessError: If another process of the team has ended.
    """
    name, epochs, steps = training.name, training.epochs, training.steps
    optimizer, rate = training.optimizer, training.optimizer.lr
    solver = make_optimizer(optimizer, list(model.parameters()), rate)
    micro_batches = MicroBatches(training.micro_batch, training.section, team.world > 1)
    tests = min(training.tests, epochs)
    tested = {round(epochs * (index + 1) / tests) for index in range(tests)}
    advice = f"lower its learning rate ({rate:g})"
    model.train()
    average = Averaging(model, training.ema)
    with (
        seeded(runtime.seed, name, "dropout"),
        runtime.progress(epochs * steps, name, "step") as bar,
        team.together(),
    ):
        step, total, history = _resume(model, average, solver, micro_batches, keeper, runtime, team)
        bar.skip(step)
        net = replicate(model, team, runtime.device)
        if runtime.compiled and team.world == 1:
            net = CompiledNetwork(model)
        while step < epochs * steps:
            for batch in batches(step // steps, step % steps):
                set_lr(solver, rate * schedule(optimizer, step, epochs * steps))
                if not team.leads:  # a checkpoint holds the random state of process 0 alone
                    torch.manual_seed(derived_seed(runtime.seed, name, "dropout", team.rank, step))
                total += team.mean(micro_batches.backward(net, batch))
                solver.step()
                average.update()
                step += 1
                bar.update()
                if step % steps == 0:
                    check_finite(total, name, advice)
                    history.losses.append(float(total) / steps)
                    values = {"loss": history.losses[-1]}
                    total = torch.zeros_like(total)
                    if test is not None and step // steps in tested:
                        history.epochs.append(step // steps)
                        history.top1.append(test(average.network))
                        model.train()
                        values["top1"] = history.top1[-1]
                        bar.set_postfix(values)
                    if runtime.log is not None:
                        runtime.log(name, values, step // steps)
                if keeper is not None and team.leads and step < epochs * steps and keeper.due():
                    check_finite(total, name, advice)
                    tensors = _pack(model, average, solver, total, runtime)
                    _check_state(tensors, name, advice)
                    limit = micro_batches.limit
                    state = {"step": step, "history": vars(history), "part": limit}
                    keeper.save(tensors, state)
    average.settle()
    _check_state(model.state_dict(), name, advice)
    return history


def shared_step(team: Processes, count: int, loss: Callable[[nn.Module, slice], Tensor]) -> Step:
    """Return this process's share of a training step.

    Its loss is weighted so that the mean over the processes is the mean loss of the batch.

    Args:
        team: The processes that train the network together.
        count: Images of the batch, over all processes.
        loss: Mean loss of a slice of this process's images (`Processes.rows`).
    """
    rows, weight = team.rows(count), team.weight(count)
    if team.world == 1:
        return Step(count, loss)
    return Step(rows.stop - rows.start, lambda net, images: weight * loss(net, images))


def _check_state(tensors: Mapping[str, Tensor], name: str, advice: str) -> None:
    """Raise if a tensor is not finite: a step of finite loss can overflow the parameters."""
    if (broken := first_not_finite(tensors)) is not None:
        raise RunError(f"{name}: {broken} is no longer finite; {advice}")


def _pack(
    model: nn.Module,
    average: Averaging,
    solver: torch.optim.Optimizer,
    total: Tensor,
    runtime: Runtime,
) -> dict[str, Tensor]:
    return {
        "total": total,
        "random_state": get_random_state(runtime.device),  # of dropout
        **with_prefix("model", model.state_dict()),
        **with_prefix("average", average.state()),
        **with_prefix("optimizer", pack_optimizer(solver)),
    }


def _resume(
    model: nn.Module,
    average: Averaging,
    solver: torch.optim.Optimizer,
    micro_batches: MicroBatches,
    keeper: Keeper | None,
    runtime: Runtime,
    team: Processes,
) -> tuple[int, Tensor, TrainingHistory]:
    """Return the steps done, the epoch's sum of losses and the history, from the checkpoint."""
    checkpoint = None if keeper is None else keeper.load()
    team.agree({"steps done": checkpoint and checkpoint[1]["step"]})
    if checkpoint is None:
        return 0, torch.zeros((), device=runtime.device), TrainingHistory([], [], [])
    tensors, state = checkpoint
    model.load_state_dict(without_prefix("model", tensors))
    average.load(without_prefix("average", tensors))
    unpack_optimizer(solver, without_prefix("optimizer", tensors))
    micro_batches.limit = state["part"]
    set_random_state(runtime.device, tensors["random_state"])
    return state["step"], tensors["total"].to(runtime.device), TrainingHistory(**state["history"])
