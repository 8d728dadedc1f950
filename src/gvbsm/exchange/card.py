"""The README of an exported set; that of a Hub data set begins with the header that it reads.

All templates of this room are filled here: those of READMEs, and the script without gvbsm.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from gvbsm.config.build import images_of
from gvbsm.config.keys import short_command_of
from gvbsm.config.yaml_files import format_yaml
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.exchange.load import SetDescription
from gvbsm.exchange.plain_sets import PLAIN
from gvbsm.files.network_names import own_files
from gvbsm.files.sizes import byte_count
from gvbsm.pipeline.tables import format_ipc, format_top1, images_per_class

MIXED = "mixed"  # the method of a merged set whose parts have several
PAPER = (
    "Shao et al., *Generalized Large-Scale Data Condensation via Various Backbone and Statistical "
    "Matching* (G-VBSM), CVPR 2024, arXiv:2311.17950"
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


_IMAGENET = "ImageNet's terms of access allow non-commercial research and education alone."
_CIFAR = "The page of CIFAR (Krizhevsky, 2009) names no license and asks for a citation."
# Data set -> what its sources say of the terms of its pictures (stored copies, November 2026):
# digits: DESCR of sklearn.datasets.load_digits; the policy of archive.ics.uci.edu for its data sets
# cifar10, cifar100: www.cs.toronto.edu/~kriz/cifar.html (the Hub's uoft-cs/cifar10: unknown)
# imagenette: README of github.com/fastai/imagenette; the Hub's frgfm/imagenette
# imagenet-1k: the terms of access in full, as the Hub's timm/imagenet-12k-wds quotes them
# tiny-imagenet: copies on the Hub, which have the terms of ImageNet
_TERMS = {
    "digits": "The pictures are the test part of UCI's Optical Recognition of Handwritten Digits "
    "(Alpaydin and Kaynak, 1998). scikit-learn names no license for them; UCI states CC BY 4.0 for "
    "its data sets.",
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "tiny-imagenet": f"The pictures are from ImageNet, made smaller. {_IMAGENET}",
    "imagenette": "The pictures are from ImageNet. Imagenette's own README names no license; a "
    f"copy on the Hugging Face Hub (frgfm/imagenette) names Apache-2.0. {_IMAGENET}",
    "imagenet-1k": _IMAGENET,
}

PICTURE = "images.png"
_SHOWN_CLASSES = 20


def dataset_card(facts: SetDescription, counts: Sequence[int] = ()) -> str:
    """Write the README from the description of a set; missing entries are left out.

    Args:
        facts: The description of the set (`gvbsm.json`).
        counts: Images of each class. One without any has no picture to show; empty if all have.
    """
    folders = facts.get("folders") or ()
    shown = [name for number, name in enumerate(folders) if not counts or counts[number]]
    facts = quoted(facts)
    kind, source = _made(str(facts["method"]))
    mean, deviation = (", ".join(f"{value:.4f}" for value in facts[key]) for key in ("mean", "std"))
    config, versions = facts.get("config"), facts.get("versions") or {}
    return filled(
        "set_card.md",
        facts=facts,
        head=hub_head(facts["images"], {"default": "data/*.parquet"}),
        title=title_of(facts),
        images_per_class=images_per_class(facts),
        picture=PICTURE,
        folders=shown[:_SHOWN_CLASSES],
        kind=kind,
        source=source,
        paper=PAPER,
        mean=mean,
        deviation=deviation,
        extraction=extraction("SET.safetensors"),
        code=dict.fromkeys(own_files(config)),
        command=short_command_of((config or {}).get("data", {}).get("name"), "settings.yaml"),
        libraries=", ".join(f"{name} {version}" for name, version in versions.items()),
        terms=terms_of(facts, "the images are derived from"),
    )


def extraction(name: str) -> str:
    """Return the command that writes the script in the header of a single file."""
    code = (
        f'import json, safetensors; f = safetensors.safe_open({json.dumps(name)}, "np"); '
        'print(json.loads(f.metadata()["gvbsm"])["train_plain.py"])'
    )
    return f"python -c {shlex.quote(code)} > train_plain.py"


def title_of(facts: SetDescription) -> str:
    """Return the name of the data of a set, as its user gives it."""
    return str(facts.get("title") or facts["dataset"])


def terms_of(facts: SetDescription, made: str) -> str:
    """Write what is known of the terms of the source pictures.

    Args:
        facts: The description of the set.
        made: What was made of them, as the beginning of a sentence: `the images are derived from`.
    """
    known = _TERMS.get(str(facts["dataset"]), "These terms are unknown here.")
    return (
        f"Not settled here: {made} the pictures of {title_of(facts)}, whose terms may bind "
        f"them. {known}"
    )


def hub_head(images: int, tables: Mapping[str, str]) -> str:
    """Write the header of a README that the Hub reads.

    Args:
        images: Number of all images.
        tables: Name of each configuration -> the pattern of its Parquet files.
    """
    head = {
        "license": "unknown",
        "task_categories": ["image-classification"],
        "size_categories": [next((name for most, name in _SIZES if images < most), "n>1M")],
        "tags": ["dataset-distillation"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": pattern}]}
            for name, pattern in tables.items()
        ],
    }
    return f"---\n{format_yaml(head)}---\n"


def quoted(facts: SetDescription) -> SetDescription:
    """Escape Markdown and HTML in names, which a page of the Hub would render."""
    shown = ("dataset", "title", "gvbsm", "method", "teachers", "results", "versions")
    return {name: escaped(item) if name in shown else item for name, item in facts.items()}


def escaped(value: Any) -> Any:
    """Escape Markdown and HTML in a text, or in all texts of nested lists and mappings."""
    if isinstance(value, str):
        return re.sub(r"([\\`*\[\]<>#|!])", r"\\\1", " ".join(value.split()))
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value


def _yaml_block(settings: Mapping[str, Any]) -> str:
    """Write settings as a code block, whose fence is longer than any run of backticks in them."""
    text = format_yaml(dict(settings))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"


def _made(method: str) -> tuple[str, str]:
    """Say of a method whether its images are synthetic, if that is known, and who made the set."""
    if method == PLAIN:
        return "", "found in class folders or arrays, and written by"
    if method == MIXED:
        return "", "made by several methods, and merged by"
    kind = "synthetic " if images_of(method) in ("gvbsm", "sre2l") else "real "
    return kind, f"made by the method `{method}` of"


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
        "escaped": escaped,
        "html": escape,
        "ipc": format_ipc,
        "top1": format_top1,
        "url": quote,
        "yaml": _yaml_block,
    }
    return environment.get_template(f"{template}.j2").render(values)
