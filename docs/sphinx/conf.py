"""Settings of the documentation site; ``make docs`` builds it (see build.py beside this file)."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
import gluon_attn  # noqa: E402  (prepares the environment before any page loads MXNet)

project = "gluon_attn"
author = "the gluon_attn contributors"
copyright = author
version = release = gluon_attn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
highlight_language = "none"  # blocks without a language are layouts and file contents
default_role = None
nitpicky = False  # MXNet, which most signatures name, publishes no inventory any more

autodoc_default_options = {"show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "none"  # shapes, types and ranges are in the docstrings
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = False
myst_update_mathjax = False
suppress_warnings = ["myst.header"]  # pages whose first heading comes from an included file

# MathJax from its Python package, and of it only what is needed: pages work without a network.
_package = importlib.util.find_spec("sphinx-mathjax-offline")
if _package is None:
    raise ImportError(
        "sphinx-mathjax-offline is not installed: python -m pip install -r requirements-docs.txt"
    )
_mathjax = Path(_package.origin).parent / "static" / "mathjax"
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"tex": {"inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]]}}

html_theme = "furo"
html_title = f"gluon_attn {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["site.css"]


def _copy_mathjax(app, error):
    from sphinx.util.fileutil import copy_asset

    if error is None and app.builder.format == "html":
        target = Path(app.outdir, "_static", "mathjax")
        copy_asset(str(_mathjax / "tex-chtml.js"), str(target))
        fonts = Path("output", "chtml", "fonts", "woff-v2")
        copy_asset(str(_mathjax / fonts), str(target / fonts))


def _show_layouts(app, what, name, obj, options, lines):
    """Mark indented passages (file layouts, formulas in letters) as text to be shown as it is."""
    last, inside, out = "", False, []
    for line in lines:
        inside = inside and (line.startswith("    ") or not line.strip())
        begins = line.startswith("    ") and out and not out[-1].strip()
        if begins and last and last[0] not in " .*-=" and not last.endswith("::"):
            out += ["::", ""]
            inside = True
        last = line if line.strip() else last
        out.append(line.replace("``", "").replace("**", "") if inside else line)
    lines[:] = out


def setup(app):
    """Connect the hooks; docstrings are seen before napoleon turns their sections into fields."""
    app.connect("autodoc-process-docstring", _show_layouts, priority=400)
    app.connect("build-finished", _copy_mathjax)
