"""Markdown of the pages that are generated: settings, presets, command line, Python.

A page holds `<!-- generated: NAME -->` where the text of `GENERATORS[NAME]` stands on the site.
"""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any
from unittest import mock

import gvbsm
from gvbsm.cli import VERBS, main
from gvbsm.config import Config
from gvbsm.config.build import to_dict
from gvbsm.config.fields import descriptions, kind_in_words, settings_in
from gvbsm.config.keys import flatten
from gvbsm.config.preset_files import PRESETS, preset_names, preset_summaries, read_preset
from gvbsm.config.yaml_files import one_line

MADE = {  # section -> what its stage makes
    "squeeze": "teachers",
    "statistics": "statistics",
    "synthesis": "images",
    "labels": "soft labels",
    "evaluation": "students",
}
LIMITS = {
    "positive": "above 0",
    "not negative": "0 or more",
    "64 bits": "of 64 bits",
    "[0, 1]": "from 0 to 1",
    "[0, 1)": "from 0 to below 1",
    "(0, 1]": "above 0, at most 1",
    "(0, 1)": "between 0 and 1",
}
KINDS = {
    "recipe": ("Whole recipes", "They name a data set. Run one by `gvbsm run NAME`."),
    "overlay": ("Overlays", "They change some settings of a recipe: `gvbsm run RECIPE+NAME`."),
    "baseline": ("Baselines", "They run another method instead of G-VBSM."),
}
PYTHON = {  # heading -> names of the page of the Python interface
    "Runs": ("run", "plan", "sweep", "report"),
    "Distilled sets": ("load", "export", "collect", "merge", "train"),
    "Networks and pictures": ("build_backbone", "load_dataset"),
}
CLASSES = {  # heading -> what these functions return or take, and the members that are shown
    "Results and plans": (
        "gvbsm.reporting.result_tables.RunResults",
        "gvbsm.pipeline.planning.plan.Plan",
        "gvbsm.pipeline.planning.plan.PlannedPart",
    ),
    "A distilled set and its batches": (
        "gvbsm.store.distilled.DistilledDataset",
        "gvbsm.store.loader.EpochLoader",
        "gvbsm.store.batches.Batch",
        "gvbsm.store.soft_labels.SoftLabels",
    ),
    "Pictures": ("gvbsm.data.datasets.ImageData", "gvbsm.data.pixels.Normalization"),
    "Settings": ("gvbsm.config.run.Config",),
    "Errors": (
        "gvbsm.config.errors.ConfigError",
        "gvbsm.data.pictures.DataError",
        "gvbsm.files.artifacts.ArtifactError",
        "gvbsm.engine.device.RunError",
    ),
}
METHOD = (  # files of `method/`, from the statistics to the labels
    "moments",
    "layers",
    "capture",
    "statistics",
    "losses",
    "matching",
    "groups",
    "synthesis",
    "ensemble",
)


def escaped(text: str) -> str:
    """Plain text as Markdown; names of pages become links."""
    text = re.sub(r"([\\*_{}\[\]<>$|])", r"\\\1", text)
    return re.sub(r"docs/((?:\w|\\_)+)\.md", r"[\1](\1.md)", text)


def presets_of() -> dict[str, list[tuple[str, str]]]:
    """Each setting with the presets that give it another value than its default."""
    defaults = dict(flatten(to_dict(Config())))
    changed: dict[str, list[tuple[str, str]]] = {}
    for preset in preset_names():
        for name, value in flatten(read_preset(preset)).items():
            if value != defaults.get(name):
                changed.setdefault(name, []).append((preset, one_line(value)))
    return changed


def remade(name: str, facts: dict[str, object]) -> str:
    """What a change of a setting makes again, as a sentence."""
    section = name.partition(".")[0]
    if not facts.get("changes_results", True):
        return "Results do not depend on it: if it changes, nothing is made again."
    if section == "data":
        return "If the pictures change, everything is made again."
    if section not in MADE:
        return "If it changes, what depends on it is made again."
    if facts.get("in_recipe", True):
        return f"If it changes, the {MADE[section]} and all that depends on them are made again."
    return f"If it changes, only the {MADE[section]} that it affects are made again."


def uses(facts: dict[str, object]) -> Iterator[str]:
    """Further facts of a setting, a sentence each."""
    if facts.get("of_one_teacher"):
        yield "Single teachers may have other values (`squeeze.settings_of`)."
    if facts.get("read_by_train"):
        yield "`gvbsm train` reads it."
    if facts.get("of_a_machine"):
        yield "The processes of a run may have different values."


