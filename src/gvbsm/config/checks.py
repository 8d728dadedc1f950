"""What each single setting may be: numbers, optimizers, views."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gvbsm.config import Config, OptimizerConfig, ViewConfig
from gvbsm.config.keys import value_at

_POSITIVE = (
    "ipc squeeze.epochs squeeze.batch_size squeeze.tests statistics.n_p statistics.batch_size "
    "statistics.passes synthesis.iterations synthesis.batch_size synthesis.tau "
    "synthesis.flatness_tau labels.epochs "
    "labels.batch_size labels.temperature evaluation.seeds evaluation.batch_size evaluation.tests "
    "evaluation.temperature baselines.draws squeeze.optimizer.lr synthesis.optimizer.lr "
    "evaluation.optimizer.lr continual.steps continual.orders"
)

_NOT_NEGATIVE = (
    "checkpoint_seconds labels.min_steps labels.full_batch_up_to evaluation.gamma "
    "synthesis.weight_cross_entropy synthesis.weight_batchnorm synthesis.weight_conv "
    "synthesis.weight_densification synthesis.weight_flatness synthesis.first_layer_multiplier"
)

_SEEDS = (
    "seed",
    "data.split_seed",
    "squeeze.seed",
    "synthesis.seed",
    "labels.seed",
    "evaluation.seed",
)


def limit_faults(config: Config) -> Iterator[str | None]:
    """Which settings are out of their limits, one line a fault; None stands for no fault."""
    yield from _number_faults(config)
    yield from _section_faults(config)


def _number_faults(config: Config) -> Iterator[str | None]:
    synthesis = config.synthesis
    for names, fault in ((_POSITIVE, _positive), (_NOT_NEGATIVE, _not_negative)):
        for name in names.split():
            value = value_at(config, name)
            yield fault(name, value)
    for name in ("alpha", "residual", "flatness_decay"):
        yield _chance(f"synthesis.{name}", getattr(synthesis, name), closed=False)
    yield _chance("evaluation.ema", config.evaluation.ema, closed=False)
    for name in ("beta_dr", "weight_class"):
        yield _chance(f"synthesis.{name}", getattr(synthesis, name), closed=True)
    if not 0 < config.data.val_fraction < 1:
        yield f"data.val_fraction must be in (0, 1), got {config.data.val_fraction}"
    yield from _table_faults(config)
    for name, count in (
        ("threads", config.threads),
        ("synthesis.groups", synthesis.groups),
        ("squeeze.micro_batch", config.squeeze.micro_batch),
        ("evaluation.micro_batch", config.evaluation.micro_batch),
        ("labels.storage.top_k", config.labels.storage.top_k),
        ("continual.epochs", config.continual.epochs),
        ("coreset.epochs", config.coreset.epochs),
    ):
        if count is not None:
            yield _positive(name, count)
    yield from _seed_faults(config)
    yield _not_negative("continual.min_steps", config.continual.min_steps or 0)
    yield _not_negative("data.workers", config.data.workers or 0)


def _table_faults(config: Config) -> Iterator[str | None]:
    for ipc, chance in config.synthesis.beta_dr_of.items():
        yield _positive("a number of images in synthesis.beta_dr_of", ipc)
        yield _chance(f"synthesis.beta_dr_of.{ipc}", chance, closed=True)
    for student, rate in config.evaluation.lr_of.items():
        yield _positive(f"evaluation.lr_of.{student}", rate)
    for teacher, weight in config.labels.weights.items():
        yield _not_negative(f"labels.weights.{teacher}", weight)


def _seed_faults(config: Config) -> Iterator[str]:
    """Seeds that do not fit into the 64 bits of a header or a generator."""
    for name in _SEEDS:
        value = value_at(config, name)
        if value is not None and not -(2**63) <= value < 2**63:
            yield f"{name} must have at most 64 bits, got {value}"
    if config.data.split_seed < 0:
        yield f"data.split_seed must not be negative, got {config.data.split_seed}"


def _section_faults(config: Config) -> Iterator[str | None]:
    if not 0 < config.data.test_crop <= 1:
        yield f"data.test_crop must be in (0, 1], got {config.data.test_crop}"
    for section in ("squeeze", "synthesis", "evaluation"):
        yield from _optimizer_faults(f"{section}.optimizer", getattr(config, section).optimizer)
    if config.synthesis.optimizer.name == "muon":
        yield "synthesis.optimizer.name must not be muon, which moves matrices: pixels are none"
    for section in ("squeeze", "synthesis", "labels"):
        yield from _view_faults(f"{section}.views", getattr(config, section).views)
    for section in ("squeeze", "synthesis"):
        for key in ("cutmix", "mixup", "shuffle"):
            if getattr(getattr(config, section).views, key):
                yield f"{section}.views.{key} must be 0: only labels.views mixes images"


def _optimizer_faults(name: str, optimizer: OptimizerConfig) -> Iterator[str | None]:
    for position, beta in enumerate(optimizer.betas):
        yield _chance(f"{name}.betas[{position}]", beta, closed=False)
    yield _chance(f"{name}.momentum", optimizer.momentum, closed=False)
    yield _not_negative(f"{name}.weight_decay", optimizer.weight_decay)
    yield _chance(f"{name}.warmup", optimizer.warmup, closed=False)
    if not 1 <= optimizer.zeta < math.inf:
        yield f"{name}.zeta must be at least 1 (and finite), got {optimizer.zeta}"
    if optimizer.schedule == "constant" and optimizer.zeta != 1:
        yield f"{name}.zeta stretches the cosine of {name}.schedule=cosine or ssrs, not a constant"


def _view_faults(name: str, views: ViewConfig) -> Iterator[str | None]:
    low, high = views.scale
    if not 0 < low <= high <= 1:
        yield f"{name}.scale must satisfy 0 < low <= high <= 1, got {list(views.scale)}"
    if not 0 < views.ratio[0] <= views.ratio[1]:
        yield f"{name}.ratio must satisfy 0 < low <= high, got {list(views.ratio)}"
    for key in ("padding", "roll", "cutmix", "mixup", "shuffle"):
        yield _not_negative(f"{name}.{key}", getattr(views, key))


def _positive(name: str, value: float) -> str | None:
    if math.isfinite(value):
        return None if value > 0 else f"{name} must be positive, got {value}"
    return f"{name} must be finite, got {value}"


def _not_negative(name: str, value: float) -> str | None:
    if math.isfinite(value):
        return None if value >= 0 else f"{name} must not be negative, got {value}"
    return f"{name} must be finite, got {value}"


def _chance(name: str, value: float, *, closed: bool) -> str | None:
    fits = 0 <= value <= 1 if closed else 0 <= value < 1
    return None if fits else f"{name} must be in [0, 1{']' if closed else ')'}, got {value}"


def later_papers_faults(config: Config) -> Iterator[str]:
    """Which settings of later papers' ideas do not go together, one line a fault."""
    synthesis = config.synthesis
    low, high = synthesis.crop_scale
    if not 0 < low <= high <= 1:
        yield f"synthesis.crop_scale must satisfy 0 < low <= high <= 1, got {[low, high]}"
    if synthesis.init != "crops" and synthesis.crop_tiles != 1:
        yield (
            f"synthesis.crop_tiles={synthesis.crop_tiles} tiles crops, but synthesis.init is "
            f"{synthesis.init}; set synthesis.init=crops, or leave crop_tiles out"
        )
    if not 1 <= synthesis.stages <= max(synthesis.iterations, 1):
        yield (
            f"synthesis.stages must be from 1 to synthesis.iterations ({synthesis.iterations}), "
            f"got {synthesis.stages}"
        )
    sizes = synthesis.stage_sizes
    if sizes and (len(sizes) != synthesis.stages or min(sizes) < 1):
        yield (
            "synthesis.stage_sizes must name a side of 1 pixel or more for each of "
            f"synthesis.stages ({synthesis.stages}), got {list(sizes)}"
        )
    if synthesis.residual and synthesis.stages == 1:
        yield "synthesis.residual acts between stages, but synthesis.stages is 1; take more"
    if synthesis.residual and synthesis.init == "noise":
        yield (
            "synthesis.residual mixes the real start into the images, but synthesis.init is noise; "
            "set synthesis.init=real, or leave residual out"
        )
    if not 1 <= synthesis.rounds <= max(min(config.ipc, synthesis.iterations), 1):
        yield (
            "synthesis.rounds must be from 1 to the images of a class, ipc "
            f"({config.ipc}), and to synthesis.iterations ({synthesis.iterations}), "
            f"got {synthesis.rounds}"
        )
    if synthesis.rounds > 1 and synthesis.init == "noise":
        yield (
            "synthesis.rounds lets images begin late from their real start, but synthesis.init is "
            "noise; set synthesis.init=real, or leave rounds out"
        )
