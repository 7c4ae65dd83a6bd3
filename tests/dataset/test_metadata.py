from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.dataset.form import Form
from stages.dataset.listing import list_dataset
from tests.dataset.making import (
    accounted,
    captions,
    csv_text,
    json_lines,
    listed,
    refused,
    write,
)


def rows_in(root: Path, rows: Any, name: str = "metadata.json") -> Path:
    return write(root, {name: json.dumps(rows)})


FORMATS = {
    "metadata.json": lambda rows: json.dumps(rows),
    "metadata.jsonl": json_lines,
    "metadata.csv": lambda rows: csv_text([list(rows[0]), *(list(row.values()) for row in rows)]),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("image", ["image", "file_name"])
@pytest.mark.parametrize("caption", ["caption", "text", "prompt", "captions"])
def test_every_format_gives_each_picture_its_caption(
    tmp_path: Path, name: str, image: str, caption: str
) -> None:
    rows = [{image: "b.png", caption: 'a "b",\nc'}, {image: "sub/ä 1.PNG", caption: "[x] é"}]
    write(tmp_path, {"b.png": "", "sub/ä 1.PNG": "", "c.png": "", name: FORMATS[name](rows)})
    assert captions(tmp_path) == {"b.png": ('a "b",\nc',), "sub/ä 1.PNG": ("[x] é",)}
    assert list_dataset(tmp_path, Form()).aside == {"c.png": f"not listed in {name}"}


@pytest.mark.parametrize("name", FORMATS)
def test_several_captions_are_a_list_or_several_columns(tmp_path: Path, name: str) -> None:
    listed_ones = ["one", "two"] if name != "metadata.csv" else '["one", "two"]'
    rows = [{"image": "a.png", "captions": listed_ones, "short": "three"}]
    write(tmp_path, {"a.png": "", name: FORMATS[name](rows)})
    both = Form(caption_columns=["short", "captions"])
    assert captions(tmp_path, both) == {"a.png": ("three", "one", "two")}
    assert captions(tmp_path, Form(ignore_columns=["short"])) == {"a.png": ("one", "two")}


def test_a_row_without_a_caption_is_an_entry_without_one(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png", "c.png"])
    rows_in(
        tmp_path,
        [
            {"image": "a.png"},
            {"image": "b.png", "caption": None},
            {"image": "c.png", "caption": ""},
        ],
    )
    assert captions(tmp_path) == {"a.png": (), "b.png": (), "c.png": ("",)}
    assert not any(entry.caption_problem for entry in listed(tmp_path).values())


def test_tables_in_sub_folders_list_their_own_folders(tmp_path: Path) -> None:
    write(tmp_path, ["train/x/a.png", "train/y/a.png", "train/y/left.png"])
    write(tmp_path, {"train/x/metadata.jsonl": json_lines([{"file_name": "a.png", "text": "x"}])})
    write(tmp_path, {"train/y/metadata.csv": "file_name,text\na.png,y\n"})
    assert captions(tmp_path) == {"train/x/a.png": ("x",), "train/y/a.png": ("y",)}
    assert list_dataset(tmp_path, Form()).aside == {
        "train/y/left.png": "not listed in any of 2 metadata tables"
    }


def test_a_picture_of_two_tables_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ["sub/a.png"])
    rows_in(tmp_path, [{"image": "sub/a.png"}])
    rows_in(tmp_path, [{"image": "a.png"}], "sub/metadata.json")
    assert "row 1 lists 'sub/a.png' again" in refused(tmp_path)


def test_two_tables_in_one_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "metadata.json", "metadata.csv"])
    assert "holds metadata.csv and metadata.json, which may differ" in refused(tmp_path)


def test_a_table_in_a_sub_folder_does_not_hide_the_pictures_beside_it(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "sub/b.png"])
    rows_in(tmp_path, [{"image": "b.png"}], "sub/metadata.json")
    message = refused(tmp_path)
    assert "sub/metadata.json lists pictures of its own folder, but there is a.png" in message


def test_a_table_in_a_sub_folder_may_use_masks_from_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, ["sub/a.png", "masks/a.png"])
    rows_in(tmp_path, [{"image": "a.png", "mask": "../masks/a.png"}], "sub/metadata.json")
    assert listed(tmp_path, Form(mask="mask"))["sub/a.png"].roles == {"mask": ("masks/a.png",)}


