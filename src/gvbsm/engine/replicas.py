"""Train one network in several processes (data parallel), each on its rows of every batch.

Each process holds a replica. DistributedDataParallel averages the gradients, and BatchNorm is
synchronized, so that a step equals a single process's step on the whole batch, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from gvbsm.engine.processes import Processes


def replicate(model: nn.Module, team: Processes, device: torch.device) -> nn.Module:
    """Wrap a network for training by several processes.

    Its BatchNorm layers are replaced in place; the names and values of its state dict stay. With a
    single process the network itself is returned.

    Raises:
        ValueError: If a BatchNorm layer cannot be synchronized on the device (`check_replicable`).
    """
    if team.world == 1:
        return model
    check_replicable(model, device)
    group = team.join_gradients(device)
    if device.type == "cuda":
        synchronize_batchnorm(model, group)
    else:
        _synchronize_on_cpu(model, group)
    return DistributedDataParallel(model, process_group=group)


def check_replicable(model: nn.Module, device: torch.device) -> None:
    """Check that every BatchNorm layer can be synchronized.

    SyncBatchNorm, torch's and timm's, needs a GPU. On the CPU there is `SyncedBatchNorm`, for plain
    nn.BatchNorm2d only.

    Raises:
        ValueError: If one cannot, naming it.
    """
    if device.type == "cuda":
        return
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module) not in (nn.BatchNorm2d, SyncedBatchNorm):
            raise ValueError(
                f"{type(module).__name__} ({path}) cannot be trained by several processes together "
                "on the CPU, only nn.BatchNorm2d can; set parallel to networks"
            )


def synchronize_batchnorm(model: nn.Module, group: dist.ProcessGroup | None) -> nn.Module:
    """Replace the BatchNorm layers of a network on a GPU by synchronized ones.

    Args:
        model: The network; torch's and timm's layers (with their activations) are replaced in place
            and keep their tensors.
        group: The process group; None is the default group.

    Returns:
        The network; another module if it is a BatchNorm layer itself.
    """
    from timm.layers.norm_act import convert_sync_batchnorm  # slow to import

    synchronized: nn.Module = convert_sync_batchnorm(model, group)  # type: ignore[no-untyped-call]
    return synchronized


def _synchronize_on_cpu(model: nn.Module, group: dist.ProcessGroup | None) -> None:
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, SyncedBatchNorm(child, group))
        else:
            _synchronize_on_cpu(child, group)


class _Sum(torch.autograd.Function):
    """Sum of all processes' tensors; backward, the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the rows of all processes on the CPU, for which torch has none.

    Args:
        of: The layer to replace; its parameters and running moments are shared.
        group: The process group; None is the default group.
    """

    def __init__(self, of: nn.BatchNorm2d, group: dist.ProcessGroup | None) -> None:
        super().__init__(of.num_features, of.eps, of.momentum, of.affine, of.track_running_stats)
        self.weight, self.bias = of.weight, of.bias
        self.running_mean, self.running_var = of.running_mean, of.running_var
        self.num_batches_tracked = of.num_batches_tracked
        self.training, self._group = of.training, group

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that torch gives it)
        """Normalize (batch, channels, height, width)."""
        if not self.training:
            return super().forward(input)
        # At least float32: torch's SyncBatchNorm also widens bf16 rows.
        rows = input.to(torch.promote_types(input.dtype, torch.float32))
        shape, axes = (1, -1, 1, 1), (0, 2, 3)
        count = rows.new_full((1,), rows[:, 0].numel())
        sums: Tensor = _Sum.apply(torch.cat([rows.sum(axes), count]), self._group)
        mean, n = sums[:-1] / sums[-1], sums[-1].detach()
        centered = rows - mean.view(shape)
        variance = _Sum.apply(centered.square().sum(axes), self._group) / n
        self._update_running(mean.detach(), variance.detach() * n / (n - 1))
        normalized = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = normalized.to(input.dtype)
        return result

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running moments, with the unbiased variance, as torch does."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # momentum None: the plain mean of all batches
            share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)
