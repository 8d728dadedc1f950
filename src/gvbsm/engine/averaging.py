"""The exponential moving average of a network's parameters over the steps of its training."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Averaging:
    """The moving average of a network's parameters, which is tested and kept in its place.

    After step t it is the mean of the parameters after steps 1 to t, those of step i weighted by
    decay^(t - i): the weights' sum is divided out (as Adam does it), so that the first parameters
    have no more than their own weight however few the steps are. Buffers, BatchNorm's moments among
    them, are the network's own, as in EDC: they are moving averages already.

    torch's `AveragedModel` copies every buffer in every step, one by one, and fetches its count
    from the device. Here buffers are copied when the network is asked for.

    Args:
        model: The network that is trained; on its device.
        decay: Weight of the past for each step, in [0, 1); 0 is off: the average is the network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay, self._done = model, decay, 0
        self._own: list[Tensor] = list(model.parameters())
        self._network = copy.deepcopy(model).requires_grad_(False) if decay else model
        self._averaged: list[Tensor] = list(self._network.parameters())

    @property
    def network(self) -> nn.Module:
        """The network with the averaged parameters, and the buffers that the network has now."""
        if self._decay:
            pairs = zip(self._network.buffers(), self._model.buffers(), strict=True)
            for buffer, own in pairs:
                buffer.copy_(own)
        return self._network

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters after one more step into the average."""
        if self._decay:
            self._done += 1
            share = (1 - self._decay) / (1 - self._decay**self._done)
            torch._foreach_lerp_(self._averaged, self._own, share)

    @torch.no_grad()
    def settle(self) -> None:
        """Copy the averaged parameters into the network, once its training is over."""
        if self._decay:
            torch._foreach_copy_(self._own, self._averaged)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint, named as torch does it; empty if it is off."""
        if not self._decay:
            return {}
        averaged = {f"module.{name}": value for name, value in self._network.named_parameters()}
        return {"n_averaged": torch.tensor(self._done), **averaged}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        if self._decay:
            self._done = int(tensors["n_averaged"])
            for name, parameter in self._network.named_parameters():
                parameter.copy_(tensors[f"module.{name}"])
