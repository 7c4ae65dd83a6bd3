"""The FLUX families, one folder a version."""
