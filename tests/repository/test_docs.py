"""The documentation against the code: links, commands, names and the fidelity ledger.

What the code blocks of the pages do is tested in test_code_blocks.py.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from process_helpers import run_tool

import gluon_attn
from gluon_attn.core.recipe import Recipe, catalogue
from gluon_attn.core.recipe import names as recipe_names
from gluon_attn.method import METHODS
from gluon_attn.train.build import load_recipe
from model_zoo import MODELS, list_models, store

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"python (tools/\w+\.py)((?:\\\n|[^`\n#|>])*)")
# Where a ledger's `Name(argument=value)` is looked for.
CALLABLES = (
    "gluon_attn.core.batch", "gluon_attn.papers.vaa.method", "gluon_attn.papers.awmt.method",
    "gluon_attn.papers.vaa.losses", "gluon_attn.papers.vaa.history",
    "gluon_attn.metrics.multilabel", "gluon_attn.metrics.attributes",
    "gluon_attn.papers.autola.hoga",
    "gluon_attn.metrics.retrieval", "gluon_attn.tasks.reid", "gluon_attn.blocks",
    "gluon_attn.blocks.cbam",
)  # fmt: skip


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose_of(page):
    return FENCE.sub("", text_of(page))


def anchors_of(page):
    """Return the anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.M)
    return [re.sub(r"[^\w\- ]", "", t.replace("`", "").lower()).replace(" ", "-") for t in titles]


@lru_cache(maxsize=None)
def help_of(tool, *command):
    """Return what ``python tool [command] --help`` prints."""
    code, out, _ = run_tool(tool.rpartition("/")[2], *command, "--help")
    assert not code, f"{tool} {command} --help ends with {code}"
    return out


def has_flag(help_text, flag):
    return re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", help_text) is not None


def commands_of(page):
    """Return ``(tool, [words])`` of every command line shown, in blocks and in the text."""
    return [(tool, shlex.split(rest.replace("\\\n", " "))) for tool, rest in COMMAND.findall(page)]


