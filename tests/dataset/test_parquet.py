from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from stages.dataset import cells
from stages.dataset.files import read_bytes
from stages.dataset.form import Form
from stages.dataset.listing import list_dataset
from tests.dataset.making import PICTURE, captions, listed, parquet, picture, refused, write


def pictures(values: object) -> pa.Array:
    return pa.array(values, PICTURE)


def test_pictures_in_a_table_are_named_by_their_row(tmp_path: Path) -> None:
    images = pictures([picture(b"0", "a.png"), picture(b"1"), picture(b"2", "c.png")])
    parquet(tmp_path / "data/train-0.parquet", {"image": images, "text": ["a", None, "c"]})
    parquet(tmp_path / "data/train-1.parquet", {"image": [b"3"], "text": ["d"]})
    write(tmp_path, ["README.md"])
    assert captions(tmp_path) == {
        "data/train-0.parquet/0": ("a",),
        "data/train-0.parquet/1": (),
        "data/train-0.parquet/2": ("c",),
        "data/train-1.parquet/0": ("d",),
    }
    assert [read_bytes(tmp_path, path) for path in listed(tmp_path)] == [b"0", b"1", b"2", b"3"]
    assert list_dataset(tmp_path, Form()).aside == {
        "README.md": "not listed in any of 2 metadata tables"
    }


@pytest.mark.parametrize("image", ["image", "file_name"])
def test_a_table_may_hold_paths(tmp_path: Path, image: str) -> None:
    write(tmp_path, ["sub/a.png", "sub/b.png"])
    columns = {image: ["a.png", "gone.png"], "captions": [["x", "y"], []]}
    parquet(tmp_path / "sub/metadata.parquet", columns)
    listing = list_dataset(tmp_path, Form())
    assert [(e.path, e.captions, e.problem) for e in listing.entries] == [
        ("sub/a.png", ("x", "y"), ""),
        ("sub/gone.png", (), "the file is missing"),
    ]
    assert listing.aside == {"sub/b.png": "not listed in sub/metadata.parquet"}


