"""Row keys depend on every part, and on nothing else."""

import pytest

from stages.rows.keys import key_of, parts_text, row_key, table_name
from stages.rows.layout import Column


def test_a_key_does_not_depend_on_the_order_of_its_parts():
    assert row_key(content="a", size=[1, 2]) == row_key(size=[1, 2], content="a")


def test_each_part_changes_the_key():
    parts = {"content": "a", "size": [1, 2], "scale": 0.5}
    changed = [{**parts, "content": "b"}, {**parts, "size": [2, 1]}, {**parts, "scale": 0.25}]
    assert len({row_key(**some) for some in [parts, *changed]}) == 4


def test_a_part_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        row_key(scale=float("nan"))


def test_a_long_part_is_named_by_its_digest_and_still_changes_the_key():
    ids = list(range(77))
    text = parts_text(ids=ids, layers=[1, 2])
    assert '"layers":[1,2]' in text
    assert '"length":77' in text
    assert len(text) < 200
    assert row_key(ids=ids) != row_key(ids=[*ids[:-1], 0])


def test_a_key_is_the_hash_of_its_parts():
    assert key_of(parts_text(content="a", size=[1, 2])) == row_key(size=[1, 2], content="a")


def test_a_table_is_named_by_the_shape_and_dtype_of_its_rows():
    assert table_name("latents", {"mean": (32, 4, 12)}) == "latents-32x4x12-float32"
    columns = {"context": Column((77, 8), "bfloat16"), "pooled": Column((8,))}
    assert table_name("text", columns) == "text-77x8-bfloat16-8-float32"
