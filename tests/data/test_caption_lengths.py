"""Tokens of captions, counted many at once, and what is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelzoo.text_encoders.tokenization import PromptTokenizer, load_tokenizers
from modelzoo.text_encoders.tokenizer_training import train_tokenizer
from stages.check_captions.lengths import count_tokens, histogram, report_lengths

CAPTIONS = [
    "",
    "one",
    "One two,  three\nfour",
    "naïve 猫 \U0001f408 [IMG] <s> </s>",
    "one two three four " * 30,
    "猫" * 200,
]
KINDS = {"sdxl": ("clip_l", "clip_g"), "flux": ("clip_l", "t5"), "flux2": ("qwen3",)}
KINDS |= {"mistral3": ("mistral3",)}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> PromptTokenizer:
    folders = {}
    for place, kind in enumerate(KINDS[request.param], start=1):
        name = "tokenizer" if place == 1 else f"tokenizer_{place}"
        length = 120 if kind == "mistral3" else 32
        train_tokenizer(kind, ["one two three four"], 700, length, tmp_path / kind)
        folders[name] = tmp_path / kind
    family = "flux2" if request.param == "mistral3" else request.param
    return load_tokenizers(family, folders)


def test_counting_many_at_once_counts_as_encoding_each(tokenizer: PromptTokenizer) -> None:
    for part in tokenizer.tokenizers.values():
        expected = [part.ids(caption).num_tokens for caption in CAPTIONS]
        assert part.count(CAPTIONS) == expected


def test_what_is_cut_is_the_end_that_the_text_encoder_does_not_see(
    tokenizer: PromptTokenizer,
) -> None:
    for part in tokenizer.tokenizers.values():
        assert not part.cut("")
        assert not part.cut("one two")
        long = "one two three four " * 30 + "end"
        cut = part.cut(long)
        assert cut
        assert long.endswith(cut)
        assert part.ids(long).ids == part.ids(long.removesuffix(cut) + cut.upper() * 2).ids
        assert part.ids(long).ids != part.ids(long.removesuffix(cut)[:-5] + " one" + cut).ids


def test_a_template_is_no_part_of_what_is_cut(tmp_path: Path) -> None:
    train_tokenizer("qwen3", ["one two three four"], 600, 32, tmp_path)
    (part,) = load_tokenizers("flux2", {"tokenizer": tmp_path}).tokenizers.values()
    longest = next(n for n in range(1, 99) if part.ids("one " * n).truncated)
    assert part.cut("one " * longest) == "", "only the template's end goes first"


def test_the_report_of_no_captions_has_every_bin(tokenizer: PromptTokenizer) -> None:
    counts = count_tokens([], tokenizer)
    report = report_lengths([], {}, tokenizer, counts)
    for each in report.values():
        assert each["longest_tokens"] == each["truncated_captions"] == 0
    rows = list(histogram(report))
    assert {row[1] for row in rows} == set(report)
    assert sum(row[3] for row in rows) == 0
