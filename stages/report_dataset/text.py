"""Text of a dataset as a page can show it: every character seen, none believed."""

from __future__ import annotations

import re

# Controls, and marks that are invisible or turn the direction of what follows.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
PICTURES = 0x2400  # of the ASCII controls, in Unicode


def visible(text: str) -> str:
    """Return `text` with a sign for every character that would not be seen."""
    return UNSEEN.sub(lambda match: _sign(ord(match[0])), text)


def clipped(text: str, length: int) -> str:
    """Return the start of `text` in one line, with an ellipsis where something follows."""
    line = " ".join(text.split())
    return visible(line if len(line) <= length else line[: length - 1].rstrip() + "…")


def _sign(code: int) -> str:
    if code < 0x20:
        return chr(PICTURES + code)
    return "␡" if code == 0x7F else f"‹U+{code:04X}›"


def grouped(number: float) -> str:
    """Return a whole number with narrow spaces between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


def percent(fraction: float) -> str:
    """Return a fraction in percent, with a digit after the point where it is small."""
    value = 100 * fraction
    if value and value < 0.1:
        return "below 0.1 %"
    return f"{value:.1f} %" if value < 10 and round(value, 1) != round(value) else f"{value:.0f} %"
