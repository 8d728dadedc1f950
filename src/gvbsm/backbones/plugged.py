"""Networks from the user's own code, and from packages that register theirs.

A package registers a network as an entry point of the group `gvbsm.backbones`; its name is then a
name of a backbone. A network of one's own is `module:attribute` or `file.py:attribute`.

A class or function that builds a network is called by keyword. It takes `classes` or `num_classes`,
the number of logits. `image_size` (pixels) and `channels` are passed if it takes them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from gvbsm.config import ConfigError
from gvbsm.config.errors import fault_of
from gvbsm.engine.progress.spelling import with_article
from gvbsm.files.plugins import is_plugin, plugin, source_digest, taken_names

GROUP = "gvbsm.backbones"


@cache
def registered() -> dict[str, EntryPoint]:
    """Return the networks that installed packages register, by name."""
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {
        name: entry for name, entry in sorted(entries.items()) if re.fullmatch(r"[\w.-]+", name)
    }


def is_plugged(name: str) -> bool:
    """Whether a name is that of the user's own code or of a registered network."""
    return is_plugin(name) or name in registered()


def digest_of(name: str) -> str:
    """Return the SHA-256 of the file that defines a plugged network.

    Raises:
        NotAdmittedError: If it is code that the user has not named.
    """
    return plugin(name).digest if is_plugin(name) else source_digest(_loaded(name), name)


def build_plugged(name: str, classes: int, image_size: int, channels: int) -> nn.Module:
    """Build a plugged network.

    Raises:
        NotAdmittedError: If it is code that the user has not named.
        ConfigError: If it takes other arguments, fails, or builds something else.
    """
    factory = plugin(name).value if is_plugin(name) else _loaded(name)
    sizes = {"classes": classes, "image_size": image_size, "channels": channels}
    given = {key: sizes[key] for key in _taken(factory, name)}
    if "classes" not in given:
        given["num_classes"] = classes
    try:
        model = factory(**given)
    except Exception as error:  # the code of users raises any
        call = ", ".join(f"{key}={value}" for key, value in given.items())
        raise ConfigError(f"{name}({call}) fails: {fault_of(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{name} gives {with_article(type(model).__name__)}, expected a torch.nn.Module"
        )
    return model


def _taken(factory: Callable[..., object], name: str) -> tuple[str, ...]:
    """Names of the sizes that a factory takes; without `classes` it takes `num_classes`."""
    taken = taken_names(factory, ("classes", "num_classes", "image_size", "channels"), name)
    kinds = {parameter.kind for parameter in inspect.signature(factory).parameters.values()}
    if not {"classes", "num_classes"} & {*taken} and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ConfigError(f"{name} takes neither classes nor num_classes, the number of logits")
    if {"classes", "num_classes"} <= {*taken}:
        raise ConfigError(f"{name} takes both classes and num_classes: leave one out")
    return tuple(key for key in taken if key != "num_classes")


def _loaded(name: str) -> Callable[..., object]:
    entry = registered()[name]
    try:
        factory: Callable[..., object] = entry.load()
    except Exception as error:  # the code of packages raises any
        raise ConfigError(
            f"the network {name} of {entry.value} cannot be imported: {fault_of(error)}"
        ) from error
    return factory
