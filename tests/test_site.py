"""The documentation site: it builds without a warning, and its pages hold what they should."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import gvbsm
from gvbsm.cli.help import VERBS
from gvbsm.config import Config
from gvbsm.config.fields import settings_in
from gvbsm.config.preset_files import preset_names

ROOT = Path(__file__).parent.parent
NEEDED = ("sphinx", "myst_parser", "furo")

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, NEEDED)), reason='needs `pip install ".[docs]"`'
)


class Page(HTMLParser):
    """What a page of the site refers to, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors = [], set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes["id"]} if attributes.get("id") else set()
        for name in ("href", "src"):
            if attributes.get(name):
                self.targets.append(attributes[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-n", "-q", "-c", "docs/site", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(folder / "html")]
    built = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_link_of_the_site_leads_somewhere(site, pages):
    """Links to other pages, anchors, files that are offered, styles, scripts and pictures."""
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target in ("#", ""):
                continue
            linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert linked.is_file(), f"{path.relative_to(site)}: {target}"
            if parts.fragment and linked in pages and linked.suffix == ".html":
                anchors = pages[linked].anchors
                assert unquote(parts.fragment) in anchors, f"{path.relative_to(site)}: {target}"


def test_the_site_needs_no_network(pages):
    """Nothing that a page shows or runs is loaded from elsewhere."""
    for path, page in pages.items():
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="([^"]+)"', page.text)
        assert not [url for url in loaded if urlsplit(url).netloc], path.name


def test_every_page_of_the_sources_is_on_the_site(site):
    for source in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]:
        assert (site / source.relative_to(ROOT).with_suffix(".html")).is_file(), source


def test_the_pages_of_settings_and_presets_are_complete(site, pages):
    settings = pages[site / "docs" / "settings.html"].anchors
    for name, _, _ in settings_in(Config()):
        assert name.replace(".", "-").replace("_", "-") in settings, name
    presets = pages[site / "docs" / "presets.html"].anchors
    assert set(preset_names()) <= presets


def test_a_setting_names_the_presets_that_change_it(site, pages):
    text = pages[site / "docs" / "settings.html"].text
    setting = text.partition('id="synthesis-init"')[2].partition("<section")[0]
    assert 'href="presets.html#cifar10-best"' in setting
    assert 'href="presets.html#cifar10"' not in setting  # it has the default, noise


def test_the_page_of_the_command_line_has_the_help_of_every_verb(site, pages):
    page = pages[site / "docs" / "command_line.html"]
    for verb in VERBS:
        assert f"gvbsm-{verb}" in page.anchors
        assert f"usage: gvbsm {verb}" in page.text


def test_the_page_of_python_has_every_public_name(site, pages):
    page = pages[site / "docs" / "api.html"]
    shown = {anchor.rpartition(".")[2] for anchor in page.anchors if anchor.startswith("gvbsm.")}
    assert {*dir(gvbsm)} - {"__version__"} <= shown


def test_formulas_are_mathml(site, pages):
    page = pages[site / "docs" / "method.html"]
    assert page.text.count('display="block"') >= 10
    assert "$$" not in page.text
