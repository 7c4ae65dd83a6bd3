"""List a dataset, in whichever form it comes."""

from __future__ import annotations

from pathlib import Path

from stages.dataset.captions import ReadText, read_text
from stages.dataset.form import Form, Listing
from stages.dataset.metadata import NAMES, list_tables
from stages.dataset.pairs import list_pairs
from stages.dataset.tree import Folder, walk
from stages.pixels import SUFFIXES


def list_dataset(
    root: Path,
    form: Form,
    name: str = "data.train_path",
    read_text: ReadText = read_text,
) -> Listing:
    """List the pictures of a dataset, and say of every other file why it is none.

    Args:
        root: The folder.
        form: How it is to be read.
        name: The parameter that names the folder, for messages.
        read_text: Reads a caption file; it may raise UnicodeDecodeError or OSError.

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
    listing = _list_folder(walk(root, form.allow_outside), form, read_text)
    if not listing.entries:
        raise ValueError(
            f"{name}: {str(root)!r} holds no pictures: put some there, as "
            f"{', '.join(SUFFIXES)}, with a {NAMES[0]} or a caption file each"
        )
    entries = sorted(listing.entries, key=lambda entry: entry.path)
    return Listing(entries, dict(sorted(listing.aside.items())))


def _list_folder(folder: Folder, form: Form, read_text: ReadText) -> Listing:
    if NAMES[0] in folder.files:
        return list_tables(folder, [NAMES[0]], form)
    return list_pairs(folder, form, read_text)
