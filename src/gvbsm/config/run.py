"""Settings of a whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gvbsm.config.fields import setting
from gvbsm.config.stages import (
    CoresetConfig,
    EvaluationConfig,
    LabelsConfig,
    SqueezeConfig,
    StatisticsConfig,
    SynthesisConfig,
)

Selection = Literal[
    "random-hard",
    "random-soft",
    "random-unaugmented",
    "herding-hard",
    "herding-soft",
    "k-center-hard",
    "k-center-soft",
    "balanced-hard",
    "balanced-soft",
    "forgetting-hard",
    "forgetting-soft",
    "curriculum-hard",
    "curriculum-soft",
]
Method = Literal["gvbsm", "gvbsm-hard", "gvbsm-unaugmented", "sre2l", Selection]
Baseline = Literal[Selection, "gvbsm-hard", "gvbsm-unaugmented", "sre2l", "teacher", "full"]
Rival = Literal[Selection, "gvbsm-hard", "gvbsm-unaugmented", "sre2l"]
BASELINE_GROUPS: dict[str, tuple[Baseline, ...]] = {  # `--baselines NAME` on the command line
    "none": (),
    "light": ("random-hard", "random-soft", "teacher"),
    "all": (
        "random-hard",
        "gvbsm-hard",
        "random-soft",
        "herding-soft",
        "sre2l",
        "teacher",
        "full",
    ),
}
BY_FEATURES = ("herding", "k-center", "balanced")  # selections by features of coreset.backbone
BY_FORGETTING = ("forgetting", "curriculum")  # selections by how often pictures are forgotten
BY_DIFFICULTY = ("group_front", "group_back")  # starts by the difficulty of real pictures
WHOLE_SET = ("teacher", "full")  # baselines that are trained on all real pictures
LABEL_KINDS = ("hard", "soft", "unaugmented")  # last words of names of methods


@dataclass(frozen=True)
class DataConfig:
    """The real pictures.

    Args:
        name: Data set, or form of your own data: `gvbsm list data` shows them. hub/USER/NAME and
            torchvision/NAME name a set of these libraries; memory is for pictures from Python.
        root: Folder, .npz file or pattern of tar files with the data; with null CIFAR and sets of
            torchvision are downloaded, and digits needs nothing.
        title: Name of the data in the report and in the card of an export; null takes the name of
            the user's own folder or file, or that of the data set.
        image_size: Side in pixels to which pictures are resized; null takes the data set's own.
        test_crop: Share of a test picture's short side that the central crop keeps; 0.875 keeps
            224 of 256 pixels.
        val_fraction: Share of the pictures that is used for testing if the data set has no split.
        split_seed: Seed of that split.
        in_memory: Keep decoded pictures in memory; null decides by their size.
        subset: Configuration of a data set on the Hugging Face Hub.
        image_column: Column of a Hugging Face data set with the pictures; null finds it by type.
        label_column: Column of a Hugging Face data set, or .json entry of webdataset, with the
            labels; null finds it.
        unreadable: Stop at the first picture that cannot be read (stop), or check all before the
            run starts, skip such pictures and list them in the results (skip).
        workers: Processes that decode pictures which are not in memory; 0 decodes in the run's own
            process, null takes the number of CPU cores, divided between the processes of a run.
    """

    name: str = setting("digits", often_changed=True)
    root: str | None = setting(
        None, changes_results=False, of_a_machine=True, is_path=True, often_changed=True
    )
    title: str | None = setting(None, changes_results=False)
    image_size: int | None = setting(None, often_changed=True)
    test_crop: float = setting(1.0, limit="(0, 1]")
    val_fraction: float = setting(0.2, limit="(0, 1)", often_changed=True)
    split_seed: int = setting(0, limit="64 bits")
    in_memory: bool | None = setting(None, changes_results=False, of_a_machine=True)
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    unreadable: Literal["stop", "skip"] = "stop"
    workers: int | None = setting(
        None, changes_results=False, of_a_machine=True, limit="not negative"
    )


@dataclass(frozen=True)
class BaselinesConfig:
    """Baselines that are run and evaluated with the result.

    Args:
        methods: Any of sre2l, teacher (the accuracy of each teacher), full (each student trained on
            all real pictures with hard labels), gvbsm-hard (the distilled images with their hard
            labels), and real pictures selected at random or by herding, k-center, clusters
            (balanced) or forgetting (random-hard, herding-soft and so on). curriculum-soft and
            curriculum-hard add selected real pictures to some of the run's own images (CCFS).
            gvbsm-unaugmented and random-unaugmented have one soft label per image, without
            augmentation.
        sets: Distilled sets of other methods, such as {dm: PATH}: class folders of pictures, an
            .npz or an export. They are labeled and evaluated like random-soft.
        draws: Random selections of real pictures; student k trains on selection k modulo draws.
        full_epochs: Epochs of the students of full; views, batch size and optimizer are squeeze's.
        overrides: Other settings of synthesis, labels and evaluation for single baselines,
            such as {sre2l: {synthesis: {weight_batchnorm: 1.0}}}.
    """

    methods: tuple[Baseline, ...] = setting(
        ("random-hard", "random-soft", "sre2l", "teacher"), often_changed=True
    )
    sets: dict[str, str] = setting(dict, of_a_machine=True, is_path=True)
    draws: int = setting(1, limit="positive")
    full_epochs: int = setting(200, limit="positive")
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ContinualConfig:
    """The class-incremental protocol of `gvbsm continual` (appendix F).

    Args:
        steps: Number of steps in which the classes arrive; if they do not divide evenly, the first
            steps have one class more.
        orders: Random orders of the classes; each has its own student and random pictures.
        students: Names of the students' architectures; null takes the first of evaluation.students.
        epochs: Epochs of each training; null takes labels.epochs.
        min_steps: Smallest number of steps of each training; null takes labels.min_steps.
        methods: Baselines to compare with: any of baselines.methods except teacher and full.
    """

    steps: int = setting(5, limit="positive")
    orders: int = setting(3, limit="positive")
    students: tuple[str, ...] | None = None
    epochs: int | None = setting(None, limit="positive")
    min_steps: int | None = setting(None, limit="not negative")
    methods: tuple[Rival, ...] = ("random-soft", "sre2l")


@dataclass(frozen=True)
class Config:
    """All settings of a run.

    Args:
        ipc: Images per class of the distilled set.
        ipc_of: Images per class for single classes, by name; the others have ipc.
        seed: Seed of all random draws.
        method: gvbsm, or a baseline instead of it (sre2l, or a selection such as random-hard).
        device: cpu, cuda or cuda:N; auto takes a GPU if there is one.
        precision: fp32, or bf16 (autocast; statistics stay fp32); auto measures which is faster
            for each network if the work is long; otherwise it is bf16 on CUDA and fp32 on a CPU.
        threads: CPU threads of each process; null shares the cores between the processes.
        processes: Number of processes of a command on CPUs; auto is one per core, as far as memory
            allows, and a single one if threads is set or on a GPU. A launcher such as
            torchrun, and Python's gvbsm.run, set the number themselves.
        checkpoint_seconds: Seconds between checkpoints of unfinished work.
        trackers: Trackers that log losses and accuracies: tensorboard, wandb, trackio.
        data: The real pictures.
        squeeze: Training of the teachers.
        statistics: Global statistics of the convolutions.
        synthesis: Optimization of the images.
        labels: Soft labels.
        evaluation: Training of the students.
        coreset: Selection of real pictures.
        baselines: Baselines that are evaluated with the result.
        continual: The class-incremental protocol.
    """

    ipc: int = setting(10, limit="positive", often_changed=True)
    ipc_of: dict[str, int] = setting(dict, often_changed=True)
    seed: int = setting(0, limit="64 bits", read_by_train=True, often_changed=True)
    method: Method = "gvbsm"
    device: str = setting(
        "auto", changes_results=False, of_a_machine=True, read_by_train=True, often_changed=True
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", read_by_train=True, often_changed=True
    )
    threads: int | None = setting(
        None,
        limit="positive",
        changes_results=False,
        of_a_machine=True,
        read_by_train=True,
        often_changed=True,
    )
    processes: int | Literal["auto"] = setting(
        "auto", limit="positive", changes_results=False, of_a_machine=True, often_changed=True
    )
    checkpoint_seconds: float = setting(
        60.0, limit="not negative", changes_results=False, read_by_train=True
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = setting(
        (), changes_results=False, often_changed=True
    )
    data: DataConfig = setting(DataConfig, read_by_train=True)
    squeeze: SqueezeConfig = field(default_factory=SqueezeConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    coreset: CoresetConfig = field(default_factory=CoresetConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    continual: ContinualConfig = field(default_factory=ContinualConfig)
