"""Stop with a clear error when the loss or the pixels become NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gvbsm.engine.device import RunError
from gvbsm.method.groups import Stack
from gvbsm.method.matching import Teacher
from gvbsm.method.synthesis import DivergedError

ADVICE = "lower synthesis.optimizer.lr"


def diverged(
    error: DivergedError, images: Tensor, stack: Stack, teachers: Sequence[Teacher]
) -> RunError:
    """Return the error about a loss that is not finite, naming group, iteration and first layer.

    Args:
        error: What the loop raised.
        images: The pixels before the iteration, (groups * batch, channels, height, width).
        stack: The groups.
        teachers: The teachers.
    """
    group = int((~torch.isfinite(error.loss)).nonzero()[0])
    number, value = stack.numbers[group], float(error.loss[group])
    pictures = images.detach()[group * stack.batch : (group + 1) * stack.batch]
    if bool(torch.isfinite(pictures).all()):
        name = error.teacher
        model = next(teacher.model for teacher in teachers if teacher.name == name)
        layer = first_broken_layer(model, pictures)
        where = f"first in layer {layer} of {name}" if layer else f"in the losses of {name}"
    else:
        where = "first in the pixels"
    return RunError(
        f"synthesis of batch {number}: the loss became {value:g} at iteration {error.step}, "
        f"{where}; {ADVICE}"
    )


def eigenvalues_failed(step: int, error: Exception) -> RunError:
    """Return the error about the eigenvalues of L_DD, which did not converge."""
    return RunError(f"synthesis at iteration {step}: {error}; {ADVICE}")


def check_pixels(step: int, images: Tensor, stack: Stack) -> None:
    """Raise if pixels are not finite, so that no checkpoint holds such pixels.

    Raises:
        RunError: Naming the first such group.
    """
    finite = torch.isfinite(images.detach()).view(len(stack.numbers), -1).all(dim=1).tolist()
    for number, is_finite in zip(stack.numbers, finite, strict=True):
        if not is_finite:
            raise RunError(
                f"synthesis of batch {number}: the pixels are no longer finite after {step} "
                f"iterations; {ADVICE}"
            )


def first_broken_layer(model: nn.Module, pictures: Tensor) -> str | None:
    """Return the module path of the first layer whose output is not finite, or None.

    Args:
        model: A network.
        pictures: Normalized pictures, (batch, channels, height, width).
    """
    broken: list[str] = []

    def check(path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not broken and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
            broken.append(path)

    with ExitStack() as hooks, torch.no_grad():
        for path, module in model.named_modules():
            if path and not any(module.children()):
                hooks.enter_context(module.register_forward_hook(partial(check, path)))
        model(pictures)
    return broken[0] if broken else None
