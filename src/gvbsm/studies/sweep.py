"""`gvbsm sweep`: the points of a study, each a run in a folder of its own, told side by side.

A folder is named after the study, the point and a hash of all settings that matter, so that equal
points of different studies are one run; what single points have in common (teachers, images,
labels, students) is made once and linked (`sharing`). The same command goes on where it was
stopped. `comparison` says what is written.
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

from gvbsm.config import Config, DataConfig
from gvbsm.config.build import read_preset, to_dict
from gvbsm.config.fields import without_effect
from gvbsm.config.keys import value_at
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import UNKNOWN, Origin, origin_of
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import resolve_runtime
from gvbsm.engine.processes import join
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.files.artifacts import fingerprint, read_json, write_json
from gvbsm.files.schema import Results, checked, checked_header
from gvbsm.pipeline.evaluated_sets import needed_teachers
from gvbsm.pipeline.preflight import check_feasible, load_data
from gvbsm.pipeline.results import spread
from gvbsm.pipeline.run import Run
from gvbsm.store.distilled import stored_bytes
from gvbsm.store.image_set import ImageSet
from gvbsm.store.workdir import Workspace
from gvbsm.studies.artifact_reuse import Artifact, Library
from gvbsm.studies.definition import Point, Study, SweepPlan, read_sweep_plan
from gvbsm.studies.table import Row, merge_shared_baselines, write_csv

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
        config: Settings that the study varies: a preset's name, a nested mapping or settings.
        workdir: Where everything is kept; what is there already and matches is not made again.
        options: Nested settings that overrule what the study sets at all points.
        repeat: Runs of each point, with seeds counted up; their students are pooled.
        quiet: No progress bars.

    Returns:
        What `STUDY.json` holds, by study.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line (a fault); those of the
            settings are told before any work.
    """
    if isinstance(config, str):
        settings = read_preset(config)
    else:
        settings = to_dict(config) if isinstance(config, Config) else dict(config)
    plan = read_sweep_plan(study, settings, dict(options or {}), repeat)
    made = run_plan(plan, user_path(workdir), quiet, origin_of(config))
    return {found["study"]: found for found in made}


def run_plan(
    plan: SweepPlan, workdir: Path, quiet: bool = False, origin: Origin = UNKNOWN
) -> Iterator[dict[str, Any]]:
    """Run all points in order; what `STUDY.json` holds is given as each study ends.

    Args:
        plan: The studies with their points.
        workdir: The sweep's folder.
        quiet: No progress bars.
        origin: The preset that all points vary, and what the command line changed of it.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: As `sweep`.
    """
    works = _Works(workdir, plan.repeat, quiet)
    with works.processes.checking():
        for _, points in plan.studies:
            for point in points:
                works.check(point.config)
        if works.processes.leads:
            Workspace(workdir).claim()
    for study, points in plan.studies:
        yield _run_study(study, points, works, origin)


def _run_study(
    study: Study, points: Sequence[Point], works: _Works, origin: Origin
) -> dict[str, Any]:
    """Run a study's points in order; its files are written after each."""
    rows: list[Row] = []
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
    own: set[str] = {point.config.method for point in points}
    for number, (point, entry) in enumerate(zip(points, entries, strict=True), start=1):
        log.info("%s: %s (point %d of %d)", study.name, point.name, number, len(points))
        found, entry["folders"], versions = works.run(study.name, point)
        rows += [{"study": study.name, "point": point.name, "axes": point.axes, **r} for r in found]
        entry["done"] = True
        content |= {"rows": merge_shared_baselines(rows, own), "versions": versions}
        if works.processes.leads:
            write_json(works.directory / f"{study.name}.json", content)
            write_csv(works.directory / f"{study.name}.csv", content)
    return content


class _Works:
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
        """See that the data can be read, each network be built, and each class is large enough."""
        check_feasible(config, self._data_of(config))

    def run(self, study: str, point: Point) -> tuple[list[Row], list[str], dict[str, str]]:
        """Run a point under all seeds; its rows (without study and point), folders and versions."""
        done = []
        for step in range(self._repeat):
            config = replace(point.config, seed=point.config.seed + step)
            named = f"{study}-{point.name}"
            folder = self.directory / self.processes.same(partial(self._folder, named, config))
            work = _Work(Run(config, folder, self._quiet, self._data_of(config)))
            if self.processes.leads:
                lent = self._library.lend(work.run.workspace, work.artifacts)
                if lent:
                    log.info("%s: %d files of other points are linked", folder.name, lent)
            work.finish()
            self._library.add(work.artifacts)
            done.append(work)
        folders = [str(work.run.workdir.relative_to(self.directory)) for work in done]
        return _pool(done), folders, done[-1].results["versions"]

    def _folder(self, name: str, config: Config) -> str:
        """A folder for these settings: the one that is there, whoever made it, or a new one."""
        settings = to_dict(config)
        for key in without_effect(config):
            section, _, last = key.rpartition(".")
            del (value_at(settings, section) if section else settings)[last]
        digest = fingerprint(settings)[:12]
        points = self.directory / "points"
        there = sorted(points.glob(f"*-{digest}"))
        readable = re.sub(r"[^A-Za-z0-9.=+-]+", "-", name)
        folder = there[0] if there else points / f"{readable}-{digest}"
        return str(folder.relative_to(self.directory))

    def _data_of(self, config: Config) -> ImageData:
        if config.data not in self._data:
            runtime = resolve_runtime(
                config.device,
                config.precision,
                config.seed,
                config.checkpoint_seconds,
                self._quiet,
                config.threads,
                self.processes,
            )
            self._data[config.data] = load_data(config, runtime)
        return self._data[config.data]


