"""The stage check_captions, from tables to tables."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from modelzoo.text_encoders.tokenizer_training import train_tokenizer
from stages.artifacts import read_json, read_table, write_table
from stages.base_record import Part, write_record
from stages.check_captions.stage import Artifacts, Params, run
from stages.params.captions import Captions
from stages.tables import to_table

Rows = Callable[[Path, str], list[dict[str, Any]]]
Written = Sequence[str] | str | None  # captions of a sample; a text is one, None is none


@pytest.fixture
def out(tmp_path: Path) -> Artifacts:
    record_tokenizers(tmp_path, {"qwen3": 32})
    return Artifacts(
        tmp_path / "images.parquet",
        tmp_path / "tokenizer.json",
        tmp_path / "captions.parquet",
        tmp_path / "captions.json",
        tmp_path / "ledger.parquet",
        tmp_path / "lengths.csv",
    )


def params(missing: float = 0.0, family: str = "flux2", seed: int = 0, **captions: Any) -> Params:
    return Params(family, "mine", missing, Captions(**captions), seed)


def record_tokenizers(folder: Path, lengths: dict[str, int]) -> None:
    """Train a tokenizer of each kind and name them in a record, as prepare_base does."""
    parts = {}
    for place, (kind, length) in enumerate(lengths.items(), start=1):
        name = "tokenizer" if place == 1 else f"tokenizer_{place}"
        train_tokenizer(kind, ["one two three four"], 600, length, folder / kind)
        parts[name] = Part(kind, folder / kind, "")
    write_record(folder / "tokenizer.json", parts, {"lengths": lengths})


def image(name: str, captions: Written, split: str = "train", **other: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sample_id": name,
        "role": "target",
        "index": 0,
        "content": name,
        "path": f"{name}.png",
        "width": 32,
        "height": 32,
        "captions": [captions] if isinstance(captions, str) else list(captions or ()),
        "split": split,
        "dataset": "",
        "repeats": 1,
        "weight": 1.0,
        "prior": False,
        "focal_x": None,
        "focal_y": None,
        "perceptual_hash": "0" * 16,
        "notes": "",
    }
    return row | other


def write_images(out: Artifacts, captions: Sequence[Written], held_out: int = 0) -> None:
    rows = [
        image(f"{i:02}", each, "validation" if i < held_out else "train")
        for i, each in enumerate(captions)
    ]
    write_table(out.images, to_table(rows, "images"), "images")


def test_captions_are_stripped_and_keep_their_sample(out: Artifacts, rows_of: Rows) -> None:
    write_images(out, ["one two\n", "  three "])
    run(params(), out)
    assert rows_of(out.captions, "captions") == [
        {"sample_id": "00", "variant": 0, "caption": "one two"},
        {"sample_id": "01", "variant": 0, "caption": "three"},
    ]


def test_few_missing_captions_are_left_out_with_a_reason(out: Artifacts, rows_of: Rows) -> None:
    write_images(out, ["one", None, " \n", "two", "three"], held_out=1)
    run(params(0.4), out)
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
        run(params(0.5), out)
    message = str(caught.value)
    assert message.startswith("mine: ")
    assert "01.png, 02.png" in message
    assert "10.png and 2 more" in message
    assert "data.max_missing_caption_fraction" in message
    assert "\n" not in message
    assert not any(path.exists() for path in (out.captions, out.report, out.ledger, out.lengths))


def test_a_dataset_without_any_caption_fails_whatever_is_allowed(out: Artifacts) -> None:
    write_images(out, [None, None])
    with pytest.raises(ValueError, match="2 of 2 pictures have no caption"):
        run(params(1.0), out)


def test_the_report_counts_lengths_copies_and_what_is_cut(out: Artifacts) -> None:
    long = "one two three four " * 30
    write_images(out, ["one", "one", "two two", long])
    run(params(), out)
    report = read_json(out.report)
    assert report["distinct_captions"] == 3
    assert report["duplicate_captions"] == 1
    copies = {"caption": "one", "samples": 2, "paths": ["00.png", "01.png"]}
    assert report["most_frequent"] == [copies]
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
    run(params(family=family), out)
    encoders = read_json(out.report)["text_encoders"]
    assert {kind: each["max_tokens"] for kind, each in encoders.items()} == rooms
    for each in encoders.values():
        longest = max(row["tokens"] for row in each["token_lengths"])
        assert each["truncated_captions"] == (longest > each["max_tokens"])
    assert encoders["clip_l"]["truncated_captions"] == (rooms["clip_l"] < 8)


def test_outputs_have_the_same_bytes_each_time(out: Artifacts) -> None:
    write_images(out, ["b", "a", "b", None], held_out=2)
    outputs = (out.captions, out.report, out.ledger, out.lengths)
    run(params(0.5), out)
    before = [path.read_bytes() for path in outputs]
    run(params(0.5), out)
    assert [path.read_bytes() for path in outputs] == before


def test_a_tokenizer_that_is_not_there_is_one_sentence(out: Artifacts, tmp_path: Path) -> None:
    write_images(out, ["one"])
    parts = {"tokenizer": Part("Qwen2Tokenizer", tmp_path / "gone", "")}
    write_record(out.tokenizer, parts, {"lengths": {}})
    with pytest.raises(FileNotFoundError, match="gone: there is no tokenizer"):
        run(params(), out)
    assert not out.captions.exists()


def test_only_targets_are_asked_for_captions(out: Artifacts, rows_of: Rows) -> None:
    mask = image("00", None, role="mask", path="mask/00.png")
    write_table(out.images, to_table([image("00", "one"), mask], "images"), "images")
    run(params(), out)
    assert [row["sample_id"] for row in rows_of(out.captions, "captions")] == ["00"]
    assert [row["path"] for row in rows_of(out.ledger, "ledger")] == ["00.png"]
    assert read_json(out.report)["samples"] == 1


def test_variants_are_numbered_caption_by_caption_through_a_sample(
    out: Artifacts, rows_of: Rows
) -> None:
    write_images(out, [["a", " ", "b"], "c"])
    run(params(wildcards=True, variants=2), out)
    assert [tuple(row.values()) for row in rows_of(out.captions, "captions")] == [
        ("00", 0, "a"),
        ("00", 1, "a"),
        ("00", 2, "b"),
        ("00", 3, "b"),
        ("01", 0, "c"),
        ("01", 1, "c"),
    ]
    report = read_json(out.report)
    assert (report["written_captions"], report["captions"], report["distinct_texts"]) == (3, 6, 3)
    assert report["with_a_blank_caption"] == ["00.png"]


def test_the_order_of_the_table_and_other_pictures_change_no_caption(
    out: Artifacts, rows_of: Rows
) -> None:
    drawn = params(shuffle_tags=True, tag_dropout=0.3, variants=3)
    write_images(out, [f"{i}, b, c, d, e, f" for i in range(5)])
    run(drawn, out)
    before = rows_of(out.captions, "captions")
    table = read_table(out.images, "images")
    extra = to_table([image("021", "x, y, z")], "images")
    shuffled = pa.concat_tables([extra, table.take([4, 0, 3, 1, 2]).replace_schema_metadata()])
    write_table(out.images, shuffled, "images")
    run(drawn, out)
    after = read_table(out.captions, "captions")
    assert after.filter(pc.field("sample_id") != "021").to_pylist() == before
    assert after["sample_id"].to_pylist() == sorted(after["sample_id"].to_pylist())


def test_token_counts_are_those_of_the_text_with_prefix_and_suffix(
    out: Artifacts, rows_of: Rows
) -> None:
    write_images(out, ["three"])
    run(params(), out)
    (short,) = read_json(out.report)["text_encoders"]["qwen3"]["token_lengths"]
    run(params(prefix="one two ", suffix=" four"), out)
    (long,) = read_json(out.report)["text_encoders"]["qwen3"]["token_lengths"]
    assert long["tokens"] > short["tokens"]
    assert rows_of(out.captions, "captions")[0]["caption"] == "one two three four"


REFUSED = [
    (
        ["fine", "a<br>b", "AT&amp;T"],
        {"max_unclean_fraction": 0.5},
        "2 of 3 captions hold HTML or characters that are no text",
        "01.png (HTML tag '<br>'), 02.png (HTML entity '&amp;')",
    ),
    (
        ["one", "two", "one", " one\n"],
        {"max_duplicate_fraction": 0.25},
        "2 of 4 captions repeat another",
        "02.png (like 00.png), 03.png (like 00.png)",
    ),
    (
        ["sks one", "two", "sksish"],
        {"trigger_word": "sks", "min_trigger_fraction": 0.5},
        "2 of 3 pictures have a caption without the trigger word 'sks'",
        "01.png, 02.png",
    ),
    (
        ["one", "one two three four " * 30],
        {"max_truncated_fraction": 0.2},
        "1 of 2 captions are longer than any text encoder takes",
        "01.png (",
    ),
]


@pytest.mark.parametrize(("captions", "limit", "says", "names"), REFUSED)
def test_more_than_a_limit_allows_is_one_sentence_with_the_names(
    out: Artifacts, captions: list[Written], limit: dict[str, Any], says: str, names: str
) -> None:
    write_images(out, captions)
    with pytest.raises(ValueError, match=says) as caught:
        run(params(**limit), out)
    message = str(caught.value)
    assert names in message
    assert "\n" not in message
    assert message.startswith("mine: ")
    key = next(name for name in limit if "fraction" in name)
    assert f"data.captions.{key} = {limit[key]:g}" in message
    assert not any(path.exists() for path in (out.captions, out.report, out.ledger, out.lengths))


@pytest.mark.parametrize(
    ("captions", "limit"),
    [
        (["fine", "a<br>b"], {"max_unclean_fraction": 0.5}),
        (["one", "two", "one"], {"max_duplicate_fraction": 1 / 3}),
        (["sks one", "two"], {"trigger_word": "sks", "min_trigger_fraction": 0.5}),
        (["one", "one two three four " * 30], {"max_truncated_fraction": 0.5}),
    ],
)
def test_exactly_what_a_limit_allows_passes(
    out: Artifacts, captions: list[Written], limit: dict[str, Any]
) -> None:
    write_images(out, captions)
    run(params(**limit), out)
    assert out.report.exists()


def test_a_prefix_gives_every_caption_the_trigger_word(out: Artifacts) -> None:
    write_images(out, ["one", "two"])
    words = {"trigger_word": "Sks", "class_word": "dog", "min_trigger_fraction": 1.0}
    run(params(prefix="sks dog, ", **words), out)
    report = read_json(out.report)
    assert report["trigger_word"]["fraction"] == 1
    assert report["class_word"]["class_alone"]["captions"] == 0


def test_a_caption_that_one_text_encoder_takes_whole_is_not_lost(
    out: Artifacts, tmp_path: Path
) -> None:
    record_tokenizers(tmp_path, {"clip_l": 8, "t5": 40})
    write_images(out, ["one", "one two three four " * 3])
    run(params(family="flux", max_truncated_fraction=0.0), out)
    report = read_json(out.report)
    assert report["truncated_captions"] == 0
    clip = report["text_encoders"]["clip_l"]
    assert clip["truncated_captions"] == 1
    assert clip["longest"][0]["path"] == "01.png"
    (cut,) = clip["cut"]
    assert cut["words"].endswith("two three four")
    assert not cut["words"].startswith("one two three four one")


def test_the_plot_has_one_bin_beyond_each_text_encoders_limit(
    out: Artifacts, tmp_path: Path
) -> None:
    record_tokenizers(tmp_path, {"clip_l": 77, "t5": 512})
    write_images(out, ["one", "two", "one two three four " * 40])
    run(params(family="flux"), out)
    rows = list(csv.DictReader(out.lengths.read_text().splitlines()))
    assert [row["length"] for row in rows] == sorted(row["length"] for row in rows)
    for kind, each in read_json(out.report)["text_encoders"].items():
        bins = [row for row in rows if row["text_encoder"] == kind]
        assert len(bins) <= 17
        assert sum(int(row["captions"]) for row in bins) == 3
        assert int(bins[-1]["tokens"]) == each["max_tokens"] + 1
        assert int(bins[-1]["captions"]) == each["truncated_captions"]


def test_captions_without_a_draw_do_not_depend_on_the_seed(out: Artifacts) -> None:
    write_images(out, ["one, two", "three {a|b}"])
    run(params(seed=1), out)
    before = out.captions.read_bytes()
    run(dataclasses.replace(params(), seed=2), out)
    assert out.captions.read_bytes() == before
