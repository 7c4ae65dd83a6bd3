"""Start the stage: `python -m stages.bucket`."""

from stages import launch
from stages.bucket.stage import Params, run

if __name__ == "__main__":
    launch.main("bucket", run, Params)
