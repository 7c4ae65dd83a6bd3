"""SDXL: a UNet that predicts the noise, for latents of any aspect ratio."""
