"""Settings of the stages; the defaults are the paper's rows for CIFAR (table 9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gvbsm.config.fields import setting
from gvbsm.config.optimizer import OptimizerConfig
from gvbsm.config.views import ViewConfig

Parallel = Literal["networks", "pictures"]


@dataclass(frozen=True)
class SqueezeConfig:
    """Training of the teachers.

    Args:
        backbones: Names of the teachers' architectures.
        pretrained: Take the library's weights (torchvision/..., timm/...) and train nothing.
        weights_dir: Folder that holds these weights (or your own, of any network) as files; none
            lets the libraries find or download them. See docs/imagenet.md for the names.
        epochs: Passes over the training set.
        batch_size: Pictures in a step.
        micro_batch: Most pictures that pass through a teacher at once: a step's gradients are
            summed over such parts. The same up to rounding, except that BatchNorm sees each part
            by itself; none takes the whole batch.
        optimizer: Optimiser of the teachers.
        views: Augmentation of the real pictures.
        tests: How often the test accuracy is measured, evenly spread, the last epoch included.
        parallel: Of several processes, each trains networks of its own (networks), or all share
            each step's pictures of one network (pictures).
        seed: Seed of teachers, their statistics and forgetting; none takes the run's.
        settings_of: Settings of single teachers where they differ from those above: pretrained,
            epochs, batch_size, micro_batch, and any of optimizer and views, such as
            {wrn16_2: {epochs: 24, views: {crop: resized}}}. Teachers that are not trained may
            stand there, too.
    """

    backbones: tuple[str, ...] = setting(
        ("resnet18", "convnet128", "mobilenet_v2_x0_5", "wrn16_2", "shufflenet_v2_x0_5"),
        in_recipe=False,
    )
    pretrained: bool = setting(False, of_one_teacher=True)
    weights_dir: str | None = setting(None, changes_results=False)
    epochs: int = setting(50, limit="positive", of_one_teacher=True, reducible=True)
    batch_size: int = setting(64, limit="positive", of_one_teacher=True)
    micro_batch: int | None = setting(None, limit="positive", of_one_teacher=True)
    optimizer: OptimizerConfig = setting(OptimizerConfig, of_one_teacher=True)
    views: ViewConfig = setting(lambda: ViewConfig(crop="pad"), of_one_teacher=True)
    tests: int = setting(5, limit="positive", in_recipe=False)
    parallel: Parallel = setting("networks", changes_results=False)
    seed: int | None = setting(None, limit="64 bits", in_recipe=False)
    settings_of: dict[str, dict[str, Any]] = setting(dict, in_recipe=False)


@dataclass(frozen=True)
class StatisticsConfig:
    """The pass that records each convolution's global statistics (section 3.3).

    Args:
        n_p: Side of a patch in pixels of the feature map.
        batch_size: Pictures in a step of the pass; the result does not depend on it.
        passes: Views of each picture that are recorded.
    """

    n_p: int = setting(4, limit="positive")
    batch_size: int = setting(256, limit="positive", in_recipe=False)
    passes: int = setting(1, limit="positive")


@dataclass(frozen=True)
class SynthesisConfig:
    """Optimisation of the images.

    Args:
        backbones: Teachers that are matched (GBM); none takes all of squeeze.backbones.
        backbone_order: uniform draws one for each iteration (Eq. 7); round_robin takes turns.
        init: Start from noise (the paper), or from real pictures of the class: random (real), by
            herding with coreset.backbone (herding), of the lowest loss under the mean logits of the
            teachers (lowest_loss), or the best of random crops (crops, as RDED).
        crop_tiles: With init=crops, tiles along a side of an image: 1, or 2 for four in an image.
        crop_scale: With init=crops, smallest and largest share of a picture's area in a crop.
        iterations: Steps for each batch of images.
        stages: Equal parts that the iterations are cut into; each begins without the optimiser's
            moments. One is the paper's.
        stage_sizes: Side in pixels of the images in each part, that of the pictures in the last
            (FADRM on ImageNet); without any, it is that of the pictures in all.
        residual: Share of the real start that is mixed into the images after each part but the
            last (FADRM); 0 is off.
        rounds: Parts that the images of a class are cut into, by their number within it. Those of
            part r = 0, 1, ... begin r/rounds of the iterations late, from their real start (DELT).
            One is the paper's.
        batch_size: Images that are optimised together.
        loop: reorder (a batch holds several images of few classes) or original (one image of each
            class at most, so that no batch is larger than the number of classes).
        optimizer: Optimiser of the pixels.
        views: Augmentation before the teacher; the statistics pass sees real pictures the same way.
        alpha: Weight of the past in the EMA of batch statistics (Eq. 6); 0 is no EMA.
        ema_start: first starts the EMA at the first batch, zero at 0 as the authors' code does.
        beta_dr: Probability that a convolution's matching is dropped in an iteration.
        beta_dr_of: beta_dr at single numbers of images per class, such as {10: 0.0}; at these
            beta_dr is not read.
        weight_cross_entropy: Weight of the classification term.
        weight_batchnorm: Weight of L'_BN (Eq. 6); 0 is off.
        weight_conv: Weight of L'_Conv (Eq. 10); 0 is off.
        weight_densification: Weight of L_DD (Eq. 5); 0 is off.
        weight_class: Share of the comparison with the statistics of each class (EDC) in L'_BN and
            L'_Conv, beside that with those of all; 0 is off.
        weight_flatness: Weight of the flatness term (EDC): the logits are to stay near those of an
            EMA copy of the images; 0 is off.
        flatness_decay: Weight of the past in that copy.
        flatness_tau: Temperature at which the logits are compared.
        first_layer_multiplier: Extra weight of the first matched layer of each teacher.
        tau: Temperature of L_DD.
        densification: exact is Eq. 5; scaled divides each Gram matrix by its mean eigenvalue first.
        rounding: How finished pixels become one of 256 levels: nearest, or truncate (to the level
            below, as the authors' code).
        groups: Batches that share each pass of a network; none takes 1 on a CPU, many on a GPU.
        compile: Compile each network with its statistics; auto does so where the work is long.
        seed: Seed of the images; none takes the run's.
    """

    backbones: tuple[str, ...] | None = setting(None, chooses_teachers=True)
    backbone_order: Literal["uniform", "round_robin"] = "uniform"
    init: Literal["noise", "real", "herding", "lowest_loss", "crops"] = "noise"
    crop_tiles: Literal[1, 2] = 1
    crop_scale: tuple[float, float] = (0.08, 1.0)
    iterations: int = setting(4000, limit="positive", reducible=True)
    stages: int = 1
    stage_sizes: tuple[int, ...] = ()
    residual: float = setting(0.0, limit="[0, 1)")
    rounds: int = 1
    batch_size: int = setting(50, limit="positive")
    loop: Literal["reorder", "original"] = "reorder"
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adam", lr=0.05, betas=(0.5, 0.9))
    )
    views: ViewConfig = field(default_factory=ViewConfig)
    alpha: float = setting(0.8, limit="[0, 1)")
    ema_start: Literal["first", "zero"] = "first"
    beta_dr: float = setting(0.4, limit="[0, 1]")
    beta_dr_of: dict[int, float] = setting(dict, in_recipe=False)
    weight_cross_entropy: float = setting(1.0, limit="not negative")
    weight_batchnorm: float = setting(0.01, limit="not negative")
    weight_conv: float = setting(0.01, limit="not negative")
    weight_densification: float = setting(1.0, limit="not negative")
    weight_class: float = setting(0.0, limit="[0, 1]")
    weight_flatness: float = setting(0.0, limit="not negative")
    flatness_decay: float = setting(0.99, limit="[0, 1)")
    flatness_tau: float = setting(4.0, limit="positive")
    first_layer_multiplier: float = setting(10.0, limit="not negative")
    tau: float = setting(4.0, limit="positive")
    densification: Literal["exact", "scaled"] = "exact"
    rounding: Literal["nearest", "truncate"] = "nearest"
    groups: int | None = setting(None, limit="positive", changes_results=False)
    compile: Literal["auto", "always", "never"] = setting("auto", changes_results=False)
    seed: int | None = setting(None, limit="64 bits", in_recipe=False)


@dataclass(frozen=True)
class LabelStorageConfig:
    """How soft labels are kept on disk (docs/labels.md); the defaults keep them as they are.

    Args:
        pruning: Keep the labels of one epoch in so many; students draw from this pool (LPLD). Only
            what is kept is labelled at all.
        top_k: Largest logits that are kept of each view, the others as their mean; null keeps all.
        bits: Bits of a logit: 16 (half precision), or 8 (256 levels between a view's extremes).
    """

    pruning: float = 1.0
    top_k: int | None = setting(None, limit="positive")
    bits: Literal[16, 8] = 16


@dataclass(frozen=True)
class LabelsConfig:
    """Soft labels of every view of every epoch.

    Args:
        backbones: Teachers of the ensemble; none takes all of squeeze.backbones.
        epochs: Epochs that are labelled, and for which the students train; see min_steps.
        min_steps: Least training steps; a set too small for them in its epochs gets more epochs.
        batch_size: Images that are labelled together, in the order of training.
        full_batch_up_to: A set of at most this many images is one batch, in labelling and training.
        views: Augmentation of the distilled images.
        logit_normalization: Bring all teachers' logits to one norm before the mean (Eq. 8, w/ LN).
        logit_normalization_of: logit_normalization for single students, such as {resnet50: false},
            which learn from labels of their own.
        store: Keep the labels on disk (true) or let the teachers label during training (false).
        storage: How they are kept on disk.
        seed: Seed of the views of the labels; none takes the run's.
        temperature: By what the ensemble's logits are divided before they are kept or learnt.
        weights: How much single teachers count in the ensemble's mean; one that is not named has 1.
        batchnorm: By what moments the teachers' BatchNorm normalizes: running (those recorded in
            training) or batch (those of the views that are labelled together; BSSL).
    """

    backbones: tuple[str, ...] | None = setting(None, chooses_teachers=True)
    epochs: int = setting(
        1000, limit="positive", read_by_train=True, with_hard_labels=True, reducible=True
    )
    min_steps: int = setting(0, limit="not negative", read_by_train=True, in_recipe=False)
    batch_size: int = setting(64, limit="positive")
    full_batch_up_to: int = setting(
        100, limit="not negative", read_by_train=True, with_hard_labels=True
    )
    views: ViewConfig = setting(
        lambda: ViewConfig(cutmix=1.0), read_by_train=True, with_hard_labels=True
    )
    logit_normalization: bool = False
    logit_normalization_of: dict[str, bool] = setting(dict, in_recipe=False)
    store: bool = setting(True, in_recipe=False)
    storage: LabelStorageConfig = field(default_factory=LabelStorageConfig)
    seed: int | None = setting(None, limit="64 bits", in_recipe=False)
    temperature: float = setting(1.0, limit="positive")
    weights: dict[str, float] = field(default_factory=dict)
    batchnorm: Literal["running", "batch"] = "running"


@dataclass(frozen=True)
class EvaluationConfig:
    """Training of fresh students on images and labels.

    Args:
        students: Names of the students' architectures.
        seeds: Students of each architecture; mean and deviation are over them.
        loss: mse_gt is Eq. 11; kl is SRe2L's; hard is cross-entropy with the hard labels alone.
        gamma: Weight of the cross-entropy in mse_gt.
        temperature: Temperature of kl.
        hard_target: Hard label of a mixed image: base (the unmixed image's) or mixed (by share).
        batch_size: Images in a step.
        micro_batch: Most images that pass through a student at once: a step's gradients are summed
            over such parts. The same up to rounding, except that BatchNorm sees each part by
            itself; none takes the whole batch.
        optimizer: Optimiser of the students.
        lr_of: Learning rate of single students where it differs from optimizer.lr.
        tests: How often the test accuracy is measured, evenly spread, the last epoch included.
        parallel: As squeeze.parallel.
        seed: Seed of the students; none takes the run's.
        ema: Decay for each step of the moving average of a student's parameters, which is tested
            (and saved by `gvbsm train`) in their place; 0 is off.
    """

    students: tuple[str, ...] = setting(("convnet128", "resnet18"), in_recipe=False)
    seeds: int = setting(3, limit="positive", in_recipe=False, reducible=True)
    loss: Literal["mse_gt", "kl", "hard"] = setting("mse_gt", read_by_train=True)
    gamma: float = setting(0.15, limit="not negative", read_by_train=True)
    temperature: float = setting(20.0, limit="positive", read_by_train=True)
    hard_target: Literal["base", "mixed"] = setting("base", read_by_train=True)
    batch_size: int = setting(64, limit="positive", read_by_train=True)
    micro_batch: int | None = setting(None, limit="positive")
    optimizer: OptimizerConfig = setting(
        lambda: OptimizerConfig(name="adamw", lr=0.001), read_by_train=True
    )
    lr_of: dict[str, float] = setting(dict, in_recipe=False)
    tests: int = setting(10, limit="positive", read_by_train=True)
    parallel: Parallel = setting("networks", changes_results=False)
    seed: int | None = setting(None, limit="64 bits", in_recipe=False)
    ema: float = setting(0.0, limit="[0, 1)", read_by_train=True)


@dataclass(frozen=True)
class CoresetConfig:
    """Selection of real pictures by herding, k-center and forgetting.

    Args:
        backbone: Teacher whose features herding and k-center compare, and architecture that
            forgetting trains afresh; none takes the first of squeeze.backbones.
        epochs: Epochs of forgetting's training; none takes squeeze.epochs.
    """

    backbone: str | None = None
    epochs: int | None = setting(None, limit="positive")
