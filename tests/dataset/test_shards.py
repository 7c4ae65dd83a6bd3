from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from stages.dataset.files import read_bytes
from stages.dataset.form import Form
from stages.dataset.listing import list_dataset
from tests.dataset.making import Content, captions, listed, refused, tar, write


def test_members_of_one_key_are_a_sample(tmp_path: Path) -> None:
    row = json.dumps({"caption": "from json", "focal_point": [0, 0.5]})
    tar(tmp_path / "shards/0.tar", {"./a.jpg": "A", "./a.txt": "one", "./sub/b.PNG": "B"})
    tar(tmp_path / "shards/1.tar", {"a.jpg": "A1", "a.json": row, "a.cls": "3"})
    listing = list_dataset(tmp_path, Form())
    assert [(e.path, e.captions, e.focal_point, e.problem) for e in listing.entries] == [
        ("shards/0.tar/a.jpg", ("one",), None, ""),
        ("shards/0.tar/sub/b.PNG", (), None, ""),
        ("shards/1.tar/a.jpg", ("from json",), (0.0, 0.5), ""),
    ]
    assert listing.aside == {"shards/1.tar/a.cls": "neither a picture nor a caption"}
    assert [read_bytes(tmp_path, e.path) for e in listing.entries] == [b"A", b"B", b"A1"]


def test_captions_of_the_file_and_of_the_json_are_all_kept_once(tmp_path: Path) -> None:
    row = json.dumps({"captions": ["one", "two"], "url": "x"})
    tar(tmp_path / "0.tar", {"a.jpg": "", "a.json": row, "a.txt": "one"})
    assert captions(tmp_path, Form(ignore_columns=["url"])) == {"0.tar/a.jpg": ("one", "two")}
    message = refused(tmp_path)
    assert "0.tar/a.json has the columns ['url'], which nothing reads" in message


def test_other_pictures_of_a_sample_have_their_role_in_the_name(tmp_path: Path) -> None:
    names = ["a.jpg", "a.mask.PNG", "a.ref1.png", "a.ref0.png", "a.style.webp", "a.control.jpg"]
    tar(tmp_path / "0.tar", {name: name for name in names})
    form = Form(references=["ref", "style"], mask="mask", condition="control")
    entry = listed(tmp_path, form)["0.tar/a.jpg"]
    assert entry.roles == {
        "reference": ("0.tar/a.ref0.png", "0.tar/a.ref1.png", "0.tar/a.style.webp"),
        "mask": ("0.tar/a.mask.PNG",),
        "condition": ("0.tar/a.control.jpg",),
    }
    assert entry.problem == ""
    assert read_bytes(tmp_path, "0.tar/a.mask.PNG") == b"a.mask.PNG"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a.jpg", "a.ref.png"], "it has no mask: there is no .mask picture"),
        (["a.jpg", "a.mask.png"], "it has no reference: there is no .ref picture"),
        (["a.jpg", "a.mask.png", "a.ref0.png", "a.ref2.png"], "one is missing: [0, 2]"),
        (["a.jpg", "a.mask.png", "a.ref1.png", "a.ref2.png"], ""),
    ],
)
def test_a_sample_that_lacks_a_picture_is_a_problem(
    tmp_path: Path, names: list[str], problem: str
) -> None:
    tar(tmp_path / "0.tar", dict.fromkeys(names, ""))
    entry = listed(tmp_path, Form(references=["ref"], mask="mask"))["0.tar/a.jpg"]
    assert entry.problem.endswith(problem)
    assert bool(entry.problem) == bool(problem)


def test_members_of_no_picture_are_set_aside_with_a_reason(tmp_path: Path) -> None:
    names = ["a.jpg", "b.txt", "c.json", "d.mask.png", "e.npy", ".f.jpg", "README", "a.depth.png"]
    tar(tmp_path / "0.tar", dict.fromkeys(names, "{}"))
    (tmp_path / "README.md").write_text("")
    listing = list_dataset(tmp_path, Form(mask="mask", ignore_columns=["Depth"]))
    assert len(listing.entries) == 1
    assert listing.aside == {
        "0.tar/.f.jpg": "hidden file",
        "0.tar/README": "without a picture",
        "0.tar/a.depth.png": "neither a picture nor a caption",
        "0.tar/b.txt": "caption without a picture",
        "0.tar/c.json": "caption without a picture",
        "0.tar/d.mask.png": "mask without a picture",
        "0.tar/e.npy": "without a picture",
        "README.md": "no shard",
    }


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("a.jpg", ""), ("a.mask.png", "")],
            "0.tar/a.mask.png is a picture 'mask', which nothing",
        ),
        ([("a.jpg", ""), ("./a.jpg", "")], "0.tar holds 'a.jpg' twice"),
        ([("a.jpg", ""), ("a.txt", ""), ("a.TXT", "")], "'a.txt' and 'a.TXT', which mean the same"),
        ([("a.jpg", ""), ("a.json", '{"caption": 3}')], "0.tar/a.json: 'caption' is 3"),
        ([("a.jpg", ""), ("a.json", '{"focal_point": 3}')], "0.tar/a.json: 'focal_point' is 3"),
        ([("a.jpg", ""), ("a.caption", "")], "1 images have no .txt file; 1 have .caption"),
        ([], "holds no pictures"),
        ([("a.txt", "")], "holds no pictures"),
    ],
)
def test_a_shard_that_cannot_be_meant_is_refused(
    tmp_path: Path, members: list[tuple[str, Content]], message: str
) -> None:
    tar(tmp_path / "0.tar", members)
    assert message in refused(tmp_path)


