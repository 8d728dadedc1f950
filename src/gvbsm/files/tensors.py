"""Write and read the tensors of artifacts (`files.artifacts`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gvbsm.files.artifacts import (
    KEY,
    ArtifactError,
    DamagedError,
    atomic,
    digest_of,
    header_of,
    header_text,
    opened,
)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute the CRC-32 of the names, types, shapes and bytes of tensors, sorted by name.

    It detects every single flipped bit, and misses other damage once in four billion. It is no
    defense against forgery.
    """

    def blocks() -> Iterator[bytes | memoryview]:
        for name in sorted(tensors):
            yield described(name, tensors[name].dtype, tensors[name].shape)
            tensor = tensors[name].detach().cpu().contiguous().reshape(-1)
            yield tensor.view(torch.uint8).numpy().data

    return digest_of(blocks())


def described(name: str, dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    """Return the bytes that `digest` reads before the bytes of a tensor."""
    return f"{name}|{dtype}|{list(shape)}|".encode()


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and header atomically; `header` needs `kind` and `recipe`."""
    # safetensors writes neither views of shared storage nor strided tensors.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = header_text({**header, "digest": digest(plain)})
    with atomic(path) as temporary:
        temporary.touch()  # for the user's file mode: safetensors makes files private
        mode = temporary.stat().st_mode
        try:
            save_file(plain, temporary, metadata={KEY: text})
        except SafetensorError as error:  # a full disk is not an OSError here
            raise OSError(str(error)) from None
        with suppress(OSError):  # some network drives have no file modes
            temporary.chmod(mode)


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read all tensors and the header of an artifact.

    Raises:
        ArtifactError: As `read_header`, or if the file holds another kind of artifact, or its
            tensors fail their checksum.
    """
    with opened(path, "pt") as file:
        header = header_of(file, path)
        if header.get("kind") != kind:
            raise ArtifactError(f"{path} holds {header.get('kind')!r}, expected {kind!r}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header.get("digest") != digest(tensors):
        raise DamagedError(path, "its tensors do not match their checksum")
    return tensors, header
