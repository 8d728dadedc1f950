"""Files of a running synthesis: the draft of the set, and a small file for each finished group.

The images of a group are written once, to their final positions in the draft of the set's file
(`files.shared_draft`). Then the group's file is written, with its trace, its film and a checksum of
each image: it marks the group as finished. When all groups are, the draft becomes the set's file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvbsm.data.class_sizes import ImageCounts
from gvbsm.files.artifacts import Recipe, check_replaceable, is_current, is_ours, remove_all
from gvbsm.files.schema import checked_header
from gvbsm.files.shared_draft import SharedDraft, remove_draft, row_checksums
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method.synthesis import Iteration
from gvbsm.store.distilled import image_tensors
from gvbsm.store.film import Film, film_file, frame_steps, is_filmed

log = logging.getLogger("gvbsm")

Trace = list[dict[str, Any]]
"""Values of the loss's terms, a row for each measured iteration."""

LONGEST_FLOAT = -2.2250738585072014e-308  # no float takes more signs in JSON


def trace_row(step: Iteration, group: int) -> dict[str, Any]:
    """Return the row of an iteration in the trace of the stack's group number `group`."""
    terms = {name: values[group] for name, values in step.terms.items()}
    gradient = step.densification_gradient[group]
    return {
        "step": step.number,
        "teacher": step.teacher,
        **terms,
        "densification_gradient": gradient,
    }


def longest_trace(steps: Iterable[int], teachers: Iterable[str], terms: Iterable[str]) -> Trace:
    """Return a trace that is as long in JSON as one of these iterations, teachers and terms."""
    teacher = max(teachers, key=lambda name: len(ascii(name)))
    values = {name: [LONGEST_FLOAT] for name in terms}
    nothing = torch.empty(0)
    return [trace_row(Iteration(s, teacher, nothing, values, [LONGEST_FLOAT]), 0) for s in steps]


@dataclass(frozen=True)
class Groups:
    """The files of a synthesis.

    Attributes:
        path: The file of the set.
        header: Its header without traces, with the recipe.
        indices: Positions of each group's images in the class-major set, int64 (at most batch,).
        counts: Images of each class.
        iterations: Iterations of the synthesis.
        shape: Shape of an image: channels, height, width.
        longest_traces: Traces that take as much space as those of the groups in the end.
        draft: The draft of the set.
    """

    path: Path
    header: Mapping[str, Any]
    indices: Sequence[Tensor]
    counts: ImageCounts
    iterations: int
    shape: tuple[int, int, int]
    longest_traces: Sequence[Trace]
    draft: SharedDraft = field(init=False)

    def __post_init__(self) -> None:
        tensors = image_tensors(len(self.labels), self.shape)
        longest = {**self.header, "traces": self.longest_traces}
        object.__setattr__(self, "draft", SharedDraft(self.path, tensors, longest))

    @cached_property
    def paths(self) -> list[Path]:
        """The file of each group."""
        return [self.path.with_name(f"group-{g:05d}.safetensors") for g in range(len(self.indices))]

    @cached_property
    def labels(self) -> Tensor:
        """Classes of all images, int64 (images,)."""
        return self.counts.labels

    def missing(self) -> list[int]:
        """Prepare the draft, and list the groups that are not finished.

        One process calls this before any of them optimizes a group. It reads the images of all
        finished groups.

        Raises:
            ArtifactError: If a file is in the way.
        """
        check_replaceable(film_file(self.path.parent))
        kept = self.draft.prepare()
        missing = [g for g in range(len(self.indices)) if not (kept and self._is_finished(g))]
        for group in missing:
            check_replaceable(self.paths[group])
        return missing

    def _is_finished(self, group: int) -> bool:
        """Whether a group's file is current, and its images are as they were written."""
        path = self.paths[group]
        if not is_current(path, self.header["recipe"]):
            return False
        images = self.draft.read("images", self.indices[group])
        if row_checksums(images) == checked_header(path)["checksums"]:
            return True
        log.warning(
            "the images of batch %d in %s are damaged: they are optimized again",
            group,
            self.draft.path,
        )
        return False

    def save(self, group: int, images: Tensor, film: Tensor, trace: Trace) -> None:
        """Write the images of a group, and when they are on the disk the group's file.

        Args:
            group: Number of the group.
            images: uint8 (batch, channels, height, width).
            film: Frames of the filmed images, uint8 (filmed, frames, channels, height, width).
            trace: The group's trace.

        Raises:
            OSError: If the disk is full or may not be written.
        """
        self.draft.write("images", self.indices[group], images)
        header = {
            "kind": "group",
            "recipe": self.header["recipe"],
            "trace": trace,
            "checksums": row_checksums(images),
        }
        save(self.paths[group], {"film": film}, header)

    def film(self) -> Film:
        """Read the film of the set.

        Raises:
            ArtifactError: If a group's file is missing or damaged.
        """
        frames = [
            load_tensors(path, "group")[0]["film"]
            for index, path in zip(self.indices, self.paths, strict=True)
            if bool(is_filmed(index, self.counts).any())
        ]
        steps = torch.tensor(frame_steps(self.iterations))
        filmed = is_filmed(torch.arange(len(self.labels)), self.counts)
        return Film(torch.cat(frames), steps, self.labels[filmed])  # in the order of classes

    def finish(self) -> None:
        """Turn the draft into the set's file, once all groups are finished.

        Raises:
            ArtifactError: If a group's file is missing or damaged, or an image is not as it was
                written.
            OSError: If the disk is full or may not be written.
        """
        headers = [checked_header(path) for path in self.paths]
        checksums = torch.empty(len(self.labels), dtype=torch.int64)
        for index, header in zip(self.indices, headers, strict=True):
            checksums[index] = torch.tensor(header["checksums"])
        self.draft.write("labels", torch.arange(len(self.labels)), self.labels)
        traces = [header["trace"] for header in headers]
        self.draft.finish({**self.header, "traces": traces}, {"images": checksums})


def has_group_files(path: Path, recipe: Recipe) -> bool:
    """Return whether files of groups that this recipe made lie beside the set at `path`."""
    files = path.parent.glob("group-*.safetensors")
    return any(is_ours(file) and is_current(file, recipe) for file in files)


def remove_group_files(path: Path) -> None:
    """Remove the draft of the set at `path`, and the files and checkpoints of groups beside it."""
    remove_draft(path)
    remove_all(path.parent.glob("group-*.safetensors"))
