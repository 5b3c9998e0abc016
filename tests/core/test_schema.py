"""The schema: which columns belong to which attribute."""

import json

import numpy as np
import pytest

from gluon_attn.core.schema import Attribute, Schema

PEOPLE = Schema([
    Attribute("hat"), Attribute("age", "multiclass", ("child", "adult", "old"), "person"),
    Attribute("top", "multiclass", ("red", "blue")), Attribute("bag"),
])  # fmt: skip


def test_columns_follow_the_attributes():
    assert PEOPLE.columns == (
        "hat", "age=child", "age=adult", "age=old", "top=red", "top=blue", "bag",
    )  # fmt: skip
    assert [PEOPLE.columns[s] for s in PEOPLE.slices()] == [a.columns for a in PEOPLE.attributes]


def test_membership_is_a_partition_of_the_columns():
    membership = PEOPLE.membership()
    assert membership.shape == (4, 7)
    np.testing.assert_array_equal(membership.sum(0), np.ones(7))
    np.testing.assert_array_equal(membership.sum(1), [a.width for a in PEOPLE.attributes])
    np.testing.assert_array_equal(Schema.binary("abc").membership(), np.eye(3))


def test_json_round_trip():
    again = Schema.from_json(json.loads(json.dumps(PEOPLE.to_json())))
    assert again == PEOPLE and hash(again) == hash(PEOPLE)
    assert not PEOPLE.is_binary and Schema.binary(["a", "b"]).is_binary
    assert Schema.binary(["a", "b"]) != PEOPLE


@pytest.mark.parametrize(
    "attributes, message",
    [
        ([], "at least one"),
        ([Attribute("a"), Attribute("a")], "repeated attribute name: a"),
        ([Attribute("a=b"), Attribute("a", "multiclass", ("b", "c"))], "repeated column"),
        ([Attribute("a", "multiclass", ("b",))], "'a' is multiclass and has 1 classes"),
        ([Attribute("a", "binary", ("b", "c"))], "'a' is binary and has 2 classes"),
        ([Attribute("a", "ordinal")], "kind 'ordinal'"),
        ([Attribute("a", "multiclass", ("b", "b"))], "repeated column name: a=b"),
    ],
)
def test_nonsense_is_refused(attributes, message):
    with pytest.raises(ValueError, match=message):
        Schema(attributes)


@pytest.mark.parametrize("items", [[{"name": "a"}], [3], [{"name": "a", "kind": "binary"}]])
def test_other_json_is_refused(items):
    with pytest.raises(ValueError, match="not an attribute schema"):
        Schema.from_json(items)


def test_decisions_by_threshold_and_by_argmax():
    schema = Schema([Attribute("hat"), Attribute("age", "multiclass", ("young", "old"))])
    probabilities = np.array([[0.5, 0.2, 0.3], [0.4, 0.9, 0.8], [np.nan] * 3])
    positive = schema.decide(probabilities, [0.5, 0.99, 0.99])
    assert positive.tolist() == [[True, False, True], [False, True, False], [False] * 3]
    assert schema.values(positive[0]) == {"hat": True, "age": "old"}
    assert schema.values(positive[1]) == {"hat": False, "age": "young"}
