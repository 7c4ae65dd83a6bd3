"""Who encodes: this process with its decode workers, or the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stages.encoding.batch import Encoder, Item
from stages.encoding.missing import Local, Work
from stages.encoding.ray_actors import Probe, RayActors


class Place(Protocol):
    """What params.yaml says of where encoding runs."""

    @property
    def workers(self) -> str:
        """`hardware.encode_workers`."""

    @property
    def ray_address(self) -> str | None:
        """`hardware.ray_address`."""

    @property
    def threads(self) -> int:
        """`hardware.threads`."""

    @property
    def batch_size(self) -> int:
        """`hardware.encode_batch_size`."""


def work_of(
    place: Place,
    encoder: Encoder[Item],
    load: Callable[[], Encoder[Item]],
    probe: Probe,
    device: str,
    decode_workers: int = 0,
) -> Work[Item]:
    """Choose who encodes; it makes no difference to the rows.

    Args:
        place: where it runs.
        encoder: of this process.
        load: makes the same encoder in another process; can be pickled.
        probe: what the others have to encode alike.
        device: kind of device that encodes.
        decode_workers: processes that prepare items for this one, or threads of an actor.
    """
    if place.workers == "local":
        return Local(encoder, decode_workers)
    return RayActors(
        load=load,
        probe=probe,
        address=place.ray_address,
        threads=place.threads,
        gpus=int(device != "cpu"),
        decode_workers=decode_workers,
        batch_size=place.batch_size,
    )
