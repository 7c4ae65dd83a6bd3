"""FLUX.2: dev and the klein variants."""

from modelzoo.flux.v2.conditioning import prepare_fill_conditioning, prepare_kontext_conditioning

__all__ = ["prepare_fill_conditioning", "prepare_kontext_conditioning"]
