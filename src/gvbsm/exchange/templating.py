"""Fill the templates of this room: cards, and the script that trains without gvbsm."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from gvbsm.engine.progress.spelling import spell_count
from gvbsm.files.sizes import byte_count
from gvbsm.pipeline.tables import format_ipc, format_top1


def filled(template: str, **values: Any) -> str:
    """Fill a template; its text is Markdown or Python, so that nothing is escaped by itself.

    Args:
        template: Name of the file in `templates`, without `.j2`.
        values: Its variables; one that is missing is an error.
    """
    environment = Environment(
        loader=PackageLoader("gvbsm.exchange"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bytes": byte_count,
        "counted": spell_count,
        "html": escape,
        "ipc": format_ipc,
        "top1": format_top1,
        "url": quote,
    }
    return environment.get_template(f"{template}.j2").render(values)
