"""Layouts of weights on disk: reading, writing, comparing and fingerprinting them."""
