"""A frozen base in fewer bits: how weights are packed, a layer that computes with them, loading."""
