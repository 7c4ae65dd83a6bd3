"""What several keys must agree on, and which of the schema's choices can be run today."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from stages.params import (
    pins,
    rules_control_lora,
    rules_controlnet,
    rules_dreambooth,
    rules_editing,
    rules_engine,
    rules_lora,
    rules_optimizer,
    rules_quantised,
)
from stages.params.config import Config
from stages.params.model import (
    SINGLE_FILE,
    Mistral3,
    Model,
    Qwen3,
    TextEncoders,
    Transformer,
    Vae,
)
from stages.params.read import canonical
from stages.params.rules_objective import broken_objective

NOISE = {"sdxl": "ddpm", "flux": "flow_matching", "flux2": "flow_matching", "sd3": "flow_matching"}
DENOISERS = {"sdxl": "unet", "flux": "transformer", "flux2": "transformer", "sd3": "transformer"}
ENCODERS = {  # places of a family's text encoders, each with what may stand there
    "sdxl": (("clip_l",), ("clip_g",)),
    "flux": (("clip_l",), ("t5",)),
    "flux2": (("qwen3", "mistral3"),),
    "sd3": (("clip_l",), ("clip_g",), ("t5",)),
}
OPTIONAL = {("sd3", "t5")}  # zeros stand for it where it is left out

NO_PICTURES = (
    "params/no_pictures"  # stands in dvc.yaml where prompts name none: a path must be there
)

# The schema knows the whole specification; what is not listed here is refused before it runs.
AVAILABLE: dict[str, tuple[Any, ...]] = {
    "training.method": ("full_finetune", "lora", "dreambooth", "controlnet"),
    "training.editing": (None, "kontext", "fill"),
    "hardware.mixed_precision": ("no", "bf16"),
}


def hold(config: Config, where: str) -> None:
    """Check the rules; `where` names the file in the error.

    Raises:
        ValueError: The first rule that is broken.
    """
    for problem in broken(config):
        raise ValueError(f"{where}: {problem}")


def broken(config: Config) -> Iterator[str]:
    """Yield each broken rule as a sentence that names its keys."""
    yield from _unavailable(canonical(config))
    yield from _incomplete(config)
    yield from _components(config.model)
    yield from _family(config)
    yield from broken_objective(config.training.objective, config.model)
    yield from _text_encoders(config.model)
    yield from _model_sizes(config.model)
    yield from _picture_sizes(config)
    yield from rules_engine.broken(config)
    yield from rules_optimizer.broken(config)
    yield from rules_editing.editing(config)
    yield from rules_editing.prompts(config)
    yield from rules_dreambooth.dreambooth(config)
    yield from rules_control_lora.control_lora(config)
    yield from rules_controlnet.controlnet(config)
    yield from rules_lora.lora(config)
    yield from rules_lora.export(config)
    yield from rules_quantised.quantised(config)


def derived(config: Config) -> dict[str, str | None]:
    """Say what the keys hold that `use` writes and nobody sets by hand."""
    model, evaluate = config.model, config.evaluate
    source = pins.source(model)
    pictures = config.sample.pictures if config.sample.names_pictures else NO_PICTURES
    lora = config.training.lora
    return {
        "model.source": source,
        "model.components": model.components if model.is_single_file else source,
        "sample.pictures": pictures,
        "evaluate.judge_path": evaluate.judge_path if evaluate.judge else config.data.train_path,
        **({} if lora is None else {"training.lora.init_digest": rules_lora.init_digest(config)}),
    }


def _unavailable(tree: Any) -> Iterator[str]:
    for key, choices in AVAILABLE.items():
        value = tree
        for name in key.split("."):
            value = value[name]
        if value not in choices:
            known = " and ".join(f"{choice!r}" for choice in choices)
            yield f"{key}: {value!r} cannot be run yet; available: {known}"


def _incomplete(config: Config) -> Iterator[str]:
    model, training, evaluate = config.model, config.training, config.evaluate
    if model.pretrained_path is None and model.from_scratch is None:
        yield "model.pretrained_path and model.from_scratch are both null: give one of them"
    if model.from_scratch is not None:
        for name in (DENOISERS[model.type], "vae", "text_encoder"):
            if getattr(model, name) is None:
                yield f"model.{name} is null, but model.from_scratch needs its sizes: give them"
    if training.epochs is None and training.steps is None:
        yield "training.epochs and training.steps are both null: give one of them"
    for method in ("full_finetune", "lora", "dreambooth", "controlnet"):
        within = training.method == "dreambooth" and method in rules_dreambooth.WITHIN
        within |= method == "lora" and training.reads_lora
        if getattr(training, method) is not None and training.method != method and not within:
            yield (
                f"training.{method} is given, but training.method {training.method!r} does not "
                f"read it: set training.{method} to null"
            )
    if evaluate.judge is not None and evaluate.judge_path is None:
        yield f"evaluate.judge_path is null, but the judge {evaluate.judge!r} needs its folder"
    if not config.sample.prompts:
        yield "sample.prompts is empty: give at least one {prompt, width, height}"


def _components(model: Model) -> Iterator[str]:
    if model.is_single_file and model.components is None:
        yield (
            f"model.components is null, but model.pretrained_path {model.pretrained_path!r} is one "
            "file: give a diffusers folder of the same model for what the file does not hold, such "
            "as tokenizers"
        )
    completes_nothing = model.components not in (None, model.source, pins.source(model))
    if not model.is_single_file and completes_nothing:
        yield (
            f"model.components: {model.components!r} given, but it completes a model.pretrained_"
            f"path that is one {SINGLE_FILE} file, and {model.pretrained_path!r} is none: set "
            "model.components to null"
        )


def _family(config: Config) -> Iterator[str]:
    """Hold the sections of the model, its noise and its objective to what the family has."""
    model = config.model
    noise, denoiser = NOISE[model.type], DENOISERS[model.type]
    kinds = {
        "model.scheduler.type": model.scheduler.type,
        "training.objective.type": config.training.objective.type,
    }
    for key, given in kinds.items():
        if given != noise:
            yield f"{key}: {given!r} given, but model.type {model.type!r} has {noise!r}: set that"
    if noise == "ddpm" and config.training.objective.shift != 1:
        yield (
            f"training.objective.shift: {config.training.objective.shift:g} given, but the times "
            "of ddpm have none: set 1"
        )
    if model.type == "flux2" and config.training.posterior != "mean":
        yield (
            f"training.posterior: {config.training.posterior!r} given, but of model.type 'flux2' "
            "the mean alone is kept, which it was trained on: set 'mean'"
        )
    for other in {*DENOISERS.values()} - {denoiser}:
        if getattr(model, other) is not None:
            yield (
                f"model.{other} is given, but model.type {model.type!r} has model.{denoiser}: "
                f"set model.{other} to null"
            )


def _text_encoders(model: Model) -> Iterator[str]:
    """Hold the text encoders to the family's places, all filled where the base is made here."""
    if model.text_encoder is None:
        return
    given = {
        field.name
        for field in dataclasses.fields(TextEncoders)
        if getattr(model.text_encoder, field.name) is not None
    }
    places = ENCODERS[model.type]
    for name in sorted(given - {kind for kinds in places for kind in kinds}):
        yield (
            f"model.text_encoder.{name} is given, but model.type {model.type!r} has "
            f"{' and '.join(' or '.join(kinds) for kinds in places)}: set it to null"
        )
    if model.from_scratch is None:
        return
    for kinds in places:
        count = len(given.intersection(kinds))
        if count > 1 or (count == 0 and (model.type, kinds[0]) not in OPTIONAL):
            yield (
                f"model.text_encoder: {sorted(given)} given, but model.from_scratch of model.type "
                f"{model.type!r} needs exactly one {' or '.join(kinds)}: give its sizes alone"
            )


