"""The verbs `export` and `train`: write a distilled set in another form, train on one."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gvbsm.cli.lists import with_lists
from gvbsm.cli.parsing import explain, long_option, start_log
from gvbsm.config import Config, ConfigError, DataConfig, EvaluationConfig, LabelsConfig
from gvbsm.config.fields import names_of
from gvbsm.config.keys import fields_by_name

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def export_verb(argv: list[str]) -> int:
    """Write a set in another form, and push it to the Hub if `--push` is given."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(prog="gvbsm export", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("source", type=str, help="a work directory, or what gvbsm.load takes")
    parser.add_argument(
        "--to", type=str, help="folder, hub, dd-ranking or safetensors", required=True
    )
    parser.add_argument("--out", type=str, help="the folder or .safetensors file", required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace an export there")
    parser.add_argument(
        "--soft_labels",
        type=bool,
        default=True,
        help="export the soft labels too (all but dd-ranking)",
    )
    parser.add_argument(
        "--logit_normalization",
        type=bool,
        help="which soft labels: with logit normalization (true) or without",
    )
    parser.add_argument("--push", type=str, help="user/name on the Hugging Face Hub (hub)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no log")
    try:
        parsed = parser.parse_args(argv)
    except ArgumentError as error:
        raise ConfigError(_explain(str(error), parser.prog)) from None
    except SystemExit as leaving:
        return int(leaving.code or 0)
    if parsed.push is not None and parsed.to != "hub":
        raise ConfigError(f"--push goes with --to hub, not with --to {parsed.to}")
    start_log(parsed.quiet)
    from gvbsm.exchange.export import export, push

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


def train_verb(argv: list[str]) -> int:
    """Train a network on a distilled set; print its last test accuracy and its file."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(prog="gvbsm train", exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "distilled", type=str, help="a work directory, an exported set, or user/name on the Hub"
    )
    parser.add_argument(
        "--model", type=str, help="as students of gvbsm run: timm/resnet18", required=True
    )
    parser.add_argument("--out", type=str, help="file of the weights; runs/train/MODEL.safetensors")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no log")
    _add_settings(parser)
    try:
        parsed = parser.parse_args(
            with_lists([long_option(argument) for argument in argv]), defaults=False
        )
    except ArgumentError as error:
        raise ConfigError(_explain(str(error), parser.prog)) from None
    except SystemExit as leaving:
        return int(leaving.code or 0)
    given: dict[str, Any] = parsed.as_dict()
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
