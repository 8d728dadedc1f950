"""Settings: one frozen dataclass a stage; the defaults are the paper's rows for CIFAR (table 9).

This file holds data alone and imports no torch, so that the command line answers at once. The
help text of a field is its line under `Args`. Reading and checking settings is in `settings.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Selection = Literal[
    "random-hard",
    "random-soft",
    "herding-hard",
    "herding-soft",
    "k-center-hard",
    "k-center-soft",
    "forgetting-hard",
    "forgetting-soft",
]
Method = Literal["gvbsm", "sre2l", Selection]
Baseline = Literal[Selection, "sre2l", "full"]
Rival = Literal[Selection, "sre2l"]


class ConfigError(ValueError):
    """A fault in the settings, told in one line (or one line a fault)."""


@dataclass(frozen=True)
class ViewConfig:
    """How one picture becomes a view of it.

    Args:
        crop: none, pad (shifted crop over a border of the mean colour), or resized
            (RandomResizedCrop).
        padding: Border in pixels for crop=pad.
        scale: Smallest and largest share of the area for crop=resized.
        ratio: Smallest and largest width/height for crop=resized.
        flip: Mirror left-right with probability 1/2.
        roll: Largest cyclic shift in pixels along each axis, before the crop; 0 is off.
        cutmix: Parameter of CutMix's Beta distribution; 0 is off.
        per_sample: One draw for each synthetic image (true), or one for a batch of synthesis and
            one for an epoch of labels (false). Real pictures always have one each.
    """

    crop: Literal["none", "pad", "resized"] = "resized"
    padding: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = True
    roll: int = 0
    cutmix: float = 0.0
    per_sample: bool = True


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser and its learning-rate schedule.

    Args:
        name: sgd (with momentum), adam or adamw.
        lr: Learning rate at the start.
        momentum: Momentum of sgd.
        betas: The two decay rates of adam and adamw.
        weight_decay: Weight decay, on tensors with more than one dimension alone.
        schedule: constant, or cosine (to 0 over all steps).
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "cosine"


@dataclass(frozen=True)
class DataConfig:
    """The real pictures.

    Args:
        name: digits, cifar10, cifar100, tiny-imagenet, imagenet-1k, folder or npz.
        root: Folder or .npz file that holds them (digits needs none).
        image_size: Side in pixels to which pictures are brought; none takes the data set's own.
        val_fraction: Share held out for testing where the data set has no split of its own.
        split_seed: Seed of that split.
        in_memory: Hold decoded pictures in memory; none decides by size.
        workers: Processes that decode pictures which are not held in memory.
    """

    name: str = "digits"
    root: str | None = None
    image_size: int | None = None
    val_fraction: float = 0.2
    split_seed: int = 0
    in_memory: bool | None = None
    workers: int = 2


@dataclass(frozen=True)
class SqueezeConfig:
    """Training of the teachers.

    Args:
        backbones: Names of the teachers' architectures.
        pretrained: Take the library's weights (torchvision/..., timm/...) and train nothing.
        epochs: Passes over the training set.
        batch_size: Pictures in a step.
        optimizer: Optimiser of the teachers.
        views: Augmentation of the real pictures.
        tests: How often the test accuracy is measured, evenly spread, the last epoch included.
    """

    backbones: tuple[str, ...] = (
        "resnet18",
        "convnet128",
        "mobilenet_v2_x0_5",
        "wrn16_2",
        "shufflenet_v2_x0_5",
    )
    pretrained: bool = False
    epochs: int = 50
    batch_size: int = 64
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    views: ViewConfig = field(default_factory=lambda: ViewConfig(crop="pad"))
    tests: int = 5


@dataclass(frozen=True)
class StatisticsConfig:
    """The pass that records each convolution's global statistics (section 3.3).

    Args:
        n_p: Side of a patch in pixels of the feature map.
        batch_size: Pictures in a step of the pass; the result does not depend on it.
        passes: Views of each picture that are recorded.
    """

    n_p: int = 4
    batch_size: int = 256
    passes: int = 1


@dataclass(frozen=True)
class SynthesisConfig:
    """Optimisation of the images.

    Args:
        backbones: Teachers that are matched (GBM); none takes all of squeeze.backbones.
        backbone_order: uniform draws one for each iteration (Eq. 7); round_robin takes turns.
        init: Start from noise (the paper) or from random real pictures of the class.
        iterations: Steps for each batch of images.
        batch_size: Images that are optimised together.
        loop: reorder (several images of few classes) or original (one image of each class).
        optimizer: Optimiser of the pixels.
        views: Augmentation before the teacher; the statistics pass sees real pictures the same way.
        alpha: Weight of the past in the EMA of batch statistics (Eq. 6); 0 is no EMA.
        ema_start: first starts the EMA at the first batch, zero at 0 as the authors' code does.
        beta_dr: Probability that a convolution's matching is dropped in an iteration.
        weight_cross_entropy: Weight of the classification term.
        weight_batchnorm: Weight of L'_BN (Eq. 6); 0 is off.
        weight_conv: Weight of L'_Conv (Eq. 10); 0 is off.
        weight_densification: Weight of L_DD (Eq. 5); 0 is off.
        first_layer_multiplier: Extra weight of the first matched layer of each teacher.
        tau: Temperature of L_DD.
        densification: exact is Eq. 5; scaled divides each Gram matrix by its mean eigenvalue first.
        groups: Batches that share each pass of a network; none takes 1 on a CPU, many on a GPU.
        compile: Compile each network with its statistics; auto does so where the work is long.
    """

    backbones: tuple[str, ...] | None = None
    backbone_order: Literal["uniform", "round_robin"] = "uniform"
    init: Literal["noise", "real"] = "noise"
    iterations: int = 4000
    batch_size: int = 50
    loop: Literal["reorder", "original"] = "reorder"
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adam", lr=0.05, betas=(0.5, 0.9))
    )
    views: ViewConfig = field(default_factory=ViewConfig)
    alpha: float = 0.8
    ema_start: Literal["first", "zero"] = "first"
    beta_dr: float = 0.4
    weight_cross_entropy: float = 1.0
    weight_batchnorm: float = 0.01
    weight_conv: float = 0.01
    weight_densification: float = 1.0
    first_layer_multiplier: float = 10.0
    tau: float = 4.0
    densification: Literal["exact", "scaled"] = "exact"
    groups: int | None = None
    compile: Literal["auto", "always", "never"] = "auto"


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
        store: Keep the labels on disk (true) or let the teachers label during training (false).
    """

    backbones: tuple[str, ...] | None = None
    epochs: int = 1000
    min_steps: int = 0
    batch_size: int = 64
    full_batch_up_to: int = 100
    views: ViewConfig = field(default_factory=lambda: ViewConfig(cutmix=1.0))
    logit_normalization: bool = False
    store: bool = True


