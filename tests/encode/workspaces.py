"""A workspace with pictures, captions and a base of a few thousand parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modelzoo.autoencoders import load_autoencoder
from modelzoo.text_encoders import PromptTokenizer, load_text_encoders
from stages import encode_captions, pixels
from stages.artifacts import read_table, write_table
from stages.base_record import read_record
from stages.encode_images import stage as encode_images
from stages.rows.manifest import keys_by_table
from stages.rows.table import RowTable
from stages.tables import place, to_table
from stages.tokenizers import open_tokenizers

SIZES = [(64, 32), (32, 32), (40, 30)]  # pixels; the last is resized and cropped
BASE = Path("data/base")
VAE = BASE / "model/vae"
LATENTS = Path("data/latents.parquet")
PROMPTS = Path("data/prompts.parquet")
PICTURES = encode_images.Params(
    family="flux2",
    dtype="float32",
    train_path="pictures",
    background="white",
    batch_size=4,
    threads=1,
    max_pixels=10**6,
    store=None,
    workers="local",
    ray_address=None,
    decode_workers=0,
)
CAPTIONS = encode_captions.Params(
    family="flux2",
    dtype="float32",
    batch_size=4,
    threads=1,
    store=None,
    workers="local",
    ray_address=None,
)


class Workspace:
    """The inputs of the encoding stages in a folder, which is the working folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pictures: list[dict] = []
        self.captions: dict[str, str | list[str]] = {}

    def add_picture(self, seed: int, **changes: object) -> str:
        """Draw a picture, put it into a bucket and give it a caption; return its sample id."""
        width, height = SIZES[seed % 3]
        values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = self.root / "pictures" / f"{seed}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
        content = pixels.content_hash(Image.fromarray(values))
        bucket = (64, 32) if width == 64 else (32, 32)
        resized = (43, 32) if width == 40 else (width, height)
        row = {"sample_id": content[:20], "role": "target", "index": 0, "resolution": 32}
        row |= {"variant": 0, "content": content, "path": path.name, "split": "train"}
        row["prior"] = False
        row |= {"repeats": 1, "weight": 1.0, "bucket": "{}x{}".format(*bucket), "flipped": False}
        row |= {"width": bucket[0], "height": bucket[1]}
        row |= {"resize_width": resized[0], "resize_height": resized[1]}
        row |= {"crop_left": (resized[0] - bucket[0]) // 2, "crop_top": 0}
        row |= {"original_width": width, "original_height": height}
        self.pictures.append(row | changes)
        self.captions[content[:20]] = f"picture number {seed}"
        return content[:20]

    def add_masks(self, num: int) -> None:
        """Give the first pictures masks, whose sizes are theirs."""
        for number, picture in enumerate(self.pictures[:num]):
            geometry = {name: picture[name] for name in encode_images.CARRIED}
            self.add_picture(300 + number, **geometry | {"role": "mask"})

    def write(self) -> None:
        """Write what the stages before the encoders write."""
        rows = sorted(self.pictures, key=place)
        write_table(self.root / "data/buckets.parquet", to_table(rows, "buckets"), "buckets")
        write_table(self.root / "data/conditions.parquet", to_table([], "buckets"), "buckets")
        captions = [
            {"sample_id": name, "variant": variant, "caption": text}
            for name, texts in sorted(self.captions.items())
            for variant, text in enumerate([texts] if isinstance(texts, str) else texts)
        ]
        write_table(self.root / "data/captions.parquet", to_table(captions, "captions"), "captions")

    def write_params(self, family: str = "flux2", **hardware: object) -> None:
        """Write a params.yaml; JSON is YAML."""
        params = {
            "model": {"type": family},
            "data": {"train_path": "pictures"},
            "hardware": {"threads": 1, "encode_batch_size": 4, "decode_workers": 0, **hardware},
        }
        (self.root / "params.yaml").write_text(json.dumps(params))


class Recorder:
    """The workspace's autoencoder, counting what it is asked to encode."""

    def __init__(self, gain: float = 1.0) -> None:
        self.vae = load_autoencoder(VAE)
        self.gain, self.batches = gain, []
        self.CONVENTION, self.spatial_factor = self.vae.CONVENTION, self.vae.spatial_factor
        self.latent_channels, self.parameters = self.vae.latent_channels, self.vae.parameters

    def encode_rows(self, images):
        self.batches.append(images)
        return {"mean": self.vae.encode_rows(images)["mean"] * self.gain}

    @property
    def num_pictures(self) -> int:
        """Different pictures encoded, without the probe, which comes first."""
        return len({image.numpy().tobytes() for batch in self.batches[1:] for image in batch})


class CaptionRecorder:
    """The workspace's text encoder, counting what it is asked to encode."""

    def __init__(self) -> None:
        folders = read_record(BASE / "text_encoder.json").folders
        self.inner = load_text_encoders("flux2", folders, tokenizers(), torch.float32)
        self.CONVENTION, self.layers, self.batches = self.inner.CONVENTION, self.inner.layers, []
        self.parameters = self.inner.parameters

    def encode_rows(self, ids, mask):
        self.batches.append(ids)
        return self.inner.encode_rows(ids, mask)

    @property
    def num_captions(self) -> int:
        """Different captions encoded, without the probe, which comes first."""
        return len({tuple(row.tolist()) for batch in self.batches[1:] for row in batch})


def tokenizers(family: str = "flux2", base: Path = BASE) -> PromptTokenizer:
    return open_tokenizers(family, read_record(base / "tokenizer.json"))


def encode_pictures(recorder=None, params=PICTURES, fill_only=False, device="cpu"):
    torch.set_num_threads(params.threads)
    digest = read_record(BASE / "vae.json").digest
    artifacts = encode_images.Artifacts()
    return encode_images.encode(
        recorder or Recorder(), digest, params, artifacts, fill_only, device
    )


def encode_texts(recorder=None, params=CAPTIONS, fill_only=False):
    torch.set_num_threads(params.threads)
    digest = read_record(BASE / "text_encoder.json").digest
    artifacts = encode_captions.Artifacts()
    recorder = recorder or CaptionRecorder()
    return encode_captions.encode(recorder, digest, tokenizers(), params, artifacts, fill_only)


def all_rows(manifest: Path, schema: str) -> dict[str, bytes]:
    """The bytes of every row that a manifest names."""
    found = {}
    for name, keys in keys_by_table(read_table(manifest, schema)).items():
        columns = RowTable.open("store", name).take(keys)
        for row, key in enumerate(keys):
            found[key] = b"".join(columns[column][row].tobytes() for column in sorted(columns))
    return found
