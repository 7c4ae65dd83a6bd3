"""How long encoding takes, by calls of the base's encoders on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from modelzoo.autoencoders import load_autoencoder
from modelzoo.text_encoders import load_text_encoders
from stages.base_record import Record, read_record
from stages.encoding.batch import Encode, Inputs, Rows, choose_device, encoder_of
from stages.forecast.probe import PATIENCE, ROUNDS, on_a_line
from stages.needs import Asked, EncoderCalls, EncoderSeconds
from stages.picture_encoding import encoding
from stages.tokenizers import open_tokenizers
from stages.train.stage import Params

TEXT = "a red cube on a blue table"  # any: texts are padded to one length


def time_encoders(params: Params, asked: Asked, free: int) -> EncoderSeconds | None:
    """Load the encoders of which rows are missing, and call them with a full batch.

    Args:
        params: Of the training.
        asked: The calls, and the folder of the base's records.
        free: Bytes that there are for weights.

    Returns:
        None where no call is asked for, or the weights are too large to try.

    Raises:
        ValueError: A batch needs more memory than there is.
    """
    if (calls := asked.encoding) is None or asked.records is None:
        return None
    records, device = Path(asked.records), choose_device()
    vae, text = read_record(records / "vae.json"), read_record(records / "text_encoder.json")
    needed = [*([vae] if calls.pictures else []), *([text] if calls.has_texts else [])]
    if weights_bytes(needed) > free:
        return None
    loading, texts = 0.0, 0.0
    pictures: list[float] = []
    if calls.pictures:
        start = time.perf_counter()
        encode = picture_encoder(params, vae, device)
        loading += time.perf_counter() - start
        ends = [calls.pictures[0], calls.pictures[-1]][: len(calls.pictures)]
        taken = [
            call(encode, picture(width, height), calls, params, device) for width, height in ends
        ]
        pictures = on_a_line([width * height for width, height in calls.pictures], taken)
    if calls.has_texts:
        start = time.perf_counter()
        encode, tokens = text_encoder(params, text, records / "tokenizer.json", device)
        loading += time.perf_counter() - start
        texts = call(encode, tokens, calls, params, device)
    return EncoderSeconds(pictures, texts, loading)


def weights_bytes(records: Iterable[Record]) -> int:
    """Return the size of the files of components."""
    folders = [folder for record in records for folder in record.folders.values()]
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*.safetensors"))


def picture_encoder(params: Params, vae: Record, device: str) -> Encode:
    """Load the autoencoder as `encode_images` does."""
    dtype: torch.dtype = getattr(torch, params.dtype)
    return encoding(load_autoencoder(vae.folders["vae"], dtype).to(device), dtype)


def text_encoder(
    params: Params, record: Record, tokenizer: Path, device: str
) -> tuple[Encode, Inputs]:
    """Load the text encoders as `encode_captions` does, and the tokens of a text (2, L)."""
    dtype: torch.dtype = getattr(torch, params.dtype)
    tokenizers = open_tokenizers(params.family, read_record(tokenizer))
    loaded = load_text_encoders(
        params.family, record.folders, tokenizers, dtype, record.settings["zero_empty"]
    ).to(device)

    def encode(batch: Inputs) -> Rows:
        ids, mask = torch.from_numpy(batch).to(device).unbind(1)
        rows = loaded.encode_rows(ids.contiguous(), mask.contiguous())
        return {name: values.float().cpu().numpy() for name, values in rows.items()}

    return encode, np.array(tokenizers.tokens(TEXT), dtype=np.int64)


def picture(width: int, height: int) -> Inputs:
    """Draw noise, uint8 (H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def call(encode: Encode, inputs: Inputs, calls: EncoderCalls, params: Params, device: str) -> float:
    """Return how many seconds a call of a full batch takes, after one that warms up."""
    identity = {"dtype": params.dtype}
    encoder = encoder_of(np.asarray, encode, identity, calls.size, params.threads, device)
    batch = [inputs] * calls.size
    for _ in range(ROUNDS):
        start = time.perf_counter()
        encoder.batches().encode_inputs(batch)
        if (seconds := time.perf_counter() - start) > PATIENCE:
            break
    return seconds