@dataclass(frozen=True)
class EvaluationConfig:
    """Training of fresh students on images and labels.

    Args:
        students: Names of the students' architectures.
        seeds: Students of each architecture; mean and deviation are over them.
        loss: mse_gt is Eq. 11; kl is SRe2L's; hard is cross-entropy with the hard labels alone.
        gamma: Weight of the cross-entropy in mse_gt.
        temperature: Temperature of kl.
        hard_target: Hard label of a CutMix image: base (the uncut image's) or mixed (by area).
        batch_size: Images in a step.
        optimizer: Optimiser of the students.
        lr_of: Learning rate of single students where it differs from optimizer.lr.
        tests: How often the test accuracy is measured, evenly spread, the last epoch included.
    """

    students: tuple[str, ...] = ("convnet128", "resnet18")
    seeds: int = 3
    loss: Literal["mse_gt", "kl", "hard"] = "mse_gt"
    gamma: float = 0.15
    temperature: float = 20.0
    hard_target: Literal["base", "mixed"] = "base"
    batch_size: int = 64
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adamw", lr=0.001)
    )
    lr_of: dict[str, float] = field(default_factory=dict)
    tests: int = 10


@dataclass(frozen=True)
class CoresetConfig:
    """Selection of real pictures by herding, k-center and forgetting.

    Args:
        backbone: Teacher whose features herding and k-center compare, and architecture that
            forgetting trains afresh; none takes the first of squeeze.backbones.
        epochs: Epochs of forgetting's training; none takes squeeze.epochs.
    """

    backbone: str | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class BaselinesConfig:
    """What the result is compared with, in the same run.

    Args:
        methods: Any of sre2l, full (each teacher on the whole set), and real pictures selected at
            random or by herding, k-center or forgetting (random-hard, herding-soft and so on).
        draws: Random selections of real pictures; student k trains on draw k modulo draws.
    """

    methods: tuple[Baseline, ...] = ("random-hard", "random-soft", "sre2l", "full")
    draws: int = 1


