"""Check and fingerprint the base model, or make a small one, before anything is encoded with it."""
