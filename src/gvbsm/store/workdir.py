"""The files of a work directory: their paths, whether they are current, and their times."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from gvbsm.config.build import images_of
from gvbsm.files import locks, manifest
from gvbsm.files.artifacts import (
    ArtifactError,
    Recipe,
    changes,
    check_replaceable,
    is_current,
    is_partial,
    read_header,
    read_json,
    remove,
    write_json,
)
from gvbsm.files.drafts import LOCK, remove_leftovers
from gvbsm.files.network_names import file_name, file_stem
from gvbsm.files.schema import Results, Seconds, checked, checked_header, checked_json

if TYPE_CHECKING:
    from gvbsm.engine.processes import Processes

log = logging.getLogger("gvbsm")

PATIENCE_SECONDS = 60.0  # longest wait for a file of another machine
BROKEN = -1.0  # time of interrupted work, as processes other than 0 note it


class Workspace:
    """A work directory.

    Args:
        directory: Its path; it need not be there yet.
        rank: Rank of this process. Ranks other than 0 write their times to files of their own,
            which rank 0 merges (`absorb`).
    """

    def __init__(self, directory: Path, rank: int = 0) -> None:
        self.directory = directory
        self._rank = rank

    def teacher(self, backbone: str) -> Path:
        """The file of a teacher."""
        return self.directory / "squeeze" / file_name(backbone)

    def full(self, student: str, seed_index: int) -> Path:
        """The file of a student's result on all real pictures."""
        return self.directory / "baselines" / "full" / f"{file_stem(student)}-{seed_index}.json"

    def statistics(self, backbone: str) -> Path:
        """The file of a teacher's statistics."""
        return self.directory / "statistics" / file_name(backbone)

    @property
    def difficulty(self) -> Path:
        """The file of the difficulty of each training picture."""
        return self.directory / "difficulty.safetensors"

    def forgetting(self, backbone: str) -> Path:
        """The file of how often a network forgot each picture."""
        return self.directory / "forgetting" / file_name(backbone)

    def corrupted(self, kind: str) -> Path:
        """The file of the test pictures' copies by a kind of corruption."""
        return self.directory / "corruptions" / f"{kind}.safetensors"

    def tested_teacher(self, backbone: str) -> Path:
        """The file of a teacher's tests on corrupted pictures."""
        return self.directory / "corruptions" / "teachers" / f"{file_stem(backbone)}.json"

    @property
    def images(self) -> Path:
        """The file of the images of the run's own method."""
        return self.directory / "synthesis" / "images.safetensors"

    @property
    def results(self) -> Path:
        """The file of the results."""
        return self.directory / "results.json"

    @property
    def continual(self) -> Path:
        """The file of the class-incremental protocol's results."""
        return self.directory / "continual.json"

    @property
    def ranking(self) -> Path:
        """The file of the ranking of networks."""
        return self.directory / "rank.json"

    @property
    def picture(self) -> Path:
        """The picture of the distilled images."""
        return self.directory / "images.png"

    @property
    def real(self) -> Path:
        """The file of a sample of real pictures."""
        return self.directory / "real.safetensors"

    @property
    def report(self) -> Path:
        """The page of the report."""
        return self.directory / "report" / "index.html"

    @property
    def analysis(self) -> Path:
        """The file of the comparison of the sets."""
        return self.directory / "report" / "analysis.safetensors"

    def teachers(self) -> list[Path]:
        """The files of the teachers of the results' settings, in the order of their names.

        The folder may also hold those of earlier settings. Without results all are listed.
        """
        files = manifest.named(self.directory, "squeeze/*.safetensors")
        whole = [path for path in files if not is_partial(path)]
        names = (self._results().get("config") or {}).get("squeeze", {}).get("backbones")
        return [path for path in whole if names is None or read_header(path)["backbone"] in names]

    def image_sets(self) -> dict[str, Path]:
        """The files of the image sets by method: the run's own, baselines, real pictures.

        Of several sets of one method (draws of random pictures) only the first is listed. So are
        only those baselines that the results have, if there are any: the folder may also hold those
        of earlier settings.

        Raises:
            ArtifactError: If a file is damaged.
        """
        baselines = manifest.named(self.directory, "baselines/*/synthesis/images.safetensors")
        measured = {images_of(row["method"]) for row in self._results().get("rows", ())}
        sets: dict[str, Path] = {}
        for path in filter(Path.is_file, (self.images, *baselines, self.real)):
            method = checked_header(path)["method"]
            if not measured or method in measured or path not in baselines:
                sets.setdefault(method, path)
        return sets

    def _results(self) -> dict[str, Any]:
        """The content of `results.json`; empty without the file."""
        return checked_json(Results, self.results) if self.results.is_file() else {}

    def claim(self) -> None:
        """Begin the manifest of a new or empty directory; one with a manifest stays as it is.

        Raises:
            ArtifactError: If it holds something else, or cannot be written to.
        """
        _claim(self.directory, "give a new or empty folder as --workdir")

    def check_same_data(self, recorded: dict[str, Any], now: dict[str, Any]) -> None:
        """Check that a record of the directory's data is that of the present data.

        Raises:
            ArtifactError: If they differ, naming what does.
        """
        if recorded != now:
            raise ArtifactError(
                f"{self.directory} belongs to other data ({'; '.join(changes(recorded, now))}); "
                "give another --workdir"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory against other runs, and remove what a killed run was writing.

        The lock belongs to the process, so that a killed one holds none.

        Raises:
            ArtifactError: If another run is at work here, or the directory cannot be written to.
        """
        self.claim()
        with ExitStack() as held:
            try:
                is_alone = held.enter_context(locks.held(self.directory / LOCK, timeout=0))
            except Timeout:
                raise ArtifactError(
                    f"another run is at work in {self.directory}; wait for its end, or give "
                    "another --workdir"
                ) from None
            except OSError as error:
                raise ArtifactError(
                    f"{self.directory} cannot be written to ({error.strerror or error}); give "
                    "another --workdir"
                ) from None
            if is_alone:
                remove_leftovers(self.directory)
            yield

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Lock the folder of the report; wait while another report is written."""
        folder = self.analysis.parent
        _claim(folder, "move them away")
        with locks.held(folder / LOCK) as is_alone:
            if is_alone:
                remove_leftovers(folder)
            yield

    def check_shared(self, processes: Processes) -> None:
        """Check that all processes see one and the same directory.

        Raises:
            ArtifactError, ProcessError: If a process does not see a file that process 0 writes.
        """
        if processes.world == 1:
            return

        def write_token() -> str:
            for path in self.directory.glob(".together-*"):
                remove(path)  # of a run that was killed
            name = f".together-{secrets.token_hex(8)}"
            write_json(self.directory / name, {"processes": processes.world})
            return name

        path = self.directory / processes.same(write_token)
        with processes.checking():
            await_files([path])
        if processes.leads:
            remove(path)

    def is_made(self, path: Path, recipe: Recipe, stage: str, make: bool) -> bool:
        """Whether an artifact exists and is current; if it is not, log what has changed.

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
        check_replaceable(path)
        if differs:
            log.info("%s is made again, since %s", path.name, "; ".join(differs))
        return False

    def not_made(self, path: Path, stage: str, differs: list[str] | None = None) -> str:
        """The message that an artifact is missing or outdated, with the command to make it."""
        why = f"was made with other settings ({'; '.join(differs)})" if differs else "is not there"
        return (
            f"{path} {why}; run `gvbsm {stage} PRESET --workdir {self.directory}` with these "
            "settings first"
        )

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note the time of the block as `name`; None if the work was interrupted before."""
        interrupted = self._notes().get(name, 0.0) is None
        self.note(name, None)
        start = time.monotonic()
        yield
        self.note(name, BROKEN if interrupted else time.monotonic() - start)

    def note(self, name: str, seconds: float | None) -> None:
        """Note a time: None for work that has begun, BROKEN for work that was interrupted."""
        self._write({**_read_notes(self._clock), name: seconds})

    def absorb(self) -> None:
        """Merge the times that the other processes have noted, and remove their files."""
        notes = self._notes()
        for path in sorted(self.directory.glob(".seconds-*.json")):
            self._write(notes := {**notes, **_read_notes(path)})
            remove(path)

    def notes(self) -> dict[str, float | None]:
        """The times that all processes have noted, as `note` takes them."""
        notes = self._notes()
        for path in sorted(self.directory.glob(".seconds-*.json")):
            notes |= _read_notes(path)
        return notes

    def seconds(self) -> dict[str, float]:
        """Time of each piece of work that was not interrupted."""
        return {name: value for name, value in self._notes().items() if value is not None}

    def synthesis_seconds(self, method: str) -> float | None:
        """Time of a method's synthesis or selection; None if it is not known.

        Methods that differ in hard and soft labels alone share their images and this time.
        """
        seconds, images = self.seconds(), images_of(method)
        times = (seconds.get(f"synthesis/{images}{labels}") for labels in ("", "-hard", "-soft"))
        return next((time for time in times if time is not None), None)

    def _write(self, notes: dict[str, float | None]) -> None:
        if self._rank == 0:
            notes = {name: value for name, value in notes.items() if value != BROKEN}
        write_json(self._clock, notes)

    def _notes(self) -> dict[str, float | None]:
        return {**_read_notes(self.directory / "seconds.json"), **_read_notes(self._clock)}

    @property
    def _clock(self) -> Path:
        return self.directory / (f".seconds-{self._rank}.json" if self._rank else "seconds.json")


def _claim(folder: Path, advice: str) -> None:
    try:
        manifest.claim(folder)
    except FileExistsError as error:
        raise ArtifactError(
            f"{folder} holds things that gvbsm did not make ({error}); {advice}"
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"{folder} cannot be written to ({error.strerror or error}); give another --workdir"
        ) from None


def _read_notes(path: Path) -> dict[str, float | None]:
    """Noted times; none, with a warning, if the file is damaged: no run fails for them."""
    try:
        notes = read_json(path) if path.is_file() else {}
        return checked(Seconds, {"seconds": notes}, path).seconds
    except ArtifactError as error:
        log.warning("%s; the times so far are lost", error)
        return {}


def await_files(paths: Sequence[Path]) -> None:
    """Wait until files that other processes have written are visible to this one.

    A network file system may cache for some seconds that a file does not exist. Listing its folder
    refreshes the cache.

    Raises:
        ArtifactError: If a file is not visible within a minute.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    for path in paths:
        while not path.is_file():
            if time.monotonic() > end:
                raise ArtifactError(
                    f"{path} was written by another process, but this one does not see it; give "
                    "all processes one shared --workdir"
                )
            time.sleep(0.2)
            if path.parent.is_dir():
                list(path.parent.iterdir())
