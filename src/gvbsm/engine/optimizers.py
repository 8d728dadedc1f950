"""Build optimizers of networks and pixels, schedule learning rates, pack optimizer state."""

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
    """Build the optimizer; weight decay acts only on tensors of two or more dimensions.

    Biases and normalization parameters do not decay, as in the authors' code for CIFAR-100
    (G_VBSM@1ed80b0, Branch_CIFAR_100/train).

    Muon updates matrices and convolution kernels (two or four dimensions) except the last, which is
    the classifier's, as its author advises; AdamW updates the rest.

    torch's fused forms go through memory once a step: for ResNet-18's 11 million numbers AdamW took
    9 ms of one core instead of 56 with torch's default.

    Args:
        config: The optimizer's settings.
        parameters: Tensors to optimize; those of a network in the order of its layers.
        lr: Learning rate.
    """
    if config.name == "muon":
        matrices = [item for item in parameters if item.ndim in (2, 4)][:-1]
        matrix_ids = {id(item) for item in matrices}
        others = [item for item in parameters if id(item) not in matrix_ids]
        return Muon(matrices, others, lr, config.momentum, config.betas, config.weight_decay)
    decayed = [item for item in parameters if item.ndim > 1]
    others = [item for item in parameters if item.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        momentum, decay = config.momentum, config.weight_decay
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


STEEP = 5 / 6  # share of the steps after which ssrs becomes steep


def schedule(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the factor of the learning rate in a step.

    EDC introduced the cosine stretched by `zeta`, and ssrs (smooth, then steep). The steep part
    begins with a drop to a sixth, as in EDC's code (`cos2`).

    Args:
        config: The optimizer's settings.
        step: Number of the step, from 0.
        steps: Total number of steps.
    """
    warmup = config.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / (steps - warmup)
    smooth = progress if config.schedule == "cosine" else min(progress, STEEP)
    factor = 0.5 * (1 + math.cos(math.pi * smooth / config.zeta))
    if config.schedule == "ssrs" and progress > STEEP:
        factor *= 1 - progress
    return factor


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as named tensors, `PARAMETER/ENTRY`."""
    return {
        f"{index}/{name}": torch.as_tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if value is not None
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `pack_optimizer` returned.

    Files hold contiguous tensors. The state of a kernel gets the memory layout that the kernel has:
    torch's fused optimizers go through both in the order of memory, and do not compare the layouts.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix/` before every name."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors named `prefix/...`, without the prefix."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }
