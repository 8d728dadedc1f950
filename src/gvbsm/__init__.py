"""Dataset distillation by generalized backbone and statistical matching (G-VBSM, CVPR 2024).

Names are resolved when first used, so that `import gvbsm` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gvbsm._version import __version__

if TYPE_CHECKING:
    from gvbsm.api import build_backbone as build_backbone
    from gvbsm.api import plan as plan
    from gvbsm.api import run as run
    from gvbsm.config import Config as Config
    from gvbsm.config import ConfigError as ConfigError
    from gvbsm.data.datasets import load_dataset as load_dataset
    from gvbsm.data.pictures import DataError as DataError
    from gvbsm.engine.device import RunError as RunError
    from gvbsm.exchange.collection import collect as collect
    from gvbsm.exchange.export import export as export
    from gvbsm.exchange.load import load as load
    from gvbsm.exchange.merge import merge as merge
    from gvbsm.exchange.train import train as train
    from gvbsm.files.artifacts import ArtifactError as ArtifactError
    from gvbsm.reporting import report as report
    from gvbsm.store.batches import Batch as Batch
    from gvbsm.store.distilled import DistilledDataset as DistilledDataset
    from gvbsm.store.soft_labels import SoftLabels as SoftLabels
    from gvbsm.studies.sweep import sweep as sweep

_ORIGIN = {
    "ArtifactError": ("files.artifacts", "ArtifactError"),
    "Batch": ("store.batches", "Batch"),
    "Config": ("config", "Config"),
    "ConfigError": ("config", "ConfigError"),
    "DataError": ("data.pictures", "DataError"),
    "DistilledDataset": ("store.distilled", "DistilledDataset"),
    "RunError": ("engine.device", "RunError"),
    "SoftLabels": ("store.soft_labels", "SoftLabels"),
    "build_backbone": ("api", "build_backbone"),
    "collect": ("exchange.collection", "collect"),
    "export": ("exchange.export", "export"),
    "load": ("exchange.load", "load"),
    "load_dataset": ("data.datasets", "load_dataset"),
    "merge": ("exchange.merge", "merge"),
    "report": ("reporting", "report"),
    "plan": ("api", "plan"),
    "run": ("api", "run"),
    "sweep": ("studies.sweep", "sweep"),
    "train": ("exchange.train", "train"),
}

__all__ = ["__version__", *_ORIGIN]  # noqa: PLE0604


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _ORIGIN:
        raise AttributeError(f"module 'gvbsm' has no attribute {name!r}")
    module, attribute = _ORIGIN[name]
    return getattr(import_module(f"gvbsm.{module}"), attribute)
