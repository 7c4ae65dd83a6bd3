"""Start the stage: `python -m stages.ingest`."""

from stages import launch
from stages.ingest.stage import Params, run

if __name__ == "__main__":
    launch.main("ingest", run, Params)
