"""A training step as it is usually written: a diffusers model, peft, accelerate, cached encodings.

Frozen encoders have run before: a DataLoader gives latents and text embeddings from memory. Noise
and times are drawn on the device; the loss is that of the family's own training script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from models_cases import predict
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from training_work import NAMES, NUM_PICTURES, RANK, RATE, TARGETS, Work

from modelzoo.families import FAMILIES

Row = dict[str, Tensor]
Inputs = dict[str, Any]
NETS = {
    "flux1": diffusers.FluxControlNetModel,
    "sd3": diffusers.SD3ControlNetModel,
    "sdxl": diffusers.ControlNetModel,
}
TRAIN_STEPS = 1000  # of the noise schedule


def rows_of(work: Work) -> list[Row]:
    """Draw what was cached of each picture."""
    torch.manual_seed(0)
    rows = []
    for _ in range(NUM_PICTURES - 1):
        row = {name: torch.randn(shape) for name, shape in work.text.items()}
        row["latents"] = torch.randn(work.latent)
        if work.method == "controlnet":
            row["condition"] = torch.rand(work.condition)
        rows.append(row)
    return rows


class Usual:
    """The state of such a script, and its step."""

    def __init__(self, work: Work, root: Path) -> None:
        """Load the base that `write_workspace` has left in `root`."""
        self.work, self.dtype = work, getattr(torch, work.dtype)
        self.accelerator = Accelerator()
        self.base = load_base(work, root, self.accelerator.device)
        self.net: nn.Module | None = None
        if work.method == "lora":
            self.base.requires_grad_(False)
            self.base.add_adapter(
                LoraConfig(
                    r=RANK,
                    lora_alpha=RANK,
                    init_lora_weights="gaussian",
                    target_modules=TARGETS,
                )
            )
            for parameter in self.base.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        elif work.method == "controlnet":
            self.base.requires_grad_(False)
            self.net = NETS[work.family].from_pretrained(root / "controlnet")
        learner = self.base if self.net is None else self.net
        self.learning = [p for p in learner.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.learning, lr=RATE)
        self.noise = diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        parts = self.accelerator.prepare(
            learner.train(),
            optimizer,
            DataLoader(rows_of(work), work.batch, shuffle=True),
            get_scheduler("constant", optimizer),
        )
        learner, self.optimizer, self.loader, self.schedule = parts
        if self.net is None:
            self.base = learner
        else:
            self.net = learner
            self.base.to(self.accelerator.device)
        self.batches = self.forever()

    def forever(self) -> Iterator[Row]:
        """Go round the dataset."""
        while True:
            yield from self.loader

    def step(self) -> None:
        """Take one optimizer step."""
        batch = next(self.batches)
        with self.accelerator.accumulate(self.base if self.net is None else self.net):
            loss = SIDES[self.work.family](self, batch)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.learning, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        self.logged = {"loss": loss.detach().item(), "lr": self.schedule.get_last_lr()[0]}

    def flow(self, batch: Row) -> tuple[Tensor, Tensor, Tensor]:
        """Draw noise and times; give noisy latents, t (B,) and the velocity."""
        latents = batch["latents"].to(self.accelerator.device)
        noise = torch.randn_like(latents)
        t = compute_density_for_timestep_sampling("logit_normal", len(latents), 0.0, 1.0, 1.29)
        t = t.to(latents.device)
        sigmas = t.view(-1, 1, 1, 1)
        return ((1 - sigmas) * latents + sigmas * noise).to(self.dtype), t, noise - latents


def load_base(work: Work, root: Path, device: torch.device) -> nn.Module:
    """Load the base as diffusers does, quantised where that is asked for."""
    folder = root / "data/base" / FAMILIES[NAMES[work.family]].folder
    options: dict[str, Any] = {"torch_dtype": getattr(torch, work.dtype)}
    if work.quantize is not None:
        from torchao.quantization import Int8WeightOnlyConfig

        options["quantization_config"] = diffusers.TorchAoConfig(Int8WeightOnlyConfig())
    base: nn.Module = work.case.theirs.from_pretrained(folder, **options)
    return base.to(device)


def packed(latents: Tensor) -> Tensor:
    """Lay 2 x 2 cells out as a token, (B, N, 4 C)."""
    b, c, h, w = latents.shape
    cells = latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(b, (h // 2) * (w // 2), 4 * c)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `packed`."""
    b, _, d = tokens.shape
    cells = tokens.view(b, height // 2, width // 2, d // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(b, d // 4, height, width)


def grid(height: int, width: int, device: torch.device, axes: int) -> Tensor:
    """Give each token its row and column, (N, axes)."""
    ids = torch.zeros(height, width, axes)
    ids[..., 1] = torch.arange(height)[:, None]
    ids[..., 2] = torch.arange(width)[None]
    return ids.view(-1, axes).to(device)


def mean_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Give the mean over items of each item's mean square."""
    squares = (prediction.float() - target.float()) ** 2
    return squares.reshape(len(target), -1).mean(1).mean()


def flux1_loss(side: Usual, batch: Row) -> Tensor:
    """Predict velocities of packed latents; guidance 1."""
    noisy, t, target = side.flow(batch)
    height, width = noisy.shape[-2:]
    text = batch["context"].to(noisy)
    inputs: Inputs = {
        "hidden_states": packed(noisy),
        "timestep": t,
        "guidance": torch.ones_like(t),
        "pooled_projections": batch["pooled"].to(noisy),
        "encoder_hidden_states": text,
        "txt_ids": torch.zeros(text.shape[1], 3, device=noisy.device),
        "img_ids": grid(height // 2, width // 2, noisy.device, 3),
    }
    if side.net is not None:
        joint, single = side.net(
            **inputs, controlnet_cond=packed(batch["condition"].to(noisy)), return_dict=False
        )
        inputs |= {"controlnet_block_samples": joint, "controlnet_single_block_samples": single}
    return mean_error(unpacked(predict(side.base, inputs), height, width), target)


def flux2_loss(side: Usual, batch: Row) -> Tensor:
    """Predict velocities of latents whose channels are tokens."""
    noisy, t, target = side.flow(batch)
    height, width = noisy.shape[-2:]
    text = batch["context"].to(noisy)
    counted = torch.zeros(text.shape[1], 4, device=noisy.device)
    counted[:, 3] = torch.arange(text.shape[1])
    inputs: Inputs = {
        "hidden_states": noisy.flatten(2).transpose(1, 2),
        "timestep": t,
        "guidance": torch.ones_like(t),
        "encoder_hidden_states": text,
        "txt_ids": counted,
        "img_ids": grid(height, width, noisy.device, 4),
    }
    prediction = predict(side.base, inputs).transpose(1, 2).reshape(target.shape)
    return mean_error(prediction, target)


def sd3_loss(side: Usual, batch: Row) -> Tensor:
    """Predict velocities of latents."""
    noisy, t, target = side.flow(batch)
    inputs: Inputs = {
        "hidden_states": noisy,
        "timestep": TRAIN_STEPS * t,
        "encoder_hidden_states": batch["context"].to(noisy),
        "pooled_projections": batch["pooled"].to(noisy),
    }
    if side.net is not None:
        (residuals,) = side.net(
            **inputs, controlnet_cond=batch["condition"].to(noisy), return_dict=False
        )
        inputs |= {"block_controlnet_hidden_states": residuals}
    return mean_error(predict(side.base, inputs), target)


def sdxl_loss(side: Usual, batch: Row) -> Tensor:
    """Predict noise."""
    latents = batch["latents"].to(side.accelerator.device)
    noise = torch.randn_like(latents)
    timesteps = torch.randint(TRAIN_STEPS, (len(latents),), device=latents.device)
    noisy = side.noise.add_noise(latents, noise, timesteps).to(side.dtype)
    pixels = side.work.pixels
    sizes = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]] * len(latents))
    told = {"text_embeds": batch["pooled"].to(noisy), "time_ids": sizes.to(noisy)}
    inputs: Inputs = {
        "sample": noisy,
        "timestep": timesteps,
        "encoder_hidden_states": batch["context"].to(noisy),
        "added_cond_kwargs": told,
    }
    if side.net is not None:
        down, middle = side.net(
            **inputs, controlnet_cond=batch["condition"].to(noisy), return_dict=False
        )
        inputs |= {
            "down_block_additional_residuals": down,
            "mid_block_additional_residual": middle,
        }
    return F.mse_loss(predict(side.base, inputs).float(), noise.float())


SIDES: dict[str, Callable[[Usual, Row], Tensor]] = {
    "flux1": flux1_loss,
    "flux2": flux2_loss,
    "sd3": sd3_loss,
    "sdxl": sdxl_loss,
}
