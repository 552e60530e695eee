"""Compare exported prompts: python evaluate.py RUN_OR_PROMPT ... [CONFIG.yaml ...] [key=value ...]."""

import sys

from calib.cli import run

if __name__ == "__main__":
    sys.exit(run("evaluate", sys.argv[1:]))
