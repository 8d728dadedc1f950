"""`gvbsm sweep`: run the points of a study and collect their results.

Each point is a run in a folder of its own. The folder is named after the study, the point and a
hash of the settings, so that equal points of different studies are one run. Teachers, images,
labels and students that points have in common are computed once and linked (`artifact_reuse`).
The same command continues where it stopped. `table` describes the files that are written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from gvbsm.config import Config, ConfigError, DataConfig
from gvbsm.config.build import settings_with_effect, to_dict
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import UNKNOWN, Origin, origin_of
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import runtime_for
from gvbsm.engine.processes import join
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.files.artifacts import fingerprint, read_json, write_json
from gvbsm.files.schema import Results, checked_header, checked_json
from gvbsm.pipeline.evaluated_sets import evaluated_sets
from gvbsm.pipeline.preflight import check_feasible, load_data
from gvbsm.pipeline.results import spread
from gvbsm.pipeline.run import Run
from gvbsm.store.distilled import stored_bytes
from gvbsm.store.image_set import ImageSet
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace
from gvbsm.studies.artifact_reuse import Library, exists
from gvbsm.studies.definition import Point, Study, SweepPlan, read_sweep_plan
from gvbsm.studies.table import merge_shared_baselines, write_csv

log = logging.getLogger("gvbsm")

FORMAT = 1


@torch_defaults()
def sweep(
    study: str,
    config: Config | str | Mapping[str, Any],
    workdir: str | Path,
    options: Mapping[str, Any] | None = None,
    repeat: int = 1,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Run all points of one or several studies.

    Args:
        study: Name of a study, a YAML file, several joined by `+`, or `all`.
        config: Settings of all points: a preset's name, a nested mapping or a `Config`.
        workdir: Folder of the sweep; matching artifacts in it are used again.
        options: Nested settings that override those of the study for all points.
        repeat: Runs of each point, each with a seed one higher; their students are pooled.
        quiet: No progress bars.

    Returns:
        The content of `STUDY.json`, by study.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: One clear line for each fault; faults of
            settings are raised before any work.
    """
    if isinstance(config, str):
        settings: dict[str, Any] | str = config
    else:
        settings = to_dict(config) if isinstance(config, Config) else dict(config)
    plan = read_sweep_plan(study, settings, dict(options or {}), repeat)
    contents = run_plan(plan, user_path(workdir), quiet, origin_of(config))
    return {content["study"]: content for content in contents}


def run_plan(
    plan: SweepPlan, workdir: Path, quiet: bool = False, origin: Origin = UNKNOWN
) -> Iterator[dict[str, Any]]:
    """Run all points in order; yield the content of `STUDY.json` as each study ends.

    Args:
        plan: The studies with their points.
        workdir: The sweep's folder.
        quiet: No progress bars.
        origin: The preset of all points, and the settings that the user changed.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: As `sweep`.
    """
    runs = _PointRuns(workdir, plan.repeat, quiet)
    with runs.processes.checking():
        for _, points in plan.studies:
            for point in points:
                runs.check(point.config)
        if runs.processes.leads:
            Workspace(workdir).claim()
    for study, points in plan.studies:
        yield _run_study(study, points, runs, origin)


def _run_study(
    study: Study, points: Sequence[Point], runs: _PointRuns, origin: Origin
) -> dict[str, Any]:
    """Run a study's points in order; its files are written after each."""
    rows: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = [
        {
            "name": point.name,
            "axes": point.axes,
            "folders": [],
            "done": False,
            "config": to_dict(point.config),
        }
        for point in points
    ]
    content: dict[str, Any] = {
        "format": FORMAT,
        "study": study.name,
        "title": study.title,
        "source": study.source,
        "axes": list(study.axes),
        "additive": study.additive,
        "origin": origin.as_json(),
        "paper": [figure._asdict() for figure in study.paper],
        "points": entries,
    }
    methods: set[str] = {point.config.method for point in points}
    for number, (point, entry) in enumerate(zip(points, entries, strict=True), start=1):
        log.info("%s: %s (point %d of %d)", study.name, point.name, number, len(points))
        point_rows, entry["folders"], versions = runs.run(study.name, point)
        place = {"study": study.name, "point": point.name, "axes": point.axes}
        rows += [{**place, **row} for row in point_rows]
        entry["done"] = True
        content |= {"rows": merge_shared_baselines(rows, methods), "versions": versions}
        if runs.processes.leads:
            write_json(runs.directory / f"{study.name}.json", content)
            write_csv(runs.directory / f"{study.name}.csv", content)
    return content


