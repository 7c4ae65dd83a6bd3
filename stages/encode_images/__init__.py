"""Encode each bucketed picture once with the base's autoencoder and name its row in the store."""
