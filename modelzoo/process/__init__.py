"""The diffusion process: how noise is added, what is predicted, how images are sampled."""
