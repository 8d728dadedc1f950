"""The verbs `export`, `collect`, `merge` and `train` of distilled sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gvbsm.cli.help import all_settings, asks_for_help, opening
from gvbsm.cli.lists import with_lists
from gvbsm.cli.parsing import explain, long_option, start_log
from gvbsm.config import Config, ConfigError, DataConfig, EvaluationConfig, LabelsConfig
from gvbsm.config.fields import names_of
from gvbsm.config.keys import fields_by_name

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


SOURCE = (
    "a work directory, an exported set, class folders or an .npz of images, or USER/NAME on the "
    "Hugging Face Hub"
)


def export_verb(argv: list[str]) -> int:
    """Write a set in another form, and push it to the Hub if `--push` is given."""
    if asks_for_help(argv):
        print("\n".join(_export_help()))
        return 0
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="gvbsm export", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("source", type=str)
    parser.add_argument("--to", type=str, required=True)
    parser.add_argument("--out", type=str, required=True)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--soft_labels", type=bool, default=True)
    parser.add_argument("--logit_normalization", type=bool)
    parser.add_argument("--networks", type=str, default="")
    parser.add_argument("--push", type=str)
    parser.add_argument("--quiet", action="store_true")
    parsed = _parse(parser, argv)
    for option, form in (("push", "hub"), ("networks", "onnx")):
        if getattr(parsed, option) and parsed.to != form:
            raise ConfigError(f"--{option} goes with --to {form}, not with --to {parsed.to}")
    start_log(parsed.quiet)
    from gvbsm.exchange.export import export, push
    from gvbsm.files.plugins import admit

    admit(parsed.networks.split(","))
    out = export(
        parsed.source,
        parsed.to,
        parsed.out,
        overwrite=parsed.overwrite,
        soft_labels=parsed.soft_labels,
        logit_normalization=parsed.logit_normalization,
        quiet=parsed.quiet,
    )
    print(out)
    if parsed.push is not None:
        print(push(out, parsed.push))
    return 0


def merge_verb(argv: list[str]) -> int:
    """Merge distilled sets into one."""
    if asks_for_help(argv):
        print("\n".join(_merge_help()))
        return 0
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="gvbsm merge", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("sources", type=str, nargs="+")
    parser.add_argument("--out", type=str, required=True)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--soft_labels", type=bool, default=True)
    parser.add_argument("--quiet", action="store_true")
    parsed = _parse(parser, argv)
    start_log(parsed.quiet)
    from gvbsm.exchange.merge import merge

    options = {name: getattr(parsed, name) for name in ("overwrite", "soft_labels", "quiet")}
    print(merge(parsed.sources, parsed.out, **options))
    return 0


def collect_verb(argv: list[str]) -> int:
    """Collect finished runs in a folder, and push it to the Hub if `--push` is given."""
    if asks_for_help(argv):
        print("\n".join(_collect_help()))
        return 0
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="gvbsm collect", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("workdirs", type=str, nargs="+")
    parser.add_argument("--out", type=str, required=True)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--push", type=str)
    parser.add_argument("--quiet", action="store_true")
    parsed = _parse(parser, argv)
    start_log(parsed.quiet)
    from gvbsm.exchange.collection import collect, push

    out = collect(parsed.workdirs, parsed.out, overwrite=parsed.overwrite, quiet=parsed.quiet)
    print(out)
    if parsed.push is not None:
        print(push(out, parsed.push))
    return 0


def train_verb(argv: list[str]) -> int:
    """Train a network on a distilled set; print its last test accuracy and its file."""
    if asks_for_help(argv):
        print("\n".join(_train_help()))
        return 0
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="gvbsm train", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("distilled", type=str)
    parser.add_argument("--model", type=str, required=True)
    parser.add_argument("--out", type=str)
    parser.add_argument("--quiet", action="store_true")
    _add_settings(parser)
    words = with_lists([long_option(argument) for argument in argv])
    given: dict[str, Any] = _parse(parser, words, defaults=False).as_dict()
    source, model = given.pop("distilled"), given.pop("model")
    out, quiet = given.pop("out", None), bool(given.pop("quiet", False))
    start_log(quiet)
    from gvbsm.exchange.train import train
    from gvbsm.files.network_names import file_name

    history = train(source, model, out, given, quiet)
    top1 = history["top1"]
    accuracy = f"{top1[-1]:.1f} % on the test pictures" if top1 else "not tested"
    print(f"{model}: {accuracy}, loss {history['losses'][-1]:.4g}")
    print(f"weights: {out or f'runs/train/{file_name(model)}'}")
    return 0


def _parse(parser: ArgumentParser, argv: list[str], *, defaults: bool = True) -> Namespace:
    """Parse the command line of a verb.

    Args:
        parser: The verb's parser.
        argv: The words after the verb.
        defaults: Whether options that are not given have their defaults.

    Raises:
        ConfigError: If the command line is faulty.
    """
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(argv, defaults=defaults)
    except ArgumentError as error:
        raise ConfigError(_explain(str(error), parser.prog)) from None


def _export_help() -> Iterator[str]:
    yield from opening(
        "export",
        "SOURCE --to FORM --out PATH [--push USER/NAME]",
        [
            ("SOURCE", f"{SOURCE}; with --to onnx the weights of gvbsm train"),
            ("--to FORM", "folder, hub, dd-ranking or safetensors; onnx for a trained network"),
            ("--out PATH", "the folder, or the .safetensors file, to write"),
            ("--overwrite", "replace an export there"),
            ("--soft_labels", "true or false: export the soft labels (not dd-ranking) [true]"),
            (
                "--logit_normalization",
                "true or false: export the soft labels with logit normalization or those without, "
                "if the set has both",
            ),
            ("--push USER/NAME", "publish it there on the Hugging Face Hub (--to hub)"),
            ("--networks A,B", "your own networks whose code may run (--to onnx)"),
            ("--quiet", "no progress bars and no log"),
        ],
    )
    yield ""
    yield "example: gvbsm export runs/digits --to folder --out digits-distilled"


def _collect_help() -> Iterator[str]:
    yield from opening(
        "collect",
        "WORKDIR ... --out DIR",
        [
            ("WORKDIR", "the work directory of a finished run; its name is that of the set"),
            ("--out DIR", "the folder of all sets and teachers, with an index and checksums"),
            ("--overwrite", "replace a collection there"),
            ("--push USER/NAME", "publish it there on the Hugging Face Hub"),
            ("--quiet", "no progress bars and no log"),
        ],
    )
    yield ""
    yield "example: gvbsm collect runs/digits runs/cifar10 --out SETS"


def _merge_help() -> Iterator[str]:
    yield from opening(
        "merge",
        "SOURCE SOURCE ... --out DIR",
        [
            ("SOURCE", SOURCE),
            ("--out DIR", "the folder of the merged set"),
            ("--overwrite", "replace a merged set there"),
            ("--soft_labels", "true or false: merge the soft labels, which all must have [true]"),
            ("--quiet", "no progress bars and no log"),
        ],
    )
    yield ""
    yield "Classes are matched by name. The merged set has the classes of all sets."
    yield ""
    yield "example: gvbsm merge runs/client1 runs/client2 --out runs/union"


def _train_help() -> Iterator[str]:
    yield from opening(
        "train",
        "DISTILLED --model NETWORK [--setting value ...]",
        [
            ("DISTILLED", SOURCE),
            ("--model NETWORK", "any network that gvbsm run takes as a student, as timm/resnet18"),
            ("--out FILE", "file of the weights; runs/train/NETWORK.safetensors if left out"),
            ("--quiet", "no progress bars and no log"),
        ],
    )
    yield ""
    yield "Settings that are not given are those recorded with the set."
    names = [*names_of(Config(), "read_by_train")]
    for section, settings in (("labels", LabelsConfig()), ("evaluation", EvaluationConfig())):
        names += [f"{section}.{name}" for name in names_of(settings, "read_by_train")]
    yield from all_settings(None, names)
    yield ""
    yield "example: gvbsm train runs/digits --model convnet64_d2 --labels.epochs 50"


def _explain(message: str, program: str) -> str:
    """One line for a fault; names a setting of `gvbsm run` that this verb does not read."""
    name = message.partition("unrecognized arguments: --")[2].split(" ")[0].partition("=")[0]
    if name in fields_by_name():
        return f"the command: {program} does not read {name}"
    return explain(message)


def _add_settings(parser: ArgumentParser) -> None:
    """Add the settings of `gvbsm run` that training reads; the set gives those left out."""
    parser.add_class_arguments(Config, skip=_unread_by_train(Config()) | {"data"})
    parser.add_class_arguments(DataConfig, "data")
    for name, section in (("labels", LabelsConfig), ("evaluation", EvaluationConfig)):
        parser.add_class_arguments(section, name, skip=_unread_by_train(section()))


def _unread_by_train(section: Any) -> set[str]:
    """Names of the settings of a section that training does not read."""
    return {item.name for item in fields(section)} - {*names_of(section, "read_by_train")}
