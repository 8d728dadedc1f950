"""Muon: update a weight matrix by the orthogonal matrix that is nearest to its averaged gradient.

K. Jordan et al., 2024 (kellerjordan.github.io/posts/muon). torch's own Muon takes matrices only;
this one takes convolution kernels too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

STEPS = 5  # of the Newton-Schulz iteration: bring singular values above about 0.01 near 1
# Jordan's polynomial a s + b s^3 + c s^5: steepest at 0 among those that stay within 0.7 and 1.2.
A, B, C = 3.4445, -4.7750, 2.0315
RMS = 0.2  # of an update's entries at a rate of 1, as of AdamW's (Moonshot, arXiv 2502.16982)


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Approximate the nearest matrix with orthonormal rows (or columns, if there are fewer).

    Five steps of a Newton-Schulz iteration bring all singular values near 1 and keep the singular
    vectors. Singular values above about 0.01 of the Frobenius norm end between 0.7 and 1.2; smaller
    ones stay below. The iteration runs on the Gram matrix X X^T, with which its factors commute, so
    that the long side takes part in two products and not in ten: a third of the work for a 3 x 3
    kernel. Gram matrices of one size are stacked, because a GPU is idle between small products.

    Args:
        matrices: Float (rows, columns) each, of one dtype and device; a zero matrix stays zero.

    Returns:
        One matrix for each, of the same shape.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    tiny = torch.finfo(wide[0].dtype).tiny
    norms = torch._foreach_norm(wide)
    wide = list(torch._foreach_div(wide, torch._foreach_clamp_min(norms, tiny)))
    by_rows: dict[int, list[int]] = {}
    for index, x in enumerate(wide):
        by_rows.setdefault(len(x), []).append(index)
    orthogonal = list(wide)
    for indices in by_rows.values():
        factors = _newton_schulz(torch.stack([wide[index] @ wide[index].T for index in indices]))
        for index, factor in zip(indices, factors, strict=True):
            result = factor @ wide[index]
            orthogonal[index] = result if result.shape == matrices[index].shape else result.T
    return orthogonal


def _newton_schulz(gram: Tensor) -> Tensor:
    """Product of the iteration's factors for Gram matrices, both (n, rows, rows)."""
    product = factor = _factor(gram)
    for _ in range(STEPS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    return product


def _factor(gram: Tensor) -> Tensor:
    """A + B G + C G^2."""
    factor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
    factor.diagonal(dim1=-2, dim2=-1).add_(A)
    return factor


class Muon(Optimizer):
    """Muon for weight matrices and AdamW for all other parameters, with one learning rate.

    A matrix's update is scaled to the root mean square that AdamW's updates have, so that one rate
    fits both. A convolution kernel is taken as a matrix (output channels, all else).

    Args:
        matrices: Parameters of two or more dimensions that Muon updates.
        others: Parameters that AdamW updates; weight decay acts on those of two or more dimensions.
        lr: Learning rate of both.
        momentum: Decay of the matrices' averaged gradient (Nesterov momentum).
        betas: AdamW's two decay rates.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        others: Sequence[Tensor],
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        groups = [
            {"params": list(matrices), "matrices": True, "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "matrices": False}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: Must be None.

        Raises:
            ValueError: If it is not.
        """
        if closure is not None:
            raise ValueError("Muon does not call a closure")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            if decay := group["lr"] * group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - decay)
            update = self._matrices if group["matrices"] else self._entries
            torch._foreach_add_(parameters, update(parameters, group), alpha=-group["lr"])

    def _matrices(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        gradients = _gradients(parameters)
        averages = [self._average(parameter, "average") for parameter in parameters]
        share = 1 - group["momentum"]
        torch._foreach_lerp_(averages, gradients, share)
        nesterov = torch._foreach_lerp(averages, gradients, share)
        matrices = [_as_matrix(gradient) for gradient in nesterov]
        updates = orthogonalize(matrices)
        # The root mean square of an orthogonal matrix's entries is 1 / sqrt(longer side).
        torch._foreach_mul_(updates, [RMS * max(matrix.shape) ** 0.5 for matrix in matrices])
        pairs = zip(updates, parameters, strict=True)
        return [_as_kernel(update, parameter) for update, parameter in pairs]

    def _entries(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        gradients = _gradients(parameters)
        averages = [self._average(parameter, "average") for parameter in parameters]
        squares = [self._average(parameter, "average_square") for parameter in parameters]
        states = [self.state[parameter] for parameter in parameters]
        steps = [state.setdefault("step", torch.zeros(())) for state in states]
        torch._foreach_add_(steps, 1)
        counts = [int(step) for step in steps]
        first, second = group["betas"]
        torch._foreach_lerp_(averages, gradients, 1 - first)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - second)
        roots = torch._foreach_div(squares, [1 - second**count for count in counts])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, 1e-8)
        updates = torch._foreach_div(averages, [1 - first**count for count in counts])
        torch._foreach_div_(updates, roots)
        return list(updates)

    def _average(self, parameter: Tensor, name: str) -> Tensor:
        """Return an average of the parameter's state; it starts at zero."""
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        average: Tensor = state[name]
        return average


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _is_channels_last(kernel: Tensor) -> bool:
    return kernel.ndim == 4 and kernel.is_contiguous(memory_format=torch.channels_last)


def _as_matrix(kernel: Tensor) -> Tensor:
    """View as (output channels, all else) in memory order; the order of columns is irrelevant."""
    return (kernel.permute(0, 2, 3, 1) if _is_channels_last(kernel) else kernel).flatten(1)


def _as_kernel(matrix: Tensor, like: Tensor) -> Tensor:
    """Undo `_as_matrix`."""
    if not _is_channels_last(like):
        return matrix.reshape(like.shape)
    rows, columns, height, width = like.shape
    return matrix.reshape(rows, height, width, columns).permute(0, 3, 1, 2)
