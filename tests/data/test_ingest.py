from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.ingest.stage import Artifacts, Params, run, validation_contents

Rows = Callable[[Path, str], list[dict[str, Any]]]


@pytest.fixture
def out(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "out/images.parquet", tmp_path / "out/ledger.parquet")


def params(folder: Path, bad: float = 0.5, validation: float = 0.0) -> Params:
    return Params(str(folder), ".txt", validation, bad)


def metadata(folder: Path, rows: object) -> None:
    (folder / "metadata.json").write_text(json.dumps(rows))


def fates(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: (row["fate"], row["reason"]) for row in rows}


def refused(params: Params, out: Artifacts, error: type[Exception] = ValueError) -> str:
    """Run a stage that must fail; return its message, which is one line and leaves no output."""
    with pytest.raises(error) as caught:
        run(params, out)
    assert not out.images.exists()
    assert not out.ledger.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_metadata_gives_each_picture_its_caption(
    eight_images: Path, out: Artifacts, rows_of: Rows
) -> None:
    run(params(eight_images), out)
    rows = rows_of(out.images, "images")
    assert {row["path"]: row["caption"] for row in rows} == {
        f"{i}.png": f"picture {i}" for i in range(8)
    }
    assert [row["sample_id"] for row in rows] == sorted(row["content"][:20] for row in rows)
    assert {(r["width"], r["height"], r["split"], r["role"]) for r in rows} == {
        (40, 30, "train", "target")
    }


def test_caption_files_are_found_in_sub_folders(
    paired_images: Path, out: Artifacts, rows_of: Rows
) -> None:
    run(params(paired_images), out)
    captions = {row["path"]: row["caption"] for row in rows_of(out.images, "images")}
    assert captions["1.png"] == "picture 2\n"
    assert captions["sub/1.png"] == "picture 3\n"
    assert len(captions) == 6


def test_the_same_dataset_gives_the_same_bytes_whatever_the_file_times(
    eight_images: Path, out: Artifacts, tmp_path: Path
) -> None:
    run(params(eight_images), out)
    copied = shutil.copytree(eight_images, tmp_path / "copied", copy_function=shutil.copyfile)
    rows = json.loads((copied / "metadata.json").read_text())
    metadata(copied, rows[::-1])
    again = Artifacts(tmp_path / "again/images.parquet", tmp_path / "again/ledger.parquet")
    run(params(copied), again)
    assert again.images.read_bytes() == out.images.read_bytes()
    assert again.ledger.read_bytes() == out.ledger.read_bytes()


def test_every_file_of_a_listed_dataset_has_one_fate(
    eight_images: Path, out: Artifacts, rows_of: Rows
) -> None:
    (eight_images / "0.png").write_bytes(b"")
    (eight_images / "1.png").write_bytes((eight_images / "2.png").read_bytes()[:900])
    (eight_images / "2.png").unlink()
    shutil.copy(eight_images / "3.png", eight_images / "unlisted.png")
    (eight_images / "notes.md").write_text("notes")
    run(params(eight_images), out)
    found = fates(rows_of(out.ledger, "ledger"))
    assert found.pop("0.png") == ("quarantined", "the file is empty")
    fate, reason = found.pop("1.png")
    assert fate == "quarantined"
    assert "cannot be decoded" in reason
    assert found.pop("2.png") == ("quarantined", "the file is missing")
    assert found.pop("unlisted.png") == ("excluded", "not listed in metadata.json")
    assert found.pop("notes.md") == ("excluded", "not listed in metadata.json")
    assert found == {f"{i}.png": ("kept", "") for i in range(3, 8)}
    kept = {row["sample_id"] for row in rows_of(out.ledger, "ledger")} - {None}
    assert kept == {row["sample_id"] for row in rows_of(out.images, "images")}


def test_every_file_of_a_paired_dataset_has_one_fate(
    paired_images: Path, out: Artifacts, rows_of: Rows
) -> None:
    (paired_images / "0.txt").write_bytes(b"\xff\xfe\x00")
    (paired_images / "1.txt").unlink()
    (paired_images / "lonely.txt").write_text("a caption")
    (paired_images / "film.mp4").write_bytes(b"film")
    (paired_images / ".thumbs").mkdir()
    shutil.copy(paired_images / "2.png", paired_images / ".thumbs/2.png")
    run(params(paired_images), out)
    found = fates(rows_of(out.ledger, "ledger"))
    assert found.pop("0.png") == ("quarantined", "its caption file 0.txt is not UTF-8")
    assert found.pop("lonely.txt") == ("excluded", "caption without a picture")
    assert found.pop("film.mp4") == ("excluded", "neither a picture nor a caption")
    assert found.pop(".thumbs/2.png") == ("excluded", "hidden file")
    assert set(found) == {"1.png", "2.png", "sub/0.png", "sub/1.png", "sub/2.png"}
    assert set(found.values()) == {("kept", "")}
    captions = {row["path"]: row["caption"] for row in rows_of(out.images, "images")}
    assert captions["1.png"] is None


def test_copies_of_a_picture_are_numbered_by_path_and_stay_in_one_split(
    eight_images: Path, out: Artifacts, rows_of: Rows
) -> None:
    (eight_images / "metadata.json").unlink()
    Image.open(eight_images / "5.png").save(eight_images / "a.bmp")
    shutil.copy(eight_images / "5.png", eight_images / "b.png")
    run(params(eight_images, validation=0.4), out)
    rows = {row["path"]: row for row in rows_of(out.images, "images")}
    first = rows["5.png"]["sample_id"]
    copies = [rows[path]["sample_id"] for path in ("5.png", "a.bmp", "b.png")]
    assert copies == [first, f"{first}-1", f"{first}-2"]
    assert len({rows[path]["split"] for path in ("5.png", "a.bmp", "b.png")}) == 1


