"""The house rules, read off the source with `ast`: rooms, who may import whom, sizes, words.

A room is a package directly under `gvbsm`. `ALLOWED` says which rooms each may import; within a
room modules may meet, without cycles. `method.beyond` is a room of its own, which `method` never
imports.
"""

import ast
import importlib
import pkgutil
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import gvbsm
from gvbsm.backbones import BACKBONES

ROOT = Path(gvbsm.__file__).parent
TESTS = Path(__file__).parent

ALLOWED = {  # room -> the rooms that it may import
    "config": "_version",
    "engine": "config",
    "files": "_version config engine",
    "backbones": "config engine files",
    "data": "config engine files",
    "method": "config engine data",
    "method.beyond": "config engine data method",
    "store": "_version config engine files backbones data method method.beyond",
    "stages": "config engine files backbones data method method.beyond store",
    "pipeline": "_version config engine files backbones data method method.beyond store stages",
    "studies": "config engine files data store pipeline",
    "exchange": "_version config engine files backbones data method method.beyond store stages "
    "pipeline",
    "reporting": "_version config engine files backbones data method store pipeline studies",
    "api": "config engine files backbones data pipeline exchange reporting",
    "cli": "_version config engine files backbones data store pipeline studies exchange reporting "
    "api",
}
FILES_A_ROOM = 15  # beside `__init__`; a sub-package counts by itself

FILES = sorted(ROOT.rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]
each_file = pytest.mark.parametrize("path", FILES, ids=IDS)


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(path):
    """Name of a file's module without `gvbsm.`; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module):
    """The room of a module, `method.beyond` apart from `method`."""
    return "method.beyond" if f"{module}.".startswith("method.beyond.") else module.split(".")[0]


def unit(path):
    """The room that a file belongs to; of a file beside the rooms its own name."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path):
    """Absolute names of all that a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


MODULES = {dotted(path): path for path in FILES}


@cache
def defining(module, name):
    """The module that a name of `module` is from, through packages that pass it on."""
    if f"{module}.{name}".lstrip(".") in MODULES:
        return f"{module}.{name}".lstrip(".")
    if MODULES[module].stem == "__init__":
        for node in tree(MODULES[module]).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gvbsm"):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return defining(node.module.removeprefix("gvbsm").lstrip("."), alias.name)
    return module


def imported_modules(path):
    """Modules of the package that a file imports, each where the name is defined."""
    modules = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            modules |= {n.removeprefix("gvbsm.") for n in names if n.startswith("gvbsm.")}
        elif isinstance(node, ast.ImportFrom) and re.match(r"gvbsm\b", node.module or ""):
            module = node.module.removeprefix("gvbsm").lstrip(".")
            modules |= {defining(module, alias.name) for alias in node.names}
    return modules - {"", dotted(path)}


def calls(path):
    """Each call as `name` or `.method`, with its node."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield f".{node.func.attr}", node
            elif isinstance(node.func, ast.Name):
                yield node.func.id, node


