"""The README of an exported set; that of a Hub data set begins with the header that it reads."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from gvbsm.config.build import images_of
from gvbsm.config.yaml_files import format_yaml
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.exchange.load import LABELS, SetDescription
from gvbsm.exchange.plain_sets import PLAIN
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
HUB_FILES = f"""- `data/`: images and hard labels as Parquet, columns `image` and `label`.
- `{LABELS}/`: soft labels, `index.json` and `shard-*.safetensors`."""
FOLDER_FILES = """- One folder a class: the images as PNG.
- `index.json` and `shard-*.safetensors`: soft labels."""
SCORE_FILES = """- `images/`: one folder a class with the images as PNG.
- `teachers/`: the teachers that DD-Ranking has networks for; they give the soft labels.
- `config.yaml`, `score.py`: `python score.py` scores the set with ddranking 0.2.0, once `real/`
  holds the real pictures."""
TENSORS = f"""- `images` (uint8), `labels` (int64): the set.
- `{LABELS}/...`: all rows of the soft labels; their index is in the header, as `{LABELS}`."""
CONTENTS = {
    "hub": HUB_FILES,
    "folder": FOLDER_FILES,
    "dd-ranking": SCORE_FILES,
    "safetensors": TENSORS,
}


def dataset_card(facts: SetDescription) -> str:
    """Write the README from the description of a set; missing entries are left out.

    Args:
        facts: The description of the set (`gvbsm.json`).
    """
    form = facts["form"]
    facts = quoted(facts)
    sections = [
        hub_head(facts["images"], {"default": "data/*.parquet"}) if form == "hub" else "",
        f"# {title_of(facts)}, distilled: {images_per_class(facts)}\n",
        f"![The first images of each class]({PICTURE})\n" if form == "hub" else "",
        _first_images(facts) if form == "folder" else "",
        _about(facts),
        _accuracy(facts.get("results")),
        _contents(facts),
        _training(facts),
        _loading(facts) if form == "hub" else "",
        _settings(facts),
        f"## License\n\n{terms_of(facts, 'the images are derived from')}"
        + (" Fill in `license` above.\n" if form == "hub" else "\n"),
    ]
    return "\n".join(section for section in sections if section)


def extraction(name: str) -> str:
    """Return the command that writes the script in the header of a single file.

    Args:
        name: Name of the file.
    """
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


def torch_code(header: Mapping[str, Any], file: str) -> str:
    """Write the code that loads a network from a file of weights, and classifies pictures.

    Args:
        header: Backbone, class_names, image_size and channels of the network, and mean and std of
            its pictures.
        file: Name of the file.
    """
    side, channels = header["image_size"], header["channels"]
    return f"""```python
import gvbsm
import torch
from safetensors.torch import load_file

model = gvbsm.build_backbone(
    "{header["backbone"]}", classes={len(header["class_names"])}, image_size={side}, \
channels={channels}
)  # a torch.nn.Module
model.load_state_dict(load_file("{file}"))
mean = torch.tensor({header["mean"]}).view(-1, 1, 1)
std = torch.tensor({header["std"]}).view(-1, 1, 1)
# pixels: torch, uint8 (batch, {channels}, {side}, {side})
with torch.no_grad():
    logits = model.eval()((pixels / 255 - mean) / std)
```
"""


def _first_images(facts: SetDescription) -> str:
    """Show the first image of the first classes, from their folders."""
    tags = [
        f'<img src="{quote(folder)}/{0:05d}.png" width="96" alt="{escape(folder)}">'
        for folder in (facts.get("folders") or ())[:_SHOWN_CLASSES]
    ]
    return "\n".join([*tags, ""]) if tags else ""


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


def _contents(facts: SetDescription) -> str:
    """List the files, or the tensors and the entries of the header of a single file."""
    form = facts["form"]
    lines = CONTENTS[form].splitlines()
    if not facts.get("labels"):
        lines = [line for line in lines if "oft labels" not in line or form == "dd-ranking"]
    if form == "safetensors":
        lines.append("- Entries of the header `gvbsm` (JSON): `facts` (names, mean, deviation, ")
        lines[-1] += "settings, results), `README` (this text), `train_plain.py`."
    else:
        lines.append("- `gvbsm.json`: names, mean and deviation, settings, results.")
    if form in ("hub", "folder"):
        lines.append("- `train_plain.py`: trains on the set without gvbsm.")
    return "\n".join(["## Contents", "", *lines, ""])


def _training(facts: SetDescription) -> str:
    form = facts["form"]
    if form == "dd-ranking":
        return ""
    labels = "images and soft labels" if facts.get("labels") else "images"
    reader = {"hub": ", Pillow, safetensors and pyarrow", "folder": ", Pillow and safetensors"}
    lines = [
        "## Training",
        "",
        "```",
        *([extraction("SET.safetensors")] if form == "safetensors" else []),
        "python train_plain.py TEST",
        "```",
        "",
        f"trains a student on the {labels} as gvbsm does, with torch, NumPy"
        f"{reader.get(form, ', Pillow and safetensors')} alone, and torchvision if the script "
        "imports it. TEST holds real test pictures, one folder a class, named as the classes. With "
        "gvbsm, in a loop of your own:",
        "",
        "```python",
        f'loader = gvbsm.load("{"SET.safetensors" if form == "safetensors" else "FOLDER_OR_NAME"}")'
        ".loader()",
        "for epoch in range(loader.epochs):",
        "    for batch in loader:  # views, logits, labels, partners, kept",
        "        loss = loader.loss(model(batch.views), batch)",
        "```",
    ]
    return "\n".join([*lines, ""])


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


def _about(facts: SetDescription) -> str:
    teachers = ", ".join(_teacher(item) for item in facts.get("teachers") or ())
    side, channels = facts["image_size"], facts["channels"]
    kind, source = _made(str(facts["method"]))
    lines = [
        f"{facts['images']} {kind}images of {len(facts['class_names'])} classes, {side} x "
        f"{side} pixels, {spell_count(channels, 'channel')}, {source} gvbsm {facts['gvbsm']} "
        f"({PAPER}).",
        "",
    ]
    if teachers:
        lines.append(f"- Teachers: {teachers}.")
    labels = facts.get("labels")
    if labels:
        lines.append(
            f"- Soft labels: the teachers' logits of every view in {labels['epochs']} epochs, "
            f"{byte_count(labels['bytes'])}."
        )
    else:
        lines.append("- No soft labels are stored with it.")
    mean, std = (", ".join(f"{value:.4f}" for value in facts[key]) for key in ("mean", "std"))
    lines.append(f"- Normalize pixels / 255 with mean ({mean}) and deviation ({std}).")
    return "\n".join(lines) + "\n"


def _made(method: str) -> tuple[str, str]:
    """Say of a method whether its images are synthetic, if that is known, and who made the set."""
    if method == PLAIN:
        return "", "found in class folders or arrays, and written by"
    if method == MIXED:
        return "", "made by several methods, and merged by"
    kind = "synthetic " if images_of(method) in ("gvbsm", "sre2l") else "real "
    return kind, f"made by the method `{method}` of"


def _teacher(item: Mapping[str, Any]) -> str:
    top1 = item.get("top1")
    return f"{item['backbone']}" + (f" ({top1:.1f} %)" if top1 is not None else "")


def _accuracy(rows: Sequence[Mapping[str, Any]] | None) -> str:
    """Write the table of accuracies, with those of random real pictures."""
    if not rows:
        return "## Accuracy\n\nNot measured, or not recorded.\n"
    lines = [
        "## Accuracy",
        "",
        "Top-1 in percent on the real test pictures after the last epoch, mean ± sample deviation "
        "over n students trained from scratch. `random-soft`: as many random real pictures, with "
        "soft labels of the same teachers; `full` and `teacher`: all real pictures.",
        "",
        "| method | student | images per class | top-1 % | n |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row["method"], row["student"], format_ipc(row), format_top1(row["top1"]))
        lines.append(f"| {' | '.join(map(str, cells))} | {len(row['top1']['values'])} |")
    if not any(row["method"] == "random-soft" for row in rows):
        lines += ["", "Random real pictures with soft labels were not measured beside it."]
    return "\n".join(lines) + "\n"


def _loading(facts: SetDescription) -> str:
    soft = (
        '\ndistilled.soft_labels.read(epoch=0)["logits"]   # with the views they belong to'
        if facts.get("labels")
        else ""
    )
    return f"""## Loading

```python
import datasets
datasets.load_dataset("FOLDER_OR_NAME", split="train")   # columns image and label

import gvbsm
distilled = gvbsm.load("FOLDER_OR_NAME")
distilled.images, distilled.labels   # uint8 (N, C, H, W), int64 (N,){soft}
```

`gvbsm train FOLDER_OR_NAME --model timm/resnet18 --data-root REAL_PICTURES` trains a network on it
and tests it{" (with its soft labels)" if facts.get("labels") else ""}.
"""


def _settings(facts: SetDescription) -> str:
    config = facts.get("config")
    if not config:
        return ""
    versions = facts.get("versions") or {}
    libraries = ", ".join(f"{name} {value}" for name, value in versions.items())
    return (
        "## Made by\n\n`gvbsm run settings.yaml`, where `settings.yaml` holds these settings"
        f"{f' ({libraries})' if libraries else ''}:\n\n<details><summary>settings</summary>\n\n"
        f"```yaml\n{format_yaml(config)}```\n\n</details>\n"
    )
