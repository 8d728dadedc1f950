"""The page of a work directory with only the results of `gvbsm continual`."""

from __future__ import annotations

from pathlib import Path

from gvbsm._version import __version__
from gvbsm.config.paths import data_title
from gvbsm.config.provenance import Origin
from gvbsm.files.schema import Continual, checked_json
from gvbsm.pipeline.tables import images_per_class
from gvbsm.reporting.facts import preset_settings
from gvbsm.reporting.figures.gallery import gallery
from gvbsm.reporting.figures.reading import fitting
from gvbsm.reporting.paper_terms import changes, settings_yaml
from gvbsm.reporting.rendering import save_pictures, write_html
from gvbsm.reporting.wording import method_words
from gvbsm.store.workdir import Workspace


def write_continual_page(workdir: Path, pdf: bool = False) -> Path:
    """Write `report/index.html` of the class-incremental protocol, and the figures beside it.

    Raises:
        ArtifactError: If a file is damaged.
    """
    path, folder = Workspace(workdir).continual, workdir / "report"
    content = checked_json(Continual, path)
    with fitting(path):
        config, origin = content["config"], Origin.read(content)
        preset = preset_settings(config, content["class_names"], origin)
        context = {
            "title": f"{data_title(config)}: {method_words(config['method'])} as classes "
            f"arrive, {images_per_class(config)}",
            "method": config["method"],
            "origin": origin,
            "changes": changes(config, preset, origin),
            "continual": {
                key: content[key]
                for key in ("classes", "class_names", "orders", "rows", "note", "versions")
            },
            "yaml": settings_yaml(config),
            "version": __version__,
        }
    pictures = save_pictures(gallery(workdir), folder / "figures", pdf)
    context["pictures"] = {
        "continual": [item for item in pictures if item.name == "continual"],
        "others": [item for item in pictures if item.name != "continual"],
    }
    return write_html(folder / "index.html", "continual.html.j2", context)
