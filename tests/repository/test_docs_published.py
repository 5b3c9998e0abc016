"""docs/published.md: every row names recipes that load, and no number there is ours."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gluon_attn.core import recipe
from gluon_attn.method import METHODS
from gluon_attn.train.build import build_net, load_recipe
from model_zoo import MODELS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
EVIDENCE = ("CONFIRMED", "LIKELY", "MEMORY (", "UNKNOWN")
NOT_OURS = re.compile(r"not run: needs [A-Z][\w ,()-]+, a GPU")


def tables():
    """Yield ``(head, rows)`` of the tables of the page."""
    block = []
    for line in [*PAGE.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif block:
            yield block[0], block[2:]
            block = []


def named(head, row):
    return dict(zip(head, row))


TABLES = list(tables())
ROWS = [named(h, row) for h, rows in TABLES for row in rows if "Recipe and overrides" in h]
RUNS = sorted({run for row in ROWS for run in re.findall("`([^`]+)`", row["Recipe and overrides"])})


def test_the_page_is_read():
    assert len(ROWS) > 100 and len(RUNS) > 80
    assert all(len(row) == len(head) for head, rows in TABLES for row in rows)


def problem_of(run):
    """Return what is wrong with ``recipe key=value …``, or an empty string."""
    name, *pairs = run.split()
    try:
        found = load_recipe(name, pairs)
        if "model_options." in run:  # what the net makes of it shows only when it is built
            build_net(found, 5)
        MODELS.get(found.model)
    except (ValueError, TypeError, FileNotFoundError) as error:
        return str(error)
    unknown = set(found.options) - set(METHODS.get(found.method).OPTIONS)
    # A baseline leaves the options of the method that it stands in for aside.
    return "" if found.method in ("baseline", "reid") or not unknown else f"no {unknown}"


def test_recipes_and_overrides_load():
    problems = {run: problem_of(run) for run in RUNS}
    assert not {run: problem for run, problem in problems.items() if problem}


def test_wrong_recipes_and_overrides_are_noticed():
    for run in ("vaa_wider", "vaa_wider_resnet101 gama=1", "vaa_wider_resnet101 model=none",
                "hoga_cifar10_resnet20 model_options.attention=hoga:x"):  # fmt: skip
        assert problem_of(run), run


def test_every_row_says_that_it_was_not_run_and_why():
    for row in ROWS:
        assert any(tag in row["Evidence"] for tag in EVIDENCE), row
        with_recipe = row["Recipe and overrides"][:1] == "`"
        assert NOT_OURS.fullmatch(row["Ours"]) if with_recipe else row["Ours"] == "–", row
        if not with_recipe:
            assert row["Recipe and overrides"].startswith("none: "), row


def test_numbers_stand_in_columns_that_are_called_the_papers():
    for head, rows in TABLES:
        papers = [name for name in head if name.startswith("Paper")]
        assert papers, head
        if "Ours" in head:
            continue
        # A table without our column: the text above it says that these runs were not made.
        before = PAGE[: PAGE.index("| " + " | ".join(head))]
        assert "Ours: not run." in before.rpartition("\n###")[2], head
        assert rows


def test_every_recipe_for_published_data_has_its_row():
    recipes = set(recipe.names())
    others = {n for n in recipes if re.search("_(synthetic|digits|tiny|clothing|garments)(_|$)", n)}
    assert not recipes - others - {run.split()[0] for run in RUNS}


def test_means_agree_with_the_copied_columns():
    """A slip in copying a column would show in its mean."""
    (voc,) = [rows for head, rows in TABLES if head[0] == "Class"]
    numbers = np.array([row[1:] for row in voc], float)
    np.testing.assert_allclose(numbers[:-1].mean(0), numbers[-1], atol=0.006)
    (wider,) = [rows for head, rows in TABLES if head[0].startswith("Paper's AP of")]
    means = {row[0]: np.mean([float(cell) for cell in row[1:]]) for row in wider}
    totals = {}
    for row in ROWS:  # the first table of the page wins
        totals.setdefault(row["Row"].split(",")[0], row.get("Paper", "").strip("*"))
    for name, mean in means.items():
        assert abs(mean - float(totals[name])) < 0.6, name  # the columns are whole numbers
