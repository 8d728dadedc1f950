"""Identify the devices of the machines."""

from __future__ import annotations

import platform

import torch


def device_identity(device: torch.device) -> str:
    """Return a name that no other device has: `cuda:0` may be another GPU in each process."""
    name = str(device)
    if device.type == "cuda":
        name = str(torch.cuda.get_device_properties(device).uuid)
    return f"{platform.node()} {name}"
