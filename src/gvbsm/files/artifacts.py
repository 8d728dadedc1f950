"""Artifacts: safetensors files with a JSON header, and JSON files, written atomically; no pickle.

This module reads headers and JSON without torch; `files.tensors` reads and writes tensors.

A header holds the format version, the kind of the artifact and its recipe: the settings that the
artifact depends on, and the fingerprints (hashes) of the recipes of its inputs. Comparing recipes
shows whether a file is current, and which settings changed, without reading tensors. Unfinished
work is saved in `*.partial.safetensors` beside the artifact.

Headers, the tensors of a file and JSON objects have checksums (CRC-32). A header is checked
whenever it is read, tensors when all tensors of a file are loaded.

Only files that gvbsm wrote are replaced or removed. In a folder with a manifest (`manifest`) these
are the files that it lists with their present content; elsewhere, files with a valid header or
checksum of gvbsm.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gvbsm._version import __version__
from gvbsm.files import jsontext, manifest
from gvbsm.files.drafts import draft_folder, locked_draft_folder

FORMAT = 1
KEY = "gvbsm"
CHECKSUM = "checksum"  # the entry of a header or JSON object with the CRC-32 of the others
JSON_LIMIT = 64 * 1024**2  # bytes; the largest file of a run takes a few megabytes
PARTIAL = ".partial.safetensors"  # the end of a checkpoint's name

Recipe = dict[str, Any]
"""JSON-like: everything that an artifact's content depends on."""


class ArtifactError(Exception):
    """A file of the work directory is missing, damaged, newer, or of another recipe."""


class DamagedError(ArtifactError):
    """A file is damaged.

    Args:
        path: The file.
        what: The check that failed.
    """

    def __init__(self, path: Path, what: str) -> None:
        if manifest.root_of(path):
            advice = "move it away, and the same command makes it again"
        else:
            advice = "fetch it again, or name another file"
        super().__init__(f"{path} is damaged ({what}); {advice}")


def fingerprint(recipe: Recipe) -> str:
    """Hash a recipe; recipes of artifacts that are made from this one hold the hash."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def digest_of(blocks: Iterable[bytes | memoryview]) -> str:
    """Compute the CRC-32 of a sequence of blocks, in hexadecimal."""
    checksum = 0
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` when the block ends without an error.

    The temporary file has a folder of its own, since libraries may write drafts beside it. Content
    and name are synced before the block is left, so that a power cut loses neither. In a folder
    with a manifest the file is listed there before it is renamed.

    Raises:
        OSError: If the disk is full or read-only, naming the file and what to do.
        ArtifactError: If the present file may not be replaced (`check_replaceable`).
    """
    check_replaceable(path)
    folder = draft_folder if manifest.root_of(path) else locked_draft_folder
    with explain_write_errors(path), folder(path) as drafts:
        temporary = drafts / path.name
        yield temporary
        publish(temporary, path)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Raise an OSError of the block as one that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror or error}); what was there is kept: make room "
            "or give another place, and the same command goes on"
        ) from error


def publish(draft: Path, path: Path) -> None:
    """Rename a finished draft to `path`, after its content is on the disk and in the manifest.

    Raises:
        OSError: If the disk is full or may not be written.
    """
    root = manifest.root_of(path)
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    if root:
        manifest.record(root, {path: manifest.content_of(draft)})
    draft.replace(path)
    _sync_folder(path.parent)


def check_replaceable(path: Path) -> None:
    """Check that a file may be written at `path`: there is none, or one that gvbsm wrote.

    Raises:
        ArtifactError: If the path is a folder or a file that gvbsm did not write or that was
            changed since, or if a link leads out of the folder with the manifest.
    """
    root = manifest.root_of(path)
    if root is not None and manifest.leads_out(path, root):
        raise ArtifactError(
            f"{path.parent} leads out of {root} by a link, and nothing is written through it; "
            "remove the link, or give another place"
        )
    refuse_folder(path)
    if (path.exists() or path.is_symlink()) and not is_ours(path):
        raise ArtifactError(
            f"{path} is in the way: gvbsm did not write it, or it was changed since; move it away, "
            "and the same command goes on"
        )


def is_ours(path: Path, listed: manifest.Listing = manifest.listed_contents) -> bool:
    """Return whether gvbsm wrote the file at `path` with its present content.

    Args:
        path: The file.
        listed: Returns the files that the manifests of a folder list.
    """
    if path.is_symlink() or not path.is_file():
        return False
    if root := manifest.root_of(path):
        return manifest.is_listed(path, root, listed)
    try:
        if path.suffix == ".json":
            read_json(path)
        else:
            read_header(path)
    except ArtifactError:
        return False
    return True


