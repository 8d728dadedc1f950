"""The READMEs of a collection: the index of all sets, and the card of the teachers of a set."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gvbsm._version import __version__
from gvbsm.config.keys import path_options, path_settings, value_at
from gvbsm.config.provenance import Origin
from gvbsm.config.yaml_files import format_yaml
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.exchange.card import PAPER, escaped, hub_head, terms_of, title_of, torch_code
from gvbsm.exchange.load import TABLE, SetDescription
from gvbsm.files.sizes import byte_count
from gvbsm.pipeline.tables import format_ipc, format_top1


@dataclass(frozen=True)
class CollectedTeacher:
    """A teacher of a collection.

    Attributes:
        place: Its file, relative to the collection.
        header: The header of its file.
        nbytes: Size of its file.
    """

    place: str
    header: Mapping[str, Any]
    nbytes: int

    @property
    def top1(self) -> float:
        """Accuracy on the test pictures after the last epoch, in percent."""
        return float(self.header["history"]["top1"][-1])


@dataclass(frozen=True)
class CollectedSet:
    """A set of a collection.

    Attributes:
        name: Its folder.
        facts: Its description (`gvbsm.json`), with its texts escaped for Markdown (`quoted`).
        image_bytes: Size of its table of images and hard labels.
        label_bytes: Size of its soft labels; 0 without them.
        teachers: Its teachers.
        origin: The preset of its run, and what was changed.
        config: All settings of its run, with the paths of the machine.
    """

    name: str
    facts: SetDescription
    image_bytes: int
    label_bytes: int
    teachers: Sequence[CollectedTeacher]
    origin: Origin
    config: Mapping[str, Any]


def index_card(sets: Sequence[CollectedSet]) -> str:
    """Write the README of a collection, with the header that the Hub reads.

    Args:
        sets: All sets, in the order of the tables.
    """
    count = sum(item.facts["images"] for item in sets)
    tables = {item.name: str(PurePosixPath(item.name, TABLE)) for item in sets}
    terms = dict.fromkeys(terms_of(item.facts, "the images are derived from") for item in sets)
    sections = [
        hub_head(count, tables),
        "# Distilled sets\n",
        f"{spell_count(len(sets), 'small image set')}, made by gvbsm {__version__} ({PAPER}) to "
        "train networks on in the place of large sets. Each folder has a README with settings, "
        "versions and all accuracies.\n",
        _accuracies(sets),
        _sizes(sets),
        _use(sets[0].name),
        _commands(sets),
        "## Check\n\n`sha256sum --check SHA256SUMS` compares all files.\n",
        "## License\n\n"
        + "\n\n".join(terms)
        + "\n\nFill in `license` above, and in the README of each set.\n",
    ]
    return "\n".join(sections)


def _accuracies(sets: Sequence[CollectedSet]) -> str:
    lines = [
        "## Accuracy",
        "",
        "Top-1 in percent on the real test pictures after the last epoch, mean ± sample deviation "
        "over n students trained from scratch. *Random*: as many random real pictures, with soft "
        "labels of the same teachers. *All pictures*: the whole training set; of a teacher where "
        "no student was trained on it.",
        "",
        "| set | data | images per class | student | this set | random | all pictures |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in sets:
        rows = item.facts["results"]
        for row in rows:
            if row["method"] == item.facts["method"]:
                cells = [
                    f"[{item.name}]({item.name}/README.md)",
                    title_of(item.facts),
                    format_ipc(row),
                    row["student"],
                    f"**{_top1(row)}**",
                    _of(rows, "random-soft", row["student"]) or "not measured",
                    _of(rows, "full", row["student"])
                    or _of(rows, "teacher", row["student"])
                    or "not measured",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _of(rows: Sequence[Mapping[str, Any]], method: str, student: str) -> str:
    """The accuracy of a baseline with the same network; empty if there is none."""
    same = (row for row in rows if (row["method"], row["student"]) == (method, student))
    return next(map(_top1, same), "")


def _top1(row: Mapping[str, Any]) -> str:
    return f"{format_top1(row['top1'])} (n = {len(row['top1']['values'])})"


def _sizes(sets: Sequence[CollectedSet]) -> str:
    lines = [
        "## Sizes",
        "",
        "| set | images | pixels | images on disk | soft labels | teachers |",
        "|---|---|---|---|---|---|",
    ]
    for item in sets:
        side = item.facts["image_size"]
        labels = byte_count(item.label_bytes) if item.label_bytes else "none"
        networks = [
            f"[{escaped(one.header['backbone'])}]({one.place}) ({byte_count(one.nbytes)})"
            for one in item.teachers
        ]
        cells = [
            item.name,
            f"{item.facts['images']:,}",
            f"{side} x {side} x {item.facts['channels']}",
            byte_count(item.image_bytes),
            labels,
            ", ".join(networks) or "none",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _use(name: str) -> str:
    return f"""## Use

