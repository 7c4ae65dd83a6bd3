from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.dataset.form import DatasetPart, Form
from stages.dataset.listing import list_dataset
from tests.dataset.making import accounted, json_lines, listed, parquet, refused, tar, write


def of(*paths: str) -> Form:
    return Form(datasets=[DatasetPart(path) for path in paths])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with a dataset in every form, and files of none."""
    write(tmp_path, {"pairs/a.png": "", "pairs/sub/a.txt": "pair", "pairs/sub/a.png": ""})
    write(tmp_path, {"json/a.png": "", "json/metadata.json": '[{"image": "a.png"}]'})
    write(tmp_path, {"json/left.png": ""})
    tar(tmp_path / "shards/0.tar", {"a.jpg": "", "a.npy": ""})
    tar(tmp_path / "shards/1.tar", {"a.jpg": ""})
    parquet(tmp_path / "tables/t.parquet", {"image": [b""], "text": ["row"]})
    write(tmp_path, {"loose/a.png": "", "loose/b.png": "", "loose/c.png": ""})
    write(tmp_path, {"loose/x.jsonl": json_lines([{"file_name": "a.png", "text": "x"}])})
    write(
        tmp_path, {"loose/y.csv": "file_name,caption\nb.png,y\n", "notes.md": "", "old/a.png": ""}
    )
    return tmp_path


def test_each_dataset_keeps_its_form_repeats_weight_and_split(mixed: Path) -> None:
    parts = [
        DatasetPart("pairs/", repeats=3),
        DatasetPart("json", weight=0.5, split="train"),
        DatasetPart("shards/0.tar", split="validation"),
        DatasetPart("tables"),
        DatasetPart("./loose/x.jsonl"),
        DatasetPart("loose/y.csv"),
    ]
    found = listed(mixed, Form(datasets=parts))
    assert {p: (e.dataset, e.repeats, e.weight, e.split) for p, e in found.items()} == {
        "json/a.png": ("json", 1, 0.5, "train"),
        "loose/a.png": ("./loose/x.jsonl", 1, 1.0, "auto"),
        "loose/b.png": ("loose/y.csv", 1, 1.0, "auto"),
        "pairs/a.png": ("pairs/", 3, 1.0, "auto"),
        "pairs/sub/a.png": ("pairs/", 3, 1.0, "auto"),
        "shards/0.tar/a.jpg": ("shards/0.tar", 1, 1.0, "validation"),
        "tables/t.parquet/0": ("tables", 1, 1.0, "auto"),
    }
    assert found["pairs/sub/a.png"].captions == ("pair",)
    assert found["loose/b.png"].captions == ("y",)


def test_files_of_no_dataset_are_set_aside(mixed: Path) -> None:
    form = of("pairs", "json", "shards/0.tar", "loose/x.jsonl")
    none = "in none of data.datasets"
    assert list_dataset(mixed, form).aside == {
        "json/left.png": "not listed in metadata.json",
        "loose/b.png": none,
        "loose/c.png": none,
        "loose/y.csv": none,
        "notes.md": none,
        "old/a.png": none,
        "shards/0.tar/a.npy": "neither a picture nor a caption",
        "shards/1.tar": none,
        "tables/t.parquet": none,
    }


def test_a_dataset_may_be_the_folder_itself(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "sub/b.png"])
    form = Form(datasets=[DatasetPart(".", repeats=2)])
    assert {path: entry.repeats for path, entry in listed(tmp_path, form).items()} == {
        "a.png": 2,
        "sub/b.png": 2,
    }


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["pairs", "pairs/sub"],
            "[1].path: 'pairs/sub' lies within 'pairs' (data.datasets[0].path)",
        ),
        (["pairs", "."], "[0].path: 'pairs' lies within '.'"),
        (["json", "json/metadata.json"], "'json/metadata.json' lies within 'json'"),
        (["shards", "shards/1.tar"], "'shards/1.tar' lies within 'shards'"),
        (["loose/x.jsonl", "both.json"], "both name 'loose/a.png': keep it in one of them"),
        (["old", "outer.json"], "both name 'old/a.png'"),
        (["../other"], "[0].path: '../other' given, a path inside"),
        (["/etc"], "'/etc' given, a path inside"),
        (["C:\\data"], "given, a path inside"),
        ([""], "'' given, a path inside"),
        (["notes.md"], "'notes.md' is a file, but no .tar shard and no .json"),
        (["empty"], "[0].path: 'empty' holds no pictures"),
        (["away"], "'away' cannot be read: away is a link out of the dataset"),
        (["again/sub"], "again is a link to a folder of the dataset"),
    ],
)
def test_datasets_that_cannot_be_meant_are_refused(
    mixed: Path, paths: list[str], message: str
) -> None:
    write(mixed, {"both.json": json.dumps([{"image": "loose/a.png"}]), "empty/notes": ""})
    write(mixed, {"outer.json": json.dumps([{"image": "old/a.png"}])})
    (mixed / "away").symlink_to("/usr")
    (mixed / "again").symlink_to("pairs")
    assert message in refused(mixed, of(*paths))


def test_a_dataset_that_is_not_there_is_named(mixed: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data.datasets\[1\].path: there is no 'pair'"):
        list_dataset(mixed, of("json", "pair"))


def test_a_row_may_not_leave_its_own_dataset(mixed: Path) -> None:
    write(mixed, {"json/metadata.json": '[{"image": "../old/a.png"}]'})
    assert "it must be a path inside the dataset" in refused(mixed, of("json"))


def test_datasets_may_share_the_pictures_of_other_roles(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png", "all.png"])
    for name in "ab":
        row = {"image": f"{name}.png", "mask": "all.png"}
        write(tmp_path, {f"{name}.jsonl": json_lines([row])})
    form = Form(mask="mask", datasets=[DatasetPart("a.jsonl"), DatasetPart("b.jsonl")])
    listing = list_dataset(tmp_path, form)
    assert [entry.roles["mask"] for entry in listing.entries] == [("all.png",)] * 2
    assert accounted(listing) == {"a.png", "b.png", "all.png"}


def test_columns_may_be_named_when_one_dataset_has_metadata(mixed: Path) -> None:
    form = Form(caption_columns=["text"], datasets=of("pairs", "loose/x.jsonl").datasets)
    assert listed(mixed, form)["loose/a.png"].captions == ("x",)
