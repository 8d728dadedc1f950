"""Help in two levels: the settings that people change, and with `--help all` every setting."""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from gvbsm.config import Config
from gvbsm.config.fields import Description, choices_of, descriptions, kind_in_words
from gvbsm.config.keys import value_at
from gvbsm.config.yaml_files import one_line

VERBS = {
    "run": "run all stages for G-VBSM and its baselines; print the table, write the report",
    "plan": "predict time, memory and disk space of a run, without running it",
    "squeeze": "train the teachers",
    "statistics": "record the teachers' statistics on the real data",
    "synthesis": "optimize the images",
    "labels": "make the soft labels",
    "evaluation": "train students on the images and labels, and test them",
    "continual": "test the image sets in class-incremental learning",
    "rank": "rank networks (--models A,B,C) by the distilled set, and by training on all pictures",
    "report": "write the results, pictures and warnings of a work directory to one HTML file",
    "sweep": "vary settings in a study: a table or figure of the paper, or your own",
    "list": "list the presets, data, networks or studies that a command can name",
    "settings": "print the settings of a run as a YAML file",
    "export": "export a set (pictures, Hugging Face Hub, DD-Ranking, one file) or a network (ONNX)",
    "collect": "collect the sets and teachers of finished runs in a folder to publish",
    "merge": "merge distilled sets of several clients into one",
    "train": "train any network on a distilled set, yours or somebody else's",
    "show": "list the files of a work directory and their state, or print its results",
}
FIRST_WORD = (
    "NAME",
    "a preset (`gvbsm list presets`), a settings file (.yaml), a folder of pictures with one "
    "subfolder per class, or an .npz file; join presets and files by +, as in cifar10+random-soft",
)
EXAMPLE = "--evaluation.students convnet64_d2,wrn16_2 --seed 1"  # settings of a verb
EXAMPLES = {"rank": "--models convnet16_d2,convnet64_d2,wrn16_2"}  # it takes three networks or more
WIDEST = 100  # columns
NAME_WIDTH = 25  # of an option and the space after it

Row = tuple[str, str]  # an option, and its text


def asks_for_help(argv: Collection[str]) -> bool:
    """Whether the arguments of a command ask for its help."""
    return not {"-h", "--help"}.isdisjoint(argv)


def asks_for_all(argv: list[str]) -> bool:
    """Whether they ask for the help of every setting, by `--help all`."""
    return ("--help", "all") in itertools.pairwise(argv)


def verb_help(
    verb: str, options: Iterable[Row], values: Mapping[str, Any], everything: bool
) -> Iterator[str]:
    """Yield the lines of the help of a verb that takes a preset.

    Args:
        verb: The verb.
        options: Its options that are no settings.
        values: The values of all settings if none is given, nested.
        everything: Whether all settings are shown.
    """
    yield from opening(verb, "NAME [--setting value ...]", [FIRST_WORD, *options])
    yield ""
    yield from all_settings(values) if everything else common_settings(values)
    yield ""
    yield f"example: gvbsm {verb} digits {EXAMPLES.get(verb, EXAMPLE)}"
    if not everything:
        yield f"all settings: gvbsm {verb} --help all"
        yield "their values in a preset, as a settings file: gvbsm settings NAME > FILE.yaml"


def opening(verb: str, usage: str, options: Iterable[Row]) -> Iterator[str]:
    """Yield the first lines of a verb's help: how it is written, what it does, its own words.

    Args:
        verb: The verb.
        usage: What follows it.
        options: Its words and its options that are no settings.
    """
    yield f"usage: gvbsm {verb} {usage}"
    yield ""
    yield f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}."
    yield ""
    yield from table(options)


def common_settings(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the help of the settings that people change.

    Args:
        values: The values of all settings if none is given, nested.
    """
    yield "settings that are changed most [kind of value; default]:"
    chosen = [item for item in descriptions(Config()) if item.often_changed]
    yield from table(_row(item, values, brief=True) for item in chosen)


def all_settings(values: Mapping[str, Any] | None, names: Collection[str] = ()) -> Iterator[str]:
    """Yield the help of every setting, by section.

    Args:
        values: As for `common_settings`; None shows none.
        names: Dotted names of the settings and sections to show; none shows all.
    """
    yield f"settings [kind of value{'; default' if values else ''}]:"
    last = ""
    for item in descriptions(Config()):
        if names and not any(f"{item.name}.".startswith(f"{name}.") for name in names):
            continue
        section = item.name.partition(".")[0] if "." in item.name else ""
        if section != last:
            title = str(getattr(Config(), section).__doc__).splitlines()[0].rstrip(".")
            yield f"\n{section}: {title}"
            last = section
        yield from table([_row(item, values)])


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of options with their texts beside them, or below if an option is long."""
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    column = " " * (NAME_WIDTH + 2)
    for option, text in rows:
        lines = textwrap.wrap(
            text,
            max(width, 60),
            initial_indent=column,
            subsequent_indent=column,
            break_on_hyphens=False,
            break_long_words=False,
        )
        if len(option) < NAME_WIDTH:
            lines[0] = f"  {option:{NAME_WIDTH}}{lines[0].lstrip()}"
        else:
            yield f"  {option}"
        yield from lines


def _row(item: Description, values: Mapping[str, Any] | None, brief: bool = False) -> Row:
    """A setting as its option, and its text with what it takes and its value.

    A brief text is the first sentence, and leaves out choices that are many or that it names.
    """
    kind, choices = kind_in_words(item.kind), choices_of(item.kind)
    text = item.text.rstrip(".")
    if brief:
        text = text.partition(". ")[0]
        if "number" not in kind and (len(choices) > 5 or all(choice in text for choice in choices)):
            kind = kind.partition(" of any of ")[0] if "list" in kind else ""
    value = "" if values is None else _as_given(value_at(values, item.name))
    return f"--{item.name}", f"{text} [{'; '.join(filter(None, (kind, value)))}]"


def _as_given(value: Any) -> str:
    """Write a value as an option takes it."""
    if isinstance(value, list | tuple | dict) and not value:
        return "empty"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return one_line(value)
