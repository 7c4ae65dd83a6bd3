"""What is found in captions as they are written, and words in those that are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.check_captions.limits import Limit, Problem, named
from stages.check_captions.words import count_words, word_pattern
from stages.check_captions.written import (
    Written,
    defects,
    duplicates,
    problem,
    unclean,
    written_captions,
)
from stages.params.captions import Captions


def written(*captions: str) -> list[Written]:
    return [Written(f"{i:02}", f"{i:02}.png", 0, each) for i, each in enumerate(captions)]


@pytest.mark.parametrize(
    ("caption", "kinds"),
    [
        ("a <b>red</b> cube", ["HTML tag"]),
        ("a cube<br/>", ["HTML tag"]),
        ("<A HREF='x'>cube", ["HTML tag"]),
        ("<!-- hidden --> cube", ["HTML tag"]),
        ("salt &amp; pepper", ["HTML entity"]),
        ("it&#39;s", ["HTML entity"]),
        ("it&#x27;s", ["HTML entity"]),
        ("<p>salt &nbsp; pepper", ["HTML tag", "HTML entity"]),
        ("a\x00cube", ["control character"]),
        ("a\x7fcube", ["control character"]),
        ("a\ufeffcube", ["invisible character"]),
        ("a\u200bcube", ["invisible character"]),
        ("\u202ecube", ["invisible character"]),
        ("caf\ufffd", ["replacement sign"]),
    ],
)
def test_what_is_no_text_is_found(caption: str, kinds: list[str]) -> None:
    assert [kind for kind, _ in defects(caption)] == kinds


@pytest.mark.parametrize(
    "caption",
    [
        "I <3 cubes, 1 < 2 > 0",
        "a photo of <cat-toy> and <s1>",
        "<a-toy> on a table",
        "AT&T; salt & pepper",
        "two\tlines\r\nof text",
        "a family \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "می\u200cخواهم, 猫, ñandú, naïve",
        ">_<, :{, (o)_(o)",
    ],
)
def test_what_only_looks_like_it_is_left_alone(caption: str) -> None:
    assert not list(defects(caption))


@given(st.text())
def test_no_text_is_a_traceback(caption: str) -> None:
    for kind, instance in defects(caption):
        assert kind
        assert "\n" not in instance


def test_unclean_captions_are_counted_by_kind_and_shown() -> None:
    report, problems = unclean(written("fine", "a<br>&lt;", "<br>"))
    assert report["unclean_captions"] == 2
    assert report["unclean"] == {"HTML tag": 2, "HTML entity": 1}
    assert report["first_unclean"][0] == {
        "path": "01.png",
        "problem": "HTML tag '<br>', HTML entity '&lt;'",
        "caption": "a<br>&lt;",
    }
    assert [each.path for each in problems] == ["01.png", "02.png"]


def test_copies_are_told_by_the_caption_without_its_margins() -> None:
    report, problems = duplicates(written("one", " one\n", "One", "one"))
    assert (report["distinct_captions"], report["duplicate_captions"]) == (2, 2)
    assert problems == [Problem("01.png", "like 00.png"), Problem("03.png", "like 00.png")]


@given(st.lists(st.text("ab ", min_size=1, max_size=3).filter(str.strip), max_size=20))
def test_distinct_captions_and_copies_add_up(captions: list[str]) -> None:
    report, problems = duplicates(written(*captions))
    assert report["distinct_captions"] + report["duplicate_captions"] == len(captions)
    assert len(problems) == report["duplicate_captions"]
    again, _ = duplicates(written(*captions)[::-1])
    assert again == report


def test_a_blank_caption_beside_others_is_passed_over() -> None:
    sample = {"sample_id": "0", "path": "0.png", "captions": [" ", "one", "\n"]}
    assert written_captions([sample]) == [Written("0", "0.png", 1, "one")]
    assert [problem(each) for each in ([], ["", " "], ["", "a"])] == [
        "no caption",
        "empty caption",
        "",
    ]


@pytest.mark.parametrize(
    ("word", "caption", "found"),
    [
        ("sks", "a SKS dog", True),
        ("sks", "(sks), dog", True),
        ("sks", "sksish tasks", False),
        ("sks", "sks_dog", False),
        ("sks dog", "a sks\n dog", True),
        ("<s1>", "a <s1>dog", False),
        ("<s1>", "a <s1> dog", True),
        ("c++", "c++ code", True),
        ("größe", "GRÖSSE GRÖßE", True),
    ],
)
def test_words_are_whole_and_of_any_case(word: str, caption: str, found: bool) -> None:
    assert bool(word_pattern(word).search(caption)) == found


def words_of(captions: Sequence[str], **settings: Any) -> dict[str, Any]:
    rows = [
        {"sample_id": str(i // 2), "variant": i % 2, "caption": each}
        for i, each in enumerate(captions)
    ]
    paths = {row["sample_id"]: f"{row['sample_id']}.png" for row in rows}
    return count_words(rows, paths, Captions(**settings))


CAPTIONS = ["sks dog", "sks", "a dog", "sks dog", "cat", "cat"]  # two a sample


def test_a_sample_has_the_trigger_word_where_all_its_captions_have_it() -> None:
    report = words_of(CAPTIONS, trigger_word="sks")
    trigger = report["trigger_word"]
    assert (trigger["captions"], trigger["samples"], trigger["fraction"]) == (3, 1, 1 / 3)
    assert trigger["without"] == {"captions": 3, "samples": 2, "first": ["1.png", "2.png"]}
    assert report["class_word"] is None


def test_the_class_word_without_the_trigger_is_told_from_the_trigger_without_the_class() -> None:
    kind = words_of(CAPTIONS, trigger_word="sks", class_word="dog")["class_word"]
    assert kind["with"] == {"captions": 3, "samples": 2, "first": ["0.png", "1.png"]}
    assert kind["trigger_alone"] == {"captions": 1, "samples": 1, "first": ["0.png"]}
    assert kind["class_alone"] == {"captions": 1, "samples": 1, "first": ["1.png"]}
    alone = words_of(CAPTIONS, class_word="dog")
    assert alone["trigger_word"] is None
    assert alone["class_word"].keys() == {"word", "with"}


def test_ten_files_are_named_once_each_and_the_others_counted() -> None:
    problems = [Problem(f"{i:02}.png", says) for i in range(12) for says in ("b", "a")]
    text = named(reversed(problems))
    assert text.startswith("00.png (a), 01.png (a), ")
    assert text.endswith("09.png (a) and 2 more")


@pytest.mark.parametrize("share", [0.29, 0.57, 0.58, 0.07])
def test_a_limit_allows_its_own_share_in_spite_of_rounding(share: float) -> None:
    limit = Limit("key", share, "are bad", "mend them")
    count = round(share * 100)
    limit.hold("mine", [Problem("a")] * count, 100)
    with pytest.raises(ValueError, match=r"mine: .* are bad, more than key = 0"):
        limit.hold("mine", [Problem("a")] * (count + 1), 100)
