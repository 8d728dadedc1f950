"""Balanced selection: pictures of the center and of the margin of each cluster of a class.

Balanced Patterns Selection (BPS, CVPR 2026; BeCarefulOfYournaoke/BPS@7d016db, stage2_selection.py)
compares features of a network that is trained for the purpose, finds clusters with Infomap, and
bounds the margin by a mixture of two Gaussians. Here the features are a teacher's, clusters are
those of k-means, and the margin is a range of ranks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gvbsm.stages.selection.coreset import select_by

CLUSTERS = 10  # most clusters of a class; each gives two pictures or more
MARGIN = 0.9  # share of a cluster's pictures whose entropy is below that of the margin


def select_balanced(
    outputs: Iterable[tuple[Tensor, Tensor]], labels: Tensor, counts: Sequence[int]
) -> Tensor:
    """Take pictures from the center and from the margin of clusters of each class, by turns.

    The features of a class, scaled to length 1, are divided into half as many clusters as pictures
    are taken, `CLUSTERS` at most. Each cluster gives a number of pictures in proportion to its size
    (`share_out`): half of them, rounded up, nearest to its mean in angle, and the others from its
    margin (`margin`).

    Args:
        outputs: Features (batch, features) and logits (batch, classes) of a teacher, in batches of
            any size. Those of a class are let go once it is whole.
        labels: Classes of the pictures, int64 (pictures,).
        counts: Pictures of each class to take, (classes,).

    Returns:
        Indices, class by class, int64 (taken,).

    Raises:
        DataError: If a class has fewer pictures.
    """
    rows = (
        torch.cat([F.normalize(features.double(), dim=1), entropy(logits)[:, None]], dim=1)
        for features, logits in outputs
    )
    return select_by(_balanced_order, rows, labels, counts)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of a teacher's probabilities in nats, float64 (pictures,)."""
    log_probabilities = F.log_softmax(logits.double(), dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def share_out(sizes: Tensor, count: int) -> list[int]:
    """Share `count` pictures out among clusters in proportion to their sizes.

    Each gets the whole part of its share, and those with the largest remainders one more. None gets
    more than it has.

    Args:
        sizes: Pictures of each cluster, int64 (clusters,); their sum is `count` at least.
        count: Pictures to take.
    """
    products = sizes * count
    whole = products // sizes.sum()
    order = (products % sizes.sum()).argsort(descending=True, stable=True)
    whole[order[: count - int(whole.sum())]] += 1
    shares: list[int] = whole.tolist()
    return shares


def margin(entropies: Tensor, count: int) -> list[int]:
    """Take pictures of high entropy, but not the highest, which are often mislabeled.

    They are the `count` pictures from rank `MARGIN` x pictures on, by ascending entropy; if there
    are too few, the `count` last ones.

    Args:
        entropies: Of the pictures to choose from, (pictures,).
        count: Pictures to take, `len(entropies)` at most.
    """
    first = min(math.floor(MARGIN * len(entropies)), len(entropies) - count)
    ranked: list[int] = entropies.argsort(stable=True).tolist()
    return ranked[first : first + count]


def _balanced_order(rows: Tensor, count: int) -> list[int]:
    """Choose `count` pictures of a class: rows of unit features, with the entropy at their end."""
    features, entropies = rows[:, :-1], rows[:, -1]
    cluster = _clusters(features, max(1, min(count // 2, CLUSTERS)))
    numbers, sizes = torch.unique(cluster, return_counts=True)
    order: list[int] = []
    for number, share in zip(numbers.tolist(), share_out(sizes, count), strict=True):
        members = (cluster == number).nonzero().flatten()
        own = features[members]
        nearest = (own @ own.mean(dim=0)).argsort(descending=True, stable=True)
        central = -(-share // 2)
        rest = nearest[central:].sort().values
        chosen = rest[margin(entropies[members[rest]], share - central)]
        order += members[nearest[:central]].tolist() + members[chosen].tolist()
    return order


def _clusters(features: Tensor, count: int) -> Tensor:
    """Number of each picture's cluster by k-means, int64 (pictures,)."""
    if count == 1:
        return torch.zeros(len(features), dtype=torch.int64)
    from sklearn.cluster import KMeans  # slow to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer different pictures than clusters: some are empty
        fitted = KMeans(count, n_init=4, random_state=0).fit_predict(features.numpy())
    return torch.from_numpy(fitted).long()
