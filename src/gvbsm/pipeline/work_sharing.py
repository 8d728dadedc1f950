"""How several processes work on one directory: who does what, notes the time, and waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from gvbsm.config import Parallel
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.store.workdir import Workspace, await_files

Item = TypeVar("Item", int, str)


class Teamwork:
    """The processes at work in a directory; with one process alone nothing is special.

    Args:
        workspace: The directory.
        processes: All processes.
    """

    def __init__(self, workspace: Workspace, processes: Processes) -> None:
        self.workspace, self._processes = workspace, processes

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Keep other runs out of the directory for the block, and see that all share it.

        Raises:
            ArtifactError, ProcessError: If another run is at work there, or it is not the same
                directory for all processes.
        """
        if not self._processes.leads:
            self.workspace.check_shared(self._processes)
            yield
            self._processes.barrier()
            return
        with self.workspace.locked():
            self.workspace.absorb()
            self.workspace.check_shared(self._processes)
            yield
            self._processes.barrier()

    def deal(
        self,
        items: Sequence[Item],
        parallel: Parallel,
        path_of: Callable[[Item], Path],
        tell: Callable[[Item], None],
    ) -> Iterator[tuple[Item, Processes]]:
        """Networks to train here, each with the processes that train it together.

        Args:
            items: Networks, the same in all processes.
            parallel: Whether each process trains networks of its own, or all one after the other.
            path_of: The file that a network ends in.
            tell: Logs the outcome of a network; process 0 tells all.
        """
        together = parallel == "pictures"
        team = self._processes if together else ALONE
        mine = []
        for item in items if together else self._processes.deal(items):
            yield item, team
            if team.leads:
                tell(item)
            mine.append(item)
        self.meet([path_of(item) for item in items])
        if self._processes.leads:
            self.workspace.absorb()
            for item in items:
                if item not in mine:
                    tell(item)

    def timed(self, name: str, team: Processes) -> AbstractContextManager[None]:
        """Note the time of a block that the processes of `team` do together."""
        return self.workspace.timed(name) if team.leads else nullcontext()

    def meet(self, paths: Sequence[Path]) -> None:
        """Wait until all processes are here, and files that were made are seen."""
        self._processes.barrier()
        await_files(paths)
