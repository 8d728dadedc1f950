"""Names of data, methods, files and accuracies in the sentences of a report."""

from __future__ import annotations

from collections.abc import Iterable

from gvbsm.config.build import selection_of
from gvbsm.config.paths import user_path
from gvbsm.files.schema.measures import Score
from gvbsm.pipeline.tables import format_top1
from gvbsm.store.image_set import CURRICULUM

NO_BREAK = "\N{NO-BREAK SPACE}"
_METHODS = {
    "gvbsm": "G-VBSM",
    "gvbsm-hard": "distilled images, hard labels",
    "gvbsm-unaugmented": "distilled images, no augmentation",
    "sre2l": "SRe2L",
    "full": "whole set",
}
_KINDS = {"unaugmented": "no augmentation"}  # and the labels of other kinds


def file_words(name: str, root: str | None) -> str:
    """The name of a picture file as code, relative to `data.root`."""
    short = name if root is None else name.replace(f"{user_path(root).absolute()}/", "", 1)
    return "`" + short.replace("`", "'") + "`"


def method_words(method: str) -> str:
    """A method's name in words: `random-soft` is "random real pictures, soft labels"."""
    if (source := selection_of(method)) is None:
        return _METHODS.get(method, method)
    kind = method.removeprefix(f"{source}-")
    return f"{real_pictures(source)}, {_KINDS.get(kind, f'{kind} labels')}"


def real_pictures(source: str) -> str:
    """Name of a selection of real pictures."""
    if source == "random":
        return "random real pictures"
    if source == CURRICULUM:
        return "distilled images and real pictures chosen in rounds"
    return f"real pictures chosen by {'clusters' if source == 'balanced' else source}"


def percent(score: Score) -> str:
    """An accuracy and its spread on one line: "57.6 ± 0.2 %"."""
    return f"{format_top1(vars(score))} %".replace(" ", NO_BREAK)


def share(part: float, whole: float) -> str:
    """A share in percent, in two digits or all before its point: "0.28 %", "12 %", "333 %"."""
    value = 100 * part / whole
    return f"{value:.2g} %" if value < 10 else f"{value:,.0f} %"


def listed(names: Iterable[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"; empty without names."""
    *others, last = [*names] or [""]
    return f"{', '.join(others)} and {last}" if others else last
