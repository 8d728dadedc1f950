"""Find which outputs of a pretrained classifier are the classes of a data set."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gvbsm.config.errors import first_line
from gvbsm.config.paths import user_path

_INSTEAD = "or train the network (--squeeze.pretrained false)"
_LIST = "list the names of the weights' classes in a file (--squeeze.weights_classes)"


@dataclass(frozen=True)
class OutputNames:
    """Names of a classifier's outputs.

    Attributes:
        source: Where they are from, for messages.
        names: Name of each output.
        synonyms: Outputs by other names, which `plain` has simplified. A synonym may stand for
            several outputs, as "crane" does.
    """

    source: str
    names: tuple[str, ...]
    synonyms: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def outputs_of(self, class_names: Iterable[str]) -> list[list[int]]:
        """Return the outputs that each class may be: one, none, or several of the same name."""
        by_name = {name: [output] for output, name in enumerate(self.names)}
        return [
            by_name.get(name) or list(self.synonyms.get(plain(name), ())) for name in class_names
        ]


def plain(name: str) -> str:
    """Simplify a name: lower case, and spaces for `_` and `-`."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def imagenet_names(outputs: int) -> OutputNames | None:
    """Return the names of ImageNet's classes, from timm; None if it has no such set of classes.

    The name of a class is its WordNet id. Its words in WordNet, together and one by one, are
    synonyms: `tench, Tinca tinca`, `tench`, `Tinca tinca`.

    Args:
        outputs: 1,000 for ImageNet-1k; timm also knows larger sets.
    """
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset  # slow to import

    subset = infer_imagenet_subset({"num_classes": outputs})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    synonyms: dict[str, list[int]] = {}
    for output in range(outputs):
        words = info.index_to_description(output)
        for name in {plain(text) for text in (words, *words.split(", "))}:
            synonyms.setdefault(name, []).append(output)
    return OutputNames(
        "WordNet ids or names of ImageNet",
        tuple(map(info.index_to_label_name, range(outputs))),
        synonyms,
    )


def names_in_file(path: Path) -> OutputNames:
    """Read the names of a classifier's outputs from a text file, one a line in their order.

    Raises:
        ValueError: If the file cannot be read, or a name is empty or given twice.
    """
    path = user_path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"squeeze.weights_classes: {path} cannot be read as text ({first_line(error)})"
        ) from None
    names = [unicodedata.normalize("NFC", line.strip()) for line in text.rstrip().splitlines()]
    lines: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name:
            raise ValueError(f"squeeze.weights_classes: {path}, line {line}: a class has no name")
        if name in lines:
            raise ValueError(
                f"squeeze.weights_classes: {path} names {name!r} twice, in lines {lines[name]} and "
                f"{line}"
            )
        lines[name] = line
    return OutputNames(f"the lines of {path}", tuple(names))


def names_digest(path: Path) -> str:
    """Return the SHA-256 of the names in a file, which identifies them in recipes.

    Raises:
        ValueError: As for `names_in_file`.
    """
    return hashlib.sha256("\n".join(names_in_file(path).names).encode()).hexdigest()


def match_outputs(
    class_names: Sequence[str], outputs: int, known: OutputNames | None, backbone: str
) -> list[int]:
    """Return the output of each class of the data.

    Args:
        class_names: Names of the data's classes.
        outputs: Outputs of the pretrained classifier.
        known: Their names; None if they are unknown.
        backbone: Name of the network, for messages.

    Raises:
        ValueError: In one line, if the names are unknown, or a class is not among the outputs, may
            be several of them, or is the same as another class.
    """
    weights = f"the pretrained weights of {backbone} have {outputs} classes"
    if known is None:
        raise ValueError(
            f"{weights}, the data set {len(class_names)}; the names of theirs are not known: "
            f"{_LIST}, {_INSTEAD}"
        )
    candidates = dict(zip(class_names, known.outputs_of(class_names), strict=True))
    if missing := [name for name in class_names if not candidates[name]]:
        others = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise ValueError(
            f"{weights}, the data set {len(class_names)}; {missing[0]!r}{others} not among them "
            f"({known.source}): rename the class, {_LIST}, {_INSTEAD}"
        )
    class_of: dict[int, str] = {}
    for name, (output, *alternatives) in candidates.items():
        if alternatives:
            ids = " or ".join(known.names[index] for index in (output, *alternatives))
            raise ValueError(f"{weights}, and {name!r} may be {ids}: name the class so")
        if output in class_of:
            raise ValueError(
                f"{weights}, and {class_of[output]!r} and {name!r} are the same of them "
                f"({known.names[output]}): put their pictures into one class"
            )
        class_of[output] = name
    return list(class_of)
