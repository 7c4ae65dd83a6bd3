"""Tensors: architectures, autoencoders, text encoders and the diffusion process.

Shape letters, the same everywhere: B batch, C channels, H W height and width of what is at hand,
L text tokens, N image tokens, D model width, K heads, E width of a head.
"""