def settings() -> Iterator[str]:
    """The page of all settings, from the fields of their dataclasses."""
    by_preset, section = presets_of(), None
    defaults = dict(flatten(to_dict(Config())))
    own = {name: item.metadata for name, item, _ in settings_in(Config())}
    for item in descriptions(Config()):
        first, dot, _ = item.name.partition(".")
        if section != (first if dot else "run"):
            section = first if dot else "run"
            title = type(getattr(Config(), first)).__doc__ if dot else "The whole run."
            yield f"## {section}\n\n{escaped(str(title).splitlines()[0])}\n"
        facts, value = {**_of_parents(item.name), **own[item.name]}, defaults[item.name]
        limit = LIMITS.get(str(own[item.name].get("limit")), "")
        kind = kind_in_words(item.kind) + (f", {limit}" if limit else "")
        yield f"### {item.name}\n\n{escaped(item.text)}\n"
        yield f"- Takes {escaped(kind)}; by default `{one_line(value)}`."
        yield f"- {' '.join([remade(item.name, facts), *uses(facts)])}"
        if changed := by_preset.get(item.name):
            where = ", ".join(f"[{name}](presets.md#{name}) `{value}`" for name, value in changed)
            yield f"- In presets: {where}."
        yield ""


def _of_parents(name: str) -> dict[str, object]:
    """The facts of the sections that hold a setting, which are its own too."""
    section: Any = Config()
    facts: dict[str, object] = {}
    for part in name.split(".")[:-1]:
        item = next(item for item in fields(section) if item.name == part)
        facts |= {key: value for key, value in item.metadata.items() if key != "limit"}
        section = getattr(section, part)
    return facts


def presets() -> Iterator[str]:
    """The page of all presets, with their files."""
    summaries = list(preset_summaries())
    for kind, (title, text) in KINDS.items():
        yield f"## {title}\n\n{text}\n"
        for item in summaries:
            if item.kind == kind:
                content = (PRESETS / f"{item.name}.yaml").read_text(encoding="utf-8").rstrip()
                yield f"### {item.name}\n\n{escaped(item.text)}.\n\n```yaml\n{content}\n```\n"


def printed(*argv: str) -> str:
    """What a command prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), mock.patch.dict(os.environ, COLUMNS="100"):
        code = main(argv)
    if code:
        raise RuntimeError(f"gvbsm {' '.join(argv)} ends with {code}")
    return output.getvalue().rstrip()


def command_line() -> Iterator[str]:
    """The page of the command line: the real help of every verb, and the lists."""
    yield f"## gvbsm\n\n```\n{printed('--help')}\n```\n"
    for verb in VERBS:
        yield f"## gvbsm {verb}\n\n```\n{printed(verb, '--help')}\n```\n"
    yield "## Lists\n"
    for what in ("data", "backbones", "studies"):
        yield f"### gvbsm list {what}\n\n```\n{printed('list', what)}\n```\n"


def python() -> Iterator[str]:
    """The page of the Python interface, from the docstrings."""
    shown = {name for names in PYTHON.values() for name in names}
    shown |= {path.rpartition(".")[2] for paths in CLASSES.values() for path in paths}
    further = sorted({*dir(gvbsm)} - shown - {"__version__"})
    for title, names in {**PYTHON, "Further functions": further}.items():
        if names:
            yield f"## {title}\n"
            yield from _autodoc((f"autofunction:: gvbsm.{name}" for name in names), "")
    for title, paths in CLASSES.items():
        yield f"## {title}\n"
        options = "" if title in ("Errors", "Settings") else "   :members:\n"
        yield from _autodoc((f"autoclass:: {path}" for path in paths), options)


def method() -> Iterator[str]:
    """The page of the method on tensors, from the docstrings."""
    for name in METHOD:
        yield f"## gvbsm.method.{name}\n"
        yield from _autodoc([f"automodule:: gvbsm.method.{name}"], "   :members:\n")


def _autodoc(directives: Iterable[str], options: str) -> Iterator[str]:
    for directive in directives:
        yield f"```{{eval-rst}}\n.. {directive}\n{options}```\n"


GENERATORS: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings,
    "presets": presets,
    "command line": command_line,
    "python": python,
    "method": method,
}
