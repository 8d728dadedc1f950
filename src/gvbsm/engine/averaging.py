"""Exponential moving average of a network's parameters over the training steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Averaging:
    """Moving average of a network's parameters: it is tested, and kept when training ends.

    After step t it is the weighted mean of the parameters after steps 1 to t, with weight
    decay^(t - i) for step i. Dividing by the sum of the weights removes the bias toward the first
    parameters, as in Adam. Buffers are copied from the network, as in EDC: BatchNorm's running
    moments are moving averages already.

    torch's `AveragedModel` copies every buffer in every step, one by one, and reads its step count
    from the device. Here buffers are copied when `network` is read.

    Args:
        model: The network that is trained, on its device.
        decay: Weight of the past in each step, in [0, 1); 0 turns averaging off.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay, self._steps = model, decay, 0
        self._parameters: list[Tensor] = list(model.parameters())
        self._network = copy.deepcopy(model).requires_grad_(False) if decay else model
        self._averaged: list[Tensor] = list(self._network.parameters())

    @property
    def network(self) -> nn.Module:
        """Network with the averaged parameters and the current buffers; `model` if off."""
        if self._decay:
            pairs = zip(self._network.buffers(), self._model.buffers(), strict=True)
            for averaged_buffer, buffer in pairs:
                averaged_buffer.copy_(buffer)
        return self._network

    @torch.no_grad()
    def update(self) -> None:
        """Add the parameters to the average; called after every optimizer step."""
        if self._decay:
            self._steps += 1
            share = (1 - self._decay) / (1 - self._decay**self._steps)
            torch._foreach_lerp_(self._averaged, self._parameters, share)

    @torch.no_grad()
    def settle(self) -> None:
        """Copy the averaged parameters into the network at the end of its training."""
        if self._decay:
            torch._foreach_copy_(self._parameters, self._averaged)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint, with `AveragedModel`'s names; empty if off."""
        if not self._decay:
            return {}
        averaged = {f"module.{name}": value for name, value in self._network.named_parameters()}
        return {"n_averaged": torch.tensor(self._steps), **averaged}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        if self._decay:
            self._steps = int(tensors["n_averaged"])
            for name, parameter in self._network.named_parameters():
                parameter.copy_(tensors[f"module.{name}"])
