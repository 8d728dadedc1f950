"""Target statistics of a teacher's layers, and the matching loss of a batch (GSM, Eq. 6 and 10).

The statistics of all matched layers are concatenated into one vector a level (channels, patches),
so that a step takes a dozen operations and not a dozen for each layer. n is the length of such a
vector. Groups of images are matched separately.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.config import SynthesisConfig
from gvbsm.method.capture import HookedObserver, Observer
from gvbsm.method.layers import input_shapes, matched_layers
from gvbsm.method.losses import match
from gvbsm.method.moments import LayerSums, Moments, Sums, counts, ema, finalize
from gvbsm.method.statistics import Statistics


class Level(NamedTuple):
    """The channel statistics, or the patch statistics, of one teacher's matched layers.

    Attributes:
        layers: Module paths; first those matched by L'_BN, then those by L'_Conv.
        sizes: Number of channels or patches of each layer.
        layer_index: Index of each value's layer, int64 (n,).
        per_picture: Number of activations of one picture in each channel or patch, float64 (n,).
        target: The data set's moments, float64 (n,) each.
    """

    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    layer_index: Tensor
    per_picture: Tensor
    target: Moments


class Average(NamedTuple):
    """EMA of one level's moments.

    Attributes:
        mean, variance: float64 (groups, n).
        started: Whether each layer's EMA has started, bool (layers,).
    """

    mean: Tensor
    variance: Tensor
    started: Tensor


@dataclass(frozen=True)
class Teacher:
    """A teacher and its target statistics.

    Attributes:
        name: The teacher's name.
        model: The network in eval mode, parameters without gradients.
        batchnorm: Paths of the matched BatchNorm layers.
        conv: Paths of the matched convolutions; empty if they are not matched.
        levels: "channel" and "patch" -> the statistics, for pictures of the data's side.
        factors: Weight of each layer of the channel level in the loss, float64 (layers,).
        observe: Calls the network; returns logits and the sums of the matched layers' inputs.
    """

    name: str
    model: nn.Module
    batchnorm: tuple[str, ...]
    conv: tuple[str, ...]
    levels: dict[str, Level]
    factors: Tensor
    observe: Observer


Averages = dict[str, Average]
"""The EMA of one teacher's levels, by level."""


class LevelSums(NamedTuple):
    """Sums of one level's matched layers in one forward pass.

    Attributes:
        name: channel or patch.
        level: The level.
        sums: Sums and sums of squares, all layers concatenated, float64 (2, rows, n); a row is a
            group of images, or one image.
        present: Whether each layer is matched and not dropped this time, bool (layers,).
    """

    name: str
    level: Level
    sums: Tensor
    present: Tensor


def make_teacher(
    name: str,
    model: nn.Module,
    statistics: Statistics | None,
    config: SynthesisConfig,
    n_p: int,
    image_shape: Sequence[int],
) -> Teacher:
    """Collect the target statistics of one teacher, without terms of weight 0.

    Args:
        name: The teacher's name.
        model: The teacher.
        statistics: Its recorded statistics; None if `config` matches no convolutions.
        config: The settings of the synthesis.
        n_p: Side of a patch in pixels.
        image_shape: (channels, height, width) of a picture.
    """
    layers = matched_layers(model)
    device = next(model.parameters()).device
    batchnorm = tuple(layers.batchnorm) if config.weight_batchnorm else ()
    conv = tuple(layers.conv) if statistics is not None and config.weight_conv else ()
    channel: list[Moments] = []
    for path in batchnorm:
        layer = layers.batchnorm[path]
        # The running variance is unbiased: larger by n / (n - 1), below 1.001 for n > 1000.
        channel.append(Moments(layer.get_buffer("running_mean"), layer.get_buffer("running_var")))
    patch: list[Moments] = []
    if statistics is not None and conv:
        channel += [statistics.channel[path] for path in conv]
        patch += [statistics.patch[path] for path in conv]
    shapes = input_shapes(model, {*batchnorm, *conv}, image_shape)
    levels = {
        "channel": _make_level(
            [*batchnorm, *conv], channel, {p: counts(s, n_p)[0] for p, s in shapes.items()}, device
        ),
        "patch": _make_level(
            conv, patch, {p: counts(s, n_p)[1].flatten() for p, s in shapes.items()}, device
        ),
    }
    # The authors' code multiplies the distance of the first hooked layer, the image's, by 10.
    first = next(iter(conv or batchnorm), None)
    factors = [config.first_layer_multiplier if p == first else 1.0 for p in [*batchnorm, *conv]]
    weights = torch.tensor(factors, dtype=torch.float64, device=device)
    observe = HookedObserver(model, shapes, n_p)
    return Teacher(name, model, batchnorm, conv, levels, weights, observe)