def functions(path):
    return [
        n for n in ast.walk(tree(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


# Rooms


def test_every_module_is_in_a_room():
    rooms = {room(module) for module in MODULES} - {"", "__main__", "_version"}
    assert rooms == set(ALLOWED), f"enter into ALLOWED, or remove: {sorted(rooms ^ set(ALLOWED))}"
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "__main__", "_version", "api"}


def test_rooms_import_what_they_may():
    forbidden = set()
    for module, path in MODULES.items():
        if module in ("", "__main__", "_version"):
            continue
        allowed = {room(module), *ALLOWED[room(module)].split()}
        forbidden |= {
            (module, other) for other in imported_modules(path) if room(other) not in allowed
        }
    assert forbidden == set()


def test_rooms_are_in_order():
    """Each room imports rooms that stand before it in the table, so that no two need each other."""
    names = ["_version", *ALLOWED]
    for name, others in ALLOWED.items():
        later = {other for other in others.split() if names.index(other) > names.index(name)}
        assert later <= {"stages"} if name == "pipeline" else not later, (name, later)


@each_file
def test_imports_are_absolute(path):
    for node in ast.walk(tree(path)):
        assert not getattr(node, "level", 0), f"{path.name}:{node.lineno}"


def test_no_module_imports_itself_by_way_of_others():
    edges = {
        name: imported_modules(path)
        for name, path in MODULES.items()
        if name not in ("", "__main__")
    }
    while free := [name for name, needed in edges.items() if not needed & edges.keys()]:
        for name in free:
            del edges[name]
    assert not edges, f"a cycle among {sorted(edges)}"


def test_no_stage_imports_a_stage():
    shared = {"supervised", "distilled_training", "judge"}  # trainings, and tests on real pictures
    files = {
        "class_order",
        "divergence",
        "group_files",
        "selection",
        "synthesis_checkpoint",
        "synthesis_task",
    }  # parts of one
    for module, path in MODULES.items():
        name = module.split(".")[1] if module.startswith("stages.") else None
        others = {o.split(".")[1] for o in imported_modules(path) if o.startswith("stages.")}
        if name:
            assert others - {name} - shared - files == set(), module


def test_a_room_has_few_files():
    folders = {}
    for path in FILES:
        if path.stem != "__init__":
            folders.setdefault(path.parent, []).append(path.name)
    too_many = {
        str(f.relative_to(ROOT)): len(n) for f, n in folders.items() if len(n) > FILES_A_ROOM
    }
    assert too_many == {}


@pytest.mark.parametrize("path", sorted((ROOT / "stages").rglob("*.py")), ids=lambda p: p.stem)
def test_a_stage_takes_its_own_section_and_never_all_settings(path):
    taken = {name for name in imports(path) if name.startswith("gvbsm.config.")}
    assert not taken & {"gvbsm.config.Config", "gvbsm.config.build_config"}


# The method


@pytest.mark.parametrize("path", sorted((ROOT / "method").rglob("*.py")), ids=dotted)
def test_the_method_is_mathematics_on_tensors(path):
    for imported in imports(path):
        top = imported.split(".")[0]
        assert top in ("torch", "gvbsm") or top in sys.stdlib_module_names, imported
    forbidden = {"print", "open", ".cuda", ".manual_seed", ".get_rng_state", ".seed", ".barrier"}
    drawn = {".rand", ".randn", ".randint", ".randperm", ".bernoulli", ".multinomial", ".normal"}
    for called, node in calls(path):
        assert called not in forbidden, f"line {node.lineno}: {called}"
        if called in drawn:
            assert "generator" in {word.arg for word in node.keywords}, f"line {node.lineno}"


# One owner for each side effect


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        # backbones: the weights of others, which are no artefacts
        ("safetensors", {"files", "backbones"}),
        ("yaml", {"config"}),
        ("jsonargparse", {"config", "cli"}),
        ("argparse", set()),
        ("matplotlib", {"reporting", "store"}),
        ("timm", {"backbones", "engine"}),
        ("torchvision.models", {"backbones"}),
        ("torchvision.datasets", {"data"}),
        ("datasets", {"data", "exchange"}),
        ("huggingface_hub", {"data", "exchange"}),
        ("pyarrow", {"data", "exchange"}),
        ("onnx", {"exchange"}),
        ("sklearn", {"data", "reporting", "stages"}),
        ("scipy", {"pipeline"}),
        ("jinja2", {"exchange", "reporting"}),
        ("accelerate", {"engine"}),
        # reporting: a moving picture, which matplotlib writes to files that end in .gif alone
        ("PIL", {"data", "exchange", "reporting"}),
    ],
)
def test_a_library_has_one_owner(library, owners):
    found = set()
    for path in FILES:
        named = imports(path) | {
            ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)
        }
        if any(name == library or name.startswith(f"{library}.") for name in named):
            found.add(unit(path))
    assert found <= owners


@pytest.mark.parametrize(
    ("what", "owners"),
    [("print", {"cli"}), (".exit", {"cli"}), ("input", set()), (".manual_seed", {"engine"})],
)
def test_an_effect_has_one_owner(what, owners):
    for path in FILES:
        for called, node in calls(path):
            # a generator of one's own may be seeded anywhere
            own = isinstance(node.func, ast.Attribute) and "Generator" in ast.unparse(node.func)
            if called == what and not own:
                assert unit(path) in owners, f"{path.name}:{node.lineno}"


@each_file
def test_nothing_forbidden(path):
    source = path.read_text(encoding="utf-8")
    loaders = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
    assert not {name.split(".")[0] for name in imports(path)} & loaders
    for called, node in calls(path):
        line = f"{path.name}:{node.lineno}"
        assert called not in ("eval", "exec", ".cuda", ".half_", "__import__"), line
        if isinstance(node.func, ast.Attribute):
            # torchvision's weights are files of torch: one place reads them, as tensors alone;
            # ddranking: another package reads teachers in torch's format alone, none is read here
            function, given = ast.unparse(node.func), {ast.unparse(word) for word in node.keywords}
            allowed = path.name == "weights.py" and "weights_only=True" in given
            assert function != "os.system", line
            assert function != "torch.load" or (unit(path) == "backbones" and allowed), line
            assert function != "torch.save" or path.stem == "ddranking", line
        for word in node.keywords:
            if word.arg == "allow_pickle":
                assert ast.unparse(word.value) == "False", line
    if ".load(" in source and "np.load" in source:
        assert source.count("np.load(") == source.count("allow_pickle=False")
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Global), f"{path.name}:{node.lineno}: global"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "sys.path", f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            fixed = re.match(r"/(home|root|tmp|usr|work|data|mnt)/|[A-Z]:\\", node.value)
            assert not fixed, f"{path.name}:{node.lineno}: an absolute path"


