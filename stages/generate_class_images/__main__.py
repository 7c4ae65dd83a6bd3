"""Start the stage: `python -m stages.generate_class_images`."""

from stages import launch
from stages.generate_class_images.stage import Params, run

if __name__ == "__main__":
    launch.main("generate_class_images", run, Params)
