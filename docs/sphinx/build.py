"""Build the documentation site: python docs/sphinx/build.py [OUT], by default build/docs.

1. build/docs-source is made again: the Markdown pages at the places they have in the repository,
   cards of weights among them, a page for each module (from its docstrings), for each tool (its
   ``--help``), and for each file that a page links to.
2. Sphinx turns it into HTML. A warning is an error: a docstring that does not parse, a link or an
   anchor that leads nowhere.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "build" / "docs-source"
PACKAGES = ("gluon_attn", "model_zoo")
CARDS = ROOT / "model_zoo" / "cards"
NEEDED = ("sphinx", "myst_parser", "furo", "sphinx-mathjax-offline")
GUIDES = (
    ("Methods", "vaa awmt icasc dreal autola blocks reid detection keypoints"),
    ("Using it", "data deployment scale analysis weights reliability responsible_use"),
    ("Evidence", "results results_synthetic published"),
    ("Building on it", "architecture"),
)
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
NAME = re.compile(r"`((?:gluon_attn|model_zoo)(?:\.\w+)+)`")


class SiteError(ValueError):
    """What is to be mended before the site can be built."""


def modules():
    """Return ``{dotted name: path}`` of all public modules; recipes are none."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            if not any(part.startswith("_") or part == "recipes" for part in parts):
                found[".".join(parts)] = path
    return found


def write(path, text):
    """Write a page, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def headed(title, body=""):
    """Return a reStructuredText page."""
    return f"{title}\n{'=' * len(title)}\n\n{body}"


def tree(entries, depth=1):
    """Return a reStructuredText table of contents, its entries named by their last part."""
    lines = [f"   {entry.rpartition('.')[2]} <{entry}>\n" for entry in entries]
    return f".. toctree::\n   :maxdepth: {depth}\n\n{''.join(lines)}\n"


def api_page(name, path, names):
    """Return the page of a module; that of a package lists its modules as well."""
    if path.name != "__init__.py":
        return headed(name, f".. automodule:: {name}\n   :members:\n")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    own = [
        node.name
        for node in body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    # Only what is defined in the file: what it imports is documented where it is written.
    members = f"   :members: {', '.join(own)}\n" if own else "   :no-members:\n"
    below = [n for n in names if n.rpartition(".")[0] == name]
    contents = tree(below) if below else ""
    return headed(name, f".. automodule:: {name}\n{members}\n{contents}")


def help_of(tool):
    """Return what ``python tool --help`` prints.

    Raises:
        SiteError: The tool fails, or prints nothing.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(tool), "--help"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:  # a text instead of a number is an error message
        code = stop.code or 0
    finally:
        sys.argv, sys.path[:] = argv, path
    if code or not out.getvalue().strip():
        said = err.getvalue().strip()
        raise SiteError(f"{tool} --help: exit status {code}, no help text. {said}".strip())
    return out.getvalue()


def help_page():
    """Return a page with the help texts of the tools."""
    os.environ["COLUMNS"] = "96"
    parts = []
    for tool in sorted((ROOT / "tools").glob("*.py")):
        text = "".join(f"   {line}\n" if line else "\n" for line in help_of(tool).splitlines())
        title = f"tools/{tool.name}"
        parts.append(f"{title}\n{'-' * len(title)}\n\n.. code-block:: none\n\n{text}\n")
    return headed("Command-line tools", "".join(parts))


def is_on_site(path):
    """Return whether a page or image has on the site the place that it has in the repository."""
    relative = path.relative_to(ROOT)
    return len(relative.parts) == 1 or relative.parts[0] == "docs" or path.parent == CARDS


def hidden_tree(entries, caption=""):
    """Return a Markdown table of contents that a page hides and the side bar shows."""
    lines = "".join(f"{entry}\n" for entry in entries)
    caption = f":caption: {caption}\n" if caption else ""
    return f"```{{toctree}}\n:hidden:\n{caption}\n{lines}```\n"


def card_contents():
    """Return the table of contents of the cards."""
    names = sorted(card.stem for card in CARDS.glob("*.md"))
    return "\n" + hidden_tree(f"/model_zoo/cards/{name}" for name in names)


