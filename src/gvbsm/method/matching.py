"""Target statistics of a teacher's layers, and the matching loss of a batch (GSM, Eq. 6 and 10).

The statistics of all matched layers lie in one vector a level, channels or patches, so that a step
blends and compares them in a dozen operations and not in a dozen for each layer. A vector's last
size is n, over all layers; a table's is the number of layers. Groups of images stay apart.
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
        sizes: How many numbers each layer has.
        owner: Position of each number's layer, int64 (n,).
        per_picture: Activations of one picture behind each number, float64 (n,).
        wanted: The data set's moments, float64 (n,) each.
    """

    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    owner: Tensor
    per_picture: Tensor
    wanted: Moments


class Average(NamedTuple):
    """The EMA of one level, and which layers have begun one.

    Attributes:
        mean, variance: float64 (groups, n).
        started: bool (layers,).
    """

    mean: Tensor
    variance: Tensor
    started: Tensor


@dataclass(frozen=True)
class Teacher:
    """A teacher, and the global statistics that its layers are to see.

    Attributes:
        name: The teacher's name.
        model: The network in eval mode, parameters without gradients.
        batchnorm: Paths of the matched BatchNorm layers.
        conv: Paths of the matched convolutions; empty if they are not matched.
        levels: "channel" and "patch" -> the vectors; patches are of pictures of the data's side.
        factors: Weight of each of the channel level's layers in its sum, float64 (layers,).
        observe: Calls the network, and returns the sums of what the matched layers see.
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


class SeenLevel(NamedTuple):
    """What the matched layers of one level see in one pass.

    Attributes:
        name: channel or patch.
        level: The level.
        sums: Sums and sums of squares of all layers end to end, float64 (2, rows, n); a row is a
            group of images, or one image.
        present: Which layers are not dropped, bool (layers,).
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
    """Collect what is matched through one teacher; terms of weight 0 are left out.

    Args:
        name: The teacher's name.
        model: The teacher.
        statistics: What was recorded of it; None if `config` matches no convolutions.
        config: The stage's settings.
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
        # The running variance is the unbiased one, larger by n/(n-1): below 1.001 for n > 1000.
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
    # The authors' code weighs the first hooked layer tenfold: the image's own statistics.
    first = next(iter(conv or batchnorm), None)
    factors = [config.first_layer_multiplier if p == first else 1.0 for p in [*batchnorm, *conv]]
    weights = torch.tensor(factors, dtype=torch.float64, device=device)
    observe = HookedObserver(model, shapes, n_p)
    return Teacher(name, model, batchnorm, conv, levels, weights, observe)


def _make_level(
    layers: Sequence[str],
    wanted: Sequence[Moments],
    count: Mapping[str, Tensor],
    device: torch.device,
) -> Level:
    sizes = tuple(count[path].numel() for path in layers)
    owner = torch.arange(len(layers)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))

    def joined(parts: Sequence[Tensor]) -> Tensor:
        flat = [part.flatten().to(device, torch.float64) for part in parts]
        return torch.cat([torch.zeros(0, dtype=torch.float64, device=device), *flat])

    moments = Moments(*(joined([getattr(m, field) for m in wanted]) for field in Moments._fields))
    numbers = joined([count[path] for path in layers])
    return Level(tuple(layers), sizes, owner.to(device), numbers, moments)


def empty_averages(teacher: Teacher, groups: int, ema_start: str) -> Averages:
    """The EMA of a teacher before the first step: none yet, or zeros as in the authors' code."""
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
    adjust: Callable[[SeenLevel, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Averages]:
    """L'_BN (Eq. 6) and L'_Conv (Eq. 10) of each group through one teacher, and the new EMA.

    Args:
        sums: What the layers saw, by module path; a layer that is not in it is dropped this time.
        teacher: The teacher and its global statistics.
        averages: Its EMA so far.
        batch: Images in a group.
        alpha: Weight of the past in the EMA.
        adjust: If given, `sums` are those of each image, and it is called with a level and each
            layer's distance, float64 (groups, layers), and returns the distance to take.

    Returns:
        The two losses, unweighted, float64 (groups,), and this teacher's new EMA; a dropped layer
        keeps its own.
    """
    changed: Averages = {}
    boundary = len(teacher.batchnorm)
    batchnorm = conv = torch.zeros((), dtype=torch.float64, device=teacher.factors.device)
    for name, level in teacher.levels.items():
        if not level.layers:
            continue
        groups = len(averages[name].mean)
        seen = _see_level(name, level, sums, groups * batch if adjust else groups)
        whole = seen.sums.view(2, groups, batch, -1).sum(dim=2) if adjust else seen.sums
        total = Sums(level.per_picture * batch, *whole)
        distances, changed[name] = distances_of(seen, total, level.wanted, averages[name], alpha)
        if adjust:
            distances = adjust(seen, distances)
        if name == "channel":
            distances = distances * teacher.factors
            batchnorm = distances[:, :boundary].sum(dim=1)
            conv = conv + distances[:, boundary:].sum(dim=1)
        else:
            conv = conv + (distances * teacher.factors[boundary:]).sum(dim=1)
    return batchnorm, conv, changed


def _see_level(name: str, level: Level, sums: Mapping[str, LayerSums], rows: int) -> SeenLevel:
    """Join the sums of a level's layers; those of dropped layers are 0."""
    absent = torch.zeros(2, rows, max(level.sizes), device=level.owner.device)
    by_layer = [
        getattr(sums[path], name).flatten(start_dim=2) if path in sums else absent[..., :size]
        for path, size in zip(level.layers, level.sizes, strict=True)
    ]
    present = torch.tensor([path in sums for path in level.layers]).to(level.owner.device)
    return SeenLevel(name, level, torch.cat(by_layer, dim=2).double(), present)


def distances_of(
    seen: SeenLevel, sums: Sums, wanted: Moments, average: Average, alpha: float
) -> tuple[Tensor, Average]:
    """Distance of each layer's blended moments from the wanted ones, and the new EMA.

    Args:
        seen: The level, and which of its layers are there.
        sums: Sums of the images of each row, float64 (rows, n).
        wanted: The moments of the data, float64 (n,) or (rows, n).
        average: The EMA of each row so far.
        alpha: Weight of the past in the EMA.

    Returns:
        float64 (rows, layers), 0 for dropped layers, and the EMA, which dropped layers keep.
    """
    level, current = seen.level, finalize(sums)
    begun, present = average.started[level.owner], seen.present[level.owner]
    blended = Moments(
        *(
            torch.where(begun, ema(past, now, alpha), now)
            for past, now in zip((average.mean, average.variance), current, strict=True)
        )
    )
    distances = match(blended, wanted, level.owner, len(level.layers)) * seen.present
    mean, variance = (
        torch.where(present, value.detach(), past)
        for past, value in zip((average.mean, average.variance), blended, strict=True)
    )
    return distances, Average(mean, variance, average.started | seen.present)
