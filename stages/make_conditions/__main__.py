"""Start the stage: `python -m stages.make_conditions`."""

from stages import launch
from stages.make_conditions.stage import Params, run

if __name__ == "__main__":
    launch.main("make_conditions", run, Params)
