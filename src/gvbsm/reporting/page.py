"""Write the HTML page of a work directory from its facts and figures, or its continual results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gvbsm._version import __version__
from gvbsm.config.build import images_of
from gvbsm.config.keys import value_at
from gvbsm.config.paths import MEMORY, data_title
from gvbsm.config.provenance import Origin
from gvbsm.files.schema import Continual, checked_json
from gvbsm.files.schema.runs import ResultRow
from gvbsm.files.sizes import byte_count
from gvbsm.pipeline.tables import format_sizes, format_top1, images_per_class
from gvbsm.pipeline.workload import TIMED
from gvbsm.reporting.analysis import MOST_CLASSES, MOST_IMAGES
from gvbsm.reporting.facts import Recognition, RunFacts, preset_settings
from gvbsm.reporting.figures.gallery import gallery
from gvbsm.reporting.figures.reading import Analysis, fitting, read_analysis, run_sets
from gvbsm.reporting.findings import find_all, verdict
from gvbsm.reporting.paper_terms import (
    changes,
    commands,
    preset_words,
    settings_table,
    settings_yaml,
)
from gvbsm.reporting.rendering import data_uri, duration, save_pictures, write_html
from gvbsm.reporting.studies import study_sections
from gvbsm.reporting.wording import method_words, share
from gvbsm.store.label_store import FOLDER, OTHER_FOLDERS
from gvbsm.store.workdir import Workspace
from gvbsm.studies.literature import CAUTION, HEAD
from gvbsm.studies.robust_scores import SCORES_HEAD, SCORES_NOTE

PLACES = {
    "images": "images",
    "continual": "continual",
    "pareto": "cost",
}  # sections of figures; all others are in the section "Figures"


@dataclass(frozen=True)
class Column:
    """A column of the results beside top-1.

    Attributes:
        title: Its head.
        meaning: What it says; words between backticks are code.
        cells: Its text in each row.
        is_shown: Whether it stands in the first table, not in the folded one.
    """

    title: str
    meaning: str
    cells: list[str]
    is_shown: bool = False


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of a stage, for the run's own method and for the baselines."""

    name: str
    own_seconds: float
    seconds: float
    own: int
    baselines: int


def write_page(
    workdir: Path, facts: RunFacts, notes: Sequence[str] = (), pdf: bool = False
) -> Path:
    """Write `report/index.html` and the figures beside it, from files alone.

    Raises:
        ArtifactError: If a file is unusable.
    """
    folder, workspace = workdir / "report", Workspace(workdir)
    facts = replace(facts, recognition=_recognition(facts, read_analysis(workspace)))
    pictures = save_pictures(gallery(workdir), folder / "figures", pdf)
    continual = workspace.continual
    context = {
        **_words(facts, workdir.resolve().name),
        "notes": list(notes),
        "pictures": {
            section: [item for item in pictures if _place(item.name) == section]
            for section in ("images", "figures", "continual", "cost")
        },
        "sets": run_sets(workspace),
        "studies": study_sections(workdir, pictures),
        "continual": checked_json(Continual, continual) if continual.is_file() else None,
    }
    context["sections"] = _sections(context)
    return write_html(folder / "index.html", "report.html.j2", context)


def write_continual_page(workdir: Path, pdf: bool = False) -> Path:
    """Write `report/index.html` of the class-incremental protocol, and the figures beside it.

    Raises:
        ArtifactError: If a file is damaged.
    """
    path, folder = Workspace(workdir).continual, workdir / "report"
    content = checked_json(Continual, path)
    with fitting(path):
        config, origin = content["config"], Origin.read(content)
        preset = preset_settings(config, content["class_names"], origin)
        context = {
            "title": f"{data_title(config)}: {method_words(config['method'])} as classes "
            f"arrive, {images_per_class(config)}",
            "method": config["method"],
            "origin": origin,
            "changes": changes(config, preset, origin),
            "continual": {
                key: content[key]
                for key in ("classes", "class_names", "orders", "rows", "note", "versions")
            },
            "yaml": settings_yaml(config),
            "version": __version__,
        }
    pictures = save_pictures(gallery(workdir), folder / "figures", pdf)
    context["pictures"] = {
        "continual": [item for item in pictures if item.name == "continual"],
        "others": [item for item in pictures if item.name != "continual"],
    }
    return write_html(folder / "index.html", "continual.html.j2", context)


