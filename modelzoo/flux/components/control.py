"""Of which blocks of a FLUX a ControlNet can be made."""

from __future__ import annotations

from typing import Protocol

from modelzoo.layers.control import most_used_up

USUAL = 4  # blocks of a kind, as in diffusers' script for FLUX.1


class Sizes(Protocol):
    """What is asked of the sizes of a base."""

    @property
    def num_layers(self) -> int:
        """Count blocks with two streams."""
        ...

    @property
    def num_single_layers(self) -> int:
        """Count blocks with one stream."""
        ...

    @property
    def fill_channels(self) -> int:
        """Count channels of an image token beyond those that are predicted."""
        ...


def blocks_to_copy(
    base: Sizes, num_layers: int | None, num_single_layers: int | None
) -> dict[str, int]:
    """Say how many blocks of each kind a ControlNet copies: those asked for, or up to four.

    Raises:
        ValueError: The base has fewer, none is asked for, one would serve no block of the base, or
            the base has channels for Fill.
    """
    if base.fill_channels:
        raise ValueError(
            f"FLUX ControlNet: the base takes {base.fill_channels} further channels, which no "
            "ControlNet sees: give a base that takes the noisy picture alone"
        )
    asked = {"num_layers": num_layers, "num_single_layers": num_single_layers}
    numbers = {}
    for name, number in asked.items():
        total = getattr(base, name)
        usual = most_used_up(total, USUAL if number is None else max(number, 0))
        if number is not None and number != usual:
            raise ValueError(
                f"FLUX ControlNet: of {name} {number!r} blocks not every one would serve one of "
                f"the base's {total}: give another number, such as {usual}"
            )
        numbers[name] = usual
    if not any(numbers.values()):
        raise ValueError("FLUX ControlNet: no block is to be copied: give num_layers of 1 or more")
    return numbers
