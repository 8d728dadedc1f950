"""Write HTML pages: templates, filters and embedded figures."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gvbsm.files.artifacts import atomic, remove_all
from gvbsm.files.sizes import byte_count
from gvbsm.pipeline.tables import format_top1
from gvbsm.reporting.figures.captions import CaptionedFigure
from gvbsm.reporting.figures.style import save_figure
from gvbsm.reporting.wording import method_words

PIXELS_PER_CSS = 1.5  # of a figure: its smallest text is as large as the page's, and sharp


@dataclass(frozen=True)
class Picture:
    """A figure as the page embeds it.

    Attributes:
        name: Name of its files, without suffix.
        title: A heading.
        caption: What it shows and how to read it.
        alt: Description for readers who cannot see it.
        data: The PNG as a data URI.
        width: CSS pixels.
        height: CSS pixels.
        motion: An animation (GIF) as a data URI, or None.
    """

    name: str
    title: str
    caption: str
    alt: str
    data: str
    width: int
    height: int
    motion: str | None = None


def write_html(path: Path, template: str, context: Mapping[str, Any]) -> Path:
    """Fill a template and write it, atomically.

    Args:
        path: The HTML file.
        template: Name of the template.
        context: Values of the template.
    """
    text = _environment().get_template(template).render(context)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def save_pictures(figures: Iterable[CaptionedFigure], folder: Path) -> list[Picture]:
    """Write the files of all figures and remove those of figures that no longer exist."""
    pictures, written = [], set()
    for item in figures:
        paths = save_figure(item.figure, folder, item.name)
        png = next(path for path in paths if path.suffix == ".png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])  # of the PNG's header
        if item.motion is not None:
            paths.append(folder / f"{item.name}.gif")
            with atomic(paths[-1]) as temporary:
                temporary.write_bytes(item.motion)
        pictures.append(
            Picture(
                item.name,
                item.title,
                item.caption,
                item.alt,
                data_uri(png, "image/png"),
                round(width / PIXELS_PER_CSS),
                round(height / PIXELS_PER_CSS),
                None if item.motion is None else data_uri(item.motion, "image/gif"),
            )
        )
        written.update(paths)
    older = set(folder.glob("*")) - written
    remove_all(path for path in older if path.suffix in (".png", ".pdf", ".gif"))
    return pictures


def data_uri(content: bytes, kind: str) -> str:
    """Encode bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _environment() -> Environment:
    """Jinja with our filters; all values in a template are escaped."""
    environment = Environment(
        loader=PackageLoader("gvbsm.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "bytes": lambda count: byte_count(count) if count else "",
        "code": _with_code,
        "duration": duration,
        "method": method_words,
        "score": lambda score: format_top1(vars(score)),
        "top1": format_top1,
    }
    return environment


def _breakable(name: str) -> Markup:
    """An escaped dotted name that may wrap after a dot or an underscore."""
    parts = re.split(r"(?<=[._])", name)
    return Markup("<wbr>").join(escape(part) for part in parts)


def _with_code(text: str) -> Markup:
    """Escape a text and set words between backticks as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def duration(seconds: float) -> str:
    """Format seconds: "0.4 s", "12 s", "2 min 5 s", "3 h 10 min"; empty for 0."""
    if not seconds:
        return ""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"
