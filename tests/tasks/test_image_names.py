"""Two images of one name are told apart in the tables of predictions."""

from __future__ import annotations

import pytest

from gluon_attn.tasks.images import format_table, short_names

LONG = "a-name-of-more-than-22-letters.png"


@pytest.mark.parametrize("paths, shown", [
    (["x/a.png", "y/b.png"], ["a.png", "b.png"]),
    (["x/a.png", "y/a.png", "y/b.png"], ["x/a.png", "y/a.png", "b.png"]),
    (["1/x/a.png", "2/x/a.png", "3/y/a.png"], ["1/x/a.png", "2/x/a.png", "y/a.png"]),
    (["a.png", "x/a.png"], ["a.png", "x/a.png"]),
    ([f"x/{LONG}"], ["…e-than-22-letters.png"]),
    ([f"x/{LONG}", f"x/un{LONG}"], [LONG, f"un{LONG}"]),
    ([f"x/{LONG}", f"y/{LONG}"], [f"x/{LONG}", f"y/{LONG}"]),
    (["x/a.png", "x/a.png"], ["a.png", "a.png"]),
])  # fmt: skip
def test_a_name_is_as_long_as_it_takes_to_tell_images_apart(paths, shown):
    names = short_names([{"image": path} for path in paths])
    assert [names[path] for path in paths] == shown


def test_the_table_has_a_column_for_each():
    record = {"box": None, "positives": ["hat"], "probabilities": {"hat": 0.9}, "error": None}
    text = format_table([{**record, "image": f"{k}/a.png"} for k in (1, 2)], ["hat"])
    assert "1/a.png" in text and "2/a.png" in text
