from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from stages.dataset.form import Form
from stages.dataset.listing import list_dataset
from tests.dataset.making import captions, listed, write


def test_each_picture_has_the_caption_beside_it_in_every_folder(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.webp", "sub/deep/a.jpg"])
    write(tmp_path, {"a.txt": "one\n", "sub/deep/a.txt": "\ufefftwo"})
    assert captions(tmp_path) == {"a.png": ("one\n",), "b.webp": (), "sub/deep/a.jpg": ("two",)}


def test_suffixes_are_read_in_any_case_and_the_exact_one_first(tmp_path: Path) -> None:
    write(tmp_path, {"a.JPG": "", "a.TXT": "loud", "b.Png": "", "b.TXT": "loud", "b.txt": "low"})
    listing = list_dataset(tmp_path, Form())
    assert [(e.path, e.captions) for e in listing.entries] == [
        ("a.JPG", ("loud",)),
        ("b.Png", ("low",)),
    ]
    assert listing.aside == {"b.TXT": "the caption is in b.txt"}


@pytest.mark.parametrize("stem", ["a b", "1.5 x 2", "ä日本", "line\nbreak", "a.txt", "-", "%s{0}"])
def test_odd_names_keep_their_captions(tmp_path: Path, stem: str) -> None:
    write(tmp_path, {f"{stem}.png": "", f"{stem}.txt": "mine"})
    assert captions(tmp_path) == {f"{stem}.png": ("mine",)}


def test_every_line_is_a_caption_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": "", "a.txt": "one\r\n\n  \ntwo\u2028still two\rthree", "b.png": ""})
    write(tmp_path, {"b.txt": " \n"})
    assert captions(tmp_path, Form(per_line=True)) == {
        "a.png": ("one", "two\u2028still two", "three"),
        "b.png": (" \n",),
    }


def test_a_caption_that_is_not_utf8_is_no_fault_of_the_picture(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": "", "a.txt": b"\xff\xfe\x00"})
    entry = listed(tmp_path)["a.png"]
    assert (entry.problem, entry.captions) == ("", ())
    assert entry.caption_problem == "its caption file a.txt is not UTF-8"


def test_captions_are_read_by_the_function_that_is_given(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "a.txt", "b.png", "b.txt"])

    def remembered(path: Path) -> str:
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied")
        return f"remembered {path.name}"

    a, b = list_dataset(tmp_path, Form(), read_text=remembered).entries
    assert a.captions == ("remembered a.txt",)
    assert b.caption_problem == "its caption file b.txt cannot be read: Permission denied"


def test_files_of_no_picture_are_set_aside_with_a_reason(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "lonely.txt", "film.mp4", ".b.png", ".git/c.png", "notes"])
    assert list_dataset(tmp_path, Form()).aside == {
        ".b.png": "hidden file",
        ".git/c.png": "hidden file",
        "film.mp4": "neither a picture nor a caption",
        "lonely.txt": "caption without a picture",
        "notes": "neither a picture nor a caption",
    }


def test_a_mistyped_extension_is_recognised(tmp_path: Path) -> None:
    for i in range(412):
        write(tmp_path, [f"{i}.png", f"{i}.TXT" if i % 2 else f"{i}.txt"])
    with pytest.raises(ValueError, match=r"412 images have no \.caption file; 412 have \.txt") as e:
        list_dataset(tmp_path, Form(caption_extension=".caption"))
    assert "set data.caption_extension to '.txt'" in str(e.value)


def test_other_files_with_the_names_of_few_pictures_are_no_sign_of_a_typo(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "a.txt", "a.json", "b.png", "b.txt", "c.png", "c.json"])
    assert len(listed(tmp_path)) == 3


def test_pictures_are_not_taken_for_captions(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match=r"'\.PNG' is an extension of pictures"):
        list_dataset(tmp_path, Form(caption_extension=".PNG"))


def test_parallel_folders_hold_the_other_pictures(tmp_path: Path) -> None:
    write(tmp_path, ["a.jpg", "a.txt", "sub/b.jpg", "masks/a.png", "masks/sub/b.JPG"])
    write(tmp_path, ["ref/before/a.png", "ref/before/sub/b.png", "style/a.jpg", "style/sub/b.jpg"])
    form = Form(references=["ref/before", "style/"], mask="masks")
    found = listed(tmp_path, form)
    assert {path: (entry.roles, entry.problem) for path, entry in found.items()} == {
        "a.jpg": ({"reference": ("ref/before/a.png", "style/a.jpg"), "mask": ("masks/a.png",)}, ""),
        "sub/b.jpg": (
            {
                "reference": ("ref/before/sub/b.png", "style/sub/b.jpg"),
                "mask": ("masks/sub/b.JPG",),
            },
            "",
        ),
    }


def test_a_picture_without_its_mask_is_a_problem_and_a_mask_without_its_picture_is_not(
    tmp_path: Path,
) -> None:
    write(tmp_path, ["a.png", "b.png", "mask/a.png", "mask/c.png", "mask/a.txt"])
    listing = list_dataset(tmp_path, Form(mask="mask"))
    assert [(e.path, e.problem) for e in listing.entries] == [
        ("a.png", ""),
        ("b.png", "it has no mask in mask/"),
    ]
    assert listing.aside == {
        "mask/a.txt": "no picture, in a folder of masks",
        "mask/c.png": "mask without a picture",
    }