def _recognition(facts: RunFacts, analysis: Analysis | None) -> Recognition | None:
    """How the teacher of the analysis classifies the run's own images."""
    images = images_of(facts.method)
    if analysis is None or images not in analysis.accuracy:
        return None
    count = sum(min(images, MOST_IMAGES) for images in facts.counts[:MOST_CLASSES])
    return Recognition(analysis.teacher, analysis.accuracy[images], count)


def columns_of(rows: Sequence[ResultRow], class_names: Sequence[str]) -> list[Column]:
    """The columns of the results beside top-1; one without a value in any row is left out."""

    def scores(name: str) -> list[str]:
        values = [getattr(row.metrics, name, None) for row in rows]
        return ["" if value is None else format_top1(vars(value)) for value in values]

    balanced, top1 = scores("balanced"), [format_top1(vars(row.top1)) for row in rows]
    columns = [
        Column(
            "balanced %",
            "The mean of the classes' accuracies; it differs from top-1 where the classes have "
            "different numbers of test pictures.",
            balanced,
            is_shown=not {*balanced} <= {"", *top1},
        ),
        Column(
            "corrupted %",
            "Top-1 on corrupted test pictures: the mean over kinds and severities.",
            scores("corrupted"),
            is_shown=True,
        ),
        Column(
            "lowest class, %",
            "The class with the lowest accuracy. `results.json` has all classes.",
            [_lowest_class(row, class_names) for row in rows],
            is_shown=True,
        ),
        Column(
            "images",
            "The bytes of the images' pixels; of several random draws, of one.",
            [format_sizes(vars(row))[0] for row in rows],
            is_shown=True,
        ),
        Column(
            "labels",
            "The bytes of the files of the soft labels, `hard`, or `by teachers` that label during "
            "training.",
            [format_sizes(vars(row))[1] for row in rows],
            is_shown=True,
        ),
        Column(
            "best epoch %",
            "The best test during training. It is chosen on the test pictures, so it is slightly "
            "too high.",
            [format_top1(vars(row.top1_best)) for row in rows],
        ),
        Column(
            "top-5 %",
            "A picture counts as right if its class is among the five largest outputs.",
            scores("top5"),
        ),
        Column(
            "calibration error %",
            "The mean distance between a student's confidence and its accuracy, over 15 bins of "
            "confidence (expected calibration error, ECE). 0 is best.",
            scores("calibration_error"),
        ),
        Column("training time", "Of all n students.", [duration(row.seconds) for row in rows]),
    ]
    return [column for column in columns if any(column.cells)]


def _lowest_class(row: ResultRow, class_names: Sequence[str]) -> str:
    """The class with the lowest accuracy and this in percent; empty if it is not known."""
    by_class = row.metrics.by_class if row.metrics else ()
    accuracies = [(top1, label) for label, top1 in enumerate(by_class) if top1 is not None]
    if not accuracies:
        return ""
    top1, label = min(accuracies)
    return f"{class_names[label]}: {top1:.1f}"


def _place(name: str) -> str:
    """The section of a figure."""
    return "studies" if name.startswith("study-") else PLACES.get(name, "figures")


