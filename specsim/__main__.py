"""python -m specsim: the command line."""

import sys

from specsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