def test_roles_are_columns_of_paths(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "m/a.png", "r/1.png", "r/2.png", "s.png", "depth.png"])
    row = {"image": "a.png", "m": "m/a.png", "ref": ["r/1.png", "r/2.png"], "style": "s.png"}
    rows_in(tmp_path, [{**row, "depth": "depth.png", "focal_point": [0.25, 1]}])
    form = Form(references=["ref", "style"], mask="m", condition="depth")
    entry = listed(tmp_path, form)["a.png"]
    assert entry.roles == {
        "reference": ("r/1.png", "r/2.png", "s.png"),
        "mask": ("m/a.png",),
        "condition": ("depth.png",),
    }
    assert (entry.problem, entry.focal_point) == ("", (0.25, 1.0))
    assert list_dataset(tmp_path, form).aside == {}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"image": "b.png", "mask": "m.png"}, "the file is missing"),
        ({"image": "A.png", "mask": "m.png"}, "the file is missing, but there is a.png"),
        ({"image": "e\u0301.png", "mask": "m.png"}, "the file is missing, but there is \u00e9.png"),
        ({"image": "a.png", "mask": "n.png"}, "its mask n.png: the file is missing"),
        ({"image": "a.png", "mask": None}, "it has no mask: column 'mask' is empty"),
        ({"image": "a.png", "mask": []}, "it has no mask: column 'mask' is empty"),
        ({"image": "a.png", "mask": ["m.png", "a.png"]}, "it has 2 masks: m.png, a.png"),
        ({"image": "a.png/b", "mask": "m.png"}, "the file is missing"),
    ],
)
def test_a_row_whose_files_are_not_there_is_an_entry_with_a_problem(
    tmp_path: Path, row: dict[str, Any], problem: str
) -> None:
    write(tmp_path, ["a.png", "m.png", "\u00e9.png"])
    rows_in(tmp_path, [row, {"image": "m.png", "mask": "m.png"}])
    listing = list_dataset(tmp_path, Form(mask="mask"))
    assert [e.problem for e in listing.entries if e.path != "m.png"] == [problem]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"image": "a.png"}, "metadata.json holds a dict: it must be a list"),
        (["a.png"], "row 1 is 'a.png'"),
        ([[]], "row 1 is []"),
        ([{"caption": "a"}], "row 1: 'image' is None"),
        ([{"image": ""}], "row 1: 'image' is '': it must be the path"),
        ([{"image": "."}], "it must be the path"),
        ([{"image": "a\0.png"}], "it must be the path"),
        ([{"image": "\ud800.png"}], "it must be the path"),
        ([{"image": ["a.png"]}], "it must be the path"),
        ([{"image": 3}], "row 1: 'image' is 3"),
        ([{"image": "a.png", "caption": 3}], "row 1: 'caption' is 3"),
        ([{"image": "a.png", "caption": ["a", None]}], "it must be a text, a list of texts"),
        ([{"image": "a.png"}, {"image": "./a.png"}], "row 2 lists 'a.png' again"),
        ([{"image": "../x.png"}], "row 1: 'image' is '../x.png': it must be a path inside"),
        ([{"image": "sub/../../x.png"}], "it must be a path inside"),
        ([{"image": "/etc/x.png"}], "it must be a path inside"),
        ([{"image": "C:/x.png"}], "it must be a path inside"),
        ([{"image": "C:x.png"}], "it must be a path inside"),
        ([{"image": "//host/x.png"}], "it must be a path inside"),
        ([{"image": "sub\\x.png"}], "with forward slashes"),
        ([{"image": "a.png", "focal_point": [0.5]}], "row 1: 'focal_point' is [0.5]"),
        ([{"image": "a.png", "focal_point": [0.5, 1.5]}], "as fractions"),
        ([{"image": "a.png", "focal_point": [0.5, float("nan")]}], "as fractions"),
        ([{"image": "a.png", "focal_point": "middle"}], "as fractions"),
        ([{"image": "a.png", "file_name": "a.png"}], "['image', 'file_name'], which mean the same"),
        (
            [{"image": "a.png", "text": "", "caption": ""}],
            "set data.captions.columns to ['caption'",
        ),
        ([], "holds no pictures"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, rows: object, message: str) -> None:
    write(tmp_path, ["a.png"])
    rows_in(tmp_path, rows)
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["tag"], "row 2 has the columns ['tag'], which nothing reads: remove them, or set "),
        (["tag"], "data.ignore_columns to ['id', 'tag']"),
        (["mask"], "set data.mask to 'mask', or set data.ignore_columns"),
        (["condition"], "set data.condition to 'condition'"),
        (["reference", "z"], "set data.references to ['reference'], or"),
    ],
)
def test_a_column_that_nothing_reads_is_named_with_what_would_read_it(
    tmp_path: Path, columns: list[str], message: str
) -> None:
    write(tmp_path, ["a.png", "b.png"])
    rows_in(
        tmp_path,
        [{"image": "a.png", "id": 1}, {"image": "b.png", **dict.fromkeys(columns, "a.png")}],
    )
    assert message in refused(tmp_path, Form(ignore_columns=["id"]))
    assert len(listed(tmp_path, Form(ignore_columns=["id", *columns]))) == 2


