"""The house rules (docs: "The house"), read off the source with `ast`.

A module belongs to a layer and imports lower ones; siblings may meet, without cycles, in the layers
that allow it. A new module is entered into `LAYERS` once, with a thought about where it stands.
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

LAYERS = (
    "moments losses views compression averaging muon _version",  # 0: the mathematics
    # 1: registries
    "defaults config paths launch locks manifest pictures classes reading normalization sources "
    "folders arrays shards hub hub_files hub_tables hub_sets torchvision_sets "
    "unreadable datasets backbones",
    # 2: ground
    "jsontext schema drafts artifacts checkpoint replacing "
    "settings rows labelstore distilled plain_sets runtime memory tracking training loading "
    "workers teachers features film groups class_order observe targets epochs descent workspace "
    "studies choices origin sharing exchange processes replicas teamwork divergence "
    "unfinished starts beyond dropping limits names ensemble optimizers",
    "squeeze statistics synthesis labels evaluation coreset forgetting",  # 3: stages
    # 4: what the pipeline is put together from
    "plots recipes preflight results performance",
    # 5: a stage's work for the pipeline, which finds and keeps what it needs; results side by side
    "selection comparison samples places students card ddranking student",
    "pipeline show bench analysis exports",  # 6
    # 7: a protocol that is put together from a run's stages; the page that tells of all
    "continual reporting sweeping",
    "cli",  # 8
    "__main__ __init__",  # 9: entrances; __init__ resolves names when they are first used
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}
SIBLINGS = {0, 1, 2}
STAGES = LAYERS[3].split()

FILES = sorted(ROOT.rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]
each_file = pytest.mark.parametrize("path", FILES, ids=IDS)


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def unit(path):
    """The part of the house that a file belongs to: a module, or the package of backbones."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def dotted(path):
    parts = ("gvbsm", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Absolute names of all that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(path):
    """The parts of the house that a file imports, without its own."""
    own = {name.split(".")[1] for name in imports(path) if re.match(r"gvbsm\.\w", name)}
    return {name for name in own if name in LAYER or (ROOT / f"{name}.py").exists()} - {unit(path)}


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


# Layers


def test_every_module_has_its_layer():
    units = {unit(path) for path in FILES}
    assert units == set(LAYER), f"enter into LAYERS, or remove: {sorted(units ^ set(LAYER))}"


@each_file
def test_imports_point_down(path):
    if unit(path) in ("__init__", "__main__"):
        return
    here = LAYER[unit(path)]
    for name in own_imports(path):
        below = LAYER[name] < here or (LAYER[name] == here and here in SIBLINGS)
        assert below, f"{unit(path)} (layer {here}) imports {name} (layer {LAYER[name]})"


@each_file
def test_imports_are_absolute(path):
    for node in ast.walk(tree(path)):
        assert not getattr(node, "level", 0), f"{path.name}:{node.lineno}"


def test_no_module_imports_itself_by_way_of_others():
    modules = {dotted(path): path for path in FILES}
    edges = {
        name: {
            found
            for imported in imports(path)
            for found in (imported, imported.rpartition(".")[0])
            if found in modules and found not in (name, "gvbsm")
        }
        for name, path in modules.items()
        if name not in ("gvbsm", "gvbsm.__main__")
    }
    while free := [name for name, needed in edges.items() if not needed & edges.keys()]:
        for name in free:
            del edges[name]
    assert not edges, f"a cycle among {sorted(edges)}"


def test_stages_are_imported_by_what_runs_them_alone():
    """The bench times stages as they are, each by itself: a pipeline would hide what one costs.

    A student of anyone's set shares evaluation's loop, and has neither work directory nor teachers;
    samples takes from `coreset` how real pictures are drawn.
    """
    importers = {unit(path) for path in FILES if own_imports(path) & set(STAGES)}
    named = {"pipeline", "bench", "continual", "selection", "samples", "students", "student"}
    assert importers == named


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_its_own_section_and_never_all_settings(stage):
    taken = {name for name in imports(ROOT / f"{stage}.py") if name.startswith("gvbsm.config.")}
    assert not taken & {"gvbsm.config.Config", "gvbsm.config.build_config"}


# Layer 0


@pytest.mark.parametrize("name", LAYERS[0].split())
def test_the_mathematics_is_pure(name):
    path = ROOT / f"{name}.py"
    for imported in imports(path):
        top = imported.split(".")[0]
        assert top in ("torch", "gvbsm") or top in sys.stdlib_module_names, imported
    forbidden = {"print", "open", ".cuda", ".cpu", ".manual_seed", ".get_rng_state", ".seed"}
    drawn = {".rand", ".randn", ".randint", ".randperm", ".bernoulli", ".multinomial", ".normal"}
    for called, node in calls(path):
        assert called not in forbidden, f"line {node.lineno}: {called}"
        if called in drawn:
            assert "generator" in {word.arg for word in node.keywords}, f"line {node.lineno}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            assert not any(ast.unparse(base).endswith("Module") for base in node.bases)


# One owner for each side effect


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        # backbones: the weights of others, which are no artefacts
        ("safetensors", {"artifacts", "backbones"}),
        ("yaml", {"settings"}),
        ("jsonargparse", {"settings", "cli"}),
        ("argparse", set()),
        ("matplotlib", {"plots"}),
        ("timm", {"backbones"}),
        ("torchvision.models", {"backbones"}),
        ("torchvision.datasets", {"sources", "arrays", "torchvision_sets"}),
        ("datasets", {"hub", "hub_files", "hub_tables", "hub_sets"}),
        ("huggingface_hub", {"hub", "hub_files"}),
        ("pyarrow", {"hub", "hub_tables", "hub_sets"}),
        ("sklearn", {"sources", "analysis"}),
        ("jinja2", {"reporting"}),
        ("accelerate", {"tracking"}),
        # plots: a moving picture, which matplotlib writes to files that end in .gif alone
        # shards, hub, torchvision_sets, exchange: they open what read_image reads
        ("PIL", {"pictures", "shards", "hub_sets", "torchvision_sets", "exchange", "plots"}),
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
    [("print", {"cli"}), (".exit", {"cli"}), ("input", set()), (".manual_seed", {"runtime"})],
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
            assert function != "torch.save" or unit(path) == "ddranking", line
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
        if unit(path) not in ("datasets", "ddranking") and isinstance(node.value, float):
            assert node.value not in (0.485, 0.456, 0.406, 0.4914, 0.4822, 0.4465, 0.5071), where


# Size and words


def definitions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


@each_file
def test_no_file_is_longer_than_400_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400


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


@pytest.mark.parametrize("name", sorted(name for name in LAYER if not name.startswith("_")))
def test_every_module_has_its_tests(name):
    assert (TESTS / f"test_{name}.py").is_file()


@pytest.mark.parametrize("path", sorted(TESTS.glob("test_*.py")), ids=lambda path: path.stem)
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


def test_the_package_carries_its_presets_and_types():
    assert (ROOT / "py.typed").is_file()
    assert list((ROOT / "presets").rglob("*.yaml"))
    assert {path.suffix for path in (ROOT / "templates").iterdir()} == {".j2", ".css"}
