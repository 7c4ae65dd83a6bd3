"""Pictures that are opened, cut and encoded at each visit: `data.cache_latents: false`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
import torch
from accelerate import PartialState

from modelzoo.autoencoders import load_autoencoder
from stages.base_record import read_record
from stages.bucketed_pictures import Pictures
from stages.encoding.ahead import Pool, open_pool
from stages.encoding.batch import Encode, FixedBatch, Inputs, Item, Rows
from stages.encoding.workers import KilledError
from stages.launch import use_threads
from stages.picture_encoding import COLUMNS, copying, encoding, opener
from stages.picture_rows import Bucketed, kind_of, rows_of
from stages.randomness import generator
from stages.rows.layout import Array
from stages.tables import SIZES, latent_name
from stages.train.sources import Sizes
from stages.visit_geometry import Drawn

if TYPE_CHECKING:
    from stages.train.stage import Params

CORNER = [SIZES.index("crop_top"), SIZES.index("crop_left")]
EncodeAll: TypeAlias = Callable[[Sequence[Inputs]], Rows]


@dataclass(frozen=True)
class Opening:
    """What params.yaml says of opening and encoding pictures.

    Attributes:
        pictures: Opens those of the dataset.
        family: `model.type`.
        dtype: `model.dtype`, in which rows are exact.
        seed: `experiment.seed`, of what visits draw.
        threads: `hardware.threads`.
        decode_workers: Processes that open pictures; 0: one thread.
    """

    pictures: Pictures
    family: str
    dtype: torch.dtype
    seed: int
    threads: int
    decode_workers: int


def opening_of(params: Params) -> Opening:
    """Say how a training with these parameters opens and encodes pictures."""
    return Opening(
        pictures=Pictures(Path(params.train_path), params.background, params.max_pixels),
        family=params.family,
        dtype=getattr(torch, params.dtype),
        seed=params.seed,
        threads=params.threads,
        decode_workers=params.decode_workers,
    )


class LiveRows:
    """Rows that are made when they are asked for; see `Source`.

    What a visit sees is a function of (seed, sample, resolution, visit). On a CPU the encoder has
    `batch_size` pictures in each call, as in `encode_images`, so that a row has the bits of a
    cached one; on a GPU it has up to that many.
    """

    looks_ahead: ClassVar[bool] = True

    def __init__(
        self,
        pictures: Iterable[Bucketed],
        drawn: Drawn,
        opening: Opening,
        vae: Path,
        batch_size: int,
    ) -> None:
        """Take the pictures of BUCKETS.

        Args:
            pictures: Those of the dataset and those made for a ControlNet.
            drawn: What of their geometry visits draw.
            opening: How they are opened and encoded.
            vae: The record of the autoencoder, which is loaded when it is first needed.
            batch_size: Pictures an encoder call.
        """
        rows = rows_of(pictures)
        self._pictures = {latent_name(row): row for row in rows}
        self._targets = {_sample(row): row for row in rows if row["role"] == "target"}
        self._drawn, self._opening, self._vae, self._batch_size = drawn, opening, vae, batch_size
        self._pool: Pool = Here()
        self._ahead: dict[tuple[str, int], Future[Inputs]] = {}
        self._fixed: dict[str, Rows] = {}  # validation's, each (1, ...)
        self._encoders = {kind: _stacking(copying(kind)) for kind in COLUMNS}
        self._lock = Lock()  # training reads ahead in a thread while validation asks here

    def take(self, names: Sequence[str], visits: Sequence[int] | None = None) -> dict[str, Array]:
        """Open and encode what the visits see; what is fixed is encoded once and kept.

        Raises:
            ValueError: A picture has changed since ingest read it, there is too little memory, or
                the encoder gives values that are not finite.
        """
        if visits is not None:
            opened = [self._opened(*each) for each in zip(names, visits, strict=True)]
            return self._encoded(names, opened)
        if missing := [name for name in dict.fromkeys(names) if name not in self._fixed]:
            opened = [self._open(self._pictures[name]) for name in missing]
            found = self._encoded(missing, opened)
            for place, name in enumerate(missing):
                self._fixed[name] = {
                    column: values[place : place + 1].copy() for column, values in found.items()
                }
        kept = [self._fixed[name] for name in names]
        return {column: np.concatenate([row[column] for row in kept]) for column in kept[0]}

    def sizes(self, names: Sequence[str], visits: Sequence[int] | None, fixed: Sizes) -> Sizes:
        """Say where the visits cut their targets."""
        if visits is None:
            return fixed
        sizes = fixed.copy()
        for place, each in enumerate(zip(names, visits, strict=True)):
            picture = self._seen(*each)
            sizes[place, CORNER] = picture["crop_top"], picture["crop_left"]
        return sizes

    def expect(self, names: Sequence[str], visits: Sequence[int]) -> None:
        """Have other processes open what these visits see."""
        for each in zip(names, visits, strict=True):
            if each not in self._ahead:
                self._ahead[each] = self._open(self._seen(*each))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the processes that open pictures; without them it is done where rows are taken."""
        with open_pool(self._opening.decode_workers) as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = Here()
                self._ahead.clear()

    def _seen(self, name: str, visit: int) -> Bucketed:
        """Return a picture with the geometry of a visit."""
        picture = self._pictures[name]
        sample = _sample(picture)
        draws = generator(self._opening.seed, *sample, visit, "geometry").random(3).tolist()
        return self._drawn.at(picture, self._targets[sample], draws)

    def _opened(self, name: str, visit: int) -> Future[Inputs]:
        return self._ahead.pop((name, visit), None) or self._open(self._seen(name, visit))

    def _open(self, picture: Bucketed) -> Future[Inputs]:
        kind = kind_of(picture, self._opening.family)
        return self._pool.submit(opener(kind, self._opening.pictures), picture)

    def _encoded(self, names: Sequence[str], opened: Sequence[Future[Inputs]]) -> Rows:
        try:
            inputs = [each.result() for each in opened]
        except KilledError:
            raise ValueError(
                "a process that opens pictures was killed, most likely because memory ran out: "
                "lower hardware.decode_workers and run it again, which goes on from the newest "
                "checkpoint"
            ) from None
        kind = kind_of(self._pictures[names[0]], self._opening.family)
        with self._lock:
            use_threads(self._opening.threads)  # torch counts them for each of Python's threads
            encode, size = self._encoder(kind), self._batch_size
            parts = [encode(inputs[at : at + size]) for at in range(0, len(inputs), size)]
        rows = {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}
        for values in rows.values():
            bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if bad.any():
                raise ValueError(
                    f"the autoencoder gives {names[int(bad.argmax())]} values that are not finite: "
                    "check its weights and model.dtype"
                )
        return rows

    def _encoder(self, kind: str) -> EncodeAll:
        if kind not in self._encoders:
            self._encoders[kind] = self._load()
        return self._encoders[kind]

    def _load(self) -> EncodeAll:
        """Load the autoencoder onto this process's device."""
        asked, device = self._opening, PartialState().device
        folder = read_record(self._vae).folders["vae"]
        encode = encoding(load_autoencoder(folder, asked.dtype).to(device), asked.dtype)
        if device.type != "cpu":
            return _stacking(encode)
        fixed = FixedBatch(asked.pictures, encode, self._batch_size, asked.threads, {})
        return fixed.encode_inputs


class Here:
    """Open pictures where they are asked for."""

    def submit(self, prepare: Callable[[Item], Inputs], item: Item) -> Future[Inputs]:
        """See `Pool`."""
        done: Future[Inputs] = Future()
        done.set_result(prepare(item))
        return done


def _stacking(encode: Encode) -> EncodeAll:
    return lambda inputs: encode(np.stack(inputs))


def _sample(picture: Bucketed) -> tuple[str, int]:
    return picture["sample_id"], picture["resolution"]