def test_a_caption_that_cannot_be_read_is_no_fault_of_the_picture(tmp_path: Path) -> None:
    members = {
        "a.jpg": "",
        "a.txt": b"\xff",
        "b.jpg": "",
        "b.json": "{",
        "c.jpg": "",
        "c.json": "3",
    }
    tar(tmp_path / "0.tar", members)
    found = listed(tmp_path)
    assert not any(entry.problem for entry in found.values())
    assert [entry.caption_problem for entry in found.values()] == [
        "its caption file a.txt is not UTF-8",
        "b.json is not valid JSON",
        "c.json is no JSON object",
    ]


def special(root: Path) -> Path:
    """Write an archive with members that are no plain files, or have impossible names."""
    path = root / "0.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
            ("folder", tarfile.DIRTYPE),
            ("../up.jpg", tarfile.REGTYPE),
            ("/abs.jpg", tarfile.REGTYPE),
            ("C:/drive.jpg", tarfile.REGTYPE),
            ("sub/../../up2.jpg", tarfile.REGTYPE),
            ("back\\slash.jpg", tarfile.REGTYPE),
            ("\udcff.jpg", tarfile.REGTYPE),
            ("sub/x/../good.jpg", tarfile.REGTYPE),
            ("line\nbreak ä.jpg", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            archive.addfile(member, io.BytesIO())
    return path


def test_members_with_names_that_lead_out_and_links_are_not_read(tmp_path: Path) -> None:
    special(tmp_path)
    listing = list_dataset(tmp_path, Form())
    assert [e.path for e in listing.entries] == ["0.tar/line\nbreak ä.jpg", "0.tar/sub/good.jpg"]
    leads_out = "its name leads out of the archive"
    assert listing.aside == {
        "0.tar/../up.jpg": leads_out,
        "0.tar/../up2.jpg": leads_out,
        "0.tar//abs.jpg": leads_out,
        "0.tar/C:/drive.jpg": leads_out,
        "0.tar/back\\slash.jpg": leads_out,
        "0.tar/\\xff.jpg": "its name is not UTF-8",
        "0.tar/hard.jpg": "a link within an archive",
        "0.tar/link.jpg": "a link within an archive",
        "0.tar/pipe.jpg": "no plain file",
    }


def test_a_damaged_archive_is_an_entry_with_a_problem(tmp_path: Path) -> None:
    whole = tar(tmp_path / "0.tar", {"a.jpg": "A" * 600, "b.jpg": "B" * 600}).read_bytes()
    header = 512 + 1024  # of b.jpg
    (tmp_path / "1.tar").write_bytes(whole[: header + 700])
    (tmp_path / "2.tar").write_bytes(whole[:header] + b"x" * 512 + whole[header + 512 :])
    (tmp_path / "3.tar").write_bytes(whole[:header])
    (tmp_path / "4.tar").write_bytes(b"\x1f\x8b" * 700)
    (tmp_path / "5.tar").write_bytes(b"")
    (tmp_path / "6.tar").symlink_to("nowhere")
    found = listed(tmp_path)
    assert {path for path, entry in found.items() if not entry.problem} == {
        *("0.tar/a.jpg", "0.tar/b.jpg", "1.tar/a.jpg", "2.tar/a.jpg", "3.tar/a.jpg")
    }
    problems = {path: entry.problem for path, entry in found.items() if entry.problem}
    assert problems.keys() == {f"{i}.tar" for i in range(1, 7)}
    assert "cut off" in problems["3.tar"]
    assert "damaged" in problems["2.tar"]
    assert "no tar archive" in problems["4.tar"]
    assert problems["6.tar"] == "a link to nothing"
    assert list_dataset(tmp_path, Form()).aside == {"1.tar/b.jpg": "the archive ends within it"}


def test_a_changed_archive_is_read_anew(tmp_path: Path) -> None:
    path = tar(tmp_path / "0.tar", {"a.jpg": "old"})
    assert read_bytes(tmp_path, "0.tar/a.jpg") == b"old"
    tar(path, {"b.jpg": "longer", "a.jpg": "new"})
    os.utime(path, ns=(1, 1))
    assert read_bytes(tmp_path, "0.tar/a.jpg") == b"new"


def test_shards_beside_pictures_or_tables_are_refused(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.jpg": ""})
    write(tmp_path, ["sub/b.jpg"])
    assert "holds a tar archive (0.tar) and a picture outside of it (sub/b.jpg)" in refused(
        tmp_path
    )
    write(tmp_path, ["t.parquet"])
    assert "and a parquet table (t.parquet)" in refused(tmp_path)


def test_an_empty_archive_among_others_is_set_aside(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.jpg": ""})
    tar(tmp_path / "1.tar", {})
    assert list_dataset(tmp_path, Form()).aside == {"1.tar": "an empty archive"}
