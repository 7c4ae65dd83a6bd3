"""`python -m stages.export`."""

from stages import launch
from stages.export.stage import Params, run

if __name__ == "__main__":
    launch.main("export", run, Params)
