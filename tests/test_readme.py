"""README and docs: the tree of rooms is the package's; files, links and options exist."""

import ast
import re
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from gvbsm._version import __version__
from gvbsm.config import Config
from gvbsm.config.keys import ENTRY_SETTINGS, entry_path, flatten, table_of

ROOT = Path(__file__).parent.parent
ROOMS = ROOT / "src" / "gvbsm"
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}

SETTINGS = set(flatten(asdict(Config())))
SECTIONS = "|".join({name.split(".")[0] for name in SETTINGS if "." in name})

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

BRITISH = re.compile(
    r"artefact|behaviour|catalogue|centre|colour|defence|favour|\bgrey|labell|learnt|modell"
    r"|(?:optim|normal|serial|initial|synthes|minim|random|summar|recogn)is(?:e|ing|ation)"
    r"|\bdistils?\b",
    re.IGNORECASE,
)


def caption(room):
    """First line of the docstring of a room's `__init__`."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    return docstring.splitlines()[0]


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """Names of the headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def linked_pages(page):
    """The pages that a page links to."""
    targets = re.findall(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)", TEXTS[page])
    return [(page.parent / target).resolve() for target in targets if "://" not in target]


def test_the_tree_of_rooms_has_the_captions_of_the_rooms():
    tree = re.search(r"^```\nsrc/gvbsm/\n(.*?)^```", TEXTS[README], re.DOTALL | re.MULTILINE)[1]
    printed = dict(line.split(maxsplit=1) for line in tree.splitlines())
    rooms = {f"{file.parent.name}/": file.parent for file in ROOMS.glob("*/__init__.py")}
    rooms |= {f"{shelf}/": ROOMS / "method" / shelf for shelf in ("fast", "beyond")}
    assert printed == {name: caption(room) for name, room in rooms.items()}


def test_readme_is_short():
    assert len(TEXTS[README].splitlines()) <= 130


def test_readme_has_the_command_of_the_tests():
    assert 'pip install ".[test]" && pytest -n auto\n' in TEXTS[README]


def test_readme_links_to_the_first_page_and_the_first_page_to_all():
    assert ROOT / "docs" / "index.md" in linked_pages(README)
    top = {page for page in PAGES if page.parent in (ROOT, ROOT / "docs") or page.stem == "index"}
    assert top <= {ROOT / "docs" / "index.md", *linked_pages(ROOT / "docs" / "index.md")}


def test_every_page_of_a_folder_is_linked_from_its_index():
    for page in DOCS:
        if page.parent != ROOT / "docs" and page.stem != "index":
            assert page in linked_pages(page.parent / "index.md"), page.relative_to(ROOT)


def test_every_idea_of_a_later_paper_has_a_page():
    files = {path.stem for path in (ROOMS / "method" / "beyond").glob("*.py")}
    pages = {page.stem for page in DOCS if page.parent.name == "beyond"}
    assert files - {"__init__", "user_term"} <= pages


@each_page
def test_lines_fit_a_screen(page):
    lines = enumerate(TEXTS[page].splitlines(), start=1)
    assert [n for n, line in lines if len(line) > 105] == []


@each_page
def test_spelling_is_american(page):
    assert BRITISH.findall(TEXTS[page]) == []


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", without_code(TEXTS[page])):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.is_file(), target
            if anchor and "<!-- generated: " not in TEXTS[linked]:  # test_site checks these
                assert anchor in anchors(TEXTS[linked]), target


@each_page
def test_files_that_a_page_names_exist(page):
    for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|sh|yaml|md|png|svg))`", TEXTS[page]):
        if name.startswith(("src/", "docs/", "tests/", "examples/", "benchmarks/")):
            assert (ROOT / name).is_file(), name
        elif (ROOMS / name.split("/")[0]).is_dir():
            assert (ROOMS / name).is_file(), name


@each_page
def test_options_that_a_page_names_exist(page):
    options = re.findall(rf"--((?:{SECTIONS})\.[\w.]*\w)", TEXTS[page])
    assert [option for option in options if not is_option(option)] == []


def is_option(name):
    """Whether it is a setting, an entry of a table, or a setting of an entry."""
    table = table_of(name)
    is_part = table is not None and table != name
    of_settings = table in ENTRY_SETTINGS
    return name in SETTINGS or (is_part and (not of_settings or len(entry_path(table, name)) > 1))


@each_page
def test_commands_of_several_lines_can_be_copied(page):
    for block in re.findall(r"^```\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE):
        for line, following in pairwise(block.splitlines()):
            assert not following.startswith("  --") or line.endswith(" \\"), following


def test_the_citation_names_the_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["title"] in TEXTS[README].replace("\n", " ")
