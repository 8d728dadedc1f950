"""Settings: dataclasses, presets, checks, dotted keys.

There is one frozen dataclass for each stage. The defaults are the paper's for CIFAR (table 9). The
help text of a setting is its line under `Args`. This room imports no torch, so that the command
line starts fast.
"""

from gvbsm.config.errors import ConfigError
from gvbsm.config.optimizer import OptimizerConfig
from gvbsm.config.run import (
    BASELINE_GROUPS,
    BY_DIFFICULTY,
    BY_FEATURES,
    BY_FORGETTING,
    LABEL_KINDS,
    WHOLE_SET,
    Baseline,
    BaselinesConfig,
    Config,
    ContinualConfig,
    DataConfig,
    Method,
    Rival,
    Selection,
)
from gvbsm.config.stages import (
    CoresetConfig,
    Corruption,
    CorruptionsConfig,
    EvaluationConfig,
    HardPhaseConfig,
    LabelsConfig,
    LabelStorageConfig,
    Parallel,
    SqueezeConfig,
    StatisticsConfig,
    SynthesisConfig,
)
from gvbsm.config.views import ViewConfig

__all__ = [
    "BASELINE_GROUPS",
    "BY_DIFFICULTY",
    "BY_FEATURES",
    "BY_FORGETTING",
    "Baseline",
    "BaselinesConfig",
    "Config",
    "ConfigError",
    "ContinualConfig",
    "CoresetConfig",
    "Corruption",
    "CorruptionsConfig",
    "DataConfig",
    "EvaluationConfig",
    "HardPhaseConfig",
    "LabelStorageConfig",
    "LabelsConfig",
    "Method",
    "OptimizerConfig",
    "Parallel",
    "Rival",
    "Selection",
    "SqueezeConfig",
    "StatisticsConfig",
    "SynthesisConfig",
    "ViewConfig",
    "LABEL_KINDS",
    "WHOLE_SET",
]
