"""Genotypes: what is valid, what an error says, files, lines, and the figure."""

from __future__ import annotations

import json

import cv2
import pytest

from gluon_attn.figures.genotype import draw_genotype
from gluon_attn.papers.autola import genotype as g
from gluon_attn.papers.autola.genotype import Genotype, find_genotype, genotype

# As the authors' repository lists it: edges of a node by falling strength.
PUBLISHED = [
    ("skip_connect", 0), ("sep_conv_3x3_spatial", 0), ("sep_conv_3x3", 1), ("CBAM", 0),
    ("skip_connect", 2), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 1),
    ("sep_conv_3x3", 3), ("dil_conv_3x3", 2),
]  # fmt: skip
LINE = (
    "skip_connect@0/sep_conv_3x3_spatial@0+sep_conv_3x3@1/CBAM@0+sep_conv_3x3@1+skip_connect@2/"
    "sep_conv_3x3@0+skip_connect@1+dil_conv_3x3@2+sep_conv_3x3@3"
)


def changed(position, edge):
    """Return the published edges with one replaced."""
    return [edge if n == position else e for n, e in enumerate(PUBLISHED)]


def test_edges_are_those_of_the_paper():
    assert len(g.OPERATIONS) == 9 and len(g.EDGES) == 10
    assert g.EDGES == tuple((node, source) for node in range(1, 5) for source in range(node))


def test_the_published_genotype_in_canonical_order():
    found = find_genotype("autola_cifar10")
    assert found == genotype(PUBLISHED) and str(found) == LINE
    assert [source for _, source in found.edges] == [source for _, source in g.EDGES]
    assert [len(node) for node in found.nodes] == [1, 2, 3, 4]
    assert found.nodes[1] == (("sep_conv_3x3_spatial", 0), ("sep_conv_3x3", 1))
    assert set(g.GENOTYPES.names()) == {"autola_cifar10", "hog_se", "hog_cbam"}
    assert set(find_genotype("hog_se").operations) == {"SE"}
    assert set(find_genotype("hog_cbam").operations) == {"CBAM"}


def test_order_inside_a_node_means_nothing(tmp_path):
    swapped = [*PUBLISHED[:6], *reversed(PUBLISHED[6:])]
    assert genotype(swapped) == genotype(PUBLISHED)
    assert genotype(changed(1, ("SE", 0))) != genotype(PUBLISHED)
    path = tmp_path / "hand.json"
    path.write_text(json.dumps({"edges": swapped}))
    assert str(g.load_genotype(path)) == LINE


def test_there_and_back_again(tmp_path):
    found = genotype(changed(0, ("none", 0)))
    path = tmp_path / "found.json"
    g.save_genotype(path, found, {"seed": 3})
    assert g.load_genotype(path) == find_genotype(str(path)) == found
    assert json.loads(path.read_text())["about"] == {"seed": 3}
    assert g.parse_genotype(str(found)) == find_genotype(str(found)) == found
    assert find_genotype(found) is found and isinstance(found, Genotype)
    assert g.of_operations(found.operations) == found


INVALID = [
    (changed(4, ("skip_conect", 2)), "edge 5 .into node 3.: unknown .*skip_conect.*skip_con"),
    (PUBLISHED[:9], "9 edges; valid are 10"),
    ([*PUBLISHED, ("SE", 0)], "11 edges; valid are 10"),
    (changed(2, ("SE", 2)), "edge 3: node 2 reads its own output: a cycle; valid sources are 0, 1"),
    (changed(2, ("SE", 4)), "edge 3: node 2 reads node 4, which comes later: a cycle"),
    (changed(2, ("SE", 7)), "edge 3: node 2 reads node 7, .* and does not exist"),
    (changed(2, ("SE", 0)), "edge 2: source 0 of node 2 is there twice; valid, once each, are"),
    (changed(2, ("SE", -1)), "edge 3: source -1 of node 2 does not exist"),
    (changed(2, ("SE", 1.0)), "edge 3 is .*1.0.; valid is .operation, source"),
    (changed(2, ("SE",)), "edge 3 is"),
    (changed(2, (3, 1)), "edge 3 is"),
    (changed(2, ("SE", True)), "edge 3 is"),
]  # fmt: skip


@pytest.mark.parametrize("edges, message", INVALID, ids=[m[:40] for _, m in INVALID])
def test_invalid_genotypes_name_file_and_edge(edges, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        genotype(edges)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"edges": edges}))
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        find_genotype(str(path))


@pytest.mark.parametrize("text, message", [
    ("{", "1: not valid JSON"), ("[]", " no list of 'edges'"),
    ('{"edges": 3}', " no list of 'edges'"), ("\x00", "1: byte 1 is NUL"),
])  # fmt: skip
def test_files_that_are_no_genotype(text, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path}:{message}"):
        find_genotype(str(path))


def test_what_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.json is missing; a genotype file"):
        find_genotype(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="unknown genotype 'autola_cifar'.*autola_cifar10.*json"):
        find_genotype("autola_cifar")
    with pytest.raises(ValueError, match="ends in .json"):
        g.save_genotype(tmp_path / "found.txt", genotype(PUBLISHED))


@pytest.mark.parametrize("line, message", [
    ("SE@0/SE@0+SE@1", "1/2 edges; valid are 1/2/3/4"),
    (LINE.replace("CBAM@0", "CBAM"), "edge 4 is 'CBAM'; write operation@source"),
    (LINE.replace("CBAM@0", "CBAM@x"), "edge 4 is 'CBAM@x'"),
    (LINE.replace("CBAM@0", "CBAM@9"), "edge 4: node 3 reads node 9"),
    (LINE.replace("CBAM", "CBAN"), "unknown operation 'CBAN'"),
])  # fmt: skip
def test_bad_lines(line, message):
    with pytest.raises(ValueError, match=message):
        find_genotype(line)


def test_wrong_number_of_operations():
    with pytest.raises(ValueError, match="3 operations; a genotype has 10"):
        g.of_operations(["SE"] * 3)


def test_the_figure_names_every_operation(tmp_path, monkeypatch):
    from gluon_attn.figures import genotype as module

    drawn, save = [], module.save
    monkeypatch.setattr(module, "save", lambda f, p: (drawn.append(f), save(f, p))[1])
    found = find_genotype("autola_cifar10")
    path = draw_genotype(found.edges, tmp_path / "g.png", "published", [0.1 * n for n in range(10)])
    height, width, _ = cv2.imread(str(path)).shape
    assert width > height > 300
    texts = [t.get_text().replace("\n", " ") for t in drawn[0].axes[0].texts]
    for number, (operation, _) in enumerate(found.edges):
        assert f"{operation} {0.1 * number:.2f}" in {
            text.replace(" _spatial", "_spatial") for text in texts
        }
    with pytest.raises(ValueError, match="9 edges"):
        draw_genotype(found.edges[:9], tmp_path / "g.png")
    with pytest.raises(ValueError, match="edge 2: node 2 cannot read source 3"):
        draw_genotype(changed(1, ("SE", 3)), tmp_path / "g.png")
