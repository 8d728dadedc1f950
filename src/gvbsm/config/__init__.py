"""Settings: dataclasses, presets, checks, dotted keys.

One frozen dataclass a stage; the defaults are the paper's for CIFAR (table 9). The help text of a
field is its line under `Args`. No torch is imported here, so that the command line answers at once.
"""

from gvbsm.config.bench import BenchConfig
from gvbsm.config.data import DataConfig
from gvbsm.config.errors import ConfigError
from gvbsm.config.optimizer import OptimizerConfig
from gvbsm.config.run import (
    WHOLE_SET,
    Baseline,
    BaselinesConfig,
    Config,
    ContinualConfig,
    Method,
    Rival,
    Selection,
)
from gvbsm.config.stages import (
    CoresetConfig,
    EvaluationConfig,
    LabelsConfig,
    LabelStorageConfig,
    Parallel,
    SqueezeConfig,
    StatisticsConfig,
    SynthesisConfig,
)
from gvbsm.config.views import ViewConfig

__all__ = [
    "Baseline",
    "BaselinesConfig",
    "BenchConfig",
    "Config",
    "ConfigError",
    "ContinualConfig",
    "CoresetConfig",
    "DataConfig",
    "EvaluationConfig",
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
    "WHOLE_SET",
]
