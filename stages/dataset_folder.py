"""What a dataset folder says it holds: its pictures with captions, and the files left aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from stages.artifacts import read_json
from stages.pixels import SUFFIXES

METADATA = "metadata.json"
COLUMNS = ("image", "caption")


@dataclass(frozen=True)
class Entry:
    """A picture that the dataset names."""

    path: str  # relative to the dataset, with forward slashes
    caption: str | None  # None where there is none
    problem: str = ""  # why it cannot be used, as far as the folder tells


@dataclass(frozen=True)
class Listing:
    """What a dataset folder holds; each file is in one of the two or belongs to an entry."""

    entries: Sequence[Entry]  # sorted by path
    aside: Mapping[str, str]  # path -> why the file is no entry


def list_dataset(root: Path, caption_extension: str, name: str = "data.train_path") -> Listing:
    """List a dataset in either form: with a metadata.json, or with a caption file a picture.

    Args:
        root: The folder.
        caption_extension: Of the caption files, such as ".txt".
        name: The parameter that names the folder, for messages.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder is empty or contradicts itself.
    """
    if not root.exists():
        raise FileNotFoundError(
            f"{name}: {str(root)!r} is not there: put a folder of pictures in that place "
            f"or name another with `python -m stages.params use … {name}=…`"
        )
    if not root.is_dir():
        raise ValueError(f"{name}: {str(root)!r} is a file: give the folder it lies in")
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    if METADATA in files:
        listing = _from_metadata(root, files)
    else:
        listing = _from_pairs(root, files, caption_extension)
    if not listing.entries:
        raise ValueError(
            f"{name}: {str(root)!r} holds no pictures: put some there, as "
            f"{', '.join(SUFFIXES)}, with a {METADATA} or a caption file each"
        )
    return listing


def _from_metadata(root: Path, files: Sequence[str]) -> Listing:
    where = root / METADATA
    rows = read_json(where)
    if not isinstance(rows, list):
        raise ValueError(
            f"{where} holds a {type(rows).__name__}: it must be a list of "
            f'{{"image": …, "caption": …}}'
        )
    entries: dict[str, Entry] = {}
    present = set(files)
    for number, row in enumerate(rows, start=1):
        entry = _checked_row(row, f"{where}: row {number}", present)
        if entry.path in entries:
            raise ValueError(
                f"{where}: row {number} lists {entry.path!r} again: keep one of the two"
            )
        entries[entry.path] = entry
    unlisted = {path for path in files if path not in entries and path != METADATA}
    return Listing(
        [entries[path] for path in sorted(entries)],
        dict.fromkeys(sorted(unlisted), f"not listed in {METADATA}"),
    )


def _checked_row(row: Any, where: str, present: set[str]) -> Entry:
    if not isinstance(row, dict):
        raise ValueError(f'{where} is {row!r}: it must be {{"image": …, "caption": …}}')
    surplus = sorted(row.keys() - set(COLUMNS))
    if surplus:
        raise ValueError(
            f"{where} has the columns {surplus}, which nothing reads: allowed are {list(COLUMNS)}, "
            f"remove the others"
        )
    image, caption = row.get("image"), row.get("caption")
    if not isinstance(image, str) or not image:
        raise ValueError(f"{where}: 'image' is {image!r}: it must be the path of a picture")
    if not isinstance(caption, str | None):
        raise ValueError(f"{where}: 'caption' is {caption!r}: it must be a text or null")
    path = PurePosixPath(image)
    if path.is_absolute() or PureWindowsPath(image).drive or ".." in path.parts or "\\" in image:
        raise ValueError(
            f"{where}: 'image' is {image!r}: it must be a path inside the dataset, relative to it, "
            f"with forward slashes"
        )
    return Entry(str(path), caption, "" if str(path) in present else "the file is missing")


def _from_pairs(root: Path, files: Sequence[str], extension: str) -> Listing:
    if extension.lower() in SUFFIXES:
        raise ValueError(
            f"data.caption_extension: {extension!r} is an extension of pictures: "
            f"give that of the caption files, such as '.txt'"
        )
    hidden = {path for path in files if any(part.startswith(".") for part in path.split("/"))}
    images = [p for p in files if _suffix(p) in SUFFIXES and p not in hidden]
    captions = {p for p in files if p.endswith(extension) and p not in hidden}
    others = [p for p in files if _suffix(p) not in SUFFIXES and p not in hidden | captions]
    _refuse_other_extension(root, images, captions, others, extension)
    aside = dict.fromkeys(hidden, "hidden file")
    aside |= dict.fromkeys(others, "neither a picture nor a caption")
    used = {_with_suffix(path, extension) for path in images}
    aside |= dict.fromkeys(captions - used, "caption without a picture")
    return Listing(
        [_paired(root, path, captions, extension) for path in images], dict(sorted(aside.items()))
    )


def _refuse_other_extension(
    root: Path, images: Sequence[str], captions: set[str], others: Sequence[str], extension: str
) -> None:
    """Recognise a mistyped extension: another one would give more pictures a caption."""
    stems = {_with_suffix(path, "") for path in images}
    without = sum(_with_suffix(path, extension) not in captions for path in images)
    rivals = Counter(
        PurePosixPath(path).suffix for path in others if _with_suffix(path, "") in stems
    )
    rival, count = max(rivals.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if count > len(images) - without:
        raise ValueError(
            f"{root}: {without} images have no {extension} file; {count} have {rival}: "
            f"set data.caption_extension to {rival!r}"
        )


def _paired(root: Path, path: str, captions: set[str], extension: str) -> Entry:
    beside = _with_suffix(path, extension)
    if beside not in captions:
        return Entry(path, None)
    try:
        return Entry(path, (root / beside).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Entry(path, None, f"its caption file {beside} is not UTF-8")


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _with_suffix(path: str, suffix: str) -> str:
    return str(PurePosixPath(path).with_suffix(suffix))