def test_some_pictures_of_a_column_may_be_paths_and_others_bytes(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    images = [picture(None, "a.png"), picture(b"1", "a.png"), picture(b"2"), picture(b"3")]
    parquet(tmp_path / "t.parquet", {"image": pictures(images)})
    assert set(listed(tmp_path)) == {"a.png", "t.parquet/1", "t.parquet/2", "t.parquet/3"}


def test_other_roles_are_columns_of_bytes_paths_or_lists(tmp_path: Path) -> None:
    write(tmp_path, ["d0.png", "d1.png", "d2.png", "d3.png"])
    many = pa.list_(PICTURE)
    references = [[picture(b"r0"), picture(b"r1", "x")], [picture(b"r2")], [], None]
    columns = {
        "image": pictures([picture(str(i).encode()) for i in range(4)]),
        "mask": pictures([picture(b"m0"), None, picture(b"m2"), picture(b"m3")]),
        "before/after": pa.array(references, many),
        "depth": [f"d{i}.png" for i in range(4)],
        "focal_point": [[0.5, 0.5], None, None, None],
    }
    parquet(tmp_path / "t.parquet", columns)
    form = Form(references=["before/after"], mask="mask", condition="depth")
    entries = list(listed(tmp_path, form).values())
    assert entries[0].roles == {
        "reference": ("t.parquet/0/before/after/0", "t.parquet/0/before/after/1"),
        "mask": ("t.parquet/0/mask",),
        "condition": ("d0.png",),
    }
    assert entries[0].focal_point == (0.5, 0.5)
    assert [entry.problem for entry in entries] == [
        "",
        "it has no mask: column 'mask' is empty",
        "it has no reference: column 'before/after' is empty",
        "it has no reference: column 'before/after' is empty",
    ]
    assert read_bytes(tmp_path, "t.parquet/0/before/after/1") == b"r1"
    assert read_bytes(tmp_path, "t.parquet/1/before/after/0") == b"r2"
    assert read_bytes(tmp_path, "t.parquet/2/mask") == b"m2"
    assert read_bytes(tmp_path, "t.parquet/3") == b"3"


def test_lists_with_empty_and_missing_pictures_are_told_from_paths(tmp_path: Path) -> None:
    """Each has as many null bytes as the other; only the structure beside them tells."""
    write(tmp_path, ["x.png"])
    kind = pa.list_(PICTURE)
    for name, values in {
        "empty": [[], [picture(b"r", "x.png")]],
        "path": [[picture(None, "x.png")], [picture(b"r", "x.png")]],
    }.items():
        columns = {"image": [b"0", b"1"], "ref": pa.array(values, kind)}
        parquet(tmp_path / f"{name}/t.parquet", columns)
        write(tmp_path, [f"{name}/x.png"])
    first = [e.roles["reference"] for e in listed(tmp_path, Form(references=["ref"])).values()]
    assert first == [
        (),
        ("empty/t.parquet/1/ref/0",),
        ("path/x.png",),
        ("path/t.parquet/1/ref/0",),
    ]


def test_listing_does_not_read_the_bytes_of_the_pictures(tmp_path: Path) -> None:
    big = pictures([picture(bytes(1 << 20), f"{i}.png") for i in range(8)])
    parquet(tmp_path / "t.parquet", {"image": big, "text": ["x"] * 8}, group=8)
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    assert len(listed(tmp_path)) == 8
    assert pa.default_memory_pool().max_memory() <= max(peak, before + (4 << 20))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": [b""], "label": [1]},
            "t.parquet has the columns ['label'], which nothing reads",
        ),
        ({"image": ["../x.png"]}, "t.parquet: row 0: 'image' is '../x.png': it must be a path"),
        ({"image": [1]}, "row 0: 'image' is 1"),
        ({"image": pictures([None])}, "row 0: 'image' is None"),
        ({"text": ["x"]}, "row 0: 'image' is None"),
        ({"image": [b""], "text": [3]}, "row 0: 'text' is 3"),
        ({"image": pa.array([[picture(b"")]], pa.list_(PICTURE))}, "it must be the path"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    parquet(tmp_path / "t.parquet", columns)
    assert message in refused(tmp_path)


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"image": ["a.png" * 300], "text": ["x" * 300]})
    data = path.read_bytes()
    for damaged in (b"", data[:-9], data[:8] + bytes(64) + data[72:]):
        path.write_bytes(damaged)
        message = refused(tmp_path)
        assert "t.parquet is no parquet table" in message or "row group 0 is damaged" in message


def test_a_text_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    text = pa.array([b"\xff"], pa.binary()).view(pa.string())
    parquet(tmp_path / "t.parquet", {"image": [b""], "text": text})
    assert "t.parquet: row group 0 is damaged" in refused(tmp_path)


@pytest.mark.parametrize("cell", ["9", "-1", "x", "0/mask", "0/image/9", "1"])
def test_a_cell_that_is_not_there_is_an_os_error(tmp_path: Path, cell: str) -> None:
    parquet(tmp_path / "t.parquet", {"image": [b"0", None]})
    with pytest.raises(OSError, match=r".") as caught:
        read_bytes(tmp_path, f"t.parquet/{cell}")
    assert caught.value.strerror


def test_many_threads_read_a_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [str(i).encode() for i in range(400)]
    parquet(tmp_path / "t.parquet", {"image": rows}, group=50)
    groups = cells.Groups(1 << 20)
    monkeypatch.setattr(cells, "GROUPS", groups)
    paths = [f"t.parquet/{i}" for i in range(400)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda path: read_bytes(tmp_path, path), paths)) == rows
    assert len(groups.kept) == 8


def test_groups_are_forgotten_when_they_take_too_much_memory(tmp_path: Path) -> None:
    parquet(tmp_path / "t.parquet", {"image": [bytes(1000)] * 20}, group=2)
    groups = cells.Groups(5000)
    for number in range(10):
        groups.read((str(tmp_path / "t.parquet"), (0, 0, 0), number, "image"))
    assert 1 <= len(groups.kept) <= 2
    assert [group[2] for group in groups.kept] == [8, 9]


def test_damaged_pictures_in_a_table_are_os_errors_that_say_so(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"image": [bytes(range(256)) * 20]})
    data = bytearray(path.read_bytes())
    data[20:60] = b"\xff" * 40  # in the compressed page
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"the table is damaged") as caught:
        read_bytes(tmp_path, "t.parquet/0")
    assert caught.value.strerror
