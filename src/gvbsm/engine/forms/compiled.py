"""Compile networks with torch.compile; one that cannot be compiled runs as it is."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from gvbsm.config.errors import first_line

log = logging.getLogger("gvbsm")

Result = TypeVar("Result")

# By default, the compiler changes the memory layout of maps after it has ordered the sums over
# them; the sums of `method.fast.compiled` then take longer than the network.
KEEP_LAYOUT: dict[str, Any] = {"layout_optimization": False}


def compiler_facts() -> str:
    """Describe what torch compiles with; another text means that a failure may not come again.

    The facts are the C and C++ compilers (path, size and time of change), whether the headers of
    Python are there, the version of Triton, and the variables `TORCHINDUCTOR_...`.
    """
    usual = ("cl", "cl") if os.name == "nt" else ("g++", "gcc")
    usual = ("clang++", "clang") if sys.platform == "darwin" else usual
    commands = [
        os.environ.get(name) or call for name, call in zip(("CXX", "CC"), usual, strict=True)
    ]
    facts = [_program(word) for command in commands for word in command.split()]
    facts.append(f"Python.h {Path(sysconfig.get_path('include'), 'Python.h').is_file()}")
    with suppress(PackageNotFoundError):
        facts.append(f"triton {version('triton')}")
    facts += sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("TORCHINDUCTOR_"))
    return ", ".join(facts)


def _program(name: str) -> str:
    """Describe a program: path, size in bytes, and time of change in seconds."""
    if (found := shutil.which(name)) is None:
        return f"no {name}"
    path = Path(found).resolve()
    state = path.stat()
    return f"{path} {state.st_size} {int(state.st_mtime)}"


class CompiledFunction(Generic[Result]):
    """A function that is compiled at its first call; one that cannot be compiled runs as it is.

    It is compiled again for each other shape of its arguments.

    Args:
        function: The function.
        on_failure: Called with the error's text if the function cannot be compiled.
    """

    def __init__(
        self, function: Callable[[Tensor], Result], on_failure: Callable[[str], None]
    ) -> None:
        self._function, self._on_failure = function, on_failure
        self._run: Callable[[Tensor], Result] | None = None

    def __call__(self, x: Tensor) -> Result:
        """Return what the function returns.

        Raises:
            Exception: What the function raises, compiled or not.
        """
        try:
            self._run = self._run or _compile(self._function)
            return self._run(x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # missing or broken compilers raise errors of many types
            if self._run == self._function:
                raise
            fault = first_line(error)
        self._on_failure(fault)
        self._run = self._function
        return self._run(x)


def _compile(function: Callable[[Tensor], Result]) -> Callable[[Tensor], Result]:
    # Without a GPU, torch warns here that it has not found CUDA.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # torch limits compilations of one function; a single one may serve all networks and shapes.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(function, dynamic=False, options=KEEP_LAYOUT)


class CompiledNetwork(nn.Module):
    """A network whose forward and backward passes are compiled; it shares the parameters.

    Args:
        network: The network.
        on_failure: Called with the error's text if the network cannot be compiled.
    """

    def __init__(self, network: nn.Module, on_failure: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.network = network
        self._run: CompiledFunction[Tensor] = CompiledFunction(
            network.forward, on_failure or self._warn
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the network's output."""
        return self._run(pictures)

    def _warn(self, text: str) -> None:
        name = type(self.network).__name__
        log.warning("%s cannot be compiled, which is slower: %s", name, text)
