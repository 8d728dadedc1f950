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


def orthogonalize(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthonormal rows (or columns, if it has more rows).

    All singular values are brought near 1 by five steps of a Newton-Schulz iteration and the
    singular vectors stay. "Near" is 0.7 to 1.2 for those above about 0.01 of the Frobenius norm;
    smaller ones stay below. The iteration is run on the Gram matrix X X^T, with which its factors
    commute, so that the long side takes part in two products and not in ten: a third of the work
    for a kernel of 3 x 3.

    Args:
        matrix: Float (rows, columns); one of zeros stays zero.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / torch.linalg.matrix_norm(wide).clamp(min=torch.finfo(wide.dtype).tiny)
    gram = x @ x.T
    whole = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for step in range(STEPS):
        factor = B * gram + C * gram @ gram
        factor.diagonal().add_(A)
        whole = factor @ whole
        if step < STEPS - 1:
            gram = factor @ gram @ factor
    found: Tensor = whole @ x
    return found if matrix.shape[0] <= matrix.shape[1] else found.T


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
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._matrix if group["matrices"] else self._entries
                parameter.sub_(update(parameter, group), alpha=group["lr"])

    def _matrix(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["average"] = torch.zeros_like(parameter)
        share = 1 - group["momentum"]
        state["average"].lerp_(gradient, share)
        ahead = state["average"].lerp(gradient, share).flatten(1)
        scale = RMS * max(ahead.shape) ** 0.5  # an orthogonal matrix's entries are 1 / sqrt(max)
        update: Tensor = scale * orthogonalize(ahead).reshape(parameter.shape)
        return update

    def _entries(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["average"] = torch.zeros_like(parameter)
            state["average_square"] = torch.zeros_like(parameter)
        first, second = group["betas"]
        state["step"] += 1
        done = float(state["step"])
        state["average"].lerp_(gradient, 1 - first)
        state["average_square"].lerp_(gradient.square(), 1 - second)
        root = (state["average_square"] / (1 - second**done)).sqrt_().add_(1e-8)
        update: Tensor = state["average"] / (1 - first**done) / root
        return update
