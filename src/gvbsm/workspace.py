"""The files of a work directory: where they lie, whether they are current, how long they took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gvbsm.artifacts import (
    ArtifactError,
    Recipe,
    changes,
    is_current,
    is_partial,
    read_header,
    read_json,
    write_json,
)
from gvbsm.teachers import file_name

log = logging.getLogger("gvbsm")


class Workspace:
    """A work directory.

    Args:
        directory: Its path; it need not be there yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def teacher(self, backbone: str) -> Path:
        """The file of a teacher."""
        return self.directory / "squeeze" / file_name(backbone)

    def statistics(self, backbone: str) -> Path:
        """The file of a teacher's statistics."""
        return self.directory / "statistics" / file_name(backbone)

    def forgetting(self, backbone: str) -> Path:
        """The file of how often a network forgot each picture."""
        return self.directory / "forgetting" / file_name(backbone)

    @property
    def results(self) -> Path:
        """The file of the results."""
        return self.directory / "results.json"

    @property
    def continual(self) -> Path:
        """The file of the class-incremental protocol's results."""
        return self.directory / "continual.json"

    @property
    def picture(self) -> Path:
        """The picture of the distilled images."""
        return self.directory / "images.png"

    @property
    def real(self) -> Path:
        """The file of a sample of real pictures."""
        return self.directory / "real.safetensors"

    @property
    def analysis(self) -> Path:
        """The file of the comparison of the sets."""
        return self.directory / "report" / "analysis.safetensors"

    def teachers(self) -> list[Path]:
        """The files of all teachers that are there, in the order of their names."""
        files = sorted((self.directory / "squeeze").glob("*.safetensors"))
        return [path for path in files if not is_partial(path)]

    def image_sets(self) -> dict[str, Path]:
        """The files of the sets that are there, by method: the run's own, baselines, real pictures.

        Of several sets of one method, such as draws of random pictures, the first.

        Raises:
            ArtifactError: If a file is damaged.
        """
        place = Path("synthesis") / "images.safetensors"
        files = [self.directory / place, *sorted(self.directory.glob(f"baselines/*/{place}"))]
        sets: dict[str, Path] = {}
        for path in filter(Path.is_file, (*files, self.real)):
            sets.setdefault(read_header(path)["method"], path)
        return sets

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the directory for the block.

        The lock belongs to the process: one that was killed holds none.

        Raises:
            ArtifactError: If another run is at work here.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.directory / ".lock", timeout=0):
                yield
        except Timeout:
            raise ArtifactError(
                f"another run is at work in {self.directory}; wait for its end, or give another "
                "--workdir"
            ) from None

    def is_made(self, path: Path, recipe: Recipe, stage: str, make: bool) -> bool:
        """Whether the artefact is there and current; the log tells what has changed if it is not.

        Args:
            path: The artefact.
            recipe: What it is to be made from.
            stage: The stage that makes it.
            make: Whether it will be made if it is not current.

        Raises:
            ArtifactError: If it is not current and will not be made.
        """
        if is_current(path, recipe):
            return True
        old = None
        if path.is_file():
            try:
                old = read_header(path).get("recipe")
            except ArtifactError as error:
                log.warning("%s", error)
        differs = changes(old, recipe) if old else []
        if not make:
            raise ArtifactError(self.not_made(path, stage, differs))
        if differs:
            log.info("%s is made again, since %s", path.name, "; ".join(differs))
        return False

    def not_made(self, path: Path, stage: str, differs: list[str] | None = None) -> str:
        """Say that an artefact is missing or out of date, and what to do."""
        why = f"was made with other settings ({'; '.join(differs)})" if differs else "is not there"
        return (
            f"{path} {why}; run `gvbsm {stage} PRESET --workdir {self.directory}` with these "
            "settings first"
        )

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long the block takes, as `name`; nothing is known of work with a break."""
        interrupted = self._notes().get(name, 0.0) is None
        self.note(name, None)
        start = time.monotonic()
        yield
        elapsed = time.monotonic() - start
        if interrupted:
            notes = self._notes()
            del notes[name]
            write_json(self._clock, notes)
        else:
            self.note(name, elapsed)

    def note(self, name: str, seconds: float | None) -> None:
        """Note a time; None is work that has begun."""
        write_json(self._clock, {**self._notes(), name: seconds})

    def seconds(self) -> dict[str, float]:
        """Time of each piece of work that was done without a break."""
        return {name: value for name, value in self._notes().items() if value is not None}

    def _notes(self) -> dict[str, float | None]:
        return read_json(self._clock) if self._clock.is_file() else {}

    @property
    def _clock(self) -> Path:
        return self.directory / "seconds.json"
