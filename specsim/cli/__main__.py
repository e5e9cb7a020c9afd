"""python -m specsim.cli"""

import sys

from specsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
