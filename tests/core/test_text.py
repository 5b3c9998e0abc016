"""Text and JSON files as editors leave them: byte-order marks, line ends, other encodings."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from kinds_helpers import KINDS, fingerprints, opened, rewrite

from gluon_attn.cli.analysis_features import read_critic
from gluon_attn.coco.keypoints_boxes import boxes_of_images, read_results
from gluon_attn.core import text as reading
from gluon_attn.core.recipe import Recipe
from gluon_attn.data.folders import read_classes
from gluon_attn.data.lists import read_names
from gluon_attn.data.published_sizes import expected_counts
from gluon_attn.export.backends import FORMAT as SPEEDS
from gluon_attn.export.backends import _read_speeds as read_speeds
from gluon_attn.export.sidecar import read_sidecar, write_sidecar
from gluon_attn.figures.curves import _read as read_curves
from gluon_attn.papers.autola.genotype import find_genotype
from gluon_attn.tasks.images import ImageFile, read_boxes
from gluon_attn.train import read_json_lines, run
from gluon_attn.train import trained as load
from model_zoo.store import BUILTIN
from model_zoo.transfer import parse_table
from tools.experiments import results_page
from tools.site import demo
from tools.site.gallery import _listed

ROOT = Path(__file__).resolve().parents[2]
MARK = b"\xef\xbb\xbf"
TEXT = (".txt", ".csv", ".json", ".idx", ".jsonl", ".py")


def windows(content):
    return MARK + content.replace(b"\n", b"\r\n")


def macintosh(content):
    return MARK + MARK + content.replace(b"\n", b"\r")


def untidy(content):
    """Blanks at the ends of lines, blank lines, marks in the middle as of joined files."""
    return b"\n \n" + content.replace(b"\n", b" \t\r\n\r\n" + MARK) + b"\r\n\t"


STYLES = (windows, macintosh, untidy)


# -- the functions -------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_lines_and_json_are_the_same_in_every_style(style, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(style("hat\n  bag é\u2028x\n".encode()))
    assert [line for _, line in reading.read_lines(path)] == ["hat", "bag é\u2028x"]
    path.write_bytes(style(b'{"a":\n [1,\n 2.5]}\n'))
    assert reading.read_json(path) == {"a": [1, 2.5]}


def test_line_numbers_count_what_an_editor_shows(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\r\nb\rc\n\n d \n")
    assert reading.read_lines(path) == [(1, "a"), (3, "b"), (4, "c"), (6, "d")]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,1\n".encode("utf-16"), "f: is UTF-16 text; save it as UTF-8"),
        ("a".encode("utf-16-be"), "f:1: byte 1 is NUL: UTF-16 text"),
        (b"\xfe\xff\0a", "f: is UTF-16 text"),
        ("a".encode("utf-32"), "f: is UTF-32 text"),
        (b"a\nb\n\0\0\0", "f:3: byte 5 is NUL: .*or damaged"),
        (b"a\r\nb\rcaf\xe9\n", "f:3: not UTF-8 text: byte 9 is 0xe9; save it as UTF-8"),
    ],
)
def test_other_text_is_called_what_it_is(content, message, tmp_path):
    (tmp_path / "f").write_bytes(content)
    for read in (reading.read_text, reading.read_lines, reading.read_json):
        with pytest.raises(ValueError, match=message) as caught:
            read(tmp_path / "f")
        assert str(caught.value).isprintable() and str(tmp_path) in str(caught.value)


def test_what_is_no_file_and_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt is missing; looked for names.txt"):
        reading.read_text(tmp_path / "none.txt", "looked for names.txt")
    with pytest.raises(FileNotFoundError, match="none.txt is missing$"):
        reading.read_json(tmp_path / "none.txt")
    with pytest.raises(OSError, match="is a folder; a text file is needed"):
        reading.read_lines(tmp_path)
    path = tmp_path / "f.json"
    for text, message in (
        ("", r"f.json:1: not valid JSON: the file is empty"),
        ('{"a": 1,\n "b" 2}', r"f.json:2: not valid JSON: .*delimiter \(column 6\); it is damaged"),
        ('{"a": 1} x', r"f.json:1: not valid JSON: Extra data \(column 10\)"),
        ("[" * 100_000, "f.json: not valid JSON: "),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            reading.read_json(path)


def test_a_log_may_end_in_half_a_line_or_in_zeros(tmp_path):
    path = tmp_path / "log.jsonl"
    for end in (b'{"epoch": 2', b"\0" * 40, b"\xff"):
        path.write_bytes(b'{"epoch": 0}\r\n{"epoch": 1}\n' + end)
        assert read_json_lines(str(path)) == [{"epoch": 0}, {"epoch": 1}] == read_curves(path)


# -- every file that a data set consists of ------------------------------------------------------


def texts(root):
    return sorted(p for p in root.rglob("*") if p.suffix in TEXT and p.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_data_sets_are_the_same_in_every_style_of_text(kind, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "tree")
    plain, contents = fingerprints(kind, root), {p: p.read_bytes() for p in texts(root)}
    assert contents, "every miniature has at least its SYNTHETIC.json or a list"
    for style in STYLES:
        for path, content in contents.items():
            rewrite(path, style(content))
        assert fingerprints(kind, root) == plain, style.__name__
        assert all(dataset.report.ok for dataset in opened(kind, root).values())


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_another_encoding_is_named_whatever_reads_it(kind, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "tree")
    refused = []
    for path in texts(root):
        content = path.read_bytes()
        for other in (content.decode().encode("utf-16"), content[:-2] + b"\0\0", content + b"\xe9"):
            rewrite(path, other)
            try:
                opened(kind, root)
            except ValueError as error:
                assert str(path) in str(error) and "UTF-8" in str(error)
                assert str(error).isprintable() and isinstance(error.args[0], str)
                refused.append(path)
        rewrite(path, content)
    assert refused


# -- every other file ----------------------------------------------------------------------------

RECIPE = {"method": "baseline", "model": "resnet18_v1", "lr": 0.5}
EPOCHS = "".join(
    json.dumps({"epoch": k, "critique": {"a": k}, "reward": {"a": k}, "critic_error": {"a": 0}})
    + "\n" for k in range(3)
)  # fmt: skip
BEST = {"sha256": "0", "classes": ["a"], "recipe": RECIPE, "epoch": 1, "data": {}, "versions": {}}
RESULTS = [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
IMAGES = [ImageFile("0007.jpg", "0007.jpg")]
SPEED = {"format": SPEEDS, "measured": [{"images_per_s": {"mxnet": 3.5}}]}

# Name of the file, its contents, what reads it.
FILES = {
    "genotype": ("g.json", json.dumps({"edges": find_genotype("autola_cifar10").edges}),
                 lambda p: find_genotype(str(p))),
    "recipe": ("r.py", '"""Cost."""\nmethod = "baseline"\nmodel = "x"\n',
               lambda p: Recipe.load(str(p))),
    "recipe as JSON": ("r.json", json.dumps(RECIPE), lambda p: Recipe.load(str(p))),
    "record of the best epoch": ("best.json", json.dumps(BEST),
                                 lambda p: load._read_record(str(p.parent))),
    "log": ("log.jsonl", EPOCHS, lambda p: read_json_lines(str(p))),
    "log for curves": ("log.jsonl", EPOCHS, read_curves),
    "log of a critic": ("log.jsonl", EPOCHS, lambda p: read_critic(str(p.parent))),
    "names": ("names.txt", "hat\nbag\n", read_names),
    "classes": ("classes.txt", "cat\ndog\n", lambda p: read_classes(p.parent)),
    "expected counts": ("SYNTHETIC.json", '{"expected": {"val": {"images": 3}}}',
                        lambda p: expected_counts(p.parent)),
    "note of a generator": ("SYNTHETIC.json", '{"generator": "synthetic"}',
                            lambda p: demo._read_json(str(p.parent), p.name)),
    "boxes": ("b.json", '{"a.jpg": [[1, 2, 3, 4]]}', read_boxes),
    "boxes as CSV": ("b.csv", "path,x,y,w,h\na.jpg,1,2,3,4\nb.jpg,5,6,7,8\n", read_boxes),
    "boxes of WIDER": ("b.json", '{"images": [{"file_name": "a.jpg", "targets": []}]}',
                       read_boxes),
    "boxes of a detector": ("b.json", json.dumps(RESULTS), read_results),
    "boxes for keypoints": ("b.json", json.dumps(RESULTS),
                            lambda p: boxes_of_images(IMAGES, p)),
    "published weights": ("weights.json", Path(BUILTIN).read_text(encoding="utf-8"),
                          lambda p: sorted(parse_table(p.read_bytes(), "weights.json"))),
    "scores of experiments": ("results.json", '{"a": {"seeds": [1], "scores": {"b": [2]}}}',
                              lambda p: results_page.read_scores(str(p))),
    "list of a gallery": ("gallery.json", '{"files": ["index.html"]}',
                          lambda p: _listed(str(p.parent))),
    "measured speeds": ("speed.json", json.dumps(SPEED), read_speeds),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", FILES)
def test_files_are_the_same_in_every_style(name, style, tmp_path):
    file, content, read = FILES[name]
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    plain = read(path)
    assert plain, "the plain file is read"
    path.write_bytes(style(content.encode()))
    assert read(path) == plain


REFUSED = set(FILES) - {  # what is damaged counts as absent, with a warning or a remedy elsewhere
    "log", "log for curves", "log of a critic", "note of a generator", "list of a gallery",
    "measured speeds",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_files_of_another_encoding_are_named(name, tmp_path):
    file, content, read = FILES[name]
    path = tmp_path / file
    for other in (content.encode("utf-16"), content.encode()[:-2] + b"\0\0\0"):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=rf"{file}.*UTF-(8|16)"):
            read(path)


def test_a_sidecar_and_the_record_of_a_run_with_a_mark(tmp_path):
    (tmp_path / "out").mkdir()
    source = ROOT / "tests" / "fixtures" / "first_edition" / "export"
    path = write_sidecar(tmp_path / "out", read_sidecar(source))
    plain = read_sidecar(tmp_path / "out")
    for style in STYLES:
        path.write_bytes(style(path.read_bytes()))
        assert read_sidecar(tmp_path / "out") == plain
    (tmp_path / "run").mkdir()
    record = {"recipe": Recipe(**RECIPE).to_dict(), "data": {}}
    (tmp_path / "run" / "recipe.json").write_bytes(windows(json.dumps(record).encode()))
    run._check_same(Recipe(**RECIPE), str(tmp_path), str(tmp_path / "run"))


# -- nothing reads or lists past the shared functions --------------------------------------------

MAYBE = re.compile(r"open\(|read_text\(|json\.(load|dumps?)\(|dir\(|glob\(|walk\(")
SOURCES = sorted(
    p for top in ("gluon_attn", "model_zoo", "tools") for p in (ROOT / top).rglob("*.py")
)
# Text that no editor saves: what the system says of itself, and locks.
OWN_READERS = {
    "gluon_attn/env/cpu.py",
    "gluon_attn/env/environment.py", "tools/bench/turns.py",
    "model_zoo/transfer.py",
}  # fmt: skip
# Listings of what this package or pip wrote, not of what users collected.
OWN_LISTINGS = {
    "gluon_attn/data/scan.py", "gluon_attn/core/files.py", "gluon_attn/core/recipe.py",
    "gluon_attn/env/environment.py", "gluon_attn/env/libraries.py", "gluon_attn/export/sidecar.py",
    "gluon_attn/export/parity.py", "model_zoo/store.py", "model_zoo/adapters/read.py",
    "tools/site/gallery.py", "gluon_attn/core/shards.py", "tools/bench/gpu_check.py",
}  # fmt: skip


# JSON that is no file of ours: graphs for MXNet, digests, texts for a pipe.
OWN_JSON = {
    "gluon_attn/data/base.py", "gluon_attn/coco/dataset.py", "gluon_attn/export/graph.py",
    "gluon_attn/export/parity.py", "gluon_attn/export/sidecar.py", "gluon_attn/export/writer.py",
    "gluon_attn/core/files.py", "gluon_attn/nets/graph.py", "gluon_attn/core/recipe.py",
    "gluon_attn/runtime.py", "model_zoo/adapters/safetensors.py",
    "gluon_attn/tasks/predictions.py",
}  # fmt: skip


def calls(source):
    """Yield ``(name of the function or method, call)`` of a source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", ""))
            owner = getattr(getattr(function, "value", None), "id", "")
            yield (f"{owner}.{name}" if owner else name), node