def _words(facts: RunFacts, name: str) -> dict[str, Any]:
    """Values of the template."""
    settings_text = settings_yaml(facts.config)
    values = settings_table(facts.config, facts.preset)
    pixels = f"{facts.shape[1]} \N{MULTIPLICATION SIGN} {facts.shape[1]} pixels"
    test = f"{facts.test:,} real test pictures" if facts.test else "the real test pictures"
    return {
        "title": f"{data_title(facts.config)}: {method_words(facts.method)}, "
        f"{images_per_class(facts.config)}",
        "subtitle": f"{len(facts.class_names)} classes, {facts.images:,} images of {pixels}",
        "facts": facts,
        "changes": changes(facts.config, facts.preset, facts.origin),
        "verdict": verdict(facts),
        "tiles": _tiles(facts),
        "findings": find_all(facts),
        "test_pictures": test,
        "columns": columns_of(facts.rows, facts.class_names),
        "scores_head": SCORES_HEAD,
        "scores_note": SCORES_NOTE,
        "published_head": HEAD,
        "published_note": CAUTION,
        "preset": preset_words(facts.config, facts.origin) if facts.preset else None,
        "settings": values,
        "changed": sum(value.preset is not None for _, rows in values for value in rows),
        "costs": costs(facts),
        "soft": value_at(facts.config, "evaluation.loss") != "hard",
        "yaml": settings_text,
        "yaml_data": data_uri(settings_text.encode(), "application/yaml"),
        "needs_data": value_at(facts.config, "data.root") is not None,
        "from_python": value_at(facts.config, "data.name") == MEMORY,
        "commands": commands(facts.config, facts.preset, name, facts.origin),
        "seed": facts.config["seed"],
        "name": name,
        "version": __version__,
    }


def _tiles(facts: RunFacts) -> list[dict[str, str]]:
    """The main numbers, at the top of the page: name, value and note of each."""
    tiles: list[tuple[str, str, str]] = []
    if rows := facts.own_rows():
        student, name = rows[0].student, method_words(facts.method)
        tiles.append((f"{name}, top-1", f"{format_top1(vars(rows[0].top1))} %", student))
        if (full := facts.row("full", student)) is not None:
            tiles.append(("Whole set, top-1", f"{format_top1(vars(full.top1))} %", student))
        elif (teacher := facts.row("teacher", student)) is not None:
            tiles.append(("Teacher, top-1", f"{format_top1(vars(teacher.top1))} %", student))
    note = f"{share(facts.images, facts.train)} of {facts.train:,}" if facts.train else ""
    tiles.append(("Images", f"{facts.images:,}", note))
    if facts.set_bytes["images"]:
        labels = facts.set_bytes["labels"]
        note = f"and {byte_count(labels)} of soft labels" if labels else ""
        tiles.append(("Pixels", byte_count(facts.set_bytes["images"]), note))
    return [{"name": name, "value": value, "note": note} for name, value, note in tiles]


def costs(facts: RunFacts) -> list[Cost]:
    """Time and storage of each stage.

    Teachers, statistics and corrupted copies count as the run's own method. Stages without time
    and files are left out.
    """
    stage_costs = []
    others = (folder.removeprefix(FOLDER) for folder in OTHER_FOLDERS.values())  # of second labels
    own = {facts.method, *(facts.method + other for other in others)}
    for stage in TIMED:
        own_seconds = baseline_seconds = 0.0
        for name, seconds in facts.seconds.items():
            first, _, rest = name.partition("/")
            if first != stage:
                continue
            group = rest.partition("/")[0]
            copies = stage == "corruptions" and group != "teacher"
            shared = copies or stage in ("squeeze", "statistics")
            if shared or group in own:
                own_seconds += seconds
            else:
                baseline_seconds += seconds
        stored = facts.stored[stage]
        cost = Cost(stage, own_seconds, baseline_seconds, stored.own, stored.baselines)
        if own_seconds or baseline_seconds or stored.own or stored.baselines:
            stage_costs.append(cost)
    return stage_costs


def _sections(context: Mapping[str, Any]) -> dict[str, str]:
    """Id and title of each section that is not empty, in order."""
    pictures = context["pictures"]
    titles = {
        "images": "Images" if pictures["images"] else "",
        "results": "Results",
        "warnings": "Warnings and notes",
        "figures": "Figures" if pictures["figures"] or context["notes"] else "",
        "continual": "Continual learning" if context["continual"] else "",
        "studies": "Studies" if context["studies"] else "",
        "teachers": "Teachers" if context["facts"].teachers else "",
        "cost": "Time and storage",
        "settings": "Settings",
        "reproduce": "How to reproduce",
        "use": "How to use the set",
        "cite": "Citation",
    }
    return {name: title for name, title in titles.items() if title}
