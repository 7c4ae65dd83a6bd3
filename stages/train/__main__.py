"""Start training as a process: `python -m stages.train`."""

from stages import launch
from stages.train.lock import launcher

if __name__ == "__main__":
    launcher()  # ask before torch loads: an orphan can no longer tell who started it
    from stages.train.stage import Params, run

    launch.main("train", run, Params)
