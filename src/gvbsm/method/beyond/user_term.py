"""One more term of the loss, from the user's own function (`synthesis.extra`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gvbsm.config import ConfigError, SynthesisConfig
from gvbsm.config.errors import fault_of
from gvbsm.data.views import Views
from gvbsm.method.matching import Teacher
from gvbsm.method.synthesis import Extra, State


class UserTerm(Extra):
    """Adds the term `extra`.

    Args:
        config: `extra`, its name in messages, and `weight_extra` are read.
        function: The user's function. It is called with all of `EXTRA_TAKES` by keyword, and
            returns a value for each image, float (groups * batch,).
        labels: Classes of the images, int64 (groups * batch,).
    """

    name = "extra"

    def __init__(
        self, config: SynthesisConfig, function: Callable[..., Tensor], labels: Tensor
    ) -> None:
        self._where, self._function, self._labels = config.extra, function, labels
        self.weight = config.weight_extra

    def term(self, state: State, views: Views, teacher: Teacher, logits: Tensor) -> Tensor:
        """Return what the function returns, float (groups * batch,).

        Raises:
            ConfigError: If the function fails, or returns something else.
        """
        try:
            values = self._function(
                state=state, views=views, teacher=teacher, logits=logits, labels=self._labels
            )
        except torch.OutOfMemoryError:
            raise  # fewer images are then taken at once
        except Exception as error:  # the code of users raises any
            raise ConfigError(f"synthesis.extra: {self._where} fails: {fault_of(error)}") from error
        expected = (len(state.images),)
        if not isinstance(values, Tensor) or values.shape != expected:
            kind = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ConfigError(
                f"synthesis.extra: {self._where} must return a tensor {list(expected)}, a value "
                f"for each image, got {kind}"
            )
        if not values.requires_grad:
            raise ConfigError(
                f"synthesis.extra: {self._where} returns values without a gradient, which change "
                "no pixel: compute them from state.images or logits"
            )
        return values.float()
