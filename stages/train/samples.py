"""What a split trains on: the rows that the manifests name, joined by sample id and by caption."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from stages.artifacts import extra_metadata, read_table
from stages.base_record import read_record
from stages.bucketed_pictures import to_encode
from stages.picture_encoding import BATCH_SIZE
from stages.rows.manifest import ManifestRows, open_latents, open_prompts
from stages.tables import PLACE, SIZES, latent_name
from stages.train.companions import NO_COMPANIONS, Companions, companions_of, refuse_unread
from stages.train.live_latents import LiveRows, Opening
from stages.train.sources import Source, Stored
from stages.visit_geometry import Drawn

Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """The training items of one split, each a sample at one resolution, in the order of both.

    An item has a row for each variant of its geometry, and a caption for each variant of those; a
    visit takes one of each.
    """

    sample_ids: Sequence[str]  # of the samples
    sample_of: Indices  # (items,) places in sample_ids
    names: Sequence[str]  # (items,) the sample's id, or that with "@768"
    captions: Sequence[Sequence[str]]  # (items,) variants of each
    rows: Sequence[Sequence[int]]  # (items,) places in row_names: variants of each
    buckets: Mapping[str, Indices]  # places of the items, by bucket and those of references
    repeats: Indices  # (items,) visits in an epoch
    weights: npt.NDArray[np.float32]  # (items,) of the losses
    prior: npt.NDArray[np.bool_]  # (items,) whether the base made it, for DreamBooth's prior
    row_names: Sequence[str]  # (rows,) in latent_rows
    sizes: npt.NDArray[np.int32]  # (rows, 6), the columns SIZES
    latent_rows: Source
    prompt_rows: ManifestRows
    companions: Companions = NO_COMPANIONS  # of the rows
    tokens: Callable[[Sequence[str]], Mapping[str, Tensor]] | None = None  # for text that learns
    cell: int = 1  # pixels along a side of a latent's cell

    def __len__(self) -> int:
        return len(self.names)

    def latents(
        self, rows: Sequence[int], visits: Sequence[int] | None = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Return the "mean" and, where the autoencoder has one, the "logvar" of the latents.

        Each is (B, C, H, W); the rows are of one bucket. `visits` are as in `Source`.
        """
        return self.latent_rows.take(self._named(rows), visits)

    def conditions(
        self, rows: Sequence[int], captions: Sequence[str], visits: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Return what a denoiser makes its conditioning of: rows of captions, sizes of pictures.

        Where text encoders learn, the captions' tokens are there too.
        """
        prompts = self.prompt_rows.take(captions)
        text = {name: torch.from_numpy(values) for name, values in prompts.items()}
        tokens = {} if self.tokens is None else self.tokens(captions)
        sizes = self.latent_rows.sizes(self._named(rows), visits, self.sizes[list(rows)])
        return {**text, **tokens, "sizes": torch.from_numpy(sizes)}

    def pictures(self, rows: Sequence[int], visits: Sequence[int] | None = None) -> dict[str, Any]:
        """Return references, mask and condition of the rows' targets, as a Batch names them."""
        return self.companions.take(self.latent_rows, rows, visits)

    def expect(self, rows: Sequence[int], visits: Sequence[int]) -> None:
        """Have all that `latents` and `pictures` will ask for opened meanwhile."""
        self.latent_rows.expect(self._named(rows), visits)
        for of in self.companions.names.values():
            for row, visit in zip(rows, visits, strict=True):
                self.latent_rows.expect(of[row], [visit] * len(of[row]))

    def _named(self, rows: Sequence[int]) -> list[str]:
        return [self.row_names[row] for row in rows]

    @property
    def sample_of_name(self) -> dict[str, str]:
        """The sample id of each item, by the item's name."""
        ids = [self.sample_ids[place] for place in self.sample_of]
        return dict(zip(self.names, ids, strict=True))

    def by_sample(self, counts: Indices) -> dict[str, int]:
        """Add up what is counted for each item, (items,), by sample id."""
        sums = np.zeros(len(self.sample_ids), np.int64)
        np.add.at(sums, self.sample_of, counts)
        return dict(zip(self.sample_ids, sums.tolist(), strict=True))


@dataclass(frozen=True)
class Manifests:
    """The tables that name the rows, and the records of the base that made them."""

    latents: Path = Path("data/latents.parquet")
    prompts: Path = Path("data/prompts.parquet")
    captions: Path = Path("data/captions.parquet")
    vae: Path = Path("data/base/vae.json")
    text_encoder: Path = Path("data/base/text_encoder.json")
    buckets: Path = Path("data/buckets.parquet")  # this and what follows where nothing is cached
    conditions: Path = Path("data/conditions.parquet")
    condition_pictures: Path = Path("data/conditions")

    @property
    def drawn(self) -> Drawn | None:
        """What visits draw of their pictures; None where the store has the rows."""
        return Drawn.from_metadata(extra_metadata(read_table(self.latents, "latents")))


def open_samples(
    manifests: Manifests,
    family: str,
    resolution: int,
    root: str,
    roles: Collection[str] = (),
    opening: Opening | None = None,
) -> dict[str, Samples]:
    """Open the items of each split, "train" and "validation".

    Args:
        manifests: The tables and the base.
        family: `model.type`, for which the rows must have been made.
        resolution: `data.resolution`, at which an item is named by its sample alone.
        root: The row store; rows that it lacks are encoded first.
        roles: What the training reads beside targets, see `roles_read`.
        opening: How pictures are opened where they are not cached.

    Raises:
        ValueError: The rows were made by another base or are of other roles, a sample has no
            caption row, or a split that is needed is empty.
    """
    latents = read_table(manifests.latents, "latents")
    prompts = read_table(manifests.prompts, "prompts")
    _refuse_other_encoder(manifests.latents, latents, manifests.vae, family)
    _refuse_other_encoder(manifests.prompts, prompts, manifests.text_encoder, family)
    refuse_unread(manifests.latents, latents, roles)
    captions = _captions(manifests.captions)
    _refuse_gaps(manifests, latents, prompts, captions)
    latent_rows = _source(manifests, latents, root, opening)
    prompt_rows = open_prompts(manifests.prompts, root)
    targets = latents.filter(pc.equal(latents["role"], "target"))
    splits = {}
    for split in ("train", "validation"):
        part = targets.filter(pc.equal(targets["split"], split))
        companions = companions_of(manifests.latents, latents, part, roles)
        splits[split] = _samples(part, captions, resolution, latent_rows, prompt_rows, companions)
    _refuse_empty(manifests.latents, splits)
    return splits


def _source(manifests: Manifests, latents: pa.Table, root: str, opening: Opening | None) -> Source:
    """Return the store's rows, or what makes them where encode_images has left it to training."""
    drawn = Drawn.from_metadata(extra_metadata(latents))
    if drawn is None:
        return Stored(open_latents(manifests.latents, root))
    assert opening is not None, "a training says how its pictures are opened"
    made = (manifests.conditions, manifests.condition_pictures)
    pictures = to_encode(manifests.buckets, *made)
    batch_size = int(extra_metadata(latents)[BATCH_SIZE])
    return LiveRows(pictures, drawn, opening, manifests.vae, batch_size)


def _captions(path: Path) -> dict[str, list[str]]:
    """Return the variants of each sample's caption, in their order."""
    table, captions = read_table(path, "captions"), defaultdict(list)
    pairs = zip(table["sample_id"].to_pylist(), table["caption"].to_pylist(), strict=True)
    for sample_id, caption in pairs:
        captions[sample_id].append(caption)
    return dict(captions)


def _samples(
    part: pa.Table,
    captions: Mapping[str, Sequence[str]],
    resolution: int,
    latent_rows: Source,
    prompt_rows: ManifestRows,
    companions: Companions,
) -> Samples:
    """Group a split's rows of targets, which are sorted by sample, into items."""
    places = part.select([name for name, _ in PLACE]).to_pylist()
    items: dict[tuple[str, int], list[int]] = {}
    for number, row in enumerate(places):
        items.setdefault((row["sample_id"], row["resolution"]), []).append(number)
    first = [rows[0] for rows in items.values()]
    sample_ids = list(dict.fromkeys(sample_id for sample_id, _ in items))
    place_of = {sample_id: place for place, sample_id in enumerate(sample_ids)}
    buckets = part["bucket"].to_pylist()
    return Samples(
        sample_ids=sample_ids,
        sample_of=np.array([place_of[sample_id] for sample_id, _ in items], np.int64),
        names=_names(items, resolution),
        captions=[captions[sample_id] for sample_id, _ in items],
        rows=list(items.values()),
        buckets=_group([buckets[row] + companions.shapes[row] for row in first]),
        repeats=part["repeats"].to_numpy()[first].astype(np.int64),
        weights=part["weight"].to_numpy()[first].astype(np.float32),
        prior=np.array(part["prior"].to_pylist(), np.bool_)[first],
        row_names=[latent_name(row) for row in places],
        sizes=np.stack([part[name].to_numpy() for name in SIZES], axis=1),
        latent_rows=latent_rows,
        prompt_rows=prompt_rows,
        companions=companions,
        cell=_cell(part),
    )


def _cell(targets: pa.Table) -> int:
    """Count the pixels along a side of a latent's cell: the manifest has both sizes."""
    if not targets.num_rows:
        return 1
    return int(targets["target_height"][0].as_py()) // int(targets["height"][0].as_py())


def _names(items: Collection[tuple[str, int]], resolution: int) -> list[str]:
    """Name items by sample, and those at another than the usual of several resolutions by both."""
    num_resolutions = Counter(sample_id for sample_id, _ in items)
    return [
        sample_id
        if pixels == resolution or num_resolutions[sample_id] == 1
        else f"{sample_id}@{pixels}"
        for sample_id, pixels in items
    ]


def _group(buckets: Sequence[str]) -> dict[str, Indices]:
    places = np.asarray(buckets)
    return {str(name): np.flatnonzero(places == name) for name in sorted(set(buckets))}


def _refuse_other_encoder(path: Path, manifest: pa.Table, component: Path, family: str) -> None:
    found, wanted = extra_metadata(manifest), read_record(component).digest
    if found.get("family") != family:
        raise ValueError(
            f"{path} was written for the family {found.get('family')!r}, but model.type is "
            f"{family!r}: run `dvc repro`, which encodes anew"
        )
    if found.get("encoder") != wanted:
        raise ValueError(
            f"{path} was written by the encoder {str(found.get('encoder'))[:16]!r}, but "
            f"{component} names {wanted[:16]!r}: run `dvc repro`, which encodes anew"
        )


def _refuse_gaps(
    manifests: Manifests,
    latents: pa.Table,
    prompts: pa.Table,
    captions: Mapping[str, Sequence[str]],
) -> None:
    silent = [name for name in latents["sample_id"].to_pylist() if name not in captions]
    if silent:
        raise ValueError(
            f"{manifests.captions} has no caption for sample {silent[0]!r} of {manifests.latents} "
            f"({len(set(silent))} such samples): run `dvc repro`, which makes both anew"
        )
    absent = {"", *chain.from_iterable(captions.values())} - set(prompts["caption"].to_pylist())
    if absent:
        raise ValueError(
            f"{manifests.prompts} has no row for the caption {min(absent)!r} ({len(absent)} such "
            "captions): run `dvc repro`, which makes it anew"
        )


def _refuse_empty(path: Path, splits: Mapping[str, Samples]) -> None:
    if not splits["train"]:
        raise ValueError(
            f"{path} has no sample of the split 'train': lower data.validation_fraction, or give "
            "data.train_path more pictures"
        )
    if not splits["validation"]:
        raise ValueError(
            f"{path} has no sample of the split 'validation', which the validation loss needs: "
            "raise data.validation_fraction, or give data.train_path more pictures"
        )
