"""Read a folder of captioned pictures: what can be used, and what became of every file."""
