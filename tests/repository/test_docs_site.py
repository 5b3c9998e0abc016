"""The documentation site: what it is made of; the build itself is a nightly test (needs Sphinx)."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
from process_helpers import run

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "docs" / "sphinx" / "build.py"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("site_build", BUILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_module_has_a_page(build):
    names = build.modules()
    some = {"gluon_attn", "gluon_attn.papers.vaa.method", "gluon_attn.papers.autola", "model_zoo"}
    assert some <= set(names)
    assert not [name for name in names if "._" in name]
    # A folder without __init__.py would leave its modules out of every table of contents.
    assert not [name for name in names if "." in name and name.rpartition(".")[0] not in names]
    page = build.api_page("gluon_attn.data", names["gluon_attn.data"], list(names))
    assert ":members: detection_order, detect_kind, open_dataset\n" in page
    assert "   peta <gluon_attn.data.peta>\n" in page and "autola" not in page
    module = build.api_page("gluon_attn.core.batch", names["gluon_attn.core.batch"], list(names))
    assert module.endswith(".. automodule:: gluon_attn.core.batch\n   :members:\n")


def test_links_lead_to_pages_of_the_site(build):
    assembly = build.Assembly()
    for source, text, expected in (
        ("docs/vaa.md", "[a](../gluon_attn/papers/vaa/method.py)",
         "[a](../api/gluon_attn.papers.vaa.method.rst)"),
        ("docs/vaa.md", "[b](../gluon_attn/recipes/vaa_wider.py)",
         "[b](../files/gluon_attn/recipes/vaa_wider.py.rst)"),
        ("docs/vaa.md", "[c](data.md#digits) [d](https://x.org/a.py)", None),
        ("docs/vaa.md", "`gluon_attn.core.batch.Batch`", "{py:obj}`gluon_attn.core.batch.Batch`"),
        ("docs/vaa.md", "```python\n`gluon_attn.core.batch` [e](../setup.py)\n```\n", None),  # code
        ("README.md", "[f](gluon_attn/papers/vaa/method.py)",
         "[f](api/gluon_attn.papers.vaa.method.rst)"),
        ("docs/data.md", "[a](../README.md#b) [c](vaa.md)", "[a](../index.md#b) [c](vaa.md)"),
    ):  # fmt: skip
        assert assembly.relink(text, ROOT / source) == (expected or text)
    assert [path.name for path in assembly.linked] == ["vaa_wider.py"]
    contents = assembly.contents()
    assert all(f"\ndocs/{page.stem}\n" in contents for page in (ROOT / "docs").glob("*.md"))


def test_cards_of_weights_are_pages_below_that_of_the_weights(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SOURCE", tmp_path)
    assembly = build.Assembly()
    assembly.pages()
    cards = sorted((ROOT / "model_zoo" / "cards").glob("*.md"))
    weights = (tmp_path / "docs" / "weights.md").read_text(encoding="utf-8")
    assert cards
    for card in cards:
        assert f"[card](../model_zoo/cards/{card.name})" in weights
        assert f"\n/model_zoo/cards/{card.stem}\n" in weights
        assert (tmp_path / card.relative_to(ROOT)).read_text(encoding="utf-8").startswith("# ")
    assert not [path for path in assembly.linked if path.suffix == ".md"]


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("../../../etc/passwd", "not in the repository"),
        ("/etc/passwd", "not in the repository"),
        ("../gluon_attn/papers/none.py", "does not exist"),
        ("none.md", "does not exist"),
    ],
)
def test_a_link_that_leads_nowhere_names_page_and_remedy(build, target, problem):
    with pytest.raises(ValueError, match=rf"vaa\.md: the link to {target} .*{problem}.*https:"):
        build.Assembly().relink(f"[x]({target})", ROOT / "docs" / "vaa.md")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import sys; print('no mxnet', file=sys.stderr); sys.exit(2)", "exit status 2.*no mxnet"),
        ("raise SystemExit('no mxnet')", "exit status no mxnet"),
        ("", "no help text"),
    ],
)
def test_a_tool_that_gives_no_help_is_an_error(build, tmp_path, body, said):
    (tmp_path / "tool.py").write_text(body)
    with pytest.raises(ValueError, match=f"tool.py --help: .*{said}"):
        build.help_of(tmp_path / "tool.py")
    (tmp_path / "tool.py").write_text("print('usage'); raise SystemExit(0)")
    assert build.help_of(tmp_path / "tool.py") == "usage\n"


def test_what_is_not_installed_is_named_with_the_remedy(build, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="furo, .*: not installed; .*-r requirements-docs.txt"):
        build.main([])
    with pytest.raises(ImportError, match="mathjax-offline is not .*-r requirements-docs.txt"):
        runpy.run_path(str(BUILD.with_name("conf.py")))


@pytest.mark.nightly
def test_the_site_is_built_without_a_warning(build, tmp_path):
    for name in build.NEEDED:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: make docs installs it")
    code, _, err = run([sys.executable, BUILD, tmp_path], cwd=ROOT)
    assert code == 0, err
    page = (tmp_path / "docs" / "vaa.html").read_text(encoding="utf-8")
    assert "../api/gluon_attn.papers.vaa.method.html" in page and "mathjax/tex-chtml.js" in page
    assert (tmp_path / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert "https://cdn" not in page  # nothing is fetched from elsewhere
    link = "model_zoo/cards/vaa_resnet18_w16_clothing.html"
    assert "<h2>Intended use, limits" in (tmp_path / link).read_text(encoding="utf-8")
    weights = (tmp_path / "docs" / "weights.html").read_text(encoding="utf-8")
    assert f'<li class="toctree-l2"><a class="reference internal" href="../{link}">' in weights
    assert not list((tmp_path / "files").rglob("*.md.html"))