def test_of_two_masks_that_of_the_same_suffix_is_meant(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.webp", "mask/a.png", "mask/a.jpg", "mask/b.png", "mask/b.jpg"])
    listing = list_dataset(tmp_path, Form(mask="mask"))
    a, b = listing.entries
    assert (a.roles, a.problem) == ({"mask": ("mask/a.png",)}, "")
    assert b.problem == "it has 2 masks: mask/b.jpg, mask/b.png"
    assert set(listing.aside) == {"mask/a.jpg", "mask/b.jpg", "mask/b.png"}


def test_a_missing_folder_of_masks_is_one_error(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "sub/mask/a.png"])
    with pytest.raises(ValueError, match=r"data.mask: 'mask' is no folder of pictures"):
        list_dataset(tmp_path, Form(mask="mask"))
    with pytest.raises(ValueError, match=r"data.references\[1\]: 'style' is no folder"):
        list_dataset(tmp_path, Form(references=["sub", "style"]))


def test_a_name_that_is_not_utf8_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
    found = listed(tmp_path)
    assert found["\\xff.png"].problem == "its name is not UTF-8: rename it"
    assert found["a.png"].problem == ""


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png"])
    for name in ("pipe.png", "a.txt", "b.fifo"):
        os.mkfifo(tmp_path / name)
    listing = list_dataset(tmp_path, Form())
    found = {entry.path: entry for entry in listing.entries}
    assert found["pipe.png"].problem == "neither a file nor a folder"
    assert "a.txt: neither a file" in found["a.png"].caption_problem
    assert listing.aside == {"b.fifo": "neither a file nor a folder"}


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A dataset whose links lead out of it, back into it, in circles and nowhere."""
    write(tmp_path / "away", ["x.png", "x.txt", "deep/y.png"])
    root = write(tmp_path / "root", ["a.png", "sub/b.png"])
    (root / "out.png").symlink_to(tmp_path / "away/x.png")
    (root / "a.txt").symlink_to(tmp_path / "away/x.txt")
    (root / "same.png").symlink_to("a.png")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "folder").symlink_to(tmp_path / "away")
    (root / "second").symlink_to(tmp_path / "away")
    (root / "sub/up").symlink_to("..")
    (tmp_path / "away/loop").symlink_to(tmp_path / "away")
    (tmp_path / "away/home").symlink_to(tmp_path)
    return root


def test_links_out_of_the_dataset_are_not_followed(linked: Path) -> None:
    listing = list_dataset(linked, Form())
    out = "a link out of the dataset, which data.allow_outside does not allow"
    found = {entry.path: entry for entry in listing.entries}
    assert {path: entry.problem for path, entry in found.items()} == {
        "a.png": "",
        "gone.png": "a link to nothing",
        "out.png": out,
        "same.png": "",
        "sub/b.png": "",
    }
    assert found["a.png"].caption_problem == f"its caption file a.txt: {out}"
    assert listing.aside == {
        "folder": out,
        "second": out,
        "sub/up": "a link to a folder of the dataset, which is listed there",
    }


def test_links_are_followed_once_where_that_is_allowed(linked: Path) -> None:
    listing = list_dataset(linked, Form(allow_outside=True))
    found = {entry.path: entry for entry in listing.entries}
    usable = {path for path, entry in found.items() if not entry.problem}
    assert usable == {
        *("a.png", "folder/deep/y.png", "folder/x.png", "out.png", "same.png", "sub/b.png")
    }
    assert found["a.png"].captions == ("x.txt",)
    already = "a link to a folder that is listed already"
    assert sum(why == already for why in listing.aside.values()) == 3


def test_a_folder_may_be_called_like_an_archive(tmp_path: Path) -> None:
    write(tmp_path, {"a.tar/b.png": "", "a.tar/b.txt": "text"})
    assert captions(tmp_path) == {"a.tar/b.png": ("text",)}


def test_a_folder_without_pictures_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data.train_path: .*nowhere' is not there"):
        list_dataset(tmp_path / "nowhere", Form())
    write(tmp_path, ["a.txt"])
    with pytest.raises(ValueError, match="is a file: give the folder"):
        list_dataset(tmp_path / "a.txt", Form())
    with pytest.raises(ValueError, match=r"base: .* holds no pictures"):
        list_dataset(tmp_path, Form(), "base")
    write(tmp_path, ["pictures.tar.gz"])
    with pytest.raises(ValueError, match=r"holds only pictures.tar.gz: unpack it"):
        list_dataset(tmp_path, Form())


def test_settings_for_metadata_are_refused_where_there_is_none(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    for form, key in (
        (Form(caption_columns=["text"]), "data.captions.columns"),
        (Form(ignore_columns=["id"]), "data.ignore_columns"),
    ):
        with pytest.raises(ValueError, match=f"{key}: .* has no metadata with columns"):
            list_dataset(tmp_path, form)
    assert listed(tmp_path, replace(form, ignore_columns=()))