@each_file
def test_names_and_numbers_live_in_one_place(path):
    docstrings = {ast.get_docstring(n, clean=False) for n in [tree(path), *definitions(path)]}
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Constant) or node.value in docstrings:
            continue
        where = f"{path.name}:{node.lineno}: {node.value!r}"
        if unit(path) not in ("backbones", "config") and isinstance(node.value, str):
            assert node.value not in BACKBONES, where
        # ddranking: the constants of another package, whatever ours are
        if path.stem not in ("datasets", "ddranking") and isinstance(node.value, float):
            assert node.value not in (0.485, 0.456, 0.406, 0.4914, 0.4822, 0.4465, 0.5071), where


# Size and words


def definitions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


@each_file
def test_no_file_is_longer_than_400_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400


def test_the_paper_is_short():
    """`beyond` and `fast` are not needed to understand the method, and do not count."""
    files = (ROOT / "method").glob("*.py")
    assert sum(len(path.read_text("utf-8").splitlines()) for path in files) <= 1400


@each_file
def test_no_function_is_longer_than_60_lines(path):
    def length(function):
        first = function.body[0] if ast.get_docstring(function) else function  # docstrings are free
        return (
            function.end_lineno - first.end_lineno
            if first is not function
            else (function.end_lineno - function.lineno + 1)
        )

    lengths = {function.name: length(function) for function in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}


@each_file
def test_no_function_takes_more_than_7_parameters(path):
    """Those that a call passes: without `self`, `*args` and `**kwargs`."""
    for function in functions(path):
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        taken = [name for name in names if name not in ("self", "cls")]
        assert len(taken) <= 7, f"{path.name}:{function.lineno}: {function.name} takes {len(taken)}"


@each_file
def test_the_formatter_formats_all(path):
    assert "fmt: " not in path.read_text(encoding="utf-8")


@each_file
def test_no_file_is_a_drawer(path):
    assert path.stem not in ("utils", "util", "helpers", "common", "misc", "tools")


def public(node, prefix=""):
    """Classes, functions, and methods of classes, that a user may meet."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{child.name}.")


@each_file
def test_everything_public_has_a_docstring_and_types(path):
    assert ast.get_docstring(tree(path))
    for name, node in public(tree(path)):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
            for argument in arguments:
                typed = argument.annotation or argument.arg in ("self", "cls")
                assert typed, f"{name}({argument.arg})"
            assert node.returns is not None, name
        assert ast.get_docstring(node), f"{name} has no docstring"


@pytest.mark.parametrize("name", [name for name in ALLOWED if name != "api"])
def test_every_room_has_its_tests(name):
    assert list((TESTS / name.split(".")[0]).glob("test_*.py"))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.stem)
def test_a_file_of_tests_holds_tests(path):
    assert ast.get_docstring(tree(path))
    names = [f.name for f in functions(path) if f.name.startswith("test_")]
    assert names
    assert len(names) == len(set(names)), "two tests of one name: the first never runs"


# The package


def test_every_module_can_be_imported_and_every_public_name_found():
    for module in pkgutil.walk_packages([str(ROOT)], "gvbsm."):
        if module.name != "gvbsm.__main__":
            importlib.import_module(module.name)
    for name in gvbsm.__all__:
        assert getattr(gvbsm, name) is not None
    assert not hasattr(gvbsm, "no_such_name")
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = gvbsm.no_such_name


def test_no_room_hides_a_public_name():
    """An imported sub-package becomes an attribute of `gvbsm`, before the lazily found name."""
    assert {room(module) for module in MODULES} & set(gvbsm.__all__) == set()


def test_the_package_carries_its_presets_and_types():
    assert (ROOT / "py.typed").is_file()
    assert list((ROOT / "config" / "presets").glob("*.yaml"))
    assert list((ROOT / "studies" / "presets").glob("*.yaml"))
    assert {path.suffix for path in (ROOT / "reporting" / "templates").iterdir()} == {".j2", ".css"}
