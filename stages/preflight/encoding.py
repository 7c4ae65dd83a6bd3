"""What there is to encode, and how long that will take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stages.needs import EncoderCalls, EncoderSeconds
from stages.picture_rows import FORMS, GEOMETRY
from stages.store.expected import Expected, Params, expected_captions, expected_pictures
from stages.store.stored import distinct_rows, missing_rows

Size = tuple[int, int]  # width and height, pixels


@dataclass(frozen=True)
class Rows:
    """The rows that encoding will add to the store, as far as that is known before it.

    Attributes:
        pictures: Those of pictures, masks and pixels.
        num_texts: Those of texts.
        batch_size: Items a call of an encoder.
    """

    pictures: Sequence[Expected]
    num_texts: int
    batch_size: int

    def num_bytes(self, text_row: int) -> int:
        """Return their size; `text_row` is that of a text's."""
        return sum(row.num_bytes or 0 for row in self.pictures) + self.num_texts * text_row

    def calls(self) -> EncoderCalls | None:
        """Return what is to be timed; None where there is nothing to encode."""
        sizes = [list(size) for size in self._calls_by_size()]
        if not sizes and not self.num_texts:
            return None
        return EncoderCalls(self.batch_size, sizes, bool(self.num_texts))

    def seconds(self, taken: EncoderSeconds) -> float:
        """Return how long encoding takes; opening the pictures goes on meanwhile."""
        numbers = self._calls_by_size().values()
        pictures = sum(num * each for num, each in zip(numbers, taken.pictures, strict=True))
        return pictures + math.ceil(self.num_texts / self.batch_size) * taken.texts + taken.loading

    def _calls_by_size(self) -> dict[Size, int]:
        """Count the calls of the autoencoder, the largest pictures first.

        Masked pictures are encoded apart from the others of their size.
        """
        counts: Counter[tuple[Size, bool]] = Counter()
        for row in self.pictures:
            if row.kind not in FORMS:
                cut = dict(zip(GEOMETRY, row.parts["geometry"], strict=True))
                counts[(cut["width"], cut["height"]), "mask" in row.parts] += 1
        calls: Counter[Size] = Counter()
        for (size, _), num in counts.items():
            calls[size] += math.ceil(num / self.batch_size)
        return dict(sorted(calls.items(), key=lambda each: (-math.prod(each[0]), each[0])))


def rows_to_encode(params: Params, root: str) -> Rows:
    """Find the rows that the store lacks."""
    pictures = missing_rows(root, distinct_rows(expected_pictures(params)))
    texts = missing_rows(root, distinct_rows(expected_captions(params)))
    return Rows(pictures, len(texts), params.batch_size)
