"""Market-1501- and DukeMTMC-attribute: hand-written identities, and each trap of the real files."""

from __future__ import annotations

import numpy as np
import pytest
from formats.tiny import write_tiny
from formats.tiny_mats import cell
from kinds_helpers import image, refuses
from scipy.io import loadmat, savemat

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.data import detect_kind, open_dataset

MARKET_FIELDS = (
    "age backpack bag handbag downblack downblue downbrown downgray downgreen downpink downpurple "
    "downwhite downyellow upblack upblue upgreen upgray uppurple upred upwhite upyellow clothes "
    "down up hair hat gender"
).split()
DUKE_FIELDS = (
    "backpack bag handbag boots gender hat shoes top downblack downwhite downred downgray downblue "
    "downgreen downbrown upblack upwhite upred uppurple upgray upblue upgreen upbrown"
).split()


def part(fields, people, values, order=1):
    """Return a struct in which every value is 1 unless ``values[field][person]`` says otherwise."""
    rows = {}
    for name in list(fields)[::order]:
        numbers = [values.get(name, {}).get(person, 1) for person in people]
        rows[name] = np.array(numbers, np.uint8)[None]
    return dict(rows, image_index=cell(people, row=True))


TRAIN = {
    "gender": {"0007": 2},
    "age": {"0002": 3, "0007": 4, "0010": 2},
    "up": {"0010": 2},
    "upred": {"0002": 2},
    "upyellow": {"0007": 2},
    "downpurple": {"0002": 2, "0007": 2},
}  # 0010 wears no known colour
TEST = {
    "age": {"0001": 1, "0003": 0}, "upblack": {"0001": 2, "0003": 2},
    "downblue": {"0001": 2, "0003": 2}, "downgreen": {"0003": 2}, "down": {"0003": 2},
}  # fmt: skip


def market_mat(train=None, test=None, people=("0002", "0007", "0010")):
    return {
        "train": part(MARKET_FIELDS, list(people), TRAIN if train is None else train),
        "test": part(MARKET_FIELDS, ["0001", "0003"], TEST if test is None else test, -1),
    }


def write_mat(root, content, name="market_attribute", place="."):
    (root / place).mkdir(exist_ok=True)
    savemat(root / place / f"{name}.mat", {name: content})


@pytest.fixture
def market(tmp_path):
    train = ["0010_c1s1_000001_01", "0002_c3s2_000002_01", "0002_c1s1_000009_02",
             "0007_c1s1_000003_01"]  # fmt: skip
    for k, name in enumerate(train):
        image(tmp_path / f"bounding_box_train/{name}.jpg", 50 * k, (8, 4))
    test = ["-1_c1s1_000001_01", "0000_c1s1_000002_01", "0003_c1s1_000001_01", "0001_c6s3_00000_0"]
    for k, name in enumerate(test):
        image(tmp_path / f"bounding_box_test/{name}.jpg", 50 * k, (8, 4))
    (tmp_path / "bounding_box_test" / "Thumbs.db").write_bytes(b"not an image")
    image(tmp_path / "query/0003_c2s1_000005_00.jpg", 250, (8, 4))
    write_mat(tmp_path, market_mat())
    return tmp_path


def positives(dataset, i):
    return {name for name, value in zip(dataset.names, dataset.raw[i]) if value == 1}


def test_schema_of_market(market):
    assert detect_kind(market) == "market"
    schema = open_dataset(market, "trainval").schema
    assert schema.names == (
        "gender", "hair", "age", "up", "down", "clothes", "hat", "backpack", "bag", "handbag",
        "upcolour", "downcolour",
    )  # fmt: skip
    assert [a.width for a in schema.attributes] == [1, 1, 4, 1, 1, 1, 1, 1, 1, 1, 8, 9]
    assert len(schema.columns) == 30, "the '30' of some papers"
    assert schema.attributes[10].classes == tuple(
        "black white red purple gray blue green yellow".split()
    )
    assert (
        schema.attributes[11].classes[2] == "pink" and schema.attributes[11].classes[8] == "purple"
    )


