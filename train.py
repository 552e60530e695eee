"""Learn a calibrated prompt: python train.py [CONFIG.yaml ...] [key=value ...]; alone, the main job."""

import sys

from calib.cli import run

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:]))
