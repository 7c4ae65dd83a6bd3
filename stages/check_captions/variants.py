"""The texts that are made of a caption: each is encoded once, and each visit takes one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.check_captions.limits import Problem, named, quoted
from stages.check_captions.written import Written
from stages.params.captions import Captions
from stages.randomness import generator
from stages.wildcards import choose, is_balanced


def variants(
    written: Sequence[Written], settings: Captions, seed: int, where: str
) -> list[dict[str, Any]]:
    """Return the rows of CAPTIONS: `settings.variants` draws of each caption, one after the other.

    A draw depends on the seed, the sample, the caption's place and its own number alone.

    Args:
        written: Captions that are not blank, sorted by sample and place.
        settings: What is drawn, and what is put around it.
        seed: data.seed.
        where: data.train_path, for messages.

    Raises:
        ValueError: A caption has unbalanced braces, or came out empty.
    """
    if settings.wildcards:
        refuse_unbalanced(written, where)
    numbers: Counter[str] = Counter()
    rows, empty = [], []
    for each in written:
        for number in range(settings.variants):
            purpose = (seed, "caption", each.sample_id, each.place, number)
            text = draw(each.caption.strip(), settings, purpose)
            row = {"sample_id": each.sample_id, "variant": numbers[each.sample_id], "caption": text}
            numbers[each.sample_id] += 1
            rows.append(row)
            if not text:
                empty.append(Problem(each.path, quoted(each.caption)))
    if empty:
        raise ValueError(
            f"{where}: {len(empty)} of {len(rows)} drawn captions are empty: {named(empty)}; "
            "give their wildcards no empty part, or set data.captions.wildcards to false"
        )
    return rows


def draw(caption: str, settings: Captions, purpose: tuple[str | int, ...]) -> str:
    """Return one text of a caption: the caption itself where nothing is drawn or put around it."""
    if settings.wildcards and "{" in caption:
        caption = choose(caption, generator(*purpose, "wildcards"))
    if settings.shuffle_tags or settings.tag_dropout:
        caption = draw_tags(caption, settings, generator(*purpose, "tags"))
    return f"{settings.prefix}{caption}{settings.suffix}".strip()


def draw_tags(caption: str, settings: Captions, random: np.random.Generator) -> str:
    """Drop and shuffle the tags behind the first `keep_tags`; one tag stays in any case.

    Which tags go does not depend on whether they are shuffled, nor their order on how many go.
    """
    separator = settings.tag_separator.strip()
    tags = [tag for each in caption.split(separator) if (tag := each.strip())]
    first, rest = tags[: settings.keep_tags], tags[settings.keep_tags :]
    if len(tags) < 2 or not rest:
        return caption
    stay, order = random.random((2, len(rest)))
    chosen = [index for index in range(len(rest)) if stay[index] >= settings.tag_dropout]
    if not first and not chosen:
        chosen = [int(stay.argmax())]
    if settings.shuffle_tags:
        chosen.sort(key=lambda index: float(order[index]))
    return f"{separator} ".join([*first, *(rest[index] for index in chosen)])


def refuse_unbalanced(written: Sequence[Written], where: str) -> None:
    """Raise when a caption has a brace without its partner."""
    broken = [
        Problem(each.path, quoted(each.caption))
        for each in written
        if not is_balanced(each.caption)
    ]
    if broken:
        raise ValueError(
            f"{where}: {len(broken)} of {len(written)} captions have a brace without its partner: "
            f"{named(broken)}; mend them, or set data.captions.wildcards to false"
        )
