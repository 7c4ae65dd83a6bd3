from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from modelzoo.text_encoders.tokenizer_training import train_tokenizer
from stages.artifacts import read_json, write_table
from stages.base_record import Part, write_record
from stages.check_captions import Artifacts, Params, run
from stages.tables import to_table

Rows = Callable[[Path, str], list[dict[str, Any]]]


@pytest.fixture
def out(tmp_path: Path) -> Artifacts:
    record_tokenizers(tmp_path, {"qwen3": 32})
    return Artifacts(
        tmp_path / "images.parquet",
        tmp_path / "tokenizer.json",
        tmp_path / "captions.parquet",
        tmp_path / "captions.json",
        tmp_path / "ledger.parquet",
    )


def record_tokenizers(folder: Path, lengths: dict[str, int]) -> None:
    """Train a tokenizer of each kind and name them in a record, as prepare_base does."""
    parts = {}
    for place, (kind, length) in enumerate(lengths.items(), start=1):
        name = "tokenizer" if place == 1 else f"tokenizer_{place}"
        train_tokenizer(kind, ["one two three four"], 600, length, folder / kind)
        parts[name] = Part(kind, folder / kind, "")
    write_record(folder / "tokenizer.json", parts, {"lengths": lengths})


def write_images(out: Artifacts, captions: Sequence[str | None], held_out: int = 0) -> None:
    rows = [
        {
            "sample_id": f"{i:02}",
            "content": f"{i:02}",
            "path": f"{i:02}.png",
            "width": 32,
            "height": 32,
            "caption": caption,
            "split": "validation" if i < held_out else "train",
            "role": "target",
        }
        for i, caption in enumerate(captions)
    ]
    write_table(out.images, to_table(rows, "images"), "images")


def test_captions_are_stripped_and_keep_their_sample(out: Artifacts, rows_of: Rows) -> None:
    write_images(out, ["one two\n", "  three "])
    run(Params("flux2", "mine", 0.0), out)
    assert rows_of(out.captions, "captions") == [
        {"sample_id": "00", "caption": "one two"},
        {"sample_id": "01", "caption": "three"},
    ]


def test_few_missing_captions_are_left_out_with_a_reason(out: Artifacts, rows_of: Rows) -> None:
    write_images(out, ["one", None, " \n", "two", "three"], held_out=1)
    run(Params("flux2", "mine", 0.4), out)
    assert [row["sample_id"] for row in rows_of(out.captions, "captions")] == ["00", "03", "04"]
    ledger = [(r["path"], r["fate"], r["reason"]) for r in rows_of(out.ledger, "ledger")]
    assert ledger == [
        ("00.png", "validation", ""),
        ("01.png", "excluded", "no caption"),
        ("02.png", "excluded", "empty caption"),
        ("03.png", "kept", ""),
        ("04.png", "kept", ""),
    ]
    report = read_json(out.report)
    assert (report["samples"], report["missing_captions"], report["empty_captions"]) == (5, 1, 1)


def test_many_missing_captions_fail_and_ten_are_named(out: Artifacts) -> None:
    write_images(out, ["one", *[None] * 12])
    with pytest.raises(ValueError, match="12 of 13 pictures have no caption") as caught:
        run(Params("flux2", "data/raw/mine", 0.5), out)
    message = str(caught.value)
    assert message.startswith("data/raw/mine: ")
    assert "01.png, 02.png" in message
    assert "10.png and 2 more" in message
    assert "data.max_missing_caption_fraction" in message
    assert "\n" not in message
    assert not any(path.exists() for path in (out.captions, out.report, out.ledger))


def test_a_dataset_without_any_caption_fails_whatever_is_allowed(out: Artifacts) -> None:
    write_images(out, [None, None])
    with pytest.raises(ValueError, match="2 of 2 pictures have no caption"):
        run(Params("flux2", "mine", 1.0), out)


def test_the_report_counts_lengths_copies_and_what_is_cut(out: Artifacts) -> None:
    long = "one two three four " * 30
    write_images(out, ["one", "one", "two two", long])
    run(Params("flux2", "mine", 0.0), out)
    report = read_json(out.report)
    assert report["distinct_captions"] == 3
    assert report["duplicate_captions"] == 1
    assert report["most_frequent"] == [{"caption": "one", "samples": 2}]
    encoder = report["text_encoders"]["qwen3"]
    assert encoder["truncated_captions"] == 1
    assert encoder["truncated"] == ["03.png"]
    assert 0 < encoder["max_tokens"] < 32
    lengths = {row["tokens"]: row["captions"] for row in encoder["token_lengths"]}
    assert sum(lengths.values()) == 4
    assert max(lengths) > encoder["max_tokens"]
    assert sum(n for tokens, n in lengths.items() if tokens <= encoder["max_tokens"]) == 3


@pytest.mark.parametrize(
    ("family", "asked", "rooms"),
    [
        ("sdxl", {"clip_l": 12, "clip_g": 12}, {"clip_l": 10, "clip_g": 10}),
        ("flux", {"clip_l": 8, "t5": 20}, {"clip_l": 6, "t5": 19}),
        ("sd3", {"clip_l": 8, "clip_g": 8, "t5": 20}, {"clip_l": 6, "clip_g": 6, "t5": 19}),
    ],
)
def test_each_text_encoder_of_a_family_has_a_room_of_its_own(
    out: Artifacts, tmp_path: Path, family: str, asked: dict[str, int], rooms: dict[str, int]
) -> None:
    record_tokenizers(tmp_path, asked)
    write_images(out, ["one", "one two three four " * 2])
    run(Params(family, "mine", 0.0), out)
    encoders = read_json(out.report)["text_encoders"]
    assert {kind: each["max_tokens"] for kind, each in encoders.items()} == rooms
    for each in encoders.values():
        longest = max(row["tokens"] for row in each["token_lengths"])
        assert each["truncated_captions"] == (longest > each["max_tokens"])
    assert encoders["clip_l"]["truncated_captions"] == (rooms["clip_l"] < 8)


def test_outputs_have_the_same_bytes_each_time(out: Artifacts) -> None:
    write_images(out, ["b", "a", "b", None], held_out=2)
    outputs = (out.captions, out.report, out.ledger)
    run(Params("flux2", "mine", 0.5), out)
    before = [path.read_bytes() for path in outputs]
    run(Params("flux2", "mine", 0.5), out)
    assert [path.read_bytes() for path in outputs] == before


def test_a_tokenizer_that_is_not_there_is_one_sentence(out: Artifacts, tmp_path: Path) -> None:
    write_images(out, ["one"])
    parts = {"tokenizer": Part("Qwen2Tokenizer", tmp_path / "gone", "")}
    write_record(out.tokenizer, parts, {"lengths": {}})
    with pytest.raises(FileNotFoundError, match="gone: there is no tokenizer"):
        run(Params("flux2", "mine", 0.0), out)
    assert not out.captions.exists()
