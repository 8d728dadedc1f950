"""What a teacher's layers are to see, all layers end to end, and how far a batch is from it (GSM).

The statistics of all matched layers lie in one vector a level, channels or patches, so that a step
blends and compares them in a dozen operations and not in a dozen for each layer. A vector's last
size is n, over all layers; a table's is the number of layers. Groups of images stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.backbones import matched_layers
from gvbsm.config import SynthesisConfig
from gvbsm.files.artifacts import ArtifactError
from gvbsm.method.capture import LayerSums, input_shapes
from gvbsm.method.losses import match
from gvbsm.method.moments import Moments, Sums, counts, ema, finalize


@dataclass(frozen=True)
class Statistics:
    """One teacher's global statistics.

    Attributes:
        channel: For each convolution (module path), its input's channel moments, (channels,).
        patch: For each convolution, its input's patch moments, (patch rows, patch columns).
        class_channel: If asked for, for each convolution and BatchNorm layer the moments of each
            class's pictures, (classes, channels).
        class_patch: The same of each convolution's patches, (classes, patch rows, patch columns).
    """

    channel: dict[str, Moments]
    patch: dict[str, Moments]
    class_channel: dict[str, Moments] = field(default_factory=dict)
    class_patch: dict[str, Moments] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors: `PATH/LEVEL/{mean,variance}`, LEVEL the name of the attribute."""
        return {
            f"{path}/{level}/{name}": value
            for level in (item.name for item in fields(self))
            for path, moments in getattr(self, level).items()
            for name, value in moments._asdict().items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """The inverse of `tensors`."""
        tables: dict[str, dict[str, Moments]] = {item.name: {} for item in fields(cls)}
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
        levels: "channel" and "patch" -> the vectors; patches are of pictures of the data's side.
        factors: Weight of each of the channel level's layers in its sum, float64 (layers,).
        classes: Level -> each class's moments, float64 (classes, n) each; empty if not matched.
    """

    name: str
    model: nn.Module
    batchnorm: tuple[str, ...]
    conv: tuple[str, ...]
    levels: dict[str, Level]
    factors: Tensor
    classes: dict[str, Moments] = field(default_factory=dict)


State = dict[str, Average]
"""EMA of each teacher's levels: "TEACHER|LEVEL" -> average; "TEACHER|LEVEL|class" is by class."""


class Members(NamedTuple):
    """The classes that are in each group: a row for every pair of a group and a class in it.

    Attributes:
        row: Row of each image, int64 (groups * batch,).
        group: Group of each row, int64 (rows,).
        label: Class of each row, int64 (rows,).
        size: Images of each row, float64 (rows,).
        share: One over the number of classes in the row's group, float64 (rows,).
    """

    row: Tensor
    group: Tensor
    label: Tensor
    size: Tensor
    share: Tensor


def find_members(labels: Tensor, groups: int) -> Members:
    """Sort images into groups and classes.

    Args:
        labels: Classes of the images, group after group, int64 (groups * batch,).
        groups: Number of groups.
    """
    group = torch.arange(groups, device=labels.device).repeat_interleave(len(labels) // groups)
    pairs, row, count = torch.unique(
        torch.stack([group, labels]), dim=1, return_inverse=True, return_counts=True
    )
    present = torch.bincount(pairs[0], minlength=groups).double()
    return Members(row, pairs[0], pairs[1], count.double(), 1 / present[pairs[0]])


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
        statistics: What was recorded of it; None if `config` matches neither convolutions nor
            classes.
        config: The stage's settings.
        n_p: Side of a patch in pixels.
        image_shape: (channels, height, width) of a picture.
    """
    found = matched_layers(model)
    device = next(model.parameters()).device
    batchnorm = tuple(found.batchnorm) if config.weight_batchnorm else ()
    conv = tuple(found.conv) if statistics is not None and config.weight_conv else ()
    channel: list[Moments] = []
    for path in batchnorm:
        layer = found.batchnorm[path]
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
    classes = {}
    if config.weight_class and statistics is not None:
        for level, table in (
            ("channel", statistics.class_channel), ("patch", statistics.class_patch)
        ):  # fmt: skip
            classes[level] = _by_class([table[path] for path in levels[level].layers], device)
    return Target(name, model, batchnorm, conv, levels, weights, classes)


def at_side(target: Target, image_shape: Sequence[int]) -> Target:
    """What a teacher's layers are to see of pictures of another side (FADRM's stages).

    Channels are the same at any side, and are compared with the moments that the data have at their
    own side, as FADRM does with BatchNorm's. A patch is a place in a map of the data's side, which
    has no like in a map of another: patches are not compared.

    Args:
        target: The same for pictures of the data's side.
        image_shape: (channels, height, width) of a picture.
    """
    level = target.levels["channel"]
    shapes = input_shapes(target.model, level.layers, image_shape)
    numbers = [counts(shapes[path], 1)[0].to(level.per_picture.device) for path in level.layers]
    per_picture = torch.cat([level.per_picture[:0], *numbers])
    return replace(target, levels={"channel": level._replace(per_picture=per_picture)})


def _by_class(parts: Sequence[Moments], device: torch.device) -> Moments:
    """Moments of each class, all layers end to end, float64 (classes, n)."""
    none = torch.zeros(len(parts[0].mean) if parts else 0, 0)
    return Moments(*(
        torch.cat([none, *(getattr(part, name).flatten(start_dim=1) for part in parts)], dim=1)
        .to(device, torch.float64) for name in Moments._fields
    ))  # fmt: skip


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


def empty_state(
    targets: Sequence[Target], groups: int, ema_start: str, members: Members | None = None
) -> State:
    """The EMA before the first step: nothing, or zeros as in the authors' code.

    With `members`, classes have averages of their own.
    """
    state: State = {}
    for target in targets:
        for name, level in target.levels.items():
            started = torch.full(
                (len(level.layers),), ema_start == "zero", device=level.per_picture.device
            )
            rows = {"": groups} | ({} if members is None else {"|class": len(members.group)})
            for suffix, count in rows.items():
                zeros = level.per_picture.new_zeros(count, len(level.per_picture))
                state[f"{target.name}|{name}{suffix}"] = Average(zeros, zeros, started)
    return state


def matching_loss(
    sums: Mapping[str, LayerSums],
    target: Target,
    state: Mapping[str, Average],
    batch: int,
    alpha: float,
    members: Members | None = None,
    share: float = 0.0,
) -> tuple[Tensor, Tensor, State]:
    """L'_BN (Eq. 6) and L'_Conv (Eq. 10) of each group through one teacher, and the new EMA.

    Args:
        sums: What the layers saw, by module path; a layer that is not in it is dropped this time.
        target: The teacher and its global statistics.
        state: The EMA so far, of at least this teacher.
        batch: Images in a group.
        alpha: Weight of the past in the EMA.
        members: The classes in each group, if these are compared too (EDC, NeurIPS 2024, section
            3.3.2, in an exact form): then `sums` are those of each picture, as of groups of one.
        share: Weight of the classes' comparison, the mean over the classes in a group; that of all
            images together has the rest.

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
        seen, kept = _seen(level, name, sums, len(state[key].mean) * (batch if members else 1))
        whole = seen if members is None else seen.view(2, -1, batch, seen.shape[2]).sum(dim=2)
        each = level.per_picture
        distances, changed[key] = _distances(
            level, kept, Sums(each * batch, *whole), level.wanted, state[key], alpha
        )
        if members is not None:
            own = seen.new_zeros(2, len(members.group), seen.shape[2])
            own = own.index_add(1, members.row, seen)
            wanted = Moments(*(part[members.label] for part in target.classes[name]))
            of_class, changed[f"{key}|class"] = _distances(
                level, kept, Sums(each * members.size[:, None], *own), wanted,
                state[f"{key}|class"], alpha,
            )  # fmt: skip
            of_class = of_class * members.share[:, None]
            mean = torch.zeros_like(distances).index_add(0, members.group, of_class)
            distances = (1 - share) * distances + share * mean
        if name == "channel":
            distances = distances * target.factors
            batchnorm = distances[:, :boundary].sum(dim=1)
            conv = conv + distances[:, boundary:].sum(dim=1)
        else:
            conv = conv + (distances * target.factors[boundary:]).sum(dim=1)
    return batchnorm, conv, changed


def _seen(
    level: Level, name: str, sums: Mapping[str, LayerSums], rows: int
) -> tuple[Tensor, Tensor]:
    """Sums of all layers end to end, float64 (2, rows, n), and which are there, bool (layers,)."""
    absent = torch.zeros(2, rows, max(level.sizes), device=level.owner.device)
    parts = [
        getattr(sums[path], name).flatten(start_dim=2) if path in sums else absent[..., :size]
        for path, size in zip(level.layers, level.sizes, strict=True)
    ]
    kept = torch.tensor([path in sums for path in level.layers]).to(level.owner.device)
    return torch.cat(parts, dim=2).double(), kept


def _distances(
    level: Level, kept: Tensor, seen: Sums, wanted: Moments, average: Average, alpha: float
) -> tuple[Tensor, Average]:
    """Distance of each layer's blended moments from the wanted ones, (rows, layers); new EMA."""
    current = finalize(seen)
    begun, present = average.started[level.owner], kept[level.owner]
    blended = Moments(*(
        torch.where(begun, ema(past, now, alpha), now)
        for past, now in zip((average.mean, average.variance), current, strict=True)
    ))  # fmt: skip
    distances = match(blended, wanted, level.owner, len(level.layers)) * kept
    mean, variance = (
        torch.where(present, value.detach(), past)
        for past, value in zip((average.mean, average.variance), blended, strict=True)
    )
    return distances, Average(mean, variance, average.started | kept)
