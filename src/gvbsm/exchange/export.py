"""Export a distilled set: a folder of pictures, a Hub data set, for DD-Ranking, or one file."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gvbsm._version import __version__
from gvbsm.config import ConfigError
from gvbsm.config.keys import without_paths
from gvbsm.config.paths import data_title, user_path
from gvbsm.data.class_sizes import ipc_of_labels
from gvbsm.data.pictures import write_image
from gvbsm.data.sources.hub_library import need
from gvbsm.engine.device import Runtime
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.exchange import hub
from gvbsm.exchange.card import PICTURE, dataset_card, extraction
from gvbsm.exchange.ddranking import check_scorable, write_score
from gvbsm.exchange.load import FACTS, FORMS, LABELS, TABLE, SetDescription, load
from gvbsm.exchange.plain_script import SCRIPT, plain_script
from gvbsm.exchange.public_files import copy_labels, describe_labels, label_tensors
from gvbsm.exchange.student import MODEL, STUDENT, WEIGHTS, export_student
from gvbsm.files.artifacts import ArtifactError, read_header, read_json, write_json
from gvbsm.files.manifest import is_claimed, named, names_in
from gvbsm.files.network_names import own_files, without_folders
from gvbsm.files.replacing import replacing
from gvbsm.files.schema import Results, checked_header, checked_json
from gvbsm.files.tensors import save
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.showing.pictures import png
from gvbsm.store.soft_labels import SoftLabels
from gvbsm.store.training_settings import settings_of_labels
from gvbsm.store.workdir import Workspace

log = logging.getLogger("gvbsm")

_NAME_BYTES = 200  # of a folder's name; file systems end at 255
_NAMING_CODE = ("recipe", "config", "settings", "results", "teachers")  # entries of a description
_OF_RUNS = ("squeeze", "seconds.json", "results.json", "points")  # in work directories and sweeps
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows


@torch_defaults()
def export(
    source: str | Path,
    form: str,
    out: str | Path,
    *,
    overwrite: bool = False,
    soft_labels: bool = True,
    logit_normalization: bool | None = None,
    quiet: bool = False,
) -> Path:
    """Write a distilled set in another form, or a trained network (`gvbsm export`).

    A failed export leaves no files.

    Args:
        source: A work directory, or what `gvbsm.load` takes; for onnx the weights of `gvbsm train`.
        form: folder (PNG, a folder per class), hub (Hugging Face: Parquet and a card), dd-ranking,
            safetensors (one file), or onnx (a network with its card).
        out: The folder, or the file of safetensors.
        overwrite: Replace an export that is there already.
        soft_labels: Take the soft labels along; DD-Ranking has no place for them.
        logit_normalization: Take the soft labels with logit normalization, or those without; None
            takes those of most students.
        quiet: No progress bar.

    Returns:
        `out`.

    Raises:
        ConfigError, ArtifactError, DataError: With one clear line.
    """
    out = user_path(out)
    _check_form(out, form)
    check_free(out, form, overwrite)
    if form == STUDENT:
        return export_student(user_path(source), out)
    if form == "hub":
        need("datasets")
    distilled = load(source, logit_normalization=logit_normalization)
    if not soft_labels:
        distilled = replace(distilled, soft_labels=None)
    check_whole(distilled.soft_labels)
    facts = describe_set(distilled, user_path(source), form)
    bar = Runtime(torch.device("cpu"), "fp32", 0, quiet=quiet)
    if form == "safetensors":
        _write_file(out, distilled, facts)
        log.info("its README and %s are in its header: %s", SCRIPT, extraction(out.name))
        return out
    if form == "dd-ranking":
        check_scorable(facts)  # before any work
    if form == "folder":
        _check_order(distilled)
    with replacing(out) as draft:
        write_set(draft, form, distilled, facts, bar, user_path(source))
    if form != "dd-ranking":
        log.info("to train on it without gvbsm: python %s TEST_PICTURES", out / SCRIPT)
    elif distilled.soft_labels is not None:
        log.info("DD-Ranking has no place for soft labels: the other forms have")
    return out


def write_set(
    draft: Path,
    form: str,
    distilled: DistilledDataset,
    facts: SetDescription,
    bar: Runtime,
    source: Path,
) -> None:
    """Write all files of a set that is exported as a folder, in one of the forms that are one."""
    if form == "hub":
        _write_hub(draft, distilled, bar)
    elif form == "folder":
        _write_folder(draft, distilled, facts, bar)
    else:
        _write_folder(draft / "images", distilled, facts, bar)
        write_score(draft, distilled, facts, Workspace(source))
    write_json(draft / FACTS, facts)
    if form != "dd-ranking":
        _write_training(draft, form, distilled, bar)
    (draft / "README.md").write_text(dataset_card(facts, distilled.counts), encoding="utf-8")


def _write_training(draft: Path, form: str, distilled: DistilledDataset, bar: Runtime) -> None:
    """Write the soft labels, and the script that trains on images and labels."""
    # Labels of a folder lie beside the class folders: to others a folder is a class.
    places = (TABLE, f"{LABELS}/") if form == "hub" else ("", "")
    copy_labels(draft / places[1], distilled.soft_labels, bar)
    script = plain_script(distilled, form, *places)
    (draft / SCRIPT).write_text(script, encoding="utf-8")


def _check_form(out: Path, form: str) -> None:
    """Check that there is such a form, and that `out` can be a name of it.

    Raises:
        ConfigError: If not.
    """
    if form not in (*FORMS, STUDENT):
        raise ConfigError(f"an export is one of {', '.join((*FORMS, STUDENT))}, got {form!r}")
    if form == "safetensors" and out.suffix != ".safetensors":
        raise ConfigError(f"--out must name a .safetensors file, got {out}")


def check_free(out: Path, form: str, overwrite: bool) -> None:
    """Check that a set may be written to `out`, before any work.

    Raises:
        ConfigError: If something else is there.
    """
    if out.is_symlink():
        raise ConfigError(f"{out} is a link; name a folder or a file as --out")
    if Path.cwd().is_relative_to(out.resolve()):
        raise ConfigError(f"{out} is the current folder, or holds it; name a new folder")
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"{out} is there already; pass --overwrite to replace it")
    if form == "safetensors":
        if out.is_dir():
            raise ConfigError(f"{out} is a folder; name a file")
        if read_header(out).get("kind") != "distilled":
            raise ConfigError(f"{out} is no exported set; name another file")
    else:
        _check_folder(out)


def _check_folder(out: Path) -> None:
    """Check that a folder may be replaced by an export.

    Raises:
        ConfigError: If gvbsm did not export it, or it also holds a run or trained networks.
    """
    if not out.is_dir() or (names_in(out) and not is_claimed(out)):
        raise ConfigError(f"gvbsm did not export {out}; name another folder")
    if any((out / name).exists() for name in _OF_RUNS):
        raise ConfigError(f"{out} holds a run, which no export replaces; name another folder")
    for path in named(out, "**/*.safetensors"):
        is_exported = path.name == WEIGHTS and (path.parent / MODEL).is_file()
        if not path.name.startswith("shard-") and not is_exported and _is_student(path):
            raise ConfigError(
                f"{path} was trained by gvbsm train, and no export replaces it; move it away, or "
                "name another folder"
            )


def _is_student(path: Path) -> bool:
    try:
        return read_header(path).get("kind") == "student"
    except ArtifactError:  # a damaged file is replaced
        return False


def check_whole(stored: SoftLabels | None) -> None:
    """Check that all soft labels exist, if there are any.

    Raises:
        ArtifactError: If labels were stopped half-way.
    """
    if stored is not None and (missing := stored.missing()):
        raise ArtifactError(
            f"{stored.directory} lacks {len(missing)} of {len(stored.shards)} files of labels: "
            "run `gvbsm labels` with the run's settings to its end, or export with "
            "--soft_labels false"
        )


def _check_order(distilled: DistilledDataset) -> None:
    """Check that images with soft labels are class by class, which is the order of class folders.

    Raises:
        ConfigError: If they are not: the soft labels would belong to other images.
    """
    is_ordered = bool((distilled.labels.diff() >= 0).all())
    if distilled.soft_labels is not None and not is_ordered:
        raise ConfigError(
            "the images of this set are not class by class, and class folders would part them from "
            "their soft labels: export --to hub or safetensors, or pass --soft_labels false"
        )


def describe_set(distilled: DistilledDataset, source: Path, form: str) -> SetDescription:
    """Describe a set by the results of its work directory, or as its source described it.

    Raises:
        ConfigError: If it has a single class, which no reader of an export takes.
    """
    if len(distilled.class_names) < 2:
        raise ConfigError(f"{source} has a single class; an exported set has two or more")
    header, stored = distilled.header, distilled.soft_labels
    names = ("method", "dataset", "title", "recipe", "config", "results", "versions")
    facts: SetDescription = {name: header.get(name) for name in (*names, "pictures")}
    facts |= {
        "format": 1,
        "form": form,
        "gvbsm": header.get("gvbsm", __version__),
        "class_names": list(distilled.class_names),
        "mean": list(distilled.normalization.mean),
        "std": list(distilled.normalization.std),
        "image_size": int(distilled.images.shape[-1]),
        "channels": int(distilled.images.shape[1]),
        "images": len(distilled.labels),
        "settings": settings_of_labels(distilled),
        **ipc_of_labels(distilled.labels, distilled.class_names),
        "labels": None if stored is None or form == "dd-ranking" else describe_labels(stored),
        "teachers": header.get("teachers") or _teachers(source),
    }
    if "form" not in header and (source / "results.json").is_file():
        results = checked_json(Results, source / "results.json")
        config = results.get("config") or {}
        facts["config"] = without_paths(config)
        facts["results"] = results["rows"]
        if "name" in config.get("data", {}):
            facts["title"] = data_title(config)
        facts |= {name: results.get(name) for name in ("versions", "pictures")}
    named_code = {name: facts[name] for name in _NAMING_CODE}
    alike = Counter(map(without_folders, {*own_files(named_code)}))
    for name, count in alike.items():
        if count > 1:
            log.warning(
                "%d different networks of your own are %s here, since folders are left out: give "
                "their files or classes different names",
                count,
                name,
            )
    return facts | {name: without_folders(value) for name, value in named_code.items()}


def _teachers(workdir: Path) -> list[dict[str, Any]]:
    headers = map(checked_header, Workspace(workdir).teachers())
    return [
        {"backbone": header["backbone"], "top1": header["history"]["top1"][-1]}
        for header in headers
    ]


def class_folders(names: Sequence[str]) -> list[str]:
    """Name a folder for each class so that sorted folders are in the order of the classes.

    The names themselves where they are safe on every file system and sort so, else with their
    number before them.
    """
    plain = [re.sub(r"[^\w\-.() ]", "_", name).strip(". ") or "class" for name in names]
    folded = Counter(name.casefold() for name in plain)
    safe = max(folded.values()) == 1 and not any(map(_RESERVED.fullmatch, plain))
    short = max(len(name.encode()) for name in plain) <= _NAME_BYTES
    if plain == list(names) and safe and short and sorted(plain) == plain:
        return plain
    width = len(str(len(plain) - 1))
    cut = [name.encode()[: _NAME_BYTES // 2].decode(errors="ignore") for name in plain]
    return [f"{label:0{width}d}_{name}" for label, name in enumerate(cut)]


def _write_folder(
    draft: Path, distilled: DistilledDataset, facts: SetDescription, bar: Runtime
) -> None:
    facts["folders"] = folders = class_folders(distilled.class_names)
    for folder in folders:  # readers of class folders number them, also one without pictures
        (draft / folder).mkdir(parents=True)
    if empty := [name for name, count in zip(folders, distilled.counts, strict=True) if not count]:
        log.warning(
            "the folders of classes without images are empty, and torchvision's ImageFolder reads "
            "them with allow_empty=True alone: %s",
            ", ".join(empty),
        )
    counts: Counter[int] = Counter()
    width = len(str(max(distilled.counts) - 1))
    for index, label in enumerate(bar.track(distilled.labels.tolist(), "pictures")):
        path = draft / folders[label] / f"{counts[label]:0{max(width, 5)}d}.png"
        write_image(path, distilled.images[index])
        counts[label] += 1


def _write_hub(draft: Path, distilled: DistilledDataset, bar: Runtime) -> None:
    encoded = []
    for image in bar.track(distilled.images, "pictures"):
        content = io.BytesIO()
        write_image(content, image, format="PNG")
        encoded.append(content.getvalue())
    (draft / TABLE).parent.mkdir()
    hub.write_table(draft / TABLE, encoded, distilled.labels.tolist(), distilled.class_names)
    (draft / PICTURE).write_bytes(png(distilled.images, distilled.labels))


def _write_file(out: Path, distilled: DistilledDataset, facts: SetDescription) -> None:
    tensors = {"images": distilled.images, "labels": distilled.labels}
    header = {"kind": "distilled", "recipe": facts["recipe"] or {}, "facts": facts}
    header |= {"README": dataset_card(facts)}
    header |= {SCRIPT: plain_script(distilled, "safetensors", out.name)}
    if distilled.soft_labels is not None:
        rows, header[LABELS] = label_tensors(distilled.soft_labels)
        tensors |= rows
    save(out, tensors, header)


def push(folder: Path, name: str) -> str:
    """Upload an exported `hub` folder to the Hugging Face Hub; return its address.

    Raises:
        ArtifactError: If it is no such folder.
        DataError: If the Hub refuses it.
    """
    if read_json(folder / FACTS).get("form") != "hub":
        raise ArtifactError(f"{folder} is not of --to hub, and cannot be pushed")
    return hub.upload(folder, name)
