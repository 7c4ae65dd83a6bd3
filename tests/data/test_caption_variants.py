"""Shuffled, dropped and chosen parts of captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.check_captions.variants import draw, variants
from stages.check_captions.written import Written
from stages.params.captions import Captions
from stages.randomness import generator
from stages.wildcards import choose, is_balanced

TAG = st.text("abc xyz0-", min_size=1, max_size=5).map(str.strip).filter(bool)
TAGS = st.lists(TAG, min_size=1, max_size=9)
TEN = ", ".join("abcdefghij")


def texts_of(captions: Sequence[str], seed: int = 0, **settings: Any) -> list[str]:
    written = [Written(f"{i:02}", f"{i:02}.png", 0, each) for i, each in enumerate(captions)]
    return [row["caption"] for row in variants(written, Captions(**settings), seed, "mine")]


def one(caption: str, *purpose: str | int, **settings: Any) -> str:
    return draw(caption, Captions(**settings), purpose)


def split(caption: str) -> list[str]:
    return caption.split(", ")


@given(tags=TAGS, keep=st.integers(0, 4), seed=st.integers(0, 50))
def test_a_shuffle_keeps_all_tags_and_the_first_ones_in_place(
    tags: list[str], keep: int, seed: int
) -> None:
    shuffled = split(one(", ".join(tags), seed, shuffle_tags=True, keep_tags=keep))
    assert Counter(shuffled) == Counter(tags)
    assert shuffled[:keep] == tags[:keep]


@given(
    tags=TAGS,
    keep=st.integers(0, 4),
    dropout=st.floats(0.01, 0.99),
    seed=st.integers(0, 50),
)
def test_dropout_leaves_the_kept_tags_and_never_nothing(
    tags: list[str], keep: int, dropout: float, seed: int
) -> None:
    left = split(one(", ".join(tags), seed, tag_dropout=dropout, keep_tags=keep))
    assert left[:keep] == tags[:keep]
    assert left != [""]
    rest = iter(tags)
    assert all(tag in rest for tag in left), "the tags that stay keep their order"


@given(tags=TAGS, seed=st.integers(0, 50))
def test_a_smaller_dropout_keeps_what_a_larger_one_keeps(tags: list[str], seed: int) -> None:
    fewer, more = (
        Counter(split(one(", ".join(tags), seed, tag_dropout=share))) for share in (0.8, 0.3)
    )
    assert fewer <= more


@given(tags=TAGS, seed=st.integers(0, 50))
def test_shuffling_does_not_change_which_tags_are_dropped(tags: list[str], seed: int) -> None:
    straight, shuffled = (
        split(one(", ".join(tags), seed, tag_dropout=0.5, shuffle_tags=shuffle))
        for shuffle in (False, True)
    )
    assert Counter(straight) == Counter(shuffled)


@given(st.text())
def test_a_caption_of_which_nothing_is_drawn_is_only_stripped(caption: str) -> None:
    assert one(caption.strip(), 0) == caption.strip()


def test_braces_are_text_where_wildcards_are_off() -> None:
    assert texts_of(["x {a|b} }{"]) == ["x {a|b} }{"]


CHOICES = st.recursive(
    st.text("abc ", max_size=3),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda p: "{" + "|".join(p) + "}"),
    max_leaves=12,
)


@given(parts=st.lists(CHOICES, max_size=4), seed=st.integers(0, 50))
def test_no_brace_or_bar_of_a_wildcard_is_left(parts: list[str], seed: int) -> None:
    caption = "".join(parts)
    assert is_balanced(caption)
    chosen = choose(caption, generator(seed))
    assert not set(chosen) & set("{|}")


def test_every_part_of_a_wildcard_is_chosen_about_as_often() -> None:
    texts = Counter(
        choose("a {red|blue|{dark|light} green} cube", generator(i)) for i in range(900)
    )
    assert texts.keys() == {
        f"a {each} cube" for each in ("red", "blue", "dark green", "light green")
    }
    assert 250 < texts["a red cube"] < 350
    assert 100 < texts["a dark green cube"] < 200


def test_wildcards_are_chosen_before_tags_are_told_apart() -> None:
    texts = texts_of(["{a, b|c, d}"] * 40, wildcards=True, shuffle_tags=True)
    assert set(texts) == {"a, b", "b, a", "c, d", "d, c"}


def test_a_bar_outside_braces_is_text() -> None:
    assert one("a | b {c}", 0, wildcards=True) == "a | b c"


def test_deeply_nested_wildcards_are_no_traceback() -> None:
    assert one("{" * 3000 + "a" + "}" * 3000, 0, wildcards=True) == "a"


@pytest.mark.parametrize("caption", ["{a|b", "a}", "}a{", "{a|{b}"])
def test_a_brace_without_its_partner_names_the_file(caption: str) -> None:
    says = "mine: 1 of 2 captions have a brace without its partner: 01.png"
    with pytest.raises(ValueError, match=says) as caught:
        texts_of(["fine {a|b}", caption], wildcards=True)
    assert "data.captions.wildcards" in str(caught.value)


def test_a_caption_that_comes_out_empty_names_the_file() -> None:
    with pytest.raises(ValueError, match=r"mine: 2 of 4 drawn captions are empty: 01\.png"):
        texts_of(["fine", "{|}"], wildcards=True, variants=2)
    assert texts_of(["{|}"], wildcards=True, prefix="sks") == ["sks"]


def test_prefix_and_suffix_stand_around_what_is_drawn() -> None:
    (text,) = texts_of([TEN], shuffle_tags=True, prefix="photo of ", suffix=", 4k")
    assert text.startswith("photo of ")
    assert text.endswith(", 4k")
    assert Counter(split(text.removeprefix("photo of "))) == Counter([*split(TEN), "4k"])


def test_more_variants_keep_the_first_ones() -> None:
    def by_caption(count: int) -> list[list[str]]:
        texts = texts_of([TEN, TEN], shuffle_tags=True, tag_dropout=0.2, variants=count)
        return [texts[start : start + count] for start in range(0, len(texts), count)]

    two, four = by_caption(2), by_caption(4)
    assert [each[:2] for each in four] == two
    assert all(len(set(each)) == 4 for each in four)


def test_seed_sample_caption_and_number_each_change_the_draw() -> None:
    written = [Written(sample, "x.png", place, TEN) for sample in "ab" for place in (0, 1)]
    settings = Captions(shuffle_tags=True, variants=2)
    rows = [row for seed in (0, 1) for row in variants(written, settings, seed, "mine")]
    assert len({row["caption"] for row in rows}) == len(rows) == 16


def test_equal_variants_stay_rows_of_their_own() -> None:
    assert texts_of(["alone"], shuffle_tags=True, variants=3) == ["alone"] * 3


def test_tags_are_told_apart_by_the_separator_that_is_given() -> None:
    text = one("a, b; c; ; d", 0, shuffle_tags=True, tag_separator="; ")
    assert Counter(text.split("; ")) == Counter(["a, b", "c", "d"])
