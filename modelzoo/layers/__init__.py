"""Leaves that model families share: attention, rotary positions, embeddings, modulated norms."""
