from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from modelzoo.text_encoders.tokenizer_training import train_tokenizer
from stages.base_record import Part, write_record
from stages.bucket import stage as bucket
from stages.check_captions import stage as check_captions
from stages.ingest import stage as ingest
from stages.params.captions import Captions
from tests.data.bucketing import DIGITS
from tests.data.ingesting import artifacts, ingest_params

Rows = Callable[[Path, str], list[dict[str, Any]]]
GOES_ON = ("kept", "validation")


def test_every_file_ends_in_a_bucket_or_in_one_ledger_with_a_reason(
    paired_images: Path, tmp_path: Path, rows_of: Rows
) -> None:
    (paired_images / "0.png").write_bytes(b"")
    (paired_images / "1.txt").write_text(" ")
    (paired_images / "lonely.txt").write_text("a caption")
    shutil.copy(paired_images / "2.png", paired_images / "copy.png")
    shutil.copy(paired_images / "2.txt", paired_images / "copy.txt")
    Image.new("RGB", (9, 9)).save(paired_images / "tiny.png")
    (paired_images / "tiny.txt").write_text("too small")
    files = {p.relative_to(paired_images).as_posix() for p in paired_images.rglob("*.png")}
    files.add("lonely.txt")

    out = tmp_path / "out"
    train_tokenizer("qwen3", ["picture"], 300, 32, out / "tokenizer")
    parts = {"tokenizer": Part("Qwen2Tokenizer", out / "tokenizer", "")}
    write_record(out / "tokenizer.json", parts, {"lengths": {}})
    images, captions = out / "images.parquet", out / "captions.parquet"
    ledgers = [out / "1.parquet", out / "2.parquet", out / "3.parquet"]
    ingest.run(
        ingest_params(paired_images, validation_fraction=0.2),
        replace(artifacts(out), images=images, ledger=ledgers[0]),
    )
    check_captions.run(
        check_captions.Params("flux2", "mine", 0.5, Captions(), 0),
        check_captions.Artifacts(
            images,
            out / "tokenizer.json",
            captions,
            out / "captions.json",
            ledgers[1],
            out / "caption_lengths.csv",
        ),
    )
    bucket.run(
        replace(DIGITS, resolution=32, steps=16, min_side=16, max_side=64),
        bucket.Artifacts(
            images, captions, out / "buckets.parquet", out / "buckets.csv", ledgers[2]
        ),
    )

    expected = files
    for path in ledgers:
        rows = rows_of(path, "ledger")
        assert sorted(row["path"] for row in rows) == sorted(expected)
        assert all((row["reason"] == "") == (row["fate"] in GOES_ON) for row in rows)
        expected = {row["path"] for row in rows if row["fate"] in GOES_ON}
    buckets = rows_of(out / "buckets.parquet", "buckets")
    assert {row["path"] for row in buckets} == expected
    assert expected == files - {"0.png", "1.png", "lonely.txt", "tiny.png"}
