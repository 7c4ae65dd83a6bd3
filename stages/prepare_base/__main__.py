"""Start the stage: `python -m stages.prepare_base`."""

from stages import launch
from stages.prepare_base.stage import Params, run

if __name__ == "__main__":
    launch.main("prepare_base", run, Params)
