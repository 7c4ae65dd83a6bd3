"""Train the denoiser on the cached rows; `stage.py` is the list of parts, `loop.py` the loop."""
