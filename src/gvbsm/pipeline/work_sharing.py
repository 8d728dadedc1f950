"""Divide the work on one directory between several processes, and wait for each other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from gvbsm.config import Parallel
from gvbsm.engine.processes import ALONE, ProcessError, Processes
from gvbsm.engine.progress.activity import ACTIVITY, PartShare, Schedule
from gvbsm.engine.progress.shared import SharedParts
from gvbsm.engine.progress.spelling import spell_duration
from gvbsm.files.artifacts import check_replaceable
from gvbsm.files.checkpoint import remove_finished
from gvbsm.files.log_file import log_file
from gvbsm.pipeline.artifacts import Artifact
from gvbsm.store.workdir import Workspace, await_files

log = logging.getLogger("gvbsm")

Made = TypeVar("Made", bound=Artifact[Any])


class Teamwork:
    """The processes of a run in their work directory; a single process does all and never waits.

    Args:
        workspace: The directory.
        processes: All processes.
    """

    def __init__(self, workspace: Workspace, processes: Processes) -> None:
        self.workspace, self._processes = workspace, processes
        self._title = ""  # of the network at work
        self._parts = SharedParts(processes.shared_numbers())
        self._planned: tuple[float, float] | None = None  # when it was followed, and its seconds

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Lock the directory, open its log file, and check that all processes share it.

        Raises:
            ArtifactError, ProcessError: If another run has locked the directory, or it is not the
                same directory for all processes.
        """
        if not self._processes.leads:
            self.workspace.check_shared(self._processes)
            ACTIVITY.publish = self._publish
            try:
                yield
            finally:
                ACTIVITY.publish = None
            self._processes.barrier()
            return
        with self.workspace.locked(), log_file(self.workspace.directory):
            self.workspace.absorb()
            remove_finished(self.workspace.directory)
            self.workspace.check_shared(self._processes)
            try:
                yield
                self._log_time()
            finally:
                ACTIVITY.schedule = None
            self._processes.barrier()

    def _publish(self, key: str, share: PartShare) -> None:
        with suppress(ProcessError):  # the next barrier reports that a process is lost
            self._parts.publish(key, share)

    def follow(self, seconds: Mapping[str, float]) -> None:
        """Let progress say how much of the run is done, and the end how long it took.

        Args:
            seconds: Key of each part, as in `seconds.json` -> its share of the run's planned time.
        """
        before, missing = self.workspace.notes(), object()

        def finished() -> set[str]:
            # The note of a part that an earlier run began is removed when the part is finished.
            now = {key: self.workspace.notes().get(key, missing) for key in seconds}
            return {
                key
                for key, note in now.items()
                if note is not None and note != before.get(key, missing)
            }

        def elsewhere() -> dict[str, PartShare]:
            return self._parts.read(seconds) if self._processes.world > 1 else {}

        ACTIVITY.schedule = Schedule(seconds, finished, elsewhere)
        self._planned = time.monotonic(), sum(seconds.values())

    def _log_time(self) -> None:
        """Say how long the work took that has been followed."""
        if self._planned is not None:
            (begun, planned), self._planned = self._planned, None
            taken = spell_duration(time.monotonic() - begun)
            log.info("finished in %s; %s were planned", taken, spell_duration(planned))

    def check_replaceable(self, path: Path) -> None:
        """Check in process 0 that a result may be written, before the work that it is made from.

        Raises:
            ArtifactError, ProcessError: If a file or a link of the user is in the way.
        """
        with self._processes.checking():
            if self._processes.leads:
                check_replaceable(path)

    def missing(self, artifacts: Iterable[Made], is_made: Callable[[Made], bool]) -> list[Made]:
        """Return the artifacts that are not made or out of date, the same in all processes.

        Process 0 alone asks, so that files that appear meanwhile do not divide the processes.
        """
        every = list(artifacts)
        numbers = self._processes.same(
            lambda: [number for number, artifact in enumerate(every) if not is_made(artifact)]
        )
        return [every[number] for number in numbers]

    def deal(
        self,
        missing: Sequence[Made],
        pieces: int,
        parallel: Parallel,
        report: Callable[[Made], None],
        noun: str,
    ) -> Iterator[tuple[Made, Processes]]:
        """Yield the artifacts to make here, each with the processes that make it together.

        When all are made, wait until they are visible to all processes.

        Args:
            missing: The artifacts that are missing, as `missing` returns them.
            pieces: Number of all artifacts of the stage, missing or not.
            parallel: `networks` gives each process artifacts of its own, `pictures` all of them.
            report: Logs a result; process 0 logs all.
            noun: What is made: progress says `teacher 2 of 5`.
        """
        together = parallel == "pictures"
        team = self._processes if together else ALONE
        made_here = []
        for artifact in missing if together else self._processes.deal(missing, pieces):
            position = pieces - len(missing) + missing.index(artifact) + 1
            self._title = f"{noun} {position} of {pieces}"
            yield artifact, team
            self._title = ""
            if team.leads:
                report(artifact)
            made_here.append(artifact)
        self.meet([artifact.path for artifact in missing])
        if self._processes.leads:
            self.workspace.absorb()
            for artifact in missing:
                if artifact not in made_here:
                    report(artifact)

    @contextmanager
    def timed(self, name: str, team: Processes) -> Iterator[None]:
        """Note the time of a block that the processes of `team` run together.

        Progress names the network at work, else what follows the stage in `name`.
        """
        clock = self.workspace.timed(name) if team.leads else nullcontext()
        with clock, ACTIVITY.part(name, self._title or name.partition("/")[2]):
            yield

    def meet(self, paths: Sequence[Path]) -> None:
        """Wait for all processes, and until this one sees the files that they have written."""
        self._processes.barrier()
        await_files(paths)
