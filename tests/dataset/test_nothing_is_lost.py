"""Whatever lies in a folder: every file is an entry's, a role's, a caption's, or aside."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.dataset.captions import ReadText, read_text
from stages.dataset.form import DatasetPart, Form, Listing
from stages.dataset.listing import list_dataset
from tests.dataset.making import accounted, tar, write

STEMS = st.sampled_from(["a", "b", "a.b", ".h", "c d", "ä", "x\ny", "mask", "a.mask", "0"])
SUFFIXES = st.sampled_from([".png", ".JPG", ".txt", ".TXT", ".json", ".md", "", ".webp", ".tiff"])
FOLDERS = st.sampled_from(["", "sub/", "mask/", "mask/sub/", ".hidden/", "ref/", "x.tar/", "é/"])
NAMES = st.builds(lambda folder, stem, suffix: folder + stem + suffix, FOLDERS, STEMS, SUFFIXES)
FILES = st.sets(NAMES, min_size=1, max_size=24)
FORMS = st.sampled_from(
    [
        Form(),
        Form(per_line=True, caption_extension=".md"),
        Form(mask="mask"),
        Form(mask="mask", references=["ref"]),
        Form(datasets=[DatasetPart("sub"), DatasetPart("ref")]),
        Form(datasets=[DatasetPart("mask")], allow_outside=True),
    ]
)


def without_conflicts(names: set[str]) -> set[str]:
    """Drop names that are folders to others."""
    return {name for name in names if not any(other.startswith(f"{name}/") for other in names)}


def listed(root: Path, form: Form, read_text: ReadText = read_text) -> Listing | str:
    """List a dataset, or give the error."""
    try:
        return list_dataset(root, form, read_text=read_text)
    except (ValueError, FileNotFoundError) as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(names=FILES, form=FORMS)
def test_of_a_paired_dataset(names: set[str], form: Form) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, read = write(Path(folder), without_conflicts(names)), set()

        def noted(path: Path) -> str:
            read.add(path.relative_to(root).as_posix())
            return read_text(path)

        listing = listed(root, form, noted)
        if isinstance(listing, str):
            assert re.search(r"data\.|holds no pictures|images have no|lies? ", listing)
            return
        files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        assert accounted(listing) | read == files
        assert not read & accounted(listing)
        assert not set(listing.aside) & {entry.path for entry in listing.entries}
        assert [e.path for e in listing.entries] == sorted(e.path for e in listing.entries)
        assert list(listing.aside) == sorted(listing.aside)


@settings(max_examples=75, deadline=None)
@given(names=FILES, chosen=st.lists(NAMES, unique=True, max_size=12))
def test_of_a_metadata_table(names: set[str], chosen: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder), without_conflicts(names))
        rows = [{"image": name, "caption": name} for name in chosen]
        write(root, {"metadata.json": json.dumps(rows)})
        listing = listed(root, Form())
        if isinstance(listing, str):
            assert not chosen
            return
        files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        assert accounted(listing) == (files - {"metadata.json"}) | set(chosen)
        problems = {entry.path: entry.problem for entry in listing.entries}
        assert {path for path, why in problems.items() if not why} == set(chosen) & files


@settings(max_examples=75, deadline=None)
@given(names=FILES, mask=st.booleans())
def test_of_a_shard(names: set[str], mask: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tar(root / "0.tar", {name: "{}" if name.endswith("json") else name for name in names})
        listing = listed(root, Form(mask="mask" if mask else None))
        if isinstance(listing, str):
            assert re.search(r"0\.tar|holds no pictures", listing)
            return
        keys = {key_of(entry.path) for entry in listing.entries}
        texts = {f"0.tar/{name}" for name in names if name.lower().endswith((".txt", ".json"))}
        captions = {path for path in texts if key_of(path) in keys} - set(listing.aside)
        assert accounted(listing) | captions == {f"0.tar/{name}" for name in names}


def key_of(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"
