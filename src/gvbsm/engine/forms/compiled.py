"""Compile networks with torch.compile; one that cannot be compiled runs as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from gvbsm.config.errors import first_line

log = logging.getLogger("gvbsm")

Function = TypeVar("Function", bound=Callable[..., Any])

# By default, the compiler changes the memory layout of maps after it has ordered the sums over
# them; the sums of `method.fast.compiled` then take longer than the network.
KEEP_LAYOUT: dict[str, Any] = {"layout_optimization": False}


def compile_function(function: Function) -> Function:
    """Return a function that is compiled at its first call, and again for each other shape."""
    # Without a GPU, torch warns here that it has not found CUDA.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # torch limits compilations of one function; a single one may serve all networks and shapes.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    compiled = torch.compile(function, dynamic=False, options=KEEP_LAYOUT)
    return cast("Function", compiled)


class CompiledNetwork(nn.Module):
    """A network whose forward and backward passes are compiled; it shares the parameters.

    Args:
        network: The network.
        on_failure: Called with the error's text if the network cannot be compiled.
    """

    def __init__(self, network: nn.Module, on_failure: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.network = network
        self._run: Callable[[Tensor], Tensor] = compile_function(network.forward)
        self._on_failure = on_failure or self._warn

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the network's output."""
        try:
            logits: Tensor = self._run(pictures)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # missing or broken compilers raise errors of many types
            if self._run == self.network.forward:
                raise
            self._on_failure(first_line(error))
            self._run = self.network.forward
            logits = self._run(pictures)
        return logits

    def _warn(self, text: str) -> None:
        name = type(self.network).__name__
        log.warning("%s cannot be compiled, which is slower: %s", name, text)
