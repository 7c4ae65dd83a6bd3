"""Encode what the row store lacks: in batches, pictures read ahead, here or on a cluster."""
