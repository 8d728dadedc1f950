"""Choose the form of each network in each kind of work (`precision: auto`), by a race.

A race takes a second or two. It is run where it is short beside the work that the settings ask for,
once a machine: its times are kept in the user's cache folder. What a work directory has chosen is
kept in its `forms.json`, so that a resumed run computes the same bits on any machine.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm._version import __version__
from gvbsm.backbones import build_backbone
from gvbsm.backbones.cost import multiply_adds
from gvbsm.backbones.folding import fold_batchnorm
from gvbsm.config import Config
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.engine.forms import Form, Kind
from gvbsm.engine.forms.race import CANDIDATES, CLOSE, ROUNDS, Trial, Work, fastest, noise, race
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.files.schema import ChosenForms, checked
from gvbsm.method.capture import HookedObserver
from gvbsm.method.layers import matched_layers
from gvbsm.pipeline.evaluated_sets import EvaluatedSet
from gvbsm.pipeline.workload import workload

log = logging.getLogger("gvbsm")

WORTH = 20  # a race is run if the work takes this many times as long
PASSES = {"training": 3, "pixels": 2, "inference": 1}  # forward passes that a batch costs
OVERHEAD = 1e10  # multiply-adds that the building of a race costs


def choose_forms(
    config: Config,
    sets: Iterable[EvaluatedSet],
    data: ImageData,
    runtime: Runtime,
    path: Path,
) -> dict[str, dict[Kind, str]]:
    """Return the table of a run's forms (`engine.forms.Forms`); new ones are added to `path`.

    Args:
        config: The run's settings; only `precision: auto` leaves a choice.
        sets: What the run evaluates.
        data: The real pictures.
        runtime: Device, and the form of all work that is too short for a race.
        path: The work directory's `forms.json`.

    Raises:
        ArtifactError: If the file is damaged.
    """
    if config.precision != "auto":
        return {}
    recorded: dict[str, dict[str, dict[Kind, str]]] = {}
    if path.exists():
        recorded = checked(ChosenForms, read_json(path), path).model_dump()["forms"]
    table = recorded.setdefault(runtime.device.type, {})
    task = RaceTask(len(data.class_names), (data.channels, data.image_size, data.image_size))
    raced = False
    for (name, kind), pictures in workload(config, sets, data).items():
        if kind in table.get(name, {}):
            continue
        if (form := task.choose(name, kind, pictures, runtime)) is not None:
            table.setdefault(name, {})[kind] = form.name
            raced = True
    if raced:
        write_json(path, {"forms": recorded})
    return table


@dataclass(frozen=True)
class RaceTask:
    """The pictures that networks are called on in their races.

    Attributes:
        classes: Number of classes.
        shape: (channels, height, width) of a picture.
    """

    classes: int
    shape: tuple[int, int, int]

    def choose(self, name: str, kind: Kind, pictures: int, runtime: Runtime) -> Form | None:
        """Return the fastest form of a network, by the machine's earlier race or by a new one.

        Args:
            name: The network.
            kind: What is computed.
            pictures: Number of pictures that it is computed for.
            runtime: Device.

        Returns:
            The form; None if the work is too short for a race.
        """
        forward = multiply_adds(name, self.classes, self.shape[-1], self.shape[0])
        raced = len(noise(self.shape)) * len(CANDIDATES) * (ROUNDS + 1) * PASSES[kind] * forward
        if pictures * PASSES[kind] * forward < WORTH * (raced + OVERHEAD):
            return None
        file = Path(platformdirs.user_cache_dir("gvbsm")) / "forms.json"
        key = self._key(name, kind, runtime)
        with seeded(0, "race"):
            network = build_backbone(name, self.classes, self.shape[-1], self.shape[0])
        if (trials := _cached(file).get(key)) is None:
            raced_network, work = _prepared(network, kind, self.shape)
            trials = race(raced_network, work, self.shape, runtime)
            with suppress(OSError, ArtifactError):  # then the next run races again
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, {**_cached(file), key: trials})
        form = fastest(trials, network)
        _tell(name, kind, form, trials)
        return form

    def _key(self, name: str, kind: Kind, runtime: Runtime) -> str:
        facts = (__version__, torch.__version__, _machine(runtime), torch.get_num_threads())
        return " ".join(map(str, (*facts, name, kind, self.classes, *self.shape)))


def _tell(name: str, kind: Kind, form: Form, trials: Sequence[Trial]) -> None:
    times = [
        f"{trial.form} {1000 * trial.seconds:.3g}"
        + ("" if trial.cosine >= CLOSE else f" (cosine to float64 {trial.cosine:.2f})")
        for trial in trials
    ]
    log.info("%s of %s in %s; ms a batch: %s", kind, name, form.name, ", ".join(times))


def _cached(file: Path) -> dict[str, list[Trial]]:
    """Return the races of this machine; none if the file is missing or damaged."""
    try:
        return {
            key: [Trial(*row) for row in trials] for key, trials in dict(read_json(file)).items()
        }
    except (ArtifactError, OSError, TypeError, ValueError):
        return {}


def _machine(runtime: Runtime) -> str:
    """Name the processor, with a digest of the instructions that it has."""
    if runtime.device.type == "cuda":
        return torch.cuda.get_device_name(runtime.device).replace(" ", "_")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        lines = [line for line in text.splitlines() if line.startswith(("model name", "flags"))]
    except OSError:
        lines = []
    facts = [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]
    return hashlib.sha256("\n".join([*facts, *lines]).encode()).hexdigest()[:16]


def _prepared(
    network: nn.Module, kind: Kind, shape: tuple[int, int, int]
) -> tuple[nn.Module, Work]:
    """Return the network as the kind of work calls it, and that work."""
    if kind == "training":
        return network.train(), _training_step
    _record_moments(network, shape)
    network.eval().requires_grad_(False)
    if kind == "pixels":
        return network, _pixel_gradient
    return fold_batchnorm(network, shape), _forward


def _record_moments(network: nn.Module, shape: tuple[int, int, int]) -> None:
    """Give BatchNorm the moments of noise: with those of a new network its maps would explode."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        network.train()(noise(shape))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _cross_entropy(logits: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    labels = torch.arange(len(wide), device=wide.device) % wide.shape[1]
    return F.cross_entropy(wide, labels)


def _training_step(network: nn.Module, pictures: Tensor, runtime: Runtime) -> Tensor:
    network.zero_grad()
    with runtime.autocast():
        logits = network(pictures)
    _cross_entropy(logits).backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    return torch.cat([gradient.flatten() for gradient in gradients])


def _pixel_gradient(network: nn.Module, pictures: Tensor, runtime: Runtime) -> Tensor:
    layers = matched_layers(network)
    paths = {*layers.batchnorm, *layers.conv}
    pixels = pictures.clone().requires_grad_()
    with runtime.autocast():
        logits, _ = HookedObserver(network, paths, n_p=4)(pixels, paths)
    (gradient,) = torch.autograd.grad(_cross_entropy(logits), pixels)
    return gradient


def _forward(network: nn.Module, pictures: Tensor, runtime: Runtime) -> Tensor:
    with torch.no_grad(), runtime.autocast():
        logits: Tensor = network(pictures)
    return logits
