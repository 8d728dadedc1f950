"""Recognize a work directory in which a verb has nothing to do, without importing torch.

When a verb has ended, `finished.json` notes what it was computed from: the settings, the program
and its libraries, the machine's accelerators, and the states (`files.state`) of the pictures and of
all files of the work directory. While all of that is as noted, the verb would make nothing again.
Whatever is uncertain is not noted, and the verb then compares all recipes, as it does the first
time.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gvbsm
from gvbsm.config import Config
from gvbsm.config.build import to_dict
from gvbsm.config.paths import cache_folder, user_path
from gvbsm.config.provenance import Origin
from gvbsm.files.artifacts import ArtifactError, fingerprint, read_json, write_json
from gvbsm.files.schema import Finished, checked
from gvbsm.files.state import State, state_digest, states_made
from gvbsm.store.workdir import Workspace

NAME = "finished.json"
REPORT = "report/"  # the names of the report's files begin with it
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "scikit-learn",
    "matplotlib",
    "datasets",
    "pyarrow",
)
VISIBLE_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class Completion:
    """A verb in a work directory: whether it has been completed, and the note that it has been.

    Args:
        verb: The verb.
        config: Its settings.
        workdir: The work directory.
        origin: Where the settings came from.
    """

    def __init__(self, verb: str, config: Config, workdir: Path, origin: Origin) -> None:
        self._verb, self._config, self._workdir = verb, config, workdir
        self._path = workdir / NAME
        self._inputs = _inputs(config, origin)
        self._made: dict[str, State] = {}

    def is_noted(self) -> bool:
        """Whether the verb has nothing to do.

        Raises:
            ArtifactError: If another run is at work in the directory.
        """
        if self._inputs is None or not self._path.is_file():
            return False
        with Workspace(self._workdir).locked():
            note = self._read()
            return (
                note is not None
                and self._verb in note.verbs
                and note.inputs == self._inputs
                and note.files == self._states()
            )

    def freeze(self) -> None:
        """Remember the files, as soon as the verb has made them."""
        self._made = self._states()

    def note(self) -> None:
        """Note that the verb is completed, unless the files have changed since `freeze`."""
        if self._inputs is None or not self._made or _names_code(self._config):
            return
        with suppress(ArtifactError, OSError), Workspace(self._workdir).locked():
            files = self._states()
            if _without(files, REPORT) != _without(self._made, REPORT):
                return
            verbs = {*self._verbs_before(files), *self._verbs_now()}
            content = {"inputs": self._inputs, "verbs": sorted(verbs), "files": files}
            write_json(self._path, content)

    def _read(self) -> Finished | None:
        try:
            return checked(Finished, read_json(self._path), self._path)
        except ArtifactError:
            return None

    def _states(self) -> dict[str, State]:
        """The states of all files of the work directory and its report, without the note."""
        states = states_made(self._workdir)
        states.pop(NAME, None)
        report = states_made(self._workdir / REPORT)
        return {**states, **{f"{REPORT}{name}": state for name, state in report.items()}}

    def _verbs_before(self, files: dict[str, State]) -> set[str]:
        """The verbs that an earlier note names and that have nothing to do now either.

        Every verb writes `results.json` anew. After new files, the report of `run` is outdated.
        """
        note = self._read()
        if note is None or note.inputs != self._inputs:
            return set()
        before, now = _without(note.files, "results.json"), _without(files, "results.json")
        if any(now.get(name) != state for name, state in before.items()):
            return set()
        return {*note.verbs} - (set() if before == now else {"run"})

    def _verbs_now(self) -> set[str]:
        """The verb itself, and the stages that `run` includes."""
        if self._verb != "run":
            return {self._verb}
        from gvbsm.pipeline.evaluated_sets import evaluated_sets, needed_teachers

        image_sets = [item.image_set for item in evaluated_sets(self._config, self._workdir)]
        verbs = {"run", "synthesis", "labels", "evaluation"}
        if needed_teachers(self._config, image_sets) == [*self._config.squeeze.backbones]:
            verbs.add("squeeze")
        if any(image_set.needs_statistics for image_set in image_sets):
            verbs.add("statistics")
        return verbs


def _without(files: dict[str, State], start: str) -> dict[str, State]:
    return {name: state for name, state in files.items() if not name.startswith(start)}


def _inputs(config: Config, origin: Origin) -> str | None:
    """Hash all that a verb computes from; None if that cannot be known without reading it."""
    settings = to_dict(config)
    texts = {text for text in _texts(settings) if text}
    pictures = _pictures(config)
    # Code of the user's own is `SOURCE:ATTRIBUTE`. Windows does not list its devices.
    if pictures is None or os.name == "nt" or any(":" in text for text in texts):
        return None
    named = [path for path in map(user_path, sorted(texts)) if _exists(path)]
    package = Path(gvbsm.__file__).parent
    program = [path for path in package.rglob("*.*") if path.parent.name != "__pycache__"]
    digest = state_digest([*pictures, *named, *filter(Path.is_file, program)], time.time_ns())
    if digest is None:
        return None
    devices = sorted(path.name for path in Path("/dev").glob("*") if _is_accelerator(path.name))
    return fingerprint(
        {
            "settings": settings,
            "origin": origin.as_json(),
            "files": digest,
            "versions": [platform.python_version(), *map(_version, LIBRARIES)],
            "machine": [platform.node(), devices, *map(os.environ.get, VISIBLE_DEVICES)],
        }
    )


def _pictures(config: Config) -> list[Path] | None:
    """The files and folders of the pictures; None if they are not all on this machine."""
    name, root = config.data.name, config.data.root
    if root:
        path = Path(user_path(root))
        # of a pattern of tar files, the folder before its first sign
        signs = [place for place, part in enumerate(path.parts) if {*part} & {*"{*?["}]
        return [Path(*path.parts[: signs[0]])] if signs and not _exists(path) else [path]
    if name == "digits":
        spec = find_spec("sklearn")
        folders = spec.submodule_search_locations if spec else None
        return [Path(folder, "datasets", "data") for folder in folders or ()] or None
    if name in ("cifar10", "cifar100"):
        return sorted(cache_folder().glob("cifar-*")) or None
    if name.startswith("torchvision/"):
        return [cache_folder() / "torchvision"]
    return None


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts of nested settings, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _is_accelerator(name: str) -> bool:
    return name == "kfd" or (name.startswith("nvidia") and name[-1].isdecimal())


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _names_code(config: Config) -> bool:
    """Whether a setting names code that another installed package brings."""
    groups = [group for group in entry_points().groups if group.startswith("gvbsm.")]
    entries = {entry.name for group in groups for entry in entry_points(group=group)}
    return bool(entries & {*_texts(to_dict(config))})
