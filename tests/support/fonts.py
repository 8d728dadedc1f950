"""Tiny fonts, as a user may have installed them."""

from contextlib import contextmanager

import matplotlib as mpl
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from gvbsm.store.showing import fonts


def write_font(path, family, characters):
    """Write a font whose n-th character is a polygon of n + 2 corners, 0.8 em wide and high."""
    corners = [(100, 0), (900, 0), (900, 800), (100, 800), (500, 400)]
    names = {ord(character): f"glyph{ord(character)}" for character in characters}
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    for number, name in enumerate(names.values(), start=3):
        pen = TTGlyphPen(None)
        pen.moveTo(corners[0])
        for corner in corners[1:number]:
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([*glyphs])
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular", "psName": family})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    return str(path)


@contextmanager
def installed(*files):
    """Let these be the only fonts of the machine beside those of matplotlib."""
    before = list(fontManager.ttflist)
    own = mpl.get_data_path()
    fontManager.ttflist[:] = [entry for entry in before if str(entry.fname).startswith(own)]
    for file in files:
        fontManager.addfont(file)
    forget()
    try:
        yield
    finally:
        fontManager.ttflist[:] = before
        forget()


def forget():
    """Forget what was found out about the fonts of the machine."""
    fontManager._findfont_cached.cache_clear()
    for cached in (fonts._installed, fonts._fonts_with, fonts._log_boxes):
        cached.cache_clear()
