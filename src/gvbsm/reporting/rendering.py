"""Write HTML pages: templates, filters and embedded figures."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gvbsm.engine.progress.spelling import spell_count, spell_duration
from gvbsm.files.artifacts import atomic, remove_all
from gvbsm.files.sizes import byte_count, three_digits
from gvbsm.pipeline.tables import format_ipc, format_top1
from gvbsm.reporting.figures.captions import CaptionedFigure
from gvbsm.reporting.figures.images import PictureGrid, sheet_png, strips
from gvbsm.reporting.figures.pareto import fronts
from gvbsm.reporting.figures.style import figure_bytes
from gvbsm.reporting.figures.svg import page_svg
from gvbsm.reporting.wording import method_words

SHARP_BELOW = 64  # pixels: images of a smaller side are enlarged without smoothing


@dataclass(frozen=True)
class Strip:
    """Images of one class in one set.

    Attributes:
        title: Name of the set.
        columns: Number of images.
        alt: Description for readers who cannot see it.
        data: The PNG as a data URI.
        is_small: Whether the images have so few pixels that these should stay sharp.
    """

    title: str
    columns: int
    alt: str
    data: str
    is_small: bool


@dataclass(frozen=True)
class Picture:
    """A figure as the page embeds it.

    Attributes:
        name: Name of its files, without suffix.
        title: A heading.
        caption: What it shows and how to read it.
        svg: The element `<svg>`; None for a grid of images.
        classes: Of a grid of images: name of each class and its strips.
        motion: An animation (GIF) as a data URI, or None.
    """

    name: str
    title: str
    caption: str
    svg: Markup | None
    classes: list[tuple[str, list[Strip]]]
    motion: str | None = None


def write_html(path: Path, template: str, context: Mapping[str, Any]) -> Path:
    """Fill a template and write it, atomically."""
    text = _environment().get_template(template).render(context)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def save_pictures(
    figures: Iterable[CaptionedFigure], folder: Path, pdf: bool = False
) -> list[Picture]:
    """Write the files of all figures and remove those of figures that no longer exist."""
    pictures, written = [], set()
    for item in figures:
        files = _figure_files(item, pdf)
        for suffix, content in files.items():
            path = folder / f"{item.name}.{suffix}"
            with atomic(path) as temporary:
                temporary.write_bytes(content)
            written.add(path)
        grid = item.figure if isinstance(item.figure, PictureGrid) else None
        svg = None if grid else Markup(page_svg(files["svg"], item.name, item.alt))
        pictures.append(
            Picture(
                item.name,
                item.title,
                item.caption,
                svg,
                _classes(grid) if grid else [],
                None if item.motion is None else data_uri(item.motion, "image/gif"),
            )
        )
    older = set(folder.glob("*")) - written
    remove_all(path for path in older if path.suffix in (".svg", ".png", ".pdf", ".gif"))
    return pictures


def _figure_files(item: CaptionedFigure, pdf: bool) -> dict[str, bytes]:
    """Content of the files of a figure by their suffix."""
    if isinstance(item.figure, PictureGrid):
        files = {"png": sheet_png(item.figure)}
    else:
        kinds = ("svg", "pdf") if pdf else ("svg",)
        files = {kind: figure_bytes(item.figure, kind) for kind in kinds}
    return files if item.motion is None else {**files, "gif": item.motion}


def _classes(grid: PictureGrid) -> list[tuple[str, list[Strip]]]:
    """Name of each class and its strips, a strip for each set."""
    groups = [(title, images, strips(images)) for title, images in grid.groups.items()]
    return [
        (
            name,
            [
                Strip(
                    title,
                    len(images[row]),
                    f"{spell_count(len(images[row]), 'image')} of {name}"
                    + f", {title}" * bool(title),
                    data_uri(files[row], "image/png"),
                    images[row].shape[-1] < SHARP_BELOW,
                )
                for title, images, files in groups
            ],
        )
        for row, name in enumerate(grid.rows)
    ]


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
        "digits": three_digits,
        "duration": duration,
        "fronts": fronts,
        "ipc": format_ipc,
        "method": method_words,
        "score": lambda score: format_top1(vars(score)),
        "top1": format_top1,
    }
    return environment


def _breakable(name: str) -> Markup:
    """An escaped name that may wrap after a dot, an underscore, a comma, an equals or plus sign."""
    parts = re.split(r"(?<=[._,=])|(?<=\w\+)", name)  # a plus sign in front stays
    return Markup("<wbr>").join(escape(part) for part in parts)


def _with_code(text: str) -> Markup:
    """Escape a text and set words between backticks as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def duration(seconds: float) -> str:
    """Format the seconds of a table: those of `spell_duration`; 0 leaves the cell empty."""
    return spell_duration(seconds) if seconds else ""
