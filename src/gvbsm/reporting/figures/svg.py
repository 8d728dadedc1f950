"""Make the SVG of a figure fit into an HTML page that may be light or dark."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from gvbsm.reporting.figures.style import COLORS

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
DECIMALS = 2  # of coordinates, in points

_VARIABLES = {color.lower(): f"var(--figure-{name})" for name, color in COLORS.items()}
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"(?<=#)[^)]+")


def page_svg(content: bytes, name: str, alt: str) -> str:
    """Return the `<svg>` element of a figure, to be put into a page.

    The colors of `COLORS` become the page's variables `--figure-...`, text has the page's font, ids
    begin with the figure's name, and the size is left to the page.

    Args:
        content: The SVG file that matplotlib writes.
        name: Name of the figure; no two figures of a page have the same.
        alt: Description for readers who cannot see it.
    """
    root = ElementTree.fromstring(content)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    used = {
        _REFERENCE.search(value)[0]  # type: ignore[index]
        for element in root.iter()
        for key, value in element.attrib.items()
        if key in (f"{{{XLINK}}}href", "clip-path") and "#" in value
    }
    for element in root.iter():
        _fit(element, prefix, used)
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": alt}
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _fit(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Shorten an element and make its colors and ids those of the page."""
    attributes = element.attrib
    name = attributes.pop("id", "")
    if name in used:
        attributes["id"] = f"{prefix}-{name}"
    for key in (f"{{{XLINK}}}href", "clip-path"):
        if "#" in attributes.get(key, ""):
            attributes[key] = attributes[key].replace("#", f"#{prefix}-", 1)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    for key, value in attributes.items():
        if key == "style":
            attributes[key] = _page_style(value)
        elif key == "d" or key in ("x", "y", "transform", "points"):
            attributes[key] = _rounded(value)
    if element.text is not None and not element.text.strip():
        element.text = None
    element.tail = None


def _page_style(style: str) -> str:
    """Replace colors by variables, and leave the font to the page."""
    entries = [entry.strip() for entry in style.split(";")]
    kept = [entry for entry in entries if entry and not entry.startswith("font-family")]
    joined = ";".join(entry.replace(": ", ":", 1) for entry in kept)
    return re.sub(
        r"#[0-9a-f]{6}\b", lambda match: _VARIABLES.get(match[0], match[0]), _rounded(joined)
    )


def _rounded(text: str) -> str:
    """Shorten the numbers of coordinates, and join lines."""
    shortened = _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.{DECIMALS}f}", text)
    return " ".join(shortened.split())
