"""GSM's pass over the real pictures: moments of every convolution's input (Eq. 9).

They are the exact moments of all activations (sum, sum of squares and count in float64), so they do
not depend on the batch size. Eq. 9 and the authors' code average the batches' variances instead,
which leaves out the spread between batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gvbsm.method.capture import HookedObserver
from gvbsm.method.layers import input_shapes, matched_layers
from gvbsm.method.moments import LayerSums, Moments, Sums, add, counts, finalize

Key = tuple[str, str]
"""Module path of a layer, and a level: channel or patch."""


@dataclass(frozen=True)
class Statistics:
    """One teacher's global statistics.

    Attributes:
        channel: For each convolution (module path), its input's channel moments, (channels,).
        patch: For each convolution, its input's patch moments, (patch rows, patch columns).
        class_channel: If asked for, for each convolution and BatchNorm layer the moments of each
            class's pictures, (classes, channels).
        class_patch: Likewise, for each convolution's patches, (classes, patch rows, patch columns).
        group_channel, group_patch: Likewise, of difficulty groups in the place of classes.
    """

    channel: dict[str, Moments]
    patch: dict[str, Moments]
    class_channel: dict[str, Moments] = field(default_factory=dict)
    class_patch: dict[str, Moments] = field(default_factory=dict)
    group_channel: dict[str, Moments] = field(default_factory=dict)
    group_patch: dict[str, Moments] = field(default_factory=dict)


def picture_counts(
    model: nn.Module, n_p: int, image_shape: Sequence[int], with_batchnorm: bool = False
) -> dict[Key, Tensor]:
    """Count the activations of one picture in each channel and each patch of each layer.

    Args:
        model: A network.
        n_p: Side of a patch in pixels.
        image_shape: (channels, height, width) of a picture.
        with_batchnorm: Include the channels of BatchNorm layers.

    Returns:
        For each convolution both levels, in order of definition: float64 (channels,) and float64
        (patch rows, patch columns); for each BatchNorm layer, if asked for, its channels.
    """
    layers = matched_layers(model)
    paths = {*layers.conv, *(layers.batchnorm if with_batchnorm else ())}
    return {
        (path, level): count
        for path, shape in input_shapes(model, paths, image_shape).items()
        for level, count in zip(LayerSums._fields, counts(shape, n_p), strict=True)
        if level == "channel" or path in layers.conv
    }


def add_batch(
    total: dict[Key, Sums],
    sums: Mapping[str, LayerSums],
    per_picture: Mapping[Key, Tensor],
    pictures: int,
) -> None:
    """Add a batch's sums to those of the batches before it.

    Args:
        total: Sums of the batches before, changed in place.
        sums: Sums of the layers' inputs over the batch as one group, by module path.
        per_picture: From `picture_counts`.
        pictures: Pictures in the batch.
    """
    for (path, level), count in per_picture.items():
        layer_sums = getattr(sums[path], level)
        batch = Sums(count.to(layer_sums.device) * pictures, *layer_sums[:, 0])
        total[path, level] = add(total.get((path, level)), batch)


def record_statistics(model: nn.Module, batches: Iterable[Tensor], n_p: int) -> Statistics:
    """Record the statistics of one teacher.

    Args:
        model: The network in eval mode; none of its layers may change its input in place.
        batches: All pictures, normalized float (batch, channels, height, width); at least one.
        n_p: Side of a patch in pixels.

    Raises:
        ValueError: If there is no batch.
    """
    total: dict[Key, Sums] = {}
    per_picture: dict[Key, Tensor] = {}
    observer = HookedObserver(model, matched_layers(model).conv, n_p, exact=True)
    with torch.no_grad():
        for pictures in batches:
            per_picture = per_picture or picture_counts(model, n_p, pictures.shape[1:])
            sums = observer(pictures, {path for path, _ in per_picture})[1]
            add_batch(total, sums, per_picture, len(pictures))
    if not per_picture and matched_layers(model).conv:
        raise ValueError("`batches` must hold at least one batch of pictures, got none")
    return finish_statistics(total)


def finish_statistics(total: Mapping[Key, Sums]) -> Statistics:
    """Compute the moments from the sums, in the order of their keys."""
    statistics = Statistics({}, {})
    for (path, level), sums in total.items():
        getattr(statistics, level)[path] = finalize(sums)
    return statistics
