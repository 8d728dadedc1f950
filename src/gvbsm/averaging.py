"""The exponential moving average of a network's parameters over the steps of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Averaging:
    """The moving average of a network's parameters, which is tested and kept in its place.

    After step t it is the mean of the parameters after steps 1 to t, those of step i weighted by
    decay^(t - i): the weights' sum is divided out (as Adam does it), so that the first parameters
    have no more than their own weight however few the steps are. Buffers, BatchNorm's moments among
    them, are the network's own, as in EDC: they are moving averages already.

    Args:
        model: The network that is trained; on its device.
        decay: Weight of the past for each step, in [0, 1); 0 is off: the average is the network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay, self._done = model, decay, 0
        self._average = (
            AveragedModel(model, multi_avg_fn=self._blend, use_buffers=False) if decay else None
        )

    @property
    def network(self) -> nn.Module:
        """The network with the averaged parameters."""
        if self._average is None:
            return self._model
        found: nn.Module = self._average.module
        return found

    def update(self) -> None:
        """Take the parameters after one more step into the average."""
        if self._average is not None:
            self._done = int(self._average.n_averaged)  # from the CPU: no GPU is waited for
            self._average.update_parameters(self._model)

    def settle(self) -> None:
        """Give the averaged parameters to the network itself, once its training is over."""
        if self._average is not None:
            with torch.no_grad():
                pairs = zip(self._model.parameters(), self.network.parameters(), strict=True)
                for own, averaged in pairs:
                    own.copy_(averaged)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep; empty if it is off."""
        return {} if self._average is None else dict(self._average.state_dict())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        if self._average is not None:
            self._average.load_state_dict(dict(tensors))

    def _blend(
        self, averaged: Sequence[Tensor], current: Sequence[Tensor], _done: Tensor | int
    ) -> None:
        """One more step, in place."""
        share = (1 - self._decay) / (1 - self._decay ** (self._done + 1))
        torch._foreach_lerp_(list(averaged), list(current), share)