@dataclass(frozen=True)
class ContinualConfig:
    """The class-incremental protocol of `gvbsm continual` (appendix F).

    Args:
        steps: Steps in which the classes arrive; the first take one more each of what is over.
        orders: Random orders of the classes; each has its own student and its own random pictures.
        students: Names of the students' architectures; none takes the first of evaluation.students.
        epochs: Epochs of each training; none takes labels.epochs.
        min_steps: Least steps of each training, as labels.min_steps, which none takes.
        methods: What the run's own set is compared with: any of baselines.methods' but full.
    """

    steps: int = 5
    orders: int = 3
    students: tuple[str, ...] | None = None
    epochs: int | None = None
    min_steps: int | None = None
    methods: tuple[Rival, ...] = ("random-soft", "sre2l")


@dataclass(frozen=True)
class Config:
    """All settings of a run.

    Args:
        ipc: Images per class of the distilled set.
        seed: Seed of everything that is drawn.
        method: gvbsm, or a baseline that takes its place (sre2l, or a selection as random-hard).
        device: cpu, cuda or cuda:N; auto takes a GPU where there is one.
        precision: fp32, or bf16 (autocast; statistics stay fp32); auto is bf16 on CUDA, else fp32.
        threads: CPU threads; none leaves torch's choice.
        checkpoint_seconds: Time between checkpoints of unfinished work.
        trackers: Where losses and accuracies go besides files: tensorboard, wandb, trackio.
        data: The real pictures.
        squeeze: Training of the teachers.
        statistics: Global statistics of the convolutions.
        synthesis: Optimisation of the images.
        labels: Soft labels.
        evaluation: Training of the students.
        coreset: Selection of real pictures.
        baselines: What the result is compared with.
        continual: The class-incremental protocol.
    """

    ipc: int = 10
    seed: int = 0
    method: Method = "gvbsm"
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    checkpoint_seconds: float = 60.0
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    squeeze: SqueezeConfig = field(default_factory=SqueezeConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    coreset: CoresetConfig = field(default_factory=CoresetConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    continual: ContinualConfig = field(default_factory=ContinualConfig)


@dataclass(frozen=True)
class BenchConfig:
    """What `gvbsm bench` measures.

    Args:
        settings: Presets; cifar10 has 50 images of 32 pixels and five networks, imagenet-1k 40 of
            224 and four.
        repeats: Rounds of each comparison.
        groups: Numbers of batches in a pass that are compared.
        device: cpu, cuda or cuda:N; auto takes a GPU where there is one.
        precision: fp32 or bf16; auto is bf16 on CUDA, else fp32.
        threads: CPU threads; none leaves torch's choice.
        json: File for the numbers.
    """

    settings: tuple[Literal["cifar10", "imagenet-1k"], ...] = ("cifar10", "imagenet-1k")
    repeats: int = 5
    groups: tuple[int, ...] = (1, 2, 4)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    json: str | None = None
