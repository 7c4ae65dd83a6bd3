from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from stages.ingest.samples import validation_contents
from stages.ingest.stage import run
from stages.params.data import Dataset
from stages.pixels import content_hash
from tests.data.conftest import picture
from tests.data.ingesting import artifacts, ingest, ingest_params


def refused(folder: Path, tmp_path: Path, **changes: object) -> str:
    """Run a stage that must fail; return its message, which is one line and leaves no output."""
    out = artifacts(tmp_path / "out")
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        run(ingest_params(folder, **changes), out)
    assert not any(path.exists() for path in (out.images, out.ledger, out.summary))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_roles(folder: Path) -> Path:
    """A dataset of three targets with two references and a mask each; one reference is shared."""
    for place in ("ref", "more", "mask"):
        (folder / place).mkdir(parents=True)
    rows = []
    for i in range(3):
        picture(i).save(folder / f"{i}.png")
        picture(10 + i, 20, 20).save(folder / f"ref/{i}.png")
        Image.new("L", (40, 30), 40 * i).save(folder / f"mask/{i}.png")
        rows.append({"image": f"{i}.png", "caption": "", "style": "more/style.png"})
        rows[-1] |= {"source": f"ref/{i}.png", "hole": f"mask/{i}.png"}
    picture(20).save(folder / "more/style.png")
    (folder / "metadata.json").write_text(json.dumps(rows))
    return folder


ROLES = {"references": ["source", "style"], "mask": "hole"}


def test_metadata_gives_each_picture_its_caption(eight_images: Path, tmp_path: Path) -> None:
    rows = ingest(eight_images, tmp_path / "out").rows
    assert {row["path"]: row["captions"] for row in rows} == {
        f"{i}.png": [f"picture {i}"] for i in range(8)
    }
    assert [row["sample_id"] for row in rows] == sorted(row["content"][:20] for row in rows)
    assert {(r["width"], r["height"], r["split"], r["role"], r["index"]) for r in rows} == {
        (40, 30, "train", "target", 0)
    }
    assert {(r["dataset"], r["repeats"], r["weight"], r["focal_x"]) for r in rows} == {
        ("", 1, 1.0, None)
    }
    row = next(row for row in rows if row["path"] == "3.png")
    assert row["content"] == content_hash(picture(3))
    assert len(row["perceptual_hash"]) == 16
    assert row["notes"] == ""


def test_caption_files_are_found_in_sub_folders(paired_images: Path, tmp_path: Path) -> None:
    targets = ingest(paired_images, tmp_path / "out").targets
    assert targets["1.png"]["captions"] == ["picture 2\n"]
    assert targets["sub/1.png"]["captions"] == ["picture 3\n"]
    assert len(targets) == 6


def test_every_file_of_a_listed_dataset_has_one_fate(eight_images: Path, tmp_path: Path) -> None:
    (eight_images / "0.png").write_bytes(b"")
    (eight_images / "1.png").write_bytes((eight_images / "2.png").read_bytes()[:900])
    (eight_images / "2.png").unlink()
    shutil.copy(eight_images / "3.png", eight_images / "unlisted.png")
    (eight_images / "notes.md").write_text("notes")
    found = ingest(eight_images, tmp_path / "out")
    fates = found.fates
    assert fates.pop("0.png") == ("quarantined", "the file is empty")
    assert fates.pop("1.png") == ("quarantined", "the file is truncated")
    assert fates.pop("2.png") == ("quarantined", "the file is missing")
    assert fates.pop("unlisted.png") == ("excluded", "not listed in metadata.json")
    assert fates.pop("notes.md") == ("excluded", "not listed in metadata.json")
    assert fates == {f"{i}.png": ("kept", "") for i in range(3, 8)}
    kept = {row["sample_id"] for row in found.ledger} - {None}
    assert kept == {row["sample_id"] for row in found.rows}


