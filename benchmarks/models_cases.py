"""Each family at toy and at medium size, ours and diffusers', with the inputs both are timed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from modelzoo.denoiser import Denoiser
from modelzoo.flux.components.positions import image_positions
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.latents import text_positions as zero_positions
from modelzoo.flux.v1.model import Flux1
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2
from modelzoo.flux.v2.positions import text_positions
from modelzoo.sd3.config import SD3Config
from modelzoo.sd3.model import SD3
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.model import SDXL

CPU = torch.device("cpu")
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One family at one size; a batch of `batch` pictures of `side` x `side` latents."""

    denoiser: type[Denoiser]
    theirs: type[nn.Module]
    config: Any
    batch: int
    side: int
    num_text: int

    def ours(self) -> nn.Module:
        """Build our network with random weights."""
        torch.manual_seed(0)
        return self.denoiser.NETWORK(self.config)

    def oracle(self) -> nn.Module:
        """Build that of diffusers with random weights."""
        torch.manual_seed(0)
        values = self.config.to_dict().items()
        return self.theirs(**{k: v for k, v in values if not k.startswith("_")})

    def inputs(self, side: str) -> dict[str, Any]:
        """Give the arguments of one prediction, the same numbers for "ours" and for "theirs"."""
        torch.manual_seed(1)
        shared, ours, theirs = INPUTS[self.denoiser](self)
        return {**shared, **(ours if side == "ours" else theirs)}


def predict(network: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Predict once; diffusers hides its tensor in an output of one field."""
    prediction = network(**inputs)
    return prediction if isinstance(prediction, Tensor) else prediction.sample


def _text(case: Case, dim: int) -> Tensor:
    return torch.randn(case.batch, case.num_text, dim)


def _latents(case: Case) -> Tensor:
    return torch.randn(case.batch, case.config.in_channels, case.side, case.side)


def flux_inputs(case: Case, positions: Callable[..., Tensor], axes: int) -> tuple[Inputs, ...]:
    """Give image tokens and their positions, of which FLUX.1 has 3 columns in diffusers."""
    tokens, config = case.side // 2, case.config
    shared = {
        "hidden_states": torch.randn(case.batch, tokens**2, config.in_channels),
        "encoder_hidden_states": _text(case, config.joint_attention_dim),
        "timestep": torch.full((case.batch,), 0.5),  # exact in bf16, in which diffusers keeps it
        "guidance": torch.full((case.batch,), 4.0),
    }
    if axes == 3:
        shared["pooled_projections"] = torch.randn(case.batch, config.pooled_projection_dim)
    ids = {
        "img_ids": image_positions(tokens, tokens, CPU),
        "txt_ids": positions(case.num_text, CPU),
    }
    return shared, ids, {name: columns[:, :axes] for name, columns in ids.items()}


def sd3_inputs(case: Case) -> tuple[Inputs, ...]:
    """Give latents; both sides take the same arguments."""
    shared = {
        "hidden_states": _latents(case),
        "encoder_hidden_states": _text(case, case.config.joint_attention_dim),
        "pooled_projections": torch.randn(case.batch, case.config.pooled_projection_dim),
        "timestep": 1000 * torch.rand(case.batch),
    }
    return shared, {}, {}


def sdxl_inputs(case: Case) -> tuple[Inputs, ...]:
    """Give latents, and the pooled text and the sizes as each side names them."""
    latents = _latents(case)
    pooled = torch.randn(case.batch, case.config.pooled_dim)
    sizes = torch.tensor([[1024, 1024, 0, 0, 1024, 1024.0]]).repeat(case.batch, 1)
    shared = {
        "encoder_hidden_states": _text(case, case.config.cross_attention_dim),
        "timestep": torch.randint(1000, (case.batch,)).float(),
    }
    ours = {"hidden_states": latents, "pooled_projections": pooled, "time_ids": sizes}
    conditions: Any = {"text_embeds": pooled, "time_ids": sizes}
    return shared, ours, {"sample": latents, "added_cond_kwargs": conditions}


INPUTS: dict[type[Denoiser], Callable[[Case], tuple[Inputs, ...]]] = {
    Flux1: partial(flux_inputs, positions=zero_positions, axes=3),
    Flux2: partial(flux_inputs, positions=text_positions, axes=4),
    SD3: sd3_inputs,
    SDXL: sdxl_inputs,
}


def _flux1(heads: int, width: int, axes: tuple[int, ...], depth: tuple[int, int], text: int) -> Any:
    return Flux1Config(
        num_attention_heads=heads,
        attention_head_dim=width,
        axes_dims_rope=axes,
        num_layers=depth[0],
        num_single_layers=depth[1],
        joint_attention_dim=text,
        pooled_projection_dim=text,
        guidance_embeds=True,
    )


def _flux2(heads: int, width: int, depth: tuple[int, int], text: int) -> Any:
    return Flux2Config(
        num_attention_heads=heads,
        attention_head_dim=width,
        axes_dims_rope=(width // 4,) * 4,
        num_layers=depth[0],
        num_single_layers=depth[1],
        joint_attention_dim=text,
    )


def _sd3(heads: int, layers: int, dual: int, text: int, positions: int) -> Any:
    return SD3Config(
        num_attention_heads=heads,
        caption_projection_dim=64 * heads,
        num_layers=layers,
        dual_attention_layers=tuple(range(dual)),
        joint_attention_dim=text,
        pooled_projection_dim=text,
        pos_embed_max_size=positions,
        qk_norm="rms_norm",
    )


def _sdxl(dims: tuple[int, ...], heads: tuple[int, ...], depths: tuple[int, ...], text: int) -> Any:
    return UNetConfig(
        block_out_channels=dims,
        attention_head_dim=heads,
        transformer_layers_per_block=depths,
        norm_num_groups=dims[0] // 2,
        cross_attention_dim=text,
        addition_time_embed_dim=dims[0] * 2,
        projection_class_embeddings_input_dim=12 * dims[0] + text,
    )


# about 2 and about 100 million parameters
CASES = {
    ("flux1", "toy"): (Flux1, _flux1(4, 32, (8, 12, 12), (2, 3), 128)),
    ("flux1", "medium"): (Flux1, _flux1(6, 128, (16, 56, 56), (2, 6), 768)),
    ("flux2", "toy"): (Flux2, _flux2(4, 32, (2, 4), 128)),
    ("flux2", "medium"): (Flux2, _flux2(6, 128, (2, 8), 768)),
    ("sd3", "toy"): (SD3, _sd3(2, 4, 2, 128, 32)),
    ("sd3", "medium"): (SD3, _sd3(8, 10, 5, 768, 64)),
    ("sdxl", "toy"): (SDXL, _sdxl((16, 32, 64), (1, 1, 2), (1, 1, 2), 128)),
    ("sdxl", "medium"): (SDXL, _sdxl((64, 128, 256), (1, 2, 4), (1, 2, 8), 768)),
}
THEIRS = {
    Flux1: diffusers.FluxTransformer2DModel,
    Flux2: diffusers.Flux2Transformer2DModel,
    SD3: diffusers.SD3Transformer2DModel,
    SDXL: diffusers.UNet2DConditionModel,
}
# pictures, sides of latents and text tokens
BATCHES = {"toy": (2, 32, 64), "medium": (1, 32, 128)}


def case(family: str, size: str) -> Case:
    """Give a family at a size."""
    denoiser, config = CASES[family, size]
    return Case(denoiser, THEIRS[denoiser], config, *BATCHES[size])
