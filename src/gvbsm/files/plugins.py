"""Code of users that settings name: `module:attribute` or `path/to/file.py:attribute`.

Code runs only after `admit` has been called with its name, which is done for names in the user's
own settings and on his command line. A name that is read from a file of somebody else, such as the
header of a teacher, is refused by `plugin`.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from gvbsm.config import ConfigError
from gvbsm.config.errors import fault_of
from gvbsm.config.paths import user_path
from gvbsm.engine.progress.spelling import with_article

_IDENTIFIERS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class NotAdmittedError(ValueError):
    """Code that a file names and the user does not."""


@dataclass(frozen=True)
class Plugin:
    """Loaded code.

    Attributes:
        name: Its name in the settings.
        value: The attribute: a class or function.
        digest: SHA-256 of the file that defines it.
    """

    name: str
    value: Any
    digest: str


_ADMITTED: dict[str, Plugin] = {}


def is_plugin(name: str) -> bool:
    """Whether a name is `SOURCE:ATTRIBUTE`."""
    return ":" in name


def admit(names: Iterable[str]) -> None:
    """Load the code that the user names; a file that has changed since is loaded again.

    Args:
        names: Any names; those without a colon are left alone.

    Raises:
        ConfigError: If one cannot be loaded.
    """
    for name in names:
        if is_plugin(name):
            _ADMITTED[name] = _load(name, _ADMITTED.get(name))


def plugin(name: str) -> Plugin:
    """Return admitted code.

    Raises:
        NotAdmittedError: If the name was not admitted.
    """
    if name not in _ADMITTED:
        raise NotAdmittedError(
            f"the code of {name} is not run, since a file names it and not your own settings or "
            "command; name it there if you trust it"
        )
    return _ADMITTED[name]


def source_digest(value: Any, where: str) -> str:
    """Return the SHA-256 of the file that defines a class or function.

    A class of a notebook has no file: its cell is taken.

    Raises:
        ConfigError: If there is no source.
    """
    return hashlib.sha256(_source(value, where)).hexdigest()


def called_by_name(name: str, offered: Iterable[str]) -> Callable[..., Any]:
    """Return an admitted function that may be called with more keywords than it takes.

    Raises:
        NotAdmittedError: If it was not admitted.
        ConfigError: If it needs other arguments.
    """
    function = plugin(name).value
    names = taken_names(function, offered, name)
    return lambda **given: function(**{key: given[key] for key in names})


def taken_names(
    function: Callable[..., Any], offered: Iterable[str], where: str
) -> tuple[str, ...]:
    """Return the names among `offered` that a function takes as keywords.

    Raises:
        ConfigError: If it needs others, or its signature is not known.
    """
    offered = tuple(offered)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ConfigError(f"{where} is no function or class with a signature") from None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in variable]
    others = [p.name for p in needed if p.name not in offered or p.kind not in named]
    if others:
        raise ConfigError(
            f"{where} needs the argument(s) {', '.join(others)}; it is given those of "
            f"{', '.join(offered)} that it takes by name"
        )
    return tuple(p.name for p in parameters if p.name in offered and p.kind in named)


def _load(name: str, known: Plugin | None) -> Plugin:
    source, _, attribute = name.rpartition(":")
    if not source or not _IDENTIFIERS.fullmatch(attribute):
        raise ConfigError(f"{name} should be module:attribute or path/to/file.py:attribute")
    if source.endswith(".py"):
        return _from_file(name, user_path(source), attribute, known)
    if not _IDENTIFIERS.fullmatch(source):
        raise ConfigError(f"{name}: {source} is neither the name of a module nor a .py file")
    value = _attribute(_imported(name, lambda: import_module(source)), attribute, name)
    if known is not None and known.value is value:
        return known  # its file may be newer than what is loaded
    return Plugin(name, value, source_digest(value, name))


def _from_file(name: str, path: Path, attribute: str, known: Plugin | None) -> Plugin:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be read ({error.strerror or error})") from None
    digest = hashlib.sha256(content).hexdigest()
    if known is not None and known.digest == digest:
        return known
    module_name = f"gvbsm_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = spec_from_loader(module_name, _Loader(module_name, path, content), origin=str(path))
    assert spec is not None

    def execute() -> ModuleType:
        module = module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses and inspect look there
        assert spec.loader is not None
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
        return module

    linecache.checkcache(str(path))
    return Plugin(name, _attribute(_imported(name, execute), attribute, name), digest)


class _Loader(SourceFileLoader):
    """Loads exactly the bytes whose digest was taken; writes no cache beside the file."""

    def __init__(self, name: str, path: Path, content: bytes) -> None:
        super().__init__(name, str(path))
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self._content, self.path)
        return code


def _imported(name: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except (Exception, SystemExit) as error:  # the code of users raises any
        raise ConfigError(f"{name} cannot be imported: {fault_of(error)}") from error


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    value: Any = module
    for step in attribute.split("."):
        if not hasattr(value, step):
            items = vars(module).items()
            known = sorted(key for key, item in items if callable(item) and key[0] != "_")[:8]
            raise ConfigError(f"{name}: there is no {attribute}; it has {', '.join(known)}")
        value = getattr(value, step)
    if not callable(value):
        kind = with_article(type(value).__name__)
        raise ConfigError(f"{name} is {kind}: expected a class or a function")
    return value


def _source(value: Any, where: str) -> bytes:
    value = inspect.unwrap(value)
    try:
        file = inspect.getsourcefile(value)
    except TypeError:
        file = None
    if file is not None and Path(file).is_file():
        return Path(file).read_bytes()
    functions = [value] if isinstance(value, FunctionType) else [*vars(value).values()]
    for function in functions:
        if isinstance(function, FunctionType):
            lines = linecache.getlines(function.__code__.co_filename)
            if lines:
                return "".join(lines).encode()
    raise ConfigError(f"{where} has no source that can be read; put it into a .py file")
