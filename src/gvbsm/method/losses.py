"""The paper's formulas that have a gradient, as pure functions, with equation numbers.

Shapes: images (batch, channels, height, width), logits (batch, classes), labels (batch,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gvbsm.method.groups import ClassRows
from gvbsm.method.moments import Moments

DENSIFY_SIZE = 32  # pixels to which images are pooled for L_DD (Eq. 4)


def match(current: Moments, target: Moments, layer_index: Tensor, layers: int) -> Tensor:
    """||mean - target||_2 + ||variance - target||_2 of each layer (Eq. 1, 6 and 10): (..., layers).

    This is Eq. 6 if `current` is blended by `moments.ema`, and Eq. 1 if it is the batch's alone.
    The norm is not squared; where the difference is exactly 0 its gradient is 0.

    Args:
        current: The synthetic batch's statistics, all layers concatenated, (..., n).
        target: The data set's statistics, (n,) or of `current`'s shape.
        layer_index: Index of each value's layer, int64 (n,).
        layers: Number of layers.
    """

    def norms(difference: Tensor) -> Tensor:
        squares = difference.square()
        total = squares.new_zeros(*squares.shape[:-1], layers).index_add(-1, layer_index, squares)
        differs = total > 0
        return torch.where(differs, total, 1.0).sqrt() * differs

    return norms(current.mean - target.mean) + norms(current.variance - target.variance)


def densify(
    images: Tensor,
    classes: ClassRows,
    groups: int,
    tau: float,
    form: Literal["exact", "scaled"] = "exact",
) -> Tensor:
    """L_DD of each group: spread the eigenvalues of each class's Gram matrix (Eq. 4, 5); (groups,).

    Sum over classes of KL(stop_grad(softmax(eig / tau)) || softmax(eig)), eig the eigenvalues of
    X_y X_y^T, X_y the class's images, pooled to 32 x 32 and flattened. A class of one image adds 0.

    For real pictures the largest two eigenvalues are so far apart that both softmaxes are one-hot,
    and value and gradient are 0. `form="scaled"`, which is not in the paper, divides each Gram
    matrix by its mean eigenvalue, so that they stay above 0.

    Only the solver differs from the authors' code: Gram matrices are symmetric, so `eigvalsh`
    replaces the general, complex `eigvals`
    (G_VBSM@1ed80b0, Branch_CIFAR_100/recover/data_synthesis_*.py).

    Args:
        images: Normalized images, float (groups * batch, channels, height, width).
        classes: The images of each class.
        groups: Number of groups.
        tau: Temperature of the target, above 0.
        form: exact or scaled.

    Raises:
        ValueError: If tau is not positive.
    """
    if tau <= 0:
        raise ValueError(f"`tau` must be positive, got {tau}")
    if max(images.shape[2:]) > DENSIFY_SIZE:
        images = F.adaptive_avg_pool2d(images, DENSIFY_SIZE)
    rows = images.flatten(start_dim=1)  # (groups * batch, channels * 1024)
    loss = images.new_zeros(groups)
    for same_size in classes.same_size:
        members = rows[same_size.images]  # (classes, images, features)
        gram = members @ members.mT
        if form == "scaled":
            # The trace is the sum of the eigenvalues; that of an all-zero class is 0.
            mean = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
            gram = gram / mean.clamp(min=1e-12)[:, None, None]
        eigenvalues = torch.linalg.eigvalsh(gram)  # (classes, images)
        target = F.log_softmax(eigenvalues.detach() / tau, dim=1)
        divergence = F.kl_div(
            F.log_softmax(eigenvalues, dim=1), target, reduction="none", log_target=True
        ).sum(dim=1)
        loss = loss.index_add(0, same_size.group, divergence)
    return loss


def ensemble_logits(
    logits: Sequence[Tensor], normalize: bool, weights: Sequence[float] | None = None
) -> Tensor:
    """The soft label's logits: mean over the teachers (Eq. 8); (batch, classes).

    With logit normalization each teacher's logits are first scaled to the mean of the teachers'
    Frobenius norms over the batch, so that all count equally. With weights both means are weighted:
    weight 2 counts a teacher twice.

    Args:
        logits: One (batch, classes) a teacher.
        normalize: Whether to normalize (w/ LN).
        weights: One a teacher, not negative and not all 0; None weighs all equally.

    Raises:
        ValueError: If there is no teacher, or the number of weights differs from theirs.
    """
    if not logits:
        raise ValueError("`logits` must hold at least one teacher's, got none")
    stacked = torch.stack(list(logits)).float()  # (teachers, batch, classes)
    if normalize:
        norms = torch.linalg.vector_norm(stacked, dim=(1, 2), keepdim=True)
        stacked = stacked * (_weighted_mean(norms, weights) / norms.clamp(min=1e-12))
    return _weighted_mean(stacked, weights)


def _weighted_mean(values: Tensor, weights: Sequence[float] | None) -> Tensor:
    """Mean over the first dimension."""
    if weights is None:
        return values.mean(dim=0)
    if len(weights) != len(values):
        raise ValueError(
            f"`weights` must be one for each of {len(values)} teachers, got {len(weights)}"
        )
    shares = torch.tensor(weights, dtype=torch.float64)
    shares /= shares.max()  # so that the sum is finite
    shares = (shares / shares.sum()).to(values)
    return (shares.view(-1, *[1] * (values.ndim - 1)) * values).sum(dim=0)


def hard_loss(student: Tensor, labels: Tensor, partners: Tensor, kept: Tensor) -> Tensor:
    """Cross-entropy with the hard labels of mixed images, weighted by their shares; a scalar.

    Args:
        student: Logits (batch, classes).
        labels: Classes of the images, int64 (batch,).
        partners: Classes of the images that are mixed in, int64 (batch,).
        kept: Share of each image that the mix keeps, float (batch,); 1 ignores the partner.
    """
    image_loss = F.cross_entropy(student, labels, reduction="none")
    partner_loss = F.cross_entropy(student, partners, reduction="none")
    return (kept * image_loss + (1 - kept) * partner_loss).mean()


def mse_gt_loss(student: Tensor, teacher: Tensor, hard: Tensor, gamma: float) -> Tensor:
    """MSE + gamma x GT (Eq. 11); a scalar.

    The squared error is averaged over batch and classes, as in the authors' code: Eq. 11 omits the
    factor 1/2C, and with a sum over classes the weight of gamma would depend on their number.

    Args:
        student: Logits (batch, classes).
        teacher: The ensemble's logits (batch, classes).
        hard: `hard_loss` of the same batch.
        gamma: Weight of the cross-entropy.
    """
    return F.mse_loss(student, teacher) + gamma * hard


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch: SRe2L's; a scalar.

    T^2 makes the gradient's size, and so SGD's steps, independent of T (Hinton et al. 2015).
    SRe2L's code has it where it trains with SGD (zeyuanyin/tiny-imagenet@275c667, train_kd.py) and
    omits it where it trains with AdamW, whose steps do not depend on a factor of the loss.

    Args:
        student: Logits (batch, classes).
        teacher: The ensemble's logits (batch, classes).
        temperature: T, above 0 (20 in SRe2L).
    """
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence
