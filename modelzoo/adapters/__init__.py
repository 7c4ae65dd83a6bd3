"""Adapters: small weights that learn inside a frozen denoiser, their files, and others' names."""