def test_labels_are_joined_by_identity(market):
    both = open_dataset(market, "trainval")
    assert both.sample_ids == [
        "bounding_box_train/0002_c1s1_000009_02.jpg", "bounding_box_train/0002_c3s2_000002_01.jpg",
        "bounding_box_train/0007_c1s1_000003_01.jpg", "bounding_box_train/0010_c1s1_000001_01.jpg",
    ]  # fmt: skip
    assert both.identities == ("0002", "0002", "0007", "0010")
    assert positives(both, 0) == {"age=adult", "upcolour=red", "downcolour=purple"}
    assert positives(both, 1) == positives(both, 0)
    assert positives(both, 2) == {"gender", "age=old", "upcolour=yellow", "downcolour=purple"}
    assert positives(both, 3) == {"age=teenager", "up"}, "field 'up' is a length, no colour"
    assert [round(both[i][0].mean() / 50) for i in range(4)] == [2, 1, 3, 0]
    assert (both.raw != 0).all() and both.label[0].sum() == 3 and both.mask.all()


def test_no_colour_is_known_to_be_none_of_the_classes(market):
    both = open_dataset(market, "trainval")
    colours = both.schema.slices()[10:]
    assert [(both.raw[3, c] == -1).all() for c in colours] == [True, True]
    text = open_dataset(market, "trainval").report.text()
    assert "upcolour: 1 images with none of the classes, 0 with several" in text


def test_fields_are_taken_by_name_in_the_other_order_of_test(market):
    test = open_dataset(market, "test")
    order = loadmat(market / "market_attribute.mat")["market_attribute"][0][0]
    assert order["train"].dtype.names[:-1] == order["test"].dtype.names[:-1][::-1]
    assert test.sample_ids == [
        "bounding_box_test/0001_c6s3_00000_0.jpg", "bounding_box_test/0003_c1s1_000001_01.jpg",
    ]  # fmt: skip
    assert positives(test, 0) == {"age=young", "upcolour=black", "downcolour=blue"}
    assert positives(test, 1) == {"down", "upcolour=black", "downcolour=blue", "downcolour=green"}
    query = open_dataset(market, "query")
    assert query.sample_ids == ["query/0003_c2s1_000005_00.jpg"] and query.identities == ("0003",)
    np.testing.assert_array_equal(query.raw[0], test.raw[1])


def test_rows_of_several_colours_and_missing_values(market):
    test = open_dataset(market, "test")
    age = test.schema.slices()[2]
    np.testing.assert_array_equal(test.raw[1, age], [0, 0, 0, 0])
    np.testing.assert_array_equal(test.mask[1, age], [0, 0, 0, 0])
    text = test.report.text()
    assert "downcolour: 0 images with none of the classes, 1 with several" in text
    assert "test: 1 images with missing labels" in text
    assert "test: 2 images of -1 and 0000 left out" in text
    assert "test: 2 identities, published 750 (-748)" in text
    write_mat(market, market_mat(test=dict(TEST, upwhite={"0001": 0})))
    test = open_dataset(market, "test")
    assert (test.raw[0, test.schema.slices()[10]] == 0).all(), "a colour missing: none is known"


def test_missing_labels_are_masked_in_training_too(market):
    write_mat(market, market_mat(train=dict(TRAIN, hat={"0007": 0})))
    both = open_dataset(market, "trainval")
    assert both.mask[2].sum() == 29 and both.mask[2, both.names.index("hat")] == 0
    assert open_dataset(market, "trainval", LabelPolicy()).mask.all(), "a given policy rules"


def test_validation_holds_out_whole_identities(tmp_path):
    write_tiny("market", tmp_path, {"train": 80, "val": 40, "test": 8})
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    both = open_dataset(tmp_path, "trainval")
    assert not set(train.identities) & set(val.identities)
    assert len(set(val.identities)) == 4 and len(set(both.identities)) == 40
    assert sorted(train.sample_ids + val.sample_ids) == both.sample_ids
    assert len(val) == 12 and val.report.counts[0].identities == 4
    again = open_dataset(tmp_path, "val")
    assert again.identities == val.identities, "the same in every run"
    assert open_dataset(tmp_path, "val", seed=1).identities != val.identities
    assert len(set(open_dataset(tmp_path, "val", holdout=0.25).identities)) == 10
    (tmp_path / val.sample_ids[0]).unlink()
    assert set(open_dataset(tmp_path, "val").identities) == set(val.identities)


