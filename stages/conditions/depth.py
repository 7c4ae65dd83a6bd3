"""Depth as a transformers model estimates it: near is white."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modelzoo.checkpoints import hub

METRIC = ("zoedepth", "depth_pro")  # kinds of models that give metres, and not their inverse
LEAST = 1e-3  # metres


@dataclass(frozen=True)
class Estimator:
    """A depth model with what prepares its pictures."""

    model: Any
    processor: Any
    identity: Mapping[str, str | int]

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return inverse depth as greys, the nearest 255 and the farthest 0, in the same size."""
        inputs = self.processor(images=picture, return_tensors="pt")
        found = self.model(**inputs).predicted_depth.float()[:, None]
        size = (picture.height, picture.width)
        found = torch.nn.functional.interpolate(found, size, mode="bicubic", align_corners=False)
        depth = found[0, 0]
        if _is_metric(self.model.config):
            depth = 1 / depth.clamp(min=LEAST)
        near, far = float(depth.max()), float(depth.min())
        shares = (depth - far) / (near - far) if near > far else torch.zeros_like(depth)
        return Image.fromarray((255 * shares).round().to(torch.uint8).numpy().astype(np.uint8))


def open_estimator(name: str) -> Estimator:
    """Open a transformers depth estimator from a folder or from Hugging Face (its cache first).

    Raises:
        FileNotFoundError: The model is not there.
        ValueError: It estimates no depth.
    """
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    place: dict[str, Any] = {"pretrained_model_name_or_path": name}
    if not Path(name).is_dir():
        if not hub.is_repo(name):
            raise _not_there(name, "there is no such folder")
        repo, revision = hub.parse(name)
        place = {"pretrained_model_name_or_path": repo, "revision": revision}
    try:
        model = AutoModelForDepthEstimation.from_pretrained(**place, use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(**place)
    except OSError as error:
        raise _not_there(name, " ".join(str(error).split())[:160]) from None
    except ValueError as error:
        raise ValueError(
            f"training.controlnet.depth_model: {name!r} is no depth estimator that transformers "
            f"opens ({' '.join(str(error).split())[:120]}): give one such as Depth Anything V2"
        ) from None
    model.eval()
    identity: dict[str, str | int] = {
        "model": _digest(model),
        "processor": hashlib.sha256(processor.to_json_string().encode()).hexdigest(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.partition("+")[0],
    }
    return Estimator(model, processor, identity)


def _not_there(name: str, reason: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"training.controlnet.depth_model: {name!r} cannot be opened ({reason}): give the folder "
        "or the Hugging Face id of a depth estimator with config.json, preprocessor_config.json "
        "and model.safetensors"
    )


def _is_metric(config: Any) -> bool:
    """Tell whether a model gives metres; others give inverse depth of no unit."""
    kind = getattr(config, "depth_estimation_type", "relative")
    return kind == "metric" or config.model_type in METRIC


def _digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
