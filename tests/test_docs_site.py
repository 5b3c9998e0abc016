"""The documentation site: what it is made of; the build itself is a slow test (needs Sphinx)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "docs" / "sphinx" / "build.py"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("site_build", BUILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_module_has_a_page(build):
    names = build.modules()
    assert {"gluon_attn", "gluon_attn.papers.vaa", "gluon_attn.papers.autola", "model_zoo"} <= set(
        names
    )
    assert not [name for name in names if "._" in name]
    # A folder without __init__.py would leave its modules out of every table of contents.
    assert not [name for name in names if "." in name and name.rpartition(".")[0] not in names]


def test_a_package_lists_its_modules_and_repeats_none_of_their_members(build):
    names = build.modules()
    page = build.api_page("gluon_attn.data", names["gluon_attn.data"], list(names))
    assert ":members: detect_kind, open_dataset\n" in page
    assert "   peta <gluon_attn.data.peta>\n" in page and "autola" not in page
    module = build.api_page("gluon_attn.batch", names["gluon_attn.batch"], list(names))
    assert module.endswith(".. automodule:: gluon_attn.batch\n   :members:\n")


def test_links_lead_to_pages_of_the_site(build):
    assembly = build.Assembly()
    page = ROOT / "docs" / "vaa.md"
    text = (
        "[a](../gluon_attn/papers/vaa.py) [b](../tools/recipes/vaa_wider_resnet101.py) "
        "[c](data.md#digits) [d](https://x.org/a.py) `gluon_attn.batch.Batch`\n"
        "```python\n`gluon_attn.batch` [e](../setup.py)\n```\n"
    )
    made = assembly.relink(text, page)
    assert "[a](../api/gluon_attn.papers.vaa.rst)" in made
    assert "[b](../files/tools/recipes/vaa_wider_resnet101.py.rst)" in made
    assert "[c](data.md#digits) [d](https://x.org/a.py)" in made
    assert "{py:obj}`gluon_attn.batch.Batch`" in made
    assert "`gluon_attn.batch` [e](../setup.py)" in made  # code stays as it is
    assert [path.name for path in assembly.linked] == ["vaa_wider_resnet101.py"]
    top = assembly.relink("[f](gluon_attn/papers/vaa.py)", ROOT / "README.md")
    assert top == "[f](api/gluon_attn.papers.vaa.rst)"


def test_every_page_is_in_the_side_bar(build):
    text = build.Assembly().contents()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"\ndocs/{page.stem}\n" in text


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    for name in ("sphinx", "myst_parser", "furo", "sphinx-mathjax-offline"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: make docs installs it")
    done = subprocess.run(
        [sys.executable, str(BUILD), str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "docs" / "vaa.html").read_text(encoding="utf-8")
    assert "../api/gluon_attn.papers.vaa.html" in page and "mathjax/tex-chtml.js" in page
    assert (tmp_path / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert "https://cdn" not in page  # nothing is fetched from elsewhere