def test_every_file_of_a_paired_dataset_has_one_fate(paired_images: Path, tmp_path: Path) -> None:
    (paired_images / "0.txt").write_bytes(b"\xff\xfe\x00")
    (paired_images / "1.txt").unlink()
    (paired_images / "lonely.txt").write_text("a caption")
    (paired_images / "film.mp4").write_bytes(b"film")
    (paired_images / ".thumbs").mkdir()
    shutil.copy(paired_images / "2.png", paired_images / ".thumbs/2.png")
    found = ingest(paired_images, tmp_path / "out")
    fates = found.fates
    assert fates.pop("0.png") == ("quarantined", "its caption file 0.txt is not UTF-8")
    assert fates.pop("lonely.txt") == ("excluded", "caption without a picture")
    assert fates.pop("film.mp4") == ("excluded", "neither a picture nor a caption")
    assert fates.pop(".thumbs/2.png") == ("excluded", "hidden file")
    assert set(fates) == {"1.png", "2.png", "sub/0.png", "sub/1.png", "sub/2.png"}
    assert set(fates.values()) == {("kept", "")}
    assert found.targets["1.png"]["captions"] == []


def test_pictures_of_every_role_are_rows_in_the_order_of_the_roles(tmp_path: Path) -> None:
    found = ingest(with_roles(tmp_path / "edits"), tmp_path / "out", **ROLES)
    targets = sorted(found.targets.values(), key=lambda row: row["sample_id"])
    assert [(row["sample_id"], row["role"], row["index"], row["path"]) for row in found.rows] == [
        (target["sample_id"], role, index, path.format(target["path"]))
        for target in targets
        for role, index, path in (
            ("target", 0, "{}"),
            ("reference", 0, "ref/{}"),
            ("reference", 1, "more/style.png"),
            ("mask", 0, "mask/{}"),
        )
    ]
    style = [row for row in found.rows if row["path"] == "more/style.png"]
    assert {(row["content"], row["width"], tuple(row["captions"])) for row in style} == {
        (content_hash(picture(20)), 40, ())
    }
    assert set(found.fates.values()) == {("kept", "")}
    assert len(found.fates) == 10


def test_a_broken_mask_quarantines_its_sample_and_names_itself(tmp_path: Path) -> None:
    folder = with_roles(tmp_path / "edits")
    (folder / "mask/1.png").write_bytes(b"")
    found = ingest(folder, tmp_path / "out", **ROLES)
    fates = found.fates
    assert fates["1.png"] == ("quarantined", "its mask mask/1.png: the file is empty")
    assert fates["mask/1.png"] == ("quarantined", "the file is empty")
    assert fates["ref/1.png"] == ("excluded", "its target 1.png is left out")
    assert fates["more/style.png"] == ("kept", "")
    assert len(found.targets) == 2


def test_what_opening_changed_is_in_the_rows_and_counted(
    eight_images: Path, tmp_path: Path
) -> None:
    picture(0).convert("CMYK").save(eight_images / "0.png", "jpeg")
    found = ingest(eight_images, tmp_path / "out")
    assert found.targets["0.png"]["notes"] == "JPEG named .png, CMYK converted to RGB"
    assert found.summary["notes"] == {"JPEG named .png": 1, "CMYK converted to RGB": 1}
    assert found.summary["pictures"] == 8


def test_datasets_bring_their_repeats_weights_and_splits(
    paired_images: Path, tmp_path: Path
) -> None:
    (paired_images / "rest").mkdir()
    for path in [*paired_images.glob("*.png"), *paired_images.glob("*.txt")]:
        path.rename(paired_images / "rest" / path.name)
    parts = [Dataset("sub", 3, 0.5, "validation"), Dataset("rest")]
    found = ingest(paired_images, tmp_path / "out", datasets=parts)
    rows = found.targets
    assert {(r["dataset"], r["repeats"], r["weight"], r["split"]) for r in rows.values()} == {
        ("sub", 3, 0.5, "validation"),
        ("rest", 1, 1.0, "train"),
    }
    assert found.summary["datasets"] == [
        {"path": "rest", "pictures": 3, "repeats": 1, "weight": 1.0},
        {"path": "sub", "pictures": 3, "repeats": 3, "weight": 0.5},
    ]


