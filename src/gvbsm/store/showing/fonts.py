"""Find installed fonts for the characters that DejaVu Sans, the font of all figures, lacks.

Names of classes and methods may be in any script. DejaVu Sans, a part of matplotlib, has Latin,
Greek, Cyrillic, Arabic and Hebrew letters, but neither Chinese, Japanese, Korean nor Indic ones.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

log = logging.getLogger("gvbsm")


class Font(NamedTuple):
    """An installed font: the name of its family, and its file."""

    family: str
    file: str


DEJAVU = Font("DejaVu Sans", str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")))


def fallback_fonts(text: str) -> tuple[Font, ...]:
    """Return the fewest installed fonts that have what DejaVu Sans lacks of a text, best first.

    Characters that no font has are drawn as boxes, which the log says once.
    """
    if text.isascii():
        return ()
    drawn = frozenset(filter(str.isprintable, text))
    return _fonts_with(drawn - _characters(DEJAVU, drawn))


def font_runs(text: str) -> list[tuple[Font, str]]:
    """Split a text where its font changes, for programs that take one font at a time.

    A text is one run of DejaVu Sans if this has all characters. Spaces, and what no font has, stay
    with what precedes them.
    """
    fonts = (DEJAVU, *fallback_fonts(text))
    characters = {font: _characters(font, frozenset(text)) for font in fonts}
    runs: list[tuple[Font, str]] = []
    for character in text:
        previous, run = runs[-1] if runs else (DEJAVU, "")
        first = (previous, *fonts) if character.isspace() else fonts
        font = next((font for font in first if character in characters[font]), previous)
        if runs and font == previous:
            runs[-1] = (font, run + character)
        else:
            runs.append((font, character))
    return runs


def use_fallback_fonts(figure: Figure) -> None:
    """Let the texts of a figure take from installed fonts what their own font lacks."""
    for text in figure.findobj(Text):
        own = text.get_fontfamily()
        families = [font.family for font in fallback_fonts(text.get_text())]
        if added := [family for family in families if family not in own]:
            text.set_fontfamily([*own, *added])


@cache
def _fonts_with(missing: frozenset[str]) -> tuple[Font, ...]:
    left, fonts = missing, list[Font]()
    has = {font: _characters(font, missing) for font in _installed()} if missing else {}
    while left:
        font = max(has, key=lambda font: len(has[font] & left), default=DEJAVU)
        if not (drawn := has.get(font, frozenset()) & left):
            _log_boxes()
            break
        fonts.append(font)
        left -= drawn
    return tuple(fonts)


@cache
def _log_boxes() -> None:
    log.warning(
        "no installed font has some characters of the names: PNG and PDF files of figures have "
        "boxes in their place; install a font for them, such as Noto Sans CJK"
    )


@cache
def _installed() -> tuple[Font, ...]:
    """All scalable fonts outside matplotlib; upright ones of normal weight first, by name."""
    own = mpl.get_data_path()  # fonts of formulas
    entries = {
        (entry.style != "normal", str(entry.weight) not in ("400", "normal"), entry.name, str(path))
        for entry in fontManager.ttflist
        if not (path := Path(entry.fname)).is_relative_to(own)
    }
    fonts = (Font(name, file) for *_, name, file in sorted(entries))
    return tuple(font for font in fonts if not _has_boxes_alone(font.family))


def _has_boxes_alone(family: str) -> bool:
    """Whether a font has a box for every character, as those that systems take at last."""
    return "lastresort" in family.replace(" ", "").casefold()


def _characters(font: Font, characters: frozenset[str]) -> frozenset[str]:
    """The characters that a font has, among some; none of a file that cannot be read."""
    with suppress(OSError, RuntimeError):
        face = FT2Font(font.file)
        if face.scalable:
            return frozenset(c for c in characters if face.get_char_index(ord(c)))
    return frozenset()
