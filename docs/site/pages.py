"""Fill the generated pages, and derive the navigation from the index pages."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from docutils import nodes
from generated import GENERATORS
from sphinx.application import Sphinx

MARK = re.compile(r"^<!-- generated: ([a-z ]+) -->$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)\.md\)")


def fill(text: str) -> str:
    """Put the generated text in the place of its mark."""
    return MARK.sub(lambda mark: "\n".join(GENERATORS[mark[1]]()), text)


def navigation(docname: str, text: str) -> str:
    """Navigation of an index page, one hidden table of contents for each heading.

    It holds the pages that a heading links to: those beside the index page, the index pages of
    folders below, and from `docs/index` those of the root. Only the first link to a page counts.

    Args:
        docname: Name of the index page, such as `docs/how-to/index`.
        text: Its Markdown.
    """
    folder, listed, tables = PurePosixPath(docname).parent, {docname}, []
    for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        title = re.match(r"## (.*)", section)
        entries = []
        for page in _pages(folder, section):
            if page not in listed:
                entries.append(f"/{page}")
                listed.add(page)
        if entries:
            caption = [f":caption: {title[1]}"] if title else []
            lines = ["```{toctree}", ":hidden:", *caption, "", *entries, "```"]
            tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _pages(folder: PurePosixPath, section: str) -> Iterator[str]:
    for target in LINK.findall(section):
        is_root = target.startswith("../") and "/" not in target[3:]
        if "/" not in target or re.fullmatch(r"[\w-]+/index", target):
            yield str(folder / target)
        elif is_root and str(folder) == "docs":
            yield target[3:]


def complete(app: Sphinx, docname: str, source: list[str]) -> None:
    """Complete the Markdown of a page when it is read."""
    source[0] = fill(source[0])
    if PurePosixPath(docname).name == "index":
        source[0] += "\n\n" + navigation(docname, source[0]) + "\n"


def is_left_out(app: Sphinx, what: str, name: str, member: object, skip: bool, _: object) -> bool:
    """Whether the page of a class leaves a member out: its docstring has fields of tuples."""
    return skip or str(getattr(member, "__doc__", "")).startswith("Alias for field number")


def without_addresses(app: Sphinx, doctree: nodes.document) -> None:
    """Undo links to e-mail addresses: docstrings have `REPOSITORY@COMMIT`, which looks like one."""
    for link in list(doctree.findall(nodes.reference)):
        if link.get("refuri", "").startswith("mailto:"):
            link.replace_self(nodes.Text(link.astext()))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hooks."""
    app.connect("source-read", complete)
    app.connect("autodoc-skip-member", is_left_out)
    app.connect("doctree-read", without_addresses)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
