"""Files that have not changed since last time are not read; all others are."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages.ingest.seen import recall
from tests.data.conftest import picture
from tests.data.ingesting import OLD_NS, Ingested, age, ingest


@pytest.fixture
def known(paired_images: Path, tmp_path: Path) -> Ingested:
    """A dataset that was ingested once, of files that are old."""
    age(paired_images)
    return ingest(paired_images, tmp_path / "out")


def corrupt(path: Path) -> None:
    """Change a file's bytes but not its size, inode and time: only who reads it can tell."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    os.utime(path, ns=(OLD_NS, OLD_NS))


def seen_file(found: Ingested) -> Path:
    (path,) = found.files.seen.iterdir()
    return path


def test_an_unchanged_file_is_not_read(
    known: Ingested, paired_images: Path, tmp_path: Path
) -> None:
    before = known.written
    for path in (paired_images / "0.png", paired_images / "0.txt"):
        corrupt(path)
    assert ingest(paired_images, tmp_path / "out").written == before


def test_what_is_known_is_not_written_again_where_nothing_changed(
    known: Ingested, paired_images: Path, tmp_path: Path
) -> None:
    inode = seen_file(known).stat().st_ino
    ingest(paired_images, tmp_path / "out")
    assert seen_file(known).stat().st_ino == inode


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_file_with_another_stamp_is_read(
    known: Ingested, paired_images: Path, tmp_path: Path, change: str
) -> None:
    path = paired_images / "0.png"
    if change == "size":
        picture(99, 10, 10).save(path)
        os.utime(path, ns=(OLD_NS, OLD_NS))
    elif change == "time":
        corrupt(path)
        os.utime(path, ns=(OLD_NS, OLD_NS + 1))
    else:
        other = paired_images / "other.png"
        other.write_bytes(bytes(path.stat().st_size))
        os.utime(other, ns=(OLD_NS, OLD_NS))
        os.replace(other, path)
    found = ingest(paired_images, tmp_path / "out")
    if change == "size":
        assert found.targets["0.png"]["width"] == 10
    else:
        assert found.fates["0.png"][0] == "quarantined"


def test_a_changed_caption_is_read(known: Ingested, paired_images: Path, tmp_path: Path) -> None:
    (paired_images / "0.txt").write_text("other")
    assert ingest(paired_images, tmp_path / "out").targets["0.png"]["captions"] == ["other"]


def test_touching_every_file_gives_the_same_bytes(
    known: Ingested, paired_images: Path, tmp_path: Path
) -> None:
    before = known.written
    for path in paired_images.rglob("*"):
        path.touch()
    assert ingest(paired_images, tmp_path / "out").written == before


def test_a_file_that_changed_just_now_is_not_trusted(paired_images: Path, tmp_path: Path) -> None:
    now = time.time_ns()
    for path in (paired_images / "0.png", paired_images / "0.txt"):
        os.utime(path, ns=(now, now))
    ingest(paired_images, tmp_path / "out")
    for name in ("0.png", "0.txt"):  # within the same tick of the clock
        path = paired_images / name
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=(now, now))
    found = ingest(paired_images, tmp_path / "out")
    assert found.fates["0.png"][0] == "quarantined"


def test_another_background_reads_every_file(
    known: Ingested, paired_images: Path, tmp_path: Path
) -> None:
    corrupt(paired_images / "0.png")
    found = ingest(paired_images, tmp_path / "out", background="black")
    assert found.fates["0.png"][0] == "quarantined"


def test_a_smaller_limit_of_pixels_holds_for_known_pictures(
    known: Ingested, paired_images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"40x30 is more than data\.max_pixels"):
        ingest(paired_images, tmp_path / "out", max_pixels=1000)


def test_another_pillow_reads_every_file(
    known: Ingested, paired_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt(paired_images / "0.png")
    monkeypatch.setattr("PIL.__version__", "0")
    assert ingest(paired_images, tmp_path / "out").fates["0.png"][0] == "quarantined"


@pytest.mark.parametrize("damage", ["junk", "truncated", "columns", "empty"])
def test_damaged_knowledge_is_one_line_and_every_file_is_read(
    known: Ingested,
    paired_images: Path,
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = seen_file(known)
    before = known.written
    if damage == "columns":
        pq.write_table(pq.read_table(place).drop_columns(["inode"]), place)
    else:
        data = place.read_bytes()
        place.write_bytes({"junk": b"junk" * 99, "truncated": data[:-99], "empty": b""}[damage])
    capsys.readouterr()
    assert ingest(paired_images, tmp_path / "out").written == before
    complaint = capsys.readouterr().err
    assert len(complaint.splitlines()) == 1
    assert "is damaged" in complaint
    ingest(paired_images, tmp_path / "out")
    assert capsys.readouterr().err == ""


def test_two_datasets_do_not_know_each_others_files(
    known: Ingested, paired_images: Path, eight_images: Path, tmp_path: Path
) -> None:
    age(eight_images)
    found = ingest(eight_images, tmp_path / "out")
    assert len(list(found.files.seen.iterdir())) == 2
    assert recall(eight_images, found.files.seen, "white", 10**6).pictures == {}


def test_a_broken_picture_is_read_each_time(
    paired_images: Path, tmp_path: Path, known: Ingested
) -> None:
    good = (paired_images / "0.png").read_bytes()
    (paired_images / "0.png").write_bytes(bytes(len(good)))
    os.utime(paired_images / "0.png", ns=(OLD_NS, OLD_NS + 1))
    assert ingest(paired_images, tmp_path / "out").fates["0.png"][0] == "quarantined"
    with (paired_images / "0.png").open("r+b") as file:
        file.write(good)
    os.utime(paired_images / "0.png", ns=(OLD_NS, OLD_NS + 1))
    assert ingest(paired_images, tmp_path / "out").fates["0.png"] == ("kept", "")
