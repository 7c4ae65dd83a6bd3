"""The samples of a split: what the manifests name, joined by sample id and by caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from stages.artifacts import extra_metadata, read_table
from stages.base_record import read_record
from stages.rows.manifest import ManifestRows, open_latents, open_prompts
from stages.tables import SIZES

Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """The samples of one split, in the order of their ids."""

    sample_ids: Sequence[str]
    captions: Sequence[str]
    buckets: Mapping[str, Indices]  # places of the samples, by bucket
    sizes: npt.NDArray[np.int32]  # (samples, 6), the columns SIZES
    latent_rows: ManifestRows
    prompt_rows: ManifestRows

    def __len__(self) -> int:
        return len(self.sample_ids)

    def latents(self, indices: Indices) -> dict[str, npt.NDArray[np.float32]]:
        """Return the "mean" and, where the autoencoder has one, the "logvar" of the latents.

        Each is (B, C, H, W); the samples are of one bucket.
        """
        return self.latent_rows.take([self.sample_ids[i] for i in indices])

    def conditions(self, indices: Indices, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return what a denoiser makes its conditioning of: rows of captions, sizes of pictures."""
        rows = self.prompt_rows.take(captions)
        text = {name: torch.from_numpy(values) for name, values in rows.items()}
        return {**text, "sizes": torch.from_numpy(self.sizes[indices])}


@dataclass(frozen=True)
class Manifests:
    """The tables that name the rows, and the records of the base that made them."""

    latents: Path = Path("data/latents.parquet")
    prompts: Path = Path("data/prompts.parquet")
    captions: Path = Path("data/captions.parquet")
    vae: Path = Path("data/base/vae.json")
    text_encoder: Path = Path("data/base/text_encoder.json")


def open_samples(manifests: Manifests, family: str, root: str) -> dict[str, Samples]:
    """Open the samples of each split, "train" and "validation".

    Args:
        manifests: The tables and the base.
        family: `model.type`, for which the rows must have been made.
        root: The row store; rows that it lacks are encoded first.

    Raises:
        ValueError: The rows were made by another base, a sample has no caption row, or a split
            that is needed is empty.
    """
    latents = read_table(manifests.latents, "latents")
    prompts = read_table(manifests.prompts, "prompts")
    captions = read_table(manifests.captions, "captions")
    _refuse_other_encoder(manifests.latents, latents, manifests.vae, family)
    _refuse_other_encoder(manifests.prompts, prompts, manifests.text_encoder, family)
    ids = captions["sample_id"].to_pylist()
    caption_of = dict(zip(ids, captions["caption"].to_pylist(), strict=True))
    _refuse_gaps(manifests, latents, prompts, caption_of)
    latent_rows = open_latents(manifests.latents, root)
    prompt_rows = open_prompts(manifests.prompts, root)
    splits = {}
    for split in ("train", "validation"):
        part = latents.filter(pc.equal(latents["split"], split))
        ids = part["sample_id"].to_pylist()
        splits[split] = Samples(
            sample_ids=ids,
            captions=[caption_of[sample_id] for sample_id in ids],
            buckets=_group(part["bucket"].to_pylist()),
            sizes=np.stack([part[name].to_numpy() for name in SIZES], axis=1),
            latent_rows=latent_rows,
            prompt_rows=prompt_rows,
        )
    _refuse_empty(manifests.latents, splits)
    return splits


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
    manifests: Manifests, latents: pa.Table, prompts: pa.Table, caption_of: Mapping[str, str]
) -> None:
    silent = [name for name in latents["sample_id"].to_pylist() if name not in caption_of]
    if silent:
        raise ValueError(
            f"{manifests.captions} has no caption for sample {silent[0]!r} of {manifests.latents} "
            f"({len(silent)} such samples): run `dvc repro`, which makes both anew"
        )
    absent = sorted({"", *caption_of.values()} - set(prompts["caption"].to_pylist()))
    if absent:
        raise ValueError(
            f"{manifests.prompts} has no row for the caption {absent[0]!r} ({len(absent)} such "
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
