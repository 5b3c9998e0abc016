"""Build the documentation site: ``python docs/sphinx/build.py [OUT]``, by default build/docs.

1. build/docs-source is made anew: the Markdown pages at the places they have in the repository, a
   page for each module (from its docstrings), for each tool (its ``--help``), and for each file
   that a page links to.
2. Sphinx turns it into HTML. A warning is an error: a docstring that does not parse, a link or an
   anchor that leads nowhere.
"""

from __future__ import annotations

import ast
import contextlib
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
GUIDES = (
    ("Methods", "vaa awmt icasc dreal autola blocks reid detection keypoints"),
    ("Using it", "data deployment analysis weights responsible_use"),
    ("Evidence", "results published"),
    ("Building on it", "architecture"),
)
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
NAME = re.compile(r"`((?:gluon_attn|model_zoo)(?:\.\w+)+)`")


def modules():
    """Return ``{dotted name: path}`` of all public modules."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            if not any(part.startswith("_") for part in parts):
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
    """Return what ``python tool --help`` prints."""
    out, argv, path = io.StringIO(), sys.argv, list(sys.path)
    sys.argv = [str(tool), "--help"]
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, path
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
        path = (page.parent / target).resolve()
        if re.match(r"[a-z]+:", target):
            return match.group(0)
        relative = path.relative_to(ROOT)
        on_site = len(relative.parts) == 1 or relative.parts[0] == "docs"
        if path.suffix in (".md", ".png") and on_site:
            return match.group(0)
        if path.suffix == ".py" and relative.parts[0] in PACKAGES:
            goal = "api/" + ".".join(relative.with_suffix("").parts) + ".rst"
            goal = goal.replace(".__init__.rst", ".rst")
        elif path.is_dir() and relative.parts[0] in PACKAGES:
            goal = "api/" + ".".join(relative.parts) + ".rst"
        else:
            self.linked.add(relative)
            goal = f"files/{relative.as_posix()}.rst"
        up = "../" * len(page.relative_to(ROOT).parent.parts)
        return f"{start}{up}{goal}{anchor or ''}{end}"

    def pages(self):
        """Write the Markdown pages, README.md as the start page, and what they show."""
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
            text = self.relink(page.read_text(encoding="utf-8"), page)
            target = SOURCE / page.relative_to(ROOT)
            if page.name == "README.md":
                target, text = SOURCE / "index.md", text + self.contents()
            # Links to README.md lead to the start page, which has another name here.
            write(target, text.replace("](../README.md", "](../index.md"))
        shutil.copytree(ROOT / "docs" / "images", SOURCE / "docs" / "images")

    def contents(self):
        """Return the table of contents that the start page hides and the side bar shows."""
        pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
        listed = set()
        text = "\n"
        for caption, names in GUIDES:
            chosen = [name for name in names.split() if name in pages]
            listed.update(chosen)
            if caption == GUIDES[-1][0]:
                chosen += sorted(pages - listed)  # pages that are new
            entries = "".join(f"docs/{name}\n" for name in chosen)
            text += f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}```\n\n"
        reference = "api/index\ntools\nCHANGELOG\n"
        return f"{text}```{{toctree}}\n:hidden:\n:caption: Reference\n\n{reference}```\n"

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


def main(arguments):
    """Assemble, build, return Sphinx's exit code."""
    from sphinx.cmd.build import main as sphinx_build

    out = Path(arguments[0]) if arguments else ROOT / "build" / "docs"
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
    sys.exit(main(sys.argv[1:]))