def test_a_split_is_near_its_fraction_and_stable_when_pictures_join() -> None:
    contents = {f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" for i in range(1, 4001)}
    held_out = validation_contents(contents, 0.1)
    assert 350 < len(held_out) < 450
    some = set(sorted(contents, key=lambda c: c[::-1])[:1000])
    assert validation_contents(some, 0.1) == held_out & some


def test_one_picture_is_held_out_of_a_few_and_none_when_none_is_asked_for() -> None:
    contents = {"f" * 16, "e" * 16}
    assert validation_contents(contents, 0.01) == {"e" * 16}
    assert validation_contents(contents, 0.0) == set()
    assert validation_contents({"0" * 16}, 0.5) == set()
    with pytest.raises(ValueError, match="leaves none of 2 different pictures to train on"):
        validation_contents({"0" * 16, "1" * 16}, 0.5)


def test_validation_pictures_are_in_the_ledger(
    eight_images: Path, out: Artifacts, rows_of: Rows
) -> None:
    run(params(eight_images, validation=0.3), out)
    held_out = {r["path"] for r in rows_of(out.images, "images") if r["split"] == "validation"}
    found = fates(rows_of(out.ledger, "ledger"))
    assert held_out
    assert held_out == {path for path, fate in found.items() if fate == ("validation", "")}


def test_too_many_broken_pictures_are_named(eight_images: Path, out: Artifacts) -> None:
    for i in range(3):
        (eight_images / f"{i}.png").write_bytes(b"")
    message = refused(params(eight_images, bad=0.3), out)
    assert "3 of 8 pictures cannot be used" in message
    assert "0.png (the file is empty), 1.png (the file is empty)" in message
    assert "data.max_bad_fraction" in message
    run(params(eight_images, bad=0.375), out)


def test_of_many_broken_pictures_ten_are_named(eight_images: Path, out: Artifacts) -> None:
    metadata(eight_images, [{"image": f"{i:02}.png", "caption": ""} for i in range(30)])
    message = refused(params(eight_images, bad=1.0), out)
    assert "09.png (the file is missing) and 20 more" in message


def test_quarantined_pictures_are_printed(
    eight_images: Path, out: Artifacts, capsys: pytest.CaptureFixture[str]
) -> None:
    (eight_images / "4.png").write_bytes(b"")
    run(params(eight_images), out)
    assert "quarantined: 4.png (the file is empty)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"image": "0.png"}, "metadata.json holds a dict: it must be a list"),
        (["0.png"], "row 1 is '0.png'"),
        ([{"image": "0.png", "caption": "a", "tag": 1}], r"row 1 has the columns \['tag'\]"),
        ([{"caption": "a"}], "row 1: 'image' is None"),
        ([{"image": "0.png", "caption": 3}], "row 1: 'caption' is 3"),
        ([{"image": "0.png"}, {"image": "./0.png"}], "row 2 lists '0.png' again"),
        ([{"image": "../x.png"}], "row 1: 'image' is '../x.png': it must be a path inside"),
        ([{"image": "/etc/x.png"}], "it must be a path inside"),
        ([{"image": "C:/x.png"}], "it must be a path inside"),
        ([{"image": "sub\\x.png"}], "with forward slashes"),
        ([], "holds no pictures"),
    ],
)
def test_a_metadata_row_that_cannot_be_meant_is_refused(
    eight_images: Path, out: Artifacts, rows: object, message: str
) -> None:
    metadata(eight_images, rows)
    with pytest.raises(ValueError, match=message):
        run(params(eight_images), out)
    assert not out.images.exists()


def test_metadata_that_is_no_json_is_refused(eight_images: Path, out: Artifacts) -> None:
    (eight_images / "metadata.json").write_text("[{]")
    assert "metadata.json is not valid JSON" in refused(params(eight_images), out)


def test_a_mistyped_extension_is_recognised(paired_images: Path, out: Artifacts) -> None:
    mistyped = replace(params(paired_images), caption_extension=".caption")
    message = refused(mistyped, out)
    assert "6 images have no .caption file; 6 have .txt" in message
    assert "set data.caption_extension to '.txt'" in message


def test_pictures_are_not_taken_for_captions(paired_images: Path, out: Artifacts) -> None:
    message = refused(replace(params(paired_images), caption_extension=".png"), out)
    assert "data.caption_extension: '.png' is an extension of pictures" in message


def test_a_place_without_a_dataset_is_one_sentence(tmp_path: Path, out: Artifacts) -> None:
    message = refused(params(tmp_path / "nowhere"), out, FileNotFoundError)
    assert "data.train_path" in message
    assert "nowhere' is not there: put a folder of pictures" in message
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(params(tmp_path / "file"), out)
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused(params(tmp_path / "empty"), out)


def test_a_picture_that_may_not_be_read_is_quarantined(
    eight_images: Path, out: Artifacts, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def refuse_one(path: Path) -> bytes:
        if path.name == "4.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse_one)  # root may read everything
    run(params(eight_images), out)
    found = fates(rows_of(out.ledger, "ledger"))
    assert found["4.png"] == ("quarantined", "cannot be read: Permission denied")


def test_a_picture_in_another_file_format_is_the_same_sample(
    eight_images: Path, out: Artifacts, tmp_path: Path, rows_of: Rows
) -> None:
    run(params(eight_images), out)
    before = {row["sample_id"] for row in rows_of(out.images, "images")}
    file = io.BytesIO()
    Image.open(eight_images / "0.png").save(file, "bmp")
    (eight_images / "0.png").write_bytes(file.getvalue())
    run(params(eight_images), out)
    assert {row["sample_id"] for row in rows_of(out.images, "images")} == before