def _make_level(
    layers: Sequence[str],
    target: Sequence[Moments],
    count: Mapping[str, Tensor],
    device: torch.device,
) -> Level:
    sizes = tuple(count[path].numel() for path in layers)
    index = torch.arange(len(layers)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))

    def concatenate(tensors: Sequence[Tensor]) -> Tensor:
        flat = [tensor.flatten().to(device, torch.float64) for tensor in tensors]
        return torch.cat([torch.zeros(0, dtype=torch.float64, device=device), *flat])

    fields = ([getattr(moments, name) for moments in target] for name in Moments._fields)
    per_picture = concatenate([count[path] for path in layers])
    concatenated = Moments(*map(concatenate, fields))
    return Level(tuple(layers), sizes, index.to(device), per_picture, concatenated)


def empty_averages(teacher: Teacher, groups: int, ema_start: str) -> Averages:
    """Return a teacher's EMA before the first step: not started, or zeros as the authors' is."""
    averages: Averages = {}
    for name, level in teacher.levels.items():
        zeros = level.per_picture.new_zeros(groups, len(level.per_picture))
        started = torch.full((len(level.layers),), ema_start == "zero", device=zeros.device)
        averages[name] = Average(zeros, zeros, started)
    return averages


def matching_loss(
    sums: Mapping[str, LayerSums],
    teacher: Teacher,
    averages: Averages,
    batch: int,
    alpha: float,
    adjust: Callable[[LevelSums, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Averages]:
    """L'_BN (Eq. 6) and L'_Conv (Eq. 10) of each group through one teacher, and the new EMA.

    Args:
        sums: Sums of the layers' inputs, by module path; layers without an entry are dropped.
        teacher: The teacher and its target statistics.
        averages: Its EMA so far.
        batch: Images in a group.
        alpha: Weight of the past in the EMA.
        adjust: If given, `sums` are sums of each image. It is called with a level's sums and its
            layers' distances, float64 (groups, layers), and returns the distances to use.

    Returns:
        The two losses, unweighted, float64 (groups,), and this teacher's new EMA, which is
        unchanged for dropped layers.
    """
    new: Averages = {}
    boundary = len(teacher.batchnorm)
    batchnorm = conv = torch.zeros((), dtype=torch.float64, device=teacher.factors.device)
    for name, level in teacher.levels.items():
        if not level.layers:
            continue
        groups = len(averages[name].mean)
        level_sums = _level_sums(name, level, sums, groups * batch if adjust else groups)
        of_groups = level_sums.sums.view(2, groups, batch, -1).sum(2) if adjust else level_sums.sums
        total = Sums(level.per_picture * batch, *of_groups)
        distances, new[name] = distances_of(level_sums, total, level.target, averages[name], alpha)
        if adjust:
            distances = adjust(level_sums, distances)
        if name == "channel":
            distances = distances * teacher.factors
            batchnorm = distances[:, :boundary].sum(dim=1)
            conv = conv + distances[:, boundary:].sum(dim=1)
        else:
            conv = conv + (distances * teacher.factors[boundary:]).sum(dim=1)
    return batchnorm, conv, new


def _level_sums(name: str, level: Level, sums: Mapping[str, LayerSums], rows: int) -> LevelSums:
    """Concatenate the sums of a level's layers; those of dropped layers are 0."""
    absent = torch.zeros(2, rows, max(level.sizes), device=level.layer_index.device)
    by_layer = [
        getattr(sums[path], name).flatten(start_dim=2) if path in sums else absent[..., :size]
        for path, size in zip(level.layers, level.sizes, strict=True)
    ]
    present = torch.tensor([path in sums for path in level.layers]).to(level.layer_index.device)
    return LevelSums(name, level, torch.cat(by_layer, dim=2).double(), present)


def distances_of(
    level_sums: LevelSums, sums: Sums, target: Moments, average: Average, alpha: float
) -> tuple[Tensor, Average]:
    """Distance of each layer's blended moments from the target, and the new EMA.

    Args:
        level_sums: The level, and which of its layers are present.
        sums: Sums of the images of each row, float64 (rows, n).
        target: The moments of the data, float64 (n,) or (rows, n).
        average: The EMA of each row so far.
        alpha: Weight of the past in the EMA.

    Returns:
        float64 (rows, layers), 0 for dropped layers, and the EMA, unchanged for dropped layers.
    """
    index, layers = level_sums.level.layer_index, len(level_sums.present)
    started, present, current = average.started[index], level_sums.present[index], finalize(sums)
    blended = Moments(
        *(
            torch.where(started, ema(past, now, alpha), now)
            for past, now in zip((average.mean, average.variance), current, strict=True)
        )
    )
    distances = match(blended, target, index, layers) * level_sums.present
    mean, variance = (
        torch.where(present, value.detach(), past)
        for past, value in zip((average.mean, average.variance), blended, strict=True)
    )
    return distances, Average(mean, variance, average.started | level_sums.present)
