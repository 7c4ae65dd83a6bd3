"""The captions as their files have them: what a user can mend in them."""

from __future__ import annotations

import html.entities
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from stages.check_captions.limits import NAMED, Problem, first, quoted

SHOWN = 200  # characters of a caption in the report

# HTML's own elements: textual-inversion marks such as <cat-toy> are words of a caption
ELEMENTS = (
    "a|abbr|b|big|blockquote|body|br|button|center|code|div|em|font|form|h[1-6]|head|hr|html|i|"
    "iframe|img|input|label|li|link|main|meta|nav|ol|option|p|pre|s|script|section|select|small|"
    "span|strike|strong|style|sub|sup|svg|table|tbody|td|th|thead|title|tr|tt|u|ul|video"
)
TAG = re.compile(rf"</?(?:{ELEMENTS})(?:[\s/][^<>]*)?>|<!--|<!doctype\b", re.IGNORECASE)
ENTITY = re.compile(r"&(?:#[0-9]{1,7};|#[xX][0-9a-fA-F]{1,6};|([A-Za-z][A-Za-z0-9]*;))")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # neither tab nor line break
INVISIBLE = re.compile("[\xad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
REPLACEMENT = "\ufffd"  # what a reader puts for bytes that are not UTF-8


class Written(NamedTuple):
    """One of the captions of a sample."""

    sample_id: str
    path: str  # of the sample's target
    place: int  # among the captions of the sample, blank ones included
    caption: str  # as it stands in its file


def written_captions(samples: Sequence[Mapping[str, Any]]) -> list[Written]:
    """List the captions that are not blank, sorted by sample id and place."""
    return [
        Written(sample["sample_id"], sample["path"], place, caption)
        for sample in sorted(samples, key=lambda sample: str(sample["sample_id"]))
        for place, caption in enumerate(sample["captions"])
        if caption.strip()
    ]


def problem(captions: Sequence[str]) -> str:
    """Return why the captions of a sample cannot be used, or nothing."""
    if not captions:
        return "no caption"
    return "" if any(caption.strip() for caption in captions) else "empty caption"


def defects(caption: str) -> Iterator[tuple[str, str]]:
    """Yield what does not belong into a caption: its kind, and an instance of it."""
    if tag := TAG.search(caption):
        yield "HTML tag", quoted(tag[0])
    if entity := next(filter(_is_entity, ENTITY.finditer(caption)), None):
        yield "HTML entity", quoted(entity[0])
    for kind, pattern in (("control character", CONTROL), ("invisible character", INVISIBLE)):
        if character := pattern.search(caption):
            yield kind, f"U+{ord(character[0]):04X}"
    if REPLACEMENT in caption:
        yield "replacement sign", "U+FFFD"


def _is_entity(match: re.Match[str]) -> bool:
    return match[1] is None or match[1] in html.entities.html5


def unclean(written: Sequence[Written]) -> tuple[dict[str, Any], list[Problem]]:
    """Report the defects by kind, and name the captions that have some."""
    kinds: Counter[str] = Counter()
    shown, problems = [], []
    for each in written:
        if not (found := list(defects(each.caption))):
            continue
        kinds.update(kind for kind, _ in found)
        says = ", ".join(f"{kind} {instance}" for kind, instance in found)
        problems.append(Problem(each.path, says))
        shown.append({"path": each.path, "problem": says, "caption": each.caption[:SHOWN]})
    report = {
        "unclean_captions": len(problems),
        "unclean": dict(kinds),
        "first_unclean": sorted(shown, key=lambda row: (row["path"], row["caption"]))[:NAMED],
    }
    return report, problems


def duplicates(written: Sequence[Written]) -> tuple[dict[str, Any], list[Problem]]:
    """Report captions that are there several times, and name the second and further ones."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for each in written:
        places[each.caption.strip()].append(each.path)
    most = sorted(places.items(), key=lambda item: (-len(item[1]), item[0]))[:NAMED]
    problems = [
        Problem(path, f"like {min(paths)}")
        for paths in places.values()
        for path in sorted(paths)[1:]
    ]
    report = {
        "distinct_captions": len(places),
        "duplicate_captions": len(problems),
        "most_frequent": [
            {"caption": caption[:SHOWN], "samples": len(set(paths)), "paths": first(paths)}
            for caption, paths in most
            if len(paths) > 1
        ],
    }
    return report, problems