def reads_text(source):
    found = []
    for name, call in calls(source):
        last = name.rpartition(".")[2]
        modes = [a.value for a in call.args[1:2] if isinstance(a, ast.Constant)]
        modes += [getattr(k.value, "value", "?") for k in call.keywords if k.arg == "mode"]
        text = name == "open" and len(call.args) < 2 and not modes or modes[:1] == ["r"]
        if last == "read_text" and not call.args or name == "json.load" or name == "open" and text:
            found.append(call.lineno)
    return found


def lists_folders(source):
    wanted = ("iterdir", "glob", "rglob", "listdir", "scandir", "walk")
    return [c.lineno for name, c in calls(source)
            if name.rpartition(".")[2] in wanted and name != "ast.walk"]  # fmt: skip


def writes_json(source):
    return [c.lineno for name, c in calls(source) if name in ("json.dump", "json.dumps")]


@pytest.mark.parametrize("find, own", [
    (reads_text, OWN_READERS), (lists_folders, OWN_LISTINGS), (writes_json, OWN_JSON)
])  # fmt: skip
def test_files_are_read_written_and_listed_in_one_place(find, own):
    found = {}
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        lines = find(source) if MAYBE.search(source) else []
        if lines:
            found[path.relative_to(ROOT).as_posix()] = lines
    assert not {name: lines for name, lines in found.items() if name not in own}
    assert own <= set(found), "the list of exceptions holds no more than it must"


def test_these_searches_find_something():
    assert reads_text("open(p)\nopen(p, encoding='x')\nq.read_text(encoding='x')") == [1, 2, 3]
    assert reads_text("open(p, 'r')\njson.load(f)") == [1, 2]
    assert reads_text("open(p, 'wb')\nread_text(p)\nreading.read_text(p)\nX.open(a, b)") == []
    assert writes_json("json.dumps(a)\nx.json(a)\njson.dump(a, f)") == [1, 3]
    assert lists_folders("os.listdir(p)\np.rglob('*')\nast.walk(t)") == [1, 2]


def test_a_field_too_long_for_csv_is_named(tmp_path):
    """A quotation mark that nothing closes makes one field of the rest of the file."""
    path = tmp_path / "boxes.csv"
    path.write_text('a.jpg,1,2,3,4\n"b.jpg,1,2,3,4\n' + "c.jpg,1,2,3,4\n" * 10_000)
    with pytest.raises(ValueError, match=r"boxes\.csv:\d+: not CSV: field larger than"):
        read_boxes(path)
    assert list(reading.rows_of_csv(["a,b", '"c', 'd",e'], path, 5)) == [
        (5, ["a", "b"]), (7, ["cd", "e"])
    ]  # fmt: skip