def refuse_folder(path: Path) -> None:
    """Check that the path of an artifact is no folder.

    Raises:
        ArtifactError: If it is.
    """
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder where a file belongs; move it away")


def remove(path: Path) -> None:
    """Remove a file if gvbsm wrote it.

    Raises:
        ArtifactError: If the path is a folder.
    """
    refuse_folder(path)
    if _is_removable(path, manifest.listed_contents):
        path.unlink()


def remove_all(paths: Iterable[Path]) -> list[Path]:
    """Remove the files among paths that gvbsm wrote (`remove`), and return these.

    Folders are skipped. The manifests are read once.
    """
    listed = cache(manifest.listed_contents)
    removed = []
    for path in [*paths]:
        if path.is_file() and _is_removable(path, listed):
            path.unlink()
            removed.append(path)
    return removed


def _is_removable(path: Path, listed: manifest.Listing) -> bool:
    root = manifest.root_of(path)
    return is_ours(path, listed) and not (root and manifest.leads_out(path, root))


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a renamed file keeps its new name after a power cut."""
    with suppress(OSError):  # Windows opens no folders; some network drives sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def _with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(content))  # turns keys of other types into text
    return {**plain, CHECKSUM: _checksum(plain)}


def _without_checksum(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    plain = dict(content)
    if plain.pop(CHECKSUM, None) != _checksum(plain):
        raise DamagedError(path, "its text does not match its checksum")
    return plain


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with a `checksum` that `read_json` verifies."""
    text = json.dumps(_with_checksum(content), indent=2)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that gvbsm wrote, and return it without its checksum.

    Raises:
        ArtifactError: If the file cannot be read, is no JSON object or fails its checksum.
    """
    return _without_checksum(_parse_json(path), path)


def _parse_json(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path} is no regular file; move it away")  # reading a pipe never ends
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ValueError(f"larger than {JSON_LIMIT // 1024**2} MiB")
        content = jsontext.parse(path.read_text(encoding="utf-8"))
    except PermissionError:
        raise ArtifactError(f"{path} may not be read; change its permissions") from None
    except (OSError, ValueError) as error:
        raise DamagedError(path, f"it cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(path, "it is not a JSON object")
    return content


def header_text(header: Mapping[str, Any]) -> str:
    """Return the header of an artifact as JSON, with format and version; files hold it at `KEY`."""
    full = {"format": FORMAT, "version": __version__, **header}
    return json.dumps(_with_checksum(full), sort_keys=True)


@contextmanager
def opened(path: Path, framework: str = "np") -> Iterator[Any]:
    """Open a safetensors file for the block; its tensors are read on request.

    Args:
        path: The file.
        framework: Library of the tensors: `pt` is torch, `np` NumPy.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no {path}; run the stage that makes it first")
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except PermissionError:
        raise ArtifactError(f"{path} may not be read; change its permissions") from None
    except (SafetensorError, OSError) as error:
        raise DamagedError(path, str(error)) from None


def header_of(file: Any, path: Path) -> dict[str, Any]:
    """Return the header of an opened file.

    Raises:
        ArtifactError: If the file is foreign, or newer than this version.
    """
    metadata = file.metadata() or {}
    try:
        content = jsontext.parse(metadata[KEY])
        newer = content["format"] > FORMAT
        header = _without_checksum(content, path)
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"{path} was not written by gvbsm; name another file") from None
    if newer:
        raise ArtifactError(
            f"{path} has format {header['format']} of gvbsm {header.get('version')}; "
            f"this is gvbsm {__version__} and reads up to format {FORMAT}: upgrade gvbsm"
        )
    return header


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a file without its tensors.

    Raises:
        ArtifactError: If the file is missing, damaged, foreign or newer than this version.
    """
    with opened(path) as file:
        return header_of(file, path)


def changes(old: Recipe, new: Recipe, prefix: str = "") -> list[str]:
    """List the differences of two recipes, one line an entry: `labels.epochs: 100 -> 200`."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += changes(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines


def is_current(path: Path, recipe: Recipe) -> bool:
    """Return whether the artifact at `path` exists and has this recipe.

    A truncated file, or one with a damaged header, is not current. Tensors are not read: damage of
    theirs is detected when they are loaded.

    Raises:
        ArtifactError: If the path is a folder, or a file of another program or a newer version.
    """
    refuse_folder(path)
    if not path.is_file():
        return False
    try:
        return bool(read_header(path).get("recipe") == recipe)
    except DamagedError:
        return False


def is_partial(path: Path) -> bool:
    """Return whether a file has the name of a checkpoint."""
    return path.name.endswith(PARTIAL)
