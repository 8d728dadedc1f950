"""Difficulty groups: match the k-th image of each class with real pictures of its difficulty (PSM).

The pictures of each class are ordered from easy to hard and divided into as many groups as the
class has images. Image k of each class is matched with the statistics of group k, of all classes
together, and may start from a picture of its own class in that group. PSM measures difficulty by
the teachers' BatchNorm, and records its moving averages over a group; here the moments of a group
are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from gvbsm.method.capture import HookedObserver
from gvbsm.method.layers import input_shapes, matched_layers
from gvbsm.method.matching import Teacher
from gvbsm.method.moments import Moments, Sums, finalize
from gvbsm.method.synthesis import Extra, State


def layer_distance(moments: Moments, layer: nn.Module) -> Tensor:
    """Distance of single pictures' moments from those that a BatchNorm layer recorded, (pictures,).

    (||mu_i - mu|| + ||log((var_i + eps) / (var + eps))||) / sqrt(channels). The layer's eps is not
    PSM's: a picture whose channel is constant would be infinitely far without it.

    Args:
        moments: Over the pixels of each picture, float64 (pictures, channels).
        layer: A BatchNorm layer with running moments.
    """
    mean, variance = (layer.get_buffer(f"running_{name}").double() for name in ("mean", "var"))
    eps = float(layer.eps)  # type: ignore[arg-type]
    shift = torch.linalg.vector_norm(moments.mean - mean, dim=1)
    ratio = torch.linalg.vector_norm(((moments.variance + eps) / (variance + eps)).log(), dim=1)
    distance: Tensor = (shift + ratio) / math.sqrt(len(mean))
    return distance


class PictureDistances:
    """Measures how far pictures lie from what a teacher's BatchNorm recorded, mean over its layers.

    Args:
        model: The network in eval mode, with BatchNorm; none of its layers may change its input in
            place.
        image_shape: (channels, height, width) of a picture.
    """

    def __init__(self, model: nn.Module, image_shape: Sequence[int]) -> None:
        self._layers = matched_layers(model).batchnorm
        shapes = input_shapes(model, self._layers, image_shape)
        self._pixels = {path: torch.tensor(math.prod(shape[1:])) for path, shape in shapes.items()}
        self._observer = HookedObserver(model, self._layers, max(image_shape[1:]), exact=True)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the distances of normalized pictures, float64 (batch,)."""
        with torch.no_grad():
            _, sums = self._observer(pictures, self._layers, len(pictures))
        return torch.stack(
            [
                layer_distance(finalize(Sums(pixels, *sums[path].channel)), self._layers[path])
                for path, pixels in self._pixels.items()
            ]
        ).mean(dim=0)


def difficulty(distances: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Difficulty of pictures: mean over the teachers of their rank in their class, (pictures,).

    Ranks and not distances are averaged, because those of different networks have no common scale.

    Args:
        distances: Of all pictures by one teacher each, (pictures,).
        labels: Classes of the pictures, int64 (pictures,).

    Returns:
        float64, from 0 to the pictures of the class - 1.
    """
    ranks = torch.stack([ranks_in_class(values, labels) for values in distances])
    return ranks.double().mean(dim=0)


def ranks_in_class(values: Tensor, labels: Tensor) -> Tensor:
    """Rank of each value in its class, from 0; equal ones in their order, int64 (n,)."""
    order, sizes = _from_easy_to_hard(values, labels), torch.bincount(labels)
    firsts = sizes.cumsum(0) - sizes
    return torch.empty_like(order).scatter(
        0, order, torch.arange(len(values)) - firsts[labels[order]]
    )


def _from_easy_to_hard(values: Tensor, labels: Tensor) -> Tensor:
    """Return the indices of pictures class by class, each class by ascending value."""
    order = values.argsort(stable=True)
    return order[labels[order].argsort(stable=True)]


def group_numbers(values: Tensor, labels: Tensor, counts: Sequence[int]) -> Tensor:
    """Divide the pictures of each class, from easy to hard, into groups of equal size: int64 (n,).

    The sizes in a class differ by one at most. A class with fewer pictures than groups has some
    empty ones, and each of its pictures lies at its share of the order.

    Args:
        values: Difficulty of each picture, (n,).
        labels: Classes of the pictures, int64 (n,).
        counts: Groups of each class, (classes,).
    """
    sizes = torch.bincount(labels, minlength=len(counts))
    groups = torch.tensor(counts)
    return ranks_in_class(values, labels) * groups[labels] // sizes[labels]


def group_ends(
    values: Tensor, labels: Tensor, counts: Sequence[int], end: Literal["front", "back"]
) -> Tensor:
    """Take the easiest (front) or the hardest (back) picture of each group: int64 (groups,).

    Args:
        values: Difficulty of each picture, (n,).
        labels: Classes of the pictures, int64 (n,); each has as many pictures as groups at least.
        counts: Groups of each class, (classes,).
        end: front or back.

    Returns:
        Indices of pictures, class by class and from easy to hard.
    """
    sizes = torch.bincount(labels, minlength=len(counts)).tolist()
    by_class = torch.split(_from_easy_to_hard(values, labels), sizes)
    chosen = []
    for members, count in zip(by_class, counts, strict=True):
        first = -(-torch.arange(count + 1) * len(members) // count)  # rounded up
        chosen.append(members[first[:-1] if end == "front" else first[1:] - 1])
    return torch.cat(chosen)


class DifficultyGroups(Extra):
    """Puts the moments of the images' difficulty group in the place of the data's.

    All images of a batch belong to one difficulty group, so that their statistics are compared with
    those of pictures of all classes, as without groups. BatchNorm layers too are matched with what
    was recorded.

    Args:
        numbers: Difficulty group of each group of images in the stack, int64 (groups,).
        targets: Teacher -> level -> moments of each difficulty group, float64 (numbers, n).
    """

    name = "difficulty_groups"

    def __init__(self, numbers: Tensor, targets: Mapping[str, Mapping[str, Moments]]) -> None:
        self._targets = {
            teacher: {
                name: Moments(*(values[numbers.to(values.device)] for values in moments))
                for name, moments in levels.items()
                if len(moments.mean)  # there are none without layers
            }
            for teacher, levels in targets.items()
        }

    def before(self, state: State, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
        """Return the teachers with the moments of the difficulty groups as their targets."""
        return [self._with_targets(teacher) for teacher in teachers]

    def _with_targets(self, teacher: Teacher) -> Teacher:
        targets = self._targets[teacher.name]
        levels = {
            name: level._replace(target=targets.get(name, level.target))
            for name, level in teacher.levels.items()
        }
        return replace(teacher, levels=levels)
