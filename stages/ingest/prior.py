"""What DreamBooth adds to a dataset: captions of the subject, and the pictures of its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stages.class_images import DATASET, Prior
from stages.dataset.form import Entry, Listing


def with_prior(listing: Listing, prior: Prior, folder: Path) -> Listing:
    """Give the instance prompt to pictures without a caption, and list the pictures of the class.

    Args:
        listing: The dataset.
        prior: The index of the folder.
        folder: Of the class's pictures.
    """
    own = listing.entries
    if prior.instance_prompt:
        own = [replace(each, captions=each.captions or (prior.instance_prompt,)) for each in own]
    entries = sorted([*own, *_of_class(prior, folder)], key=lambda entry: entry.path)
    return Listing(entries, listing.aside)


def _of_class(prior: Prior, folder: Path) -> Iterator[Entry]:
    base = folder.as_posix() if folder.is_absolute() else f"./{folder.as_posix()}"
    for picture in prior.pictures:
        path, captions = f"{base}/{picture.file}", (picture.prompt,)
        yield Entry(path, captions, dataset=DATASET, split="train", prior=True)
