"""Measurements of this machine, kept in the user's cache folder between runs."""

from __future__ import annotations

import hashlib
import platform
from contextlib import suppress
from pathlib import Path

import torch

from gvbsm._version import __version__
from gvbsm.backbones import code_of
from gvbsm.config.paths import cache_folder
from gvbsm.engine.device import Runtime
from gvbsm.files.artifacts import ArtifactError, read_json, write_json


class MachineCache:
    """JSON-like measurements by key, of one machine, device, number of threads and version.

    A file that is missing or damaged holds nothing, and what cannot be written is measured again.

    Args:
        runtime: Device.
        file: Name of the file.

    Attributes:
        path: The file.
    """

    def __init__(self, runtime: Runtime, file: str = "forms.json") -> None:
        self.path = cache_folder() / file
        facts = (__version__, torch.__version__, _machine(runtime), torch.get_num_threads())
        self._prefix = " ".join(map(str, facts))

    def get(self, key: str) -> list[list[object]] | None:
        """Return the rows of a measurement; None if there is none."""
        return self._entries().get(key)

    def containing(self, words: str) -> list[list[list[object]]]:
        """Return the rows of all measurements whose key contains these words."""
        return [rows for key, rows in self._entries().items() if words in f" {key}"]

    def _entries(self) -> dict[str, list[list[object]]]:
        try:
            entries = read_json(self.path)
        except (ArtifactError, OSError):
            return {}
        return {
            key.removeprefix(f"{self._prefix} "): rows
            for key, rows in entries.items()
            if key.startswith(f"{self._prefix} ")
            and isinstance(rows, list)
            and all(isinstance(row, list) for row in rows)
        }

    def put(self, key: str, rows: object) -> None:
        """Keep the rows of a measurement, a list of lists."""
        with suppress(ArtifactError, OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            others = read_json(self.path) if self.path.exists() else {}
            write_json(self.path, {**others, f"{self._prefix} {key}": rows})


def of_code(name: str) -> str:
    """Return a name for keys: code of the user's own is known by the hash of its file, too."""
    return " ".join([name, *code_of(name).values()])


def _machine(runtime: Runtime) -> str:
    """Name the GPU, or digest the name of the processor and the instructions that it has."""
    if runtime.device.type == "cuda":
        return torch.cuda.get_device_name(runtime.device).replace(" ", "_")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        lines = [line for line in text.splitlines() if line.startswith(("model name", "flags"))]
    except OSError:
        lines = []
    facts = [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]
    return hashlib.sha256("\n".join([*facts, *lines]).encode()).hexdigest()[:16]
