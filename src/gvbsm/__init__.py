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

_MODULES = {
    "ArtifactError": "files.artifacts",
    "Batch": "store.batches",
    "Config": "config",
    "ConfigError": "config",
    "DataError": "data.pictures",
    "DistilledDataset": "store.distilled",
    "RunError": "engine.device",
    "SoftLabels": "store.soft_labels",
    "build_backbone": "api",
    "collect": "exchange.collection",
    "export": "exchange.export",
    "load": "exchange.load",
    "load_dataset": "data.datasets",
    "merge": "exchange.merge",
    "report": "reporting",
    "plan": "api",
    "run": "api",
    "sweep": "studies.sweep",
    "train": "exchange.train",
}

__all__ = ["__version__", *_MODULES]  # noqa: PLE0604


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'gvbsm' has no attribute {name!r}")
    return getattr(import_module(f"gvbsm.{_MODULES[name]}"), name)