class _Work:
    """One run of a point: what it needs, and what it found.

    Args:
        run: The run; `finish` brings it to its results.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.artifacts = list(self._artifacts())
        self.results: dict[str, Any] = {}

    def finish(self) -> None:
        """Do what is left to do."""
        done: dict[str, Any] | None = self.run.processes.same(self._finished)
        self.results = done or self.run.all_stages()

    def _finished(self) -> dict[str, Any] | None:
        """The results, if nothing is left to do: they keep the versions they were made with."""
        path = self.run.workspace.results
        ends = [item for item in self.artifacts if item.clock.startswith(("evaluation/", "full/"))]
        if not path.is_file() or not all(item.is_there() for item in ends):
            return None
        results = read_json(path)
        checked(Results, results, path)
        students = [row for row in results["rows"] if row["method"] != "teacher"]
        teachers = len(results["rows"]) - len(students)
        wanted = "teacher" in self.run.config.baselines.methods
        is_whole = (
            results["config"] == to_dict(self.run.config)
            and sum(len(row["top1"]["values"]) for row in students) == len(ends)
            and teachers == (len(self.run.config.squeeze.backbones) if wanted else 0)
        )
        return results if is_whole else None

    def _artifacts(self) -> Iterator[Artifact]:
        """All that the run needs, in the order in which it is made."""
        config, recipes, workspace = self.run.config, self.run.recipes, self.run.workspace
        image_sets = [image_set for image_set, _ in self.run.evaluated_sets]
        for name in needed_teachers(config, image_sets):
            yield Artifact(workspace.teacher(name), recipes.teacher(name), f"squeeze/{name}")
        if any(image_set.needs_statistics for image_set in image_sets):
            for name in config.synthesis.backbones or config.squeeze.backbones:
                yield Artifact(workspace.statistics(name), recipes.statistics(name), "statistics")
        if any(image_set.selection == "forgetting" for image_set in image_sets):
            path = workspace.forgetting(recipes.coreset_backbone)
            yield Artifact(path, recipes.forgetting(), "forgetting")
        for image_set, seeds in self.run.evaluated_sets:
            method, images = image_set.method, image_set.images
            yield Artifact(images, recipes.images(image_set), f"synthesis/{method}")
            for store in image_set.label_stores:
                index = store.labels / "index.json"
                yield Artifact(index, recipes.labels(store), f"labels/{store.label_name}")
            for student in image_set.config.evaluation.students:
                for seed in seeds:
                    recipe = recipes.student(image_set, student, seed)
                    clock = f"evaluation/{method}/{student}/{seed}"
                    yield Artifact(image_set.result(student, seed), recipe, clock)

        yield from self._full_data()

    def _full_data(self) -> Iterator[Artifact]:
        """The students on all real pictures, if they are a baseline."""
        config, recipes, workspace = self.run.config, self.run.recipes, self.run.workspace
        if "full" in config.baselines.methods:
            for student in config.evaluation.students:
                for seed in range(config.evaluation.seeds):
                    path, recipe = workspace.full(student, seed), recipes.full(student, seed)
                    yield Artifact(path, recipe, f"full/{student}/{seed}")

    def recipe(self, method: str, student: str) -> str:
        """Hash of all that the results of a method's students depend on."""
        if method == "teacher":
            return fingerprint(self.run.recipes.teacher(student))
        start = f"full/{student}/" if method == "full" else f"evaluation/{method}/{student}/"
        found = [fingerprint(a.recipe) for a in self.artifacts if a.clock.startswith(start)]
        return fingerprint({"students": found})

    def image_set(self, method: str) -> ImageSet | None:
        """Where a method's images lie, of several draws the first; None for the whole set."""
        sets = (image_set for image_set, _ in self.run.evaluated_sets)
        return next((image_set for image_set in sets if image_set.method == method), None)

    def seconds(self, method: str) -> tuple[float | None, float | None]:
        """Time of a method's synthesis, and of one iteration of one batch; None if unknown."""
        image_set = self.image_set(method)
        whole = self.run.workspace.seconds().get(f"synthesis/{method}")
        if image_set is None or image_set.selection is not None or whole is None:
            return None, None
        traces = checked_header(image_set.images)[
            "traces"
        ]  # of the first step, the last one and others
        return whole, whole / sum(trace[-1]["step"] + 1 - trace[0]["step"] for trace in traces)


def _pool(works: Sequence[_Work]) -> list[Row]:
    """The rows of one point, the students of all its runs together."""
    rows = []
    for row in works[0].results["rows"]:
        method, student = row["method"], row["student"]
        same = [
            other
            for work in works
            for other in work.results["rows"]
            if (other["method"], other["student"]) == (method, student)
        ]
        image_set = works[0].image_set(method)
        sizes = {}
        if image_set is not None:
            folder = image_set.of_student(student).label_folder
            sizes = stored_bytes(image_set.directory, image_set.stores_labels, folder)
        taken = [work.run.workspace.synthesis_seconds(method) for work in works if image_set]
        seconds = [work.seconds(method) for work in works]
        recipes = [work.recipe(method, student) for work in works]
        rows.append(
            {
                "method": method,
                "student": student,
                "ipc": row["ipc"],
                "seeds": [work.run.config.seed for work in works],
                "top1": _spread([other["top1"] for other in same]),
                "top1_best": _spread([other["top1_best"] for other in same]),
                "synthesis_seconds": _mean([whole for whole, _ in seconds]),
                "seconds_per_iteration": _mean([single for _, single in seconds]),
                "seconds": _mean(taken),
                "bytes": sum(sizes.values()) if sizes else None,
                "image_bytes": sizes.get("images"),
                "label_bytes": sizes.get("labels"),
                "recipe": fingerprint({"runs": recipes}),
            }
        )
    return rows


def _spread(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [value for part in parts for value in part["values"]]
    return {**spread(values), "n": len(values)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