class _PointRuns:
    """The runs of a sweep.

    Args:
        directory: The sweep's folder.
        repeat: Runs of each point.
        quiet: No progress bars.
    """

    def __init__(self, directory: Path, repeat: int, quiet: bool) -> None:
        self.directory = directory
        self.processes = join()
        self._repeat, self._quiet = repeat, quiet
        self._library = Library(directory / "points")  # process 0's is the one that is asked
        self._data: dict[DataConfig, ImageData] = {}

    def check(self, config: Config) -> None:
        """Check the data, all networks, the settings of baselines, and the size of classes."""
        if config.baselines.sets:
            raise ConfigError("a sweep does not read baselines.sets; leave it out")
        check_feasible(config, self._data_of(config))
        list(evaluated_sets(config, self.directory))

    def run(
        self, study: str, point: Point
    ) -> tuple[list[dict[str, Any]], list[str], dict[str, str]]:
        """Run a point with all seeds.

        Returns:
            Its rows (without study, point and axes), folders and versions.
        """
        runs = []
        for step in range(self._repeat):
            config = replace(point.config, seed=point.config.seed + step)
            name = f"{study}-{point.name}"
            folder = self.directory / self.processes.same(partial(self._folder, name, config))
            point_run = _PointRun(Run(config, folder, self._quiet, self._data_of(config)))
            if self.processes.leads:
                linked = self._library.link(point_run.run.workspace, point_run.artifacts)
                if linked:
                    log.info("%s: linked %d files of other points", folder.name, linked)
            point_run.finish()
            self._library.add(point_run.artifacts)
            runs.append(point_run)
        folders = [str(item.run.workdir.relative_to(self.directory)) for item in runs]
        return _pool(runs), folders, runs[-1].results["versions"]

    def _folder(self, name: str, config: Config) -> str:
        """The folder for these settings and pictures, of any study, or the name of a new one."""
        digest = fingerprint(settings_with_effect(config) | _weights_of(config))[:12]
        points = self.directory / "points"
        pictures = self._data_of(config).fingerprint
        found = sorted(points.glob(f"*-{digest}"))
        existing = [folder for folder in found if _pictures_in(folder) in (None, pictures)]
        prefix = re.sub(r"[^A-Za-z0-9.=+-]+", "-", name)
        folder = existing[0] if existing else points / f"{prefix}-{digest}"
        return str(folder.relative_to(self.directory))

    def _data_of(self, config: Config) -> ImageData:
        if config.data not in self._data:
            runtime = runtime_for(config, self._quiet, self.processes)
            self._data[config.data] = load_data(config, runtime)
        return self._data[config.data]


def _weights_of(config: Config) -> dict[str, Any]:
    """Return the hashes of the user's files of weights, whose paths are settings without effect."""
    recipes = Recipes(config, "", config.precision)
    teachers = {name: recipes.teacher(name)["squeeze"] for name in config.squeeze.backbones}
    files = {
        name: entries for name, entries in teachers.items() if {"weights", "classes"} & {*entries}
    }
    return {"weights": files} if files else {}


def _pictures_in(folder: Path) -> str | None:
    """Return the fingerprint of the pictures that a work directory belongs to, if it has begun."""
    path = folder / "data.json"
    return read_json(path)["fingerprint"] if path.is_file() else None