def test_a_copy_of_a_picture_that_is_told_its_split_follows_it(
    paired_images: Path, tmp_path: Path
) -> None:
    (paired_images / "rest").mkdir()
    shutil.copy(paired_images / "sub/0.png", paired_images / "rest/a.png")
    picture(9).save(paired_images / "rest/b.png")
    parts = [Dataset("sub", split="validation"), Dataset("rest")]
    targets = ingest(paired_images, tmp_path / "out", datasets=parts).targets
    assert targets["rest/a.png"]["split"] == "validation"
    assert targets["rest/b.png"]["split"] == "train"


def test_nothing_to_train_on_is_refused(paired_images: Path, tmp_path: Path) -> None:
    message = refused(paired_images, tmp_path, datasets=[Dataset("sub", split="validation")])
    assert "all 3 pictures are to be validated and none is left to train on" in message


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
    assert len(validation_contents({"0" * 16, "1" * 16}, 0.5, others_train=True)) == 2


def test_validation_pictures_are_in_the_ledger(eight_images: Path, tmp_path: Path) -> None:
    found = ingest(eight_images, tmp_path / "out", validation_fraction=0.3)
    held_out = {path for path, row in found.targets.items() if row["split"] == "validation"}
    assert held_out
    assert held_out == {path for path, fate in found.fates.items() if fate == ("validation", "")}


def test_too_many_broken_pictures_are_named(eight_images: Path, tmp_path: Path) -> None:
    for i in range(3):
        (eight_images / f"{i}.png").write_bytes(b"")
    message = refused(eight_images, tmp_path, max_bad_fraction=0.3)
    assert "3 of 8 pictures cannot be used" in message
    assert "0.png (the file is empty), 1.png (the file is empty)" in message
    assert "data.max_bad_fraction" in message
    ingest(eight_images, tmp_path / "out", max_bad_fraction=0.375)


def test_of_many_broken_pictures_ten_are_named(eight_images: Path, tmp_path: Path) -> None:
    rows = [{"image": f"{i:02}.png", "caption": ""} for i in range(30)]
    (eight_images / "metadata.json").write_text(json.dumps(rows))
    message = refused(eight_images, tmp_path, max_bad_fraction=1.0)
    assert "09.png (the file is missing) and 20 more" in message


def test_a_background_that_is_no_colour_is_refused(eight_images: Path, tmp_path: Path) -> None:
    message = refused(eight_images, tmp_path, background="blu")
    assert "data.background: 'blu' is no colour" in message


def test_quarantined_pictures_are_printed(
    eight_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (eight_images / "4.png").write_bytes(b"")
    ingest(eight_images, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "7 pictures to train on, 0 to validate, 1 quarantined" in printed
    assert "quarantined: 4.png (the file is empty)" in printed
    assert len(printed.splitlines()) == 2


def test_what_is_left_aside_is_printed_a_name_of_each_reason_first(
    paired_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        (paired_images / f"film{i:02}.mp4").write_bytes(b"film")
    masks = paired_images / "masks"
    masks.mkdir()
    for path in [*paired_images.glob("*.png"), paired_images / "lonely.png"]:
        Image.new("L", (48, 32)).save(masks / path.name)
    ingest(paired_images, tmp_path / "out", mask="masks", max_bad_fraction=1.0)
    (line,) = re.findall("^left aside: .*$", capsys.readouterr().out, re.M)
    films = [f"film{i:02}.mp4 (neither a picture nor a caption)" for i in range(9)]
    names = [films[0], "masks/lonely.png (mask without a picture)", *films[1:]]
    assert line == f"left aside: {', '.join(names)} and 3 more"
