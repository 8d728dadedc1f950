"""BatchNorm over the pictures of several processes, on GPUs."""

from __future__ import annotations

from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.distributed import ProcessGroup


def synchronize_batchnorm(model: nn.Module, group: ProcessGroup | None) -> nn.Module:
    """Let BatchNorm layers, torch's and timm's with their activations, see all processes' rows.

    Args:
        model: A network on a GPU; its layers are replaced in place, with the tensors they have.
        group: The processes; None is all.
    """
    synchronized: nn.Module = convert_sync_batchnorm(model, group)  # type: ignore[no-untyped-call]
    return synchronized
