"""Where the trigger word and the class word stand in the captions that are encoded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stages.check_captions.limits import Problem, first, named
from stages.class_images import Prior, rare_words
from stages.params.captions import Captions

Row = Mapping[str, Any]  # of CAPTIONS
Paths = Mapping[str, str]  # of targets, by sample id


def word_pattern(word: str) -> re.Pattern[str]:
    """Match a word, or several in a row, whole and in any case."""
    parts = r"\s+".join(re.escape(part) for part in word.split())
    return re.compile(rf"(?<!\w){parts}(?!\w)", re.IGNORECASE)


def count_words(rows: Sequence[Row], paths: Paths, settings: Captions) -> dict[str, Any]:
    """Report how many captions have the trigger word, the class word, or one without the other."""
    trigger, kind = settings.trigger_word, settings.class_word
    with_trigger = holders(rows, trigger) if trigger is not None else frozenset[int]()
    with_class = holders(rows, kind) if kind is not None else frozenset[int]()

    def share(chosen: frozenset[int]) -> dict[str, Any]:
        samples = {rows[index]["sample_id"] for index in chosen}
        names = first(paths[sample_id] for sample_id in samples)
        return {"captions": len(chosen), "samples": len(samples), "first": names}

    everywhere = frozenset(range(len(rows)))
    report: dict[str, Any] = {"trigger_word": None, "class_word": None}
    if trigger is not None:
        without = share(everywhere - with_trigger)
        covered = len(paths) - without["samples"]
        report["trigger_word"] = {
            "word": trigger,
            "captions": len(with_trigger),
            "samples": covered,  # whose captions all have it
            "fraction": covered / len(paths),
            "without": without,
        }
    if kind is not None:
        report["class_word"] = {"word": kind, "with": share(with_class)}
    if trigger is not None and kind is not None:
        report["class_word"]["trigger_alone"] = share(with_trigger - with_class)
        report["class_word"]["class_alone"] = share(with_class - with_trigger)  # leaks the class
    return report


def holders(rows: Sequence[Row], word: str) -> frozenset[int]:
    """Return the places of the rows whose caption has a word."""
    pattern = word_pattern(word)
    return frozenset(i for i, row in enumerate(rows) if pattern.search(row["caption"]))


def refuse_too_few(rows: Sequence[Row], paths: Paths, settings: Captions, where: str) -> None:
    """Raise when fewer samples than asked have the trigger word in all of their captions."""
    if settings.trigger_word is None:
        return
    have = holders(rows, settings.trigger_word)
    lacking = {row["sample_id"] for i, row in enumerate(rows) if i not in have}
    if (len(paths) - len(lacking)) / len(paths) >= settings.min_trigger_fraction:
        return
    names = named(Problem(paths[sample_id]) for sample_id in lacking)
    raise ValueError(
        f"{where}: {len(lacking)} of {len(paths)} pictures have a caption without the trigger word "
        f"{settings.trigger_word!r}, so fewer have it than data.captions.min_trigger_fraction = "
        f"{settings.min_trigger_fraction:g} asks: {names}; write it into their captions, put it "
        "into data.captions.prefix, or keep it from being dropped with data.captions.keep_tags"
    )


def refuse_without_rare(rows: Sequence[Row], paths: Paths, prior: Prior, where: str) -> None:
    """Raise when DreamBooth's subject is shown under a caption that does not name it."""
    rare = rare_words(prior.instance_prompt, prior.class_prompt)
    if not rare:
        return
    have = frozenset[int]().union(*(holders(rows, word) for word in rare))
    lacking = {row["sample_id"] for i, row in enumerate(rows) if i not in have}
    if lacking:
        names = named(Problem(paths[sample_id]) for sample_id in lacking)
        raise ValueError(
            f"{where}: {len(lacking)} of {len(paths)} pictures have a caption without "
            f"{' or '.join(map(repr, rare))}, the word that training.dreambooth.instance_prompt "
            f"gives the subject: {names}; write it into their captions, put it into "
            "data.captions.prefix, or remove the captions"
        )
