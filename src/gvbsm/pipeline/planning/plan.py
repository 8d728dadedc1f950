"""The plan of a run: what it makes, how long each part takes, how much memory and how much disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal, get_args

from gvbsm.engine.progress.spelling import spell_duration

Group = Literal[
    "start-up",
    "teachers",
    "statistics",
    "images",
    "labels",
    "students",
    "baselines",
    "report",
]


@dataclass(frozen=True)
class PlannedPart:
    """A part of a run.

    Attributes:
        key: Its name in the `seconds.json` of a work directory; `start-up`, `compiling`, `report`
            and the images of sets that are copied are not there.
        group: The group of parts that it is counted with.
        what: What is made, in words.
        seconds: Time that `seconds.json` will hold: that of the process that does it, or, of work
            that all processes share, until the last of them is done.
        wall_seconds: Its share of the time of the run; less than `seconds` where several parts are
            done at the same time, and 0 where it is done within another part.
        nbytes: Bytes of the files that it leaves.
        memory: The most bytes in memory of a process that makes it, of the GPU's memory on a GPU;
            None if that is not known.
        is_made: Whether it is already there. Then it takes no time.
    """

    key: str
    group: Group
    what: str
    seconds: float
    wall_seconds: float
    nbytes: int = 0
    memory: int | None = None
    is_made: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run makes and what it costs.

    Attributes:
        parts: Its parts, in the order in which they are made.
        processes: Number of processes of the run.
    """

    parts: tuple[PlannedPart, ...]
    processes: int = 1

    @cached_property
    def seconds(self) -> float:
        """Time of the run from its start to its report."""
        return sum(part.wall_seconds for part in self.parts)

    @cached_property
    def nbytes(self) -> int:
        """Bytes on disk of all parts, those that are already there included."""
        return sum(part.nbytes for part in self.parts)

    @cached_property
    def memory(self) -> int | None:
        """The most bytes in memory of a process of the run; None if that is not known."""
        return max((part.memory for part in self.parts if part.memory is not None), default=None)

    def end(self, now: datetime | None = None) -> datetime:
        """Time of day at which a run ends that begins at `now`; None is the present."""
        return (now or datetime.now().astimezone()) + timedelta(seconds=self.seconds)

    def seconds_of(self, key: str) -> float:
        """Time of a part by its key in `seconds.json`; 0 if the run has no such part."""
        return self._seconds.get(key, 0.0)

    @cached_property
    def _seconds(self) -> dict[str, float]:
        return {part.key: part.seconds for part in self.parts}

    @cached_property
    def wall_seconds(self) -> dict[str, float]:
        """Share of each part, by its key, of the time of the run."""
        seconds: defaultdict[str, float] = defaultdict(float)
        for part in self.parts:  # draws of random pictures share a key
            seconds[part.key] += part.wall_seconds
        return seconds

    def groups(self) -> dict[Group, tuple[PlannedPart, ...]]:
        """The parts by group, in the order of the groups; groups without parts are left out."""
        members = {
            group: tuple(part for part in self.parts if part.group == group)
            for group in get_args(Group)
        }
        return {group: parts for group, parts in members.items() if parts}

    def with_trials(self, trials: Mapping[str, float]) -> Plan:
        """Return the plan with the trials of compiling networks: name -> seconds."""
        if not trials:
            return self
        seconds = sum(trials.values())
        what = f"trial of compiling {', '.join(trials)}"
        part = PlannedPart("compiling", "start-up", what, seconds, seconds)
        return replace(self, parts=(part, *self.parts))

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-like values."""
        return {
            "seconds": round(self.seconds, 3),
            "processes": self.processes,
            "bytes": self.nbytes,
            "memory": self.memory,
            "parts": [asdict(part) for part in self.parts],
        }

    def __repr__(self) -> str:
        return f"Plan({self.summary()})"

    def summary(self, now: datetime | None = None) -> str:
        """One line: the time of the run, of each group of parts, and when it ends.

        Args:
            now: When the run begins; None is the present.
        """
        times = [
            f"{group} {spell_duration(seconds)}"
            for group, parts in self.groups().items()
            if (seconds := sum(part.wall_seconds for part in parts)) >= 0.02 * self.seconds
        ]
        end = self.end(now)
        days = (end.date() - (now or datetime.now().astimezone()).date()).days
        later = f" in {days} days" if days > 1 else " tomorrow" if days else ""
        return f"{spell_duration(self.seconds)}: {', '.join(times)}; done at {end:%H:%M}{later}"
