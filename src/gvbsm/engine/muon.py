"""Muon: each weight matrix is moved by the nearest orthogonal matrix to its averaged gradient.

K. Jordan et al., 2024 (kellerjordan.github.io/posts/muon). torch's own takes matrices alone, and no
convolution's kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

STEPS = 5  # of Newton and Schulz, which bring singular values above 0.01 or so near 1
# Jordan's polynomial a s + b s^3 + c s^5: steepest at 0 among those that stay within 0.7 and 1.2.
A, B, C = 3.4445, -4.7750, 2.0315
RMS = 0.2  # of an update's entries at a rate of 1, as of AdamW's (Moonshot, arXiv 2502.16982)


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """About the nearest matrix to each with orthonormal rows (or columns, if it has more rows).

    All singular values are brought near 1 by five steps of a Newton-Schulz iteration and the
    singular vectors stay. "Near" is 0.7 to 1.2 for those above about 0.01 of the Frobenius norm;
    smaller ones stay below. The iteration is run on the Gram matrix X X^T, with which its factors
    commute, so that the long side takes part in two products and not in ten: a third of the work
    for a kernel of 3 x 3. Gram matrices of one size go through it together, whatever the long
    sides: a GPU spends its time waiting for the next small product.

    Args:
        matrices: Float (rows, columns) each, of one type and device; one of zeros stays zero.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    tiny = torch.finfo(wide[0].dtype).tiny
    norms = torch._foreach_norm(wide)
    wide = list(torch._foreach_div(wide, torch._foreach_clamp_min(norms, tiny)))
    together: dict[int, list[int]] = {}
    for index, x in enumerate(wide):
        together.setdefault(len(x), []).append(index)
    found = list(wide)
    for indices in together.values():
        factors = _newton_schulz(torch.stack([wide[index] @ wide[index].T for index in indices]))
        for index, factor in zip(indices, factors, strict=True):
            near = factor @ wide[index]
            found[index] = near if near.shape == matrices[index].shape else near.T
    return found


def _newton_schulz(gram: Tensor) -> Tensor:
    """The product of the iteration's factors, (n, rows, rows), from Gram matrices."""
    whole = factor = _factor(gram)
    for _ in range(STEPS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        whole = factor @ whole
    return whole


def _factor(gram: Tensor) -> Tensor:
    """A + B G + C G^2."""
    factor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
    factor.diagonal(dim1=-2, dim2=-1).add_(A)
    return factor


class Muon(Optimizer):
    """Muon for weight matrices, AdamW for all else, at one learning rate.

    A matrix's update is scaled to the root mean square that AdamW's updates have, so that one rate
    fits both. A convolution's kernel is a matrix of (output channels, all else).

    Args:
        matrices: Parameters of two or more dimensions that are moved by Muon.
        others: Parameters that AdamW moves; weight decay acts on those of more than one dimension.
        lr: Learning rate of both.
        momentum: Decay of the matrices' averaged gradient, which looks one step ahead (Nesterov).
        betas: AdamW's two decay rates.
        weight_decay: Decoupled weight decay, times the rate.
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
        """Move every parameter that has a gradient.

        Args:
            closure: Not taken.
        """
        if closure is not None:
            raise ValueError("Muon does not call a closure")
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            if decay := group["lr"] * group["weight_decay"]:
                torch._foreach_mul_(moved, 1 - decay)
            update = self._matrices if group["matrices"] else self._entries
            torch._foreach_add_(moved, update(moved, group), alpha=-group["lr"])

    def _matrices(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        gradients = _gradients(parameters)
        averages = [self._of(parameter, "average") for parameter in parameters]
        share = 1 - group["momentum"]
        torch._foreach_lerp_(averages, gradients, share)
        ahead = [_as_matrix(item) for item in torch._foreach_lerp(averages, gradients, share)]
        updates = orthogonalize(ahead)
        # An orthogonal matrix's entries are 1 / sqrt(max).
        torch._foreach_mul_(updates, [RMS * max(matrix.shape) ** 0.5 for matrix in ahead])
        pairs = zip(updates, parameters, strict=True)
        return [_as_kernel(update, parameter) for update, parameter in pairs]

    def _entries(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        gradients = _gradients(parameters)
        averages = [self._of(parameter, "average") for parameter in parameters]
        squares = [self._of(parameter, "average_square") for parameter in parameters]
        states = [self.state[parameter] for parameter in parameters]
        steps = [state.setdefault("step", torch.zeros(())) for state in states]
        torch._foreach_add_(steps, 1)
        done = [int(step) for step in steps]
        first, second = group["betas"]
        torch._foreach_lerp_(averages, gradients, 1 - first)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - second)
        roots = torch._foreach_div(squares, [1 - second**count for count in done])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, 1e-8)
        updates = torch._foreach_div(averages, [1 - first**count for count in done])
        torch._foreach_div_(updates, roots)
        return list(updates)

    def _of(self, parameter: Tensor, name: str) -> Tensor:
        """An average of the parameter's state, zero at first."""
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        found: Tensor = state[name]
        return found


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _is_last(kernel: Tensor) -> bool:
    return kernel.ndim == 4 and kernel.is_contiguous(memory_format=torch.channels_last)


def _as_matrix(kernel: Tensor) -> Tensor:
    """(output channels, all else), as it lies in memory: the columns' order is of no matter."""
    return (kernel.permute(0, 2, 3, 1) if _is_last(kernel) else kernel).flatten(1)


def _as_kernel(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_as_matrix`."""
    if not _is_last(like):
        return matrix.reshape(like.shape)
    rows, columns, height, width = like.shape
    return matrix.reshape(rows, height, width, columns).permute(0, 3, 1, 2)
