"""Settings of Sphinx for the documentation site: `make docs` builds it.

The source folder is the root of the repository, so that links between Markdown files are the same
on the site and on a plain Git host. `pages.py` fills the pages that are generated, and derives the
navigation from the index pages. `mathml.py` writes formulas as MathML.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from gvbsm._version import __version__

project = "gvbsm"
version = release = __version__
project_copyright = "the authors of gvbsm"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "pages"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = ["*.md", "docs/**"]
exclude_patterns = ["docs/site", "build", "dist", "runs", "src", "tests", "examples", "benchmarks"]
exclude_patterns += [".*", "*.egg-info"]

# Markdown
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
highlight_language = "text"
default_role = "code"  # docstrings have `names` in single backticks

# Docstrings
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # else attributes of named tuples stand there twice
nitpick_ignore_regex = [
    # Types in signatures outside gvbsm: their inventories would have to be downloaded.
    ("py:.*", r"(?!gvbsm\b).*"),
    # Types that have no page: those of sections have the page of settings, the others are internal.
    ("py:class", r"gvbsm\.(config|data|engine|store)\..*"),
]

# Pages
html_theme = "furo"
html_title = f"gvbsm {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "to_first_page.html"}  # the first page is docs/index.html
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}
