"""Print the shape of the package: rooms, imports between them, floors, lines, long signatures.

    python tests/house.py [CHECKOUT]

A room is a package or a module directly under `gvbsm`. An arrow is an import, drawn to the module
that defines the imported name. Floors are the modules on the longest chain of imports.
"""

import ast
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PARAMETERS = 7
LINES = 400


@cache
def tree(path):
    """Parse a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def lines(path):
    """Count the lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


class Package:
    """The modules of a package, by their names without that of the package."""

    def __init__(self, root):
        self.name = root.name
        self.files = {}
        for path in sorted(root.rglob("*.py")):
            dotted = ".".join(path.relative_to(root).with_suffix("").parts)
            self.files[dotted.removesuffix("__init__").rstrip(".")] = path

    def inner(self, imported):
        """Strip the package's name off an absolute name; None if the name is of another package."""
        if imported == self.name or f"{imported}.".startswith(f"{self.name}."):
            return imported.removeprefix(self.name).lstrip(".")
        return None

    def imported_names(self, module):
        """Yield (module, name, local name) of each name that is imported from the package."""
        for node in ast.walk(tree(self.files[module])):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if self.inner(alias.name):
                        yield self.inner(alias.name), None, None
            elif isinstance(node, ast.ImportFrom):
                source = self.inner(node.module or "")
                if source is not None:
                    for alias in node.names:
                        yield source, alias.name, alias.asname or alias.name

    def defining(self, module, name):
        """Return the module that defines a name, following packages that re-export it."""
        if name is None:
            return module
        submodule = f"{module}.{name}".lstrip(".")
        if submodule in self.files:
            return submodule
        if self.files[module].stem == "__init__":
            for source, original, local in self.imported_names(module):
                if local == name:
                    return self.defining(source, original)
        return module

    def imports(self):
        """Map each module to the modules that it imports."""
        graph = {}
        for module in self.files:
            if module in ("", "__main__"):
                continue
            names = self.imported_names(module)
            graph[module] = {self.defining(source, name) for source, name, _ in names}
            graph[module] -= {"", module}
        return graph

    def wide_functions(self):
        """Yield (module, function, parameters) where there are more than `PARAMETERS`."""
        for module, path in self.files.items():
            for node in ast.walk(tree(path)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    arguments = node.args
                    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                    count = sum(argument.arg not in ("self", "cls") for argument in named)
                    if count > PARAMETERS:
                        yield module, node.name, count


def longest_chain(graph):
    """Return the nodes of the longest chain of imports, or the circle that there is."""
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return "circle", error.args[1]
    chains = {}
    for node in order:
        below = max((chains[other] for other in sorted(graph.get(node, ()))), key=len, default=[])
        chains[node] = [*below, node]
    return "chain", max(chains.values(), key=len)


def between_rooms(graph):
    """Merge the modules of each room: the rooms that each room imports."""
    rooms = {}
    for module, others in graph.items():
        room = module.split(".")[0]
        rooms.setdefault(room, set()).update({other.split(".")[0] for other in others} - {room})
    return rooms


def report(checkout):
    """Yield the lines that the module's docstring names, for the checkout at a path."""
    package = Package(checkout / "src" / "gvbsm")
    tests = sorted((checkout / "tests").rglob("*.py"))
    graph = package.imports()
    rooms = between_rooms(graph)
    yield f"{len(rooms):6,}  rooms at the top"
    yield f"{len(graph):6,}  modules"
    for title, arrows in (("modules", graph), ("rooms", rooms)):
        kind, chain = longest_chain(arrows)
        yield f"{sum(map(len, arrows.values())):6,}  arrows between {title}"
        floors = f"{len(chain):6,}  floors of" if kind == "chain" else "    no  floors, a circle of"
        yield f"{floors} {title}: {' > '.join(reversed(chain))}"
    yield f"{sum(map(lines, package.files.values())):6,}  lines of src"
    yield f"{sum(map(lines, tests)):6,}  lines of tests"
    wide = sorted(package.wide_functions(), key=lambda function: -function[2])
    yield f"{len(wide):6,}  functions with more than {PARAMETERS} parameters"
    yield from (f"{count:11} {module}.{name}" for module, name, count in wide)
    long = [path for path in [*package.files.values(), *tests] if lines(path) > LINES]
    yield f"{len(long):6,}  files over {LINES} lines"
    yield from (f"{lines(path):11} {path.relative_to(checkout)}" for path in long)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent
    for line in report(Path(sys.argv[1]) if sys.argv[1:] else here):
        sys.stdout.write(f"{line}\n")