```python
import gvbsm

distilled = gvbsm.load("FOLDER/{name}")  # or gvbsm.load("USER/NAME/{name}") from the Hub
distilled.images, distilled.labels  # uint8 (N, C, H, W), int64 (N,)
for batch in distilled.loader():  # a pass is an epoch: views, soft labels, hard labels
    batch.views, batch.logits, batch.labels
```

`python {name}/train_plain.py TEST_PICTURES` trains without gvbsm.
`datasets.load_dataset("FOLDER", "{name}")` reads images and hard labels.
"""


def _commands(sets: Sequence[CollectedSet]) -> str:
    lines = [
        "## Reproduce",
        "",
        "A set's `settings.yaml` holds all settings of its run. On a CPU, the same versions and "
        "number of threads give the same bytes.",
        "",
        "```",
        *(_command(item) for item in sets),
        "```",
        "",
    ]
    for item in sets:
        if item.origin.preset is not None:
            changed = "".join(
                f", {key} {json.dumps(value_at(item.config, key))}"
                for key in item.origin.changed
                if key not in path_settings()
            )
            lines.append(f"- {item.name}: preset `{item.origin.preset}`{escaped(changed)}.")
    return "\n".join([*lines, ""])


def _command(item: CollectedSet) -> str:
    """The command that makes a set again from its settings."""
    words = ["gvbsm", "run", f"{item.name}/settings.yaml", *path_options(item.config)]
    return shlex.join([*words, "--workdir", f"runs/{item.name}"])


def teacher_card(teachers: Sequence[CollectedTeacher], facts: SetDescription) -> str:
    """Write the README of a folder of teachers.

    Args:
        teachers: The teachers of the folder, at least one.
        facts: The description of a set that was made with them, as in `CollectedSet`.
    """
    header = teachers[0].header
    names = ", ".join(map(escaped, header["class_names"][:20]))
    names += ", ..." if len(header["class_names"]) > 20 else ""
    lines = [
        f"# Teachers of {title_of(facts)}",
        "",
        f"Networks that were trained on the real pictures by gvbsm {__version__}. Their statistics "
        "and logits made the distilled set. They classify pictures of "
        f"{header['image_size']} x {header['image_size']} pixels with "
        f"{spell_count(header['channels'], 'channel')} into "
        f"{spell_count(len(header['class_names']), 'class')}: {names}.",
        "",
        "| file | network | top-1 % | best epoch % | epochs | size |",
        "|---|---|---|---|---|---|",
        *map(_teacher_row, teachers),
        "",
        "Top-1 on the real test pictures after the last epoch, of one training each (n = 1); the "
        "best epoch is chosen on the same pictures.",
        "",
        _loading(teachers[0], facts),
        "## Settings",
        "",
        *map(_recipe, teachers),
        "## License",
        "",
        terms_of(facts, "the networks were trained on"),
        "",
    ]
    return "\n".join(lines)


def _teacher_row(teacher: CollectedTeacher) -> str:
    history, name = teacher.header["history"], teacher.place.rpartition("/")[2]
    epochs = str(history["epochs"][-1]) if history["losses"] else "pretrained"
    cells = [
        f"[{name}]({name})",
        escaped(teacher.header["backbone"]),
        f"{teacher.top1:.1f}",
        f"{max(history['top1']):.1f}",
        epochs,
        byte_count(teacher.nbytes),
    ]
    return f"| {' | '.join(cells)} |"


def _loading(teacher: CollectedTeacher, facts: SetDescription) -> str:
    entries = {**teacher.header, "mean": facts["mean"], "std": facts["std"]}
    return f"""## Use

{torch_code(entries, teacher.place.rpartition("/")[2])}
`gvbsm run` takes them in the place of its own with `--squeeze.pretrained true --squeeze.weights_dir
FOLDER`, where FOLDER is this one.
"""


def _recipe(teacher: CollectedTeacher) -> str:
    return (
        f"<details><summary>{escaped(teacher.header['backbone'])}</summary>\n\n"
        f"```yaml\n{format_yaml(dict(teacher.header['recipe']))}```\n\n</details>\n"
    )
