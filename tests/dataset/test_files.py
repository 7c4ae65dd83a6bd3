from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.dataset.files import read_bytes, stamp
from tests.dataset.making import parquet, tar, write


def test_a_stamp_is_that_of_the_file_a_picture_lies_in(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    tar(tmp_path / "0.tar", {"a.jpg": "A"})
    parquet(tmp_path / "t.parquet", {"image": [b""]})
    for path, file in (("a.png", "a.png"), ("0.tar/a.jpg", "0.tar"), ("t.parquet/0", "t.parquet")):
        status = os.stat(tmp_path / file)
        assert stamp(tmp_path, path) == (status.st_size, status.st_mtime_ns, status.st_ino)


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, ["a.png"]) / "a.png"
    seen = {stamp(tmp_path, "a.png")}
    path.write_bytes(b"longer than before")
    seen.add(stamp(tmp_path, "a.png"))
    os.utime(path, ns=(1, 1))
    seen.add(stamp(tmp_path, "a.png"))
    path.rename(tmp_path / "old.png")
    path.write_bytes(b"longer than before")
    os.utime(path, ns=(1, 1))
    seen.add(stamp(tmp_path, "a.png"))
    assert len(seen) == 4


@pytest.mark.parametrize("path", ["gone.png", "0.tar/gone.jpg", "gone.tar/a.jpg", "t.parquet/7"])
def test_what_is_not_there_is_an_os_error_that_says_so(tmp_path: Path, path: str) -> None:
    tar(tmp_path / "0.tar", {"a.jpg": "A"})
    parquet(tmp_path / "t.parquet", {"image": [b""]})
    with pytest.raises(FileNotFoundError) as caught:
        read_bytes(tmp_path, path)
    assert caught.value.strerror


def test_suffixes_of_containers_are_read_in_any_case(tmp_path: Path) -> None:
    tar(tmp_path / "A.TAR", {"a.jpg": "A"})
    parquet(tmp_path / "T.Parquet", {"image": [b"T"]})
    assert read_bytes(tmp_path, "A.TAR/a.jpg") == b"A"
    assert read_bytes(tmp_path, "T.Parquet/0") == b"T"


def test_folders_may_be_called_like_containers(tmp_path: Path) -> None:
    write(tmp_path, ["x.tar/y.parquet/a.png"])
    tar(tmp_path / "x.tar/z.tar", {"in.tar/a.jpg": "A"})
    assert read_bytes(tmp_path, "x.tar/y.parquet/a.png") == b"x.tar/y.parquet/a.png"
    assert read_bytes(tmp_path, "x.tar/z.tar/in.tar/a.jpg") == b"A"


def test_threads_read_the_members_of_an_archive_at_once(tmp_path: Path) -> None:
    members = {f"{i}.jpg": str(i) * 1000 for i in range(300)}
    tar(tmp_path / "0.tar", members)
    with ThreadPoolExecutor(8) as threads:
        read = threads.map(lambda name: read_bytes(tmp_path, f"0.tar/{name}"), members)
        assert list(read) == [text.encode() for text in members.values()]