def test_a_caption_column_that_was_not_chosen_is_named(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    rows_in(tmp_path, [{"image": "a.png", "text": "a", "long": "b"}])
    message = refused(tmp_path, Form(caption_columns=["long"]))
    assert "['text'], which nothing reads: set data.captions.columns to ['text']" in message


def test_a_column_that_a_parameter_names_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    rows_in(tmp_path, [{"image": "a.png", "text": "a"}])
    for form, message in (
        (Form(caption_columns=["txt"]), "no column 'txt', which data.captions.columns names"),
        (Form(mask="m"), "no column 'm', which data.mask names: its columns are ['image', 'text']"),
        (Form(references=["r"]), "no column 'r', which data.references names"),
        (Form(mask="text", ignore_columns=["text"]), "data.mask and data.ignore_columns both"),
    ):
        assert message in refused(tmp_path, form)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.json", "[{]", "metadata.json is not valid JSON"),
        ("metadata.json", b"\xff[]", "metadata.json is not valid JSON"),
        ("metadata.json", "[" * 100_000, "nested too deeply"),
        ("metadata.jsonl", '\n{"image": "a.png"}\n{"image"', "line 3 is not valid JSON"),
        ("metadata.jsonl", "[1]", "line 1 is [1]"),
        ("metadata.jsonl", b'{"image": "\xff.png"}', "metadata.jsonl is not UTF-8"),
        ("metadata.jsonl", "[" * 100_000, "line 1 is not valid JSON"),
        ("metadata.csv", "image,text\na.png,b,c", "line 2 has 3 cells, but there are 2 columns"),
        ("metadata.csv", "image,text\na.png", "line 2 has 1 cells"),
        ("metadata.csv", "image,image\na.png,a.png", "names a column twice"),
        ("metadata.csv", 'image\n"a.png', "is not valid CSV"),
        ("metadata.csv", "image;text\na.png;b", "which nothing reads"),
        ("metadata.csv", "image,text\n,b", "line 2: 'image' is None"),
        ("metadata.csv", b"\xff", "metadata.csv is not UTF-8"),
        ("metadata.csv", "", "holds no pictures"),
        ("metadata.jsonl", "\n \n", "holds no pictures"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    write(tmp_path, {"a.png": "", name: content})
    assert message in refused(tmp_path)


def test_csv_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = '\ufefffile_name,text,focal_point,ref\r\na.png,,"[0.5, 0]","[""b.png""]"\r\n\r\n'
    write(tmp_path, {"a.png": "", "b.png": "", "metadata.csv": text})
    entry = listed(tmp_path, Form(references=["ref"]))["a.png"]
    assert (entry.captions, entry.focal_point) == ((), (0.5, 0.0))
    assert entry.roles == {"reference": ("b.png",)}


def test_a_caption_with_half_a_surrogate_pair_is_a_problem_of_the_caption(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    rows_in(tmp_path, [{"image": "a.png", "caption": "a \ud800 b"}])
    entry = listed(tmp_path)["a.png"]
    assert (entry.captions, entry.problem) == ((), "")
    assert entry.caption_problem == "its caption is not Unicode text"


def test_a_path_may_go_up_within_the_dataset(tmp_path: Path) -> None:
    write(tmp_path, ["pictures/a.png", "x/y.png"])
    write(tmp_path, {"metadata.jsonl": json_lines([{"image": "x/../pictures//./a.png"}])})
    assert set(listed(tmp_path)) == {"pictures/a.png"}


def test_paths_may_lead_outside_where_that_is_allowed(tmp_path: Path) -> None:
    root = write(tmp_path / "root", ["sub/a.png", "c.png"])
    away = write(tmp_path / "away", ["b.png"])
    names = ["../../away/b.png", str(away / "x.png"), "a.png", str(root / "c.png")]
    rows_in(root, [{"image": name} for name in names], "sub/metadata.json")
    (root / "c.png").rename(root / "sub/c.png")
    names[-1] = str(root / "sub/c.png")
    rows_in(root, [{"image": name} for name in names], "sub/metadata.json")
    assert "it must be a path inside" in refused(root)
    found = listed(root, Form(allow_outside=True))
    assert {path: entry.problem for path, entry in found.items()} == {
        "../away/b.png": "",
        str(away / "x.png"): "the file is missing",
        "sub/a.png": "",
        "sub/c.png": "",
    }


def test_links_out_of_the_dataset_are_problems_of_the_rows_that_name_them(tmp_path: Path) -> None:
    away = write(tmp_path / "away", ["x.png"])
    root = write(tmp_path / "root", ["a.png"])
    (root / "file.png").symlink_to(away / "x.png")
    (root / "folder").symlink_to(away)
    rows = [{"image": name} for name in ("a.png", "file.png", "folder/x.png")]
    rows_in(root, rows)
    out = "a link out of the dataset, which data.allow_outside does not allow"
    assert {path: entry.problem for path, entry in listed(root).items()} == {
        "a.png": "",
        "file.png": out,
        "folder/x.png": f"it is below folder, {out}",
    }
    allowed = listed(root, Form(allow_outside=True))
    assert not any(entry.problem for entry in allowed.values())
    (root / "metadata.json").rename(away / "metadata.json")
    (root / "metadata.json").symlink_to(away / "metadata.json")
    assert out in refused(root)


def test_a_hidden_picture_is_used_where_a_row_names_it(tmp_path: Path) -> None:
    write(tmp_path, [".thumbs/a.png", ".b.png"])
    rows_in(tmp_path, [{"image": ".thumbs/a.png"}])
    listing = list_dataset(tmp_path, Form())
    assert accounted(listing) == {".thumbs/a.png", ".b.png"}
    assert not listing.entries[0].problem