def problems_of(tool, words):
    """Return what is wrong with a command line."""
    if not (ROOT / tool).is_file():
        return [f"{tool} does not exist"]
    help_text = help_of(tool)
    choices = re.search(r"\{([\w,]+)\}", help_text.split("\n\n")[0])
    commands = choices.group(1).split(",") if choices else []
    prepares = tool.endswith("prepare_data.py") and re.match(r"\w", "".join(words[:1]))
    if words and words[0] in commands or prepares:
        help_text = help_of(tool, words[0])
    flags = [word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
    found = [f"{tool} has no {flag}" for flag in flags if not has_flag(help_text, flag)]
    if "train" in tool and "--save-dir" in words:
        recipe = words[words.index("--recipe") + 1] if "--recipe" in words else None
        pairs = [word for word in words if re.match(r"[a-z_.]+=", word)]
        try:
            load_recipe(recipe or "vaa_wider_resnet101", pairs)
        except (ValueError, FileNotFoundError) as error:
            found.append(str(error))
    return found


def resolve(dotted):
    """Return the object with a dotted name, or raise."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(dotted)


# -- what is asked of every page: functions that return what is wrong with one --------------------
def places_to_be_filled_in(page):
    return re.findall(r"^[A-Z]{4,}$|\b(?:TODO|TBD|FIXME|XXX)\b", prose_of(page), re.M)


def broken_relative_links(page):
    broken = []
    for link in LINK.findall(prose_of(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(link)
    return broken


def commands_with_unknown_scripts_or_flags(page):
    return [p for tool, words in commands_of(text_of(page)) for p in problems_of(tool, words)]


def unknown_inline_flags_of_tools(page):
    wrong = []
    for code in CODE.findall(prose_of(page)):
        match = re.match(r"tools/(\w+)\.py (--[\w-]+)", code)
        if match and not has_flag(help_of(f"tools/{match.group(1)}.py"), match.group(2)):
            wrong.append(code)
    return wrong


def unknown_names_and_paths(page):
    wrong = []
    for code in CODE.findall(prose_of(page)):
        if re.fullmatch(r"(gluon_attn|model_zoo)(\.\w+)+", code):
            try:
                resolve(code)
            except (ModuleNotFoundError, AttributeError):
                wrong.append(code)
        elif re.fullmatch(r"(gluon_attn|model_zoo|tools|tests|docs)/[\w/.]+", code):
            wrong += [] if (ROOT / code).exists() else [code]
    return wrong


def unknown_make_targets(page):
    targets = re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.M)
    used = re.findall(r"`make (\w[\w-]*)", text_of(page))
    used += re.findall(r"^\$? ?make (\w[\w-]*)", text_of(page), re.M)
    return sorted(set(used) - set(targets))


@pytest.mark.parametrize("search", [
    places_to_be_filled_in, broken_relative_links, commands_with_unknown_scripts_or_flags,
    unknown_inline_flags_of_tools, unknown_names_and_paths, unknown_make_targets,
])  # fmt: skip
def test_no_page_has(search):
    found = [f"{page.relative_to(ROOT)}: {what}" for page in PAGES for what in search(page)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("search, text", [
    (places_to_be_filled_in, "a\nTODO: b\n"), (broken_relative_links, "[a](none.md)"),
    (broken_relative_links, "# A\n[a](#b)"),
    (unknown_inline_flags_of_tools, "`tools/train.py --x`"),
    *((commands_with_unknown_scripts_or_flags, f"python tools/{command}") for command in (
        "none.py", "train.py --x", "predict.py --heat", "prepare_data.py list --srn",
        "train_wider.py --save-dir x gama=1", "train.py --save-dir x --recipe none_such",
    )),
    (unknown_names_and_paths, "`gluon_attn.none`"), (unknown_names_and_paths, "`docs/none.md`"),
    (unknown_make_targets, "`make none`"),
])  # fmt: skip
def test_the_search_can_find(search, text, tmp_path):
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert len(search(tmp_path / "page.md")) == 1


# -- the fidelity ledger -------------------------------------------------------------------------
def tables_of(text, first):
    """Yield the rows, lists of cells, of the Markdown tables whose head begins with ``first``."""
    rows, inside = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells == list(first):
            inside = True
        elif inside and not set(line) <= set("|-: "):
            rows.append(cells)
    return rows


# Page of each paper, or one section of its ledger: the recipe whose values stand there
LEDGER_RECIPES = {
    "vaa": "vaa_wider_resnet101", "awmt": "awmt_celeba_resnet50",
    "blocks": "srm_imagenet_resnet50", "dreal": "dreal_imagenet_srm_resnet101",
    "reid": "reid_market_resnet50", "icasc": "icasc_cifar100_resnet110",
    "autola#Block": "hoga_cifar10_resnet20", "autola#Search": "hoga_search_cifar10",
    "autola#Training": "hoga_cifar10_resnet20", "detection": "ssd300_coco_se_resnet50",
    "detection#Ledger of Faster R-CNN": "faster_rcnn_coco_se_resnet50",
    "keypoints": "simple_pose_coco_resnet50",
}  # fmt: skip
PARTIAL = {"autola#Block"}  # says nothing of training


def ledger_of(key):
    """Return the rows of a page's ledger, or of one section (``page#Heading``)."""
    page, _, section = key.partition("#")
    text = text_of(ROOT / "docs" / f"{page}.md")
    if section:  # its last occurrence: ledgers end a page
        parts = re.split(r"^##+ ", text, flags=re.MULTILINE)
        text = [part for part in parts if part.startswith(f"{section}\n")][-1]
    else:
        text = text.partition("## Fidelity ledger")[2].partition("\n## ")[0]
    return tables_of(text, ("What", "Value here", "Source and evidence", "Switch"))


LEDGERS = {key: ledger_of(key) for key in LEDGER_RECIPES}
LEDGER_ROWS = [(page, row) for page, rows in LEDGERS.items() for row in rows]
EVIDENCE = ("CONFIRMED", "LIKELY", "COMPUTED", "MEMORY", "UNKNOWN", "ssumption", "deviation")
# Other words for "where it comes from", where none of the tags applies
OWN_WORDS = ("the formula", "definition of that protocol")


def ledger_row(page, words):
    (row,) = [row for row in LEDGERS[page] if row[0] == words]
    return row


def problem_of_switch(item, page="vaa"):
    """Return what is wrong with one entry of the column "Switch", or None."""
    recipe = load_recipe(LEDGER_RECIPES[page])
    settings = METHODS.get(recipe.method).OPTIONS
    if item.startswith("--") or item.startswith("tools/"):
        *tool, flag = item.split()
        return (
            None if has_flag(help_of(*tool or ["tools/train_wider.py"]), flag) else "no such flag"
        )
    call = re.fullmatch(r"(\w+)\((\w+)=(.+)\)", item)
    if call:
        name, key, value = call.groups()
        homes = [module for module in map(resolve, CALLABLES) if hasattr(module, name)]
        if not homes or key not in inspect.signature(getattr(homes[0], name)).parameters:
            return "no such argument"
        actual = inspect.signature(getattr(homes[0], name)).parameters[key].default
    else:
        key, found, value = item.partition("=")
        group, dot, name = key.partition(".")
        defaults = inspect.signature(MODELS.get(recipe.model)).parameters
        if dot and group == "model_options" and name in defaults:
            actual = recipe.model_options.get(name, defaults[name].default)
        elif key in settings:
            actual = recipe.options.get(key, settings[key])
        elif key in recipe.to_dict():
            actual = getattr(recipe, key)
        else:
            return "neither recipe key, method option nor model argument"
        if not found:
            return "says no value"
    same = actual == ast.literal_eval(value)
    return None if same else f"is {actual!r}"


def test_ledgers_are_read():
    assert len(LEDGERS["vaa"]) > 60 and len(LEDGERS["awmt"]) > 40
    assert {len(row) for _, row in LEDGER_ROWS} == {4}


def problems_of_row(page, row):
    """Return what is wrong with a row of a ledger."""
    what, value, source, switch = row
    found = [] if what and value and source else ["an empty cell"]
    if not any(tag in value + source for tag in EVIDENCE):
        found += [] if any(words in source for words in OWN_WORDS) else ["no evidence tag"]
    items = CODE.findall(switch)
    found += [] if items or switch == "none" else ["no switch: write none"]
    return found + [f"{i} {p}" for i in items for p in [problem_of_switch(i, page)] if p]


def test_ledger_rows():
    found = [f"{p}, {r[0]}: {what}" for p, r in LEDGER_ROWS for what in problems_of_row(p, r)]
    assert not found, "\n".join(found)
    for row, what in (
        (("a", "", "CONFIRMED", "none"), "an empty cell"), (("a", "1", "b", "none"), "no evidence"),
        (("a", "1", "COMPUTED", "-"), "no switch"), (("a", "1", "LIKELY", "`gamma=7`"), "gamma=7"),
    ):  # fmt: skip
        (problem,) = problems_of_row("vaa", row)
        assert problem.startswith(what)


def settings_left_out(page):
    """Return the settings of method and training that a ledger does not have."""
    written = {i.partition("=")[0] for row in LEDGERS[page] for i in CODE.findall(row[3])}
    technical = {
        "method", "options", "model_options", "accumulate", "amp", "hybridize", "log_interval",
        "warmup_epochs", "lr_epochs", "lr_patience",
    }  # fmt: skip
    recipe, plain = load_recipe(LEDGER_RECIPES[page]), Recipe(method="", model="")
    # Only papers that use them need say so.
    rare = {"augment", "pad", "area_min", "keep_aspect", "init", "keep", "splits", "data_options",
            "backbone"}  # fmt: skip
    technical |= {name for name in rare if getattr(recipe, name) == getattr(plain, name)}
    # The baseline's own are those of VAA's loss.
    wanted = set(METHODS.get(recipe.method).OPTIONS) - set(METHODS.get("baseline").OPTIONS)
    wanted |= set(METHODS.get("vaa").OPTIONS) if recipe.method == "vaa" else set()
    wanted |= set(plain.to_dict()) - technical
    return wanted - written


def test_every_setting_of_the_method_and_of_training_is_in_the_ledger():
    left_out = {page: settings_left_out(page) for page in sorted(set(LEDGERS) - PARTIAL)}
    assert not {page: names for page, names in left_out.items() if names}


@pytest.mark.parametrize("page, words", [
    ("vaa", "gamma"), ("vaa", "aggregation"), ("vaa", "length of phase 1"), ("vaa", "other depths"),
    ("awmt", "outputs of a multi-class attribute"), ("awmt", "weights that are kept"),
    ("awmt", "validation split of Market and Duke"),
])  # fmt: skip
def test_assumptions_and_unknowns_are_called_so(page, words):
    source = ledger_row(page, words)[2]
    assert "assumption" in source or "UNKNOWN" in source


def test_switch_check_finds_wrong_entries():
    for item in ("gama=2.0", "gamma=0.5", "gamma", "VAA(size=1)", "VAA(scale=2)", "--no-such"):
        assert problem_of_switch(item), item
    for item in ("gamma=2.0", "lr=1e-3", "VAA(scale=1)", "model_options.taps=None", "--no-test"):
        assert problem_of_switch(item) is None, item


# -- numbers and versions ------------------------------------------------------------------------
def test_parameter_counts_are_those_of_the_nets():
    rows = tables_of(text_of(ROOT / "docs" / "vaa.md"), ("Net", "Parameters", "of which modules"))
    assert len(rows) == 4
    for name, total, modules in rows:
        net = MODELS.get(name.strip("`"))()
        whole, backbone = (
            sum(int(np.prod(p.shape)) for n, p in part.collect_params().items()
                if "running_" not in n)
            for part in (net, getattr(net, "backbone", net))
        )  # fmt: skip
        assert f"{whole:,}" == total
        assert modules == (f"{whole - backbone:,}" if whole > backbone else "–")


def test_models_and_recipes_named_in_pages_exist():
    named = set()
    for page in PAGES:
        named.update(re.findall(r"`((?:vaa_|awmt_)?resnet\d+_\w+)`", prose_of(page)))
    assert not {name for name in named if name not in [*list_models(), *recipe_names()]}
    listed = re.findall(r"recipes/(\w+)\.py\)", "".join(map(text_of, PAGES)))
    files = {Path(entry.file).stem for name, entry in catalogue().items() if name[0] != "_"}
    assert set(listed) == files


def test_weights_that_pages_ask_for_are_shipped():
    named = set()
    for text in map(text_of, PAGES):
        named.update(re.findall(r"--model (\S+)[^\n]* --pretrained", text))
        named.update(re.findall(r'load_predictor\("(\w+)"', text))
        named.update(re.findall(r'get_model\("(\w+)", pretrained=True', text))
        for line in re.findall(r"gallery\.py (.+)", text):
            named.update(re.findall(r"=(\w+)(?= )", line))
    assert "efficientnet_lite0_clothing" in named and len(named) > 5
    assert not sorted(name for name in named if store.builtin(name) is None)


def test_version_is_the_same_everywhere():
    changes, citation = text_of(ROOT / "CHANGELOG.md"), text_of(ROOT / "CITATION.cff")
    assert re.search(r"^## \[(.+?)\]", changes, re.M).group(1) == gluon_attn.__version__
    assert re.search(r"^version: (.+)$", citation, re.M).group(1) == gluon_attn.__version__