class _PointRun:
    """One run of a point: its artifacts and its results.

    Args:
        run: The run; `finish` completes it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.artifacts = list(run.context.artifacts.all(run.evaluated_sets))
        self.results: dict[str, Any] = {}

    def finish(self) -> None:
        """Run the stages that are not done, and set `results`."""
        finished: dict[str, Any] | None = self.run.processes.same(self._finished)
        self.results = finished or self.run.all_stages()

    def _finished(self) -> dict[str, Any] | None:
        """The results with their versions if all stages are done, else None."""
        path = self.run.workspace.results
        tests = [item for item in self.artifacts if item.clock.startswith(("evaluation/", "full/"))]
        if not path.is_file() or not all(map(exists, tests)):
            return None
        results = checked_json(Results, path)
        students = [row for row in results["rows"] if row["method"] != "teacher"]
        teachers = len(results["rows"]) - len(students)
        has_teachers = "teacher" in self.run.config.baselines.methods
        is_complete = (
            results["config"] == to_dict(self.run.config)
            and sum(len(row["top1"]["values"]) for row in students) == len(tests)
            and teachers == (len(self.run.config.squeeze.backbones) if has_teachers else 0)
        )
        return results if is_complete else None

    def recipe(self, method: str, student: str) -> str:
        """Hash of everything that the results of a method's students depend on."""
        if method == "teacher":
            return fingerprint(self.run.recipes.teacher(student))
        start = f"full/{student}/" if method == "full" else f"evaluation/{method}/{student}/"
        hashes = [fingerprint(a.recipe) for a in self.artifacts if a.clock.startswith(start)]
        return fingerprint({"students": hashes})

    def image_set(self, method: str) -> ImageSet | None:
        """The image set of a method, the first of several draws; None for the whole set."""
        sets = (image_set for image_set, _ in self.run.evaluated_sets)
        return next((image_set for image_set in sets if image_set.method == method), None)

    def seconds(self, method: str) -> tuple[float | None, float | None]:
        """Time of a method's synthesis, and of one iteration of one batch; None if unknown."""
        image_set = self.image_set(method)
        seconds = self.run.workspace.seconds().get(f"synthesis/{method}")
        if image_set is None or image_set.selection is not None or seconds is None:
            return None, None
        # A trace has the first and the last step of a batch of images, and steps between them.
        traces = checked_header(image_set.images)["traces"]
        steps = sum(trace[-1]["step"] + 1 - trace[0]["step"] for trace in traces)
        return seconds, seconds / steps


def _pool(runs: Sequence[_PointRun]) -> list[dict[str, Any]]:
    """The rows of one point; the students of all its runs are pooled."""
    rows = []
    for row in runs[0].results["rows"]:
        method, student = row["method"], row["student"]
        recipes = [run.recipe(method, student) for run in runs]
        # Seeds of single stages are the same in all runs: the students of one recipe count once.
        different = dict(zip(recipes, runs, strict=True)).values()
        same_rows = [
            other
            for run in different
            for other in run.results["rows"]
            if (other["method"], other["student"]) == (method, student)
        ]
        image_set = runs[0].image_set(method)
        sizes = {}
        if image_set is not None:
            folder = image_set.of_student(student).label_folder
            sizes = stored_bytes(image_set.directory, image_set.stores_labels, folder)
        image_seconds = [run.run.workspace.synthesis_seconds(method) for run in runs if image_set]
        synthesis_seconds = [run.seconds(method) for run in runs]
        rows.append(
            {
                "method": method,
                "student": student,
                "ipc": row["ipc"],
                **({"ipc_of": row["ipc_of"]} if row.get("ipc_of") else {}),
                "seeds": [run.run.config.seed for run in different],
                "top1": _spread([other["top1"] for other in same_rows]),
                "top1_best": _spread([other["top1_best"] for other in same_rows]),
                "synthesis_seconds": _mean([total for total, _ in synthesis_seconds]),
                "seconds_per_iteration": _mean([iteration for _, iteration in synthesis_seconds]),
                "seconds": _mean(image_seconds),
                "bytes": sum(sizes.values()) if sizes else None,
                "image_bytes": sizes.get("images"),
                "label_bytes": sizes.get("labels"),
                "recipe": fingerprint({"runs": recipes}),
            }
        )
    return rows


def _spread(accuracies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [value for top1 in accuracies for value in top1["values"]]
    return {**spread(values), "n": len(values)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
