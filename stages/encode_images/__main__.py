"""Start the stage: `python -m stages.encode_images`."""

from functools import partial

from stages import launch
from stages.encode_images.stage import STAGE, Params, run
from stages.rows import fill

if __name__ == "__main__":
    fill_only = fill.is_asked_for(STAGE)
    launch.main(STAGE, partial(run, fill_only=fill_only), Params, has_options=True)
