"""List a dataset, or several in one folder, in whichever form each comes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stages.dataset.captions import ReadText, read_text
from stages.dataset.form import Form, Listing
from stages.dataset.kinds import Kind, kind_of, list_kind
from stages.dataset.metadata import NAMES
from stages.dataset.parts import find_parts, join
from stages.dataset.tree import Folder, walk
from stages.pixels import SUFFIXES

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")


def list_dataset(
    root: Path, form: Form, name: str = "data.train_path", read_text: ReadText = read_text
) -> Listing:
    """List the pictures of a dataset, and say of every other file why it is none.

    Args:
        root: The folder.
        form: How it is to be read.
        name: The parameter that names the folder, for messages.
        read_text: Reads a caption file; it may raise UnicodeDecodeError or OSError.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder is empty, or contradicts itself or `form`.
    """
    if not root.exists():
        raise FileNotFoundError(
            f"{name}: {str(root)!r} is not there: put a folder of pictures in that place "
            f"or name another with `python -m stages.params use … {name}=…`"
        )
    if not root.is_dir():
        raise ValueError(f"{name}: {str(root)!r} is a file: give the folder it lies in")
    folder = walk(root, form.allow_outside)
    listing = (_list_parts if form.datasets else _list_one)(folder, form, name, read_text)
    entries = sorted(listing.entries, key=lambda entry: entry.path)
    return Listing(entries, dict(sorted(listing.aside.items())))


def _list_one(folder: Folder, form: Form, name: str, read_text: ReadText) -> Listing:
    kind = kind_of(folder)
    _refuse_unread([kind], form, name, folder)
    listing = list_kind(folder, kind, form, read_text)
    _refuse_empty(listing, name, str(folder.root))
    return listing


def _list_parts(folder: Folder, form: Form, name: str, read_text: ReadText) -> Listing:
    parts = find_parts(folder, form)
    _refuse_unread((part.kind for part in parts), form, name, folder)
    listed = [(part, list_kind(part.folder, part.kind, form, read_text)) for part in parts]
    for part, listing in listed:
        _refuse_empty(listing, part.key, part.said.path)
    return join(folder, listed)


def _refuse_unread(kinds: Iterable[Kind], form: Form, name: str, folder: Folder) -> None:
    """Refuse settings for metadata where there is none."""
    if any(kind.name != "pairs" for kind in kinds):
        return
    settings = {
        "data.captions.columns": form.caption_columns,
        "data.ignore_columns": form.ignore_columns,
    }
    for key, columns in settings.items():
        if columns:
            raise ValueError(
                f"{key}: {list(columns)} given, but {name} ({folder}) has no metadata with "
                f"columns: set it to []"
            )


def _refuse_empty(listing: Listing, name: str, given: str) -> None:
    if listing.entries:
        return
    packed = next((path for path in listing.aside if path.lower().endswith(PACKED)), None)
    if packed is not None:
        raise ValueError(f"{name}: {given!r} holds only {packed}: unpack it, or make it a .tar")
    raise ValueError(
        f"{name}: {given!r} holds no pictures: put some there, as "
        f"{', '.join(SUFFIXES)}, with a {NAMES[0]} or a caption file each"
    )
