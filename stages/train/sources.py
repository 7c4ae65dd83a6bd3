"""Where training gets the rows of pictures from: the row store, or an encoder at each visit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from stages.rows.layout import Array

Sizes = npt.NDArray[np.int32]


class Source(Protocol):
    """Rows of pictures by their names (`tables.latent_name`), and what a visit makes of them.

    Where `visits` are given, one a name, a row is what that visit sees; without them it is the
    fixed look at the picture, which validation takes.
    """

    @property
    def looks_ahead(self) -> bool:
        """Whether `expect` is of use."""

    def take(self, names: Sequence[str], visits: Sequence[int] | None = None) -> dict[str, Array]:
        """Return the rows of these names, which have one shape: each column is (B, ...)."""

    def sizes(self, names: Sequence[str], visits: Sequence[int] | None, fixed: Sizes) -> Sizes:
        """Return the columns SIZES of these targets, (B, 6); `fixed` are the manifest's."""

    def expect(self, names: Sequence[str], visits: Sequence[int]) -> None:
        """Have the pictures opened that will be taken soon."""

    def reading(self) -> AbstractContextManager[None]:
        """Hold what opens pictures for as long as training goes on; begun in the main thread."""


class Rows(Protocol):
    """What reads rows by their names."""

    def take(self, names: Sequence[str], /) -> dict[str, Array]:
        """Return the rows of these names, which have one shape."""


@dataclass(frozen=True)
class Stored:
    """Rows of the store: every visit finds them as they are."""

    rows: Rows
    looks_ahead: ClassVar[bool] = False

    def take(self, names: Sequence[str], visits: Sequence[int] | None = None) -> dict[str, Array]:
        """See `Source`."""
        return self.rows.take(names)

    def sizes(self, names: Sequence[str], visits: Sequence[int] | None, fixed: Sizes) -> Sizes:
        """See `Source`."""
        return fixed

    def expect(self, names: Sequence[str], visits: Sequence[int]) -> None:
        """Do nothing: the store needs no notice."""

    def reading(self) -> AbstractContextManager[None]:
        """Hold nothing."""
        return nullcontext()
