"""Optimizers of networks and pixels, their learning rates and their state as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gvbsm.config import OptimizerConfig
from gvbsm.engine.muon import Muon


def make_optimizer(
    config: OptimizerConfig, parameters: Sequence[Tensor], lr: float
) -> torch.optim.Optimizer:
    """Build the optimizer; weight decay acts on tensors with more than one dimension alone.

    Biases and normalization parameters are left out of it, as the authors do for CIFAR-100
    (G_VBSM@1ed80b0, Branch_CIFAR_100/train).

    Muon moves kernels of convolutions and matrices (of two or four dimensions) but for the last of
    them, the classifier, as its author advises.

    Args:
        config: The optimizer's settings.
        parameters: What is optimized; of a network, in the order of its layers.
        lr: Learning rate.
    """
    if config.name == "muon":
        matrices = [item for item in parameters if item.ndim in (2, 4)][:-1]
        taken = {id(item) for item in matrices}
        rest = [item for item in parameters if id(item) not in taken]
        return Muon(matrices, rest, lr, config.momentum, config.betas, config.weight_decay)
    decayed = [item for item in parameters if item.ndim > 1]
    others = [item for item in parameters if item.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr, betas=config.betas, weight_decay=config.weight_decay)


STEEP = 5 / 6  # share of the steps after which ssrs falls steeply


def schedule(config: OptimizerConfig, step: int, steps: int) -> float:
    """Factor of the learning rate in a step.

    The cosine that is stretched by `zeta` and ssrs (early smooth, late steep) are EDC's; the steep
    part begins with a drop to a sixth, as there (`cos2` of its code).

    Args:
        config: The optimizer's settings.
        step: Number of the step, from 0.
        steps: Steps in all.
    """
    rising = config.warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - rising) / (steps - rising)
    smooth = done if config.schedule == "cosine" else min(done, STEEP)
    factor = 0.5 * (1 + math.cos(math.pi * smooth / config.zeta))
    return factor * (1 - done) if config.schedule == "ssrs" and done > STEEP else factor


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, `PARAMETER/ENTRY`."""
    return {
        f"{index}/{name}": torch.as_tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if value is not None
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `pack_optimizer` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix/` before every name."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix/`, without it."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }
