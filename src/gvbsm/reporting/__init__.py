"""The report of a work directory or a sweep: text, figures, one HTML page.

The page contains its styles and figures, loads no other file and needs no script. Figures are
embedded as SVG, whose colors follow the scheme of the page, and images as PNG. `report/figures/`
has the same as files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gvbsm.config.given import code_name
from gvbsm.config.paths import user_path
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.store.workdir import Workspace

log = logging.getLogger("gvbsm")

NOT_COMPARED = (
    "The features of the sets are not compared, because the work directory has no teachers that "
    "can be used: run `gvbsm squeeze` with the run's settings, and name your own networks as "
    "`gvbsm report DIR --networks file.py:Class`."
)


@torch_defaults()
def report(
    workdir: str | Path,
    quiet: bool = False,
    networks: Sequence[str | Callable[..., Any]] = (),
    pdf: bool = False,
) -> Path:
    """Write the report of a work directory or of a sweep (`gvbsm.report`, `gvbsm report DIR`).

    Args:
        workdir: The directory, with results of a run, of a sweep or of `gvbsm continual`. Sections
            whose files are missing are left out.
        quiet: No progress bars.
        networks: Your own networks that the report may build: names (`file.py:Class`), or the
            classes or functions. Those that the directory alone names are not run, and what needs
            them is left out.
        pdf: Whether to write each figure as PDF too, in `report/figures/`.

    Returns:
        The file: `report/index.html`.

    Raises:
        ArtifactError: If it is no work directory, holds no results yet, or a file is unusable.
    """
    # Imported here, so that `gvbsm show` does not import matplotlib.
    from gvbsm.files.plugins import admit
    from gvbsm.files.schema import checked_header
    from gvbsm.reporting.analysis import analyze
    from gvbsm.reporting.facts import read_run_facts
    from gvbsm.reporting.page import write_continual_page, write_page
    from gvbsm.reporting.studies import write_sweep_page
    from gvbsm.store.teachers import unusable_because

    admit([name if isinstance(name, str) else code_name(name) for name in networks])
    workdir = user_path(workdir)
    workspace = Workspace(workdir)
    if (workdir / "points").is_dir() and not workspace.results.is_file():
        with workspace.reporting():
            return write_sweep_page(workdir, pdf)
    if workspace.continual.is_file() and not workspace.results.is_file():
        with workspace.reporting():
            return write_continual_page(workdir, pdf)
    facts = read_run_facts(workdir)
    for path in workspace.teachers():
        if fault := unusable_because(checked_header(path)):
            log.warning("%s is left out: %s", path.name, fault)
    with workspace.reporting():
        notes = [NOT_COMPARED] if analyze(workdir, quiet) is None else []
        return write_page(workdir, facts, notes, pdf)