class Assembly:
    """The source of the site: pages, and the files that they link to."""

    def __init__(self):
        self.modules = modules()
        self.linked = set()

    def relink(self, text, page):
        """Return a page's text with links to files and names of code leading to pages."""
        pieces = FENCE.split(text)
        for place in range(0, len(pieces), 2):
            found = LINK.sub(lambda match: self._target(match, page), pieces[place])
            pieces[place] = NAME.sub(r"{py:obj}`\1`", found)
        return "".join(pieces)

    def _target(self, match, page):
        start, target, anchor, end = match.groups()
        if re.match(r"[a-z]+:", target):
            return match.group(0)
        up = "../" * len(page.relative_to(ROOT).parent.parts)
        return f"{start}{self._goal(target, page, up)}{anchor or ''}{end}"

    def _goal(self, target, page, up):
        """Return where a link of a page leads on the site; ``up`` leads from the page to its top.

        Raises:
            SiteError: It leads nowhere, or out of the repository.
        """
        path = (page.parent / target).resolve()
        if ROOT not in (path, *path.parents) or not path.exists():
            where = "does not exist" if ROOT in path.parents else "is not in the repository"
            raise SiteError(
                f"{page}: the link to {target} leads to {path}, which {where}; link to a file of "
                "the repository, or give the whole address with https:"
            )
        relative = path.relative_to(ROOT)
        if path == ROOT / "README.md":
            return f"{up}index.md"  # the start page
        if path.suffix in (".md", ".png") and is_on_site(path):
            return target
        name = ".".join(relative.with_suffix("").parts)
        name = name[: -len(".__init__")] if name.endswith(".__init__") else name
        if name in self.modules and path.suffix in (".py", ""):
            return f"{up}api/{name}.rst"
        self.linked.add(relative)
        return f"{up}files/{relative.as_posix()}.rst"

    def pages(self):
        """Write the Markdown pages, README.md as the start page, and what they show."""
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *CARDS.glob("*.md")]:
            text = self.relink(page.read_text(encoding="utf-8"), page)
            target = SOURCE / page.relative_to(ROOT)
            if page.name == "README.md":
                target, text = SOURCE / "index.md", text + self.contents()
            elif page == ROOT / "docs" / "weights.md":
                text += card_contents()
            write(target, text)
        shutil.copytree(ROOT / "docs" / "images", SOURCE / "docs" / "images")

    def contents(self):
        """Return the tables of contents of the start page."""
        pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
        listed = set()
        text = "\n"
        for caption, names in GUIDES:
            chosen = [name for name in names.split() if name in pages]
            listed.update(chosen)
            if caption == GUIDES[-1][0]:
                chosen += sorted(pages - listed)  # pages that are new
            text += hidden_tree((f"docs/{name}" for name in chosen), caption) + "\n"
        return text + hidden_tree(("api/index", "tools", "CHANGELOG"), "Reference")

    def api(self):
        """Write a page for each module, one of all of them, and one of the tools."""
        names = list(self.modules)
        for name, path in self.modules.items():
            write(SOURCE / "api" / f"{name}.rst", api_page(name, path, names))
        write(SOURCE / "api" / "index.rst", headed("API", tree(PACKAGES, depth=3)))
        write(SOURCE / "tools.rst", help_page())

    def files(self):
        """Write a page for each file that a page links to."""
        for path in sorted(self.linked):
            below = sorted(p for p in (ROOT / path).glob("*.py")) if (ROOT / path).is_dir() else []
            language = "python" if path.suffix == ".py" else "none"
            page = SOURCE / "files" / f"{path}.rst"
            place = os.path.relpath(ROOT / path, page.parent)
            body = f".. literalinclude:: {place}\n   :language: {language}\n"
            if (ROOT / path).is_dir():
                body = "".join(f"* ``{p.name}``\n" for p in below)
            write(page, ":orphan:\n\n" + headed(str(path), body))


def check_packages():
    """Check that what builds the site is installed.

    Raises:
        SiteError: It is not.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SiteError(
            f"{', '.join(missing)}: not installed; `make docs` does that, or "
            "`python -m pip install -r requirements-docs.txt`"
        )


def main(arguments):
    """Assemble, build, return Sphinx's exit code."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("out", nargs="?", default=ROOT / "build" / "docs", metavar="OUT", type=Path)
    out = flags.parse_args(arguments).out
    check_packages()
    from sphinx.cmd.build import main as sphinx_build

    shutil.rmtree(SOURCE, ignore_errors=True)
    assembly = Assembly()
    assembly.pages()
    assembly.api()
    assembly.files()
    # -E: without the cache of an earlier build, or warnings of unchanged pages would be lost.
    code = sphinx_build(
        ["-W", "--keep-going", "-E", "-q", "-b", "html", "-d", str(SOURCE.parent / "doctrees"),
         "-c", str(HERE), str(SOURCE), str(out)]
    )  # fmt: skip
    if code == 0:
        print(f"{out / 'index.html'}: {len(list(out.rglob('*.html')))} pages, no warning")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SiteError as error:
        sys.exit(f"error: {error}")
