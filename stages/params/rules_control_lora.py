"""What a ControlNet of kind `lora` needs of the family, of `training.lora` and of the export."""

from __future__ import annotations

from collections.abc import Iterator

from stages.params.config import Config
from stages.params.methods import Controlnet, Lora

FAMILIES = ("flux", "flux2")  # whose image tokens can be given further channels
OF_NETWORK = ("conditioning_scale", "num_layers", "num_single_layers")  # keys of kind `network`
FORM = "diffusers"  # the one of export.lora_formats that holds norms
DEFAULTS = Controlnet()


def control_lora(config: Config) -> Iterator[str]:
    """Yield each broken rule as a sentence that names its keys."""
    if not config.training.is_control_lora:
        return
    family = config.model.type
    if family not in FAMILIES:
        yield (
            f"training.controlnet.kind: 'lora' given, but model.type {family!r} has no channels "
            f"for a picture: set 'network', or take one of {' and '.join(map(repr, FAMILIES))}"
        )
    for name in OF_NETWORK:
        if (given := getattr(config.training.controlnet, name)) != getattr(DEFAULTS, name):
            default = getattr(DEFAULTS, name)
            yield (
                f"training.controlnet.{name}: {given} given, which only kind 'network' reads: set "
                f"{'null' if default is None else default} (training.lora scales adapters)"
            )
    if config.training.lora is not None:
        yield from _adapters(config.training.lora)
    yield from _export(config)


def _adapters(given: Lora) -> Iterator[str]:
    needed = {"kind": "lora", "use_dora": False, "init_from": None, "train_text_encoder": False}
    for name, value in needed.items():
        if (found := getattr(given, name)) != value:
            wanted = "null" if value is None else str(value).lower()
            yield (
                f"training.lora.{name}: {found!r} given, but a Control-LoRA has plain adapters of "
                f"the denoiser that begin at zero: set {wanted}"
            )


def _export(config: Config) -> Iterator[str]:
    if config.export.merge:
        yield (
            "export.merge: true given, but a Control-LoRA is exported as one file of adapters and "
            "norms: set false"
        )
    if config.export.lora_formats not in (None, [FORM]):
        yield (
            f"export.lora_formats: {config.export.lora_formats} given, but only {FORM!r} holds the "
            f"norms of a Control-LoRA: set null or [{FORM}]"
        )
