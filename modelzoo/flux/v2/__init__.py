"""FLUX.2: dev and the klein variants."""
