"""`python -m calib`: the `calib` command where no script of that name is on the path."""

import sys

from calib.cli import main

if __name__ == "__main__":
    sys.exit(main())
