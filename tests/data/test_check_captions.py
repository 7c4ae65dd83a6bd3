from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from modelzoo.text_encoders.tokenization import train_tokenizer
from stages.artifacts import read_json, write_json, write_table
from stages.check_captions import Artifacts, Params, run
from stages.tables import to_table

Rows = Callable[[Path, str], list[dict[str, Any]]]


@pytest.fixture
def out(tmp_path: Path) -> Artifacts:
    folder = tmp_path / "tokenizer"
    train_tokenizer(["one two three four"], 300, 32, folder)
    write_json(tmp_path / "tokenizer.json", {"path": str(folder), "digest": "", "class_name": ""})
    return Artifacts(
        tmp_path / "images.parquet",
        tmp_path / "tokenizer.json",
        tmp_path / "captions.parquet",
        tmp_path / "captions.json",
        tmp_path / "ledger.parquet",
    )


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
    run(Params("mine", 0.0), out)
    assert rows_of(out.captions, "captions") == [
        {"sample_id": "00", "caption": "one two"},
        {"sample_id": "01", "caption": "three"},
    ]


def test_few_missing_captions_are_left_out_with_a_reason(out: Artifacts, rows_of: Rows) -> None:
    write_images(out, ["one", None, " \n", "two", "three"], held_out=1)
    run(Params("mine", 0.4), out)
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
        run(Params("data/raw/mine", 0.5), out)
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
        run(Params("mine", 1.0), out)


def test_the_report_counts_lengths_copies_and_what_is_cut(out: Artifacts) -> None:
    long = "one two three four " * 30
    write_images(out, ["one", "one", "two two", long])
    run(Params("mine", 0.0), out)
    report = read_json(out.report)
    assert report["distinct_captions"] == 3
    assert report["duplicate_captions"] == 1
    assert report["most_frequent"] == [{"caption": "one", "samples": 2}]
    assert report["truncated_captions"] == 1
    assert report["truncated"] == ["03.png"]
    assert 0 < report["max_tokens"] < 32
    lengths = {row["tokens"]: row["captions"] for row in report["token_lengths"]}
    assert sum(lengths.values()) == 4
    assert max(lengths) > report["max_tokens"]
    assert sum(n for tokens, n in lengths.items() if tokens <= report["max_tokens"]) == 3


def test_outputs_have_the_same_bytes_each_time(out: Artifacts) -> None:
    write_images(out, ["b", "a", "b", None], held_out=2)
    outputs = (out.captions, out.report, out.ledger)
    run(Params("mine", 0.5), out)
    before = [path.read_bytes() for path in outputs]
    run(Params("mine", 0.5), out)
    assert [path.read_bytes() for path in outputs] == before


def test_a_tokenizer_that_is_not_there_is_one_sentence(out: Artifacts, tmp_path: Path) -> None:
    write_images(out, ["one"])
    write_json(out.tokenizer, {"path": str(tmp_path / "gone")})
    with pytest.raises(FileNotFoundError, match="gone: there is no tokenizer"):
        run(Params("mine", 0.0), out)
    assert not out.captions.exists()
