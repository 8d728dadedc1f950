"""Say whether classes have few training pictures, or very different numbers of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

HEAVY = 10  # largest class over the smallest one, from which classes count as uneven


def class_counts(labels: Tensor, class_names: Sequence[str]) -> dict[str, int]:
    """Count the pictures of each class by its name; `labels` is int64 (pictures,)."""
    counts = labels.bincount(minlength=len(class_names)).tolist()
    return dict(zip(class_names, counts, strict=True))


def few_pictures(counts: Mapping[str, int], ipc: int) -> str:
    """Say how many classes have fewer training pictures than `ipc`; empty if none has.

    Args:
        counts: Training pictures by class name.
        ipc: Images per class.
    """
    few = sum(count < ipc for count in counts.values())
    if not few:
        return ""
    name = min(counts, key=counts.__getitem__)
    return (
        f"{few} of {len(counts)} classes ha{'s' if few == 1 else 've'} fewer training pictures "
        f"than the {ipc} images of a class ({name!r} has {counts[name]}): starts from real "
        "pictures take other crops of them, and selections of real pictures repeat them"
    )


def uneven_classes(counts: Mapping[str, int]) -> str:
    """Say which class is at least `HEAVY` times as large as which; empty if none is.

    Args:
        counts: Training pictures by class name.
    """
    ordered = sorted(counts, key=counts.__getitem__)
    small, large = ordered[0], ordered[-1]
    if counts[large] < HEAVY * max(counts[small], 1):
        return ""
    return (
        f"the classes are uneven: {large!r} has {counts[large]:,} training pictures, {small!r} "
        f"{counts[small]:,}"
    )
