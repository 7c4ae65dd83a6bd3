"""Start the stage: `python -m stages.report_dataset`."""

from stages import launch
from stages.report_dataset.stage import Params, run

if __name__ == "__main__":
    launch.main("report_dataset", run, Params)
