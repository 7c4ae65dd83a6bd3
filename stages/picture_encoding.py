"""Rows of opened pictures: what an autoencoder makes of them, or the pixels as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from modelzoo.autoencoders import Autoencoder
from stages.bucketed_pictures import Masks, Pictures
from stages.encoding.batch import Encode, Inputs, Rows
from stages.picture_rows import Bucketed

BATCH_SIZE = "batch_size"  # in a manifest's metadata: pictures an encoder call while training
CHANNELS = 3  # of a picture; a mask comes after them
COLUMNS = {"masks": "mask", "pixels": "pixels"}  # of the kinds of rows that no encoder makes


def opener(kind: str, pictures: Pictures) -> Callable[[Bucketed], Inputs]:
    """Return what opens the pictures of a kind of rows, as inputs for what makes the rows."""
    return Masks(pictures) if kind == "masks" else pictures


def copying(kind: str) -> Encode:
    """Return what keeps the pixels (B, H, W, C) of a kind's pictures, as (B, C, H, W)."""

    def copy(batch: Inputs) -> Rows:
        return {COLUMNS[kind]: np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)}

    return copy


def encoding(autoencoder: Autoencoder, dtype: torch.dtype) -> Encode:
    """Return what encodes pictures (B, H, W, 3) of uint8 as rows that are exact in `dtype`.

    Of pictures with their masks, (B, H, W, 4), it encodes what the masks leave: 0 elsewhere.
    """
    place = next(autoencoder.parameters()).device

    def encode(batch: Inputs) -> Rows:
        inputs = torch.from_numpy(batch).to(place).permute(0, 3, 1, 2)
        images = inputs[:, :CHANNELS].to(torch.float32, memory_format=torch.contiguous_format)
        images.div_(127.5).sub_(1)  # in place: a new megapixel costs as much as a small encoder
        if inputs.shape[1] > CHANNELS:
            images.mul_(1 - inputs[:, CHANNELS:].to(torch.float32))
        rows = autoencoder.encode_rows(images.to(dtype))
        return {name: values.to(dtype).float().cpu().numpy() for name, values in rows.items()}

    return encode
