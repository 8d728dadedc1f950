"""What a teacher's layers are to see, all layers end to end, and how far a batch is from it (GSM).

The statistics of all matched layers lie in one vector a level, channels or patches, so that a step
blends and compares them in a dozen operations and not in a dozen for each layer. A vector's last
size is n, over all layers; a table's is the number of layers. Groups of images stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.artifacts import ArtifactError
from gvbsm.backbones import matched_layers
from gvbsm.config import SynthesisConfig
from gvbsm.losses import match
from gvbsm.moments import Moments, Sums, counts, ema, finalize
from gvbsm.observe import LayerSums, input_shapes


@dataclass(frozen=True)
class Statistics:
    """One teacher's global statistics.

    Attributes:
        channel: For each convolution (module path), its input's channel moments, (channels,).
        patch: For each convolution, its input's patch moments, (patch rows, patch columns).
    """

    channel: dict[str, Moments]
    patch: dict[str, Moments]

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors: `PATH/{channel,patch}/{mean,variance}`."""
        return {
            f"{path}/{level}/{name}": value
            for level, table in (("channel", self.channel), ("patch", self.patch))
            for path, moments in table.items()
            for name, value in moments._asdict().items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """The inverse of `tensors`."""
        tables: dict[str, dict[str, Moments]] = {"channel": {}, "patch": {}}
        try:
            for key in tensors:
                path, level, name = key.rsplit("/", 2)
                if name == "mean":
                    variance = tensors[f"{path}/{level}/variance"]
                    tables[level][path] = Moments(tensors[key], variance)
        except (KeyError, ValueError):
            raise ArtifactError(f"the statistics are damaged at {key!r}; remove them") from None
        return cls(**tables)


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
class Target:
    """A teacher and the statistics that its layers are to see.

    Attributes:
        name: The teacher's name.
        model: The network in eval mode, parameters without gradients.
        batchnorm: Paths of the matched BatchNorm layers.
        conv: Paths of the matched convolutions; empty if they are not matched.
        levels: "channel" and "patch" -> the vectors.
        factors: Weight of each of the channel level's layers in its sum, float64 (layers,).
    """

    name: str
    model: nn.Module
    batchnorm: tuple[str, ...]
    conv: tuple[str, ...]
    levels: dict[str, Level]
    factors: Tensor


State = dict[str, Average]
"""EMA of each teacher's levels: "TEACHER|LEVEL" -> average."""


def make_target(
    name: str,
    model: nn.Module,
    statistics: Statistics | None,
    config: SynthesisConfig,
    n_p: int,
    image_shape: Sequence[int],
) -> Target:
    """Collect what is matched through one teacher; terms of weight 0 are left out.

    Args:
        name: The teacher's name.
        model: The teacher.
        statistics: Its convolutions' statistics; None if `config.weight_conv` is 0.
        config: The stage's settings.
        n_p: Side of a patch in pixels.
        image_shape: (channels, height, width) of a picture.
    """
    found = matched_layers(model)
    device = next(model.parameters()).device
    batchnorm = tuple(found.batchnorm) if config.weight_batchnorm else ()
    conv = tuple(found.conv) if statistics is not None else ()
    channel: list[Moments] = []
    for path in batchnorm:
        layer = found.batchnorm[path]
        # The running variance is the unbiased one, larger by n/(n-1): below 1.001 for n > 1000.
        channel.append(Moments(layer.get_buffer("running_mean"), layer.get_buffer("running_var")))
    patch: list[Moments] = []
    if statistics is not None:
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
    return Target(name, model, batchnorm, conv, levels, weights)


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


def empty_state(targets: Sequence[Target], groups: int, ema_start: str) -> State:
    """The EMA before the first step: nothing, or zeros as in the authors' code."""
    state: State = {}
    for target in targets:
        for name, level in target.levels.items():
            zeros = level.per_picture.new_zeros(groups, len(level.per_picture))
            started = torch.full((len(level.layers),), ema_start == "zero", device=zeros.device)
            state[f"{target.name}|{name}"] = Average(zeros, zeros, started)
    return state


def matching_loss(
    sums: Mapping[str, LayerSums],
    target: Target,
    state: Mapping[str, Average],
    batch: int,
    alpha: float,
) -> tuple[Tensor, Tensor, State]:
    """L'_BN (Eq. 6) and L'_Conv (Eq. 10) of each group through one teacher, and the new EMA.

    Args:
        sums: What the layers saw, by module path; a layer that is not in it is dropped this time.
        target: The teacher and its global statistics.
        state: The EMA so far, of at least this teacher.
        batch: Images in a group.
        alpha: Weight of the past in the EMA.

    Returns:
        The two losses, unweighted, float64 (groups,), and this teacher's new EMA; a dropped layer
        keeps its own.
    """
    changed: State = {}
    boundary = len(target.batchnorm)
    batchnorm = conv = torch.zeros((), dtype=torch.float64, device=target.factors.device)
    for name, level in target.levels.items():
        if not level.layers:
            continue
        key = f"{target.name}|{name}"
        distances, changed[key] = _level_distances(level, name, sums, state[key], batch, alpha)
        if name == "channel":
            distances = distances * target.factors
            batchnorm = distances[:, :boundary].sum(dim=1)
            conv = conv + distances[:, boundary:].sum(dim=1)
        else:
            conv = conv + (distances * target.factors[boundary:]).sum(dim=1)
    return batchnorm, conv, changed


def _level_distances(
    level: Level,
    name: str,
    sums: Mapping[str, LayerSums],
    average: Average,
    batch: int,
    alpha: float,
) -> tuple[Tensor, Average]:
    """Distance of each layer's blended moments from the wanted ones, (groups, layers); new EMA."""
    groups = len(average.mean)
    absent = torch.zeros(2, groups, max(level.sizes), device=level.owner.device)
    parts = [
        getattr(sums[path], name).flatten(start_dim=2) if path in sums else absent[..., :size]
        for path, size in zip(level.layers, level.sizes, strict=True)
    ]
    kept = torch.tensor([path in sums for path in level.layers]).to(level.owner.device)
    current = finalize(Sums(level.per_picture * batch, *torch.cat(parts, dim=2).double()))
    begun, present = average.started[level.owner], kept[level.owner]
    blended = Moments(*(
        torch.where(begun, ema(past, now, alpha), now)
        for past, now in zip((average.mean, average.variance), current, strict=True)
    ))  # fmt: skip
    distances = match(blended, level.wanted, level.owner, len(level.layers)) * kept
    mean, variance = (
        torch.where(present, value.detach(), past)
        for past, value in zip((average.mean, average.variance), blended, strict=True)
    )
    return distances, Average(mean, variance, average.started | kept)
