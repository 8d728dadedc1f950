"""The settings that change the cost of a kind of work."""

from __future__ import annotations

from gvbsm.config import Config


def view_settings(config: Config, count: int) -> dict[str, object]:
    """What the time of drawing and storing the views of a set depends on."""
    labels, storage = config.labels, config.labels.storage
    return {
        "views": labels.views,
        "images": count,
        "top_k": storage.top_k,
        "bits": storage.bits,
        "normalized": labels.logit_normalization,
    }


def pixel_settings(config: Config, ipc: int) -> tuple[tuple[str, object], ...]:
    """What the time of an iteration of the synthesis depends on.

    Args:
        config: The settings.
        ipc: Images per class, on average and rounded up.
    """
    section = config.synthesis
    terms = ("batchnorm", "conv", "densification", "class", "flatness", "absorption")
    weights = [(f"weight_{term}", float(getattr(section, f"weight_{term}") > 0)) for term in terms]
    names = ["batch_size", "loop", "beta_dr", "densification", "views", "groups", "extra"]
    names += ["crop_tiles"] if section.weight_absorption else []
    rest = [(name, getattr(section, name)) for name in names]
    optimizer = ("optimizer", section.optimizer.name)
    return (*weights, *rest, optimizer, ("n_p", config.statistics.n_p), ("ipc", ipc))
