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
        pretrained: Use published weights (torchvision/..., timm/...) instead of training.
        weights_dir: Folder with weight files for pretrained teachers, named as docs/imagenet.md
            says; null lets the libraries find or download the weights.
        weights_classes: Text file with the names of the pretrained weights' classes, one per line
            in the order of the outputs; the classifier is cut to the data's classes. null takes the
            names in a teacher's file, or ImageNet's (WordNet ids, or names).
        epochs: Passes over the training set.
        batch_size: Pictures in a training step.
        micro_batch: Largest number of pictures in a forward pass; the gradients of a larger batch
            are summed over several passes. The result is the same up to rounding, except that
            BatchNorm uses the moments of each pass; null passes the whole batch.
        optimizer: Optimizer of the teachers.
        views: Augmentation of the real pictures.
        tests: Number of epochs, evenly spaced and with the last, after which the test accuracy is
            measured.
        parallel: With several processes, train one network on each (networks), or split each
            batch of one network between all (pictures).
        seed: Seed of teachers, statistics and forgetting; null takes the run's.
        settings_of: Other settings for single teachers (pretrained, epochs, batch_size,
            micro_batch, and those in optimizer and views), such as
            {wrn16_2: {epochs: 24, views: {crop: resized}}}. Names outside backbones are ignored.
    """

    backbones: tuple[str, ...] = setting(
        ("resnet18", "convnet128", "mobilenet_v2_x0_5", "wrn16_2", "shufflenet_v2_x0_5"),
        in_recipe=False,
        often_changed=True,
    )
    pretrained: bool = setting(False, of_one_teacher=True)
    weights_dir: str | None = setting(None, changes_results=False, is_path=True)
    weights_classes: str | None = setting(None, changes_results=False, is_path=True)
    epochs: int = setting(
        50, limit="positive", of_one_teacher=True, reducible=True, often_changed=True
    )
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
    """The pass that records the statistics of each convolution (section 3.3).

    Args:
        n_p: Side of a patch, in pixels of the feature map.
        batch_size: Pictures in a forward pass; the statistics do not depend on it.
        passes: Passes over the training set, each with new views.
    """

    n_p: int = setting(4, limit="positive")
    batch_size: int = setting(256, limit="positive", in_recipe=False)
    passes: int = setting(1, limit="positive")


EXTRA_TAKES = ("state", "views", "teacher", "logits", "labels")  # arguments of synthesis.extra


@dataclass(frozen=True)
class SynthesisConfig:
    """Optimization of the images.

    Args:
        backbones: Teachers whose statistics are matched (GBM); null takes all of
            squeeze.backbones.
        backbone_order: Draw a teacher at random in each iteration (uniform, Eq. 7), or take turns
            (round_robin).
        init: Start from noise (the paper) or from real pictures of the class: random ones (real),
            by herding (herding), from the center and margin of clusters (balanced, BPS), of lowest
            loss under the teachers (lowest_loss), the easiest or hardest of the image's difficulty
            group (group_front, group_back, PSM), or the best random crops (crops, RDED). The loss
            is that of the teachers' mean logits.
        crop_tiles: With init=crops, number of crops along a side of an image: 1, or 2 for four
            crops in an image.
        crop_scale: With init=crops, smallest and largest share of a picture's area in a crop.
        iterations: Optimization steps for each batch of images.
        stages: Number of equal parts of the iterations, each with a new optimizer state; the paper
            has 1.
        stage_sizes: Side of the images in each stage, in pixels; the last must be that of the
            pictures (FADRM on ImageNet). Empty keeps that side in all stages.
        residual: Share of the real start that is mixed into the images between stages (FADRM); 0
            is off.
        residual_source: What is mixed in: the start, or the nearest of 300 real pictures of the
            class, in the features of coreset.backbone (nearest, RETA).
        rounds: Number of starting times (DELT): the images of a class are split into this many
            rounds, and round r starts after r/rounds of the iterations; the paper has 1.
        difficulty_groups: Sort the real pictures of each class from easy to hard into ipc groups,
            and match the k-th images of the classes with the k-th groups (PSM); needs
            loop=original.
        batch_size: Images that are optimized together.
        loop: Batches of several images of few classes (reorder), or of at most one image of each
            class (original), which limits a batch to the number of classes.
        optimizer: Optimizer of the pixels.
        views: Augmentation of the images before a teacher, and of the real pictures whose
            statistics are recorded.
        alpha: Decay of the moving average of batch statistics (Eq. 6); 0 is off.
        ema_start: Start that average from the first batch (first), or from 0 (zero, the authors'
            code).
        beta_dr: Probability that the matching of a convolution is dropped in an iteration.
        beta_dr_of: beta_dr for certain numbers of images per class, such as {10: 0.0}; it overrides
            beta_dr.
        weight_cross_entropy: Weight of the cross-entropy.
        weight_batchnorm: Weight of L'_BN (Eq. 6); 0 is off.
        weight_conv: Weight of L'_Conv (Eq. 10); 0 is off.
        weight_densification: Weight of L_DD (Eq. 5); 0 is off.
        weight_class: Share of L'_BN and L'_Conv that compares with the statistics of the images'
            own class instead of all classes (EDC); 0 is off.
        weight_flatness: Weight of the distance between the logits of the images and of their moving
            average (EDC); 0 is off.
        flatness_decay: Decay of that moving average.
        flatness_tau: Temperature of the logits in that distance.
        weight_absorption: Weight of the distance between the features of each tile of the start and
            of the real picture that it shows (CIM); 0 is off. Needs a real start; crop_tiles is
            the number of tiles along a side.
        extra: Your own function that adds a term to the loss, as file.py:function or
            module:function (docs/own_parts.md); null is off.
        weight_extra: Weight of that term.
        first_layer_multiplier: Factor on the matching loss of each teacher's first matched layer.
        tau: Temperature of L_DD.
        densification: Use Eq. 5 unchanged (exact), or first divide each Gram matrix by its mean
            eigenvalue (scaled).
        rounding: Convert pixels to 256 levels by rounding (nearest), or always down (truncate, the
            authors' code).
        groups: Batches of images in a forward pass; null takes 1 on a CPU and many on a GPU.
        compile: Compile the networks with torch.compile; auto compiles a network if that saves more
            time than it takes, as measured on this machine.
        seed: Seed of the images; null takes the run's.
    """

    backbones: tuple[str, ...] | None = setting(None, chooses_teachers=True)
    backbone_order: Literal["uniform", "round_robin"] = "uniform"
    init: Literal[
        "noise",
        "real",
        "herding",
        "balanced",
        "lowest_loss",
        "group_front",
        "group_back",
        "crops",
    ] = setting("noise", often_changed=True)
    crop_tiles: Literal[1, 2] = 1
    crop_scale: tuple[float, float] = (0.08, 1.0)
    iterations: int = setting(4000, limit="positive", reducible=True, often_changed=True)
    stages: int = 1
    stage_sizes: tuple[int, ...] = ()
    residual: float = setting(0.0, limit="[0, 1)")
    residual_source: Literal["start", "nearest"] = "start"
    rounds: int = 1
    difficulty_groups: bool = False
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
    weight_absorption: float = setting(0.0, limit="not negative")
    extra: str | None = setting(None, in_recipe=False)
    weight_extra: float = setting(1.0, limit="not negative", in_recipe=False)
    first_layer_multiplier: float = setting(10.0, limit="not negative")
    tau: float = setting(4.0, limit="positive")
    densification: Literal["exact", "scaled"] = "exact"
    rounding: Literal["nearest", "truncate"] = "nearest"
    groups: int | None = setting(None, limit="positive", changes_results=False)
    compile: Literal["auto", "always", "never"] = setting("auto", changes_results=False)
    seed: int | None = setting(None, limit="64 bits", in_recipe=False)


@dataclass(frozen=True)
class LabelStorageConfig:
    """How soft labels are compressed on disk (docs/labels.md); the defaults are lossless.

    Args:
        pruning: One epoch in this many is labeled and stored (LPLD); students draw from the stored
            epochs.
        top_k: Number of largest logits of each view that are stored; the others are stored as their
            mean. null stores all.
        bits: Bits of a stored logit: 16 (half precision), or 8 (256 levels over a view's range).
    """

    pruning: float = 1.0
    top_k: int | None = setting(None, limit="positive")
    bits: Literal[16, 8] = 16


@dataclass(frozen=True)
class LabelsConfig:
    """Soft labels of every view in every epoch.

    Args:
        backbones: Teachers of the ensemble; null takes all of squeeze.backbones.
        epochs: Epochs that are labeled and that students train for.
        min_steps: Smallest number of training steps; the number of epochs is raised to reach it.
        batch_size: Images that are labeled together, in the order of training.
        full_batch_up_to: Largest number of images that are labeled and trained on as one batch.
        views: Augmentation of the distilled images.
        logit_normalization: Scale the logits of all teachers to the same norm before averaging
            (Eq. 8).
        logit_normalization_of: logit_normalization for single students, such as {resnet50: false};
            these get separate labels.
        store: Store the labels on disk (true), or label during training (false).
        storage: Compression of the stored labels.
        seed: Seed of the views; null takes the run's.
        temperature: Divisor of the ensemble's logits before they are stored or learned.
        weights: Weights of single teachers in the ensemble's mean; the others have 1.
        batchnorm: Moments that the teachers' BatchNorm uses: those from training (running), or
            those of the batch that is labeled (batch, BSSL).
    """

    backbones: tuple[str, ...] | None = setting(None, chooses_teachers=True)
    epochs: int = setting(
        1000,
        limit="positive",
        read_by_train=True,
        with_hard_labels=True,
        reducible=True,
        often_changed=True,
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
class HardPhaseConfig:
    """Epochs with hard labels in the middle of a student's training (HALD, arXiv 2512.15647).

    Args:
        share: Share of the epochs that have hard labels; the others have soft labels. 0 is off.
        smoothing: Share of each hard label that is divided equally among all classes.
    """

    share: float = setting(0.0, limit="[0, 1)")
    smoothing: float = setting(0.8, limit="[0, 1)")


Corruption = Literal[
    "all",
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]


@dataclass(frozen=True)
class CorruptionsConfig:
    """Tests of students on corrupted copies of the test pictures (Hendrycks & Dietterich 2019).

    Args:
        kinds: Kinds of corruption, or all for the 15 common ones; empty runs no tests.
        severities: Severities, each from 1 to 5.
        pictures: Largest number of test pictures to corrupt; if there are more, this many are drawn
            at random.
        folder: Folder of corrupted sets in the form of CIFAR-10-C, KIND.npy and labels.npy, in the
            order of the test pictures; null makes the copies with imagecorruptions-imaug
            (docs/how-to/corruptions.md). Results keep the folder's name.
    """

    kinds: tuple[Corruption, ...] = ()
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    pictures: int = setting(1000, limit="positive")
    folder: str | None = setting(None, of_a_machine=True, is_path=True)


@dataclass(frozen=True)
class EvaluationConfig:
    """Training of new students on images and labels.

    Args:
        students: Names of the students' architectures.
        seeds: Number of students of each architecture; results are their mean and standard
            deviation.
        loss: mse_gt (Eq. 11), kl (SRe2L), cosine (GIFT: the direction of the logits), or hard
            (cross-entropy with the hard labels).
        gamma: Weight of the cross-entropy in mse_gt.
        temperature: Temperature of kl.
        hard_target: Hard label of a mixed image: that of the unmixed image (base), or of both by
            area (mixed).
        hard_phase: Epochs with hard labels between epochs with soft labels.
        batch_size: Images in a training step.
        micro_batch: Largest number of images in a forward pass; the gradients of a larger batch
            are summed over several passes. The result is the same up to rounding, except that
            BatchNorm uses the moments of each pass; null passes the whole batch.
        optimizer: Optimizer of the students.
        lr_of: Learning rates of single students; the others have optimizer.lr.
        tests: Number of epochs, evenly spaced and with the last, after which the test accuracy is
            measured.
        parallel: As squeeze.parallel.
        seed: Seed of the students; null takes the run's.
        ema: Decay per step of the moving average of a student's parameters; the average is tested
            and saved instead of the parameters. 0 is off.
        corruptions: Tests on corrupted pictures after the last epoch.
    """

    students: tuple[str, ...] = setting(
        ("convnet128", "resnet18"), in_recipe=False, often_changed=True
    )
    seeds: int = setting(3, limit="positive", in_recipe=False, reducible=True, often_changed=True)
    loss: Literal["mse_gt", "kl", "cosine", "hard"] = setting("mse_gt", read_by_train=True)
    gamma: float = setting(0.15, limit="not negative", read_by_train=True)
    temperature: float = setting(20.0, limit="positive", read_by_train=True)
    hard_target: Literal["base", "mixed"] = setting("base", read_by_train=True)
    hard_phase: HardPhaseConfig = setting(HardPhaseConfig, read_by_train=True)
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
    corruptions: CorruptionsConfig = setting(CorruptionsConfig, in_recipe=False)


@dataclass(frozen=True)
class CoresetConfig:
    """Selection of real pictures: herding, k-center, clusters (balanced), forgetting, curriculum.

    Args:
        backbone: Teacher whose features herding, k-center and balanced compare, and architecture
            that forgetting trains; null takes the first of squeeze.backbones.
        epochs: Epochs of the training that counts how often pictures are forgotten (forgetting,
            curriculum); null takes squeeze.epochs.
        distilled_share: Share of each class's images in curriculum that are distilled images of the
            run, rounded down, at least one.
        curricula: Number of rounds in which curriculum selects the other images. Before each round
            the first student is trained on the current set.
    """

    backbone: str | None = None
    epochs: int | None = setting(None, limit="positive")
    distilled_share: float = setting(0.2, limit="(0, 1)")
    curricula: int = setting(3, limit="positive")
