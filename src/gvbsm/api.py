"""Run the pipeline, or one of its stages, from settings or the name of a preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from gvbsm import backbones
from gvbsm.config import Config, ConfigError
from gvbsm.config.build import as_config, to_dict
from gvbsm.config.given import code_name
from gvbsm.config.keys import flatten, nested
from gvbsm.config.paths import MEMORY, user_path
from gvbsm.config.preset_files import usual_workdir
from gvbsm.config.provenance import UNKNOWN, Origin, origin_of
from gvbsm.data.datasets import ImageData
from gvbsm.data.sources.memory import InMemory
from gvbsm.engine.device import runtime_for
from gvbsm.engine.processes import join
from gvbsm.engine.progress.log import log_by_default
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.exchange.load import load
from gvbsm.files.plugins import admit
from gvbsm.pipeline.budget.pictures import PRESET, pictures_of, settings_of
from gvbsm.pipeline.budget.request import make_request
from gvbsm.pipeline.budget.settle import settle_budget
from gvbsm.pipeline.foreign_sets import import_sets
from gvbsm.pipeline.planning.plan import Plan
from gvbsm.pipeline.planning.planner import plan_here
from gvbsm.pipeline.planning.process_plan import ProcessPlan
from gvbsm.pipeline.preflight import load_data
from gvbsm.pipeline.run import Run
from gvbsm.reporting.picture import draw_picture
from gvbsm.reporting.result_tables import RunResults


@torch_defaults()
def run(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    workdir: str | Path | None = None,
    quiet: bool = False,
    *,
    data: Any = None,
    budget: str | None = None,
    origin: Origin | None = None,
    **changes: Any,
) -> RunResults:
    """Run the whole pipeline and return the content of `results.json`.

    It is a mapping, with `to_markdown()`, `to_latex()`, `to_csv()` and `to_frame()`.

    Args:
        config: Settings, the name of a preset, the path of a folder or .npz file of pictures, or a
            nested mapping of settings. Its entry `preset` names a preset that it is laid over;
            without one all other settings have their defaults, as in a settings file, whatever the
            pictures are. None takes `own`, whose settings fit the pictures and a budget.
        workdir: The work directory; artifacts in it that match the settings are not made again.
            None is `runs/PRESET`, as on the command line, or `runs/DATA` for other settings.
        quiet: No progress bars.
        data: The pictures, in place of those that the settings name: arrays or tensors `(X, y)` or
            `(X, y, X_test, y_test)`, a map-style Dataset or list of (image, label), or
            `{"train": ..., "test": ...}` of these. Without test pictures a share of each class is
            held out. A mapping of settings is the section `data`.
        budget: Time that the run may take, such as "30m": settings are chosen to fit. For a path
            or `data` alone, None is 30 minutes on a CPU and an hour on a GPU.
        origin: Where the settings came from, kept with the results; None takes a preset's name.
        changes: Settings that are laid over `config`: `ipc=1`, `synthesis={"iterations": 300}` or
            `**{"synthesis.iterations": 300}`.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line.
    """
    log_by_default(quiet)
    call = _read_call(config, workdir, data, changes)
    known = origin or _origin(call.preset, call.settings)
    settings = call.within(budget)
    current = Run(settings, call.workdir, quiet, call.images(settings, quiet), known)
    import_sets(current, load)
    results = current.all_stages(lambda _: draw_picture(current.workspace, current.real_pictures()))
    return RunResults(results)


@torch_defaults()
def plan(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    workdir: str | Path | None = None,
    quiet: bool = False,
    *,
    data: Any = None,
    budget: str | None = None,
    **changes: Any,
) -> Plan:
    """Predict what `run` with the same arguments takes on this machine; nothing is made.

    A few steps of each kind of work are timed, and kept in the user's cache for the next time.

    Args:
        config: As for `run`.
        workdir: As for `run`. What it holds and is current takes no time; it is neither changed nor
            locked.
        quiet: As for `run`.
        data: As for `run`.
        budget: As for `run`.
        changes: As for `run`.

    Returns:
        The parts of the run with their time, memory and bytes, `seconds`, `memory` and `nbytes` of
        all, `summary()` and `to_dict()`.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: As `run`, before it begins.
    """
    log_by_default(quiet)
    call = _read_call(config, workdir, data, changes)
    settings = call.within(budget, keep=False)
    return plan_here(settings, call.workdir, call.images(settings, quiet), quiet)


def build_backbone(
    name: str | Callable[..., nn.Module],
    classes: int,
    image_size: int,
    channels: int = 3,
    pretrained: bool = False,
    weights_dir: Path | None = None,
) -> nn.Module:
    """Build a network (`gvbsm.build_backbone`): see `gvbsm.backbones.build_backbone`.

    Args:
        name: As students of `gvbsm run`, or a class or function that builds it. The code that it
            names is run.
        classes: Number of logits.
        image_size: Height and width of the input, in pixels.
        channels: Channels of the input.
        pretrained: Load published weights, or those in `weights_dir`.
        weights_dir: A folder with the file of the weights.

    Raises:
        ValueError: If the name is unknown, or the network or its weights do not fit.
        OSError: If pretrained weights can be neither found nor downloaded.
    """
    name = name if isinstance(name, str) else code_name(name)
    admit([name])
    return backbones.build_backbone(name, classes, image_size, channels, pretrained, weights_dir)


@torch_defaults()
def run_stage(
    stage: str,
    config: Config | str | Mapping[str, Any],
    workdir: str | Path,
    quiet: bool = False,
    *,
    origin: Origin | None = None,
    **options: bool,
) -> None:
    """Run one stage of the run's own method; the artifacts that it builds on must exist.

    Args:
        stage: squeeze, statistics, synthesis, labels or evaluation.
        config: Settings, the name of a preset, or a nested mapping of settings.
        workdir: The work directory.
        quiet: No progress bars.
        origin: As for `run`.
        options: Options of the stage, such as `convert_only` of labels.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line.
    """
    known = origin or origin_of(config)
    current = Run(as_config(config), user_path(workdir), quiet, origin=known, stages=[stage])
    import_sets(current, load)
    with current.at_work():
        getattr(current, stage)(**options)
        current.write_results()


class _Call(NamedTuple):
    """The arguments of `run`, read.

    Attributes:
        settings: All settings.
        workdir: The work directory.
        pictures: Pictures from Python; None are those that the settings name.
        preset: Name of the preset, if there is one.
        changed: Dotted names of the settings that were given.
    """

    settings: Config
    workdir: Path
    pictures: InMemory | None
    preset: str | None
    changed: Sequence[str]

    def within(self, budget: str | None, keep: bool = True) -> Config:
        """Return the settings, fitted into the budget if there is one (`settle_budget`)."""
        if budget is None and self.preset != PRESET:
            return self.settings
        if self.preset is None:
            raise ConfigError("a budget needs a preset, or the path of a folder or .npz file")
        request = make_request(self.preset, self.settings, self.changed, budget)
        alone = ProcessPlan()
        return settle_budget(self.settings, request, self.workdir, alone, keep, self.pictures)

    def images(self, settings: Config, quiet: bool) -> ImageData | None:
        """Read the pictures from Python as `within` has settled; None are those of the settings."""
        if self.pictures is None:
            return None
        return load_data(settings, runtime_for(settings, quiet, join()), self.pictures)


def _read_call(
    config: Config | str | Path | Mapping[str, Any] | None,
    workdir: str | Path | None,
    data: Any,
    changes: Mapping[str, Any],
) -> _Call:
    config = str(config) if isinstance(config, Path) else config
    base, changes, pictures = _with_pictures(config, data, changes)
    changed = [*flatten(nested(changes))]
    preset, usual = _preset_of(base), None
    if preset is not None and isinstance(base, Mapping):  # the others of its entries are changes
        changed += flatten(nested({key: base[key] for key in base if key != "preset"}))
    if isinstance(base, str) and (path := pictures_of(base)) is not None:
        base, usual = settings_of(path)
        preset = PRESET
    settings = as_config(base, changes)
    usual = usual or usual_workdir(preset if preset and config is not None else settings.data.name)
    return _Call(settings, user_path(workdir or usual), pictures, preset, changed)


def _with_pictures(
    config: Config | str | Mapping[str, Any] | None, data: Any, changes: Mapping[str, Any]
) -> tuple[Config | str | Mapping[str, Any], dict[str, Any], InMemory | None]:
    """Separate pictures from settings: the settings, the changes to them, and the pictures.

    Raises:
        ConfigError: If there are neither settings nor pictures.
    """
    changes = dict(changes)
    if isinstance(config, Mapping) and data is None and not _is_section(config.get("data", {})):
        config, data = {key: config[key] for key in config if key != "data"}, config["data"]
    if _is_section(data):
        changes, data = {"data": data, **changes}, None
    if data is None:
        if config is None:
            raise ConfigError("name a preset, as in gvbsm.run('digits'), or pass data")
        return config, changes, None
    given = {"data.name": MEMORY, "data.root": None, **changes}
    return PRESET if config is None else config, given, InMemory.of(data)


def _is_section(data: Any) -> bool:
    """Whether this is the section `data` of settings, not pictures."""
    return isinstance(data, Mapping) and "train" not in data


def _preset_of(config: Config | str | Mapping[str, Any]) -> str | None:
    preset = config.get("preset") if isinstance(config, Mapping) else config
    return preset if isinstance(preset, str) else None


def _origin(preset: str | None, settings: Config) -> Origin:
    """The preset, and which of its settings were changed."""
    if preset is None:
        return UNKNOWN
    before = {**to_dict(as_config(preset, {"ipc": settings.ipc})), "ipc": as_config(preset).ipc}
    return Origin.of(preset, before, to_dict(settings))