def _model_sizes(model: Model) -> Iterator[str]:
    if model.transformer is not None:
        yield from _transformer_sizes(model.transformer)
    if model.vae is not None:
        yield from _vae_sizes(model.vae)
    if model.transformer is not None and model.vae is not None:
        channels = 4 * model.vae.latent_channels
        if model.transformer.in_channels != channels:
            yield (
                f"model.transformer.in_channels: {model.transformer.in_channels} given, 4 x "
                f"model.vae.latent_channels ({channels}) expected"
            )
    if model.text_encoder is not None:
        for name in ("qwen3", "mistral3"):
            if (sizes := getattr(model.text_encoder, name)) is not None:
                yield from _decoder_sizes(sizes, f"model.text_encoder.{name}")


def _transformer_sizes(sizes: Transformer) -> Iterator[str]:
    width, heads, axes = sizes.hidden_size, sizes.num_attention_heads, sizes.axes_dims_rope
    if width % heads:
        yield (
            f"model.transformer.hidden_size: {width} given, a multiple of "
            f"num_attention_heads ({heads}) expected"
        )
    elif axes is not None and (sum(axes) != width // heads or any(axis % 2 for axis in axes)):
        yield (
            f"model.transformer.axes_dims_rope: {axes} given, even numbers that add up to "
            f"hidden_size / num_attention_heads ({width // heads}) expected"
        )


def _vae_sizes(sizes: Vae) -> Iterator[str]:
    if any(channels % sizes.norm_num_groups for channels in sizes.block_out_channels):
        yield (
            f"model.vae.block_out_channels: {sizes.block_out_channels} given, multiples of "
            f"norm_num_groups ({sizes.norm_num_groups}) expected"
        )


def _decoder_sizes(sizes: Qwen3 | Mistral3, name: str) -> Iterator[str]:
    layers = sizes.output_layers
    if not layers or max(layers) > sizes.num_layers or sorted(set(layers)) != layers:
        yield (
            f"{name}.output_layers: {layers} given, rising numbers up to "
            f"num_layers ({sizes.num_layers}) expected"
        )
    if sizes.num_attention_heads % sizes.num_key_value_heads:
        yield (
            f"{name}.num_attention_heads: {sizes.num_attention_heads} given, a "
            f"multiple of num_key_value_heads ({sizes.num_key_value_heads}) expected"
        )
    if sizes.head_dim % 2:
        yield f"{name}.head_dim: {sizes.head_dim} given, an even number expected"


def _picture_sizes(config: Config) -> Iterator[str]:
    """Hold every side to whole latent cells of the autoencoder, as far as its sizes are given."""
    if config.model.vae is None:
        return
    cell = 2 ** (len(config.model.vae.block_out_channels) - 1) * _cells(config.model)
    sides = {"data.bucket_resolution_steps": config.data.bucket_resolution_steps}
    if config.training.dreambooth is not None:
        images = config.training.dreambooth.class_images
        for side in ("width", "height"):
            if (pixels := getattr(images, side)) is not None:
                sides[f"training.dreambooth.class_images.{side}"] = pixels
    for index, prompt in enumerate(config.sample.prompts):
        sides[f"sample.prompts[{index}].width"] = prompt.width
        sides[f"sample.prompts[{index}].height"] = prompt.height
    for key, pixels in sides.items():
        if pixels % cell:
            yield (
                f"{key}: {pixels} given, a multiple of {cell} expected (pixels of a token, from "
                f"the {len(config.model.vae.block_out_channels)} levels of model.vae)"
            )


def _cells(model: Model) -> int:
    """Give the latent cells that a side must divide into: those of a token, or of the UNet."""
    if model.type != "sdxl":
        return 2
    return 2 ** (len(model.unet.channel_mult) - 1) if model.unet else 1
