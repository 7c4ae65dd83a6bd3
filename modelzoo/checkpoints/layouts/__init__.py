"""How published files name what the diffusers layout names otherwise: one table a network."""