def change(**fields):
    content = market_mat()
    content["train"].update(fields)
    return content


def without(field):
    content = market_mat()
    del content["train"][field]
    return content


@pytest.mark.parametrize(
    "content, message",
    [
        (change(gender=np.array([[1, 3, 1]])), "train.gender: identity '0007' has value 3"),
        (change(age=np.array([[1, 5, 1]])), "train.age: identity '0007' has value 5; .*4, and"),
        (change(upred=np.array([[1, 2]])), "train.upred: 2 values for 3 identities"),
        (change(hat=cell(["a"])), "train.hat: expected a matrix of numbers"),
        (without("down"), "train: field 'down' is missing; has age, backpack"),
        (without("image_index"), "train: field 'image_index' is missing"),
        (change(image_index=cell(["0002", "0007", "0007"])), "index: identity '0007' comes"),
        (change(image_index=cell(["0002", "7", "0010"])), "'7' is no identity of four"),
        (
            market_mat(people=("0002", "0007")),
            "identity '0010' and 0 more have no labels in .*train",
        ),
        ({"test": market_mat()["test"]}, "market_attribute: field 'train' is missing; has test"),
    ],
)
def test_malformed_fields_are_named(market, content, message):
    write_mat(market, content)
    assert "market_attribute.mat" in refuses(message, market, "trainval")


def test_missing_folders_and_odd_names(market):
    (market / "query" / "0003_c2s1_000005_00.jpg").unlink()
    refuses("split 'query' is empty", market, "query")
    image(market / "query/cat.jpg", 0, (8, 4))
    refuses("cat.jpg: no identity; expected a name like 0002_c1s1", market, "query")
    (market / "query" / "cat.jpg").unlink()
    (market / "query").rmdir()
    refuses("query is missing", market, "query", error=FileNotFoundError)
    refuses("Market-1501-attribute: unknown split 'gallery'", market, "gallery")


@pytest.fixture
def duke(tmp_path):
    people = ["0001", "0370", "0679"]
    train = {
        "top": {"0001": 2, "0370": 0, "0679": 0}, "upbrown": {"0001": 2}, "downred": {"0370": 2},
        "shoes": {"0679": 2}, "boots": {"0370": 2},
    }  # fmt: skip
    content = {
        "train": part(DUKE_FIELDS, people, train),
        "test": part(DUKE_FIELDS, ["0002"], {"top": {"0002": 0}}, -1),
    }
    write_mat(tmp_path, content, "duke_attribute")
    for k, person in enumerate(people):
        image(tmp_path / f"bounding_box_train/{person}_c2_f0046182.jpg", 50 * k, (8, 4))
    image(tmp_path / "bounding_box_test/0002_c1_f0044158.jpg", 9, (8, 4))
    return tmp_path


def test_duke(duke):
    assert detect_kind(duke) == "duke"
    both = open_dataset(duke, "trainval")
    assert both.schema.names == (
        "gender", "top", "boots", "hat", "backpack", "bag", "handbag", "shoes", "upcolour",
        "downcolour",
    )  # fmt: skip
    assert len(both.names) == 23 and both.identities == ("0001", "0370", "0679")
    assert positives(both, 0) == {"top", "upcolour=brown"}
    assert positives(both, 1) == {"boots", "downcolour=red"} and positives(both, 2) == {"shoes"}
    assert open_dataset(duke, "test").identities == ("0002",)


def test_missing_tops_of_duke_are_unspecified_or_repaired(duke):
    top = open_dataset(duke, "trainval").names.index("top")
    assert open_dataset(duke, "trainval").raw[:, top].tolist() == [1, 0, 0]
    assert open_dataset(duke, "trainval").mask[:, top].tolist() == [1, 0, 0]
    repaired = open_dataset(duke, "trainval", repair=True)
    assert repaired.raw[:, top].tolist() == [1, -1, 1], "0370 short, 0679 long"
    assert open_dataset(duke, "test", repair=True).raw[0, top] == 0, "nothing else is invented"
