"""Collect single results into the rows of `results.json`."""

from __future__ import annotations

import platform
import statistics as standard_statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from gvbsm._version import __version__
from gvbsm.config import Config
from gvbsm.config.build import to_dict
from gvbsm.config.settled import ipc_entries
from gvbsm.engine.device import Runtime
from gvbsm.pipeline.workload import TIMED

MEASURES = ("top5", "balanced", "calibration_error", "corrupted")  # scores in `metrics`


def collect(
    config: Config,
    students: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    full: Mapping[str, Sequence[Mapping[str, Any]]],
    teachers: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
    pictures: Mapping[str, int],
    runtime: Runtime,
) -> dict[str, Any]:
    """Return the content of `results.json`.

    Args:
        config: The run's settings.
        students: The results of all seeds, by method and student.
        full: The results of all seeds of the students on all real pictures, by student.
        teachers: Each teacher's history, by backbone.
        seconds: Time of each piece of work, named `STAGE/...`.
        pictures: Number of real pictures of each split.
        runtime: Device, precision.

    Returns:
        `rows`: method, student, ipc (None for all pictures), ipc_of where classes differ, `top1`
        (last epoch) and `top1_best` (best test of all epochs) in percent, `metrics` of the last
        epoch (not of teachers), `corruptions` where there are tests on corrupted pictures, and
        seconds; `seconds` of each part of `TIMED`; `pictures` of each split;
        `config`; `versions`. `Run` adds the `skipped` pictures, `notes` on assumptions about the
        data, how the `data` were read, and the `origin` of the settings.
    """
    seeds = range(config.evaluation.seeds)
    rows = [
        _row(
            method,
            student,
            ipc_entries(config),
            results,
            sum_seconds(seconds, f"evaluation/{method}/{student}/", seeds),
        )
        for (method, student), results in students.items()
    ]
    rows += [
        _row(
            "full",
            student,
            {"ipc": None},
            results,
            sum_seconds(seconds, f"full/{student}/", seeds),
        )
        for student, results in full.items()
    ]
    rows += [
        _row("teacher", backbone, {"ipc": None}, [history], seconds.get(f"squeeze/{backbone}", 0.0))
        for backbone, history in teachers.items()
    ]
    return {
        "rows": rows,
        "seconds": {
            stage: sum(s for name, s in seconds.items() if f"{name}/".startswith(f"{stage}/"))
            for stage in TIMED
        },
        "pictures": dict(pictures),
        "config": to_dict(config),
        "versions": versions(runtime),
    }


def _row(
    method: str,
    student: str,
    images: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    return {
        "method": method,
        "student": student,
        **images,
        "top1": spread([result["top1"][-1] for result in results]),
        "top1_best": spread([max(result["top1"]) for result in results]),
        **_metrics([result.get("metrics") for result in results]),
        **_corruptions([result.get("corruptions") for result in results]),
        "seconds": seconds,
    }


def _metrics(students: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the entry `metrics` of a row; none if a student's last test did not measure them.

    Args:
        students: `metrics` of each student (`stages.judge.Judge.record`).
    """
    measured = [metrics for metrics in students if metrics is not None]
    if len(measured) < len(students):
        return {}
    names = [name for name in MEASURES if name in measured[0]]
    columns = zip(*(metrics["by_class"] for metrics in measured), strict=True)
    by_class = [
        None if None in accuracies else standard_statistics.fmean(accuracies)
        for accuracies in columns
    ]
    spreads = {name: spread([metrics[name] for metrics in measured]) for name in names}
    return {"metrics": {**spreads, "by_class": by_class}}


def _corruptions(students: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the entry `corruptions` of a row; none if a student was not tested on corrupted ones.

    Args:
        students: `corruptions` of each student (`stages.judge.Judge.record`).
    """
    tested = [item for item in students if item is not None]
    if len(tested) < len(students):
        return {}
    mean = standard_statistics.fmean
    accuracies = {kind: [item["kinds"][kind] for item in tested] for kind in tested[0]["kinds"]}
    entry = {
        **{name: tested[0][name] for name in ("source", "pictures", "severities")},
        "clean": spread([item["clean"] for item in tested]),
        "kinds": {kind: spread(list(map(mean, rows))) for kind, rows in accuracies.items()},
        "by_severity": {
            kind: list(map(mean, zip(*rows, strict=True))) for kind, rows in accuracies.items()
        },
    }
    return {"corruptions": entry}


def sum_seconds(seconds: Mapping[str, float], start: str, numbers: Iterable[int]) -> float:
    """Sum the times whose names are `start` and one of the numbers.

    A work directory also holds times of students that its settings no longer ask for.
    """
    return sum(seconds.get(f"{start}{number}", 0.0) for number in numbers)


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1); a single value has none (None)."""
    deviation = standard_statistics.stdev(values) if len(values) > 1 else None
    return {"mean": standard_statistics.fmean(values), "std": deviation, "values": values}


def versions(runtime: Runtime) -> dict[str, str]:
    """Versions of the software, device, precision and threads of a run."""
    device = str(runtime.device)
    if runtime.device.type == "cuda":
        device = f"{device} ({torch.cuda.get_device_name(runtime.device)})"
    return {
        "gvbsm": __version__,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "device": device,
        "precision": runtime.precisions,
        "threads": str(torch.get_num_threads()),
    }
