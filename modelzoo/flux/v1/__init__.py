"""FLUX.1: dev, schnell, Kontext and Fill."""

from modelzoo.flux.v1.conditioning import prepare_fill_conditioning, prepare_kontext_conditioning

__all__ = ["prepare_fill_conditioning", "prepare_kontext_conditioning"]
