"""Start the stage: `python -m stages.check_captions`."""

from stages import launch
from stages.check_captions.stage import Params, run

if __name__ == "__main__":
    launch.main("check_captions", run, Params)
