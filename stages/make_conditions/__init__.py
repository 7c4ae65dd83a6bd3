"""Make the pictures that a ControlNet follows, one of each target in its bucket."""
